//! Starting, stopping and suspending many guests: in the order of their `startup` option, some at a time.
//!
//! Each guest gets a task of its own, as if it had been started alone; the task here only waits. In a tool there are no
//! further processes: one guest after the other. (PVE: pve-manager PVE/API2/Nodes.pm, startall, stopall, suspendall)

use crate::cluster::options::DatacenterOptions;
use crate::config::guest::GuestKind;
use crate::guest::startup::Startup;
use crate::live::{self, GuestRow};
use crate::task::{Upid, journal};
use crate::{Call, Context, Error, Mode, Reply, Result, Task, Vmid, access, registry};
use contract::Verb;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Order of guests that name none: last at the start, first at the stop.
const NO_ORDER: u64 = u64::MAX;
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
fn named(call: &Call) -> Result<Option<Vec<Vmid>>> {
    let names: Option<Vec<String>> = call.opt("vms")?;
    let vms = names
        .map(|names| {
            names.iter().map(|name| name.parse().map_err(|text: String| Error::parameter("vms", text))).collect()
        })
        .transpose()?;
    if !access::has(call.ctx, "/", &["VM.PowerMgmt"]) {
        match &vms {
            Some(vms) => {
                let vms: &Vec<Vmid> = vms;
                vms.iter().try_for_each(|vmid| access::check(call.ctx, &format!("/vms/{vmid}"), &["VM.PowerMgmt"]))?;
            }
            None => access::check(call.ctx, "/", &["VM.PowerMgmt"])?,
        }
    }
    Ok(vms)
}

/// Tasks at a time: as asked, as the cluster says, or by the number of processors.
fn max_workers(call: &Call) -> Result<usize> {
    if let Some(asked) = call.opt("max-workers")? {
        return Ok(asked);
    }
    let configured = DatacenterOptions::load(call.ctx)?.get("max_workers").and_then(|text| text.parse().ok());
    Ok(configured.unwrap_or_else(|| (live::node::cpu_count() - 1).clamp(1, 8)))
}

/// `POST /nodes/{node}/startall`: guests with `onboot`, or with `force` all of them.
pub fn start_all(call: &Call) -> Result<Reply> {
    let vms = named(call)?;
    let force = call.flag("force");
    let limit = max_workers(call)?;
    call.task("startall", "", |task| {
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values() {
            for (guest, startup) in group.iter().filter(|(guest, _)| force || guest.facts.starts_on_boot) {
                if guest.running.is_some() {
                    continue;
                }
                workers.begin("Starting", guest, "start", Map::new())?;
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
    let vms = named(call)?;
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
                workers.begin("Stopping", guest, "shutdown", params)?;
            }
            workers.finish()?;
        }
        workers.outcome()
    })
}

/// `POST /nodes/{node}/suspendall`: VMs only, their state goes to disk.
pub fn suspend_all(call: &Call) -> Result<Reply> {
    let vms = named(call)?;
    let limit = max_workers(call)?;
    call.task("suspendall", "", |task| {
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values().rev() {
            for (guest, _) in group.iter().rev() {
                if guest.running.is_some() && guest.kind == GuestKind::Qemu {
                    let params = Map::from_iter([("todisk".to_owned(), json!(1))]);
                    workers.begin("Suspending", guest, "suspend", params)?;
                }
            }
            workers.finish()?;
        }
        workers.outcome()
    })
}

