//! From a rendered answer to an HTTP response: the headers that every answer has, compression, closing.
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`response`).

use super::envelope::Rendered;
use super::reason;
use actix_web::HttpResponse;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use flate2::{Compression, write::GzEncoder};
use std::io::Write;

/// Bodies up to this size are not worth compressing.
const COMPRESS_OVER: usize = 1024;
/// Longer ones are compressed on another thread.
const COMPRESS_HERE: usize = 64 * 1024;

/// An answer without headers of its own, for a text that is no envelope: the text is reason and body.
pub fn plain(status: u16, message: &str) -> HttpResponse {
    with_body(status, message, message.as_bytes().to_vec())
}

/// An answer with a reason and nothing else, as failed authentication gives it.
pub fn empty(status: u16, message: &str) -> HttpResponse {
    with_body(status, message, Vec::new())
}

/// An answer in one of the formats. A message that would tear the status line apart came from the request itself.
pub fn rendered(rendered: Rendered) -> HttpResponse {
    if reason::is_torn(&rendered.reason) {
        return with_body(400, "", Vec::new());
    }
    let mut response = with_body(rendered.status, &rendered.reason, rendered.body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(rendered.content_type));
    response
}

fn with_body(status: u16, message: &str, body: Vec<u8>) -> HttpResponse {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = HttpResponse::new(status).set_body(BoxBody::new(body));
    reason::set(&mut response, message);
    response
}

/// A permanent redirection.
pub fn redirect(status: u16, message: &str, location: &str) -> HttpResponse {
    let mut response = plain(status, message);
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Adds what every answer of the front server has, and ends the connection after an error.
pub fn finish(response: &mut HttpResponse, now: std::time::SystemTime, close: bool) {
    let date = HeaderValue::from_str(&header::HttpDate::from(now).to_string()).expect("a date is plain text");
    let close = close || response.status().as_u16() >= 400;
    let headers = response.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static("pve-api-daemon/3.0"));
    if !headers.contains_key(header::LAST_MODIFIED) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("max-age=0"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
        headers.insert(header::EXPIRES, date.clone());
    }
    headers.insert(header::DATE, date);
    let head = response.head_mut();
    head.set_camel_case_headers(true);
    if close {
        head.set_connection_type(actix_http::ConnectionType::Close);
    }
}

/// Compresses a body that is at hand, if it is worth it. A long one does not hold the thread.
pub async fn compress(response: HttpResponse) -> HttpResponse {
    let big = matches!(response.body().size(), BodySize::Sized(size) if size > COMPRESS_OVER as u64);
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !big || response.headers().contains_key(header::CONTENT_ENCODING) || kind.starts_with("image/png") {
        return response;
    }
    let (response, body) = response.into_parts();
    let bytes = match body.try_into_bytes() {
        Ok(bytes) => bytes,
        Err(body) => return response.set_body(body),
    };
    let whole = bytes.clone();
    let compressed = match bytes.len() {
        ..COMPRESS_HERE => Ok(gzip(&bytes)),
        _ => tokio::task::spawn_blocking(move || gzip(&bytes)).await,
    };
    match compressed {
        Ok(compressed) => {
            let mut response = response.set_body(BoxBody::new(compressed));
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        Err(_) => response.set_body(BoxBody::new(whole)),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory does not fail to be written")
}

/// Sets a header whose value may not be sendable; then it is left out.
pub fn set_header(response: &mut HttpResponse, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[actix_web::test]
    async fn large_bodies_are_compressed() {
        let text = "x".repeat(5000);
        let response = compress(plain(200, "").map_body(|_, _| BoxBody::new(text.clone()))).await;
        assert_eq!(response.headers().get(header::CONTENT_ENCODING).unwrap(), "gzip");
        let bytes = response.into_body().try_into_bytes().unwrap();
        let mut back = String::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut back).unwrap();
        assert_eq!(back, text);
        let response = compress(plain(200, "").map_body(|_, _| BoxBody::new("x".repeat(1024)))).await;
        assert!(!response.headers().contains_key(header::CONTENT_ENCODING));
    }

    #[test]
    fn errors_close() {
        let close = |status| {
            let mut response = plain(status, "");
            finish(&mut response, std::time::SystemTime::UNIX_EPOCH, false);
            assert_eq!(response.headers().get(header::EXPIRES), response.headers().get(header::DATE));
            !response.head().keep_alive()
        };
        assert!(!close(200) && !close(301) && close(400) && close(595));
    }
}
