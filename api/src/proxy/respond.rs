//! From the daemon's answer to the client's.

use super::upstream::Answered;
use crate::daemon::{REASON_HEADER, STATUS_HEADER, UNAUTHENTICATED_HEADER, USER_HEADER};
use crate::net::connection::Busy;
use crate::wire::format::Format;
use crate::wire::{html, response};
use actix_web::HttpResponse;
use actix_web::body::{BoxBody, SizedStream};
use actix_web::http::header::HeaderName;
use engine::Error;
use futures_util::StreamExt;
use percent_encoding::percent_decode_str;

/// Bodies up to this size are taken as a whole, so that they can be compressed.
const WHOLE: u64 = 8 * 1024 * 1024;
/// Headers that go on to the client.
const PASSED: [&str; 6] =
    ["content-type", "content-disposition", "content-encoding", "location", "set-cookie", "last-modified"];

/// What goes to the client, and what the front has to know of it.
pub struct Exchange {
    /// The response.
    pub response: HttpResponse,
    /// The user of the log.
    pub user: Option<String>,
    /// The status that the answer means; in some formats it is not the status on the wire.
    pub status: u16,
}

impl Exchange {
    /// A response of the front itself.
    pub fn own(response: HttpResponse, user: Option<String>) -> Self {
        let status = response.status().as_u16();
        Exchange { response, user, status }
    }

    /// An error without envelope.
    pub fn error(error: &Error, user: Option<String>) -> Self {
        Exchange::own(response::plain(error.status(), error.message()), user)
    }
}

/// The answer to somebody who is not believed: no envelope, or for people the way to the login form.
pub fn unbelieved(format: Format, message: &str) -> Exchange {
    let response = match format {
        Format::Html => response::redirect(301, "Moved", html::LOGIN_URL),
        _ => response::empty(401, message),
    };
    Exchange { response, user: None, status: 401 }
}

/// Whether the daemon believed nobody.
pub fn is_unauthenticated(answered: &Answered) -> bool {
    answered.header(UNAUTHENTICATED_HEADER).is_some()
}

/// The reason phrase of an answer.
pub fn reason(answered: &Answered) -> String {
    percent_decode_str(answered.header(REASON_HEADER).unwrap_or_default()).decode_utf8_lossy().into_owned()
}

/// Makes the client's response. A long body is passed on as it comes; `busy` tells that the connection is in use meanwhile.
pub async fn respond(answered: Answered, busy: Option<Busy>) -> Exchange {
    let status = answered.head.status.as_u16();
    let reason = reason(&answered);
    let user = answered.header(USER_HEADER).map(str::to_owned);
    let meant = answered.header(STATUS_HEADER).and_then(|text| text.parse().ok()).unwrap_or(status);
    let headers: Vec<(HeaderName, String)> = PASSED
        .iter()
        .filter_map(|name| Some((HeaderName::from_static(name), answered.header(name)?.to_owned())))
        .collect();
    let body = match answered.length() {
        Some(length) if length > WHOLE => {
            let stream = answered.stream().map(move |piece| {
                let _in_use = &busy;
                piece
            });
            Ok(BoxBody::new(SizedStream::new(length, stream.boxed_local())))
        }
        _ => answered.collect().await.map(BoxBody::new),
    };
    let mut response = match body {
        Ok(body) => response::empty(status, &reason).set_body(body),
        Err(error) => return Exchange::error(&error, user),
    };
    for (name, value) in headers {
        response::set_header(&mut response, name, &value);
    }
    Exchange { response, user, status: meant }
}
