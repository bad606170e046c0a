//! Tools of the machine as processes: an argument vector, a deadline, and an end with the task.
//!
//! A tool with a deadline leads a process group of its own, so that its helpers (`mount.nfs` of `mount`) end with it. One
//! that hangs in the kernel cannot be ended at all: it is left behind, and the caller goes on.

use super::{Border, Data, Tool, package};
use crate::command::Stream;
use crate::task::abort;
use crate::{Error, Result, error::ResultExt};
use rustix::process::{Pid, Signal};
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How often a running tool's task is looked at.
const TICK: Duration = Duration::from_millis(100);

/// How long a killed tool may take to end before it is left behind.
const GRACE: Duration = Duration::from_secs(1);

/// The real thing.
pub(super) struct Machine;

impl Border for Machine {
    fn run(&self, tool: &Tool, data: Data, line: &mut dyn FnMut(Stream, &str)) -> Result<i32> {
        let mut child = start(tool, data)?;
        let (sender, receiver) = mpsc::channel();
        if let (Some(text), Some(mut pipe)) = (tool.input.clone(), child.stdin.take()) {
            // A tool that does not read its input says by its exit code what it thinks of it.
            std::thread::spawn(move || drop(pipe.write_all(text.as_bytes())));
        }
        if let Some(pipe) = child.stdout.take() {
            read_lines(Stream::Output, pipe, sender.clone());
        }
        if let Some(pipe) = child.stderr.take() {
            read_lines(Stream::Error, pipe, sender);
        }
        let end = tool.deadline.map(|deadline| Instant::now() + deadline);
        let mut open = true;
        loop {
            match receiver.recv_timeout(TICK) {
                Ok((stream, text)) => line(stream, &text),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    open = false;
                    if tool.deadline.is_none() {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            // Something that the tool started may keep its pipes; its own end is what counts.
            if !open && child.try_wait()?.is_some() {
                break;
            }
            if let Err(error) = abort::check() {
                stop(tool, child);
                return Err(error);
            }
            if end.is_some_and(|end| Instant::now() > end) {
                stop(tool, child);
                return Err(Error::new(format!("command '{}' failed: got timeout", tool.program)));
            }
        }
        let status = child.wait().context(|| format!("waiting for '{}'", tool.program))?;
        status.code().ok_or_else(|| Error::new(format!("command '{}' failed: {status}", tool.program)))
    }
}

fn start(tool: &Tool, data: Data) -> Result<Child> {
    let mut command = Command::new(tool.program);
    let input = match data.from {
        Some(from) => from.try_clone()?.into(),
        None if tool.input.is_some() => Stdio::piped(),
        None => Stdio::null(),
    };
    let output = data.to.map(File::try_clone).transpose()?.map_or_else(Stdio::piped, Stdio::from);
    command.args(&tool.arguments).stdin(input).stdout(output).stderr(Stdio::piped());
    // Numbers and texts are read by us, so they must not be translated.
    command
        .env("LC_ALL", "C")
        .env("LVM_SUPPRESS_FD_WARNINGS", "1")
        .envs(tool.environment.iter().map(|(name, value)| (name, value)));
    if tool.deadline.is_some() {
        command.process_group(0);
    }
    command.spawn().map_err(|error| match (error.kind(), package(tool.program)) {
        (ErrorKind::NotFound, Some(package)) => {
            Error::new(format!("command '{}' not found - please install the package '{package}'", tool.program))
        }
        _ => Error::from(error).context(format!("unable to start '{}'", tool.program)),
    })
}

/// Kills a tool, with its group if it leads one. A process that does not end within the grace is left to itself.
fn stop(tool: &Tool, mut child: Child) {
    if tool.deadline.is_some()
        && let Some(pid) = Pid::from_raw(child.id().cast_signed())
    {
        // It is our child and not yet waited for, so the number is still its own.
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    } else {
        // The child may have ended already.
        let _ = child.kill();
    }
    let end = Instant::now() + GRACE;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() >= end {
            // Its end is waited for by nobody else, and it must not stay as a zombie of a daemon.
            std::thread::spawn(move || drop(child.wait()));
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Carriage returns end a line, too: progress is printed that way.
fn read_lines(stream: Stream, pipe: impl Read + Send + 'static, sender: Sender<(Stream, String)>) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
            for part in bytes.split(|byte| *byte == b'\r' || *byte == b'\n').filter(|part| !part.is_empty()) {
                if sender.send((stream, String::from_utf8_lossy(part).into_owned())).is_err() {
                    return;
                }
            }
            bytes.clear();
        }
    });
}
