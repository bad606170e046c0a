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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::serve::{Control, serve};
    use actix_web::App;
    use tokio::io::duplex;
    use tokio::net::TcpListener;
    use tokio::sync::watch;

    const HEAD: &str = "GET /x/vncwebsocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: binary\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    /// A masked frame, as clients send them.
    fn frame(code: OpCode, data: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        Parser::write_message(&mut frame, data, code, true, true);
        frame
    }

    async fn next(client: &mut (impl AsyncRead + Unpin), buffer: &mut BytesMut) -> Option<(OpCode, Vec<u8>)> {
        loop {
            if let Some((_, code, data)) = Parser::parse(buffer, false, MAX_FRAME).unwrap() {
                return Some((code, data.unwrap_or_default().to_vec()));
            }
            if client.read_buf(buffer).await.unwrap() == 0 {
                return None;
            }
        }
    }

    /// A client, a web socket, and behind it a port that sends everything back.
    #[test]
    fn bytes_go_both_ways_and_the_end_is_passed_on() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let endpoint = format!("tcp:{}", listener.local_addr().unwrap().port());
            let echo = tokio::task::spawn_local(async move {
                let (stream, _) = listener.accept().await.unwrap();
                let (mut read, mut write) = tokio::io::split(stream);
                tokio::io::copy(&mut read, &mut write).await.unwrap()
            });
            let (mut client, server) = duplex(1024);
            let (_ending, watcher) = watch::channel(None);
            let control = Control { ending: watcher, open: std::sync::Arc::default(), limit: 10 };
            let server = std::cell::Cell::new(Some(server));
            let accept = async move || match server.take() {
                Some(stream) => Ok(stream),
                None => std::future::pending().await,
            };
            let application =
                App::new().default_service(web::to(move |request: HttpRequest, payload: web::Payload| {
                    let endpoint = endpoint.clone();
                    async move {
                        assert!(is_wanted(&request));
                        join(Handshake::of(&request).unwrap(), &endpoint, payload, None).await.unwrap()
                    }
                }));
            tokio::task::spawn_local(serve(accept, async |stream| Some((stream, None)), application, control));

            client.write_all(HEAD.as_bytes()).await.unwrap();
            let mut buffer = BytesMut::new();
            let head = loop {
                if let Some(at) = memchr::memmem::find(&buffer, b"\r\n\r\n") {
                    break String::from_utf8(buffer.split_to(at + 4).to_vec()).unwrap().to_ascii_lowercase();
                }
                assert_ne!(client.read_buf(&mut buffer).await.unwrap(), 0);
            };
            assert!(head.starts_with("http/1.1 101 switching protocols\r\n"), "{head}");
            for line in ["upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: binary"] {
                assert!(head.contains(&format!("\r\n{line}\r\n")), "{line} in {head}");
            }
            // The example of RFC 6455.
            assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
            assert!(!head.contains("transfer-encoding"), "{head}");

            client.write_all(&frame(OpCode::Ping, b"are you there")).await.unwrap();
            assert_eq!(next(&mut client, &mut buffer).await, Some((OpCode::Pong, b"are you there".to_vec())));
            let long: Vec<u8> = (0..100_000_u32).map(|number| (number % 256) as u8).collect();
            let (mut reader, mut writer) = tokio::io::split(client);
            let sent = frame(OpCode::Binary, &long);
            let sending = tokio::task::spawn_local(async move {
                writer.write_all(&sent).await.unwrap();
                writer.write_all(&frame(OpCode::Text, b"end")).await.unwrap();
                writer
            });
            let mut back = Vec::new();
            while !back.ends_with(b"end") {
                let (code, data) = next(&mut reader, &mut buffer).await.unwrap();
                assert_eq!(code, OpCode::Binary);
                back.extend(data);
            }
            assert_eq!(back[..long.len()], long);
            let mut writer = sending.await.unwrap();
            writer.write_all(&frame(OpCode::Close, &1000_u16.to_be_bytes())).await.unwrap();
            let last = next(&mut reader, &mut buffer).await;
            assert!(matches!(last, None | Some((OpCode::Close, _))), "{last:?}");
            // The endpoint learns of the end, too.
            let copied = tokio::time::timeout(std::time::Duration::from_secs(10), echo).await.unwrap().unwrap();
            assert_eq!(copied, long.len() as u64 + 3);
        });
    }
}
