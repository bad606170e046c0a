//! Storages of type `iscsidirect`: QEMU speaks to the target itself, volumes are `lun0`, `lun1`, …
//! (PVE: pve-storage PVE/Storage/ISCSIDirectPlugin.pm)

use super::{ANSWER, place, portal_parts};
use crate::storage::Content;
use crate::storage::config::Entry;
use crate::storage::driver::{Described, Driver, Filter, Space, Storage};
use crate::storage::feature::{Capability, Feature, State, can};
use crate::storage::mounted::ping;
use crate::storage::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::tool::Tool;
use crate::{Context, Error, Result, bail};
use std::path::PathBuf;

/// What disks of a target can do.
const CAPABILITIES: &[Capability] = &[can(Feature::Copy, State::Current, &[Format::Raw])];

/// The driver.
pub struct IscsiDirect;

/// A row of a target's disks.
pub(super) fn row(storage: &Storage, name: String, size: u64) -> Volume {
    Volume::new(storage.volume(name), Content::Images, Format::Raw.name(), size)
}

/// The number in `lun7`.
fn number(name: &str) -> Result<u32> {
    let bad = || Error::new(format!("unable to parse iscsi volume name '{}'", name.escape_debug()));
    let digits = name.strip_prefix("lun").filter(|digits| digits.chars().all(|c| c.is_ascii_digit()));
    digits.and_then(|digits| digits.parse().ok()).ok_or_else(bad)
}

/// Disks of the storage's target with their sizes, as `iscsi-ls -s` prints them.
fn disks(storage: &Storage) -> Result<Vec<(u32, u64)>> {
    let (portal, target) = place(storage)?;
    let ended = Tool::new("iscsi-ls").args(["-s", &format!("iscsi://{portal}")]).within(ANSWER).end(storage.ctx)?;
    // A disk that is not ready hides no other.
    if ended.code != 0 && !ended.stderr.contains("TESTUNITREADY failed with SENSE KEY") {
        bail!("iscsi error: {}", ended.stderr.trim());
    }
    Ok(parse(&ended.stdout, target))
}

/// `Target:iqn.x Portal:10.0.0.1:3260,1`, then lines such as `Lun:1    Type:DIRECT_ACCESS (Size:10G)`.
fn parse(text: &str, target: &str) -> Vec<(u32, u64)> {
    let mut of_target = true;
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("Target:") {
            of_target = rest.split_whitespace().next() == Some(target);
        } else if of_target && let Some(rest) = line.strip_prefix("Lun:") {
            let lun = rest.split_whitespace().next().and_then(|lun| lun.parse().ok());
            let size = rest.split_once("(Size:").and_then(|(_, size)| bytes(size.strip_suffix(')')?));
            found.extend(lun.zip(size));
        }
    }
    found
}

/// `10G`, `1.5T`.
fn bytes(text: &str) -> Option<u64> {
    let unit = text.chars().last()?;
    let shift = ["k", "M", "G", "T"].iter().position(|letter| letter.starts_with(unit))? as i32 + 1;
    let value: f64 = text.strip_suffix(unit)?.parse().ok()?;
    Some((value * 1024_f64.powi(shift)) as u64)
}

impl Driver for IscsiDirect {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn check_entry(&self, ctx: &Context, id: &str, entry: &mut Entry, _create: bool) -> Result<()> {
        place(&Storage { ctx, id: id.to_owned(), entry: entry.clone() }).map(drop)
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        let (host, port) = portal_parts(place(storage)?.0)?;
        ping(host, port).map_err(|error| error.context(format!("storage '{}' is not online", storage.id)))
    }

    /// A target has no size of its own.
    fn space(&self, storage: &Storage) -> Result<Space> {
        self.activate(storage).map(|()| Space::default())
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        // Disks of a target have no owner.
        if filter.vmid.is_some() {
            return Ok(Vec::new());
        }
        Ok(disks(storage)?.into_iter().map(|(lun, size)| row(storage, format!("lun{lun}"), size)).collect())
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        number(name)?;
        Ok(Described { content: Content::Images, vmid: None, is_base: false, format: Format::Raw, base: None })
    }

    /// A name that QEMU understands.
    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        let (portal, target) = place(storage)?;
        Ok(format!("iscsi://{portal}/{target}/{}", number(name)?).into())
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let wanted = number(name)?;
        match disks(storage)?.into_iter().find(|(lun, _)| *lun == wanted) {
            Some((_, size)) => Ok(VolumeInfo { size, used: 0, format: Format::Raw, parent: None }),
            None => bail!("volume '{}' does not exist", storage.volume(name)),
        }
    }

    fn allocate(&self, _storage: &Storage, _new: &NewVolume) -> Result<String> {
        bail!("can't allocate space in iscsi storage")
    }

    fn free(&self, _storage: &Storage, _name: &str) -> Result<()> {
        bail!("can't free space in iscsi storage")
    }

    fn resize(&self, _storage: &Storage, _name: &str, _size: u64) -> Result<()> {
        bail!("volume resize is not possible on iscsi device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_the_target_are_read() {
        let text = "Target:iqn.a Portal:10.0.0.1:3260,1\nLun:0    Type:STORAGE_ARRAY_CONTROLLER\n\
                    Lun:1    Type:DIRECT_ACCESS (Size:10G)\n\nTarget:iqn.b Portal:10.0.0.1:3260,1\nLun:2 Type:x (Size:1.5T)\n";
        assert_eq!(parse(text, "iqn.a"), [(1, 10 << 30)]);
        assert_eq!(parse(text, "iqn.b"), [(2, 3 << 39)]);
        assert_eq!((bytes("512k"), bytes("x"), bytes("")), (Some(512 << 10), None, None));
    }

    #[test]
    fn names_are_numbers() {
        assert_eq!(number("lun12").unwrap(), 12);
        for bad in ["lun", "lunx", "lun-1", "lun1/x", "1"] {
            assert!(number(bad).is_err(), "{bad}");
        }
    }
}
