//! A terminal as a picture: a small RFB server that draws what a program prints, for clients that only know VNC.
//!
//! Protocol 3.8 with the password of RFB, raw rectangles, true colour in the client's own format. (RFC 6143; what PVE
//! leaves to its program vncterm)

use super::relay::accept;
use super::terminal::{End, wait};
use super::{Behind, Console, rfb};
use crate::{Result, Task, task::abort};
use font8x8::UnicodeFonts;
use rfb::{Event, PixelFormat};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::num::NonZero;
use std::time::Duration;

const COLUMNS: u16 = 80;
const ROWS: u16 = 25;
const SIZE: (NonZero<u16>, NonZero<u16>) =
    (NonZero::new(ROWS).expect("above 0"), NonZero::new(COLUMNS).expect("above 0"));
/// Pixels of a letter; the font has eight rows, each is drawn twice.
const WIDTH: u16 = 8;
const HEIGHT: u16 = 16;
/// How long a client may take to say the password.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves the one client of a terminal that is to be a picture.
pub fn serve(_task: &Task, console: &Console, behind: impl FnOnce() -> Result<Behind>) -> Result<()> {
    let mut client = accept(console.listener)?;
    client.set_read_timeout(Some(PATIENCE))?;
    rfb::authenticate(&mut client, console.password)?;
    rfb::initialise(&mut client, COLUMNS * WIDTH, ROWS * HEIGHT, "terminal")?;
    let mut end = End::open(behind()?)?;
    end.resize(COLUMNS, ROWS);
    let mut screen = Screen::new();
    let (mut received, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        abort::check()?;
        let [from_client, from_end] = wait(&client, &end)?;
        if from_end {
            match end.read(&mut buffer) {
                // A terminal whose program has ended reads as an error.
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => screen.parser.process(&buffer[..count]),
            }
        }
        if from_client {
            match client.read(&mut buffer) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => received.extend_from_slice(&buffer[..count]),
            }
            for event in rfb::events(&mut received)? {
                match event {
                    Event::Format(format) => screen.format = format,
                    Event::Update { incremental } => screen.wanted = Some(incremental),
                    Event::Text(text) => end.write(&text)?,
                }
            }
        }
        if screen.send(&mut client).is_err() {
            return Ok(());
        }
    }
}

/// One letter as it is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cell {
    letter: char,
    foreground: u32,
    background: u32,
}

/// What the terminal shows and what the client has seen of it.
struct Screen {
    parser: vt100::Parser,
    format: PixelFormat,
    /// An update that the client waits for; `true` when it wants changes only.
    wanted: Option<bool>,
    shown: Vec<Vec<Cell>>,
}

impl Screen {
    fn new() -> Self {
        let parser = vt100::Parser::new(SIZE.0, SIZE.1, 0);
        Screen { parser, format: PixelFormat::default(), wanted: None, shown: Vec::new() }
    }

    /// Sends the rows that differ from what the client has, when it waits for them.
    fn send(&mut self, client: &mut TcpStream) -> std::io::Result<()> {
        let Some(incremental) = self.wanted else { return Ok(()) };
        let rows: Vec<Vec<Cell>> = (0..ROWS).map(|row| self.row(row)).collect();
        let differs = |row: usize| !incremental || self.shown.get(row) != rows.get(row);
        let changed: Vec<usize> = (0..rows.len()).filter(|row| differs(*row)).collect();
        if changed.is_empty() {
            return Ok(());
        }
        let mut message = rfb::update_head(changed.len() as u16);
        for row in changed {
            message.extend(rfb::rectangle_head(0, row as u16 * HEIGHT, COLUMNS * WIDTH, HEIGHT));
            self.draw(&rows[row], &mut message);
        }
        client.write_all(&message)?;
        self.shown = rows;
        self.wanted = None;
        Ok(())
    }

