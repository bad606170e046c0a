//! Snapshots: making, removing and going back to them.
//!
//! ```text
//! make:      prepare (lock, section) ── freeze or save memory ── disks ── commit
//!                                            └── undone when a later step fails
//! go back:   stop ── disks ── configuration ── start with the memory, if there is one
//! ```
//! Disks of a running VM whose snapshots lie in the image are QEMU's affair, all in one transaction; others are the
//! storage's while the guest stands still. (PVE: pve-guest-common PVE/AbstractConfig.pm, qemu-server PVE/QemuConfig.pm)

pub mod plan;
mod removal;

pub use removal::{delete, finish as finish_removal};

use super::config::{Drive, Vm};
use super::launch::{self, Start};
use super::qmp::{self, Monitor};
use super::recovery::{self, Facts};
use super::stop::{self, Stop};
use super::{agent, state, status};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, Feature, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, guest};
use serde_json::json;

/// A wish for a snapshot.
#[derive(Debug, Clone)]
pub struct Create {
    /// Its name.
    pub name: String,
    /// Whether the memory of a running VM is kept.
    pub with_state: bool,
    /// What people say about it.
    pub description: Option<String>,
}

/// Makes a snapshot.
pub fn create(task: &Task, vmid: Vmid, wish: &Create) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let running = status::is_running(ctx, vmid);
    check(ctx, vmid, &config, running)?;
    if config.snapshots.contains_key(&wish.name) {
        crate::bail!("snapshot name '{}' already used", wish.name);
    }
    let mut extra = Part::default();
    let place = if wish.with_state && running { Some(state::place(ctx, vmid, &config)?) } else { None };
    let facts =
        Facts { storages: place.as_deref().into_iter().collect(), snapshot: Some(&wish.name), ..Facts::default() };
    let _work = recovery::begin(ctx, vmid, &facts)?;
    let memory = match wish.with_state && running {
        true => Some(state::allocate(ctx, vmid, &config, &wish.name, None, &mut extra)?),
        false => None,
    };
    let prepared = guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        guest::check_lock(config)?;
        plan::prepare(config, &wish.name, wish.description.clone(), ctx.clock.now(), extra)
    });
    if let Err(error) = prepared {
        let freed = memory.as_ref().map_or(Ok(()), |volume| storage::free(ctx, volume));
        return Err(error.with_cleanup_failures(&freed.err().into_iter().collect::<Vec<_>>()));
    }
    let disks = plan::disks(vmid, &config.current)?;
    let mut made = Vec::new();
    let outcome = match (&memory, running) {
        (Some(volume), _) => with_memory(task, vmid, volume, &wish.name, &disks, &mut made),
        (None, true) => while_running(task, vmid, &config, &wish.name, &disks, &mut made),
        (None, false) => disks.iter().try_for_each(|drive| by_storage(task, &wish.name, drive, &mut made)),
    };
    if let Err(error) = outcome {
        task.log("snapshot create failed: starting cleanup");
        let failures = undo(ctx, vmid, &wish.name, &made, memory.as_ref());
        return Err(error.with_cleanup_failures(&failures));
    }
    guest::update(ctx, GuestKind::Qemu, vmid, |config| plan::commit(config, &wish.name))
}

fn check(ctx: &Context, vmid: Vmid, config: &GuestConfig, running: bool) -> Result<()> {
    if Vm::new(vmid, &config.current).is_template() {
        crate::bail!("you can't take a snapshot if it's a template");
    }
    guest::check_lock(config)?;
    if !is_possible(ctx, vmid, &config.current, running)? {
        crate::bail!("snapshot feature is not available");
    }
    Ok(())
}

