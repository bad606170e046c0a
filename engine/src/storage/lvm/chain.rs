//! qcow2 on logical volumes (`snapshot-as-volume-chain`): each snapshot is a logical volume of its own,
//! `snap_vm-100-disk-0_NAME.qcow2`, on which the current one is backed.
//! (PVE: pve-storage PVE/Storage/LVMPlugin.pm, volume_snapshot and its kin)
//!
//!     snap_vm-100-disk-0_a.qcow2  <-  snap_vm-100-disk-0_b.qcow2  <-  vm-100-disk-0.qcow2
//!
//! Images name their backing by the bare name of the logical volume, which is found beside them in `/dev/VG`.

use super::report::LogicalVolume;
use super::thick::create;
use super::{device, extend, full_name, group, remove, rename};
use crate::storage::driver::Storage;
use crate::storage::guest_volume::{GuestVolume, check_snapshot};
use crate::storage::image;
use crate::storage::volume::Format;
use crate::tool::{QUESTION, Tool};
use crate::{Error, Result, ResultExt, bail};
use serde_json::Value;
use std::path::Path;

/// Options of images that have a backing: PVE makes them with sub-clusters, which keeps small writes small.
const BACKED_OPTIONS: &str = "extended_l2=on,cluster_size=128k";

/// What a new image stands on.
pub(super) enum Backing {
    /// Nothing.
    None,
    /// The volume of a snapshot.
    Snapshot(String),
}

/// One member of a chain.
#[derive(Debug)]
struct Member {
    /// The logical volume.
    volume: String,
    /// The snapshot that it keeps; `None` for the current state.
    snapshot: Option<String>,
    /// Bytes that a guest sees.
    size: u64,
}

fn stem(name: &str) -> &str {
    name.strip_suffix(".qcow2").unwrap_or(name)
}

/// The logical volume of a snapshot.
pub(super) fn snapshot_name(name: &str, snapshot: &str) -> Result<String> {
    Ok(format!("snap_{}_{}.qcow2", stem(name), check_snapshot(snapshot)?))
}

/// The snapshot of a disk that a logical volume keeps.
fn snapshot_of<'v>(volume: &'v str, name: &str) -> Option<&'v str> {
    let snapshot = volume.strip_prefix("snap_")?.strip_prefix(stem(name))?.strip_prefix('_')?.strip_suffix(".qcow2")?;
    check_snapshot(snapshot).ok()
}

/// The logical volumes of a disk's snapshots. One that could belong to two disks belongs to the one with the longer name.
pub(super) fn parts(rows: &[LogicalVolume], name: &str) -> Vec<String> {
    let longer = |row: &LogicalVolume| {
        let of_other = |other: &&LogicalVolume| {
            other.name.len() > name.len()
                && other.name.ends_with(".qcow2")
                && snapshot_of(&row.name, &other.name).is_some()
        };
        rows.iter().any(|other| of_other(&other))
    };
    let of_disk = rows.iter().filter(|row| snapshot_of(&row.name, name).is_some() && !longer(row));
    of_disk.map(|row| row.name.clone()).collect()
}

/// Chooses the disk and all its snapshots. The name has been parsed, a dot is its only special character.
fn selection(storage: &Storage, name: &str) -> Result<String> {
    let escaped = stem(name).replace('.', "\\.");
    let group = group(storage)?;
    Ok(format!("vg_name = \"{group}\" && lv_name =~ '^({escaped}|snap_{escaped}_.+)\\.qcow2$'"))
}

pub(super) fn activate(storage: &Storage, name: &str) -> Result<()> {
    let selection = selection(storage, name)?;
    let place = || format!("volume chain for LV '/dev/{}'", full_name(storage, name).unwrap_or_default());
    let change = |option: &'static str| Tool::new("lvchange").args([option, "--select", &selection]).run(storage.ctx);
    change("-aey").context(|| format!("can't activate {}", place()))?;
    change("--refresh").context(|| format!("can't refresh {} for activation", place()))
}

