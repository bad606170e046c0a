//! Starting a VM.
//!
//! ```text
//! checks ── pending changes ── volumes ── plan ── taps ── QEMU ── balloon, links
//!                                                  └── undone when a later step fails
//! ```
//! QEMU becomes the child of a keeper, which is nobody's ([`spawn`]). Taps are handed over as descriptors: if this process
//! dies half-way, either QEMU has them and runs, or they are gone.

use super::command_line::{self, Options, Paths, Plan, StoredVolumes, local};
use super::config::{self, Slot, Vm};
use super::preparation::Preparation;
use super::{
    cloudinit, edit, files, hotplug, pending, qmp::Monitor, recovery, scope, snapshot::plan::RUNNING, spawn, spice,
    state::Incoming, status, stop, surroundings, suspend,
};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, guest, network};
use serde_json::json;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// How a VM is to be started.
#[derive(Debug, Clone, Default)]
pub struct Start {
    /// Start although the VM is marked as locked.
    pub skip_lock: bool,
    /// Seconds that QEMU may take.
    pub timeout: Option<u64>,
    /// A machine type instead of the configured one.
    pub machine: Option<String>,
    /// A processor instead of the configured one.
    pub cpu: Option<String>,
    /// MTUs by card that the guest knows already; 0 means that it was told none.
    pub mtus: BTreeMap<String, u64>,
    /// The port of SPICE; without one a free one is looked for.
    pub spice_port: Option<u16>,
    /// The state of the machine with which it goes on.
    pub state: Option<VolumeId>,
    /// It was suspended to disk.
    pub is_resumed: bool,
}

/// Starts a VM; waits for others that work on it.
pub fn start(task: &Task, vmid: Vmid, how: &Start) -> Result<()> {
    let _lock = recovery::NOTES.lock(task, vmid)?;
    start_locked(task, vmid, how)
}

/// As [`start`], for callers that hold the VM's lock.
pub fn start_locked(task: &Task, vmid: Vmid, how: &Start) -> Result<()> {
    let ctx = task.ctx;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    if Vm::new(vmid, &config.current).is_template() {
        crate::bail!("you can't start a vm if it's a template");
    }
    let running = status::is_running(ctx, vmid);
    let lock = config.current.get("lock");
    if running && lock == Some("backup") {
        // A backup has started it, standing still, and would rather not see another one.
        return suspend::wake(ctx, vmid, how.skip_lock);
    }
    if !how.skip_lock && lock != Some("suspended") {
        guest::check_lock(&config)?;
    }
    if running {
        crate::bail!("VM {vmid} already running");
    }
    let is_cold = how.state.is_none() && !how.is_resumed;
    if is_cold && let Some(suspended) = suspend::how_to_resume(&config, how)? {
        return suspend::resume(task, vmid, &suspended);
    }
    if is_cold {
        pending::apply_stopped(ctx, vmid, &mut |text| task.warn(text))?;
    }
    let mut config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    // QEMU gets it over a pipe; only Proxmox's has an option for it.
    config.current.options.remove("vmstate");
    let vm = Vm::new(vmid, &config.current);
    files::ensure_directory(ctx)?;
    for name in files::remove_leftovers(ctx, vmid)? {
        task.log(format!("removed '{name}' of a VM that has ended"));
    }
    if is_cold {
        cloudinit::renew(ctx, vmid, &config, &mut |line| task.log(line))?;
    }
    // It may make ready what the volumes lie on.
    stop::hook(task, &vm, "pre-start")?;
    activate_volumes(ctx, &vm)?;
    let with_port = Start { spice_port: spice::reserve(ctx, &vm)?, ..how.clone() };
    let mut plan = plan(ctx, &vm, &with_port)?;
    plan.notes.iter().for_each(|note| task.log(note));
    for warning in &plan.warnings {
        task.warn(warning);
    }
    let timeout = Duration::from_secs(how.timeout.unwrap_or(default_timeout(&vm)?));
    let mut preparation = Preparation::new(task, vm);
    let launched = preparation
        .before(&mut plan, timeout.as_secs())
        .and_then(|()| launch(task, &vm, &plan, &mut preparation, how.state.as_ref(), timeout));
    if let Err(error) = launched {
        return Err(error.with_cleanup_failures(&preparation.undo()));
    }
    preparation.started();
    if let Err(error) = keep_as_started(ctx, &vm) {
        task.warn(error.message());
    }
    if let Err(error) = settle(ctx, &vm) {
        return Err(error.with_cleanup_failures(&stop::kill(ctx, vmid).err().into_iter().collect::<Vec<_>>()));
    }
    if is_cold {
        forget_left_over(task, &vm)?;
    }
    if !how.is_resumed {
        started(task, &vm);
    }
    Ok(())
}

