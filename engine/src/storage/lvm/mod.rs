//! Storages on LVM: `lvm` ([`thick`]) and `lvmthin` ([`thin`]), and what both share: names, devices, commands.
//! (PVE: pve-storage PVE/Storage/LVMPlugin.pm and PVE/Storage/LvmThinPlugin.pm)
//!
//! Volumes of guests carry the tag `pve-vm-ID` where PVE sets it, and are never activated automatically.

pub mod report;
pub mod thick;
pub mod thin;

mod chain;
#[cfg(test)]
mod tests;
mod wipe;

use super::driver::Storage;
use crate::tool::Tool;
use crate::{Error, Result, ResultExt, bail};
use report::{LogicalVolume, VolumeGroup, check_name};
use std::path::PathBuf;

/// The volume group of a storage.
fn group<'s>(storage: &'s Storage) -> Result<&'s str> {
    let name = storage.entry.get("vgname").ok_or_else(|| Error::new("missing value for required option 'vgname'"))?;
    check_name(name, "volume group")
}

/// The volume group's figures.
///
/// # Errors
/// `no such volume group 'x'`.
fn group_report(storage: &Storage) -> Result<VolumeGroup> {
    let name = group(storage)?;
    match report::groups(storage.ctx, false)?.remove(name) {
        Some(group) => Ok(group),
        None => bail!("no such volume group '{name}'"),
    }
}

/// `VG/LV`, as LVM's commands take it. The name has been parsed before.
fn full_name(storage: &Storage, name: &str) -> Result<String> {
    Ok(format!("{}/{}", group(storage)?, check_name(name, "logical volume")?))
}

/// The device of a logical volume.
fn device(storage: &Storage, name: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/dev/{}", full_name(storage, name)?)))
}

/// The logical volumes of the storage's group.
fn volumes(storage: &Storage) -> Result<Vec<LogicalVolume>> {
    report::volumes(storage.ctx, Some(group(storage)?))
}

/// One logical volume of the storage's group.
///
/// # Errors
/// `no such logical volume VG/LV`.
fn volume(storage: &Storage, name: &str) -> Result<LogicalVolume> {
    let full = full_name(storage, name)?;
    let found = volumes(storage)?.into_iter().find(|volume| volume.name == name);
    found.ok_or_else(|| Error::new(format!("no such logical volume {full}")))
}

/// Removes a logical volume.
fn remove(storage: &Storage, name: &str) -> Result<()> {
    let full = full_name(storage, name)?;
    Tool::new("lvremove").args(["-f", "--", &full]).run(storage.ctx).context(|| format!("lvremove '{full}' error"))
}

/// Renames a logical volume; its group has none of the new name, as LVM checks.
fn rename(storage: &Storage, from: &str, to: &str) -> Result<()> {
    let (old, new) = (full_name(storage, from)?, full_name(storage, to)?);
    Tool::new("lvrename")
        .args(["--", group(storage)?, from, to])
        .run(storage.ctx)
        .context(|| format!("lvrename '{old}' to '{new}' error"))
}

/// Makes a logical volume at least so large.
fn extend(storage: &Storage, name: &str, size: u64) -> Result<()> {
    let full = full_name(storage, name)?;
    let current = volume(storage, name)?.size;
    // LVM rounds up to extents, and refuses to do nothing.
    if current >= size {
        return Ok(());
    }
    Tool::new("lvextend")
        .args(["-L", &format!("{}k", size.div_ceil(1024)), "--", &full])
        .run(storage.ctx)
        .context(|| format!("error resizing volume '/dev/{full}'"))
}

/// The next start of the machine does not activate it. Not worth a failure.
fn without_autoactivation(storage: &Storage, name: &str) -> Result<()> {
    let full = full_name(storage, name)?;
    // An LVM without the option activates the volume at boot, which costs nothing but a device node.
    let _ = Tool::new("lvchange").args(["--setautoactivation", "n", "--", &full]).run(storage.ctx);
    Ok(())
}

#[cfg(test)]
pub(super) mod samples {
    //! Reports as LVM prints them, for the drivers' tests.

    /// A group with so many free bytes.
    pub fn groups(name: &str, free: u64) -> String {
        format!(
            r#"{{"report": [{{"vg": [{{"vg_name":"{name}", "vg_size":"10737418240", "vg_free":"{free}",
            "lv_count":"2"}}]}}]}}"#
        )
    }

    /// Logical volumes: name, size, attributes, pool, tags.
    pub fn volumes(group: &str, rows: &[(&str, u64, &str, &str, &str)]) -> String {
        let rows: Vec<String> = rows
            .iter()
            .map(|(name, size, attributes, pool, tags)| {
                format!(
                    r#"{{"vg_name":"{group}", "lv_name":"{name}", "lv_size":"{size}", "lv_attr":"{attributes}",
                    "pool_lv":"{pool}", "data_percent":"25.00", "metadata_percent":"10.00",
                    "lv_metadata_size":"4194304", "lv_tags":"{tags}", "lv_time":"1700000000"}}"#
                )
            })
            .collect();
        format!(r#"{{"report": [{{"lv": [{}]}}]}}"#, rows.join(","))
    }
}
