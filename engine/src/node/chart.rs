//! A line chart as a PNG file: what `…/rrd` answers where a client wants a picture and no numbers.
//!
//! A picture of indexed colours with a scale at the left, no labels of time, and the series' names below. Pure.

use flate2::Compression;
use flate2::write::ZlibEncoder;
use std::io::Write;

const WIDTH: usize = 800;
const HEIGHT: usize = 200;
/// The part that lines are drawn in: left, right, top, bottom.
const FRAME: (usize, usize, usize, usize) = (52, WIDTH - 10, 8, HEIGHT - 22);

/// Background, frame and text, grid, and the colours of the series. (PVE: PVE/RRD.pm, create_rrd_graph)
const COLOURS: [[u8; 3]; 5] = [[255, 255, 255], [64, 64, 64], [220, 220, 220], [0x00, 0xdd, 0xff], [0xff, 0x00, 0x00]];
const INK: u8 = 1;
const GRID: u8 = 2;
const FIRST_LINE: u8 = 3;

/// How many series there are colours for.
pub const SERIES: usize = COLOURS.len() - FIRST_LINE as usize;

/// One line: its name, and its values at equal distances; not a number where nothing is known.
#[derive(Debug)]
pub struct Series {
    /// Name.
    pub name: String,
    /// Values.
    pub values: Vec<f64>,
}

/// Draws up to [`SERIES`] series from zero up.
pub fn draw(series: &[Series]) -> Vec<u8> {
    let mut picture = Picture { pixels: vec![0; WIDTH * HEIGHT] };
    let known = series.iter().flat_map(|one| &one.values).copied().filter(|value| value.is_finite());
    let top = round_up(known.fold(0.0, f64::max));
    picture.scale(top);
    for (number, one) in series.iter().take(SERIES).enumerate() {
        let colour = FIRST_LINE + number as u8;
        picture.line(&one.values, top, colour);
        let at = FRAME.0 + number * WIDTH / SERIES;
        picture.block(at, HEIGHT - 13, 8, 8, colour);
        picture.text(at + 14, HEIGHT - 12, &one.name);
    }
    picture.encode()
}

/// The next of 1, 2, 5, 10, 20, …
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * unit).find(|step| *step >= value).unwrap_or(value)
}

