//! The HTTP side of the privileged daemon.

use super::answer::{Answer, Answered, Asked, answer};
use super::{
    CHECK_HEADER, CLIENT_HEADER, REASON_HEADER, SOCKET_HEADER, STATUS_HEADER, UNAUTHENTICATED_HEADER, USER_HEADER,
};
use crate::identity::Identities;
use crate::net::connection::Watch;
use crate::net::serve::Control;
use crate::wire::credentials::Credential;
use crate::wire::envelope::{Outcome, Rendered};
use crate::wire::format::{ApiPath, Format, split};
use crate::wire::params::BodyKind;
use crate::wire::{html, reason, response};
use actix_http::ConnectionType;
use actix_web::body::{BoxBody, SizedStream};
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use engine::call::{Download, SocketTarget};
use engine::{Context, Error};
use futures_util::{StreamExt, stream};
use percent_encoding::{AsciiSet, CONTROLS as ASCII_CONTROLS, utf8_percent_encode};
use std::rc::Rc;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, Take};

/// Bodies of the front server are smaller.
const MAX_BODY: usize = 1024 * 1024;
/// What cannot stand in a header as it is.
const CONTROLS: &AsciiSet = &ASCII_CONTROLS.add(b'%');
/// How much of a file is read at once.
const PIECE: usize = 64 * 1024;

/// What answers requests.
#[derive(Clone)]
pub struct Service {
    ctx: Context,
    identities: Arc<Identities>,
    control: Control,
}

impl Service {
    /// A service for a node.
    pub fn new(ctx: Context, control: Control) -> Self {
        Service { ctx, identities: Arc::default(), control }
    }

    /// Answers a request. While the daemon ends, the connection ends with the answer.
    pub async fn handle(self, request: HttpRequest, payload: web::Payload) -> HttpResponse {
        let busy = request.conn_data::<Rc<Watch>>().map(Watch::begin);
        let control = self.control.clone();
        let mut response = match asked(&request, payload).await {
            Ok(asked) => {
                let client = request.headers().get(CLIENT_HEADER).and_then(|value| value.to_str().ok());
                self.answer(asked, client.unwrap_or("-")).await
            }
            Err(response) => response,
        };
        if control.is_crowded() {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        drop(busy);
        response
    }

    async fn answer(self, asked: Asked, client: &str) -> HttpResponse {
        let name = asked.login_name();
        let answered = tokio::task::spawn_blocking(move || answer(&self.ctx, &self.identities, asked)).await;
        match answered {
            Ok(answered) => {
                if let Some(text) = answered.refusal() {
                    // Programs that lock out attackers read this line.
                    let name = name.as_deref().or(answered.user.as_deref()).unwrap_or_default();
                    eprintln!("authentication failure; rhost={client} user={name} msg={text}");
                }
                respond(answered).await
            }
            // The handler panicked; the message is on standard error.
            Err(_) => with_reason(Outcome::from(Error::new("internal error")).render(Format::Json), None),
        }
    }
}

/// Reads the request, or says what is wrong with it.
async fn asked(request: &HttpRequest, mut payload: web::Payload) -> Result<Asked, HttpResponse> {
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let method = request.method().as_str();
    let verb = method.parse().map_err(|_| response::empty(501, &format!("method '{method}' not available")))?;
    let (format, path) = match split(request.uri().path()) {
        ApiPath::Known(format, path) => (format, path.to_owned()),
        ApiPath::UnknownFormat(name, path) => {
            return Err(response::plain(501, &format!("no formatter for uri {path}, {name}")));
        }
        ApiPath::NoFormat | ApiPath::Outside => return Err(response::plain(501, "no such uri")),
    };
    let kind =
        BodyKind::of(text("content-type")).ok_or_else(|| response::plain(506, "content type not implemented"))?;
    let cookies = request.headers().get_all(header::COOKIE).filter_map(|value| value.to_str().ok());
    let credential = Credential::find(cookies, text("authorization"));
    let mut body = BytesMut::new();
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|_| response::plain(400, "bad request"))?;
        if body.len() + piece.len() > MAX_BODY {
            return Err(response::plain(501, "for data too large"));
        }
        body.extend_from_slice(&piece);
    }
    Ok(Asked {
        verb,
        format,
        path,
        query: request.uri().query().unwrap_or_default().to_owned(),
        body: body.to_vec(),
        kind,
        credential,
        client: text(CLIENT_HEADER).map(str::to_owned),
        check_only: request.headers().contains_key(CHECK_HEADER),
    })
}

