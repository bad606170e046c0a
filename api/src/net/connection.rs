//! A connection with an eye on it: when it last moved, whether a request is being answered, whether its client reads.
//!
//! The HTTP machine below limits only the head of a connection's first request. Everything else that a slow or silent
//! client could hold for ever is limited here.

use super::malformed;
use actix_http::Extensions;
use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection without a request is closed after this time.
pub const IDLE: Duration = Duration::from_secs(30);
/// A request's head has to be complete after this time.
pub const HEAD: Duration = Duration::from_secs(15);
/// A client that does not read its answer is given up after this time.
pub const STALLED: Duration = Duration::from_secs(120);
/// While the server ends, a connection without a request is closed after this time.
const ENDING: Duration = Duration::from_millis(100);

/// What is known of a connection.
#[derive(Debug)]
pub struct Watch {
    busy: Cell<u32>,
    moved: Cell<Instant>,
    head_since: Cell<Option<Instant>>,
    blocked_since: Cell<Option<Instant>>,
    /// What has come since the last request, as long as it is none.
    head: RefCell<Vec<u8>>,
}

/// A request is being answered as long as this lives.
#[derive(Debug)]
pub struct Busy(Rc<Watch>);

impl Watch {
    fn new() -> Self {
        Watch {
            busy: Cell::new(0),
            moved: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            blocked_since: Cell::new(None),
            head: RefCell::default(),
        }
    }

    /// Marks a request as being answered.
    pub fn begin(self: &Rc<Self>) -> Busy {
        self.busy.set(self.busy.get() + 1);
        self.head_since.set(None);
        self.head.borrow_mut().clear();
        Busy(Rc::clone(self))
    }

    /// Whether the connection is to be given up.
    pub fn is_over(&self, ending: bool) -> bool {
        let longer = |since: Option<Instant>, limit| since.is_some_and(|since: Instant| since.elapsed() > limit);
        if longer(self.blocked_since.get(), STALLED) {
            return true;
        }
        if self.busy.get() > 0 {
            return false;
        }
        let idle = if ending && self.blocked_since.get().is_none() { ENDING } else { IDLE };
        longer(self.head_since.get(), HEAD) || self.moved.get().elapsed() > idle
    }

    fn read(&self, bytes: &[u8]) {
        let now = Instant::now();
        self.moved.set(now);
        if self.busy.get() > 0 {
            return;
        }
        if self.head_since.get().is_none() {
            self.head_since.set(Some(now));
        }
        let mut head = self.head.borrow_mut();
        let room = malformed::KEPT.saturating_sub(head.len());
        head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// What is sent instead, if these bytes refuse what could not be read as a request.
    fn refusal(&self, answer: &[u8]) -> Option<Vec<u8>> {
        let unread = self.busy.get() == 0 && self.head_since.get().is_some();
        (unread && malformed::is_refusal(answer))
            .then(|| malformed::answer(&self.head.borrow(), std::time::SystemTime::now()))
    }

    fn wrote(&self, ready: bool) {
        match (ready, self.blocked_since.get()) {
            (true, _) => {
                self.moved.set(Instant::now());
                self.blocked_since.set(None);
            }
            (false, None) => self.blocked_since.set(Some(Instant::now())),
            (false, Some(_)) => {}
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.set(self.0.busy.get() - 1);
        self.0.moved.set(Instant::now());
    }
}

/// A stream that is watched.
#[derive(Debug)]
pub struct Watched<T> {
    stream: T,
    watch: Rc<Watch>,
    /// A refusal that is on its way instead of the machine's own, and how much of it has been written.
    refusal: Option<(Vec<u8>, usize)>,
}

impl<T> Watched<T> {
    /// Watches a stream.
    pub fn new(stream: T) -> Self {
        Watched { stream, watch: Rc::new(Watch::new()), refusal: None }
    }

    /// What is known of it.
    pub fn watch(&self) -> Rc<Watch> {
        Rc::clone(&self.watch)
    }

    /// Puts the watch where requests find it.
    pub fn share(&self, data: &mut Extensions) {
        data.insert(self.watch());
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.watch.read(&buf.filled()[before..]);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.refusal.is_none() {
            this.refusal = this.watch.refusal(buf).map(|text| (text, 0));
        }
        let polled = match &mut this.refusal {
            None => Pin::new(&mut this.stream).poll_write(cx, buf),
            // The machine is told that its own text went out when all of the other one did.
            Some((text, written)) => loop {
                match Pin::new(&mut this.stream).poll_write(cx, &text[*written..]) {
                    Poll::Ready(Ok(more)) if more > 0 && *written + more < text.len() => *written += more,
                    Poll::Ready(Ok(more)) if more > 0 => break Poll::Ready(Ok(buf.len())),
                    Poll::Ready(Ok(_)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    other => break other,
                }
            },
        };
        if polled.is_ready() {
            this.refusal = None;
        }
        this.watch.wrote(polled.is_ready());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn idle_slow_and_stalled_connections_are_over() {
        let watch = Rc::new(Watch::new());
        assert!(!watch.is_over(false));
        watch.moved.set(ago(IDLE * 2));
        assert!(watch.is_over(false));
        let busy = watch.begin();
        assert!(!watch.is_over(true));
        drop(busy);
        assert!(!watch.is_over(false));
        watch.read(b"GET");
        watch.head_since.set(Some(ago(HEAD * 2)));
        watch.read(b"GET");
        assert!(watch.is_over(false), "a trickle does not help");
        let _busy = watch.begin();
        assert!(!watch.is_over(false));
        watch.blocked_since.set(Some(ago(STALLED * 2)));
        assert!(watch.is_over(false));
        watch.wrote(true);
        assert!(!watch.is_over(false));
    }

    #[test]
    fn ending_closes_idle_connections_soon() {
        let watch = Rc::new(Watch::new());
        watch.moved.set(ago(Duration::from_secs(1)));
        assert!(!watch.is_over(false) && watch.is_over(true));
    }
}
