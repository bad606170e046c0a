//! The node's state in memory: guests, storages, load. Only the privileged daemon keeps one; tools look once.
//!
//! ```text
//! files ──inotify──┐
//! pid files ───────┼──> table of guests ──> lists, /cluster/resources
//! pidfds ──────────┘        ^
//! every ten seconds: what running guests and the node use ──> history
//! ```
//! A reader takes over what has happened before it reads, so a list is never older than the files. The threads exist for
//! what nobody reads: one notices ends, measures load, and keeps the kernel's queue short; one asks VMs what only they
//! know, and waits for each of them a moment. Nothing else here waits for a guest or a storage, or writes a file but the
//! history.

mod balloon;
pub mod counters;
mod facts;
pub mod history;
pub mod node;
pub mod pressure;
mod row;
mod running;
mod state;
mod storages;
mod watch;

pub use facts::GuestFacts;
pub use row::{Look, ResourceRow, StatusRow, plain_number};
pub use running::{Running, Usage, ticks_per_second};
pub use storages::storages;

use crate::access::{self, View};
use crate::config::guest::GuestKind;
use crate::{Context, Result, Vmid, error::ResultExt, qemu, storage};
use history::{History, Kind};
use node::{CpuLoad, CpuMeter};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use state::Table;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watch::Watch;

/// The stack of the daemon's own threads. They ask storages and guests, which may lead anywhere; what is not touched costs
/// no memory.
pub(crate) const STACK: usize = 2 << 20;

/// How often load is measured.
const MEASURE: Duration = Duration::from_secs(10);

/// Something about a configuration file that an administrator should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// When the file was written.
    pub time: i64,
    /// What is wrong.
    pub text: String,
}

/// A guest of this node in a list.
#[derive(Debug, Clone)]
pub struct GuestRow {
    /// Its number.
    pub vmid: Vmid,
    /// VM or container.
    pub kind: GuestKind,
    /// What its configuration says.
    pub facts: Arc<GuestFacts>,
    /// What it uses, if it runs.
    pub running: Option<Running>,
}

impl GuestRow {
    /// Whether somebody may see it.
    pub fn is_visible_to(&self, view: &View) -> bool {
        view.has(&format!("/vms/{}", self.vmid), "VM.Audit")
    }

    /// `running` or `stopped`.
    pub fn status(&self) -> &'static str {
        if self.running.is_some() { "running" } else { "stopped" }
    }

    /// Its name; a made-up one when none is configured. (PVE: vmstatus of VMs and of containers)
    pub fn name(&self) -> Cow<'_, str> {
        match (&self.facts.name, self.kind) {
            (Some(name), _) => name.into(),
            (None, GuestKind::Qemu) => format!("VM {}", self.vmid).into(),
            (None, GuestKind::Lxc) => format!("CT{}", self.vmid).into(),
        }
    }

    /// Processors that it can use on a node with `host` of them: not more than those, unless it was given them by name.
    pub fn cpus(&self, host: f64) -> f64 {
        match self.facts.cpus {
            cpus if cpus <= 0.0 => host,
            cpus if self.facts.has_cpus_by_name => cpus,
            cpus => cpus.min(host),
        }
    }
}

/// Guests, storages and node as last seen; ends its thread when dropped.
pub struct Live {
    shared: Arc<Shared>,
    stop: Arc<OwnedFd>,
    threads: Vec<JoinHandle<()>>,
}

/// What readers and the thread have in common.
struct Shared {
    ctx: Context,
    guests: Mutex<(Table, Watch)>,
    cpu: Mutex<CpuMeter>,
    storages: storages::Cache,
    history: History,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

/// Begins to follow the node's state. Called once by the privileged daemon.
///
/// # Errors
/// When the configuration directories cannot be watched.
pub fn start(ctx: &Context) -> Result<Arc<Live>> {
    let ctx = Context { live: None, caller: crate::Caller::root(), ..ctx.clone() };
    // The watch comes first: what changes during the scan is seen twice, not never.
    let watch = Watch::new(&ctx)?;
    let table = Table::scan(&ctx, &watch::KINDS)?;
    table.problems().iter().for_each(report);
    let shared = Arc::new(Shared {
        guests: Mutex::new((table, watch)),
        cpu: Mutex::default(),
        storages: storages::Cache::default(),
        history: History::of(&ctx),
        ctx,
    });
    shared.cpu_load();
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
    let begin = |name: &str, work: fn(&Arc<Shared>, &OwnedFd)| {
        let (shared, stop) = (shared.clone(), stop.clone());
        let thread = std::thread::Builder::new().name(name.into()).stack_size(STACK);
        thread.spawn(move || work(&shared, &stop)).context(|| "unable to start a thread")
    };
    let threads = vec![begin("live", follow)?, begin("machines", ask_machines)?];
    Ok(Arc::new(Live { shared, stop, threads }))
}

impl Live {
    /// What was measured in the past.
    pub fn history(&self) -> &History {
        &self.shared.history
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Writing to an event counter that nobody has filled cannot block or fail.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            // It ends without a result.
            let _ = thread.join();
        }
        self.shared.history.flush(self.shared.ctx.clock.now(), self.shared.subjects().as_ref());
    }
}