/// The machine was planned some time ago; a change that nobody has waited with since then is not in it. (Drives and what
/// tasks note change under the VM's lock only.)
fn keep_as_started(ctx: &Context, vm: &Vm) -> Result<()> {
    let notes = ["lock", "meta", "parent", "template", "vmstate"];
    let is_meant = |key: &str| {
        let is_elsewhere = notes.contains(&key) || RUNNING.contains(&key) || key.starts_with("unused");
        !is_elsewhere && Slot::of_key(key).is_none() && !hotplug::is_without_effect(key)
    };
    guest::update(ctx, GuestKind::Qemu, vm.vmid, |config| {
        edit::postpone(config, vm.part(), is_meant);
        Ok(())
    })
}

/// What a hook script does after a start is no failure of it.
pub(super) fn started(task: &Task, vm: &Vm) {
    if let Err(error) = stop::hook(task, vm, "post-start") {
        task.log(error.message());
    }
}

/// What was noted with a state that is gone means nothing to a VM that has started without it.
fn forget_left_over(task: &Task, vm: &Vm) -> Result<()> {
    let left: Vec<&str> = RUNNING.into_iter().filter(|key| vm.text(key).is_some()).collect();
    if left.is_empty() {
        return Ok(());
    }
    for key in &left {
        task.log(format!("No VM state set, removing left-over option '{key}'"));
    }
    guest::update(task.ctx, GuestKind::Qemu, vm.vmid, |config| {
        left.iter().for_each(|key| drop(config.current.options.remove(*key)));
        Ok(())
    })
}

/// The command line as PVE prints it.
pub fn show(ctx: &Context, vmid: Vmid, config: &GuestConfig, snapshot: Option<&str>) -> Result<Plan> {
    let part = match snapshot {
        None => &config.current,
        Some(name) => {
            let missing = || Error::new(format!("snapshot '{name}' does not exist"));
            config.snapshots.get(name).ok_or_else(missing)?
        }
    };
    let vm = Vm::new(vmid, part);
    let how = Start {
        machine: vm.text("runningmachine").map(str::to_owned),
        cpu: vm.text("runningcpu").map(str::to_owned),
        mtus: known_mtus(vm.text("running-nets-host-mtu").unwrap_or_default()),
        ..Start::default()
    };
    plan(ctx, &vm, &how)
}

/// `net0=1500,net1=9000`, as snapshots keep it.
pub fn known_mtus(text: &str) -> BTreeMap<String, u64> {
    let pairs = crate::types::split_list(text);
    let pair = |pair: &String| {
        let (card, mtu) = pair.split_once('=')?;
        Some((card.to_owned(), mtu.parse().ok()?))
    };
    pairs.iter().filter_map(pair).collect()
}

/// The command line of a VM on this node.
pub fn plan(ctx: &Context, vm: &Vm, how: &Start) -> Result<Plan> {
    let options = Options {
        paths: Paths::of(&ctx.root),
        machine: how.machine.clone(),
        cpu: how.cpu.clone(),
        mtus: how.mtus.clone(),
        spice_port: match how.spice_port {
            None if spice::is_wanted(ctx, vm) => Some(spice::free_port(ctx)?),
            chosen => chosen,
        },
    };
    let (readable, unreadable) = config::readable(vm);
    let vm = Vm::new(vm.vmid, &readable);
    let around = surroundings::read(ctx, &vm)?;
    let mut plan = command_line::plan(vm, &ctx.host, &StoredVolumes { ctx }, &around, &options)?;
    plan.notes.splice(0..0, unreadable);
    Ok(plan)
}

/// Every volume must be there, and ready, before anything is made for the start.
fn activate_volumes(ctx: &Context, vm: &Vm) -> Result<()> {
    for (slot, drive) in vm.drives()? {
        if let Some(volume) = drive.volume() {
            storage::activate_existing(ctx, &volume).map_err(|error| error.context(slot))?;
        } else if drive.file.starts_with('/') && !std::path::Path::new(&drive.file).exists() {
            crate::bail!("{slot}: '{}' does not exist", drive.file);
        }
    }
    Ok(())
}

