//! Suspending to disk and going on from there.
//!
//! ```text
//! to disk:  lock `suspending`, memory to its volume, QEMU ends ── lock `suspended`
//! start:    QEMU with the state ── volume, lock and what the state needed are removed
//! ```
//! (PVE: qemu-server PVE/QemuServer.pm, vm_suspend and vm_start_nolock)

use super::launch::{self, Start};
use super::{qmp, recovery, snapshot::plan, state, stop};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, guest};
use serde_json::json;

/// Writes a running VM's memory to a volume and ends it.
pub fn to_disk(task: &Task, vmid: Vmid, skip_lock: bool, storage: Option<&str>) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    if config.current.get("lock") == Some("backup") {
        crate::bail!("cannot suspend to disk during backup");
    }
    if !skip_lock {
        guest::check_lock(&config)?;
    }
    let mut extra = Part::default();
    let volume = state::allocate(ctx, vmid, &config, &suspend_name(ctx), storage, &mut extra)?;
    let noted = guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.current.options.extend(extra.options);
        config.current.set("lock", "suspending");
        Ok(())
    });
    let saved = noted.and_then(|()| {
        task.log(format!("suspending VM {vmid} to '{volume}'"));
        let path = storage::activate_volume(ctx, &volume, None)?;
        state::save(task, vmid, &path, |_| Ok(()))
    });
    if let Err(error) = saved {
        // It may be standing still already.
        let resumed = qmp::execute(ctx, vmid, "cont", json!({})).map(drop);
        let forgotten = forget(ctx, vmid);
        let freed = storage::free(ctx, &volume);
        let failures: Vec<Error> = [resumed, forgotten, freed].into_iter().filter_map(Result::err).collect();
        return Err(error.with_cleanup_failures(&failures));
    }
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.current.set("lock", "suspended");
        Ok(())
    })?;
    stop::kill(ctx, vmid)
}

/// States of one VM need different names: the last one may still be there when its removal failed.
fn suspend_name(ctx: &Context) -> String {
    format!("suspend-{:04x}", ctx.clock.now() & 0xffff)
}

fn forget(ctx: &Context, vmid: Vmid) -> Result<()> {
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        for key in ["lock", "vmstate"].iter().chain(&plan::RUNNING) {
            config.current.options.remove(*key);
        }
        Ok(())
    })
}

/// How a suspended VM goes on; `None` for one that is not suspended.
pub fn how_to_resume(config: &GuestConfig, how: &Start) -> Result<Option<Start>> {
    let part = &config.current;
    let (Some("suspended"), Some(state)) = (part.get("lock"), part.get("vmstate")) else { return Ok(None) };
    Ok(Some(Start {
        skip_lock: true,
        machine: how.machine.clone().or_else(|| part.get("runningmachine").map(str::to_owned)),
        mtus: launch::known_mtus(part.get("running-nets-host-mtu").unwrap_or_default()),
        cpu: how.cpu.clone().or_else(|| part.get("runningcpu").map(str::to_owned)),
        state: Some(state.parse().map_err(Error::new)?),
        ..how.clone()
    }))
}

/// Starts a suspended VM with its state, which is of no more use then.
pub fn resume(task: &Task, vmid: Vmid, how: &Start) -> Result<()> {
    let ctx = task.ctx;
    task.log("Resuming suspended VM");
    let volume: Option<VolumeId> = how.state.clone();
    launch::start_locked(task, vmid, how)?;
    forget(ctx, vmid)?;
    if let Some(volume) = volume
        && let Err(error) = storage::free(ctx, &volume)
    {
        task.warn(format!("could not remove the state '{volume}': {error}"));
    }
    Ok(())
}