impl Shared {
    fn lock_guests(&self) -> MutexGuard<'_, (Table, Watch)> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what has happened.
    fn follow(&self) -> Result<MutexGuard<'_, (Table, Watch)>> {
        let mut guests = self.lock_guests();
        let (table, watch) = &mut *guests;
        table.follow(&self.ctx, watch)?.iter().for_each(report);
        Ok(guests)
    }

    /// Everything that has a history; nothing if nobody can say.
    fn subjects(&self) -> Option<BTreeSet<history::Subject>> {
        let storages = storage::config(&self.ctx).ok()?;
        let mut subjects = BTreeSet::from([(Kind::Node, self.ctx.node.clone())]);
        subjects.extend(storages.entries().map(|(id, _)| (Kind::Storage, id.to_owned())));
        subjects.extend(self.lock_guests().0.rows().iter().map(|row| (Kind::Guest, row.vmid.to_string())));
        Some(subjects)
    }

    fn cpu_load(&self) -> CpuLoad {
        self.cpu.lock().unwrap_or_else(PoisonError::into_inner).load()
    }
}

/// Into the journal of the service.
fn report(problem: &Problem) {
    eprintln!("{}", problem.text);
}

/// The thread: sleeps until a file changes, a guest ends, or it is time to measure.
fn follow(shared: &Arc<Shared>, stop: &OwnedFd) {
    let mut measure_at = Instant::now() + MEASURE;
    loop {
        let wait = measure_at.saturating_duration_since(Instant::now());
        if !wait_for_events(shared, stop, wait) {
            return;
        }
        match shared.follow() {
            Ok(mut guests) if Instant::now() >= measure_at => guests.0.measure(&shared.ctx),
            Ok(_) => {}
            Err(error) => {
                eprintln!("unable to follow the node's state: {error}");
                // Not as fast as the failure repeats.
                if !wait_for(&[stop.as_fd()], MEASURE) {
                    continue;
                }
                return;
            }
        }
        if Instant::now() >= measure_at {
            remember(shared);
            measure_at = Instant::now() + MEASURE;
        }
    }
}

/// Adds what was measured to the history.
fn remember(shared: &Arc<Shared>) {
    let (guests, now) = (shared.lock_guests().0.rows(), shared.ctx.clock.now());
    let look = Look::at(&guests);
    let mut samples = vec![((Kind::Node, shared.ctx.node.clone()), node::sample(shared.cpu_load()))];
    for guest in &guests {
        samples.extend(row::sample(guest, &look).map(|sample| ((Kind::Guest, guest.vmid.to_string()), sample)));
    }
    // Some kinds of storage are expensive to ask: once a minute is enough.
    if now.rem_euclid(60) < MEASURE.as_secs().cast_signed() {
        for storage in storages::current(shared).iter().filter(|storage| storage.active) {
            let sample = vec![("total", storage.total as f64), ("used", storage.used as f64)];
            samples.push(((Kind::Storage, storage.id.clone()), sample));
        }
    }
    shared.history.add(now, samples);
    shared.history.flush_if_due(now, || shared.subjects());
}

/// The thread that asks what only QEMU knows: it waits for each VM a moment, and lists wait for none.
fn ask_machines(shared: &Arc<Shared>, stop: &OwnedFd) {
    while !wait_for(&[stop.as_fd()], MEASURE) {
        let machines = shared.lock_guests().0.running_machines();
        let mut balloons = Vec::new();
        for (vmid, process) in machines {
            if let Ok(told) = qemu::status::told(&shared.ctx, vmid) {
                let mut guests = shared.lock_guests();
                guests.0.take_told(vmid, process, &told.usage);
                balloons.extend(guests.0.balloon(vmid, &told));
            }
            if wait_for(&[stop.as_fd()], Duration::ZERO) {
                return;
            }
        }
        share_memory(&shared.ctx, &balloons);
    }
}

