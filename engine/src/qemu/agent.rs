//! The agent in the guest: whether it is there, one command at a time, and what its answers mean.
//!
//! Its socket takes one client, so callers queue. Whether anybody listens in the guest is asked of QEMU first: an agent
//! that is not there costs no time. (PVE: qemu-server PVE/QemuServer/Agent.pm)

use super::config::Vm;
use super::{files, qmp::Monitor};
use crate::config::guest::GuestConfig;
use crate::{Context, Error, Result, Task, Vmid, error::ResultExt, lock};
use openssl::base64::{decode_block, encode_block};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long an agent that has its end open may take to say that it is there.
const GREETING: Duration = Duration::from_secs(3);
/// The longest answer: 48 MiB of base64 and some.
const LONGEST_ANSWER: usize = 96 << 20;

/// A connection to an agent that has answered.
pub struct Agent {
    stream: UnixStream,
    received: Vec<u8>,
    vmid: Vmid,
    _turn: lock::QueueLock,
}

/// How long a command may take.
fn time_for(command: &str) -> Duration {
    Duration::from_secs(match command {
        "guest-fsfreeze-freeze" => 3600,
        "guest-fsfreeze-thaw" => 180,
        "guest-fstrim" => 600,
        "guest-file-read" | "guest-file-write" | "guest-get-fsinfo" => 30,
        _ => 10,
    })
}

impl Agent {
    /// Connects to the agent of a VM.
    ///
    /// # Errors
    /// `No QEMU guest agent configured`, `VM N is not running`, `QEMU guest agent is not running`: clients match on them.
    pub fn connect(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<Self> {
        if config.current.get("agent").is_none() {
            crate::bail!("No QEMU guest agent configured");
        }
        if files::process(ctx, vmid).is_none() {
            crate::bail!("VM {vmid} is not running");
        }
        Self::greet(ctx, vmid).map_err(|_| Error::new("QEMU guest agent is not running"))
    }

    fn greet(ctx: &Context, vmid: Vmid) -> Result<Self> {
        if !is_listening(ctx, vmid)? {
            crate::bail!("nobody listens in the guest");
        }
        let turn = lock::acquire(ctx, &format!("agent-{vmid}"), "agent", |_| {})?;
        let path = files::path(ctx, vmid, "qga");
        let stream = UnixStream::connect(&path).context(|| format!("unable to open '{}'", path.display()))?;
        let mut agent = Agent { stream, received: Vec::new(), vmid, _turn: turn };
        let mut number = [0; 4];
        openssl::rand::rand_bytes(&mut number).expect("the system's random source is always there");
        let number = u32::from_le_bytes(number) >> 1;
        // The byte ends whatever a client before us may have left half-said; the agent sends one back.
        let wish = json!({"execute": "guest-sync-delimited", "arguments": {"id": number}});
        agent.stream.write_all(&[b"\xff", format!("{wish}\n").as_bytes()].concat())?;
        let until = Instant::now() + GREETING;
        loop {
            let line = agent.line(until)?.ok_or_else(|| Error::new("got timeout"))?;
            if line["return"].as_u64() == Some(u64::from(number)) {
                return Ok(agent);
            }
        }
    }

    /// Runs a command; an error of the agent is part of the answer, as PVE gives it to clients.
    pub fn ask(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let vmid = self.vmid;
        let failed = |reason: &str| Error::new(format!("VM {vmid} qga command '{command}' failed - {reason}"));
        let is_last_wish = command == "guest-shutdown" || command.starts_with("guest-suspend-");
        // These commands have no answer but a refusal.
        let time = if is_last_wish { Duration::from_secs(3) } else { time_for(command) };
        let wish = if arguments.is_null() {
            json!({"execute": command})
        } else {
            json!({"execute": command, "arguments": arguments})
        };
        let sent = self.stream.write_all(format!("{wish}\n").as_bytes());
        sent.map_err(|_| failed("client closed connection"))?;
        match self.line(Instant::now() + time) {
            Ok(Some(answer)) if answer.get("error").is_some() => Ok(json!({"error": answer["error"]})),
            Ok(Some(answer)) => Ok(answer["return"].clone()),
            Ok(None) | Err(_) if is_last_wish => Ok(Value::Null),
            Ok(None) => Err(failed("got timeout")),
            Err(error) => Err(failed(error.message())),
        }
    }

    /// Runs a command; an error of the agent is ours.
    ///
    /// # Errors
    /// `Agent error: REASON`.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let answer = self.ask(command, arguments)?;
        match answer["error"]["desc"].as_str() {
            Some(reason) => Err(Error::new(format!("Agent error: {reason}"))),
            None => Ok(answer),
        }
    }

