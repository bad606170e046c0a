//! Whether a guest runs, and what it uses: found without asking the guest.
//!
//! A VM is its process: the one that its pid file names, if that is still a QEMU of this guest. A container is its init,
//! which its monitor knows.

use super::pressure::Pressure;
use crate::config::guest::GuestKind;
use crate::process::ProcessId;
use crate::{Context, Vmid, lxc, qemu};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// What a running guest uses, as of one look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time in ticks since its start.
    pub cpu_ticks: u64,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap (containers).
    pub swap: u64,
    /// Bytes of memory in use inside, if the guest tells (VMs with a balloon).
    pub memory_inside: Option<u64>,
    /// Bytes of its root file system in use (containers).
    pub disk: u64,
    /// Bytes of its root file system (containers).
    pub disk_total: Option<u64>,
    /// Bytes read from disks.
    pub disk_read: u64,
    /// Bytes written to disks.
    pub disk_written: u64,
}

impl Usage {
    /// Takes over what only the guest's QEMU can tell, which is asked apart from all else.
    pub fn take_told(&mut self, told: &Usage) {
        self.memory_inside = told.memory_inside;
        self.disk_read = told.disk_read;
        self.disk_written = told.disk_written;
    }
}

/// A guest that runs, with what was measured of it.
#[derive(Debug, Clone)]
pub struct Running {
    /// Its main process: QEMU, or the container's init.
    pub process: ProcessId,
    /// Ends when the process does.
    pub pidfd: Arc<OwnedFd>,
    /// The last look.
    pub usage: Usage,
    /// Processors that it kept busy between the last two looks.
    pub busy: f64,
    /// How long it waited lately.
    pub pressure: Pressure,
    seen: Instant,
}

impl Running {
    /// A guest whose process was found; `None` if the process ended meanwhile.
    pub fn begin(ctx: &Context, kind: GuestKind, vmid: Vmid, process: ProcessId) -> Option<Self> {
        let pidfd = pidfd_open(Pid::from_raw(process.pid.cast_signed())?, PidfdFlags::empty()).ok()?;
        // The number may have gone to another process before it was opened.
        process.is_alive().then_some(())?;
        let usage = usage(ctx, kind, vmid, process);
        let pressure = Pressure::of(kind, vmid);
        Some(Running { process, pidfd: Arc::new(pidfd), usage, busy: 0.0, pressure, seen: Instant::now() })
    }

    /// Looks again.
    pub fn measure(&mut self, ctx: &Context, kind: GuestKind, vmid: Vmid) {
        let now = Instant::now();
        let usage = usage(ctx, kind, vmid, self.process);
        let seconds = (now - self.seen).as_secs_f64();
        if seconds > 0.5 {
            let ticks = usage.cpu_ticks.saturating_sub(self.usage.cpu_ticks);
            self.busy = ticks as f64 / ticks_per_second() as f64 / seconds;
            self.seen = now;
            let told = self.usage;
            self.usage = usage;
            if kind == GuestKind::Qemu {
                self.usage.take_told(&told);
            }
            self.pressure = Pressure::of(kind, vmid);
        }
    }

    /// Seconds since its start.
    pub fn uptime(&self, node_uptime: f64) -> u64 {
        let start = self.process.start as f64 / ticks_per_second() as f64;
        (node_uptime - start).max(1.0) as u64
    }
}

/// Clock ticks of `/proc` in a second.
pub fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

/// Guests that may run now: all that do, perhaps some more.
///
/// Containers are looked for only if there are any: that means reading a directory of each control group hierarchy.
pub fn candidates(ctx: &Context, has_containers: bool) -> BTreeSet<(Vmid, GuestKind)> {
    let entries = fs::read_dir(ctx.root.run("qemu-server"));
    let vmid = |name: &std::ffi::OsStr| name.to_str()?.strip_suffix(".pid")?.parse().ok();
    let machines = entries.into_iter().flatten().filter_map(|entry| vmid(&entry.ok()?.file_name()));
    let machines = machines.map(|vmid| (vmid, GuestKind::Qemu));
    let containers = if has_containers { lxc::status::candidates(ctx) } else { Default::default() };
    machines.chain(containers.into_iter().map(|vmid| (vmid, GuestKind::Lxc))).collect()
}

/// The main process of a guest, if it runs.
pub fn find(ctx: &Context, kind: GuestKind, vmid: Vmid) -> Option<ProcessId> {
    match kind {
        GuestKind::Qemu => qemu::files::process(ctx, vmid),
        GuestKind::Lxc => lxc::status::probe(ctx, vmid),
    }
}

fn usage(ctx: &Context, kind: GuestKind, vmid: Vmid, process: ProcessId) -> Usage {
    match kind {
        GuestKind::Qemu => process_usage(process.pid).unwrap_or_default(),
        GuestKind::Lxc => lxc::status::usage(ctx, vmid, process),
    }
}

/// Processor time and resident memory of a process (`/proc/PID/stat`, fields 14, 15 and 24).
fn process_usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    let pages = field(24)?;
    Some(Usage {
        cpu_ticks: field(14)? + field(15)?,
        memory: pages * rustix::param::page_size() as u64,
        ..Usage::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_counts_only_for_a_process_of_this_guest() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        fs::create_dir_all(ctx.root.run("qemu-server")).unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "qemu", "-pidfile"])
            .arg(ctx.root.run("qemu-server/100.pid"))
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let [first, second] = [100, 101].map(|number| Vmid::try_from(number).unwrap());
        for vmid in [first, second] {
            fs::write(ctx.root.run(&format!("qemu-server/{vmid}.pid")), format!("{}\n", child.id())).unwrap();
        }
        assert_eq!(candidates(&ctx, true).len(), 2);
        let process = find(&ctx, GuestKind::Qemu, first).unwrap();
        assert!(find(&ctx, GuestKind::Qemu, second).is_none());
        assert!(Running::begin(&ctx, GuestKind::Qemu, first, process).unwrap().usage.memory > 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(find(&ctx, GuestKind::Qemu, first).is_none());
        assert!(Running::begin(&ctx, GuestKind::Qemu, first, process).is_none());
    }
}
