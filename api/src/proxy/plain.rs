//! Plain HTTP on the port of TLS: the client is told where to go, and the connection ends.
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`ensure_tls_connection`).

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A longer head is not looked at.
const MAX_HEAD: u64 = 8192;

/// Reads one request and answers with a redirection.
pub async fn redirect(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut reader = (&mut *stream).take(MAX_HEAD);
    while !is_whole(&head) {
        if reader.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    if let Some(answer) = answer(&String::from_utf8_lossy(&head)) {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
    }
    Ok(())
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n") || head.windows(2).any(|end| end == b"\n\n")
}

fn answer(head: &str) -> Option<String> {
    let mut lines = head.lines();
    let mut request = lines.next()?.split(' ');
    let (method, target, version) = (request.next()?, request.next()?, request.next()?);
    if !version.starts_with("HTTP/1.") || request.next().is_some() {
        return Some("HTTP/1.1 400 bad request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".into());
    }
    let host = lines.take_while(|line| !line.is_empty()).find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim())
    })?;
    // An absolute target names the host itself.
    let path = target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let (status, text) = match method {
        "GET" | "HEAD" => (301, "Moved Permanently"),
        _ => (308, "Permanent Redirect"),
    };
    let clean = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    if !clean(host) || !clean(path) || !path.starts_with('/') {
        return None;
    }
    let body = if method == "HEAD" { "" } else { text };
    Some(format!(
        "HTTP/1.1 {status} {text}\r\nLocation: https://{host}{path}\r\nServer: pve-api-daemon/3.0\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        text.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_sent_to_tls() {
        let get = answer("GET /api2/json/version?x=1 HTTP/1.1\r\nhost: pve:8006\r\n\r\n").unwrap();
        assert!(
            get.starts_with("HTTP/1.1 301 Moved Permanently\r\nLocation: https://pve:8006/api2/json/version?x=1\r\n")
        );
        let post = answer("POST http://pve:8006/a HTTP/1.1\r\nHost: pve:8006\r\n\r\n").unwrap();
        assert!(post.starts_with("HTTP/1.1 308 Permanent Redirect\r\nLocation: https://pve:8006/a\r\n"));
        assert!(answer("GET / HTTP/1.1\r\n\r\nHost: x\r\n").is_none());
        assert!(answer("nonsense and more\r\n\r\n").unwrap().starts_with("HTTP/1.1 400"));
    }
}