/// Seconds that QEMU may take to start. (PVE: Helpers.pm, config_aware_timeout)
fn default_timeout(vm: &Vm) -> Result<u64> {
    let memory = vm.memory()?;
    let mut base = if memory > 30720 { memory / 1024 } else { 30 };
    // Devices of the host and huge pages take their time.
    if !vm.indexed("hostpci").is_empty() {
        base *= 4;
    }
    if vm.text("hugepages").is_some() {
        base = base.max(150);
    }
    Ok(base + 5 * vm.nets()?.len() as u64)
}

fn launch(
    task: &Task,
    vm: &Vm,
    plan: &Plan,
    preparation: &mut Preparation,
    state: Option<&VolumeId>,
    timeout: Duration,
) -> Result<()> {
    let ctx = task.ctx;
    let places = local::Places::of(ctx, vm.vmid);
    let mut local = local::localise(plan, &ctx.host, ctx.host.qemu_version()?, &places)?;
    local.command.extend(["-D", spawn::LOG].map(str::to_owned));
    let command = scope::prefix(ctx, vm)?;
    let taps = make_taps(ctx, vm, &mut local)?;
    let mut descriptors: Vec<RawFd> = taps.iter().flat_map(|tap| &tap.queues).map(AsRawFd::as_raw_fd).collect();
    let incoming = state.map(|volume| Incoming::open(&storage::activate_volume(ctx, volume, None)?)).transpose()?;
    if let Some(incoming) = &incoming {
        descriptors.push(incoming.descriptor());
        local.command.extend(["-incoming".to_owned(), format!("fd:{}", incoming.descriptor())]);
    }
    preparation.processes()?;
    let words: Vec<&str> = command.iter().chain(&local.command).map(String::as_str).collect();
    let outcome = spawn::spawn(ctx, vm.vmid, &words, descriptors).and_then(|starting| starting.wait(task, timeout));
    drop(taps);
    // Loading takes as long as there is memory; PVE gives it at least five minutes.
    let loaded = |incoming: Incoming| {
        task.log("Resuming from the saved state of the VM");
        incoming.wait_until_loaded(ctx, vm.vmid, timeout.max(Duration::from_secs(300)))
    };
    let outcome = outcome.and_then(|()| incoming.map_or(Ok(()), loaded));
    outcome.map_err(|error| {
        let failures: Vec<Error> = stop::kill(ctx, vm.vmid).err().into_iter().collect();
        error.context("start failed").with_cleanup_failures(&failures)
    })
}

/// Looks at all bridges first, so that a missing one leaves nothing behind.
fn make_taps(ctx: &Context, vm: &Vm, local: &mut local::Local) -> Result<Vec<network::TapDevice>> {
    let ports: Vec<network::Port> =
        vm.nets()?.iter().filter_map(|(number, net)| net.port(vm.vmid, *number).transpose()).collect::<Result<_>>()?;
    for port in &ports {
        network::port::check(ctx, port)?;
    }
    let mut devices = Vec::new();
    for tap in local.taps.clone() {
        let port = ports.iter().find(|port| port.name == tap.name);
        let port = port.ok_or_else(|| Error::new(format!("no network device has the tap '{}'", tap.name)))?;
        let device = network::create_tap(ctx, port, tap.queues)?;
        let descriptors: Vec<RawFd> = device.queues.iter().map(AsRawFd::as_raw_fd).collect();
        local.set_descriptors(&tap, &descriptors);
        devices.push(device);
    }
    Ok(devices)
}

/// What can only be set once QEMU runs.
fn settle(ctx: &Context, vm: &Vm) -> Result<()> {
    let mut monitor = Monitor::connect(ctx, vm.vmid)?;
    if let Some(target) = vm.number("balloon").filter(|target| *target > 0) {
        monitor.execute("balloon", json!({"value": target << 20}))?;
    }
    for (number, net) in vm.nets()? {
        if net.is_link_down() {
            monitor.execute("set_link", json!({"name": format!("net{number}"), "up": false}))?;
        }
    }
    if vm.number("balloon") != Some(0) {
        let property =
            json!({"path": "machine/peripheral/balloon0", "property": "guest-stats-polling-interval", "value": 2});
        monitor.execute("qom-set", property)?;
    }
    Ok(())
}