    /// The next message; none when the time is over.
    fn line(&mut self, until: Instant) -> Result<Option<Value>> {
        loop {
            while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let start = line.iter().rposition(|byte| *byte == 0xff).map_or(0, |place| place + 1);
                if let Ok(message) = serde_json::from_slice(&line[start..]) {
                    return Ok(Some(message));
                }
            }
            if self.received.len() > LONGEST_ANSWER {
                crate::bail!("answer is too long");
            }
            crate::task::abort::check()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.stream.set_read_timeout(Some(left.min(Duration::from_millis(500))))?;
            let mut piece = [0; 64 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => crate::bail!("client closed connection"),
                Ok(count) => self.received.extend_from_slice(&piece[..count]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether something in the guest has the agent's port open. A serial port of old does not tell; then it may be so.
fn is_listening(ctx: &Context, vmid: Vmid) -> Result<bool> {
    let devices = Monitor::connect(ctx, vmid)?.execute("query-chardev", json!({}))?;
    let port = devices.as_array().into_iter().flatten().find(|device| device["label"] == "qga0");
    Ok(port.is_some_and(|port| port["frontend-open"].as_bool().unwrap_or(true)))
}

/// Whether the agent answers.
pub fn answers(ctx: &Context, vmid: Vmid) -> bool {
    Agent::greet(ctx, vmid).is_ok()
}

/// What a guest's file systems do while a snapshot is made: they hold still until this is dropped.
pub struct Frozen<'a> {
    task: &'a Task<'a>,
    vmid: Vmid,
}

/// Lets the guest's file systems hold still, if its agent is there and may.
/// (PVE: Agent.pm, guest_fs_freeze_applicable)
pub fn freeze<'a>(task: &'a Task<'a>, vmid: Vmid, config: &GuestConfig) -> Option<Frozen<'a>> {
    let vm = Vm::new(vmid, &config.current);
    let agent = vm.properties("~pve-qm-agent", "agent").ok().flatten().filter(|agent| agent.is_on("enabled"))?;
    if agent.flag("freeze-fs") == Some(false) {
        task.log("skipping guest filesystem freeze - disabled in VM options");
        return None;
    }
    let Ok(mut agent) = Agent::greet(task.ctx, vmid) else {
        task.log("skipping guest filesystem freeze - agent configured but not running?");
        return None;
    };
    if agent.ask("guest-fsfreeze-status", &Value::Null).is_ok_and(|status| status == "frozen") {
        task.log("skipping guest filesystem freeze - already frozen");
        return None;
    }
    // From the wish on the file systems may be still, whatever the answer is.
    let frozen = Frozen { task, vmid };
    if let Err(error) = agent.execute("guest-fsfreeze-freeze", &Value::Null) {
        task.warn(format!("unable to freeze guest fs - {}", error.message()));
    }
    Some(frozen)
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let thawed = Agent::greet(self.task.ctx, self.vmid)
            .and_then(|mut agent| agent.execute("guest-fsfreeze-thaw", &Value::Null));
        if let Err(error) = thawed {
            self.task.warn(format!("guest-fsfreeze-thaw problems - {}", error.message()));
        }
    }
}

/// Lets the guest give back what its file systems do not use. It is a wish: without an agent nothing happens.
pub fn trim(ctx: &Context, vmid: Vmid) {
    if let Ok(mut agent) = Agent::greet(ctx, vmid) {
        let _ = agent.ask("guest-fstrim", &Value::Null);
    }
}

/// Lets the file systems of a guest go on that somebody has frozen who is no more.
pub fn thaw_if_frozen(ctx: &Context, vmid: Vmid) {
    // Without an agent there is nobody who could have frozen anything.
    let Ok(mut agent) = Agent::greet(ctx, vmid) else { return };
    if agent.ask("guest-fsfreeze-status", &Value::Null).is_ok_and(|status| status == "frozen") {
        let _ = agent.ask("guest-fsfreeze-thaw", &Value::Null);
    }
}

/// Starts a program in the guest and gives back its number there.
pub fn exec(agent: &mut Agent, command: &[String], input: Option<&str>) -> Result<Value> {
    let mut arguments = json!({"capture-output": true});
    if let Some((program, rest)) = command.split_first() {
        arguments["path"] = program.as_str().into();
        arguments["arg"] = json!(rest);
    } else if input.is_none() {
        crate::bail!("command or input-data (or both) required");
    }
    if let Some(input) = input {
        arguments["input-data"] = encode_block(input.as_bytes()).into();
    }
    agent.execute("guest-exec", &arguments)
}

/// How far a program in the guest is, with what it printed.
pub fn exec_status(agent: &mut Agent, pid: i64) -> Result<Value> {
    let mut status = agent.execute("guest-exec-status", &json!({"pid": pid}))?;
    for (key, value) in status.as_object_mut().into_iter().flatten() {
        match value {
            Value::Bool(flag) => *value = i32::from(*flag).into(),
            Value::String(text) if key.ends_with("-data") => *value = text_of(text)?.into(),
            _ => {}
        }
    }
    Ok(status)
}

/// Bytes of the guest as text: UTF-8, or each byte as the character with its number.
fn text_of(base64: &str) -> Result<String> {
    let bytes = decode(base64)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| error.as_bytes().iter().map(|byte| char::from(*byte)).collect()))
}