/// Whether all disks can have snapshots.
pub fn is_possible(ctx: &Context, vmid: Vmid, part: &Part, running: bool) -> Result<bool> {
    for drive in plan::disks(vmid, part)? {
        let Some(volume) = drive.volume() else { return Ok(false) };
        if !storage::has_feature(ctx, Feature::Snapshot, &volume, None, running)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn by_storage(task: &Task, name: &str, drive: &Drive, made: &mut Vec<Drive>) -> Result<()> {
    let Some(volume) = drive.volume() else { return Ok(()) };
    task.log(format!("snapshotting 'drive-{}' ({})", drive.slot, drive.file));
    storage::snapshot(task.ctx, &volume, name)?;
    made.push(drive.clone());
    Ok(())
}

/// Snapshots of all disks of a guest that stands still, in one step for those in images.
fn all_at_once(task: &Task, monitor: &mut Monitor, name: &str, disks: &[Drive], made: &mut Vec<Drive>) -> Result<()> {
    let (by_qemu, others): (Vec<&Drive>, Vec<&Drive>) = disks.iter().partition(|drive| is_in_image(task.ctx, drive));
    let actions: Vec<_> = by_qemu
        .iter()
        .map(|drive| {
            task.log(format!("snapshotting 'drive-{}' ({})", drive.slot, drive.file));
            let data = json!({"device": format!("drive-{}", drive.slot), "name": name});
            json!({"type": "blockdev-snapshot-internal-sync", "data": data})
        })
        .collect();
    if !actions.is_empty() {
        let time = std::time::Duration::from_secs(600);
        monitor.execute_within("transaction", json!({"actions": actions}), time)?;
        made.extend(by_qemu.into_iter().cloned());
    }
    others.into_iter().try_for_each(|drive| by_storage(task, name, drive, made))
}

/// Whether a drive's snapshots lie in its image, which QEMU has open.
fn is_in_image(ctx: &Context, drive: &Drive) -> bool {
    drive.volume().is_some_and(|volume| storage::snapshots_in_image(ctx, &volume).unwrap_or(false))
}

/// With the memory: the disks are taken at the very moment that the memory's state describes.
fn with_memory(
    task: &Task,
    vmid: Vmid,
    volume: &VolumeId,
    name: &str,
    disks: &[Drive],
    made: &mut Vec<Drive>,
) -> Result<()> {
    let was_paused = status::is_paused(task.ctx, vmid);
    task.log(format!("saving VM state and RAM using storage '{}'", volume.storage));
    let path = storage::activate_volume(task.ctx, volume, None)?;
    let outcome = state::save(task, vmid, &path, |monitor| all_at_once(task, monitor, name, disks, made));
    let resumed = match was_paused {
        true => Ok(()),
        false => resume(task.ctx, vmid),
    };
    outcome.map_err(|error| {
        error.with_cleanup_failures(
            &resumed.as_ref().err().map(|e| Error::new(e.message())).into_iter().collect::<Vec<_>>(),
        )
    })?;
    resumed
}

fn resume(ctx: &Context, vmid: Vmid) -> Result<()> {
    qmp::execute(ctx, vmid, "cont", json!({})).map(drop)
}

/// Without the memory: file systems hold still if the agent can say so, and the guest pauses for a moment.
fn while_running(
    task: &Task,
    vmid: Vmid,
    config: &GuestConfig,
    name: &str,
    disks: &[Drive],
    made: &mut Vec<Drive>,
) -> Result<()> {
    let was_paused = status::is_paused(task.ctx, vmid);
    let frozen = if was_paused { None } else { agent::freeze(task, vmid, config) };
    let mut monitor = Monitor::connect(task.ctx, vmid)?;
    monitor.execute("stop", json!({}))?;
    let outcome = all_at_once(task, &mut monitor, name, disks, made);
    drop(monitor);
    let resumed = if was_paused { Ok(()) } else { resume(task.ctx, vmid) };
    drop(frozen);
    outcome.and(resumed)
}

/// Takes back a snapshot that nobody finishes any more; one that is finished stays.
pub(super) fn take_back(ctx: &Context, vmid: Vmid, name: &str) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let half = config.snapshots.get(name).filter(|part| part.get("snapstate") == Some("prepare"));
    let Some(half) = half else { return Ok(()) };
    let has_it = |drive: &Drive| {
        let names = drive.volume().and_then(|volume| storage::snapshots(ctx, &volume).ok());
        names.is_some_and(|names| names.iter().any(|found| found == name))
    };
    let made: Vec<Drive> = plan::disks(vmid, half)?.into_iter().filter(has_it).collect();
    let memory: Option<VolumeId> = half.get("vmstate").and_then(|volume| volume.parse().ok());
    let failures = undo(ctx, vmid, name, &made, memory.as_ref());
    match failures.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!("snapshot '{name}'")).with_cleanup_failures(&failures)),
    }
}

