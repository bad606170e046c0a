//! What is answered to bytes that are no request.
//!
//! The HTTP machine below answers all of them alike, and before anybody else is asked. Clients, and people who look at
//! them, are told what PVE tells them. (pve-http-server PVE/APIServer/AnyEvent.pm, push_request_header,
//! unshift_read_header, error)

use actix_web::http::header::HttpDate;
use std::time::SystemTime;

/// Bytes of a request that are kept for this, which is as much as the head of a good request may have.
pub const KEPT: usize = 8 * 1024;

/// Whether these bytes are the machine's own refusal; our answers carry the server's name.
pub fn is_refusal(answer: &[u8]) -> bool {
    let has = |text: &[u8]| memchr::memmem::find(answer, text).is_some();
    let refuses = answer.get(8..).is_some_and(|rest| rest.starts_with(b" 400 Bad Request\r\n"));
    answer.starts_with(b"HTTP/1.") && refuses && !has(b"pve-api-daemon")
}

/// The answer to a head that could not be read.
pub fn answer(head: &[u8], now: SystemTime) -> Vec<u8> {
    let Refusal { version, status, text } = refusal(&String::from_utf8_lossy(head));
    let date = HttpDate::from(now);
    format!(
        "HTTP/1.{version} {status} {text}\r\nCache-Control: max-age=0\r\nConnection: close\r\nDate: {date}\r\n\
         Pragma: no-cache\r\nServer: pve-api-daemon/3.0\r\nContent-Length: {}\r\nExpires: {date}\r\n\r\n{text}",
        text.len()
    )
    .into_bytes()
}

#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    /// The version in which is answered: 1.0 until the client's is known.
    version: u8,
    status: u16,
    text: String,
}

fn refusal(head: &str) -> Refusal {
    let refuse = |version, status, text: &str| Refusal { version, status, text: text.to_owned() };
    let mut lines = head.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line));
    let Some(line) = lines.find(|line| !line.is_empty()) else { return refuse(0, 400, "bad request") };
    let Some((url, major, minor)) = request_line(line) else { return refuse(0, 400, "bad request") };
    if major != "1" || !matches!(minor, "0" | "1") {
        return refuse(0, 506, &format!("http protocol version {major}.{minor} not supported"));
    }
    if url.split('/').next().is_some_and(|start| start.contains('@')) {
        return refuse(0, 400, "invalid url");
    }
    let version = u8::from(minor == "1");
    if lines.take_while(|line| !line.is_empty()).all(is_header) {
        return refuse(version, 400, "bad request");
    }
    refuse(version, 506, "unable to parse request header")
}

/// Target and version of a line like `GET /x HTTP/1.1`.
fn request_line(line: &str) -> Option<(&str, &str, &str)> {
    let (before, version) = line.rsplit_once(" HTTP/")?;
    let (method, url) = before.rsplit_once(' ')?;
    let (major, rest) = version.split_once('.')?;
    let minor = &rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())];
    let is_number = |text: &str| !text.is_empty() && text.len() < 10 && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_word = |text: &str| !text.is_empty() && !text.ends_with(char::is_whitespace);
    (is_word(method) && is_word(url) && is_number(major) && is_number(minor)).then_some((url, major, minor))
}

/// A name, a colon, a value; or what goes on from the line before.
fn is_header(line: &str) -> bool {
    let name = line.split(':').next().unwrap_or_default().trim_end();
    line.starts_with([' ', '\t']) || (line.contains(':') && !name.is_empty() && !name.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_original() {
        for (head, status, text) in [
            ("\x01\x02\x03", 400, "bad request"),
            ("GET /\r\n\r\n", 400, "bad request"),
            ("GET  / HTTP/1.1\r\n\r\n", 400, "bad request"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 506, "http protocol version 2.0 not supported"),
            ("\r\nGET / HTTP/3.1\r\n\r\n", 506, "http protocol version 3.1 not supported"),
            ("GET / HTTP/1.7\r\n\r\n", 506, "http protocol version 1.7 not supported"),
            ("GET x@y/z HTTP/1.1\r\n\r\n", 400, "invalid url"),
            ("GET / HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n", 506, "unable to parse request header"),
            ("GET / HTTP/1.1\r\n: x\r\n\r\n", 506, "unable to parse request header"),
            ("GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", 400, "bad request"),
        ] {
            let refusal = refusal(head);
            assert_eq!((refusal.status, refusal.text.as_str()), (status, text), "{head:?}");
        }
    }

    #[test]
    fn answers_are_whole_and_not_taken_for_the_machines_own() {
        let text = String::from_utf8(answer(b"PRI * HTTP/2.0\r\n", SystemTime::UNIX_EPOCH)).unwrap();
        assert!(text.starts_with("HTTP/1.0 506 http protocol version 2.0 not supported\r\n"), "{text}");
        assert!(text.contains("\r\nConnection: close\r\n") && text.contains("\r\nContent-Length: 39\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nhttp protocol version 2.0 not supported"), "{text}");
        assert!(is_refusal(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"));
        assert!(!is_refusal(b"HTTP/1.1 400 Bad Request\r\nServer: pve-api-daemon/3.0\r\n\r\n"));
        assert!(!is_refusal(b"HTTP/1.1 200 OK\r\n\r\n") && !is_refusal(b"HTTP/1."));
    }
}