pub(super) fn deactivate(storage: &Storage, name: &str) -> Result<()> {
    Tool::new("lvchange")
        .args(["-aln", "--select", &selection(storage, name)?])
        .run(storage.ctx)
        .context(|| format!("can't deactivate volume chain for LV '{name}'"))
}

/// Bytes that a fully written image of that size takes.
pub(super) fn measure(storage: &Storage, size: u64, backing: &Backing) -> Result<u64> {
    let mut tool = Tool::new("qemu-img").args(["measure", "--output=json", "--size", &size.to_string(), "-O", "qcow2"]);
    if matches!(backing, Backing::Snapshot(_)) {
        tool = tool.args(["-o", BACKED_OPTIONS]);
    }
    let text = tool.within(QUESTION).read(storage.ctx)?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    answer["fully-allocated"].as_u64().ok_or_else(|| Error::new("Missing fully-allocated value from json"))
}

/// Puts an empty image on a new logical volume.
pub(super) fn write_image(storage: &Storage, name: &str, size: u64, backing: &Backing) -> Result<()> {
    let path = device(storage, name)?.to_string_lossy().into_owned();
    let preallocation = storage.entry.get("preallocation").filter(|mode| ["off", "metadata"].contains(mode));
    let tool = match backing {
        Backing::None => {
            let option = format!("preallocation={}", preallocation.unwrap_or("metadata"));
            let size = format!("{}K", size.div_ceil(1024));
            Tool::new("qemu-img").args(["create", "-o", &option, "-f", "qcow2", &path, &size])
        }
        // Metadata cannot be allocated ahead for clusters that come from the backing.
        Backing::Snapshot(backing) => Tool::new("qemu-img")
            .args(["create", "-F", "qcow2", "-b", backing, "-f", "qcow2"])
            .args(["-o", BACKED_OPTIONS, &path]),
    };
    tool.run(storage.ctx).context(|| "unable to create image")
}

/// The size in an active image's header; quick, for lists.
pub(super) fn header_size(storage: &Storage, name: &str) -> Option<u64> {
    let header = image::read(&device(storage, name).ok()?).ok().filter(|header| header.format == Format::Qcow2)?;
    header.backing.is_none_or(|backing| !Path::new(&backing).is_absolute()).then_some(header.size)
}

/// The size that a guest sees.
pub(super) fn size(storage: &Storage, name: &str) -> Result<u64> {
    activate(storage, name)?;
    chain(storage, name)?.first().map(|member| member.size).ok_or_else(|| no_image(storage, name))
}

fn no_image(storage: &Storage, name: &str) -> Error {
    Error::new(format!("no qcow2 image on '{}'", device(storage, name).unwrap_or_default().display()))
}

/// The chain from the current state down to the oldest snapshot. The disk is active.
fn chain(storage: &Storage, name: &str) -> Result<Vec<Member>> {
    let path = device(storage, name)?;
    let text = Tool::new("qemu-img")
        .args(["info", "-f", "qcow2", "--backing-chain", "--output=json", &path.to_string_lossy()])
        .within(QUESTION)
        .read(storage.ctx)?;
    let images: Value = serde_json::from_str(&text).unwrap_or_default();
    let images = images.as_array().ok_or_else(|| Error::new("failed to query file information with qemu-img"))?;
    let mut members = Vec::new();
    for image in images {
        let file = image["filename"].as_str().unwrap_or_default();
        let volume = file.rsplit('/').next().unwrap_or_default().to_owned();
        let snapshot = snapshot_of(&volume, name).map(str::to_owned);
        if volume == name || snapshot.is_some() {
            members.push(Member { volume, snapshot, size: image["virtual-size"].as_u64().unwrap_or(0) });
        }
    }
    Ok(members)
}

