//! Starting, stopping and suspending many guests: in the order of their `startup` option, some at a time.
//!
//! Each guest gets a task of its own, as if it had been started alone; the task here only waits. In a tool there are no
//! further processes: one guest after the other. (PVE: pve-manager PVE/API2/Nodes.pm, startall, stopall, suspendall)

use crate::cluster::options::DatacenterOptions;
use crate::config::guest::GuestKind;
use crate::guest::startup::Startup;
use crate::live::{self, GuestRow};
use crate::qemu::status as qemu;
use crate::task::{Upid, journal};
use crate::{Call, Context, Error, Mode, Reply, Result, Task, Vmid, access, guest, registry};
use contract::Verb;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode as FileMode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Order of guests that name none: last at the start, first at the stop.
const NO_ORDER: u64 = u64::MAX;
/// What turning guests on and off asks for.
const POWER: &[&str] = &["VM.PowerMgmt"];
/// Seconds for a guest to shut down when nothing else is said.
const SHUTDOWN_TIMEOUT: u64 = 180;

/// Guests by order, each group by number. Templates have nothing to start.
fn plan(guests: Vec<GuestRow>, vms: Option<&[Vmid]>) -> BTreeMap<u64, Vec<(GuestRow, Startup)>> {
    let mut groups: BTreeMap<u64, Vec<(GuestRow, Startup)>> = BTreeMap::new();
    for guest in guests {
        if guest.facts.is_template || vms.is_some_and(|vms| !vms.contains(&guest.vmid)) {
            continue;
        }
        // One that cannot be read keeps no guest from its start.
        let startup: Startup = guest.facts.startup.as_deref().unwrap_or_default().parse().unwrap_or_default();
        groups.entry(startup.order.unwrap_or(NO_ORDER)).or_default().push((guest, startup));
    }
    groups
}

/// The guests that the call names; the caller needs the right for each, or for all if none is named.
fn named(call: &Call, privileges: &[&str]) -> Result<Option<Vec<Vmid>>> {
    let names: Option<Vec<String>> = call.opt("vms")?;
    let vms = names
        .map(|names| {
            names.iter().map(|name| name.parse().map_err(|text: String| Error::parameter("vms", text))).collect()
        })
        .transpose()?;
    if !access::has(call.ctx, "/", privileges) {
        match &vms {
            Some(vms) => {
                let vms: &Vec<Vmid> = vms;
                vms.iter().try_for_each(|vmid| access::check(call.ctx, &format!("/vms/{vmid}"), privileges))?;
            }
            None => access::check(call.ctx, "/", privileges)?,
        }
    }
    Ok(vms)
}

/// Marks of backups that were under way when the node went down would keep their guests from starting. While a backup
/// holds its lock they are its own.
fn remove_left_over_locks(task: &Task) -> Result<()> {
    let path = task.ctx.root.run("vzdump.lock");
    if let Ok(lock) = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty())
        && rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
    {
        return Ok(());
    }
    for guest in live::guests(task.ctx)?.iter().filter(|guest| guest.facts.lock.as_deref() == Some("backup")) {
        let removed = guest::update(task.ctx, guest.kind, guest.vmid, |config| {
            config.current.options.remove("lock");
            Ok(())
        });
        match removed {
            Ok(()) => task.log(format!("removed left over backup lock from '{}'!", guest.vmid)),
            Err(error) => task.log(error.message()),
        }
    }
    Ok(())
}

/// Tasks at a time: as asked, as the cluster says, or by the number of processors.
fn max_workers(call: &Call) -> Result<usize> {
    if let Some(asked) = call.opt("max-workers")? {
        return Ok(asked);
    }
    Ok(configured_workers(call.ctx)?.unwrap_or_else(|| (live::node::cpu_count() - 1).clamp(1, 8)))
}

/// `POST /nodes/{node}/startall`: guests with `onboot`, or with `force` all of them.
pub fn start_all(call: &Call) -> Result<Reply> {
    let vms = named(call, POWER)?;
    let force = call.flag("force");
    let limit = max_workers(call)?;
    call.task("startall", "", |task| {
        remove_left_over_locks(task)?;
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values() {
            for (guest, startup) in group.iter().filter(|(guest, _)| force || guest.facts.starts_on_boot) {
                if guest.running.is_some() {
                    continue;
                }
                workers.begin("Starting", "", guest, "start", Map::new())?;
                if let Some(seconds) = startup.up.filter(|seconds| *seconds > 0) {
                    task.log(format!("Waiting for {seconds} seconds (startup delay)"));
                    workers.pause(Duration::from_secs(seconds))?;
                }
            }
            workers.finish()?;
        }
        workers.outcome()
    })
}

