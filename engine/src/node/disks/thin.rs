//! Thin pools on disks. (PVE: pve-storage PVE/API2/Disks/LVMThin.pm)

use super::{device, entry, lock_disks, lvm};
use crate::storage::Entry;
use crate::storage::lvm::report::{self, LogicalVolume};
use crate::storage::node_entry::Wanted;
use crate::tool::Tool;
use crate::{Call, Context, Error, Reply, Result, bail};
use serde_json::{Value, json};

/// Left free in the group, in KiB.
const SPARE: u64 = 128 * 1024;

/// Least and most metadata of a pool, in KiB. (lvmthin(7))
const METADATA: std::ops::RangeInclusive<u64> = 1024 * 1024..=16 * 1024 * 1024;

pub(super) fn list(call: &Call) -> Result<Reply> {
    Ok(Reply::from(pools(call.ctx, None)?.iter().map(shape).collect::<Value>()))
}

/// The thin pools of a group, or of all.
pub fn pools(ctx: &Context, group: Option<&str>) -> Result<Vec<LogicalVolume>> {
    Ok(report::volumes(ctx, group)?.into_iter().filter(|volume| volume.kind() == 't').collect())
}

/// A pool as the API shows it.
pub fn shape(pool: &LogicalVolume) -> Value {
    let mut row = json!({
        "lv": pool.name, "vg": pool.group, "lv_size": pool.size, "used": pool.used(), "lv_type": "t",
        "lv_state": if pool.is_active() { "a" } else { "-" },
        "metadata_size": pool.metadata_size, "metadata_used": pool.metadata_used(),
    });
    if let Some(created) = pool.created {
        row["ctime"] = json!(created.to_string());
    }
    if !pool.tags.is_empty() {
        row["tags"] = json!(pool.tags.join(","));
    }
    row
}

/// Sizes of data and metadata in KiB for a group of that size: a hundredth is metadata, twice, as the pool can be
/// repaired into the second part.
fn sizes(group: u64) -> Result<(u64, u64)> {
    let data = (group / 1024).saturating_sub(SPARE);
    let metadata = (data / 100).clamp(*METADATA.start(), *METADATA.end());
    match data.checked_sub(2 * metadata) {
        Some(data) if data > 0 => Ok((data, metadata)),
        _ => Err(Error::new(format!("the disk is too small for a thin pool: {} MiB", group >> 20))),
    }
}

fn wanted(name: &str) -> Wanted<'_> {
    let options =
        vec![("vgname", name.to_owned()), ("thinpool", name.to_owned()), ("content", "rootdir,images".to_owned())];
    Wanted { id: name, kind: "lvmthin", options, same: &["vgname", "thinpool"] }
}

pub(super) fn create(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    let disk = device::resolve(&call.param::<String>("device")?)?;
    device::assert_unused(call.ctx, &disk)?;
    entry::check_new(call, &wanted(&name))?;
    call.task("lvmthincreate", &name, |task| {
        let _lock = lock_disks(task.ctx)?;
        lvm::make_group(task, &disk, &name)?;
        make_pool(task.ctx, &name).map_err(|error| {
            let failures: Vec<Error> = lvm::remove_group(task.ctx, &name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
        device::trigger_udev(task.ctx, std::slice::from_ref(&disk));
        entry::add(call, task.ctx, &wanted(&name))
    })
}

fn make_pool(ctx: &Context, name: &str) -> Result<()> {
    let group =
        report::groups(ctx, false)?.remove(name).ok_or_else(|| Error::new(format!("no such volume group '{name}'")))?;
    let (data, metadata) = sizes(group.size)?;
    Tool::new("lvcreate")
        .args(["--type", "thin-pool", &format!("-L{data}K"), "--poolmetadatasize", &format!("{metadata}K")])
        .args(["-n", name, "--", name])
        .run(ctx)
}

pub(super) fn remove(call: &Call) -> Result<Reply> {
    let (pool, group) = (call.param::<String>("name")?, call.param::<String>("volume-group")?);
    entry::check_removal(call)?;
    call.task("lvmthinremove", format!("{group}-{pool}"), |task| {
        let _lock = lock_disks(task.ctx)?;
        let is_it = |volume: &LogicalVolume| volume.name == pool && volume.group == group;
        if !pools(task.ctx, None)?.iter().any(is_it) {
            bail!("no such thin pool {group}/{pool}");
        }
        Tool::new("lvremove").args(["-y", "--", &format!("{group}/{pool}")]).run(task.ctx)?;
        let mut disks = Vec::new();
        if call.flag("cleanup-disks") {
            let Some(found) = report::groups(task.ctx, true)?.remove(&group) else {
                bail!("no such volume group '{group}'");
            };
            if found.volumes > 0 {
                bail!("volume group '{group}' still in use");
            }
            // With its disks wiped the group would be one whose disks are missing.
            lvm::remove_group(task.ctx, &group)?;
            disks = found.physical.into_iter().map(|physical| physical.name).collect();
        }
        let is_its = |entry: &Entry| {
            let same = |key: &str, value: &str| entry.get(key) == Some(value);
            entry.kind() == "lvmthin" && same("vgname", &group) && same("thinpool", &pool)
        };
        entry::clean_up(call, task, &disks, is_its)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundredth_is_metadata_within_limits() {
        assert_eq!(sizes(1 << 40).unwrap(), (1_073_741_824 - 131_072 - 2 * 10_736_107, 10_736_107));
        assert_eq!(sizes(10 << 30).unwrap(), (10_485_760 - 131_072 - 2 * 1_048_576, 1_048_576));
        assert_eq!(sizes(100 << 40).unwrap().1, 16 << 20);
        assert!(sizes(2 << 30).is_err());
    }
}
