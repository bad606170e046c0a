//! Uploads that go on after a broken connection, by the protocol that clients call tus; PVE has nothing like it.
//!
//! ```text
//! POST …/upload        Upload-Length, Upload-Metadata ─> 201, Location: …/upload/HEX
//! HEAD …/upload/HEX    ─> Upload-Offset: bytes that are here
//! PATCH …/upload/HEX   Upload-Offset, the next bytes ─> 204; after the last ones the call itself is made (Pve-Task: its UPID)
//! DELETE …/upload/HEX  ─> 204
//! ```
//! The bytes lie in `/var/tmp/pveupload-HEX`, what is known of them beside it in `pveupload-HEX.tus`. Only who began an
//! upload goes on with it; one that is left alone for a day is removed. A page of somebody else cannot make a browser send
//! these requests, because their headers need leave first. (tus.io, protocol 1.0.0: core, creation, termination)

use super::front::Front;
use super::request::{self, ApiRequest};
use super::respond::Exchange;
use super::unfinished::{Known, Refusal, Unfinished};
use super::upload;
use crate::wire::response;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use openssl::base64;
use serde_json::{Map, Value};

/// The version of the protocol.
const VERSION: &str = "1.0.0";
/// The header that makes a request one of this protocol.
const HEADER: &str = "tus-resumable";
/// What may be said of a file: parameters of the call.
const METADATA: [&str; 4] = ["filename", "content", "checksum", "checksum-algorithm"];
/// The type of the bytes of an upload.
const BYTES: &str = "application/offset+octet-stream";

/// What is to be done with an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Begin,
    Look,
    Continue,
    Forget,
}

/// A request of the protocol.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish<'a> {
    step: Step,
    /// The number of the upload in hexadecimal; nothing for one that begins.
    number: &'a str,
    /// The path of the call that the upload belongs to.
    pub call: &'a str,
}

impl<'a> Wish<'a> {
    /// What a request wants; none for those of other protocols. `path` is the one below the format.
    pub fn of(request: &HttpRequest, path: &'a str) -> Option<Self> {
        request.headers().contains_key(HEADER).then(|| Wish::parse(request.method().as_str(), path)).flatten()
    }

    fn parse(method: &str, path: &'a str) -> Option<Self> {
        if method == "POST" && path.ends_with("/upload") {
            return Some(Wish { step: Step::Begin, number: "", call: path });
        }
        let (call, number) = path.rsplit_once('/').filter(|(call, _)| call.ends_with("/upload"))?;
        let step = match method {
            "HEAD" => Step::Look,
            "PATCH" => Step::Continue,
            "DELETE" => Step::Forget,
            _ => return None,
        };
        let is_number = number.len() == 32 && number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_number.then_some(Wish { step, number, call })
    }
}

/// Answers a request of the protocol. `api` is the call that it belongs to, `user` who sends it, as far as the front knows.
pub async fn handle(
    front: &Front,
    api: &ApiRequest<'_>,
    wish: &Wish<'_>,
    payload: web::Payload,
    user: Option<String>,
) -> Exchange {
    let mut exchange = if request::text(api.http, HEADER) == Some(VERSION) {
        go(front, api, wish, payload, user).await
    } else {
        let mut response = response::plain(412, "unknown version of the upload protocol");
        set(&mut response, "tus-version", VERSION);
        Exchange::own(response, user)
    };
    set(&mut exchange.response, HEADER, VERSION);
    exchange
}

async fn go(
    front: &Front,
    api: &ApiRequest<'_>,
    wish: &Wish<'_>,
    payload: web::Payload,
    user: Option<String>,
) -> Exchange {
    let target = target(api.http.uri().path(), wish);
    let check = request::forwarded_to(api, target, Bytes::new());
    let user = match upload::permitted(front, api, check, user).await {
        Ok(user) => user.unwrap_or_default(),
        Err(refused) => return refused,
    };
    let directory = front.ctx.root.path(upload::DIRECTORY);
    let open = || Unfinished::open(&directory, wish.number, &user, target);
    let answer = match wish.step {
        Step::Begin => known(api.http, target, &user).and_then(|known| {
            let number = Unfinished::begin(&directory, &known)?;
            let mut response = response::empty(201, "Created");
            set(&mut response, "location", &format!("{target}/{number}"));
            Ok(response)
        }),
        Step::Look => open().and_then(|unfinished| {
            let mut response = response::empty(200, "OK");
            set(&mut response, "upload-offset", &unfinished.received()?.to_string());
            set(&mut response, "upload-length", &unfinished.known.length.to_string());
            Ok(response)
        }),
        Step::Forget => open().and_then(Unfinished::claim).map(|unfinished| {
            unfinished.forget();
            response::empty(204, "No Content")
        }),
        Step::Continue => match open().and_then(Unfinished::claim) {
            Ok(unfinished) => return go_on(front, api, unfinished, payload).await,
            Err(refusal) => Err(refusal),
        },
    };
    let answer = answer.unwrap_or_else(|refusal| match wish.step {
        Step::Look => response::empty(refusal.0, &refusal.1),
        _ => refusal.answer(),
    });
    Exchange::own(answer, Some(user))
}

