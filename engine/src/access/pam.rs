//! Realm `pam`: the system's own users, by the system's own conversation.
//!
//! Modules of PAM change signal handlers, user ids and the environment of their process, and may take as long as they
//! like. So it is asked in a process of its own: `pvedaemon authenticate` reads one line of JSON and says by its exit status
//! whether the password is right. That also saves all other programs from loading PAM and its libraries.
//! (PVE: pve-access-control PVE/Auth/PAM.pm)

use super::crypt;
use crate::context::Mode;
use crate::{Context, Error, Result, error::ResultExt};
use pam_client::Flag;
use pam_client::conv_mock::Conversation;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The service, as administrators configure it in `/etc/pam.d`. Without such a file PAM itself takes `other`.
const SERVICE: &str = "proxmox-ve-auth";

/// How long a conversation may take. The front server waits 30 seconds.
const PATIENCE: Duration = Duration::from_secs(25);

/// What the process is asked.
#[derive(Serialize, Deserialize)]
struct Question {
    user: String,
    password: String,
    client: Option<String>,
}

/// Fails unless this is the password of a user of the system. The error is for the log.
pub fn authenticate(ctx: &Context, name: &str, password: &str) -> Result<()> {
    let question = Question { user: name.into(), password: password.into(), client: ctx.client.clone() };
    match &ctx.mode {
        Mode::Daemon { worker } => ask(worker, &question),
        // All programs are installed in one directory.
        Mode::Worker(_) | Mode::Foreground => ask(&std::env::current_exe()?.with_file_name("pvedaemon"), &question),
    }
}

/// Sets the password of a user of the system.
pub fn store(name: &str, password: &str) -> Result<()> {
    let hash = crypt::hash(password)?;
    let mut command = Command::new("chpasswd");
    let mut child = command
        .arg("--encrypted")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(|| "unable to start 'chpasswd'")?;
    let sent = child.stdin.take().expect("standard input is a pipe").write_all(format!("{name}:{hash}\n").as_bytes());
    let output = child.wait_with_output().context(|| "waiting for 'chpasswd'")?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let reason = text.lines().next().unwrap_or("no reason given").trim().to_owned();
        return Err(Error::new(format!("change password failed: {reason}")));
    }
    sent.context(|| "change password failed")
}

/// The process that is asked: reads the question from standard input, answers by success or a reason.
pub fn serve() -> Result<()> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    // The text of a parse error could repeat what it could not parse.
    let question: Question = serde_json::from_str(&text).map_err(|_| Error::new("unreadable question"))?;
    converse(&question)
}

fn converse(question: &Question) -> Result<()> {
    let reason = |error: pam_client::Error| Error::new(error.to_string());
    let conversation = Conversation::with_credentials(&question.user, &question.password);
    let mut context = pam_client::Context::new(SERVICE, Some(&question.user), conversation).map_err(reason)?;
    if let Some(client) = &question.client {
        context.set_rhost(Some(client)).map_err(reason)?;
    }
    context.authenticate(Flag::NONE).map_err(reason)?;
    context.acct_mgmt(Flag::NONE).map_err(reason)
}

fn ask(program: &Path, question: &Question) -> Result<()> {
    let mut child = Command::new(program)
        .arg("authenticate")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context(|| "unable to start a process for the conversation with PAM")?;
    let text = serde_json::to_vec(question).expect("a question is plain data");
    let sent = child.stdin.take().expect("standard input is a pipe").write_all(&text);
    let ended = wait(&child, PATIENCE);
    if !matches!(ended, Ok(true)) {
        // It may have ended just now.
        let _ = child.kill();
    }
    let output = child.wait_with_output().context(|| "waiting for the conversation with PAM")?;
    sent.context(|| "asking PAM")?;
    match ended? {
        false => Err(Error::new(format!("PAM gave no answer within {} seconds", PATIENCE.as_secs()))),
        true if output.status.success() => Ok(()),
        true => Err(Error::new(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Waits until a child has ended; false if it takes longer.
fn wait(child: &Child, patience: Duration) -> Result<bool> {
    let pid = Pid::from_raw(child.id().cast_signed()).ok_or_else(|| Error::new("a child without a process id"))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| Error::new("a waiting time that is too long"))?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(directory: &Path, text: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[test]
    fn the_process_gets_the_question_and_its_status_is_the_answer() {
        let directory = tempfile::tempdir().unwrap();
        let question = Question { user: "joe".into(), password: "secret".into(), client: None };
        let good = program(directory.path(), r#"[ "$1" = authenticate ] && grep -q '"password":"secret"'"#);
        ask(&good, &question).unwrap();
        let bad = program(directory.path(), "cat >/dev/null; echo 'Authentication failure' >&2; exit 1");
        assert_eq!(ask(&bad, &question).unwrap_err().message(), "Authentication failure");
    }

    #[test]
    fn a_process_that_does_not_end_is_not_waited_for() {
        let child = Command::new("sleep").arg("60").spawn();
        let mut child = child.unwrap();
        assert!(!wait(&child, Duration::from_millis(20)).unwrap());
        child.kill().unwrap();
        assert!(wait(&child, Duration::from_secs(60)).unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn nobody_is_let_in_by_a_wrong_password() {
        let question = Question { user: "root".into(), password: "surely not this one".into(), client: None };
        assert!(converse(&question).is_err());
    }
}