/// Takes back what a failed snapshot has made.
fn undo(ctx: &Context, vmid: Vmid, name: &str, made: &[Drive], memory: Option<&VolumeId>) -> Vec<Error> {
    let mut failures: Vec<Error> =
        made.iter().rev().filter_map(|drive| delete_from_disk(ctx, vmid, drive, name).err()).collect();
    failures.extend(memory.and_then(|volume| storage::free(ctx, volume).err()));
    let removed = guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.snapshots.remove(name);
        config.current.options.remove("lock");
        Ok(())
    });
    failures.extend(removed.err());
    failures
}

/// Removes one disk's snapshot, by QEMU if it has the image open.
fn delete_from_disk(ctx: &Context, vmid: Vmid, drive: &Drive, name: &str) -> Result<()> {
    let Some(volume) = drive.volume() else { return Ok(()) };
    if status::is_running(ctx, vmid) {
        let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
        let attached = plan::disks(vmid, &config.current)?.into_iter().find(|found| found.file == drive.file);
        // Files in a chain below an open image belong to QEMU.
        if attached.is_some() && !storage::has_feature(ctx, Feature::Snapshot, &volume, None, true)? {
            crate::bail!("snapshot '{name}' of '{volume}' cannot be removed while the VM is running");
        }
        if let Some(attached) = attached.filter(|drive| is_in_image(ctx, drive)) {
            let data = json!({"device": format!("drive-{}", attached.slot), "name": name});
            let time = std::time::Duration::from_secs(600);
            let mut monitor = Monitor::connect(ctx, vmid)?;
            return monitor.execute_within("blockdev-snapshot-delete-internal-sync", data, time).map(drop);
        }
    }
    storage::snapshot_delete(ctx, &volume, name)
}

/// Goes back to a snapshot.
pub fn roll_back(task: &Task, vmid: Vmid, name: &str, start: bool) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    if Vm::new(vmid, &config.current).is_template() {
        crate::bail!("you can't rollback if vm is a template");
    }
    let snapshot = config.snapshots.get(name);
    let snapshot = snapshot.ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?;
    if let Some(state) = snapshot.get("snapstate") {
        crate::bail!("unable to rollback to incomplete snapshot (snapstate = {state})");
    }
    guest::check_lock(&config)?;
    let disks = plan::disks(vmid, snapshot)?;
    for volume in disks.iter().filter_map(Drive::volume) {
        storage::rollback_possible(ctx, &volume, name)?;
    }
    if status::is_running(ctx, vmid) {
        let how = Stop { timeout: Some(5), force: true, ..Stop::default() };
        stop::stop_locked(task, vmid, &how)?;
    }
    let work = recovery::begin(ctx, vmid, &Facts { rollback: Some(name), ..Facts::default() })?;
    set_lock(ctx, vmid, Some("rollback"))?;
    if let Err(error) = finish_roll_back(ctx, vmid, name) {
        let unlocked = set_lock(ctx, vmid, None);
        return Err(error.with_cleanup_failures(&unlocked.err().into_iter().collect::<Vec<_>>()));
    }
    drop(work);
    let state = snapshot.get("vmstate").map(str::parse).transpose().map_err(Error::new)?;
    if start || state.is_some() {
        let running = |key: &str| snapshot.get(key).filter(|_| state.is_some()).map(str::to_owned);
        let (machine, cpu) = (running("runningmachine"), running("runningcpu"));
        let mtus = launch::known_mtus(&running("running-nets-host-mtu").unwrap_or_default());
        launch::start_locked(task, vmid, &Start { machine, cpu, mtus, state, ..Start::default() })?;
    }
    Ok(())
}

/// Sets disks and configuration of a VM back that is marked for it, also if that was interrupted before; does nothing for
/// one that is not.
pub(super) fn finish_roll_back(ctx: &Context, vmid: Vmid, name: &str) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let Some(snapshot) = config.snapshots.get(name).filter(|_| config.current.get("lock") == Some("rollback")) else {
        return Ok(());
    };
    let disks = plan::disks(vmid, snapshot)?;
    disks.iter().filter_map(Drive::volume).try_for_each(|volume| storage::rollback(ctx, &volume, name))?;
    guest::update(ctx, GuestKind::Qemu, vmid, |config| plan::roll_back(vmid, config, name))
}

fn set_lock(ctx: &Context, vmid: Vmid, lock: Option<&str>) -> Result<()> {
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        match lock {
            Some(lock) => config.current.set("lock", lock),
            None => drop(config.current.options.remove("lock")),
        }
        Ok(())
    })
}