/// `0.25`, `20`, `1.5G`.
fn label(value: f64) -> String {
    let units = [("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)];
    let (unit, size) = units.into_iter().find(|(_, size)| value >= *size).unwrap_or(("", 1.0));
    let text = format!("{:.2}", value / size);
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

struct Picture {
    pixels: Vec<u8>,
}

impl Picture {
    fn set(&mut self, x: usize, y: usize, colour: u8) {
        if x < WIDTH && y < HEIGHT {
            self.pixels[y * WIDTH + x] = colour;
        }
    }

    fn block(&mut self, x: usize, y: usize, width: usize, height: usize, colour: u8) {
        for (dx, dy) in (0..width).flat_map(|dx| (0..height).map(move |dy| (dx, dy))) {
            self.set(x + dx, y + dy, colour);
        }
    }

    fn scale(&mut self, top: f64) {
        let (left, right, upper, lower) = FRAME;
        for part in 0..=4 {
            let y = lower - (lower - upper) * part / 4;
            self.block(left, y, right - left, 1, if part == 0 { INK } else { GRID });
            let text = label(top * part as f64 / 4.0);
            self.text(left.saturating_sub(6 + text.len() * 6), y.saturating_sub(3), &text);
        }
        self.block(left, upper, 1, lower - upper, INK);
    }

    /// Joins neighbours that are known; one without any is a dot.
    fn line(&mut self, values: &[f64], top: f64, colour: u8) {
        let (left, right, upper, lower) = FRAME;
        let place = |at: usize, value: f64| {
            let x = left + (right - left - 1) * at / values.len().saturating_sub(1).max(1);
            let share = (value / top).clamp(0.0, 1.0);
            (x, lower - (share * (lower - upper) as f64).round() as usize)
        };
        let mut before: Option<(usize, usize)> = None;
        for (at, value) in values.iter().enumerate() {
            let here = value.is_finite().then(|| place(at, *value));
            if let Some((x, y)) = here {
                let (x0, y0) = before.unwrap_or((x, y));
                for column in x0..=x {
                    let height = |column: usize| {
                        let part = (column - x0) as f64 / (x - x0).max(1) as f64;
                        (y0 as f64 + (y as f64 - y0 as f64) * part).round() as usize
                    };
                    // Steep lines have no holes.
                    let (one, other) = (height(column), height((column + 1).min(x)));
                    self.block(column, one.min(other), 1, one.abs_diff(other) + 2, colour);
                }
            }
            before = here;
        }
    }

    fn text(&mut self, x: usize, y: usize, text: &str) {
        for (at, letter) in text.chars().enumerate() {
            let Some((_, columns)) = GLYPHS.iter().find(|(known, _)| *known == letter) else { continue };
            for (dx, column) in columns.iter().enumerate() {
                (0..7).filter(|dy| column >> dy & 1 == 1).for_each(|dy| self.set(x + at * 6 + dx, y + dy, INK));
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
        let size = |number: usize| u32::try_from(number).expect("a picture's side is small").to_be_bytes();
        // Eight bits a pixel, indexed colours, the usual compression and filters, no interlacing.
        let head = [&size(WIDTH)[..], &size(HEIGHT), &[8, 3, 0, 0, 0]].concat();
        chunk(&mut file, b"IHDR", &head);
        chunk(&mut file, b"PLTE", &COLOURS.concat());
        let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
        for row in self.pixels.chunks(WIDTH) {
            // Each row begins with its filter: none.
            packer.write_all(&[0]).and_then(|()| packer.write_all(row)).expect("memory takes everything");
        }
        chunk(&mut file, b"IDAT", &packer.finish().expect("memory takes everything"));
        chunk(&mut file, b"IEND", &[]);
        file
    }
}

/// Length, type, data, and the checksum of type and data.
fn chunk(file: &mut Vec<u8>, kind: &[u8; 4], data: &[u8]) {
    let mut sum = flate2::Crc::new();
    sum.update(kind);
    sum.update(data);
    file.extend(u32::try_from(data.len()).expect("a picture is small").to_be_bytes());
    file.extend(kind);
    file.extend(data);
    file.extend(sum.sum().to_be_bytes());
}

/// Letters of five columns; the lowest bit is the upper pixel.
const GLYPHS: [(char, [u8; 5]); 41] = [
    ('0', [0x3e, 0x51, 0x49, 0x45, 0x3e]),
    ('1', [0x00, 0x42, 0x7f, 0x40, 0x00]),
    ('2', [0x42, 0x61, 0x51, 0x49, 0x46]),
    ('3', [0x21, 0x41, 0x45, 0x4b, 0x31]),
    ('4', [0x18, 0x14, 0x12, 0x7f, 0x10]),
    ('5', [0x27, 0x45, 0x45, 0x45, 0x39]),
    ('6', [0x3c, 0x4a, 0x49, 0x49, 0x30]),
    ('7', [0x01, 0x71, 0x09, 0x05, 0x03]),
    ('8', [0x36, 0x49, 0x49, 0x49, 0x36]),
    ('9', [0x06, 0x49, 0x49, 0x29, 0x1e]),
    ('.', [0x00, 0x60, 0x60, 0x00, 0x00]),
    ('G', [0x3e, 0x41, 0x49, 0x49, 0x7a]),
    ('M', [0x7f, 0x02, 0x0c, 0x02, 0x7f]),
    ('T', [0x01, 0x01, 0x7f, 0x01, 0x01]),
    ('a', [0x20, 0x54, 0x54, 0x54, 0x78]),
    ('b', [0x7f, 0x48, 0x44, 0x44, 0x38]),
    ('c', [0x38, 0x44, 0x44, 0x44, 0x20]),
    ('d', [0x38, 0x44, 0x44, 0x48, 0x7f]),
    ('e', [0x38, 0x54, 0x54, 0x54, 0x18]),
    ('f', [0x08, 0x7e, 0x09, 0x01, 0x02]),
    ('g', [0x0c, 0x52, 0x52, 0x52, 0x3e]),
    ('h', [0x7f, 0x08, 0x04, 0x04, 0x78]),
    ('i', [0x00, 0x44, 0x7d, 0x40, 0x00]),
    ('j', [0x20, 0x40, 0x44, 0x3d, 0x00]),
    ('k', [0x7f, 0x10, 0x28, 0x44, 0x00]),
    ('l', [0x00, 0x41, 0x7f, 0x40, 0x00]),
    ('m', [0x7c, 0x04, 0x18, 0x04, 0x78]),
    ('n', [0x7c, 0x08, 0x04, 0x04, 0x78]),
    ('o', [0x38, 0x44, 0x44, 0x44, 0x38]),
    ('p', [0x7c, 0x14, 0x14, 0x14, 0x08]),
    ('q', [0x08, 0x14, 0x14, 0x18, 0x7c]),
    ('r', [0x7c, 0x08, 0x04, 0x04, 0x08]),
    ('s', [0x48, 0x54, 0x54, 0x54, 0x20]),
    ('t', [0x04, 0x3f, 0x44, 0x40, 0x20]),
    ('u', [0x3c, 0x40, 0x40, 0x20, 0x7c]),
    ('v', [0x1c, 0x20, 0x40, 0x20, 0x1c]),
    ('w', [0x3c, 0x40, 0x30, 0x40, 0x3c]),
    ('x', [0x44, 0x28, 0x10, 0x28, 0x44]),
    ('y', [0x0c, 0x50, 0x50, 0x50, 0x3c]),
    ('z', [0x44, 0x64, 0x54, 0x4c, 0x44]),
    ('-', [0x08, 0x08, 0x08, 0x08, 0x08]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::read::ZlibDecoder;
    use std::io::Read;

    #[test]
    fn scales_are_round_and_labels_short() {
        for (value, top) in [(0.0, 1.0), (0.03, 0.05), (1.0, 1.0), (7.0, 10.0), (1.1e9, 2e9)] {
            assert!((round_up(value) - top).abs() < top * 1e-9, "{value}");
        }
        for (value, text) in [(0.0, "0"), (0.25, "0.25"), (20.0, "20"), (1.5e9, "1.5G"), (2e12, "2T")] {
            assert_eq!(label(value), text);
        }
    }

    #[test]
    fn the_file_is_a_png_with_both_lines() {
        let series = |name: &str, values: &[f64]| Series { name: name.into(), values: values.to_vec() };
        let file = draw(&[series("cpu", &[0.0, 50.0, f64::NAN, 100.0]), series("iowait", &[1.0; 4])]);
        assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
        let (mut at, mut kinds, mut packed) = (8, Vec::new(), Vec::new());
        while at < file.len() {
            let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
            let (kind, data) = (&file[at + 4..at + 8], &file[at + 8..at + 8 + length]);
            let mut sum = flate2::Crc::new();
            sum.update(&file[at + 4..at + 8 + length]);
            assert_eq!(file[at + 8 + length..at + 12 + length], sum.sum().to_be_bytes());
            kinds.push(String::from_utf8_lossy(kind).into_owned());
            if kind == b"IDAT" {
                packed = data.to_vec();
            }
            at += 12 + length;
        }
        assert_eq!(kinds, ["IHDR", "PLTE", "IDAT", "IEND"]);
        let mut rows = Vec::new();
        ZlibDecoder::new(&packed[..]).read_to_end(&mut rows).unwrap();
        assert_eq!(rows.len(), (WIDTH + 1) * HEIGHT);
        for colour in 0..COLOURS.len() as u8 {
            assert!(rows.contains(&colour), "{colour}");
        }
        assert!(rows.iter().all(|pixel| (*pixel as usize) < COLOURS.len()));
    }
}
