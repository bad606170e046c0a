//! Messages of RFB, the protocol of VNC, as a server reads and writes them. (RFC 6143)

use crate::{Error, Result};
use des::cipher::{Block, BlockCipherEncrypt, KeyInit};
use std::io::{Read, Write};

/// What a client tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// How it wants its pixels.
    Format(PixelFormat),
    /// It waits for the picture.
    Update {
        /// Only what has changed.
        incremental: bool,
    },
    /// A key, as a terminal sends it.
    Text(Vec<u8>),
}

/// How a pixel is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PixelFormat {
    bytes: u8,
    big_endian: bool,
    maxima: [u16; 3],
    shifts: [u8; 3],
}

impl Default for PixelFormat {
    fn default() -> Self {
        PixelFormat { bytes: 4, big_endian: false, maxima: [255; 3], shifts: [16, 8, 0] }
    }
}

impl PixelFormat {
    /// Reads the sixteen bytes of a format. Palettes are not served; a client that asks for one gets shades.
    fn parse(bytes: &[u8]) -> Result<Self> {
        let size = bytes[0] / 8;
        let shifts = [bytes[10], bytes[11], bytes[12]];
        if !matches!(size, 1 | 2 | 4) || shifts.iter().any(|shift| *shift > 31) {
            return Err(Error::new("unknown pixel format"));
        }
        let maximum = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Ok(PixelFormat { bytes: size, big_endian: bytes[2] != 0, maxima: [maximum(4), maximum(6), maximum(8)], shifts })
    }

    fn print(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[self.bytes * 8, 24, u8::from(self.big_endian), 1]);
        for (place, maximum) in bytes[4..10].chunks_mut(2).zip(self.maxima) {
            place.copy_from_slice(&maximum.to_be_bytes());
        }
        bytes[10..13].copy_from_slice(&self.shifts);
        bytes
    }

    /// Adds a pixel of the colour `0xRRGGBB`.
    pub fn push(self, colour: u32, pixels: &mut Vec<u8>) {
        let [_, red, green, blue] = colour.to_be_bytes();
        let mut value = 0_u32;
        for (part, (maximum, shift)) in [red, green, blue].into_iter().zip(self.maxima.into_iter().zip(self.shifts)) {
            value |= (u32::from(part) * u32::from(maximum) / 255) << shift;
        }
        let (big, little) = (value.to_be_bytes(), value.to_le_bytes());
        let size = usize::from(self.bytes);
        pixels.extend(if self.big_endian { &big[4 - size..] } else { &little[..size] });
    }
}

/// Greets a client and asks for the password.
///
/// # Errors
/// `authentication failed`, which the client is told as well.
pub fn authenticate(client: &mut (impl Read + Write), password: &str) -> Result<()> {
    client.write_all(b"RFB 003.008\n")?;
    let mut version = [0; 12];
    client.read_exact(&mut version)?;
    let is_old = version.starts_with(b"RFB 003.003");
    // The one kind of security that is served: a password.
    let kinds: &[u8] = if is_old { &[0, 0, 0, 2] } else { &[1, 2] };
    client.write_all(kinds)?;
    if !is_old {
        let mut chosen = [0];
        client.read_exact(&mut chosen)?;
        if chosen != [2] {
            crate::bail!("the client wants no password");
        }
    }
    let mut challenge = [0; 16];
    openssl::rand::rand_bytes(&mut challenge).expect("the system's random source is always there");
    client.write_all(&challenge)?;
    let mut response = [0; 16];
    client.read_exact(&mut response)?;
    if password.is_empty() || !openssl::memcmp::eq(&response, &respond(password, challenge)) {
        client.write_all(&1_u32.to_be_bytes())?;
        if version.starts_with(b"RFB 003.008") {
            let reason = b"authentication failed";
            client.write_all(&(reason.len() as u32).to_be_bytes())?;
            client.write_all(reason)?;
        }
        crate::bail!("authentication failed");
    }
    client.write_all(&0_u32.to_be_bytes())?;
    Ok(())
}

/// What a client that knows the password answers: DES with the bits of each byte of the key reversed.
fn respond(password: &str, mut challenge: [u8; 16]) -> [u8; 16] {
    let mut key = [0; 8];
    for (place, byte) in key.iter_mut().zip(password.bytes()) {
        *place = byte.reverse_bits();
    }
    let cipher = des::Des::new(&key.into());
    for half in challenge.chunks_exact_mut(8) {
        let mut block = Block::<des::Des>::default();
        block.copy_from_slice(half);
        cipher.encrypt_block(&mut block);
        half.copy_from_slice(&block);
    }
    challenge
}

