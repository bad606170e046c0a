//! Snapshots of containers: taken, come back to, dropped.
//!
//! ```text
//! take:  lock `snapshot`, section with snapstate `prepare` ── freeze ── volumes ── section complete, no lock
//! drop:  lock `snapshot-delete`, snapstate `delete` ── volumes, one by one out of the section ── no section, no lock
//! back:  lock `rollback` ── volumes ── options of the section, no lock
//! ```
//! What a killed task leaves can be seen in the section and dropped with `force`.
//! (PVE: pve-guest-common AbstractConfig.pm, snapshot_create, snapshot_delete, snapshot_rollback; LXC/Config.pm)

use super::liblxc::Runtime;
use super::recovery::{self, Kind};
use super::stop::{self, Stop};
use super::volume::{self, MountPoint, Source};
use super::{disk, freeze, monitor, update};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, Feature, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, bail, guest};

/// Options that belong to the moment and not to the state.
const NOT_COPIED: [&str; 4] = ["lock", "snapstate", "snaptime", "digest"];

/// Whether all volumes of a part can do something. A bind mount can do nothing.
pub fn has_feature(
    ctx: &Context,
    feature: Feature,
    part: &Part,
    snapshot: Option<&str>,
    running: bool,
) -> Result<bool> {
    for point in volume::mounts(part)? {
        let able = match point.source() {
            Source::Volume if feature == Feature::Clone => can_clone(ctx, &volume_id(&point)?, snapshot, running)?,
            Source::Volume => storage::has_feature(ctx, feature, &volume_id(&point)?, snapshot, running)?,
            Source::Bind | Source::Device => false,
        };
        if !able {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a linked clone can be made that a container can mount: image files get overlays that only QEMU reads.
pub fn can_clone(ctx: &Context, id: &VolumeId, snapshot: Option<&str>, running: bool) -> Result<bool> {
    let entry = storage::find(ctx, &id.storage)?.entry;
    if entry.get("path").is_some() && entry.kind() != "btrfs" {
        return Ok(false);
    }
    storage::has_feature(ctx, Feature::Clone, id, snapshot, running)
}

/// The volume of a mount point.
pub fn volume_id(point: &MountPoint) -> Result<VolumeId> {
    point.volume().parse().map_err(Error::new)
}

/// The volumes that are mounted, in order.
fn volumes(part: &Part) -> Result<Vec<MountPoint>> {
    let mut mounts = volume::mounts(part)?;
    mounts.retain(|point| point.source() == Source::Volume);
    Ok(mounts)
}

/// The options of a part without those of the moment, unused volumes and the description.
fn copied(part: &Part) -> Part {
    let mut copy = part.clone();
    copy.description = None;
    copy.options.retain(|key, _| !NOT_COPIED.contains(&key.as_str()) && !volume::is_unused_key(key));
    copy
}

/// Refuses a snapshot that cannot be taken.
pub fn check_new(ctx: &Context, config: &GuestConfig, name: &str) -> Result<()> {
    if config.current.flag("template") {
        bail!("you can't take a snapshot if it's a template");
    }
    guest::check_lock(config)?;
    if config.snapshots.contains_key(name) {
        bail!("snapshot name '{name}' already used");
    }
    if !has_feature(ctx, Feature::Snapshot, &config.current, None, false)? {
        bail!("snapshot feature is not available");
    }
    Ok(())
}

/// Takes a snapshot; the caller holds the guest's lock.
pub fn take(task: &Task, runtime: &dyn Runtime, vmid: Vmid, name: &str, description: Option<&str>) -> Result<()> {
    let ctx = task.ctx;
    check_new(ctx, &guest::load(ctx, GuestKind::Lxc, vmid)?, name)?;
    let _work = recovery::begin(ctx, vmid, Kind::Snapshot(name))?;
    let section = guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        check_new(ctx, config, name)?;
        config.current.set("lock", "snapshot");
        for part in config.snapshots.values_mut().filter(|part| part.get("parent") == Some(name)) {
            part.options.remove("parent");
        }
        let mut section = copied(&config.current);
        section.set("snapstate", "prepare");
        section.set("snaptime", ctx.clock.now().to_string());
        section.description = description.filter(|text| !text.is_empty()).map(str::to_owned);
        config.snapshots.insert(name.to_owned(), section.clone());
        Ok(section)
    })?;
    let mut made = Vec::new();
    if let Err(error) = take_volumes(task, runtime, vmid, &section, name, &mut made) {
        task.log("snapshot create failed: starting cleanup");
        let mut failures: Vec<Error> =
            made.iter().filter_map(|id| storage::snapshot_delete(ctx, id, name).err()).collect();
        let removed = guest::update(ctx, GuestKind::Lxc, vmid, |config| {
            config.snapshots.remove(name);
            config.current.options.remove("lock");
            Ok(())
        });
        failures.extend(removed.err());
        return Err(error.with_cleanup_failures(&failures));
    }
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        let section = config.snapshots.get_mut(name).filter(|section| section.get("snapstate") == Some("prepare"));
        let section = section.ok_or_else(|| Error::new("wrong snapshot state"))?;
        section.options.remove("snapstate");
        config.current.options.remove("lock");
        config.current.set("parent", name);
        Ok(())
    })
}

