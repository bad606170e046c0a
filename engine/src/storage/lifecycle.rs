//! What happens to an existing volume: snapshots, templates, linked clones, a new owner. Thin over [`Driver`]: finds the
//! storage, makes it ready, checks the owner's rules that all types share.

use super::driver::{Driver, Storage};
use super::feature::Feature;
use super::volume::{Format, VolumeId};
use super::{activated, with_driver};
use crate::{Context, Result, Vmid, bail};
use std::path::PathBuf;

/// Whether a volume can do something now. `running`: its guest runs. (PVE: Storage.pm, volume_has_feature)
pub fn has_feature(
    ctx: &Context,
    feature: Feature,
    volume: &VolumeId,
    snapshot: Option<&str>,
    running: bool,
) -> Result<bool> {
    let (storage, driver) = with_driver(ctx, &volume.storage)?;
    driver.can(&storage, feature, &volume.name, snapshot, running)
}

/// Keeps a volume's state. Where a running VM has to do it itself (qcow2), the caller asks QEMU instead.
pub fn snapshot(ctx: &Context, volume: &VolumeId, name: &str) -> Result<()> {
    check_snapshot_name(name)?;
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.snapshot(&storage, &volume.name, name)
}

/// Drops a kept state.
pub fn snapshot_delete(ctx: &Context, volume: &VolumeId, name: &str) -> Result<()> {
    check_snapshot_name(name)?;
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.snapshot_delete(&storage, &volume.name, name)
}

/// Fails when a volume cannot go back to a snapshot; the text says what is in the way.
pub fn rollback_possible(ctx: &Context, volume: &VolumeId, name: &str) -> Result<()> {
    check_snapshot_name(name)?;
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.rollback_possible(&storage, &volume.name, name)
}

/// Goes back to a kept state.
pub fn rollback(ctx: &Context, volume: &VolumeId, name: &str) -> Result<()> {
    rollback_possible(ctx, volume, name)?;
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.rollback(&storage, &volume.name, name)
}

/// The names of a volume's snapshots, oldest first.
pub fn snapshots(ctx: &Context, volume: &VolumeId) -> Result<Vec<String>> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.snapshots(&storage, &volume.name)
}

/// Whether a snapshot of a running VM's volume is QEMU's work (`true`) or the storage's.
/// (PVE: Storage.pm, volume_qemu_snapshot_method)
pub fn snapshots_in_image(ctx: &Context, volume: &VolumeId) -> Result<bool> {
    let (storage, driver) = with_driver(ctx, &volume.storage)?;
    Ok(driver.describe(&storage, &volume.name)?.format == Format::Qcow2)
}

/// A snapshot's name becomes part of file names and arguments. (PVE: JSONSchema.pm, pve-configid; `vzdump` and replication
/// use names of their own that begin with two underscores)
fn check_snapshot_name(name: &str) -> Result<()> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let good = !name.is_empty() && name.len() <= 60 && !name.starts_with('-') && name.chars().all(inner);
    if !good {
        bail!("invalid snapshot name '{}'", name.escape_debug());
    }
    Ok(())
}

/// Makes a template's image of a volume and answers its new id (`vm-…` becomes `base-…`).
pub fn make_template(ctx: &Context, volume: &VolumeId) -> Result<VolumeId> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    Ok(storage.volume(driver.make_template(&storage, &volume.name)?))
}

/// Makes a linked clone for a guest.
pub fn clone_linked(ctx: &Context, volume: &VolumeId, snapshot: Option<&str>, target: Vmid) -> Result<VolumeId> {
    if let Some(name) = snapshot {
        check_snapshot_name(name)?;
    }
    let (storage, driver) = activated(ctx, &volume.storage)?;
    Ok(storage.volume(driver.clone_linked(&storage, &volume.name, snapshot, target)?))
}

/// Gives a volume to another guest, under a free name unless one is wanted. (PVE: Storage.pm, rename_volume)
pub fn reassign(ctx: &Context, volume: &VolumeId, owner: Vmid, new_name: Option<&str>) -> Result<VolumeId> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    let described = driver.describe(&storage, &volume.name)?;
    if described.is_base {
        check_unused(driver, &storage, &volume.name)?;
    }
    Ok(storage.volume(driver.rename(&storage, &volume.name, owner, new_name)?))
}

/// Fails while linked clones need a template's image. (PVE: Storage.pm, volume_is_base_and_used)
pub fn check_unused(driver: &dyn Driver, storage: &Storage, name: &str) -> Result<()> {
    if linked_clones(driver, storage, name)?.is_empty() {
        return Ok(());
    }
    bail!("base volume '{name}' is still in use by linked clones")
}

/// The names of the linked clones of a template's image.
pub fn linked_clones_of(ctx: &Context, volume: &VolumeId) -> Result<Vec<String>> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    linked_clones(driver, &storage, &volume.name)
}

/// The linked clones of a template's image on its storage.
pub fn linked_clones(driver: &dyn Driver, storage: &Storage, name: &str) -> Result<Vec<String>> {
    use super::content::Content;
    let filter = super::driver::Filter { contents: vec![Content::Images, Content::Rootdir], vmid: None };
    let is_child = |other: &String| {
        driver.describe(storage, other).is_ok_and(|described| described.base.is_some_and(|base| same(&base, name)))
    };
    let volumes = driver.list(storage, &filter)?;
    Ok(volumes.into_iter().map(|volume| volume.id.name).filter(is_child).collect())
}

/// A clone names its base without that one's own base.
fn same(base: &str, name: &str) -> bool {
    let tail = |text: &str| text.rsplitn(3, '/').take(2).map(str::to_owned).collect::<Vec<_>>();
    tail(base) == tail(name)
}

/// Makes a volume, or a snapshot of it, usable and answers where it is: file, device or directory.
pub fn activate_volume(ctx: &Context, volume: &VolumeId, snapshot: Option<&str>) -> Result<PathBuf> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.activate_volume(&storage, &volume.name, snapshot)
}

/// As [`activate_volume`]; fails before that if the volume is not there.
pub fn activate_existing(ctx: &Context, volume: &VolumeId) -> Result<PathBuf> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.info(&storage, &volume.name)?;
    driver.activate_volume(&storage, &volume.name, None)
}

/// Nobody on this node needs the volume any longer.
pub fn deactivate_volume(ctx: &Context, volume: &VolumeId, snapshot: Option<&str>) -> Result<()> {
    let (storage, driver) = with_driver(ctx, &volume.storage)?;
    driver.deactivate_volume(&storage, &volume.name, snapshot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_names_are_no_paths_and_no_options() {
        for good in ["a", "before-update", "__replicate_100-0_1700000000__", "vzdump", "X1"] {
            assert!(check_snapshot_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a/b", "..", "a b", "a\n", "a\0", "a@b", &"x".repeat(61)] {
            assert!(check_snapshot_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn bases_are_the_same_whatever_they_are_based_on() {
        assert!(same("9000/base-9000-disk-0.qcow2", "8000/base-8000-disk-0.qcow2/9000/base-9000-disk-0.qcow2"));
        assert!(!same("9000/base-9000-disk-1.qcow2", "9000/base-9000-disk-0.qcow2"));
        assert!(same("base-9000-disk-0", "base-9000-disk-0"));
    }
}