/// Takes memory from VMs or gives it back, so that the node keeps some free.
fn share_memory(ctx: &Context, balloons: &[balloon::Guest]) {
    if balloons.is_empty() {
        return;
    }
    // Without the option, or while it cannot be read, it is PVE's default.
    let target = crate::node::options::ballooning_target(ctx).unwrap_or(80);
    let memory = node::Memory::read();
    for (vmid, bytes) in balloon::plan(balloons, balloon::goal(memory.total, memory.used(), target)) {
        // A VM that ends meanwhile needs none; the others are asked again in a moment.
        let _ = qemu::status::set_balloon(ctx, vmid, bytes);
    }
}

/// Waits; `false` when it is time to end.
fn wait_for_events(shared: &Shared, stop: &OwnedFd, wait: Duration) -> bool {
    let (pidfds, changes) = {
        let guests = shared.lock_guests();
        let Ok(changes) = guests.1.as_fd().try_clone_to_owned() else { return true };
        (guests.0.pidfds(), changes)
    };
    let mut fds = vec![stop.as_fd(), changes.as_fd()];
    fds.extend(pidfds.iter().map(AsFd::as_fd));
    wait_for(&fds, wait);
    !wait_for(&[stop.as_fd()], Duration::ZERO)
}

/// Whether one of the descriptors became readable in time.
fn wait_for(fds: &[std::os::fd::BorrowedFd<'_>], wait: Duration) -> bool {
    let mut fds: Vec<PollFd> = fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let wait = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: i64::from(wait.subsec_nanos()) };
    poll(&mut fds, Some(&wait)).is_ok_and(|ready| ready > 0)
}

/// The guests of this node by number: from memory in the daemon, by one look elsewhere.
pub fn guests(ctx: &Context) -> Result<Vec<GuestRow>> {
    match &ctx.live {
        Some(live) => Ok(live.shared.follow()?.0.rows()),
        None => Ok(Table::scan(ctx, &watch::KINDS)?.rows()),
    }
}

/// What is known of a running guest from looking regularly, which only the daemon does.
pub fn known(ctx: &Context, kind: GuestKind, vmid: Vmid) -> Result<Option<Running>> {
    let Some(live) = &ctx.live else { return Ok(None) };
    Ok(live.shared.follow()?.0.running(kind, vmid))
}

/// As [`guests`], of one kind.
pub fn guests_of(ctx: &Context, kind: GuestKind) -> Result<Vec<GuestRow>> {
    let mut rows = match &ctx.live {
        Some(live) => live.shared.follow()?.0.rows(),
        None => Table::scan(ctx, &[kind])?.rows(),
    };
    rows.retain(|row| row.kind == kind);
    Ok(rows)
}

/// Configuration files that cannot be read, or not in full: of guests, users and storages.
pub fn problems(ctx: &Context) -> Result<Vec<Problem>> {
    let mut problems = match &ctx.live {
        Some(live) => live.shared.follow()?.0.problems(),
        None => Table::scan(ctx, &watch::KINDS)?.problems(),
    };
    let users = access::config(ctx)?;
    // The lines themselves may hold a secret.
    let lines: Vec<String> = users.problems.iter().map(usize::to_string).collect();
    if !lines.is_empty() {
        let text = format!("unable to parse 'user.cfg', line {}", lines.join(", "));
        problems.push(Problem { time: written(ctx, "user.cfg"), text });
    }
    let storages = storage::config(ctx)?;
    let time = written(ctx, storage::config::FILE);
    problems.extend(storages.problems().iter().map(|text| Problem { time, text: text.clone() }));
    Ok(problems)
}

/// When a file below `/etc/pve` was written; 0 if nobody can say.
fn written(ctx: &Context, name: &str) -> i64 {
    let time = std::fs::metadata(ctx.root.etc_pve(name)).and_then(|meta| meta.modified()).ok();
    let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    time.map_or(0, |elapsed| elapsed.as_secs().cast_signed())
}

/// The load of the node's processors; 0 where nobody has measured.
pub fn cpu_load(ctx: &Context) -> CpuLoad {
    ctx.live.as_ref().map_or_else(CpuLoad::default, |live| live.shared.cpu_load())
}

/// Other nodes that `/etc/pve` knows.
pub fn other_nodes(ctx: &Context) -> Vec<String> {
    let entries = std::fs::read_dir(ctx.root.etc_pve("nodes"));
    let mut names: Vec<String> =
        entries.into_iter().flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.retain(|name| *name != ctx.node);
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests;
