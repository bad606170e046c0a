//! Moving a disk: to another storage or format, also under a running guest, and to another VM.
//! (PVE: qemu-server PVE/API2/Qemu.pm, move_vm_disk)

use super::block::{End, Mirror};
use super::clone::{allocate_like, finish_drive};
use super::config::{Bus, Drive, Slot, Vm};
use super::disks::{allocate_cloudinit, check_place};
use super::recovery::{self, Facts};
use super::update::{self, Update};
use super::{agent, cloudinit, edit, snapshot::plan, status, template};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, Copy, Feature, Format, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Task, Vmid, guest};

/// A wish for another place.
#[derive(Debug, Clone)]
pub struct Move {
    /// The drive, `unusedN` among them.
    pub slot: Slot,
    /// Where it goes.
    pub storage: String,
    /// Its new format.
    pub format: Option<Format>,
    /// Remove the source instead of keeping it as unused.
    pub delete: bool,
    /// KiB per second at most.
    pub limit: Option<u64>,
    /// The state that the caller saw.
    pub digest: Option<String>,
}

fn check_digest(seen: Option<&String>, config: &GuestConfig) -> Result<()> {
    if seen.is_some_and(|seen| !seen.is_empty() && *seen != config.digest) {
        crate::bail!("checksum mismatch (file change by other user?)");
    }
    Ok(())
}

/// The drive and its volume, unless there is a reason against moving them.
pub fn check(ctx: &Context, vmid: Vmid, wish: &Move) -> Result<(Drive, VolumeId)> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    guest::check_lock(&config)?;
    check_digest(wish.digest.as_ref(), &config)?;
    let slot = wish.slot;
    let text = config.current.get(&slot.to_string());
    let drive = Drive::parse(slot, text.ok_or_else(|| Error::new(format!("disk '{slot}' does not exist")))?)?;
    if drive.is_plain_cdrom() {
        crate::bail!("you can't move a cdrom");
    }
    let Some(volume) = drive.volume() else { crate::bail!("disk '{slot}' has no associated volume") };
    let format = storage::describe(ctx, &volume)?.format;
    if volume.storage == wish.storage && wish.format.is_none_or(|wanted| wanted == format) {
        crate::bail!("you can't move to the same storage with same format");
    }
    check_place(ctx, &wish.storage)?;
    if wish.delete && in_snapshots(vmid, &config, &drive)? {
        crate::bail!("you can't move a disk with snapshots and delete the source");
    }
    Ok((drive, volume))
}

