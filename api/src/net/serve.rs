//! Accepting connections and serving HTTP/1.1 on them, on one thread, until told to end.
//!
//! ```text
//! accept ──> prepare (access rule, TLS) ──> watched connection ──> HTTP/1.1 ──> actix-web application
//! end:     who waits in the socket's queue is accepted, the socket closed; answers under way are finished, idle
//!          connections closed
//! restart: the same, but the queue is left to the next image of the program, which keeps the socket
//! handed over: the same, but the next image accepts already, and answers under way take as long as they take
//! ```

use super::connection::{Watch, Watched};
use crate::process::control::END;
use crate::process::signals::Stop;
use actix_http::{HttpService, Request};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, map_config};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often a connection is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// The same while the server ends.
const LOOK_ENDING: Duration = Duration::from_millis(50);
/// Nobody waits in the socket's queue if none comes out of it for this time.
const QUEUE: Duration = Duration::from_millis(2);
/// A queue that clients still find, because it has an address that outlives the server, is left after this time.
const LAST_CALL: Duration = Duration::from_millis(100);

/// What all threads of a server share.
#[derive(Clone)]
pub struct Control {
    /// Becomes the reason when the server is to end. For an end for good the socket's name is gone by then, and the copies
    /// of the socket outside of [`serve`] are closed.
    pub ending: watch::Receiver<Option<Stop>>,
    /// Connections now open.
    pub open: Arc<AtomicUsize>,
    /// Connections that may be open at once; more are closed at once.
    pub limit: usize,
}

impl Control {
    /// Whether connections should be given back instead of being kept alive.
    pub fn is_crowded(&self) -> bool {
        self.ending.borrow().is_some() || self.open.load(Ordering::Relaxed) * 4 > self.limit * 3
    }
}

/// Counts an open connection as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Open {
    fn new(control: &Control) -> Option<Self> {
        let before = control.open.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&control.open));
        (before < control.limit).then_some(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves until told to end, then until the last answer is finished. Runs inside a `LocalSet`.
pub async fn serve<Raw, Stream, Accept, Prepare, Application, Factory>(
    accept: Accept,
    prepare: Prepare,
    application: Application,
    control: Control,
) where
    Raw: 'static,
    Stream: AsyncRead + AsyncWrite + Unpin + 'static,
    Accept: AsyncFn() -> io::Result<Raw>,
    Prepare: AsyncFn(Raw) -> Option<(Stream, Option<SocketAddr>)> + 'static,
    Application: IntoServiceFactory<Factory, Request>,
    Factory: ServiceFactory<
            Request,
            Config = AppConfig,
            Response = ServiceResponse<BoxBody>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
{
    let http = HttpService::build()
        .keep_alive(actix_http::KeepAlive::Os)
        .client_request_timeout(super::connection::HEAD)
        .client_disconnect_timeout(Duration::from_secs(3))
        .on_connect_ext(|stream: &Watched<Stream>, data| stream.share(data))
        .h1::<_, BoxBody>(map_config(application.into_factory(), |()| AppConfig::default()));
    let http = Rc::new(http.new_service(()).await.expect("the application has nothing that can fail to start"));
    let prepare = Rc::new(prepare);
    let mut connections = JoinSet::new();
    let mut ending = control.ending.clone();
    let begin = |raw, connections: &mut JoinSet<()>| {
        let Some(open) = Open::new(&control) else {
            return;
        };
        let (http, prepare, ending) = (Rc::clone(&http), Rc::clone(&prepare), control.ending.clone());
        connections.spawn_local(async move {
            let _open = open;
            let Some((stream, peer)) = prepare(raw).await else {
                return;
            };
            let stream = Watched::new(stream);
            let watch = stream.watch();
            attend(http.call((stream, peer)), &watch, ending).await;
        });
    };
    let stop = loop {
        let raw = tokio::select! {
            biased;
            stop = ending.wait_for(Option::is_some) => break stop.ok().and_then(|stop| *stop),
            Some(_) = connections.join_next() => continue,
            raw = accept() => raw,
        };
        match raw {
            Ok(raw) => begin(raw, &mut connections),
            // Out of descriptors, or a client that is gone already.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    if stop == Some(Stop::End) {
        // Who was let into the queue would see a reset connection when the socket is closed.
        let last_call = Instant::now() + LAST_CALL;
        while let Ok(Ok(raw)) = tokio::time::timeout(QUEUE, accept()).await {
            begin(raw, &mut connections);
            if Instant::now() > last_call {
                break;
            }
        }
    }
    drop(accept);
    let finished = async { while connections.join_next().await.is_some() {} };
    if stop == Some(Stop::HandedOver) {
        finished.await;
    } else {
        let _ = tokio::time::timeout(END, finished).await;
    }
}

/// Serves a connection as long as it is worth it.
async fn attend(connection: impl Future, watch: &Watch, ending: watch::Receiver<Option<Stop>>) {
    let mut connection = std::pin::pin!(connection);
    let is_ending = || ending.borrow().is_some();
    loop {
        let look = if is_ending() { LOOK_ENDING } else { LOOK };
        let mut ended = ending.clone();
        tokio::select! {
            _ = &mut connection => return,
            () = tokio::time::sleep(look) => {}
            _ = ended.wait_for(Option::is_some), if !is_ending() => {}
        }
        if watch.is_over(is_ending()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::response;
    use actix_web::{App, HttpRequest, web};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};

    /// Serves one connection with an application that makes an error out of each path.
    fn start() -> (DuplexStream, watch::Sender<Option<Stop>>, tokio::task::JoinHandle<()>) {
        let (client, server) = duplex(64 * 1024);
        let (ending, watcher) = watch::channel(None);
        let control = Control { ending: watcher, open: Arc::default(), limit: 10 };
        let server = std::cell::RefCell::new(Some(server));
        let accept = async move || {
            let next = server.borrow_mut().take();
            match next {
                Some(stream) => Ok(stream),
                None => std::future::pending().await,
            }
        };
        let answer = |request: HttpRequest| async move {
            let _answering = request.conn_data::<Rc<Watch>>().map(Watch::begin);
            response::empty(500, request.path())
        };
        let application = App::new().default_service(web::to(answer));
        let served = serve(accept, async |stream| Some((stream, None)), application, control);
        (client, ending, tokio::task::spawn_local(served))
    }

    fn resident() -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    #[test]
    fn ten_thousand_reason_phrases_leave_nothing_behind() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let (client, ending, served) = start();
            let mut client = BufReader::new(client);
            let (mut line, mut before) = (String::new(), 0);
            for number in 0..10_000 {
                if number == 2_000 {
                    before = resident();
                }
                let text = format!("/{number}{}", "x".repeat(2000));
                client.write_all(format!("GET {text} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
                line.clear();
                client.read_line(&mut line).await.unwrap();
                assert_eq!(line, format!("HTTP/1.1 500 {text}\r\n"));
                while line != "\r\n" {
                    line.clear();
                    client.read_line(&mut line).await.unwrap();
                }
            }
            // 8,000 texts of 2,000 bytes would be 16 MB.
            let grown = resident().saturating_sub(before);
            assert!(grown < 4_000, "grown by {grown} KiB");
            ending.send_replace(Some(Stop::End));
            tokio::time::timeout(Duration::from_secs(10), served).await.unwrap().unwrap();
        });
    }
}
