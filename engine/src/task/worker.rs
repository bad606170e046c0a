//! The process of a task: how the daemon starts it and what it does.
//!
//! The daemon starts `PROGRAM worker` as the leader of a session of its own, learns its pid, makes the UPID, and sends the
//! job as one line of JSON over standard input. Parameters may hold secrets, so they never stand in the argument vector.

use super::{Upid, abort, journal};
use crate::context::{Caller, Mode};
use crate::process::ProcessId;
use crate::{Call, Context, Error, Result, error::ResultExt, registry};
use contract::Verb;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// What a worker is to do: one verified call.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    verb: String,
    template: String,
    params: Map<String, Value>,
    caller: String,
    node: String,
    upid: String,
    /// The descriptor of a listening socket and a secret that belongs to it.
    handed: Option<(i32, String)>,
}

/// What a worker gets beside its call: a socket that listens already, so that its port can be answered at once, and a
/// secret that must stand in no argument vector.
#[derive(Debug)]
pub struct Handed {
    /// Listens; nobody has connected yet.
    pub listener: TcpListener,
    /// What a client has to know.
    pub secret: String,
}

/// Children that may have ended: the daemon is their parent and must ask for their status.
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Collects workers that have ended.
fn reap() {
    let mut children = CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
}

/// Starts the worker for a call and enters the task into the list.
pub(super) fn start(call: &Call, program: &Path, kind: &str, id: &str, handed: Option<&Handed>) -> Result<Upid> {
    reap();
    let socket = handed.map(|handed| handed.listener.as_raw_fd());
    let mut command = Command::new(program);
    command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: setsid and fcntl are async-signal-safe and touch no memory of ours; the socket is open until after the spawn.
    unsafe {
        command.pre_exec(move || {
            if let Some(socket) = socket
                && libc::fcntl(socket, libc::F_SETFD, 0) < 0
            {
                return Err(std::io::Error::last_os_error());
            }
            rustix::process::setsid().map(drop).map_err(Into::into)
        })
    };
    let mut child = command.spawn().context(|| "unable to start a worker process")?;
    let begin = || -> Result<Upid> {
        let process = ProcessId::of(child.id()).ok_or_else(|| Error::new("worker process ended at once"))?;
        let upid = Upid {
            node: call.ctx.node.clone(),
            process,
            start_time: call.ctx.clock.now(),
            kind: kind.to_owned(),
            id: id.to_owned(),
            user: call.ctx.caller.id().to_owned(),
        };
        journal::begin(call.ctx, &upid)?;
        Ok(upid)
    };
    let started = begin().and_then(|upid| {
        let job = Job {
            verb: call.method.verb.to_string(),
            template: call.method.template.to_owned(),
            params: call.params.to_map(),
            caller: call.ctx.caller.id().to_owned(),
            node: call.ctx.node.clone(),
            upid: upid.to_string(),
            handed: handed.map(|handed| (handed.listener.as_raw_fd(), handed.secret.clone())),
        };
        let text = serde_json::to_vec(&job).expect("a job is plain data");
        let mut pipe = child.stdin.take().expect("standard input is a pipe");
        pipe.write_all(&text).context(|| "unable to send the job to the worker process")?;
        Ok(upid)
    });
    if started.is_err() {
        // It waits for a job that will not come.
        let _ = child.kill();
    }
    CHILDREN.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(child);
    started
}

/// The whole life of a worker process: reads its job from standard input and runs it. `ctx` gives root and host.
///
/// # Errors
/// When there is no readable job. The work's own failure is written to the task log.
pub fn serve(ctx: &Context) -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    if text.is_empty() {
        // The daemon gave up before it sent a job.
        return Ok(());
    }
    let job: Job = serde_json::from_str(&text).map_err(|error| Error::new(format!("unreadable job: {error}")))?;
    let upid: Upid = job.upid.parse().map_err(Error::new)?;
    abort::listen();
    // Nothing may be read from the daemon any more, and what libraries print belongs into the log.
    let log = open_log(ctx, &upid)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    let ctx = Context {
        caller: Caller::verified(job.caller),
        node: job.node,
        mode: Mode::Worker(upid.clone()),
        handed: job.handed.map(take_over).map(Arc::new),
        ..ctx.clone()
    };
    let verb: Verb = job.verb.parse().map_err(|_| Error::new("unreadable job: verb"))?;
    let outcome = registry::run(&ctx, verb, &job.template, job.params);
    if let Err(error) = outcome
        && journal::status_from_log(&ctx, &upid) == "unexpected status"
    {
        // The handler failed before its work began; the work itself writes its own last line.
        let status = error.to_string().trim_end().replace('\n', " ");
        writeln!(&log, "TASK ERROR: {status}")?;
        journal::finish(&ctx, &upid, &status)?;
    }
    Ok(())
}

/// The socket becomes this process's own and is passed on to nobody.
fn take_over((socket, secret): (i32, String)) -> Handed {
    // SAFETY: the daemon left this descriptor open for this process, which takes it once.
    let listener = unsafe { TcpListener::from_raw_fd(socket) };
    // A failure would only mean that programs started here see the socket.
    let _ = rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC);
    Handed { listener, secret }
}

/// The log of a task that the daemon has begun.
pub(super) fn open_log(ctx: &Context, upid: &Upid) -> Result<File> {
    let path = journal::log_path(ctx, upid);
    OpenOptions::new().append(true).open(&path).context(|| format!("unable to open task log '{}'", path.display()))
}
