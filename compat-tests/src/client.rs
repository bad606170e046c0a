//! An HTTP client of our own over TLS: reason phrases and exact bytes must be visible, which libraries hide.

use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// Header names in lower case, in the order of the answer.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
}

impl Reply {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {} {:?}", self.status, self.reason, self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `data` of a successful answer; panics with the error otherwise.
    #[track_caller]
    pub fn data(&self) -> Value {
        assert_eq!(self.status, 200, "{} {}", self.reason, self.text());
        self.json()["data"].clone()
    }
}

/// Who asks, and where. Each request has a connection of its own unless [`Client::open`] is used.
#[derive(Debug, Clone)]
pub struct Client {
    port: u16,
    headers: Vec<(String, String)>,
}

impl Client {
    /// An anonymous client.
    pub fn new(port: u16) -> Self {
        Client { port, headers: Vec::new() }
    }

    /// The headers that say who asks.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The same client with another header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same client speaking for an API token, `user@realm!name=secret`.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        self.with_header("Authorization", &format!("PVEAPIToken={token}"))
    }

    /// Logs in and gives back a client with ticket and CSRF token.
    #[must_use]
    #[track_caller]
    pub fn login(&self, user: &str, password: &str) -> Self {
        let data = self.post("/access/ticket", &[("username", user), ("password", password)]).data();
        self.clone()
            .with_header("Cookie", &format!("PVEAuthCookie={}", data["ticket"].as_str().expect("a ticket")))
            .with_header("CSRFPreventionToken", data["CSRFPreventionToken"].as_str().expect("a CSRF token"))
    }

    /// GET below `/api2/json`; the path may have a query.
    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", &api(path), &[], b"")
    }

    /// POST of form data below `/api2/json`.
    pub fn post(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        self.form("POST", path, form)
    }

    /// PUT of form data below `/api2/json`.
    pub fn put(&self, path: &str, form: &[(&str, &str)]) -> Reply {
        self.form("PUT", path, form)
    }

    /// DELETE below `/api2/json`; the path may have a query.
    pub fn delete(&self, path: &str) -> Reply {
        self.send("DELETE", &api(path), &[], b"")
    }

    fn form(&self, verb: &str, path: &str, form: &[(&str, &str)]) -> Reply {
        let pairs: Vec<String> =
            form.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        let form_type = ("Content-Type", "application/x-www-form-urlencoded");
        self.send(verb, &api(path), &[form_type], pairs.join("&").as_bytes())
    }

    /// Any request; `path` starts with `/`. A body gets a Content-Length.
    pub fn send(&self, verb: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let mut stream = self.open();
        stream.get_mut().write_all(&self.head(verb, path, headers, body.len())).expect("request sent");
        // A server that refuses early closes before it has read everything; its answer is still there.
        let _ = stream.get_mut().write_all(body);
        read_reply(&mut stream)
    }

    /// The head of a request with this client's headers.
    pub fn head(&self, verb: &str, path: &str, headers: &[(&str, &str)], length: usize) -> Vec<u8> {
        let mut head = format!("{verb} {path} HTTP/1.1\r\nHost: localhost\r\n");
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(headers.iter().copied()) {
            head += &format!("{name}: {value}\r\n");
        }
        if length > 0 || matches!(verb, "POST" | "PUT") {
            head += &format!("Content-Length: {length}\r\n");
        }
        (head + "\r\n").into_bytes()
    }

    /// A TLS connection to write to and read from by hand.
    pub fn open(&self) -> BufReader<SslStream<TcpStream>> {
        let mut connector = SslConnector::builder(SslMethod::tls()).expect("TLS client");
        connector.set_verify(SslVerifyMode::NONE);
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).expect("pveproxy listens");
        tcp.set_read_timeout(Some(Duration::from_secs(60))).expect("a fresh socket");
        tcp.set_nodelay(true).expect("a fresh socket");
        BufReader::new(connector.build().connect("localhost", tcp).expect("TLS handshake"))
    }
}

/// Reads one answer; panics when there is none.
pub fn read_reply(stream: &mut impl BufRead) -> Reply {
    try_read_reply(stream).unwrap_or_else(|error| panic!("no answer: {error}"))
}

/// Reads one answer. A connection that ends before the first byte is `UnexpectedEof`.
pub fn try_read_reply(stream: &mut impl BufRead) -> io::Result<Reply> {
    let line = line(stream)?;
    let mut parts = line.splitn(3, ' ');
    assert!(matches!(parts.next(), Some("HTTP/1.1" | "HTTP/1.0")), "{line:?}");
    let status = parts.next().and_then(|code| code.parse().ok()).expect("a status");
    let reason = parts.next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    while let Some((name, value)) = self::line(stream)?.split_once(':') {
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut reply = Reply { status, reason, headers, body: Vec::new() };
    if reply.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        read_chunks(stream, &mut reply.body)?;
    } else if let Some(length) = reply.header("content-length").map(|value| value.parse().expect("a length")) {
        reply.body.resize(length, 0);
        stream.read_exact(&mut reply.body)?;
    }
    Ok(reply)
}

/// A line without its end.
fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.trim_end().to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn read_chunks(stream: &mut impl BufRead, body: &mut Vec<u8>) -> io::Result<()> {
    loop {
        let size = usize::from_str_radix(&line(stream)?, 16).expect("a chunk's size");
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        line(stream)?;
        if size == 0 {
            return Ok(());
        }
    }
}

fn api(path: &str) -> String {
    format!("/api2/json{path}")
}

/// Percent-encodes everything but letters, digits and `-._~`.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