/// Takes back a snapshot that was never finished.
pub fn take_back(ctx: &Context, vmid: Vmid, name: &str) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    let half = config.snapshots.get(name).filter(|section| section.get("snapstate") == Some("prepare"));
    for point in half.map(volumes).transpose()?.unwrap_or_default() {
        let id = volume_id(&point)?;
        if storage::snapshots(ctx, &id)?.iter().any(|known| known == name) {
            storage::snapshot_delete(ctx, &id, name)?;
        }
    }
    let unfinished = half.is_some();
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        if unfinished {
            config.snapshots.remove(name);
        }
        if config.current.get("lock") == Some("snapshot") {
            config.current.options.remove("lock");
        }
        Ok(())
    })
}

fn take_volumes(
    task: &Task,
    runtime: &dyn Runtime,
    vmid: Vmid,
    section: &Part,
    name: &str,
    made: &mut Vec<VolumeId>,
) -> Result<()> {
    let _frozen = freeze::hold(task.ctx, runtime, vmid, section)?;
    for point in volumes(section)? {
        task.check_abort()?;
        let id = volume_id(&point)?;
        storage::snapshot(task.ctx, &id, name)?;
        made.push(id);
    }
    Ok(())
}

fn section<'a>(config: &'a GuestConfig, name: &str) -> Result<&'a Part> {
    config.snapshots.get(name).ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))
}

/// Refuses to drop what is not there or may not go.
pub fn check_drop(config: &GuestConfig, name: &str) -> Result<()> {
    section(config, name)?;
    if config.current.flag("template") {
        bail!("you can't delete a snapshot if vm is a template");
    }
    // What a killed task has left may be dropped.
    match config.current.get("lock") {
        Some("snapshot" | "snapshot-delete") => Ok(()),
        _ => guest::check_lock(config),
    }
}

/// Drops a snapshot; with `force` also from the configuration alone when a volume does not go along.
pub fn drop(task: &Task, vmid: Vmid, name: &str, force: bool) -> Result<()> {
    check_drop(&guest::load(task.ctx, GuestKind::Lxc, vmid)?, name)?;
    let _work = recovery::begin(task.ctx, vmid, Kind::DropSnapshot(name))?;
    drop_all(task.ctx, vmid, name, force, &mut |line| task.warn(line))
}

/// Removes what is left of a snapshot that was being removed.
pub fn finish_drop(ctx: &Context, vmid: Vmid, name: &str, log: &mut dyn FnMut(&str)) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    let Some(part) = config.snapshots.get(name).filter(|part| part.get("snapstate") == Some("delete")) else {
        return guest::update(ctx, GuestKind::Lxc, vmid, |config| {
            if config.current.get("lock") == Some("snapshot-delete") {
                config.current.options.remove("lock");
            }
            Ok(())
        });
    };
    // A volume whose snapshot is gone stands in the section until the next step, which was never made.
    for point in volumes(part)? {
        if !storage::snapshots(ctx, &volume_id(&point)?)?.iter().any(|known| known == name) {
            forget_volume(ctx, vmid, name, &point)?;
        }
    }
    drop_all(ctx, vmid, name, false, log)
}