fn decode(base64: &str) -> Result<Vec<u8>> {
    if base64.is_empty() {
        return Ok(Vec::new());
    }
    decode_block(base64).map_err(|_| Error::new("Agent error: unreadable data"))
}

/// What is read of a file in the guest.
pub struct FileRead {
    /// Its path there.
    pub file: String,
    /// Where to begin.
    pub offset: u64,
    /// How many bytes at most.
    pub count: u64,
    /// Whether the content is wanted as text, or in base64.
    pub decode: bool,
}

/// Reads a file in the guest.
pub fn read_file(agent: &mut Agent, wish: &FileRead) -> Result<Value> {
    let handle = agent.execute("guest-file-open", &json!({"path": wish.file}))?;
    let outcome = read_open_file(agent, wish, &handle);
    // What was read is good, whatever closing says.
    let _ = agent.ask("guest-file-close", &json!({"handle": handle}));
    outcome
}

fn read_open_file(agent: &mut Agent, wish: &FileRead, handle: &Value) -> Result<Value> {
    if wish.offset > 0 {
        agent.execute("guest-file-seek", &json!({"handle": handle, "offset": wish.offset, "whence": "set"}))?;
    }
    let (mut bytes, mut eof) = (Vec::new(), false);
    while (bytes.len() as u64) < wish.count && !eof {
        let count = (wish.count - bytes.len() as u64).min(1 << 20);
        let piece = agent.execute("guest-file-read", &json!({"handle": handle, "count": count}))?;
        bytes.extend(decode(piece["buf-b64"].as_str().unwrap_or_default())?);
        eof = piece["eof"].as_bool().unwrap_or(true);
    }
    let read = bytes.len();
    let content = if wish.decode { text_of(&encode_block(&bytes))? } else { encode_block(&bytes) };
    let mut answer = json!({"content": content, "bytes-read": read});
    if !eof {
        answer["truncated"] = 1.into();
    }
    Ok(answer)
}