/// Names of snapshots, oldest first.
pub(super) fn snapshots(storage: &Storage, name: &str) -> Result<Vec<String>> {
    activate(storage, name)?;
    let mut names: Vec<String> = chain(storage, name)?.into_iter().filter_map(|member| member.snapshot).collect();
    names.reverse();
    Ok(names)
}

/// The current volume becomes the snapshot's, and a new one is put on it.
pub(super) fn snapshot(storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
    let kept = snapshot_name(name, snapshot)?;
    let _lock = storage.lock()?;
    let size = size(storage, name)?;
    rename(storage, name, &kept).context(|| format!("error rename {name} to {snapshot}"))?;
    let vmid = GuestVolume::parse(name, "lvm")?.vmid;
    create(storage, name, vmid, size, Backing::Snapshot(kept.clone())).map_err(|error| {
        let failures: Vec<Error> = rename(storage, &kept, name).err().into_iter().collect();
        error.with_cleanup_failures(&failures)
    })
}

/// Only the newest snapshot can be gone back to: the others have children.
pub(super) fn rollback_possible(storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
    let snapshots = snapshots(storage, name)?;
    match snapshots.iter().position(|other| other == snapshot) {
        None => bail!("can't rollback, snapshot '{snapshot}' does not exist on '{name}'"),
        Some(index) if index + 1 < snapshots.len() => {
            bail!("can't rollback, '{snapshot}' is not most recent snapshot on '{name}'")
        }
        Some(_) => Ok(()),
    }
}

/// Replaces the current volume by an empty one on the snapshot. The old one is kept aside until the new one is there.
pub(super) fn rollback(storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
    rollback_possible(storage, name, snapshot)?;
    let kept = snapshot_name(name, snapshot)?;
    let aside = super::wipe::doomed_name(name);
    let lock = storage.lock()?;
    let chain = chain(storage, name)?;
    let size = chain.iter().find(|member| member.volume == kept).map(|member| member.size);
    let size = size.ok_or_else(|| no_image(storage, &kept))?;
    let vmid = GuestVolume::parse(name, "lvm")?.vmid;
    rename(storage, name, &aside)?;
    create(storage, name, vmid, size, Backing::Snapshot(kept)).map_err(|error| {
        let failures: Vec<Error> = rename(storage, &aside, name).err().into_iter().collect();
        error.with_cleanup_failures(&failures)
    })?;
    if storage.entry.flag("saferemove").unwrap_or(false) {
        drop(lock);
        return super::wipe::wipe_and_remove(storage, &aside);
    }
    remove(storage, &aside)
}

/// Removes a snapshot: the oldest takes the data of its child and its place, any other is taken out of the chain by
/// rebasing its child on its parent.
pub(super) fn snapshot_delete(storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
    activate(storage, name)?;
    let members = chain(storage, name)?;
    let index = members.iter().position(|member| member.snapshot.as_deref() == Some(snapshot));
    let Some(index) = index.filter(|index| *index > 0) else {
        bail!("snapshot '{snapshot}' does not exist on '{name}'");
    };
    let (doomed, child) = (&members[index], &members[index - 1]);
    let child_path = device(storage, &child.volume)?.to_string_lossy().into_owned();
    let Some(parent) = members.get(index + 1) else {
        return commit_child(storage, doomed, child, &child_path);
    };
    Tool::new("qemu-img")
        .args(["rebase", "-b", &parent.volume, "-F", "qcow2", "-f", "qcow2", &child_path])
        .run(storage.ctx)
        .context(|| format!("error rebase '{}' on '{}'", child.volume, parent.volume))?;
    discard(storage, &doomed.volume)
}

