//! Programs that give volumes of a pool to others by iSCSI: COMSTAR of illumos, istgt of FreeBSD, IET and LIO of Linux.
//! (PVE: pve-storage PVE/Storage/LunCmd/)
//!
//! A volume is published under a number of the storage's target; the number is looked up whenever it is needed, as the
//! administrator of the other machine may have changed it.

mod comstar;
mod iet;
mod istgt;
mod lio;

use super::dataset::full_name;
use crate::storage::driver::Storage;
use crate::{Error, Result, bail};

/// One of the programs.
pub(super) trait Provider: Sync {
    /// Where it finds the devices of volumes if nothing is configured.
    fn base_path(&self) -> &'static str;

    /// The number under which a device is published.
    fn number(&self, storage: &Storage, device: &str) -> Result<Option<u32>>;

    /// Publishes a device.
    fn publish(&self, storage: &Storage, device: &str) -> Result<()>;

    /// Takes a device back. One that is not published is no error.
    fn withdraw(&self, storage: &Storage, device: &str) -> Result<()>;

    /// A device that is published now has so many KiB.
    fn resized(&self, storage: &Storage, device: &str, kib: u64) -> Result<()>;

    /// Publishes a device whose content has changed behind the program's back.
    fn publish_again(&self, storage: &Storage, device: &str) -> Result<()> {
        self.publish(storage, device)
    }
}

/// The program that the storage names.
pub(super) fn provider(storage: &Storage) -> Result<&'static dyn Provider> {
    match storage.entry.get("iscsiprovider").unwrap_or_default() {
        "comstar" => Ok(&comstar::Comstar),
        "istgt" => Ok(&istgt::Istgt),
        "iet" => Ok(&iet::Iet),
        "LIO" => Ok(&lio::Lio),
        other => bail!("{}: unknown iscsi provider. Available [comstar, istgt, iet, LIO]", other.escape_debug()),
    }
}

/// The device of a volume on the other machine.
pub(super) fn device(storage: &Storage, name: &str) -> Result<String> {
    let base = match storage.entry.get("zfs-base-path") {
        Some(path) if path.starts_with('/') => path.trim_end_matches('/'),
        _ => provider(storage)?.base_path(),
    };
    Ok(format!("{base}/{}", full_name(storage, name)?))
}

/// The number under which a volume is published.
pub(super) fn number(storage: &Storage, name: &str) -> Result<u32> {
    let device = device(storage, name)?;
    let found = provider(storage)?.number(storage, &device)?;
    found.ok_or_else(|| Error::new(format!("Could not find lu_name for zvol {name}")))
}

/// The first number that no other device has.
fn free_number(taken: &[u32], most: u32) -> Result<u32> {
    (0..most)
        .find(|number| !taken.contains(number))
        .ok_or_else(|| Error::new(format!("Maximum number of LUNs per target is {most}")))
}
