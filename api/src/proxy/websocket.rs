//! Web sockets: the browser's frames on one side, the bytes of a local endpoint (VNC, terminal) on the other.
//!
//! ```text
//! frames of the client ──> bytes ──> endpoint      (a task of its own)
//! frames to the client <── bytes <── endpoint      (the body of the response)
//! ```
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`websocket_proxy`).

use super::request;
use crate::net::connection::Busy;
use crate::wire::response;
use actix_http::ws::{OpCode, Parser, hash_key};
use actix_web::body::{BodyStream, BoxBody};
use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use engine::{Error, Result, bail};
use futures_util::{StreamExt, stream};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

/// Longer frames of a client are refused.
const MAX_FRAME: usize = 128 * 1024;
/// How much is read from the endpoint for one frame.
const PIECE: usize = 32 * 1024;

/// Whether a request wants to become a web socket.
pub fn is_wanted(request: &HttpRequest) -> bool {
    request.method() == "GET" && request.path().ends_with("websocket") && request.headers().contains_key("upgrade")
}

/// What a client has to say to get a web socket.
pub struct Handshake {
    accept: String,
    protocol: Option<String>,
}

impl Handshake {
    /// Reads the client's headers.
    pub fn of(request: &HttpRequest) -> Result<Self> {
        let text = |name| request::text(request, name);
        let upgrade = text("upgrade").unwrap_or_default().to_ascii_lowercase();
        if upgrade != "websocket" {
            bail!("unable to upgrade to protocol '{upgrade}'");
        }
        let version = text("sec-websocket-version").unwrap_or_default();
        if version != "13" {
            bail!("unsupported websocket-version '{version}'");
        }
        let Some(key) = text("sec-websocket-key") else {
            bail!("missing websocket-key");
        };
        let accept = hash_key(key.as_bytes());
        Ok(Handshake {
            accept: String::from_utf8_lossy(&accept).into_owned(),
            protocol: text("sec-websocket-protocol").map(str::to_owned),
        })
    }
}

/// Anything that bytes go into and come out of.
trait Endpoint: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Endpoint for T {}

/// Joins the client with the endpoint that the daemon has named.
pub async fn join(
    handshake: Handshake,
    endpoint: &str,
    payload: web::Payload,
    busy: Option<Busy>,
) -> Result<HttpResponse> {
    let endpoint = connect(endpoint).await?;
    let (from_endpoint, to_endpoint) = tokio::io::split(endpoint);
    let (control, controls) = mpsc::channel(4);
    let inward = tokio::task::spawn_local(inward(payload, to_endpoint, control));
    let outward = Outward { from_endpoint, controls, _inward: Ended(inward.abort_handle()), _busy: busy };
    let body = stream::try_unfold(outward, |mut outward| async move {
        Ok::<_, io::Error>(outward.next().await?.map(|frame| (frame, outward)))
    });
    let mut response = response::empty(101, "").set_body(BoxBody::new(BodyStream::new(body.boxed_local())));
    response.head_mut().set_connection_type(actix_http::ConnectionType::Upgrade);
    response.head_mut().no_chunking(true);
    response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    response::set_header(&mut response, HeaderName::from_static("sec-websocket-accept"), &handshake.accept);
    if let Some(protocol) = &handshake.protocol {
        response::set_header(&mut response, HeaderName::from_static("sec-websocket-protocol"), protocol);
    }
    Ok(response)
}

async fn connect(endpoint: &str) -> Result<Box<dyn Endpoint>> {
    let failed = |error: io::Error| Error::new(format!("connect to '{endpoint}' failed: {error}"));
    match endpoint.split_once(':') {
        Some(("tcp", port)) => {
            let port: u16 = port.parse().map_err(|_| Error::new(format!("'{port}' is no port")))?;
            let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(failed)?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream))
        }
        Some(("unix", path)) => Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        _ => Err(Error::new(format!("unknown endpoint '{endpoint}'"))),
    }
}

/// Ends a task when the other half is gone.
struct Ended(tokio::task::AbortHandle);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The way to the client.
struct Outward {
    from_endpoint: ReadHalf<Box<dyn Endpoint>>,
    controls: mpsc::Receiver<(OpCode, Bytes)>,
    _inward: Ended,
    _busy: Option<Busy>,
}

impl Outward {
    /// The next frame for the client; none when one of the two sides has ended.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = BytesMut::with_capacity(PIECE);
        let (code, data) = tokio::select! {
            control = self.controls.recv() => match control {
                Some(control) => control,
                None => return Ok(None),
            },
            read = self.from_endpoint.read_buf(&mut piece) => match read? {
                0 => return Ok(None),
                _ => (OpCode::Binary, piece.freeze()),
            },
        };
        let mut frame = BytesMut::with_capacity(data.len() + 16);
        Parser::write_message(&mut frame, &data, code, true, false);
        Ok(Some(frame.freeze()))
    }
}

/// The way to the endpoint. Its end closes `control`, and with it the connection.
async fn inward(
    mut payload: web::Payload,
    mut endpoint: WriteHalf<Box<dyn Endpoint>>,
    control: mpsc::Sender<(OpCode, Bytes)>,
) {
    let mut buffer = BytesMut::new();
    while let Some(Ok(piece)) = payload.next().await {
        buffer.extend_from_slice(&piece);
        loop {
            let answer = match Parser::parse(&mut buffer, true, MAX_FRAME) {
                Ok(None) => break,
                Ok(Some((_, OpCode::Text | OpCode::Binary | OpCode::Continue, data))) => {
                    match endpoint.write_all(&data.unwrap_or_default()).await {
                        Ok(()) => None,
                        Err(_) => return,
                    }
                }
                Ok(Some((_, OpCode::Ping, data))) => Some((OpCode::Pong, data.unwrap_or_default().freeze())),
                Ok(Some((_, OpCode::Pong, _))) => None,
                Ok(Some((_, OpCode::Close, data))) => {
                    let _ = endpoint.shutdown().await;
                    let _ = control.send((OpCode::Close, data.unwrap_or_default().freeze())).await;
                    return;
                }
                Ok(Some((_, OpCode::Bad, _))) | Err(_) => return,
            };
            if let Some(answer) = answer
                && control.send(answer).await.is_err()
            {
                return;
            }
        }
    }
}