    fn row(&self, row: u16) -> Vec<Cell> {
        let screen = self.parser.screen();
        let cursor = Some(screen.cursor_position()).filter(|_| !screen.hide_cursor());
        let cell = |column| {
            let Some(cell) = screen.cell(row, column) else {
                return Cell { letter: ' ', foreground: colour(vt100::Color::Default, false), background: 0 };
            };
            let (mut foreground, mut background) = (colour(cell.fgcolor(), cell.bold()), background(cell.bgcolor()));
            if cell.inverse() != (cursor == Some((row, column))) {
                std::mem::swap(&mut foreground, &mut background);
            }
            Cell { letter: cell.contents().chars().next().unwrap_or(' '), foreground, background }
        };
        (0..COLUMNS).map(cell).collect()
    }

    fn draw(&self, cells: &[Cell], pixels: &mut Vec<u8>) {
        for line in 0..HEIGHT {
            for cell in cells {
                let bits = shape(cell.letter)[usize::from(line / 2)];
                for x in 0..WIDTH {
                    let set = bits & (1 << x) != 0;
                    self.format.push(if set { cell.foreground } else { cell.background }, pixels);
                }
            }
        }
    }
}

fn shape(letter: char) -> [u8; 8] {
    let found = font8x8::BASIC_FONTS.get(letter).or_else(|| font8x8::LATIN_FONTS.get(letter));
    let found = found.or_else(|| font8x8::BOX_FONTS.get(letter)).or_else(|| font8x8::BLOCK_FONTS.get(letter));
    found.or_else(|| font8x8::BASIC_FONTS.get('?')).unwrap_or_default()
}

/// The sixteen colours of terminals.
const COLOURS: [u32; 16] = [
    0x00_0000, 0xaa_0000, 0x00_aa00, 0xaa_5500, 0x00_00aa, 0xaa_00aa, 0x00_aaaa, 0xaa_aaaa, 0x55_5555, 0xff_5555,
    0x55_ff55, 0xff_ff55, 0x55_55ff, 0xff_55ff, 0x55_ffff, 0xff_ffff,
];

fn colour(colour: vt100::Color, bold: bool) -> u32 {
    match colour {
        vt100::Color::Default => COLOURS[if bold { 15 } else { 7 }],
        vt100::Color::Idx(index @ 0..8) => COLOURS[usize::from(index) + if bold { 8 } else { 0 }],
        vt100::Color::Idx(index @ 8..16) => COLOURS[usize::from(index)],
        vt100::Color::Idx(index @ 16..232) => {
            let index = u32::from(index - 16);
            let level = |step: u32| if step == 0 { 0 } else { 55 + 40 * step };
            level(index / 36) << 16 | level(index / 6 % 6) << 8 | level(index % 6)
        }
        vt100::Color::Idx(index) => (8 + 10 * u32::from(index - 232)) * 0x01_0101,
        vt100::Color::Rgb(red, green, blue) => u32::from(red) << 16 | u32::from(green) << 8 | u32::from(blue),
    }
}

fn background(own: vt100::Color) -> u32 {
    if own == vt100::Color::Default { 0 } else { colour(own, false) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_drawn_in_their_colours() {
        let mut screen = Screen::new();
        screen.parser.process(b"\x1b[31mA\x1b[0m");
        let row = screen.row(0);
        assert_eq!(row[0], Cell { letter: 'A', foreground: 0xaa_0000, background: 0 });
        // The cursor stands behind it.
        assert_eq!(row[1].background, COLOURS[7]);
        let mut pixels = Vec::new();
        screen.draw(&row, &mut pixels);
        assert_eq!(pixels.len(), usize::from(COLUMNS * WIDTH) * usize::from(HEIGHT) * 4);
        let red = pixels.chunks(4).filter(|pixel| u32::from_le_bytes([pixel[0], pixel[1], pixel[2], 0]) == 0xaa_0000);
        assert!(red.count() > 20);
    }
}
