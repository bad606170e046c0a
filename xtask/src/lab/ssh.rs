//! Commands inside a machine: one SSH connection for each machine, kept open, because an emulated processor needs a second
//! for each handshake.

use crate::{Outcome, output};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The way into one machine.
pub struct Ssh {
    /// The socket of the open connection.
    pub control: PathBuf,
    /// The key that the machine knows.
    pub key: PathBuf,
    /// The port on loopback that leads to the machine's SSH server.
    pub port: u16,
}

impl Ssh {
    /// Opens the connection, which stays until [`Ssh::close`]; the machine has `seconds` to come up.
    pub fn open(&self, seconds: u64, mut is_alive: impl FnMut() -> bool) -> Outcome {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            let mut ssh = self.command();
            ssh.args(["-M", "-N", "-f", "-o", "ControlPersist=yes", "-o", "ConnectTimeout=30", "root@127.0.0.1"]);
            // The process in the background would keep a pipe open.
            let status = ssh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
            if status.success() {
                return Ok(());
            }
            if !is_alive() {
                return Err("QEMU has ended".into());
            }
            if Instant::now() > deadline {
                return Err(format!("the machine does not answer within {seconds} s").into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A command inside, which is given word by word.
    pub fn inside(&self, words: &[&str]) -> Command {
        let mut ssh = self.command();
        let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
        ssh.arg("root@127.0.0.1").arg("--").arg(words.join(" "));
        ssh
    }

    /// Runs a shell script inside; its output is given back.
    pub fn script(&self, text: &str) -> Outcome<String> {
        output(self.inside(&["sh", "-ec", text]).stdin(Stdio::null()))
    }

    /// Copies a file into the machine.
    pub fn put(&self, from: &Path, to: &str) -> Outcome {
        let file = File::open(from).map_err(|error| format!("{}: {error}", from.display()))?;
        output(self.inside(&["dd", "bs=1M", "status=none", &format!("of={to}")]).stdin(file)).map(drop)
    }

    /// Copies a file out of the machine.
    pub fn get(&self, from: &str, to: &Path) -> Outcome {
        let mut cat = self.inside(&["cat", "--", from]);
        let copied = cat.stdin(Stdio::null()).stdout(File::create(to)?).stderr(Stdio::piped()).output()?;
        let error = String::from_utf8_lossy(&copied.stderr).trim().to_owned();
        if copied.status.success() { Ok(()) } else { Err(error.into()) }
    }

    /// Ends the connection, if it is open.
    pub fn close(&self) {
        let mut ssh = self.command();
        ssh.args(["-O", "exit", "root@127.0.0.1"]).stdout(Stdio::null()).stderr(Stdio::null());
        // It ends by itself with the machine.
        let _ = ssh.status();
    }

    fn command(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", "StrictHostKeyChecking=no"]);
        ssh.args(["-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "ServerAliveInterval=0"]);
        ssh.arg("-o").arg(format!("ControlPath={}", self.control.display()));
        ssh.arg("-i").arg(&self.key).arg("-p").arg(self.port.to_string());
        ssh
    }
}

/// A word as the shell inside reads it: SSH carries one text.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn words_reach_the_other_shell_whole() {
        assert_eq!(super::quote("a b"), "'a b'");
        assert_eq!(super::quote("it's $HOME"), "'it'\\''s $HOME'");
    }
}
