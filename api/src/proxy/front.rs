//! One request through the front server.
//!
//! ```text
//! verb, transfer encoding (501) ─ page? ─ format (501) ─ who speaks (401, after 3 s) ─ CSRF (401) ─ content (501, 506)
//!   ─ a few methods are answered here ─ everything else goes to the privileged daemon
//! ```
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm, pve-manager PVE/HTTPServer.pm.

use super::access_log::{AccessLog, Entry};
use super::pages;
use super::respond::{self, Exchange};
use super::upstream::Upstream;
use crate::daemon::answer::{Asked, answer_as};
use crate::daemon::{Answer, CLIENT_HEADER};
use crate::identity::Identities;
use crate::net::connection::{Busy, Watch};
use crate::net::serve::Control;
use crate::net::settings::Settings;
use crate::wire::credentials::{self, Credential};
use crate::wire::format::{ApiPath, Format, canonical, split};
use crate::wire::params::BodyKind;
use crate::wire::{html, response};
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use contract::Verb;
use engine::{Context, Error};
use futures_util::StreamExt;
use http_body_util::Full;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Answers to somebody who is not believed come no sooner than this after the request began.
const UNBELIEVED: Duration = Duration::from_secs(3);
/// Longer bodies are refused, uploads excepted.
const MAX_BODY: usize = 512 * 1024;
/// A body has to be complete after this time.
const BODY_TIME: Duration = Duration::from_secs(60);

/// What all requests share; one per thread.
#[derive(Clone)]
pub struct Front {
    /// The node.
    pub ctx: Arc<Context>,
    /// Verified credentials.
    pub identities: Arc<Identities>,
    /// `/etc/default/pveproxy`.
    pub settings: Arc<Settings>,
    /// The access log.
    pub log: Arc<AccessLog>,
    /// The privileged daemon.
    pub upstream: Rc<Upstream>,
    /// Connections and the end.
    pub control: Control,
}

/// Who speaks, as far as the front can tell.
enum Speaker {
    /// A method that anybody may call.
    Anybody,
    /// A verified user or token.
    Known(String),
    /// A token, which only the privileged daemon can verify.
    Token,
}

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

/// A header's text.
pub fn text<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

impl Front {
    /// Answers a request, writes the log, and closes the connection where that is due.
    pub async fn handle(self, request: HttpRequest, payload: web::Payload) -> HttpResponse {
        let began = Instant::now();
        let busy = request.conn_data::<Rc<Watch>>().map(Watch::begin);
        let Exchange { response, user, status } = self.exchange(&request, payload, busy).await;
        if status == 401 {
            tokio::time::sleep_until((began + UNBELIEVED).into()).await;
        }
        let mut response = if self.wants_gzip(&request) { response::compress(response).await } else { response };
        response::finish(&mut response, SystemTime::now(), self.control.is_crowded());
        self.note(&request, user.as_deref(), &response);
        response
    }

    async fn exchange(&self, request: &HttpRequest, payload: web::Payload, busy: Option<Busy>) -> Exchange {
        let refuse = |status, text: &str| Exchange::own(response::plain(status, text), None);
        let method = request.method().as_str();
        let Ok(verb) = method.parse::<Verb>() else {
            return Exchange::own(response::empty(501, &format!("method '{method}' not available")), None);
        };
        match text(request, "transfer-encoding") {
            Some(encoding) if encoding.eq_ignore_ascii_case("chunked") => {
                return refuse(501, "chunked transfer encoding not supported");
            }
            Some(encoding) => return refuse(501, &format!("Unknown transfer encoding '{encoding}'")),
            None => {}
        }
        let path = request.uri().path();
        let (format, rest) = match split(path) {
            ApiPath::Known(format, rest) => (Ok(format), rest),
            ApiPath::UnknownFormat(name, rest) => (Err(name), rest),
            ApiPath::NoFormat => return refuse(501, "no such uri"),
            ApiPath::Outside => return Exchange::own(pages::answer(&self.ctx.node, method, path), None),
        };
        let cookies = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
        let api = ApiRequest {
            http: request,
            verb,
            format: format.unwrap_or(Format::Json),
            path: rest,
            canonical: canonical(rest),
            credential: Credential::find(cookies, text(request, "authorization")),
            client: self.peer(request),
        };
        let speaker = match self.speaker(&api) {
            Ok(speaker) => speaker,
            Err(error) => return unbelieved(api.format, error.message()),
        };
        if let Err(name) = format {
            return refuse(501, &format!("no formatter for uri {rest}, {name}"));
        }
        self.call(&api, &speaker, payload, busy).await
    }

    /// Who speaks, and whether a page of somebody else made the browser speak.
    fn speaker(&self, api: &ApiRequest<'_>) -> Result<Speaker, Error> {
        if credentials::is_open(api.verb, &api.canonical) {
            return Ok(Speaker::Anybody);
        }
        match &api.credential {
            None => Err(Error::Unauthorized("No ticket".into())),
            Some(token @ Credential::Token(_)) => {
                Ok(self.identities.remembered(&self.ctx, token).map_or(Speaker::Token, Speaker::Known))
            }
            Some(ticket) => {
                let user = self.identities.verify(&self.ctx, ticket);
                let user = user.map_err(|_| Error::Unauthorized("Authentication failed!".into()))?;
                let upload = credentials::upload_target(api.verb, &api.canonical).is_some();
                if api.verb != Verb::Get && !upload {
                    let token = text(api.http, credentials::CSRF_HEADER).unwrap_or_default();
                    engine::access::csrf::verify(&self.ctx, &user, token)
                        .map_err(|_| Error::Unauthorized("Permission denied - invalid csrf token".into()))?;
                }
                Ok(Speaker::Known(user))
            }
        }
    }

