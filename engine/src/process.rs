//! Processes by number: a pid alone may be somebody else by now, a pid with its start time is one process for ever.

use rustix::process::{Pid, Signal};
use std::fs;

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProcessId {
    /// The process number.
    pub pid: u32,
    /// Clock ticks from boot to its start (`/proc/PID/stat`, field 22).
    pub start: u64,
}

impl ProcessId {
    /// This process.
    pub fn current() -> Self {
        let pid = std::process::id();
        ProcessId { pid, start: start_time(pid).unwrap_or(0) }
    }

    /// The process that has this number now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(ProcessId { pid, start: start_time(pid)? })
    }

    /// Whether it still runs. A zombie has ended.
    pub fn is_alive(self) -> bool {
        stat_fields(self.pid).is_some_and(|(state, start)| start == self.start && state != 'Z')
    }

    /// Sends a signal to the process group that it leads, if it is still the same process.
    pub fn signal_group(self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = Pid::from_raw(self.pid.cast_signed())
        {
            // The group may be gone between the look and the signal; then there is nothing left to do.
            let _ = rustix::process::kill_process_group(pid, signal);
        }
    }
}

fn start_time(pid: u32) -> Option<u64> {
    stat_fields(pid).map(|(_, start)| start)
}

/// State letter and start time. The command name may contain blanks and parentheses, so fields count from the last `)`.
fn stat_fields(pid: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_alive());
        assert!(!ProcessId { start: id.start + 1, ..id }.is_alive());
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!id.is_alive());
    }
}
