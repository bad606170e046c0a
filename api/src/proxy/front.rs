//! One request through the front server.
//!
//! ```text
//! verb, transfer encoding (501) ─ page? ─ format (501) ─ who speaks (401, after 3 s) ─ CSRF (401) ─ content (501, 506)
//!   ─ a few methods are answered here ─ everything else goes to the privileged daemon
//! ```
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm, pve-manager PVE/HTTPServer.pm.

use super::access_log::{AccessLog, Entry};
use super::request::{self, ApiRequest, text};
use super::respond::{self, Exchange};
use super::upstream::Upstream;
use super::{openapi, pages, resumable, upload, websocket};
use crate::daemon::answer::{Asked, answer_as};
use crate::daemon::{Answer, SOCKET_HEADER, USER_HEADER};
use crate::identity::Identities;
use crate::net::connection::{Busy, Watch};
use crate::net::serve::Control;
use crate::net::settings::Settings;
use crate::wire::credentials::{self, Credential};
use crate::wire::format::{ApiPath, Format, canonical, split};
use crate::wire::params::BodyKind;
use crate::wire::response;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use contract::Verb;
use engine::{Context, Error};
use std::net::IpAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// Answers to somebody who is not believed come no sooner than this after the request began.
const UNBELIEVED: Duration = Duration::from_secs(3);

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
    /// This program.
    pub program: Arc<PathBuf>,
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

impl Speaker {
    /// The user, if it is known already.
    fn known(&self) -> Option<String> {
        match self {
            Speaker::Known(user) => Some(user.clone()),
            Speaker::Anybody | Speaker::Token => None,
        }
    }
}

impl Front {
    /// Answers a request, writes the log, and closes the connection where that is due.
    pub async fn handle(self, request: HttpRequest, payload: web::Payload) -> HttpResponse {
        let began = Instant::now();
        let busy = || request.conn_data::<Rc<Watch>>().map(Watch::begin);
        // Until the response is handed over, delays included; a body that goes on afterwards has a mark of its own.
        let _answering = busy();
        let Exchange { response, user, status } = self.exchange(&request, payload, busy()).await;
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
        let path = request.uri().path();
        let parts = split(path);
        let wish = match parts {
            ApiPath::Known(_, rest) => resumable::Wish::of(request, rest),
            _ => None,
        };
        // All steps of an upload that can go on later belong to the same call.
        let verb = if wish.is_some() { Ok(Verb::Post) } else { method.parse::<Verb>() };
        let Ok(verb) = verb else {
            return Exchange::own(response::empty(501, &format!("method '{method}' not available")), None);
        };
        if let Err((status, text)) = request::check_head(request) {
            return refuse(status, text);
        }
        match text(request, "transfer-encoding") {
            Some(encoding) if encoding.eq_ignore_ascii_case("chunked") => {
                return refuse(501, "chunked transfer encoding not supported");
            }
            Some(encoding) => return refuse(501, &format!("Unknown transfer encoding '{encoding}'")),
            None => {}
        }
        let (format, rest) = match parts {
            ApiPath::Known(format, rest) => (Ok(format), rest),
            ApiPath::UnknownFormat(name, rest) => (Err(name), rest),
            _ if path == openapi::PATH && verb == Verb::Get => return openapi::serve(&self.program).await,
            ApiPath::NoFormat => return refuse(501, "no such uri"),
            ApiPath::Outside => return Exchange::own(pages::answer(&self.ctx.node, method, path), None),
        };
        let rest = wish.as_ref().map_or(rest, |wish| wish.call);
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
            Err(error) => return respond::unbelieved(api.format, error.message()),
        };
        if let Err(name) = format {
            return refuse(501, &format!("no formatter for uri {rest}, {name}"));
        }
        match wish {
            Some(wish) => resumable::handle(self, &api, &wish, payload, speaker.known()).await,
            None => self.call(&api, &speaker, payload, busy).await,
        }
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
        let user = speaker.known();
        if credentials::upload_target(api.verb, &api.canonical).is_some() {
            return upload::receive(self, api, payload, user).await;
        }
        if websocket::is_wanted(api.http) {
            return self.web_socket(api, payload, busy, user).await;
        }
        let body = match request::body(api, payload).await {
            Ok(body) => body,
            Err((status, text)) => return Exchange::own(response::plain(status, &text), user),
        };
        if let Speaker::Known(user) = speaker
            && is_local(api.verb, &api.canonical)
        {
            return self.answer_here(api, user);
        }
        let answered = match self.upstream.send(request::forwarded(api, body)).await {
            Ok(answered) => answered,
            Err(error) => return Exchange::error(&error, user),
        };
        if respond::is_unauthenticated(&answered) {
            return respond::unbelieved(api.format, &respond::reason(&answered));
        }
        let mut exchange = respond::respond(answered, busy).await;
        if let (Some(token @ Credential::Token(_)), Some(user)) = (&api.credential, &exchange.user) {
            self.identities.remember(&self.ctx, token, user);
        }
        exchange.user = exchange.user.or(user);
        exchange
    }

    /// The call says where the web socket leads; a call that fails is answered as any other.
    async fn web_socket(
        &self,
        api: &ApiRequest<'_>,
        payload: web::Payload,
        busy: Option<Busy>,
        user: Option<String>,
    ) -> Exchange {
        let answered = match self.upstream.send(request::forwarded(api, Bytes::new())).await {
            Ok(answered) if respond::is_unauthenticated(&answered) => {
                return respond::unbelieved(api.format, &respond::reason(&answered));
            }
            Ok(answered) => answered,
            Err(error) => return Exchange::error(&error, user),
        };
        let Some(endpoint) = answered.header(SOCKET_HEADER).map(str::to_owned) else {
            return respond::respond(answered, busy).await;
        };
        let user = answered.header(USER_HEADER).map(str::to_owned).or(user);
        let joined = match websocket::Handshake::of(api.http) {
            Ok(handshake) => websocket::join(handshake, &endpoint, payload, busy).await,
            Err(error) => Err(error),
        };
        match joined {
            Ok(response) => Exchange::own(response, user),
            Err(error) => Exchange::error(&error, user),
        }
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
            client: None,
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
