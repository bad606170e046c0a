//! Commands to a machine's QEMU: links of its cables, its state to a file, its end.

use crate::Outcome;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection that has agreed on its abilities.
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects to the socket of a machine.
    pub fn connect(socket: &Path) -> Outcome<Self> {
        let stream = UnixStream::connect(socket).map_err(|error| format!("{}: {error}", socket.display()))?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut qmp = Qmp { stream: BufReader::new(stream) };
        qmp.read()?;
        qmp.ask("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and gives back what it returns.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Outcome<Value> {
        let text = json!({ "execute": command, "arguments": arguments }).to_string();
        self.stream.get_mut().write_all(text.as_bytes())?;
        loop {
            let answer = self.read()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(format!("{command}: {error}").into());
            }
        }
    }

    /// Stops the machine and writes what it has in memory to a file.
    pub fn save(&mut self, file: &Path) -> Outcome {
        self.ask("stop", json!({}))?;
        // The limit is meant for networks.
        self.ask("migrate-set-parameters", json!({ "max-bandwidth": 100_u64 << 30 }))?;
        self.ask("migrate", json!({ "uri": format!("exec:cat > '{}'", file.display()) }))?;
        loop {
            let status = self.ask("query-migrate", json!({}))?;
            match status["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => return Err(format!("state not saved: {status}").into()),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Waits until the state that QEMU was started with is read, and lets the machine go on.
    pub fn go_on(&mut self) -> Outcome {
        while self.ask("query-status", json!({}))?["status"] == "inmigrate" {
            std::thread::sleep(Duration::from_millis(50));
        }
        self.ask("cont", json!({})).map(drop)
    }

    fn read(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err("QEMU has ended".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}