/// The oldest snapshot is usually the largest volume, so it is the one that stays.
fn commit_child(storage: &Storage, doomed: &Member, child: &Member, child_path: &str) -> Result<()> {
    if child.size > doomed.size {
        let path = device(storage, &doomed.volume)?.to_string_lossy().into_owned();
        extend(storage, &doomed.volume, measure(storage, child.size, &Backing::None)?)?;
        resize_image(storage, &path, child.size)?;
    }
    Tool::new("qemu-img").args(["commit", "-f", "qcow2", child_path]).run(storage.ctx).context(|| {
        format!(
            "error commiting '{}' to '{}' (its state is invalid now: delete the snapshot again, do not use it)",
            child.volume, doomed.volume
        )
    })?;
    let lock = storage.lock()?;
    let aside = super::wipe::doomed_name(&child.volume);
    rename(storage, &child.volume, &aside)?;
    rename(storage, &doomed.volume, &child.volume).map_err(|error| {
        let failures: Vec<Error> = rename(storage, &aside, &child.volume).err().into_iter().collect();
        error.with_cleanup_failures(&failures)
    })?;
    drop(lock);
    remove_aside(storage, &aside)
}

fn discard(storage: &Storage, volume: &str) -> Result<()> {
    if !storage.entry.flag("saferemove").unwrap_or(false) {
        let _lock = storage.lock()?;
        return remove(storage, volume);
    }
    let aside = super::wipe::doomed_name(volume);
    {
        let _lock = storage.lock()?;
        rename(storage, volume, &aside)?;
    }
    super::wipe::wipe_and_remove(storage, &aside)
}

fn remove_aside(storage: &Storage, aside: &str) -> Result<()> {
    if storage.entry.flag("saferemove").unwrap_or(false) {
        return super::wipe::wipe_and_remove(storage, aside);
    }
    remove(storage, aside)
}

fn resize_image(storage: &Storage, path: &str, size: u64) -> Result<()> {
    Tool::new("qemu-img").args(["resize", "-f", "qcow2", path, &size.to_string()]).run(storage.ctx)
}

/// Makes room on the logical volume, then the image larger.
pub(super) fn resize(storage: &Storage, name: &str, size: u64) -> Result<()> {
    activate(storage, name)?;
    let members = chain(storage, name)?;
    let old = members.first().map(|member| member.size).ok_or_else(|| no_image(storage, name))?;
    if size < old {
        bail!("unable to shrink '{}' from {old} to {size} bytes", device(storage, name)?.display());
    }
    let backing = match members.get(1) {
        Some(parent) => Backing::Snapshot(parent.volume.clone()),
        None => Backing::None,
    };
    extend(storage, name, measure(storage, size, &backing)?)?;
    resize_image(storage, &device(storage, name)?.to_string_lossy(), size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::lvm::report;
    use crate::storage::lvm::samples;
    use crate::tool::script::Script;

    #[test]
    fn snapshots_belong_to_the_longest_name() {
        let text = samples::volumes(
            "pve",
            &[
                ("vm-100-disk-0.qcow2", 1, "-wi-a-----", "", ""),
                ("vm-100-disk-0_x.qcow2", 1, "-wi-a-----", "", ""),
                ("snap_vm-100-disk-0_a.qcow2", 1, "-wi-a-----", "", ""),
                ("snap_vm-100-disk-0_x_b.qcow2", 1, "-wi-a-----", "", ""),
                ("snap_vm-1000-disk-0_a.qcow2", 1, "-wi-a-----", "", ""),
            ],
        );
        let script = Script::new().answer("lvs", &text);
        let rows = report::volumes(&script.context(Path::new("/nowhere")), Some("pve")).unwrap();
        assert_eq!(parts(&rows, "vm-100-disk-0.qcow2"), ["snap_vm-100-disk-0_a.qcow2"]);
        assert_eq!(parts(&rows, "vm-100-disk-0_x.qcow2"), ["snap_vm-100-disk-0_x_b.qcow2"]);
        assert_eq!(snapshot_name("vm-100-disk-0.qcow2", "a").unwrap(), "snap_vm-100-disk-0_a.qcow2");
        assert!(snapshot_name("vm-100-disk-0.qcow2", "a/b").is_err());
    }
}
