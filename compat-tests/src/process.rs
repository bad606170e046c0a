//! What the system says of a running program: memory, open files, limits; and signals to it.

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::fs;

/// Memory that a process has in use (VmRSS), in KiB.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// How many files and sockets a process has open.
pub fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}

/// How many files and sockets a process may open, and how far it could raise that itself.
pub fn file_limit(pid: u32) -> (u64, u64) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process runs");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit of files");
    let mut numbers = line.split_whitespace().map(|text| text.parse().unwrap_or(u64::MAX));
    (numbers.next().expect("a soft limit"), numbers.next().expect("a hard limit"))
}

/// Sets how many files this process, and what it starts from now on, may open; at most as many as the system allows.
/// Gives back how many it is.
pub fn set_file_limit(wanted: u64) -> u64 {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("below the hard limit");
    current
}

/// Whether a process is there.
pub fn is_alive(pid: u32) -> bool {
    fs::metadata(format!("/proc/{pid}/exe")).is_ok()
}

/// The process that keeps watch over another: its parent, unless that is the system's first.
pub fn keeper(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()?;
    let command = fs::read_to_string(format!("/proc/{parent}/cmdline")).ok()?;
    (parent > 1 && command.split('\0').nth(1) == Some("keep")).then_some(parent)
}

/// Kills a process, which may have ended a moment ago.
pub fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("the number of a process");
    kill_process(pid, signal).expect("a process of our own");
}