    async fn call(
        &self,
        api: &ApiRequest<'_>,
        speaker: &Speaker,
        payload: web::Payload,
        busy: Option<Busy>,
    ) -> Exchange {
        let user = match speaker {
            Speaker::Known(user) => Some(user.clone()),
            Speaker::Anybody | Speaker::Token => None,
        };
        let body = match body(api, payload).await {
            Ok(body) => body,
            Err((status, text)) => return Exchange::own(response::plain(status, &text), user),
        };
        if let Speaker::Known(user) = speaker
            && is_local(api.verb, &api.canonical)
        {
            return self.answer_here(api, user);
        }
        let answered = match self.upstream.send(forwarded(api, body)).await {
            Ok(answered) => answered,
            Err(error) => return Exchange::error(&error, user),
        };
        if respond::is_unauthenticated(&answered) {
            return unbelieved(api.format, &respond::reason(&answered));
        }
        let mut exchange = respond::respond(answered, busy).await;
        if let (Some(token @ Credential::Token(_)), Some(user)) = (&api.credential, &exchange.user) {
            self.identities.remember(&self.ctx, token, user);
        }
        exchange.user = exchange.user.or(user);
        exchange
    }

    fn answer_here(&self, api: &ApiRequest<'_>, user: &str) -> Exchange {
        let asked = Asked {
            verb: api.verb,
            format: api.format,
            path: api.path.to_owned(),
            query: api.http.uri().query().unwrap_or_default().to_owned(),
            body: Vec::new(),
            kind: BodyKind::Form,
            credential: None,
            check_only: false,
        };
        let response = match answer_as(&self.ctx, Some(user), asked) {
            Answer::Rendered(rendered, _) => response::rendered(rendered),
            _ => response::plain(500, "internal error"),
        };
        Exchange::own(response, Some(user.to_owned()))
    }

    fn wants_gzip(&self, request: &HttpRequest) -> bool {
        self.settings.compression.unwrap_or(true)
            && text(request, "accept-encoding").is_some_and(|encodings| encodings.contains("gzip"))
    }

    fn peer(&self, request: &HttpRequest) -> String {
        request.peer_addr().map_or_else(|| "-".into(), |peer| peer.ip().to_canonical().to_string())
    }

    fn note(&self, request: &HttpRequest, user: Option<&str>, response: &HttpResponse) {
        let length = match response.body().size() {
            BodySize::Sized(length) => Some(length),
            BodySize::None | BodySize::Stream => None,
        };
        self.log.write(&Entry {
            address: &self.real_address(request),
            user,
            method: request.method().as_str(),
            target: request.uri().path_and_query().map_or("/", |target| target.as_str()),
            version: if request.version() == actix_web::http::Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" },
            status: response.status().as_u16(),
            length,
        });
    }

    /// The client behind a proxy, if there is one that may say so.
    fn real_address(&self, request: &HttpRequest) -> String {
        let peer = self.peer(request);
        let Some(name) = &self.settings.real_ip_header else {
            return peer;
        };
        let told = text(request, name).and_then(|text| text.trim().parse::<IpAddr>().ok());
        let allowed = match (&self.settings.real_ip_allow_from, request.peer_addr()) {
            (None, _) => true,
            (Some(set), Some(address)) => set.contains(address.ip().to_canonical()),
            (Some(_), None) => false,
        };
        told.filter(|_| allowed).map_or(peer, |address| address.to_canonical().to_string())
    }
}

/// Methods that the front answers itself: they need no rights and no state of the daemon.
fn is_local(verb: Verb, path: &str) -> bool {
    verb == Verb::Get && matches!(path, "/" | "/version")
}

fn unbelieved(format: Format, message: &str) -> Exchange {
    let response = match format {
        Format::Html => response::redirect(301, "Moved", html::LOGIN_URL),
        _ => response::empty(401, message),
    };
    Exchange { response, user: None, status: 401 }
}

/// The body, or why it is not taken.
async fn body(api: &ApiRequest<'_>, payload: web::Payload) -> Result<Bytes, (u16, String)> {
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
    let mut payload = payload;
    let read = async {
        let mut body = BytesMut::with_capacity(usize::try_from(length).unwrap_or(0));
        while let Some(piece) = payload.next().await {
            body.extend_from_slice(&piece.map_err(|_| (400, "bad request".to_owned()))?);
        }
        Ok(body.freeze())
    };
    tokio::time::timeout(BODY_TIME, read).await.unwrap_or_else(|_| Err((408, "Request Timeout".into())))
}

/// The request as the daemon gets it: the same target and body, and only the headers that it needs.
pub fn forwarded(api: &ApiRequest<'_>, body: Bytes) -> hyper::Request<Full<Bytes>> {
    let target = api.http.uri().path_and_query().map_or("/", |target| target.as_str());
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
