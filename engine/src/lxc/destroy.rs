//! Removing a container with everything that is its own: `vzdestroy`. (PVE: LXC.pm, destroy_lxc_container)

use super::liblxc::Runtime;
use super::recovery::{self, Kind};
use super::stop::{self, Stop};
use super::{facts, monitor, volume};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, VolumeId};
use crate::task::abort;
use crate::{Context, Error, Result, Task, Vmid, access, bail, error::ResultExt, file, guest};
use std::fs;
use std::io::ErrorKind;

/// What else shall happen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Destroy {
    /// Stop it first if it runs.
    pub force: bool,
    /// Remove it from jobs that name it.
    pub purge: bool,
    /// Remove volumes that are its own without standing in its configuration.
    pub unreferenced: bool,
}

/// Refuses what must not be destroyed.
pub fn check(ctx: &Context, vmid: Vmid, config: &GuestConfig, force: bool) -> Result<()> {
    if config.current.flag("protection") {
        bail!("can't remove CT {vmid} - protection mode enabled");
    }
    // Nobody will finish what a dead worker has begun.
    if config.current.get("lock") != Some("create") {
        guest::check_lock(config)?;
    }
    if !force && monitor::init(ctx, vmid).is_some() {
        bail!("unable to destroy CT {vmid} - container is running");
    }
    Ok(())
}

/// Destroys a container; the caller holds the guest's lock.
pub fn destroy(task: &Task, runtime: &dyn Runtime, vmid: Vmid, options: Destroy) -> Result<()> {
    let ctx = task.ctx;
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    check(ctx, vmid, &config, options.force)?;
    if monitor::init(ctx, vmid).is_some() {
        task.warn(format!("forced to stop CT {vmid} before destroying!"));
        stop::stop(task, runtime, vmid, Stop::Kill)?;
    }
    let _work = recovery::begin(ctx, vmid, Kind::Destroy(options))?;
    task.check_abort()?;
    remove(ctx, vmid, options, &mut |line| task.log(line))
}

/// Removes a stopped container with all that is its own, or what is left of it.
pub fn remove(ctx: &Context, vmid: Vmid, options: Destroy, log: &mut dyn FnMut(&str)) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    stop::clean_up(ctx, vmid)?;
    let mut volumes: Vec<VolumeId> = Vec::new();
    let parts = [&config.current, &config.pending.part].into_iter().chain(config.snapshots.values());
    for text in parts.flat_map(volume::volumes) {
        // A pending `STORAGE:SIZE` names no volume yet.
        let Ok(id) = text.parse::<VolumeId>() else { continue };
        if volumes.contains(&id) {
            continue;
        }
        match storage::describe(ctx, &id) {
            Ok(described) if described.vmid == Some(vmid) => volumes.push(id),
            Ok(_) => log(&format!("ignore deletion of '{id}', CT {vmid} isn't the owner!")),
            Err(_) => {}
        }
    }
    if options.unreferenced {
        let more = storage::owned_by(ctx, vmid)?.into_iter().map(|volume| volume.id);
        volumes.extend(more.filter(|id| !volumes.contains(id)).collect::<Vec<_>>());
    }
    for id in &volumes {
        abort::check()?;
        storage::free(ctx, id).context(|| format!("unable to remove volume '{id}'"))?;
        log(&format!("removed volume '{id}'"));
    }
    if options.unreferenced {
        storage::remove_abandoned(ctx, vmid)?;
    }
    remove_directory(ctx, vmid)?;
    access::remove_guest(ctx, vmid)?;
    guest::firewall::remove(ctx, vmid)?;
    if options.purge {
        log(&format!("purging CT {vmid} from related configurations.."));
        guest::purge::backup_jobs(ctx, vmid)?;
    }
    // Last, so that the number cannot be used again while something of the old guest exists.
    guest::remove(ctx, GuestKind::Lxc, vmid)
}

/// Removes the directory that liblxc works in. Volumes are never mounted there on the host by a start; a directory that
/// somebody mounted by `pct mount` is in use and stays.
pub fn remove_directory(ctx: &Context, vmid: Vmid) -> Result<()> {
    let directory = monitor::directory(ctx, vmid);
    for file in ["config", "rules.seccomp"] {
        remove_file(&directory.join(file))?;
    }
    remove_file(&facts::log_file(ctx, vmid))?;
    // `passthrough` holds directories only where a start was killed before its file system was mounted.
    for place in [directory.join("rootfs"), directory.join("stage"), directory.join("passthrough"), directory.clone()] {
        match fs::remove_dir(&place) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(Error::from(error).context(format!("unable to remove '{}'", place.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

fn remove_file(path: &std::path::Path) -> Result<()> {
    file::remove_if_there(path).context(|| format!("unable to remove '{}'", path.display()))
}