/// Takes the next bytes; after the last ones the call itself is made.
async fn go_on(front: &Front, api: &ApiRequest<'_>, mut unfinished: Unfinished, payload: web::Payload) -> Exchange {
    let user = Some(unfinished.known.user.clone());
    let refuse = |refusal: Refusal| Exchange::own(refusal.answer(), user.clone());
    if request::text(api.http, "content-type") != Some(BYTES) {
        return refuse(Refusal(415, format!("the bytes of an upload are '{BYTES}'")));
    }
    let number = |name: &str| request::text(api.http, name).and_then(|text| text.parse::<u64>().ok());
    let (Some(offset), Some(length)) = (number("upload-offset"), number("content-length")) else {
        return refuse(Refusal(400, "Upload-Offset and Content-Length say which bytes come".into()));
    };
    let received = match unfinished.take(offset, length, payload).await {
        Ok(received) => received,
        Err(refusal) => return refuse(refusal),
    };
    let done = |exchange: &mut Exchange| set(&mut exchange.response, "upload-offset", &received.to_string());
    if received < unfinished.known.length {
        let mut exchange = Exchange::own(response::empty(204, "No Content"), user);
        done(&mut exchange);
        return exchange;
    }
    let call = request::forwarded_to(api, &unfinished.known.target, Bytes::new());
    let (file, params) = unfinished.finish();
    let made = upload::hand_over(front, call, file, params).await;
    if made.status >= 400 {
        return made;
    }
    let upid = actix_web::body::to_bytes(made.response.into_body()).await.ok();
    let upid = upid.and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    let mut exchange = Exchange::own(response::empty(204, "No Content"), user);
    done(&mut exchange);
    if let Some(upid) = upid.as_ref().and_then(|body| body["data"].as_str()) {
        set(&mut exchange.response, "pve-task", upid);
    }
    exchange
}

/// The target of the call: the path without the number of the upload.
fn target<'a>(path: &'a str, wish: &Wish<'_>) -> &'a str {
    path.strip_suffix(wish.number).map_or(path, |call| call.trim_end_matches('/'))
}

/// What a new upload says of itself.
fn known(request: &HttpRequest, target: &str, user: &str) -> Result<Known, Refusal> {
    let bad = |text: &str| Refusal(400, text.to_owned());
    let length =
        request::text(request, "upload-length").and_then(|text| text.parse().ok()).filter(|length| *length > 0);
    let length = length.ok_or_else(|| bad("Upload-Length says how many bytes will come"))?;
    let params = metadata(request::text(request, "upload-metadata").unwrap_or_default()).map_err(|text| bad(&text))?;
    if !params.contains_key("filename") {
        return Err(bad("Upload-Metadata has no filename"));
    }
    Ok(Known { user: user.to_owned(), target: target.to_owned(), length, params })
}

/// `key base64,key base64`.
fn metadata(text: &str) -> Result<Map<String, Value>, String> {
    let mut params = Map::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if !METADATA.contains(&key) {
            return Err(format!("Upload-Metadata: unknown key '{key}'"));
        }
        let value = base64::decode_block(value.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let value = value.ok_or_else(|| format!("Upload-Metadata: '{key}' is not text in Base64"))?;
        params.insert(key.to_owned(), Value::String(value));
    }
    Ok(params)
}

fn set(response: &mut HttpResponse, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(HeaderName::from_static(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_the_protocol_are_told_by_method_and_path() {
        let path = "/nodes/a/storage/local/upload/0123456789abcdef0123456789abcdef";
        let (call, number) = path.rsplit_once('/').unwrap();
        for (method, step) in [("HEAD", Step::Look), ("PATCH", Step::Continue), ("DELETE", Step::Forget)] {
            assert_eq!(Wish::parse(method, path), Some(Wish { step, number, call }));
            assert_eq!(Wish::parse(method, call), None);
        }
        assert_eq!(Wish::parse("POST", call), Some(Wish { step: Step::Begin, number: "", call }));
        for other in ["/nodes/a/storage/local/upload/..", "/nodes/a/storage/local/upload/", &path[..path.len() - 1]] {
            assert_eq!(Wish::parse("HEAD", other), None, "{other}");
        }
        let wish = Wish::parse("HEAD", path).unwrap();
        assert_eq!(target(&format!("/api2/json{path}"), &wish), "/api2/json/nodes/a/storage/local/upload");
    }

    #[test]
    fn metadata_are_known_words_in_base64() {
        let params = metadata("filename YS5pc28=, content aXNv").unwrap();
        assert_eq!((&params["filename"], &params["content"]), (&Value::from("a.iso"), &Value::from("iso")));
        assert!(metadata("").unwrap().is_empty());
        for bad in ["tmpfilename L2V0Yy9zaGFkb3c=", "filename ***", "filename /w=="] {
            assert!(metadata(bad).is_err(), "{bad}");
        }
    }
}
