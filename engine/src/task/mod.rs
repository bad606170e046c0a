//! Tasks: long work with a unique id, a log and a final status.
//!
//! ```text
//! handler ── Call::task ──> daemon:  start `PROGRAM worker`, send it the job, answer the UPID
//!                           worker:  run the work here (the same handler, called again in the new process)
//!                           tools:   run the work here, log to the terminal as well
//! ```
//!
//! A worker is a process of its own: its pid is the one in the UPID, it survives the daemons, and it can be stopped alone.
//! A handler must only read before it calls [`Call::task`], because the part before runs twice: once in the daemon, so
//! that wrong input is refused at once, and once in the worker.

pub mod abort;
pub mod handlers;
pub mod journal;
mod stop;
mod upid;
mod worker;

pub use stop::overrule;
pub use upid::Upid;
pub use worker::{Handed, Job, serve};

use crate::command::{self, Stream};
use crate::context::Mode;
use crate::lock::{self, QueueLock};
use crate::{Call, Context, Error, Reply, Result};
use serde_json::Value;
use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;

/// The view that work has of its task.
pub struct Task<'a> {
    /// Node, caller and mode.
    pub ctx: &'a Context,
    /// The task's id.
    pub upid: Upid,
    log: RefCell<File>,
    warnings: Cell<u32>,
}

impl Call<'_> {
    /// Runs `work` as a task and answers its UPID. `id` is what it works on, often the guest's number.
    ///
    /// # Errors
    /// In a tool: what the work failed with. In the daemon only what kept the task from starting.
    pub fn task(&self, kind: &str, id: impl ToString, work: impl FnOnce(&Task) -> Result<()>) -> Result<Reply> {
        self.task_with(kind, id, None, work).map(|upid| Reply::from(Value::String(upid.to_string())))
    }

    /// As [`Call::task`], with something that the worker finds in its context.
    pub fn task_with(
        &self,
        kind: &str,
        id: impl ToString,
        handed: Option<&Handed>,
        work: impl FnOnce(&Task) -> Result<()>,
    ) -> Result<Upid> {
        Ok(match &self.ctx.mode {
            Mode::Daemon { worker } => worker::start(self, worker, kind, &id.to_string(), handed)?,
            Mode::Worker(upid) => {
                let log = worker::open_log(self.ctx, upid)?;
                Task::run(self.ctx, upid.clone(), log, work)?;
                upid.clone()
            }
            Mode::Foreground => {
                let upid = Upid::own(self.ctx, kind, id);
                abort::listen();
                let log = journal::begin(self.ctx, &upid)?;
                Task::run(self.ctx, upid.clone(), log, work)?;
                upid
            }
        })
    }
}

impl<'a> Task<'a> {
    /// Runs work that nobody has asked for and that usually is of no interest: it is not in the list and has no log.
    pub fn aside(
        ctx: &'a Context,
        kind: &str,
        id: impl ToString,
        work: impl FnOnce(&Task) -> Result<()>,
    ) -> Result<()> {
        let log = File::options().write(true).open("/dev/null")?;
        work(&Task { ctx, upid: Upid::own(ctx, kind, id), log: RefCell::new(log), warnings: Cell::new(0) })
    }

    /// Runs work here, as a task in the list.
    pub fn listed(
        ctx: &'a Context,
        kind: &str,
        id: impl ToString,
        work: impl FnOnce(&Task) -> Result<()>,
    ) -> Result<()> {
        let upid = Upid::own(ctx, kind, id);
        let log = journal::begin(ctx, &upid)?;
        Task::run(ctx, upid, log, work)
    }

    /// Runs the work, writes the final line, enters the end into the index.
    fn run(ctx: &'a Context, upid: Upid, log: File, work: impl FnOnce(&Task) -> Result<()>) -> Result<()> {
        let task = Task { ctx, upid, log: RefCell::new(log), warnings: Cell::new(0) };
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&task)))
            .unwrap_or_else(|panic| Err(Error::new(panic_text(&*panic))));
        let warnings = task.warnings.get();
        let status = match &outcome {
            Ok(()) if warnings > 0 => format!("WARNINGS: {warnings}"),
            Ok(()) => "OK".to_owned(),
            Err(error) => error.to_string().trim_end().replace('\n', " "),
        };
        let last = if outcome.is_ok() { format!("TASK {status}") } else { format!("TASK ERROR: {status}") };
        task.write(&last, false);
        if matches!(ctx.mode, Mode::Foreground) && warnings > 0 && outcome.is_ok() {
            // (PVE: RESTEnvironment.pm, tee_worker)
            let _ = writeln!(std::io::stderr(), "Task finished with {warnings} warning(s)!");
        }
        journal::finish(ctx, &task.upid, &status)?;
        outcome
    }

    /// Writes a line into the log; tools show it as well.
    pub fn log(&self, line: impl AsRef<str>) {
        self.write(line.as_ref(), matches!(self.ctx.mode, Mode::Foreground));
    }

    /// Writes a warning; the task will end with `WARNINGS: N`.
    pub fn warn(&self, text: impl AsRef<str>) {
        self.warnings.set(self.warnings.get() + 1);
        self.log(format!("WARN: {}", text.as_ref()));
    }

    /// Fails once the task has been told to stop.
    pub fn check_abort(&self) -> Result<()> {
        abort::check()
    }

    /// Waits for a queue lock; the log says behind whom.
    pub fn lock(&self, name: &str) -> Result<QueueLock> {
        lock::acquire(self.ctx, name, &self.upid.to_string(), |holder| {
            self.log(format!("waiting for lock '{name}', held by {holder}"));
        })
    }

    /// Runs a program of the host; each line that it prints goes into the log.
    pub fn command<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<()> {
        command::run_lines(program, arguments, |_: Stream, line| self.log(line))
    }

    fn write(&self, line: &str, show: bool) {
        // A log on a full disk must not stop the work; the status is also kept in the index.
        let _ = self.log.borrow_mut().write_all(format!("{}\n", line.trim_end_matches('\n')).as_bytes());
        if show {
            // A reader that has gone away must not stop the work either.
            let _ = writeln!(std::io::stdout(), "{}", line.trim_end_matches('\n'));
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("internal error: {}", text.unwrap_or("unknown"))
}
