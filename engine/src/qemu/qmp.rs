//! QEMU's monitor protocol: one command after the other on a VM's command socket.
//!
//! The socket serves one client at a time, so a client connects, asks and goes; nobody keeps it. Events come on a socket
//! of their own and are skipped here.

use super::files;
use crate::{Context, Error, Result, Vmid};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A connection to a VM's monitor.
pub struct Monitor {
    stream: BufReader<UnixStream>,
    label: String,
    /// The name of the negotiation and how long its answer may take, while it is still to be heard.
    negotiation: Option<(String, Duration)>,
}

/// The command with which a conversation begins.
const NEGOTIATION: &str = "qmp_capabilities";

/// How long a command may take. (PVE: qemu-server QMPClient.pm)
fn default_timeout(command: &str) -> Duration {
    Duration::from_secs(match command {
        "quit" | "device_add" | "device_del" | "netdev_add" | "netdev_del" | "blockdev-add" => 60,
        "blockdev-remove-medium" => 600,
        _ => 5,
    })
}

impl Monitor {
    /// Connects to the monitor of a running VM.
    ///
    /// # Errors
    /// `VM N not running`.
    pub fn connect(ctx: &Context, vmid: Vmid) -> Result<Self> {
        Self::open(ctx, vmid, &files::path(ctx, vmid, "qmp"), "qmp", Duration::from_secs(30))
    }

    /// Connects to the socket for events, which answers as well: for looks that must not be in the way of a task.
    pub fn connect_beside(ctx: &Context, vmid: Vmid, timeout: Duration) -> Result<Self> {
        Self::open(ctx, vmid, &files::event_socket(ctx, vmid), "event", timeout)
    }

    fn open(ctx: &Context, vmid: Vmid, path: &Path, what: &str, greeting: Duration) -> Result<Self> {
        if files::process(ctx, vmid).is_none() {
            crate::bail!("VM {vmid} not running");
        }
        let stream =
            UnixStream::connect(path).map_err(|_| Error::new(format!("VM {vmid}: unable to open monitor socket")))?;
        let label = format!("VM {vmid} {what}");
        let mut monitor = Monitor { stream: BufReader::new(stream), label, negotiation: None };
        // A busy guest leaves QEMU's main loop little time, and each answer that is waited for costs a turn of it. So the
        // first command follows without waiting for the answer to this one; but not before QEMU listens to us alone.
        let id = monitor.send(NEGOTIATION, &json!({}))?;
        monitor.read_message(NEGOTIATION, Instant::now() + greeting, |message| message.get("QMP").is_some())?;
        monitor.negotiation = Some((id, greeting.min(default_timeout(NEGOTIATION))));
        Ok(monitor)
    }

    /// Hears the answer to the negotiation, if it is still to come. The one before us may have gone without waiting for
    /// its own; then that one negotiates for us when QEMU gets to it, and ours comes too late.
    fn negotiated(&mut self) -> Result<()> {
        let Some((id, timeout)) = self.negotiation.take() else { return Ok(()) };
        match self.answer(NEGOTIATION, &id, timeout) {
            Err(error) if error.message().contains("negotiation is already complete") => Ok(()),
            outcome => outcome.map(drop),
        }
    }

    /// Runs a command within its usual time.
    ///
    /// # Errors
    /// `VM N qmp command 'X' failed - REASON`.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.execute_within(command, arguments, default_timeout(command))
    }

    /// Runs a command within a given time.
    pub fn execute_within(&mut self, command: &str, arguments: Value, timeout: Duration) -> Result<Value> {
        let id = self.send(command, &arguments)?;
        self.negotiated()?;
        self.answer(command, &id, timeout)
    }

    fn send(&mut self, command: &str, arguments: &Value) -> Result<String> {
        let id = new_id();
        let request = json!({"execute": command, "arguments": arguments, "id": id});
        let sent = self.stream.get_mut().write_all(format!("{request}\n").as_bytes());
        sent.map(|()| id).map_err(|error| self.failure(command, Error::from(error).message()))
    }

    fn answer(&mut self, command: &str, id: &str, timeout: Duration) -> Result<Value> {
        let is_answer = |message: &Value| message["id"] == id;
        let answer = self.read_message(command, Instant::now() + timeout, is_answer)?;
        match answer.get("error") {
            Some(error) => Err(self.failure(command, error["desc"].as_str().unwrap_or("unknown error"))),
            None => Ok(answer["return"].clone()),
        }
    }

    /// Hands QEMU an open descriptor, which later commands call `name`.
    pub fn send_descriptor(&mut self, name: &str, descriptor: BorrowedFd) -> Result<()> {
        self.negotiated()?;
        let id = new_id();
        let request = format!("{}\n", json!({"execute": "getfd", "arguments": {"fdname": name}, "id": id}));
        let descriptors = [descriptor];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        let parts = [IoSlice::new(request.as_bytes())];
        let sent = sendmsg(self.stream.get_ref(), &parts, &mut ancillary, SendFlags::NOSIGNAL);
        sent.map_err(|error| self.failure("getfd", Error::from(error).message()))?;
        self.answer("getfd", &id, default_timeout("getfd")).map(drop)
    }

    fn failure(&self, command: &str, reason: &str) -> Error {
        Error::new(format!("{} command '{command}' failed - {reason}", self.label))
    }

    fn read_message(&mut self, command: &str, until: Instant, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut line = Vec::new();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.failure(command, "got timeout"));
            }
            let outcome = self
                .stream
                .get_ref()
                .set_read_timeout(Some(left))
                .and_then(|()| self.stream.read_until(b'\n', &mut line));
            match outcome {
                Ok(0) => return Err(self.failure(command, "client closed connection")),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return Err(self.failure(command, "got timeout")),
                Err(error) => return Err(self.failure(command, Error::from(error).message())),
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            if let Ok(message) = serde_json::from_str::<Value>(&text)
                && wanted(&message)
            {
                return Ok(message);
            }
        }
    }
}

/// A name for a request: QEMU may still answer to the client before us.
fn new_id() -> String {
    static SENT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), SENT.fetch_add(1, Ordering::Relaxed))
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// Runs one command on a VM's monitor.
pub fn execute(ctx: &Context, vmid: Vmid, command: &str, arguments: Value) -> Result<Value> {
    Monitor::connect(ctx, vmid)?.execute(command, arguments)
}

/// Runs a command of the human monitor and gives back what it prints.
pub fn human(ctx: &Context, vmid: Vmid, line: &str) -> Result<String> {
    let answer = Monitor::connect(ctx, vmid)?.execute_within(
        "human-monitor-command",
        json!({"command-line": line}),
        Duration::from_secs(30),
    )?;
    Ok(answer.as_str().unwrap_or_default().to_owned())
}