async fn respond(answered: Answered) -> HttpResponse {
    let mut response = match answered.answer {
        Answer::Rendered(rendered, status) => with_reason(rendered, Some(status)),
        Answer::LoggedIn(ticket) => {
            let mut response = response::redirect(301, "Moved", html::BASE_URL);
            set_reason(&mut response, "Moved");
            response::set_header(&mut response, header::SET_COOKIE, &html::cookie(&ticket));
            response
        }
        Answer::Download(download) => file(&download).await,
        Answer::Socket(target, rendered) => {
            let mut response = with_reason(rendered, None);
            let endpoint = match target {
                SocketTarget::Port(port) => format!("tcp:{port}"),
                SocketTarget::Unix(path) => format!("unix:{}", path.display()),
            };
            response::set_header(&mut response, HeaderName::from_static(SOCKET_HEADER), &endpoint);
            response
        }
        Answer::Unauthenticated(text) => {
            let mut response = response::empty(401, "");
            set_reason(&mut response, &text);
            response::set_header(&mut response, HeaderName::from_static(UNAUTHENTICATED_HEADER), "1");
            response
        }
    };
    if let Some(user) = answered.user {
        response::set_header(&mut response, HeaderName::from_static(USER_HEADER), &user);
    }
    response
}

/// An answer whose reason phrase travels in a header.
fn with_reason(rendered: Rendered, meant: Option<u16>) -> HttpResponse {
    let reason = rendered.reason.clone();
    let mut response = response::rendered(rendered);
    let sent = response.status().as_u16();
    if !reason::is_torn(&reason) {
        set_reason(&mut response, &reason);
    }
    if let Some(status) = meant.filter(|status| *status != sent) {
        response::set_header(&mut response, HeaderName::from_static(STATUS_HEADER), &status.to_string());
    }
    response
}

fn set_reason(response: &mut HttpResponse, text: &str) {
    let text = utf8_percent_encode(&reason::first_line(text), CONTROLS).to_string();
    if !text.is_empty() {
        response::set_header(response, HeaderName::from_static(REASON_HEADER), &text);
    }
}

/// Streams a file as long as it is now.
async fn file(download: &Download) -> HttpResponse {
    let opened = async {
        let file = tokio::fs::File::open(&download.path).await?;
        let size = file.metadata().await?.len();
        Ok::<_, std::io::Error>((file, size))
    };
    let (file, size) = match opened.await {
        Ok(opened) => opened,
        Err(error) => {
            let path = download.path.display();
            let text = format!("open stream path '{path}' for reading failed: {error}");
            let mut response = response::plain(500, &text);
            set_reason(&mut response, &text);
            return response;
        }
    };
    let body = BoxBody::new(SizedStream::new(size, pieces(file.take(size)).boxed_local()));
    let mut response = HttpResponse::Ok().body(body);
    response::set_header(&mut response, header::CONTENT_TYPE, &download.content_type);
    if let Some(name) = &download.file_name {
        let name: String = name.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\').collect();
        response::set_header(&mut response, header::CONTENT_DISPOSITION, &format!("attachment; filename=\"{name}\""));
    }
    response
}

/// The pieces of a file. A file that has become shorter ends with an error, so that nobody takes it for whole.
fn pieces(file: Take<tokio::fs::File>) -> impl stream::Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold(file, |mut file| async move {
        if file.limit() == 0 {
            return Ok(None);
        }
        let mut piece = BytesMut::with_capacity(PIECE);
        match file.read_buf(&mut piece).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(Some((piece.freeze(), file))),
        }
    })
}