/// `POST /nodes/{node}/stopall`: what was started last is stopped first.
pub fn stop_all(call: &Call) -> Result<Reply> {
    let vms = named(call, POWER)?;
    let force = call.opt("force-stop")?.unwrap_or(true);
    let timeout: Option<u64> = call.opt("timeout")?;
    let limit = max_workers(call)?;
    call.task("stopall", "", |task| {
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values().rev() {
            for (guest, startup) in group.iter().rev().filter(|(guest, _)| guest.running.is_some()) {
                let seconds = startup.down.or(timeout).unwrap_or(SHUTDOWN_TIMEOUT);
                let params = [("timeout", json!(seconds)), ("forceStop", json!(u8::from(force)))];
                let params = params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                let note = format!(" (timeout = {seconds} seconds)");
                workers.begin("Stopping", &note, guest, "shutdown", params)?;
            }
            workers.finish()?;
        }
        workers.outcome()
    })
}

/// `POST /nodes/{node}/suspendall`: VMs only, their state goes to disk.
pub fn suspend_all(call: &Call) -> Result<Reply> {
    let vms = named(call, POWER)?;
    let limit = max_workers(call)?;
    call.task("suspendall", "", |task| {
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values().rev() {
            for (guest, _) in group.iter().rev() {
                let vmid = guest.vmid;
                if guest.kind != GuestKind::Qemu {
                    task.warn(format!("skipping {vmid}, only VMs can be suspended"));
                } else if guest.running.is_none() {
                    task.log(format!("VM {vmid} not running, skipping suspension"));
                } else {
                    let params = Map::from_iter([("todisk".to_owned(), json!(1))]);
                    workers.begin("Suspending", "", guest, "suspend", params)?;
                }
            }
            workers.finish()?;
        }
        workers.outcome()
    })
}

/// `POST /cluster/bulk-action/guest/start`: all guests, or those that are named. What stands still goes on.
/// (PVE: pve-manager PVE/API2/Cluster/BulkAction/Guest.pm)
pub fn bulk_start(call: &Call) -> Result<Reply> {
    let (vms, limit) = (named(call, POWER)?, bulk_workers(call)?);
    let timeout: Option<u64> = call.opt("timeout")?;
    call.task("bulk-start", "", |task| {
        announce(task, "Starting", vms.as_deref());
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values() {
            for (guest, startup) in &group {
                let stands_still = guest.kind == GuestKind::Qemu && qemu::is_paused(task.ctx, guest.vmid);
                if guest.running.is_some() && !stands_still {
                    task.warn(format!("Skipping {} {}, already running.", guest.kind.label(), guest.vmid));
                    continue;
                }
                let action = if guest.running.is_some() { "resume" } else { "start" };
                // Containers have no such time.
                let timeout = timeout.filter(|_| guest.kind == GuestKind::Qemu && action == "start");
                let params = timeout.map(|seconds| ("timeout".to_owned(), json!(seconds)));
                workers.begin("Starting", "", guest, action, params.into_iter().collect())?;
                if let Some(seconds) = startup.up.filter(|seconds| *seconds > 0) {
                    task.log(format!("Waiting for {seconds} seconds (startup delay)"));
                    workers.pause(Duration::from_secs(seconds))?;
                }
            }
            workers.finish()?;
        }
        workers.success("Some guests failed to start:")
    })
}

/// `POST /cluster/bulk-action/guest/shutdown`: all guests that run, or those that are named.
pub fn bulk_shutdown(call: &Call) -> Result<Reply> {
    let (vms, limit) = (named(call, POWER)?, bulk_workers(call)?);
    let force: Option<bool> = call.opt("force-stop")?;
    let timeout: Option<u64> = call.opt("timeout")?;
    call.task("bulk-shutdown", "", |task| {
        announce(task, "Shutting down", vms.as_deref());
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values().rev() {
            for (guest, startup) in &group {
                let name = format!("{} {}", guest.kind.label(), guest.vmid);
                if guest.running.is_none() {
                    task.warn(format!("Skipping {name}, not running."));
                    continue;
                }
                // Nobody has said that it may be cut off, and it would not hear a wish.
                let is_spared = force != Some(true) && guest.kind == GuestKind::Qemu;
                if is_spared && qemu::is_paused(task.ctx, guest.vmid) {
                    task.warn(format!("Skipping {name}, resume paused VM before shutdown."));
                    continue;
                }
                let seconds = startup.down.or(timeout).unwrap_or(SHUTDOWN_TIMEOUT);
                let force = force.unwrap_or(true);
                let params = [("timeout", json!(seconds)), ("forceStop", json!(u8::from(force)))];
                let params = params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                let note = format!(" (Timeout = {seconds} seconds)");
                workers.begin("Shutting down", &note, guest, "shutdown", params)?;
            }
            workers.finish()?;
        }
        workers.success("Some guests failed to shutdown")
    })
}

