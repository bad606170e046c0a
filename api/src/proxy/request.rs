//! A request for the API as the front has understood it, its body, and how it goes on to the daemon.

use crate::daemon::CLIENT_HEADER;
use crate::wire::credentials::Credential;
use crate::wire::format::Format;
use crate::wire::params::BodyKind;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use contract::Verb;
use futures_util::StreamExt;
use http_body_util::Full;
use std::time::Duration;

/// Longer bodies are refused, uploads excepted.
const MAX_BODY: usize = 512 * 1024;
/// Requests with as many header lines, or longer ones together, are refused.
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 8 * 1024;
/// A body has to be complete after this time.
const BODY_TIME: Duration = Duration::from_secs(60);

/// A request for the API.
pub struct ApiRequest<'a> {
    /// The request.
    pub http: &'a HttpRequest,
    /// The verb.
    pub verb: Verb,
    /// The format of the answer.
    pub format: Format,
    /// The path below the format, encoded.
    pub path: &'a str,
    /// The same without needless slashes.
    pub canonical: String,
    /// What the request shows.
    pub credential: Option<Credential>,
    /// The address of the client.
    pub client: String,
}

/// Limits of a request's head. Where the original drops the connection, the client is told why.
///
/// # Errors
/// Status and text with which the request is refused.
pub fn check_head(request: &HttpRequest) -> Result<(), (u16, &'static str)> {
    // A target without a slash names a host, perhaps with a user before it.
    if request.uri().path().is_empty() {
        return Err((400, "invalid url"));
    }
    let headers = request.headers();
    if headers.len() >= MAX_HEADERS {
        return Err((431, "too many http header lines"));
    }
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + ": ".len() + value.len()).sum();
    if size >= MAX_HEAD { Err((431, "http header too large")) } else { Ok(()) }
}

/// A header's text.
pub fn text<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// The body, or status and text with which it is refused.
pub async fn body(api: &ApiRequest<'_>, mut payload: web::Payload) -> Result<Bytes, (u16, String)> {
    let length: u64 = text(api.http, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    if length == 0 {
        return Ok(Bytes::new());
    }
    if !matches!(api.verb, Verb::Put | Verb::Post) {
        return Err((501, format!("Unexpected content for method '{}'", api.verb)));
    }
    if length > MAX_BODY as u64 {
        return Err((501, "for data too large".into()));
    }
    let kind = text(api.http, "content-type");
    if BodyKind::of(kind).is_none() {
        return Err((506, format!("upload 'Content-Type '{}' not implemented", kind.unwrap_or_default())));
    }
    let read = async {
        let mut body = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        while let Some(piece) = payload.next().await {
            body.extend_from_slice(&piece.map_err(|_| (400, "bad request".to_owned()))?);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(BODY_TIME, read).await.unwrap_or_else(|_| Err((408, "Request Timeout".into())))
}

/// The request as the daemon gets it: the same target, a body, and only the headers that it needs.
pub fn forwarded(api: &ApiRequest<'_>, body: Bytes) -> hyper::Request<Full<Bytes>> {
    forwarded_to(api, api.http.uri().path_and_query().map_or("/", |target| target.as_str()), body)
}

/// The same for another target.
pub fn forwarded_to(api: &ApiRequest<'_>, target: &str, body: Bytes) -> hyper::Request<Full<Bytes>> {
    let mut builder = hyper::Request::builder()
        .method(api.verb.name())
        .uri(target)
        .header("host", "localhost")
        .header(CLIENT_HEADER, &api.client);
    for name in ["authorization", "cookie", "content-type"] {
        for value in api.http.headers().get_all(name) {
            builder = builder.header(name, value.as_bytes());
        }
    }
    builder.body(Full::new(body)).expect("target and headers have been parsed before")
}
