//! The end of a VM: volumes, access rights, configuration.

use super::config::{Slot, Vm};
use super::{files, recovery, status};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, VolumeId};
use crate::{Context, Result, Task, Vmid, access, guest};
use std::collections::BTreeSet;

/// How far the removal goes.
#[derive(Debug, Clone, Default)]
pub struct Destroy {
    /// Remove it although it is marked as locked.
    pub skip_lock: bool,
    /// Also from backup jobs and the like.
    pub purge: bool,
    /// Also volumes of its number that it does not name.
    pub unreferenced: bool,
}

/// Refuses what must not be removed. (PVE: API2/Qemu.pm, destroy_vm)
pub fn check(ctx: &Context, vmid: Vmid, how: &Destroy) -> Result<GuestConfig> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    check_protection(&config, &format!("can't remove VM {vmid}"))?;
    if status::is_running(ctx, vmid) {
        crate::bail!("VM {vmid} is running - destroy failed");
    }
    if !how.skip_lock && config.current.get("lock") != Some("suspended") {
        guest::check_lock(&config)?;
    }
    check_clones_of_template(ctx, vmid, &config)?;
    Ok(config)
}

/// A template stays as long as others stand on its disks. (PVE: QemuServer.pm, destroy_vm)
fn check_clones_of_template(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<()> {
    if !config.current.flag("template") {
        return Ok(());
    }
    for volume in named_volumes(vmid, &config.current) {
        if !storage::linked_clones_of(ctx, &volume)?.is_empty() {
            crate::bail!("base volume '{volume}' is still in use by linked cloned");
        }
    }
    Ok(())
}

/// Fails when the VM is protected. (PVE: pve-guest-common PVE/AbstractConfig.pm, check_protection)
pub fn check_protection(config: &GuestConfig, what: &str) -> Result<()> {
    if config.current.flag("protection") {
        crate::bail!("{what} - protection mode enabled");
    }
    Ok(())
}

/// Removes a VM.
pub fn destroy(task: &Task, vmid: Vmid, how: &Destroy) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let config = check(ctx, vmid, how)?;
    // From here on nobody may start it; if this is interrupted, it can be removed again with the same call.
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.current.set("lock", "destroyed");
        Ok(())
    })?;
    if let Err(error) = check_clones_of_template(ctx, vmid, &config) {
        // A clone was faster; one that is made from now on finds the mark and goes again.
        let unmarked = guest::update(ctx, GuestKind::Qemu, vmid, |stored| {
            stored.current.options.remove("lock");
            Ok(())
        });
        return Err(error.with_cleanup_failures(&unmarked.err().into_iter().collect::<Vec<_>>()));
    }
    let mut volumes = owned_volumes(ctx, vmid, &config);
    if how.unreferenced {
        volumes.extend(storage::owned_by(ctx, vmid)?.into_iter().map(|volume| volume.id));
        storage::remove_abandoned(ctx, vmid)?;
    }
    for volume in volumes {
        match storage::free(ctx, &volume) {
            Ok(()) => task.log(format!("removed volume '{volume}'")),
            Err(error) => task.warn(format!("Could not remove disk '{volume}', check manually: {error}")),
        }
    }
    access::remove_guest(ctx, vmid)?;
    guest::firewall::remove(ctx, vmid)?;
    if how.purge {
        task.log(format!("purging VM {vmid} from related configurations.."));
        guest::purge::backup_jobs(ctx, vmid)?;
    }
    files::remove_leftovers(ctx, vmid)?;
    guest::remove(ctx, GuestKind::Qemu, vmid)
}

/// Volumes that the configuration names anywhere and that belong to the VM. CD-ROM images are nobody's.
fn owned_volumes(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> BTreeSet<VolumeId> {
    let parts = [&config.current, &config.pending.part].into_iter().chain(config.snapshots.values());
    let named = parts.flat_map(|part| named_volumes(vmid, part));
    named.filter(|volume| storage::describe(ctx, volume).is_ok_and(|found| found.vmid == Some(vmid))).collect()
}

/// Values that cannot be read name no volume; the rest of the configuration still counts.
fn named_volumes(vmid: Vmid, part: &Part) -> Vec<VolumeId> {
    let vm = Vm::new(vmid, part);
    let attached = Slot::all().filter_map(|slot| {
        let drive = super::config::Drive::parse(slot, vm.text(&slot.to_string())?).ok()?;
        drive.volume().filter(|_| !drive.is_plain_cdrom())
    });
    let unused = vm.indexed("unused").into_iter().filter_map(|(_, text)| text.parse().ok());
    let state = vm.text("vmstate").and_then(|text| text.parse().ok());
    attached.chain(unused).chain(state).collect()
}
