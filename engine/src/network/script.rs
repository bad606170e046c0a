//! Command lines of the interfaces file.
//!
//! A line such as `post-up iptables …` is what the administrator has written into a file of root's, so it goes to
//! `/bin/sh -c` as ifupdown does it. This is the only place where a shell is started. It has a time limit; what it prints
//! is logged, and its failure is a warning, as with ifupdown2.

use crate::{Error, Result, bail};
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How much a line may print, in bytes; the rest is refused to it.
const ROOM: u64 = 256 << 10;
/// How long a line may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a line for an interface.
pub fn run(name: &str, phase: &str, line: &str, log: &mut dyn FnMut(&str)) {
    match shell(name, phase, line, log) {
        Ok(()) => {}
        Err(error) => log(&format!("warning: {name}: {phase} '{line}': {error}")),
    }
}

fn shell(name: &str, phase: &str, line: &str, log: &mut dyn FnMut(&str)) -> Result<()> {
    let mode = if phase.contains("up") { "start" } else { "stop" };
    let mut output = tempfile()?;
    let mut child = Command::new("/bin/sh")
        .args(["-c", line])
        .env("IFACE", name)
        .env("LOGICAL", name)
        .env("PHASE", phase)
        .env("MODE", mode)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .process_group(0)
        .spawn()?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if Instant::now() >= until {
            break None;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if status.is_none() {
        // It leads a group of its own, so what it has started ends as well.
        let group = rustix::process::Pid::from_child(&child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = child.wait();
    }
    // All have written through one position.
    let printed = std::io::Seek::stream_position(&mut output)?.min(ROOM);
    let mut text = Vec::new();
    std::io::Seek::rewind(&mut output)?;
    output.take(printed).read_to_end(&mut text)?;
    for line in String::from_utf8_lossy(&text).lines() {
        log(&format!("{name}: {line}"));
    }
    match status {
        None => bail!("did not end within {} seconds", PATIENCE.as_secs()),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::new(format!("failed ({status})"))),
    }
}

/// A file without a name, which cannot grow. A pipe would keep us waiting for whatever the line leaves running, and end it
/// when we are gone.
fn tempfile() -> Result<std::fs::File> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let name = std::ffi::CString::new("network-command").expect("the name has no NUL");
    let file = std::fs::File::from(rustix::fs::memfd_create(&name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    file.set_len(ROOM)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::GROW)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_logged_and_know_their_interface() {
        let mut lines = Vec::new();
        run("lan", "post-up", "echo $IFACE $MODE; exit 3", &mut |line| lines.push(line.to_owned()));
        assert_eq!(lines[0], "lan: lan start");
        assert!(lines[1].starts_with("warning: lan: post-up") && lines[1].contains("exit status: 3"), "{lines:?}");
    }

    #[test]
    fn a_line_that_prints_much_fills_no_memory() {
        let mut lines = Vec::new();
        run("lan", "up", "echo first; head -c 3000000 /dev/zero | tr '\\0' 'x'", &mut |line| {
            lines.push(line.to_owned())
        });
        assert_eq!(lines[0], "lan: first");
        assert!(lines.iter().map(String::len).sum::<usize>() <= ROOM as usize + 1_000);
    }

    #[test]
    fn what_a_line_leaves_running_is_not_waited_for() {
        let begin = Instant::now();
        run("lan", "up", "sleep 30 & echo done", &mut |_| {});
        assert!(begin.elapsed() < Duration::from_secs(20));
    }
}