fn in_snapshots(vmid: Vmid, config: &GuestConfig, drive: &Drive) -> Result<bool> {
    for snapshot in config.snapshots.values() {
        if plan::disks(vmid, snapshot)?.iter().any(|found| found.file == drive.file) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Moves a disk to another storage or format.
pub fn to_storage(task: &Task, vmid: Vmid, wish: &Move) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let (mut drive, old) = check(ctx, vmid, wish)?;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    task.log(format!(
        "copying volume '{old}' from current storage '{}' to target storage '{}'",
        old.storage, wish.storage
    ));
    if in_snapshots(vmid, &config, &drive)? {
        task.warn("moving disk with snapshots, snapshots will not be moved!");
    }
    task.log(format!("create full clone of drive {} ({})", drive.slot, drive.file));
    let facts = Facts { storages: vec![&wish.storage], ..Facts::default() };
    let _work = recovery::begin(ctx, vmid, &facts)?;
    let running = status::is_running(ctx, vmid);
    let live = running && drive.slot.bus != Bus::Unused && !drive.is_cloudinit();
    if live && drive.slot.bus == Bus::Tpmstate {
        crate::bail!("cannot move TPM state while VM is running");
    }
    let failed = |error: Error| Error::new(format!("storage migration failed: {}", error.message()));
    let new = copied(task, vmid, wish, &drive, &old, live).map_err(failed)?;
    let key = drive.slot.to_string();
    let entered = finish_drive(ctx, &mut drive, &new).and_then(|()| {
        guest::update(ctx, GuestKind::Qemu, vmid, |config| {
            match drive.slot.bus {
                Bus::Unused => config.current.set(&key, &drive.file),
                _ => config.current.set(&key, drive.to_string()),
            }
            if !wish.delete && !drive.is_cloudinit() {
                let unused = edit::add_unused(&mut config.current, &old.to_string());
                task.log(format!("adding source volume '{old}' as '{}' to config", unused.unwrap_or_default()));
            }
            Ok(())
        })
    });
    if let Err(error) = entered {
        // A running guest writes to the new volume already; then it must stay.
        let freed = if live { Ok(()) } else { storage::free(ctx, &new) };
        return Err(failed(error).with_cleanup_failures(&freed.err().into_iter().collect::<Vec<_>>()));
    }
    if drive.is_cloudinit() {
        // It holds nothing that cannot be made again. A running guest gets it put into its drive.
        let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
        cloudinit::write(ctx, vmid, &config, running, &mut |line| task.log(line))?;
    }
    if config.current.flag("template") {
        template::make_base(ctx, vmid, drive.clone())?;
    }
    if running && trims(&Vm::new(vmid, &config.current)) {
        agent::trim(ctx, vmid);
    }
    if !wish.delete && !drive.is_cloudinit() {
        return Ok(());
    }
    task.log(match wish.delete {
        true => format!("removing source volume '{old}' after successful copy"),
        false => format!("found unused cloudinit disk '{old}', removing it"),
    });
    if let Err(error) = storage::free(ctx, &old) {
        task.warn(error.message());
        guest::update(ctx, GuestKind::Qemu, vmid, |config| {
            edit::add_unused(&mut config.current, &old.to_string());
            Ok(())
        })?;
    }
    Ok(())
}

/// The copy, which a running guest works with already. Nothing is left of one that fails.
fn copied(task: &Task, vmid: Vmid, wish: &Move, drive: &Drive, old: &VolumeId, live: bool) -> Result<VolumeId> {
    let ctx = task.ctx;
    if drive.is_cloudinit() {
        return allocate_cloudinit(ctx, vmid, &wish.storage);
    }
    let limit = storage::bandwidth_limit(ctx, "move", &[&old.storage, &wish.storage], wish.limit)?;
    let copy = Copy {
        source: old,
        snapshot: None,
        storage: &wish.storage,
        vmid,
        format: wish.format,
        kind: VolumeKind::Image,
        limit,
    };
    if !live {
        return storage::copy(ctx, &copy, &mut |line| task.log(line));
    }
    let new = allocate_like(ctx, &copy)?;
    if let Err(error) = switch_over(task, vmid, drive, &new, limit) {
        let freed = storage::free(ctx, &new);
        return Err(error.with_cleanup_failures(&freed.err().into_iter().collect::<Vec<_>>()));
    }
    Ok(new)
}

/// Whether the guest is to tell a copied disk what it does not use.
fn trims(vm: &Vm) -> bool {
    let agent = vm.properties("~pve-qm-agent", "agent").ok().flatten();
    agent.is_some_and(|agent| agent.is_on("fstrim_cloned_disks"))
}

fn switch_over(task: &Task, vmid: Vmid, drive: &Drive, new: &VolumeId, limit: Option<u64>) -> Result<()> {
    let mut mirror = Mirror::new(task, vmid);
    mirror.start(drive, new, limit)?;
    mirror.wait_until_ready()?;
    mirror.finish(End::Switch)
}

/// A wish for another owner.
#[derive(Debug, Clone)]
pub struct Reassign {
    /// The drive.
    pub slot: Slot,
    /// The new owner.
    pub target: Vmid,
    /// The drive there.
    pub target_slot: Slot,
    /// The state of the source that the caller saw.
    pub digest: Option<String>,
    /// The state of the target that the caller saw.
    pub target_digest: Option<String>,
}

/// The drive as the target will have it, unless there is a reason against it.
pub fn check_reassign(ctx: &Context, vmid: Vmid, wish: &Reassign) -> Result<(Drive, VolumeId)> {
    let (slot, target) = (wish.slot, wish.target);
    let source =
        guest::load(ctx, GuestKind::Qemu, vmid).map_err(|_| Error::new(format!("could not find VM {vmid}")))?;
    let other = guest::load(ctx, GuestKind::Qemu, target)
        .map_err(|_| Error::new(format!("could not find target VM {target}")))?;
    guest::check_lock(&source)?;
    guest::check_lock(&other)?;
    if source.current.flag("template") || other.current.flag("template") {
        crate::bail!("Can't move disks from or to template VMs");
    }
    check_digest(wish.digest.as_ref(), &source).map_err(|error| error.context(format!("VM {vmid}")))?;
    check_digest(wish.target_digest.as_ref(), &other).map_err(|error| error.context(format!("VM {target}")))?;
    let Some(text) = source.current.get(&slot.to_string()) else {
        crate::bail!("Disk '{slot}' for VM '{vmid}' does not exist");
    };
    let target_key = wish.target_slot.to_string();
    if other.current.get(&target_key).is_some() || other.pending.part.get(&target_key).is_some() {
        crate::bail!("Target disk key '{target_key}' is already in use for VM '{target}'");
    }
    let drive = Drive::parse(slot, text)?;
    let Some(volume) = drive.volume() else { crate::bail!("disk '{slot}' has no associated volume") };
    if drive.is_plain_cdrom() {
        crate::bail!("CD drive contents can't be moved to another VM");
    }
    if in_snapshots(vmid, &source, &drive)? {
        crate::bail!("Can't move disk used by a snapshot to another VM");
    }
    if !storage::has_feature(ctx, Feature::Rename, &volume, None, false)? {
        crate::bail!("Storage does not support moving of this disk to another VM");
    }
    if status::is_running(ctx, vmid) && slot.bus != Bus::Unused {
        crate::bail!("Cannot move disk to another VM while the source VM is running - detach first");
    }
    let text = if wish.target_slot.bus == Bus::Unused { &drive.file } else { text };
    let moved = Drive::parse(wish.target_slot, text)
        .map_err(|error| error.context("failed to parse source disk for target disk format"))?;
    Ok((moved, volume))
}

/// Gives a disk to another VM.
pub fn to_vm(task: &Task, vmid: Vmid, wish: &Reassign) -> Result<()> {
    let ctx = task.ctx;
    let mut numbers = [vmid, wish.target];
    numbers.sort();
    let _locks = numbers.iter().map(|vmid| recovery::NOTES.lock(task, *vmid)).collect::<Result<Vec<_>>>()?;
    let (mut drive, volume) = check_reassign(ctx, vmid, wish)?;
    let (slot, target_slot, target) = (wish.slot, wish.target_slot, wish.target);
    task.log(format!("reassign disk '{slot}' from VM '{vmid}' as '{target_slot}' to VM '{target}'"));
    let new = storage::reassign(ctx, &volume, target, None)?;
    drive.file = new.to_string();
    let key = target_slot.to_string();
    let given = match target_slot.bus {
        Bus::Unused => guest::update(ctx, GuestKind::Qemu, target, |config| {
            config.current.set(&key, &drive.file);
            Ok(())
        }),
        _ => {
            // A running VM takes it at once if it can.
            let described = format!("-{key} {drive}");
            let settings = [(key.clone(), drive.to_string())].into();
            let update = Update { settings, described, ..Update::default() };
            update::apply(ctx, target, &update, &mut |line| task.log(line))
        }
    };
    if let Err(error) = given {
        let other = guest::load(ctx, GuestKind::Qemu, target)?;
        if !edit::is_in_use(target, &other, &drive.file, "")? {
            let back = storage::reassign(ctx, &new, vmid, None);
            return Err(error.with_cleanup_failures(&back.err().into_iter().collect::<Vec<_>>()));
        }
        task.warn(error.message());
    }
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        if edit::leave_boot_order(config, &slot.to_string())? {
            task.log(format!("removing disk '{slot}' from boot order config"));
        }
        edit::commit(config, "boot");
        config.current.options.remove(&slot.to_string());
        Ok(())
    })?;
    task.log(format!("removing disk '{slot}' from VM '{vmid}' config"));
    Ok(())
}
