//! The way to the privileged daemon: HTTP over its Unix socket, with a few connections kept for the next request.
//!
//! A request that could not be sent, or that the daemon closed its connection upon without having read it, is tried again
//! for a while, so that a restart of the daemon is not noticed. A request that may have been carried out is repeated only
//! if it changes nothing.

use bytes::Bytes;
use engine::Error;
use futures_util::{Stream, stream};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;

/// Connections kept without a request, per thread.
const KEPT: usize = 8;
/// How long one is kept; the daemon keeps them longer.
const KEEP: Duration = Duration::from_secs(15);
/// How long an absent daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(180);

type Sender = SendRequest<Full<Bytes>>;

/// The daemon's socket and the connections to it. One per thread.
pub struct Upstream {
    socket: PathBuf,
    idle: RefCell<Vec<(Sender, Instant)>>,
}

/// An answer of the daemon. Its connection goes back when the body has been read to the end.
pub struct Answered {
    /// Status and headers.
    pub head: hyper::http::response::Parts,
    body: Incoming,
    sender: Sender,
    upstream: Rc<Upstream>,
}

impl Upstream {
    /// The daemon behind a socket.
    pub fn new(socket: PathBuf) -> Rc<Self> {
        Rc::new(Upstream { socket, idle: RefCell::default() })
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// 595 when the daemon is not there, 596 when it went away or takes too long.
    pub async fn send(self: &Rc<Self>, request: Request<Full<Bytes>>) -> Result<Answered, Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut request = request;
        loop {
            let mut sender = match self.kept() {
                Some(sender) => sender,
                None => self.connect(deadline).await?,
            };
            let again = request.clone();
            let answer = tokio::time::timeout(ANSWER, sender.try_send_request(request)).await;
            let answer = answer.map_err(|_| Error::Unreachable(596, "Connection timed out".into()))?;
            let mut error = match answer {
                Ok(answer) => return Ok(self.answered(answer, sender)),
                Err(error) => error,
            };
            let unsent = error.take_message().is_some();
            let error = error.into_error();
            if !(unsent || again.method() == hyper::Method::GET || is_unread(&error)) || Instant::now() >= deadline {
                return Err(Error::Unreachable(596, format!("Broken pipe ({error})")));
            }
            request = again;
        }
    }

    fn answered(self: &Rc<Self>, answer: Response<Incoming>, sender: Sender) -> Answered {
        let (head, body) = answer.into_parts();
        Answered { head, body, sender, upstream: Rc::clone(self) }
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        while let Some((sender, since)) = idle.pop() {
            if since.elapsed() < KEEP && sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    async fn connect(&self, deadline: Instant) -> Result<Sender, Error> {
        loop {
            match UnixStream::connect(&self.socket).await {
                Ok(stream) => {
                    let shaken = handshake(TokioIo::new(stream)).await;
                    let (sender, connection) = shaken.map_err(|error| Error::Unreachable(595, error.to_string()))?;
                    tokio::task::spawn_local(connection);
                    return Ok(sender);
                }
                Err(error) if Instant::now() > deadline => {
                    // A socket file that is missing means the same as one without a daemon behind it.
                    let text = match error.kind() {
                        std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                            "Connection refused".into()
                        }
                        _ => error.to_string(),
                    };
                    return Err(Error::Unreachable(595, text));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn keep(&self, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < KEPT && !sender.is_closed() {
            idle.push((sender, Instant::now()));
        }
    }
}

/// Whether the daemon went away without having read the whole request, which it therefore did not carry out: a Unix socket
/// refuses what is written after the other end was closed, and is reset if that end was closed with something unread in it.
fn is_unread(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    cause.is_some_and(|cause| {
        matches!(cause.kind(), std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset)
    })
}

impl Answered {
    /// A header's text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The length of the body, if the daemon knew it.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length").and_then(|text| text.parse().ok())
    }

    /// The whole body.
    pub async fn collect(self) -> Result<Bytes, Error> {
        let Answered { body, mut sender, upstream, .. } = self;
        let whole = body.collect().await.map_err(|error| Error::Unreachable(597, error.to_string()))?.to_bytes();
        // The other end of the connection learns in a moment that the body is over.
        tokio::task::spawn_local(async move {
            if sender.ready().await.is_ok() {
                upstream.keep(sender);
            }
        });
        Ok(whole)
    }

    /// The body piece by piece.
    pub fn stream(self) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
        // The sender has to live as long as the body, or the connection would be closed.
        stream::try_unfold((self.body, self.sender), |(mut body, sender)| async move {
            loop {
                match body.frame().await {
                    None => return Ok(None),
                    Some(Err(error)) => return Err(std::io::Error::other(error)),
                    Some(Ok(frame)) => {
                        if let Ok(piece) = frame.into_data() {
                            return Ok(Some((piece, (body, sender))));
                        }
                    }
                }
            }
        })
    }
}
