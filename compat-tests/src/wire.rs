//! Connections for tests of load and of bad manners: failures are values here, TLS sessions are resumed, any byte may be
//! sent and any moment chosen to leave.

use crate::client::{Reply, try_read_reply};
use openssl::ssl::{ShutdownState, Ssl, SslContext, SslMethod, SslSession, SslSessionCacheMode, SslStream, SslVersion};
use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A TLS connection with a buffer for what was read too far.
pub type Wire = BufReader<SslStream<TcpStream>>;

/// Opens connections to a port on loopback. Threads share one by cloning it.
#[derive(Clone)]
pub struct Dialer {
    port: u16,
    context: SslContext,
    session: Arc<Mutex<Option<SslSession>>>,
}

impl Dialer {
    /// A client that offers everything between two protocol versions.
    pub fn between(port: u16, lowest: SslVersion, highest: SslVersion) -> Self {
        let session = Arc::new(Mutex::new(None));
        let mut builder = SslContext::builder(SslMethod::tls_client()).expect("TLS client");
        // Versions below 1.2 are refused by the library itself on a higher level.
        builder.set_security_level(0);
        builder.set_min_proto_version(Some(lowest)).expect("a version");
        builder.set_max_proto_version(Some(highest)).expect("a version");
        builder.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let kept = Arc::clone(&session);
        builder.set_new_session_callback(move |_, session| *kept.lock().expect("nobody panicked") = Some(session));
        Dialer { port, context: builder.build(), session }
    }

    /// A client that speaks TLS 1.3 and comes back with the ticket of its last connection, which makes it much cheaper.
    pub fn new(port: u16) -> Self {
        Dialer::between(port, SslVersion::TLS1_3, SslVersion::TLS1_3)
    }

    /// A TCP connection.
    ///
    /// # Errors
    /// When it is refused.
    pub fn tcp(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(90)))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// A TLS connection.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(&self) -> io::Result<Wire> {
        self.shake(self.tcp()?)
    }

    /// Makes a connection a TLS one.
    ///
    /// # Errors
    /// When the server does not go along.
    pub fn shake(&self, stream: TcpStream) -> io::Result<Wire> {
        let mut tls = Ssl::new(&self.context)?;
        if let Some(session) = &*self.session.lock().expect("nobody panicked") {
            // SAFETY: the session was made by connections of this very context, which lives as long as the dialer.
            unsafe { tls.set_session(session)? };
        }
        Ok(BufReader::new(tls.connect(stream).map_err(io::Error::other)?))
    }

    /// One request on a connection of its own.
    ///
    /// # Errors
    /// When there is no whole answer.
    pub fn once(&self, request: &[u8]) -> io::Result<Reply> {
        let mut wire = self.open()?;
        let reply = ask(&mut wire, request);
        // Without this the library takes the connection for broken and forgets the ticket that came with it.
        wire.get_mut().set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
        reply
    }
}

/// Sends a request and reads its answer.
///
/// # Errors
/// When there is no whole answer.
pub fn ask(wire: &mut Wire, request: &[u8]) -> io::Result<Reply> {
    // Who is refused early cannot send everything, but the answer is there.
    let sent = wire.get_mut().write_all(request);
    try_read_reply(wire).map_err(|error| sent.err().unwrap_or(error))
}

/// Reads until the other end closes; gives back what came. A reset counts as the end, silence as an error.
///
/// # Errors
/// When nothing comes for the time that the connection waits.
pub fn read_to_end(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Err(error),
        _ => Ok(text),
    }
}
