//! The process that stays beside a VM: it hears how QEMU ends, keeps its last words, and cleans up after it.
//!
//! ```text
//! pvedaemon keep VMID PID        waits for the end: status and last words
//!          └─ lock of the guest ──> leftovers, volumes, hook script; a crash becomes a task with its reason
//! ```
//! QEMU daemonises, so only a subreaper hears how it ends. Whoever ends a VM on purpose cleans up itself, under the lock;
//! the keeper then finds that the file with its name is gone, or another's, and goes. It needs no daemon, and nobody needs
//! it: a VM whose keeper was killed is cleaned up by the next start or the next daemon. How it begins is [`super::spawn`].

use super::{files, recovery, scope, stop};
use crate::{Context, Error, Result, Task, Vmid};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, WaitOptions, WaitStatus, pidfd_open, waitpid};
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::time::Duration;

/// The ending of the file that says whose end is still to be cleaned up after. (QEMU removes its pid file when it can.)
pub const MARK: &str = "keeper";
/// How much of QEMU's last words is kept.
const KEPT: usize = 4096;

/// How long a VM that is asked to be cleaned up after may take to end. (PVE: CLI/qm.pm, cleanup)
const ENDING: Duration = Duration::from_secs(30);

/// The program: `VMID PID`.
pub fn main(arguments: impl Iterator<Item = String>) -> ExitCode {
    let words: Vec<String> = arguments.collect();
    let outcome = match words.as_slice() {
        [vmid, pid] => watch(vmid, pid),
        _ => Err(Error::new("USAGE: pvedaemon keep VMID PID")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for the end of QEMU, this process's child, whose last words come over standard input.
fn watch(vmid: &str, pid: &str) -> Result<()> {
    let ctx = Context::for_tool()?;
    let vmid: Vmid = vmid.parse().map_err(Error::new)?;
    let number: i32 = pid.parse().map_err(|_| Error::new("no process number"))?;
    let pid = Pid::from_raw(number).ok_or_else(|| Error::new("no process number"))?;
    // Outside it keeps as well, until the service ends; and QEMU may have ended already.
    scope::join(&ctx, number.cast_unsigned());
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let mut last = Vec::new();
    let mut words = File::from(rustix::io::dup(std::io::stdin())?);
    listen(&mut words, ended.as_fd(), &mut |text| {
        last.extend_from_slice(text);
        let surplus = last.len().saturating_sub(KEPT);
        last.drain(..surplus);
    })?;
    // The status is another's to hear if this process is not its parent; then the end counts as a good one.
    let status = waitpid(Some(pid), WaitOptions::empty()).ok().flatten().map(|(_, status)| status);
    let reason = status.and_then(|status| crash(status, &String::from_utf8_lossy(&last)));
    clean_up(&ctx, vmid, number.cast_unsigned(), reason)
}

/// Reads until the process behind `ended` is gone and all that it has written is read.
fn listen(words: &mut File, ended: BorrowedFd<'_>, take: &mut dyn FnMut(&[u8])) -> Result<()> {
    let mut buffer = [0; 1024];
    let mut is_open = true;
    let mut has_ended = false;
    loop {
        let mut descriptors = vec![PollFd::new(&ended, PollFlags::IN)];
        if is_open {
            descriptors.push(PollFd::from_borrowed_fd(words.as_fd(), PollFlags::IN));
        }
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut descriptors, has_ended.then_some(&now)) {
            Err(rustix::io::Errno::INTR) => continue,
            outcome => outcome?,
        };
        let has_words = descriptors.get(1).is_some_and(|words| !words.revents().is_empty());
        has_ended |= !descriptors[0].revents().is_empty();
        if has_words {
            let count = words.read(&mut buffer)?;
            is_open = count > 0;
            take(&buffer[..count]);
        } else if has_ended {
            return Ok(());
        }
    }
}

/// Why QEMU ended, unless it ended as it should: told by the guest, by its monitor, or by SIGTERM.
fn crash(status: WaitStatus, last_words: &str) -> Option<String> {
    let end = match (status.terminating_signal(), status.exit_status()) {
        (Some(signal), _) => format!("QEMU was killed by signal {signal}{}", name(signal)),
        (None, Some(code)) if code != 0 => format!("QEMU ended with code {code}"),
        _ => return None,
    };
    let told = last_words.lines().map(str::trim).rfind(|line| !line.is_empty());
    Some(told.map_or(end.clone(), |line| format!("{end}: {}", line.replace(|c: char| c.is_control(), " "))))
}

fn name(signal: i32) -> &'static str {
    match signal {
        libc::SIGABRT => " (ABRT)",
        libc::SIGBUS => " (BUS)",
        libc::SIGFPE => " (FPE)",
        libc::SIGILL => " (ILL)",
        libc::SIGKILL => " (KILL)",
        libc::SIGSEGV => " (SEGV)",
        _ => "",
    }
}

/// The process that a file of the VM names.
fn named(ctx: &Context, vmid: Vmid, ending: &str) -> Option<u32> {
    fs::read_to_string(files::path(ctx, vmid, ending)).ok()?.trim().parse().ok()
}

fn clean_up(ctx: &Context, vmid: Vmid, pid: u32, crash: Option<String>) -> Result<()> {
    Task::aside(ctx, "qmcleanup", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        if named(ctx, vmid, MARK) != Some(pid) || files::process(ctx, vmid).is_some() {
            return Ok(());
        }
        let Some(reason) = crash else { return stop::ended(task, vmid) };
        tell(ctx, &format!("VM {vmid}: {reason}"));
        Task::listed(ctx, "qmcleanup", vmid, |task| {
            stop::ended(task, vmid)?;
            Err(Error::new(reason))
        })
    })
}

