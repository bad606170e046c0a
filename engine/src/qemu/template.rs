//! Templates: VMs that never start and whose disks are what linked clones are based on.

use super::config::{Drive, Slot, Vm};
use super::{recovery, snapshot::plan, status};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, Feature};
use crate::{Context, Result, Task, Vmid, guest};

/// Refuses what cannot become a template. (PVE: qemu-server PVE/API2/Qemu.pm, template)
pub fn check(ctx: &Context, vmid: Vmid, disk: Option<Slot>) -> Result<GuestConfig> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    guest::check_lock(&config)?;
    if !config.snapshots.is_empty() {
        crate::bail!("unable to create template, because VM contains snapshots");
    }
    if Vm::new(vmid, &config.current).is_template() && disk.is_none() {
        crate::bail!("you can't convert a template to a template");
    }
    if status::is_running(ctx, vmid) {
        crate::bail!("you can't convert a VM to template if VM is running");
    }
    Ok(config)
}

/// Makes a VM a template, or one more disk of a template part of it.
pub fn create(task: &Task, vmid: Vmid, disk: Option<Slot>) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let config = check(ctx, vmid, disk)?;
    // From here on nobody can start it, so that no disk changes any more.
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.current.set("template", "1");
        Ok(())
    })?;
    for drive in plan::disks(vmid, &config.current)? {
        if disk.is_none_or(|disk| disk == drive.slot) {
            make_base(ctx, vmid, drive)?;
        }
    }
    Ok(())
}

/// Makes a disk of a template what clones can be linked to, unless its storage has nothing of the kind: then it stays as
/// it is. (PVE: QemuServer.pm, template_create)
pub fn make_base(ctx: &Context, vmid: Vmid, mut drive: Drive) -> Result<()> {
    let Some(volume) = drive.volume().filter(|_| !drive.is_cdrom()) else { return Ok(()) };
    if storage::describe(ctx, &volume)?.is_base || !storage::has_feature(ctx, Feature::Template, &volume, None, false)?
    {
        return Ok(());
    }
    drive.file = storage::make_template(ctx, &volume)?.to_string();
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.current.set(drive.slot.to_string(), drive.to_string());
        Ok(())
    })
}