/// Writes a file in the guest. Content that is not to be encoded is base64 already.
pub fn write_file(agent: &mut Agent, file: &str, content: &str, encode: bool) -> Result<()> {
    let data = if encode { encode_block(content.as_bytes()) } else { content.to_owned() };
    let handle = agent.execute("guest-file-open", &json!({"path": file, "mode": "wb"}))?;
    let written = agent.execute("guest-file-write", &json!({"handle": handle, "buf-b64": data}));
    let closed = agent.execute("guest-file-close", &json!({"handle": handle}));
    written.and(closed).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that gives these answers, one after the other, and the commands that it was given.
    fn scripted(answers: Vec<Value>) -> (Agent, std::thread::JoinHandle<Vec<Value>>, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let (ours, theirs) = UnixStream::pair().unwrap();
        let turn = lock::acquire(&ctx, "agent-100", "agent", |_| {}).unwrap();
        let agent = Agent { stream: ours, received: Vec::new(), vmid: "100".parse().unwrap(), _turn: turn };
        let guest = std::thread::spawn(move || {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(theirs.try_clone().unwrap()));
            let mut theirs = theirs;
            let answer = |answer: Value| {
                let asked = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
                theirs.write_all(format!("{answer}\n").as_bytes()).unwrap();
                asked
            };
            answers.into_iter().map(answer).collect()
        });
        (agent, guest, root)
    }

    #[test]
    fn programs_run_in_the_guest() {
        let done = json!({"exited": true, "exitcode": 3, "out-data": "aGk=", "err-truncated": false});
        let answers = vec![
            json!({"return": {"pid": 7}}),
            json!({"return": done}),
            json!({"error": {"class": "GenericError", "desc": "no such pid"}}),
        ];
        let (mut agent, guest, _root) = scripted(answers);
        let command = ["sh", "-c", "x"].map(str::to_owned);
        assert_eq!(exec(&mut agent, &command, Some("in")).unwrap(), json!({"pid": 7}));
        let status = exec_status(&mut agent, 7).unwrap();
        assert_eq!(status, json!({"exited": 1, "exitcode": 3, "out-data": "hi", "err-truncated": 0}));
        assert_eq!(exec_status(&mut agent, 8).unwrap_err().message(), "Agent error: no such pid");
        let nothing = exec(&mut agent, &[], None).unwrap_err();
        assert_eq!(nothing.message(), "command or input-data (or both) required");
        let asked = guest.join().unwrap();
        let arguments = json!({"capture-output": true, "path": "sh", "arg": ["-c", "x"], "input-data": "aW4="});
        assert_eq!(asked[0], json!({"execute": "guest-exec", "arguments": arguments}));
    }

    #[test]
    fn files_are_read_in_pieces_and_closed_in_any_case() {
        let piece = |text: &str, eof: bool| {
            let data = encode_block(text.as_bytes());
            json!({"return": {"count": text.len(), "buf-b64": data, "eof": eof}})
        };
        let none = json!({"return": {}});
        let answers = vec![
            json!({"return": 5}),
            none.clone(),
            piece("abc", false),
            piece("de", true),
            none.clone(),
            json!({"return": 6}),
            json!({"error": {"desc": "disk full"}}),
            none,
        ];
        let (mut agent, guest, _root) = scripted(answers);
        let wish = FileRead { file: "/a".into(), offset: 2, count: 100, decode: true };
        assert_eq!(read_file(&mut agent, &wish).unwrap(), json!({"content": "abcde", "bytes-read": 5}));
        let refused = write_file(&mut agent, "/b", "x", true).unwrap_err();
        assert_eq!(refused.message(), "Agent error: disk full");
        let asked = guest.join().unwrap();
        let names: Vec<&str> = asked.iter().map(|asked| asked["execute"].as_str().unwrap()).collect();
        let read = ["guest-file-open", "guest-file-seek", "guest-file-read", "guest-file-read", "guest-file-close"];
        let written = ["guest-file-open", "guest-file-write", "guest-file-close"];
        assert_eq!(names, [&read[..], &written[..]].concat());
        assert_eq!(asked[3]["arguments"]["count"], 97);
    }

    #[test]
    fn agents_that_cannot_answer_are_refused_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let refused = |text: &str| {
            let config = GuestConfig::parse(crate::config::guest::GuestKind::Qemu, text);
            Agent::connect(&ctx, "100".parse().unwrap(), &config).err().unwrap().message().to_owned()
        };
        assert_eq!(refused("memory: 512\n"), "No QEMU guest agent configured");
        assert_eq!(refused("agent: 1\n"), "VM 100 is not running");
    }

    #[test]
    fn output_is_text_where_it_can_be() {
        assert_eq!(text_of(&encode_block("grün".as_bytes())).unwrap(), "grün");
        assert_eq!(text_of(&encode_block(&[0xff, b'a'])).unwrap(), "ÿa");
        assert_eq!(text_of("").unwrap(), "");
    }
}