/// `POST /cluster/bulk-action/guest/suspend`: all VMs that run, or those that are named; to memory or to disk.
pub fn bulk_suspend(call: &Call) -> Result<Reply> {
    let (vms, limit) = (named(call, POWER)?, bulk_workers(call)?);
    let to_disk = call.flag("to-disk");
    let storage = call.text("statestorage").filter(|_| to_disk);
    if to_disk {
        named(call, &["VM.Config.Disk"])?;
    }
    if let Some(storage) = &storage {
        access::check(call.ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    call.task("bulk-suspend", "", |task| {
        announce(task, "Suspending", vms.as_deref());
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values().rev() {
            for (guest, _) in &group {
                if guest.kind != GuestKind::Qemu {
                    task.warn(format!("skipping {}, only VMs can be suspended", guest.vmid));
                    continue;
                }
                if guest.running.is_none() {
                    task.warn(format!("Skipping VM {}, not running.", guest.vmid));
                    continue;
                }
                let mut params = Map::from_iter([("todisk".to_owned(), json!(u8::from(to_disk)))]);
                if let Some(storage) = &storage {
                    params.insert("statestorage".into(), json!(storage));
                }
                workers.begin("Suspending", "", guest, "suspend", params)?;
            }
            workers.finish()?;
        }
        workers.success("Some guests failed to suspend")
    })
}

/// Says what a bulk action is about to do.
fn announce(task: &Task, doing: &str, vms: Option<&[Vmid]>) {
    task.log(match vms {
        None | Some([]) => format!("{doing} all guests"),
        Some(vms) => format!("{doing} guests: {}", list(vms)),
    });
}

fn list(vms: &[Vmid]) -> String {
    vms.iter().map(Vmid::to_string).collect::<Vec<_>>().join(", ")
}

/// Tasks at a time of a bulk action, whose limit has two names.
fn bulk_workers(call: &Call) -> Result<usize> {
    let asked = call.opt("max-workers")?.map_or_else(|| call.opt("maxworkers"), |asked| Ok(Some(asked)))?;
    Ok(asked.or(configured_workers(call.ctx)?).unwrap_or(4))
}

/// What the cluster says about tasks at a time.
fn configured_workers(ctx: &Context) -> Result<Option<usize>> {
    Ok(DatacenterOptions::load(ctx)?.get("max_workers").and_then(|text| text.parse().ok()))
}

/// The guests' tasks that run now.
struct Workers<'a> {
    task: &'a Task<'a>,
    ctx: Context,
    limit: usize,
    running: Vec<(Upid, String, Vmid)>,
    failed: Vec<Vmid>,
}

impl<'a> Workers<'a> {
    fn new(task: &'a Task<'a>, limit: usize) -> Self {
        // This process is a worker of the daemon's program, so the same program can run further ones.
        let mode = match (&task.ctx.mode, std::env::current_exe()) {
            (Mode::Worker(_), Ok(worker)) => Mode::Daemon { worker },
            _ => Mode::Foreground,
        };
        let ctx = Context { mode, ..task.ctx.clone() };
        Workers { task, ctx, limit: limit.max(1), running: Vec::new(), failed: Vec::new() }
    }

    /// Begins a guest's task as soon as there is room. A guest that fails keeps no other from its turn.
    fn begin(
        &mut self,
        doing: &str,
        note: &str,
        guest: &GuestRow,
        action: &str,
        mut params: Map<String, Value>,
    ) -> Result<()> {
        while self.running.len() >= self.limit {
            self.wait(None)?;
        }
        self.task.check_abort()?;
        let label = format!("{doing} {} {}", guest.kind.label(), guest.vmid);
        self.task.log(format!("{label}{note}"));
        params.insert("node".into(), json!(self.ctx.node));
        params.insert("vmid".into(), json!(guest.vmid.number()));
        let template = format!("/nodes/{{node}}/{}/{{vmid}}/status/{action}", guest.kind.as_str());
        match registry::run(&self.ctx, Verb::Post, &template, params) {
            Ok(reply) => {
                let upid: Option<Upid> = reply.data.as_str().and_then(|text| text.parse().ok());
                if let (Some(upid), Mode::Daemon { .. }) = (upid, &self.ctx.mode) {
                    self.running.push((upid, label, guest.vmid));
                }
            }
            Err(error) => self.fail(guest.vmid, &label, error.message()),
        }
        Ok(())
    }

    fn fail(&mut self, vmid: Vmid, label: &str, text: &str) {
        self.failed.push(vmid);
        self.task.log(format!("{label} failed: {text}"));
    }

    /// Waits until all have ended.
    fn finish(&mut self) -> Result<()> {
        while !self.running.is_empty() {
            self.wait(None)?;
        }
        Ok(())
    }

    /// Lets time pass; tasks that end meanwhile are noticed.
    fn pause(&mut self, time: Duration) -> Result<()> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.wait(Some(until))?;
        }
        Ok(())
    }

    /// Waits until a task ends, a second has passed, or it is `until`.
    fn wait(&mut self, until: Option<Instant>) -> Result<()> {
        self.task.check_abort()?;
        let pidfds: Vec<_> = self
            .running
            .iter()
            .filter_map(|(upid, ..)| {
                let pid = Pid::from_raw(upid.process.pid.cast_signed())?;
                pidfd_open(pid, PidfdFlags::empty()).ok()
            })
            .collect();
        let all_live = self.running.iter().all(|(upid, ..)| upid.process.is_alive());
        if all_live {
            let rest = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            let rest = rest.min(Duration::from_secs(1));
            let rest = Timespec { tv_sec: rest.as_secs().cast_signed(), tv_nsec: i64::from(rest.subsec_nanos()) };
            let mut fds: Vec<PollFd> = pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
            // A signal interrupts this; then the abort flag is looked at next.
            let _ = poll(&mut fds, Some(&rest));
        }
        let (running, ended) =
            std::mem::take(&mut self.running).into_iter().partition(|(upid, ..)| upid.process.is_alive());
        self.running = running;
        let ended: Vec<(Upid, String, Vmid)> = ended;
        for (upid, label, vmid) in ended {
            let status = journal::status_from_log(&self.ctx, &upid);
            if status != "OK" && !status.starts_with("WARNINGS: ") {
                self.fail(vmid, &label, &status);
            }
        }
        Ok(())
    }

    /// The task succeeds with a warning for each guest that did not. (PVE ends well in any case.)
    fn outcome(&self) -> Result<()> {
        if !self.failed.is_empty() {
            self.task.warn(format!("{} guest(s) failed", self.failed.len()));
        }
        Ok(())
    }

    /// The task fails with the numbers of the guests that did.
    fn success(&self, text: &str) -> Result<()> {
        match self.failed.as_slice() {
            [] => Ok(()),
            failed => Err(Error::new(format!("{text} {}", list(failed)))),
        }
    }
}