/// Says how large the picture is.
pub fn initialise(client: &mut (impl Read + Write), width: u16, height: u16, name: &str) -> Result<()> {
    let mut shared = [0];
    client.read_exact(&mut shared)?;
    let mut message = [width.to_be_bytes(), height.to_be_bytes()].concat();
    message.extend(PixelFormat::default().print());
    message.extend((name.len() as u32).to_be_bytes());
    message.extend(name.bytes());
    Ok(client.write_all(&message)?)
}

/// The head of a picture of so many rectangles.
pub fn update_head(count: u16) -> Vec<u8> {
    [[0, 0], count.to_be_bytes()].concat()
}

/// The head of a raw rectangle; its pixels follow.
pub fn rectangle_head(x: u16, y: u16, width: u16, height: u16) -> [u8; 12] {
    let mut head = [0; 12];
    for (place, number) in head.chunks_mut(2).zip([x, y, width, height]) {
        place.copy_from_slice(&number.to_be_bytes());
    }
    head
}

/// Takes whole messages of the client from the front of what has come.
///
/// # Errors
/// When it is none.
pub fn events(buffer: &mut Vec<u8>) -> Result<Vec<Event>> {
    let mut found = Vec::new();
    loop {
        let number = |at: usize| buffer.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
        let length = match buffer.first() {
            None => break,
            Some(0) => 20,
            Some(2) => match number(2) {
                Some(count) => 4 + 4 * usize::from(count),
                None => break,
            },
            Some(3) => 10,
            Some(4) => 8,
            Some(5) => 6,
            Some(6) => match buffer.get(4..8) {
                Some(bytes) => 8 + u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize,
                None => break,
            },
            Some(_) => return Err(Error::new("unknown message of the client")),
        };
        if length > 1 << 20 {
            return Err(Error::new("message of the client is too long"));
        }
        let Some(message) = buffer.get(..length) else { break };
        match message[0] {
            0 => found.push(Event::Format(PixelFormat::parse(&message[4..20])?)),
            3 => found.push(Event::Update { incremental: message[1] != 0 }),
            4 if message[1] != 0 => {
                let symbol = u32::from_be_bytes([message[4], message[5], message[6], message[7]]);
                found.extend(key(symbol).map(Event::Text));
            }
            6 => found.push(Event::Text(message[8..].to_vec())),
            _ => {}
        }
        buffer.drain(..length);
    }
    Ok(found)
}

/// What a terminal sends for a key of X11.
fn key(symbol: u32) -> Option<Vec<u8>> {
    let text = match symbol {
        0xff08 => "\x7f",
        0xff09 => "\t",
        0xff0d | 0xff8d => "\r",
        0xff1b => "\x1b",
        0xff50 => "\x1b[H",
        0xff51 => "\x1b[D",
        0xff52 => "\x1b[A",
        0xff53 => "\x1b[C",
        0xff54 => "\x1b[B",
        0xff55 => "\x1b[5~",
        0xff56 => "\x1b[6~",
        0xff57 => "\x1b[F",
        0xff63 => "\x1b[2~",
        0xffff => "\x1b[3~",
        0x20..=0x7e | 0xa0..=0xff => return Some(char::from_u32(symbol)?.to_string().into_bytes()),
        0x0100_0100..=0x0110_ffff => return Some(char::from_u32(symbol - 0x0100_0000)?.to_string().into_bytes()),
        _ => return None,
    };
    Some(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_answers_a_challenge_as_clients_do() {
        let answer = respond("pass", [0; 16]);
        assert_eq!(answer[..8], answer[8..]);
        assert_ne!(respond("pass", [0; 16]), respond("pasS", [0; 16]));
        // Only eight characters count.
        assert_eq!(respond("12345678", [7; 16]), respond("123456789", [7; 16]));
    }

    #[test]
    fn messages_may_come_in_pieces() {
        let mut all = vec![2, 0, 0, 1, 0, 0, 0, 0];
        all.extend([3, 1, 0, 0, 0, 0, 0, 80, 0, 25]);
        all.extend([4, 1, 0, 0, 0, 0, 0, b'a']);
        all.extend([5, 0, 0, 1, 0, 1]);
        for cut in 0..all.len() {
            let mut buffer = all[..cut].to_vec();
            let mut found = events(&mut buffer).unwrap();
            buffer.extend(&all[cut..]);
            found.extend(events(&mut buffer).unwrap());
            assert_eq!(found, [Event::Update { incremental: true }, Event::Text(b"a".to_vec())], "cut at {cut}");
        }
    }

    #[test]
    fn pixels_follow_the_format_of_the_client() {
        let mut pixels = Vec::new();
        PixelFormat::default().push(0x12_3456, &mut pixels);
        assert_eq!(pixels, [0x56, 0x34, 0x12, 0]);
        let mut bytes = PixelFormat::default().print();
        assert_eq!(PixelFormat::parse(&bytes).unwrap(), PixelFormat::default());
        bytes[0] = 24;
        assert!(PixelFormat::parse(&bytes).is_err());
    }
}
