//! Removing snapshots. What was begun is finished: by the call itself, or by whoever finds that it was interrupted.

use super::{delete_from_disk, plan};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::qemu::config::{Drive, Vm};
use crate::qemu::recovery::{self, Facts};
use crate::qemu::{edit, files, status, stop};
use crate::{Context, Error, Result, Task, Vmid, guest, storage};
use std::time::Duration;

/// The mark of a VM of which a snapshot is being removed.
const MARK: &str = "snapshot-delete";
/// The connections of a VM that ends are gone this much before its process, at most.
const MOMENT: Duration = Duration::from_secs(1);

/// Removes a snapshot. With `force` it leaves the configuration even if a disk refuses.
pub fn delete(task: &Task, vmid: Vmid, name: &str, force: bool) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let _work = recovery::begin(ctx, vmid, &Facts { removal: Some(name), ..Facts::default() })?;
    let snapshot = guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        if Vm::new(vmid, &config.current).is_template() {
            crate::bail!("you can't delete a snapshot if vm is a template");
        }
        guest::check_lock(config)?;
        let snapshot = config.snapshots.get_mut(name);
        let snapshot = snapshot.ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?;
        snapshot.set("snapstate", "delete");
        config.current.set("lock", MARK);
        Ok(snapshot.clone())
    })?;
    let forgive = |outcome: Result<()>| match outcome {
        Err(error) if force => {
            task.warn(error.message());
            Ok(())
        }
        other => other,
    };
    let process = files::process(ctx, vmid);
    let outcome = delete_volumes(ctx, vmid, name, &snapshot, force, &forgive);
    if let Err(error) = &outcome
        && let Some(process) = process
        && matches!(stop::wait_for_end(process, MOMENT), Ok(true))
    {
        task.warn(format!("{} - the VM has ended, its snapshot is removed without it", error.message()));
        return if finish(ctx, vmid, name)? { Ok(()) } else { outcome };
    }
    leave_config(ctx, vmid, name, &snapshot, outcome.is_ok())?;
    outcome
}

/// Goes on with a removal that was interrupted; does nothing for a VM that is not marked for one. If a disk refuses, the
/// snapshot stays as it is, says in its state that it is half gone, and `false` is given back.
pub fn finish(ctx: &Context, vmid: Vmid, name: &str) -> Result<bool> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let Some(snapshot) = config.snapshots.get(name).filter(|_| config.current.get("lock") == Some(MARK)) else {
        return Ok(true);
    };
    // A disk may have lost it already, which the section did not get to know.
    let running = status::is_running(ctx, vmid);
    for drive in plan::disks(vmid, snapshot)? {
        let is_gone = |volume| storage::snapshots(ctx, &volume).is_ok_and(|names| !names.iter().any(|it| it == name));
        if !running && drive.volume().is_some_and(is_gone) {
            forget(ctx, vmid, name, &drive.slot.to_string(), false)?;
        }
    }
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let Some(rest) = config.snapshots.get(name) else { return Ok(true) };
    let forgive = |outcome: Result<()>| match outcome {
        Err(error) if error.message().contains("does not exist") => Ok(()),
        other => other,
    };
    let outcome = delete_volumes(ctx, vmid, name, rest, false, &forgive);
    leave_config(ctx, vmid, name, snapshot, outcome.is_ok())?;
    Ok(outcome.is_ok())
}

/// Takes the mark off, and the section with it when all disks are done.
fn leave_config(ctx: &Context, vmid: Vmid, name: &str, snapshot: &Part, is_gone: bool) -> Result<()> {
    guest::update(ctx, GuestKind::Qemu, vmid, |config: &mut GuestConfig| {
        config.current.options.remove("lock");
        if is_gone {
            let disks = plan::disks(vmid, snapshot)?;
            plan::remove(config, name);
            for drive in disks {
                if !edit::is_in_use(vmid, config, &drive.file, "")? {
                    edit::add_unused(&mut config.current, &drive.file);
                }
            }
        }
        Ok(())
    })
}

fn delete_volumes(
    ctx: &Context,
    vmid: Vmid,
    name: &str,
    snapshot: &Part,
    force: bool,
    forgive: &dyn Fn(Result<()>) -> Result<()>,
) -> Result<()> {
    if let Some(state) = snapshot.get("vmstate") {
        forgive(storage::free(ctx, &state.parse().map_err(Error::new)?))?;
        forget(ctx, vmid, name, "vmstate", force)?;
    }
    for drive in plan::disks(vmid, snapshot)? {
        forgive(delete_from_disk(ctx, vmid, &drive, name))?;
        forget(ctx, vmid, name, &drive.slot.to_string(), force)?;
    }
    Ok(())
}

/// What is gone leaves the section at once, so that a second try goes on where the first ended.
fn forget(ctx: &Context, vmid: Vmid, name: &str, key: &str, force: bool) -> Result<()> {
    if force {
        return Ok(());
    }
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        if let Some(snapshot) = config.snapshots.get_mut(name) {
            let old = snapshot.options.remove(key);
            if let (Some(text), Ok(slot)) = (old, key.parse()) {
                edit::add_unused(snapshot, &Drive::parse(slot, &text)?.file);
            }
        }
        Ok(())
    })
}