/// Guests that start with the node: whether there are any.
pub fn has_autostart(ctx: &Context) -> Result<bool> {
    let guests = live::guests(ctx)?;
    Ok(guests.iter().any(|guest| guest.facts.starts_on_boot && !guest.facts.is_template && guest.running.is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestConfig;

    #[test]
    fn the_plan_goes_by_order_then_number_and_leaves_templates_out() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        for (vmid, key, value) in [
            ("100", "startup", "order=2"),
            ("101", "onboot", "1"),
            ("102", "startup", "1"),
            ("103", "startup", "order=2,up=5"),
            ("104", "template", "1"),
            ("105", "startup", "later"),
        ] {
            let mut config = GuestConfig::new(GuestKind::Lxc);
            config.current.set(key, value);
            guest::create(&ctx, vmid.parse().unwrap(), &config).unwrap();
        }
        let order = |vms: Option<&[Vmid]>| {
            let groups = plan(live::guests(&ctx).unwrap(), vms);
            let numbers = groups.into_values().flatten().map(|(guest, _)| guest.vmid.number());
            numbers.collect::<Vec<_>>()
        };
        assert_eq!(order(None), [102, 100, 103, 101, 105]);
        assert_eq!(order(Some(&["101".parse().unwrap()])), [101]);
        assert!(has_autostart(&ctx).unwrap());
    }
}
