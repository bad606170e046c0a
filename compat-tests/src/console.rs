//! Clients of consoles: web sockets by a library, terminals and RFB on top of them.

use crate::Client;
use des::cipher::{Block, BlockCipherEncrypt, KeyInit};
use openssl::ssl::SslStream;
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

/// A web socket as a stream of bytes.
pub struct Socket {
    socket: WebSocket<SslStream<TcpStream>>,
    received: VecDeque<u8>,
}

impl Socket {
    /// Joins `PATH/vncwebsocket` with the port and ticket of a console.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn open(client: &Client, path: &str, console: &Value) -> Result<Self, String> {
        let ticket = console["ticket"].as_str().ok_or("no ticket")?;
        Self::open_with(client, path, &console["port"], ticket)
    }

    /// As [`Socket::open`] with another ticket.
    ///
    /// # Errors
    /// The server's refusal.
    pub fn open_with(client: &Client, path: &str, port: &Value, ticket: &str) -> Result<Self, String> {
        let ticket: String = ticket.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let url = format!("wss://localhost/api2/json{path}/vncwebsocket?port={port}&vncticket={ticket}");
        let mut request = url.into_client_request().map_err(|error| error.to_string())?;
        for (name, value) in client.headers() {
            let name: tungstenite::http::HeaderName = name.parse().map_err(|_| "a header's name")?;
            request.headers_mut().insert(name, value.parse().map_err(|_| "a header's value")?);
        }
        request.headers_mut().insert("Sec-WebSocket-Protocol", "binary".parse().map_err(|_| "a header's value")?);
        let stream = client.open().into_inner();
        let (socket, _) = tungstenite::client(request, stream).map_err(|error| match error {
            tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response)) => response.status().to_string(),
            other => other.to_string(),
        })?;
        Ok(Socket { socket, received: VecDeque::new() })
    }

    /// Reads until `text` has come; panics with what came instead after half a minute.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let until = Instant::now() + Duration::from_secs(60);
        let mut seen = Vec::new();
        loop {
            let found = String::from_utf8_lossy(&seen).into_owned();
            if found.contains(text) {
                return found;
            }
            assert!(Instant::now() < until, "no {text:?} in {found:?}");
            let mut piece = [0; 4096];
            match self.read(&mut piece) {
                Ok(0) | Err(_) => panic!("ended before {text:?}: {found:?}"),
                Ok(count) => seen.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Types into a terminal.
    pub fn type_text(&mut self, text: &str) {
        self.write_all(format!("0:{}:{text}", text.len()).as_bytes()).expect("the terminal is open");
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.received.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.received.extend(bytes),
                Ok(Message::Close(_)) => return Ok(0),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) => return Err(error),
                Err(_) => return Ok(0),
            }
        }
        self.received.read(buffer)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::Binary(bytes.to_vec().into())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush().map_err(io::Error::other)
    }
}

/// An RFB client that looks at the whole picture.
pub struct Viewer<S> {
    stream: S,
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl<S: Read + Write> Viewer<S> {
    /// Logs in with a password.
    ///
    /// # Errors
    /// When the server refuses it or ends.
    pub fn login(mut stream: S, password: &str) -> io::Result<Self> {
        let mut version = [0; 12];
        stream.read_exact(&mut version)?;
        stream.write_all(b"RFB 003.008\n")?;
        let mut count = [0];
        stream.read_exact(&mut count)?;
        let mut kinds = vec![0; usize::from(count[0])];
        stream.read_exact(&mut kinds)?;
        assert!(kinds.contains(&2), "no login by password: {kinds:?}");
        stream.write_all(&[2])?;
        let mut challenge = [0; 16];
        stream.read_exact(&mut challenge)?;
        stream.write_all(&respond(password, challenge))?;
        let mut result = [0; 4];
        stream.read_exact(&mut result)?;
        if result != [0; 4] {
            return Err(io::Error::other("refused"));
        }
        stream.write_all(&[1])?;
        let mut head = [0; 24];
        stream.read_exact(&mut head)?;
        let mut name = vec![0; number(&head[20..24])];
        stream.read_exact(&mut name)?;
        Ok(Viewer { stream, width: number(&head[..2]), height: number(&head[2..4]) })
    }

    /// A screenshot: four bytes for each pixel, blue first.
    ///
    /// # Errors
    /// When the server ends.
    pub fn screenshot(&mut self) -> io::Result<Vec<u8>> {
        // Raw rectangles of 32 bits, little-endian.
        let format = [0, 0, 0, 0, 32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0];
        self.stream.write_all(&format)?;
        self.stream.write_all(&[2, 0, 0, 1, 0, 0, 0, 0])?;
        let mut wish = vec![3, 0, 0, 0, 0, 0];
        wish.extend((self.width as u16).to_be_bytes());
        wish.extend((self.height as u16).to_be_bytes());
        self.stream.write_all(&wish)?;
        let mut picture = vec![0; self.width * self.height * 4];
        let mut missing = self.width * self.height;
        while missing > 0 {
            let mut head = [0; 4];
            self.stream.read_exact(&mut head)?;
            assert_eq!(head[0], 0, "not a picture");
            for _ in 0..number(&head[2..4]) {
                let mut head = [0; 12];
                self.stream.read_exact(&mut head)?;
                let [x, y, width, height] = [0, 2, 4, 6].map(|at| number(&head[at..at + 2]));
                assert_eq!(head[8..], [0; 4], "not raw");
                let mut row = vec![0; width * 4];
                for line in 0..height {
                    self.stream.read_exact(&mut row)?;
                    let start = ((y + line) * self.width + x) * 4;
                    picture[start..start + width * 4].copy_from_slice(&row);
                }
                missing = missing.saturating_sub(width * height);
            }
        }
        Ok(picture)
    }

    /// Types text.
    ///
    /// # Errors
    /// When the server has ended.
    pub fn type_text(&mut self, text: &str) -> io::Result<()> {
        for character in text.chars() {
            let symbol = if character == '\n' { 0xff0d } else { character as u32 };
            for down in [1, 0] {
                let mut message = vec![4, down, 0, 0];
                message.extend(symbol.to_be_bytes());
                self.stream.write_all(&message)?;
            }
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

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