fn drop_all(ctx: &Context, vmid: Vmid, name: &str, force: bool, warn: &mut dyn FnMut(&str)) -> Result<()> {
    let part = guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        check_drop(config, name)?;
        config.current.set("lock", "snapshot-delete");
        let part = config.snapshots.get_mut(name).expect("the check has found it");
        part.set("snapstate", "delete");
        Ok(part.clone())
    })?;
    let dropped = drop_volumes(ctx, vmid, name, &part, force, warn);
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        config.current.options.remove("lock");
        if dropped.is_err() {
            return Ok(());
        }
        let Some(gone) = config.snapshots.remove(name) else { return Ok(()) };
        let parts = [&mut config.current].into_iter().chain(config.snapshots.values_mut());
        for part in parts.filter(|part| part.get("parent") == Some(name)) {
            match gone.get("parent") {
                Some(parent) => part.set("parent", parent),
                None => drop_option(part, "parent"),
            }
        }
        for point in volumes(&part)? {
            if !update::is_in_use(config, point.volume()) {
                volume::add_unused(&mut config.current, point.volume())?;
            }
        }
        Ok(())
    })?;
    dropped
}

fn drop_option(part: &mut Part, key: &str) {
    part.options.remove(key);
}

fn drop_volumes(
    ctx: &Context,
    vmid: Vmid,
    name: &str,
    part: &Part,
    force: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<()> {
    for point in volumes(part)? {
        match storage::snapshot_delete(ctx, &volume_id(&point)?, name) {
            Err(error) if force => warn(error.message()),
            result => result?,
        }
        if !force {
            forget_volume(ctx, vmid, name, &point)?;
        }
    }
    Ok(())
}

/// Takes a volume out of a snapshot's section.
fn forget_volume(ctx: &Context, vmid: Vmid, name: &str, point: &MountPoint) -> Result<()> {
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        if let Some(part) = config.snapshots.get_mut(name) {
            part.options.remove(&point.key);
            volume::add_unused(part, point.volume())?;
        }
        Ok(())
    })
}

/// Refuses to go back where that is impossible.
pub fn check_rollback(ctx: &Context, config: &GuestConfig, name: &str) -> Result<()> {
    if config.current.flag("template") {
        bail!("you can't rollback if vm is a template");
    }
    let part = section(config, name)?;
    for point in volumes(part)? {
        storage::rollback_possible(ctx, &volume_id(&point)?, name)?;
    }
    if let Some(state) = part.get("snapstate") {
        bail!("unable to rollback to incomplete snapshot (snapstate = {state})");
    }
    guest::check_lock(config)
}

/// Goes back to a snapshot; a running container is stopped first. The caller holds the guest's lock.
pub fn rollback(task: &Task, runtime: &dyn Runtime, vmid: Vmid, name: &str) -> Result<()> {
    let ctx = task.ctx;
    check_rollback(ctx, &guest::load(ctx, GuestKind::Lxc, vmid)?, name)?;
    if monitor::init(ctx, vmid).is_some() {
        stop::stop(task, runtime, vmid, Stop::Kill)?;
    }
    let _work = recovery::begin(ctx, vmid, Kind::Rollback(name))?;
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        check_rollback(ctx, config, name)?;
        config.current.set("lock", "rollback");
        Ok(())
    })?;
    go_back(ctx, vmid, name)
}

/// Brings volumes and options back to a snapshot. A failure leaves the lock: some volumes may be of the old state, some of
/// the new one.
pub fn go_back(ctx: &Context, vmid: Vmid, name: &str) -> Result<()> {
    let part = section(&guest::load(ctx, GuestKind::Lxc, vmid)?, name)?.clone();
    for point in volumes(&part)? {
        let id = volume_id(&point)?;
        storage::rollback(ctx, &id, name)?;
        disk::forget_user(ctx, &id)?;
    }
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        let before = config.current.clone();
        let mut now = copied(section(config, name)?);
        now.description.clone_from(&before.description);
        let unused = before.options.iter().filter(|(key, _)| volume::is_unused_key(key));
        now.options.extend(unused.map(|(key, value)| (key.clone(), value.clone())));
        now.set("parent", name);
        config.current = now;
        config.pending = Default::default();
        let back: Vec<String> = volumes(&config.current)?.iter().map(|point| point.volume().to_owned()).collect();
        config.current.options.retain(|key, value| !volume::is_unused_key(key) || !back.contains(value));
        for point in volumes(&before)?.iter().filter(|point| !back.iter().any(|volume| volume == point.volume())) {
            volume::add_unused(&mut config.current, point.volume())?;
        }
        Ok(())
    })
}
