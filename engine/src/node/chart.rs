//! A line chart as a PNG file: what `…/rrd` answers where a client wants a picture and no numbers.
//!
//! A picture of indexed colours with a scale at the left, no labels of time, and the series' names below. Pure.

use font8x8::{BASIC_FONTS, UnicodeFonts};
use png::{BitDepth, ColorType, Encoder};

const WIDTH: usize = 800;
const HEIGHT: usize = 200;
/// The part that lines are drawn in: left, right, top, bottom.
const FRAME: (usize, usize, usize, usize) = (60, WIDTH - 10, 8, HEIGHT - 22);

/// Background, frame and text, grid, and the colours of the series. (PVE: PVE/RRD.pm, create_rrd_graph)
const COLOURS: [[u8; 3]; 5] = [[255, 255, 255], [64, 64, 64], [220, 220, 220], [0x00, 0xdd, 0xff], [0xff, 0x00, 0x00]];
const INK: u8 = 1;
const GRID: u8 = 2;
const FIRST_LINE: u8 = 3;

/// How wide a letter is.
const LETTER: usize = 8;

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
            self.text(left.saturating_sub(6 + text.len() * LETTER), y.saturating_sub(3), &text);
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
            let rows = BASIC_FONTS.get(letter).unwrap_or_default();
            for (dy, row) in rows.iter().enumerate() {
                (0..8).filter(|dx| row >> dx & 1 == 1).for_each(|dx| self.set(x + at * LETTER + dx, y + dy, INK));
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = Encoder::new(&mut file, WIDTH as u32, HEIGHT as u32);
        encoder.set_color(ColorType::Indexed);
        encoder.set_depth(BitDepth::Eight);
        encoder.set_palette(COLOURS.concat());
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&self.pixels));
        written.expect("memory takes everything, and there is a byte for each pixel");
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut reader = png::Decoder::new(std::io::Cursor::new(&file)).read_info().unwrap();
        assert_eq!((reader.info().width, reader.info().color_type), (WIDTH as u32, ColorType::Indexed));
        let mut rows = vec![0; WIDTH * HEIGHT];
        reader.next_frame(&mut rows).unwrap();
        for colour in 0..COLOURS.len() as u8 {
            assert!(rows.contains(&colour), "{colour}");
        }
        assert!(rows.iter().all(|pixel| (*pixel as usize) < COLOURS.len()));
    }
}
