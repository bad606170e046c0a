//! The life of the privileged daemon.

use super::SOCKET;
use super::service::Service;
use crate::net::serve::{Control as Serving, serve};
use crate::process::command::{self, Command};
use crate::process::control::{Control, inherited_listener};
use crate::process::privileges::{self, Account};
use crate::process::signals::{Signals, Stop};
use actix_web::{App, web};
use engine::{Context, Error, Mode, Result, ResultExt};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener as StdListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Requests that are answered at the same time; more wait.
const MAX_THREADS: usize = 64;
/// Connections from the front server.
const MAX_CONNECTIONS: usize = 4096;

/// The program.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("keep") => return engine::qemu::keeper::main(arguments),
        Some(engine::lxc::system_calls::WORD) => return engine::lxc::system_calls::main(),
        _ => {}
    }
    command::main("pvedaemon", &[], run)
}

fn run(line: &command::Line) -> Result<()> {
    if line.command == Command::Authenticate {
        return engine::access::pam::serve();
    }
    privileges::tune();
    let ctx = Context::for_tool()?;
    if line.command == Command::Worker {
        return engine::task::serve(&ctx);
    }
    let program = std::env::current_exe()?;
    let control = Control {
        pid_file: ctx.root.run("pvedaemon.pid"),
        log_file: ctx.root.path("/var/log/pvedaemon.log"),
        program: program.clone(),
    };
    control.obey(line, || daemon(Context { mode: Mode::Daemon { worker: program }, ..ctx }, &control))
}

fn daemon(mut ctx: Context, control: &Control) -> Result<()> {
    engine::node::setup::ensure(&ctx)?;
    let running = control.begin()?;
    let account = privileges::www_data().ok();
    let listener = match inherited_listener() {
        Some(listener) => StdListener::from(listener),
        None => listen(&ctx, account)?,
    };
    listener.set_nonblocking(true)?;
    prepare(&mut ctx)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(MAX_THREADS)
        .thread_keep_alive(Duration::from_secs(10))
        .build()?;
    let socket_file = ctx.root.run(SOCKET);
    // What the next image serves on; nothing after an end for good.
    let kept = tokio::task::LocalSet::new().block_on(&runtime, async {
        let (ending, watcher) = watch::channel(None);
        let serving = Serving { ending: watcher, open: Arc::default(), limit: MAX_CONNECTIONS };
        let socket = UnixListener::from_std(listener.try_clone()?)?;
        let accept = async move || Ok(socket.accept().await?.0);
        let service = Service::new(ctx, serving.clone());
        let application =
            App::new().default_service(web::to(move |request, payload| service.clone().handle(request, payload)));
        let admit = async move |stream: UnixStream| admit(stream, account);
        let served = tokio::task::spawn_local(serve(accept, admit, application, serving));
        let mut signals = Signals::new()?;
        running.ready()?;
        let stop = signals.next().await;
        let kept = (stop == Stop::Restart).then_some(listener);
        if kept.is_none() {
            // From now on the front server waits for the next daemon.
            let _ = std::fs::remove_file(&socket_file);
        }
        ending.send_replace(Some(stop));
        let _ = served.await;
        Ok::<_, Error>(kept)
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    match kept {
        Some(listener) => Err(running.replace(&listener)),
        None => {
            running.end();
            Ok(())
        }
    }
}

/// What has to be there before the first request: keys, certificates, the state in memory.
fn prepare(ctx: &mut Context) -> Result<()> {
    engine::access::keys::ensure(ctx)?;
    engine::node::certificate::ensure(ctx)?;
    ctx.live = Some(engine::live::start(ctx)?);
    engine::node::boot::begin(ctx);
    Ok(())
}

/// Lets the front server in, and root; nobody else.
fn admit(stream: UnixStream, account: Option<Account>) -> Option<(UnixStream, Option<SocketAddr>)> {
    let peer = stream.peer_cred().ok()?.uid();
    let own = rustix::process::geteuid().as_raw();
    let known = peer == 0 || peer == own || account.is_some_and(|account| account.uid == peer);
    known.then_some((stream, None))
}

fn listen(ctx: &Context, account: Option<Account>) -> Result<StdListener> {
    let path = ctx.root.run(SOCKET);
    let place = || format!("unable to listen on '{}'", path.display());
    // The pid file's lock says that no other daemon uses it.
    let _ = std::fs::remove_file(&path);
    let listener = StdListener::bind(&path).context(place)?;
    let account = account.unwrap_or(Account { uid: 0, gid: 0 });
    privileges::give(&path, 0, account.gid, 0o660).context(place)?;
    Ok(listener)
}
