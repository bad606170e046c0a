//! The life of the front server.

use super::access_log::AccessLog;
use super::front::Front;
use super::upstream::Upstream;
use super::{openapi, plain};
use crate::daemon::SOCKET;
use crate::identity::Identities;
use crate::net::listen::listener;
use crate::net::serve::{Control as Serving, serve};
use crate::net::settings::Settings;
use crate::net::tls::Certificates;
use crate::process::command;
use crate::process::control::Control;
use crate::process::ending::Ending;
use crate::process::privileges;
use actix_web::{App, web};
use engine::{Context, Result, ResultExt};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_openssl::SslStream;

/// Connections that may be open at once.
const MAX_CONNECTIONS: usize = 4096;
/// The first byte and the TLS handshake have to come within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The program.
pub fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(openapi::ARGUMENT) {
        return if openapi::print().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    command::main("pveproxy", &["listen", "port"], |line| {
        privileges::tune();
        let ctx = Context::for_tool()?;
        let control = Control {
            pid_file: ctx.root.run("pveproxy/pveproxy.pid"),
            log_file: ctx.root.path("/var/log/pveproxy/pveproxy.log"),
            program: std::env::current_exe()?,
        };
        control.obey(line, || server(&ctx, &control, line))
    })
}

fn server(ctx: &Context, control: &Control, line: &command::Line) -> Result<()> {
    let settings = Settings::of_node(ctx)?;
    if privileges::is_root() {
        prepare(ctx)?;
    }
    let running = control.begin()?;
    let port = std::env::var("PVEPROXY_PORT");
    let listener = listener(line, &settings, port.as_deref().unwrap_or("8006"))?;
    if privileges::is_root() {
        privileges::drop_to(privileges::www_data()?)?;
    }
    let certificates = Arc::new(Certificates::load(ctx, &settings)?);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.min(settings.max_workers.unwrap_or(2));
    let (ending, watcher) = watch::channel(None);
    let shared = Shared {
        ctx: Arc::new(ctx.clone()),
        identities: Arc::default(),
        settings: Arc::new(settings),
        log: Arc::new(AccessLog::new(ctx.root.path("/var/log/pveproxy/access.log"))),
        certificates,
        serving: Serving { ending: watcher, open: Arc::default(), limit: MAX_CONNECTIONS },
        program: Arc::new(control.program.clone()),
    };
    let more: Vec<_> = (1..threads)
        .map(|_| {
            let (shared, listener) = (shared.clone(), listener.try_clone()?);
            std::thread::Builder::new().name("front".into()).spawn(move || thread(shared, listener, async { Ok(()) }))
        })
        .collect::<std::io::Result<_>>()?;
    // What is left to be done when the last answer is finished.
    let ended = thread(shared, listener.try_clone()?, async {
        let (stop, ended) = Ending::wait(running, listener).await?;
        ending.send_replace(Some(stop));
        Ok(ended)
    })?;
    for thread in more {
        let _ = thread.join();
    }
    ended.finish()
}

/// What all threads use.
#[derive(Clone)]
struct Shared {
    ctx: Arc<Context>,
    identities: Arc<Identities>,
    settings: Arc<Settings>,
    log: Arc<AccessLog>,
    certificates: Arc<Certificates>,
    serving: Serving,
    program: Arc<PathBuf>,
}

/// Serves on one thread until the end; `beside` runs along and is waited for.
fn thread<T>(shared: Shared, listener: StdListener, beside: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::from_std(listener)?;
        let accept = async move || Ok(listener.accept().await?.0);
        let front = Front {
            upstream: Upstream::new(shared.ctx.root.run(SOCKET)),
            ctx: shared.ctx,
            identities: shared.identities,
            settings: Arc::clone(&shared.settings),
            log: shared.log,
            control: shared.serving.clone(),
            program: shared.program,
        };
        let application =
            App::new().default_service(web::to(move |request, payload| front.clone().handle(request, payload)));
        let (settings, certificates) = (shared.settings, shared.certificates);
        let prepare = async move |stream: TcpStream| {
            let encrypted = encrypt(stream, &settings, &certificates);
            tokio::time::timeout(HANDSHAKE, encrypted).await.ok().flatten()
        };
        let served = tokio::task::spawn_local(serve(accept, prepare, application, shared.serving));
        let outcome = beside.await;
        let _ = served.await;
        outcome
    })
}

/// Admits a client and makes its connection a TLS one. Plain HTTP is redirected.
async fn encrypt(
    mut stream: TcpStream,
    settings: &Settings,
    certificates: &Certificates,
) -> Option<(SslStream<TcpStream>, Option<SocketAddr>)> {
    let peer = stream.peer_addr().ok()?;
    if !settings.access.admits(peer.ip()) {
        return None;
    }
    stream.set_nodelay(true).ok()?;
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 0 {
        return None;
    }
    // The first byte of a TLS connection is the type of its handshake record.
    if first != [0x16] {
        let _ = plain::redirect(&mut stream).await;
        return None;
    }
    let mut stream = SslStream::new(certificates.accept().ok()?, stream).ok()?;
    std::pin::Pin::new(&mut stream).accept().await.ok()?;
    Some((stream, Some(peer)))
}

/// What only root can do: certificate, directories that belong to the front server.
pub(crate) fn prepare(ctx: &Context) -> Result<()> {
    engine::node::setup::ensure(ctx)?;
    engine::node::certificate::ensure(ctx)?;
    let account = privileges::www_data()?;
    for name in ["/var/log/pveproxy", "/run/pveproxy"] {
        let path = ctx.root.path(name);
        std::fs::create_dir_all(&path).context(|| format!("unable to create '{}'", path.display()))?;
        privileges::give(&path, account.uid, account.gid, 0o750)?;
    }
    Ok(())
}