/// Cleans up after a VM whose keeper is gone as well. One that ends just now is waited for.
///
/// # Errors
/// `aborting cleanup, VM is still running after N seconds`.
pub fn clean_up_left_over(ctx: &Context, vmid: Vmid) -> Result<()> {
    Task::aside(ctx, "qmcleanup", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        if let Some(process) = files::process(ctx, vmid)
            && !stop::wait_for_end(process, ENDING)?
        {
            crate::bail!("aborting cleanup, VM is still running after {} seconds", ENDING.as_secs());
        }
        match named(ctx, vmid, MARK) {
            Some(_) => stop::ended(task, vmid),
            None => files::remove_leftovers(ctx, vmid).map(drop),
        }
    })
}

/// Writes an error into the machine's log. Nodes below a directory have none.
fn tell(ctx: &Context, text: &str) {
    if ctx.root.prefix().as_os_str().is_empty()
        && let Ok(socket) = UnixDatagram::unbound()
    {
        // Without a log there is still the list of tasks.
        let _ = socket.send_to(format!("<27>pvedaemon[{}]: {text}", std::process::id()).as_bytes(), "/dev/log");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[expect(clippy::zombie_processes, reason = "waitpid hears how it ends")]
    fn ended(script: &str) -> (Option<String>, String) {
        let (words, end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let mut command = Command::new("sh");
        let child = command.args(["-c", script]).stderr(end).spawn().unwrap();
        drop(command);
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let mut text = Vec::new();
        listen(&mut File::from(words), pidfd.as_fd(), &mut |part| text.extend_from_slice(part)).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        (crash(status, &text), text)
    }

    #[test]
    fn an_end_is_a_crash_when_nobody_has_wished_it() {
        assert_eq!(ended("echo bye >&2"), (None, "bye\n".to_owned()));
        assert_eq!(ended("kill -9 $$").0.unwrap(), "QEMU was killed by signal 9 (KILL)");
        assert_eq!(ended("echo one >&2; echo two >&2; exit 3").0.unwrap(), "QEMU ended with code 3: two");
        let long = "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done";
        assert_eq!(ended(long).1.lines().count(), 3000);
    }

    #[test]
    fn words_that_outlive_the_process_are_not_waited_for() {
        let began = std::time::Instant::now();
        assert_eq!(ended("sleep 30 & exit 0").0, None);
        assert!(began.elapsed().as_secs() < 20);
    }
}