/// `POST /cluster/bulk-action/guest/start`: all guests that do not run, or those that are named.
pub fn bulk_start(call: &Call) -> Result<Reply> {
    let (vms, limit) = (named(call)?, bulk_workers(call)?);
    let timeout: Option<u64> = call.opt("timeout")?;
    call.task("bulk-start", "", |task| {
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values() {
            for (guest, startup) in group.iter().filter(|(guest, _)| guest.running.is_none()) {
                // Containers have no such time.
                let timeout = timeout.filter(|_| guest.kind == GuestKind::Qemu);
                let params = timeout.map(|seconds| ("timeout".to_owned(), json!(seconds)));
                workers.begin("Starting", guest, "start", params.into_iter().collect())?;
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

/// `POST /cluster/bulk-action/guest/shutdown`: all guests that run, or those that are named.
pub fn bulk_shutdown(call: &Call) -> Result<Reply> {
    let (vms, limit) = (named(call)?, bulk_workers(call)?);
    let force = call.opt("force-stop")?.unwrap_or(true);
    let timeout: Option<u64> = call.opt("timeout")?;
    call.task("bulk-shutdown", "", |task| {
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values().rev() {
            for (guest, startup) in group.iter().rev().filter(|(guest, _)| guest.running.is_some()) {
                let seconds = timeout.or(startup.down).unwrap_or(SHUTDOWN_TIMEOUT);
                let params = [("timeout", json!(seconds)), ("forceStop", json!(u8::from(force)))];
                let params = params.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
                workers.begin("Shutting down", guest, "shutdown", params)?;
            }
            workers.finish()?;
        }
        workers.outcome()
    })
}

/// `POST /cluster/bulk-action/guest/suspend`: all VMs that run, or those that are named; to memory or to disk.
pub fn bulk_suspend(call: &Call) -> Result<Reply> {
    let (vms, limit) = (named(call)?, bulk_workers(call)?);
    let to_disk = call.flag("to-disk");
    let storage = call.text("statestorage");
    call.task("bulk-suspend", "", |task| {
        let mut workers = Workers::new(task, limit);
        for group in plan(live::guests(task.ctx)?, vms.as_deref()).into_values().rev() {
            let is_meant = |guest: &GuestRow| guest.running.is_some() && guest.kind == GuestKind::Qemu;
            for (guest, _) in group.iter().rev().filter(|(guest, _)| is_meant(guest)) {
                let mut params = Map::from_iter([("todisk".to_owned(), json!(u8::from(to_disk)))]);
                if let Some(storage) = storage.as_ref().filter(|_| to_disk) {
                    params.insert("statestorage".into(), json!(storage));
                }
                workers.begin("Suspending", guest, "suspend", params)?;
            }
            workers.finish()?;
        }
        workers.outcome()
    })
}

/// Tasks at a time of a bulk action, under its two names.
fn bulk_workers(call: &Call) -> Result<usize> {
    match call.opt("maxworkers")? {
        Some(asked) => Ok(asked),
        None => max_workers(call),
    }
}

/// The guests' tasks that run now.
struct Workers<'a> {
    task: &'a Task<'a>,
    ctx: Context,
    limit: usize,
    running: Vec<(Upid, String)>,
    failed: usize,
}

impl<'a> Workers<'a> {
    fn new(task: &'a Task<'a>, limit: usize) -> Self {
        // This process is a worker of the daemon's program, so the same program can run further ones.
        let mode = match (&task.ctx.mode, std::env::current_exe()) {
            (Mode::Worker(_), Ok(worker)) => Mode::Daemon { worker },
            _ => Mode::Foreground,
        };
        let ctx = Context { mode, ..task.ctx.clone() };
        Workers { task, ctx, limit: limit.max(1), running: Vec::new(), failed: 0 }
    }

    /// Begins a guest's task as soon as there is room. A guest that fails keeps no other from its turn.
    fn begin(&mut self, doing: &str, guest: &GuestRow, action: &str, mut params: Map<String, Value>) -> Result<()> {
        while self.running.len() >= self.limit {
            self.wait(None)?;
        }
        self.task.check_abort()?;
        let label = format!("{doing} {} {}", guest.kind.label(), guest.vmid);
        self.task.log(&label);
        params.insert("node".into(), json!(self.ctx.node));
        params.insert("vmid".into(), json!(guest.vmid.number()));
        let template = format!("/nodes/{{node}}/{}/{{vmid}}/status/{action}", guest.kind.as_str());
        match registry::run(&self.ctx, Verb::Post, &template, params) {
            Ok(reply) => {
                let upid: Option<Upid> = reply.data.as_str().and_then(|text| text.parse().ok());
                if let (Some(upid), Mode::Daemon { .. }) = (upid, &self.ctx.mode) {
                    self.running.push((upid, label));
                }
            }
            Err(error) => self.fail(&label, error.message()),
        }
        Ok(())
    }

    fn fail(&mut self, label: &str, text: &str) {
        self.failed += 1;
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
            .filter_map(|(upid, _)| {
                let pid = Pid::from_raw(upid.process.pid.cast_signed())?;
                pidfd_open(pid, PidfdFlags::empty()).ok()
            })
            .collect();
        let all_live = self.running.iter().all(|(upid, _)| upid.process.is_alive());
        if all_live {
            let rest = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
            let rest = rest.min(Duration::from_secs(1));
            let rest = Timespec { tv_sec: rest.as_secs().cast_signed(), tv_nsec: i64::from(rest.subsec_nanos()) };
            let mut fds: Vec<PollFd> = pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
            // A signal interrupts this; then the abort flag is looked at next.
            let _ = poll(&mut fds, Some(&rest));
        }
        let (running, ended) =
            std::mem::take(&mut self.running).into_iter().partition(|(upid, _)| upid.process.is_alive());
        self.running = running;
        let ended: Vec<(Upid, String)> = ended;
        for (upid, label) in ended {
            let status = journal::status_from_log(&self.ctx, &upid);
            if status != "OK" && !status.starts_with("WARNINGS: ") {
                self.fail(&label, &status);
            }
        }
        Ok(())
    }

    /// The task succeeds with a warning for each guest that did not. (PVE ends well in any case.)
    fn outcome(&self) -> Result<()> {
        if self.failed > 0 {
            self.task.warn(format!("{} guest(s) failed", self.failed));
        }
        Ok(())
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
    use crate::guest;

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
