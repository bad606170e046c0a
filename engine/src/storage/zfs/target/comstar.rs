//! COMSTAR of illumos. (PVE: pve-storage PVE/Storage/LunCmd/Comstar.pm)

use super::Provider;
use crate::storage::driver::Storage;
use crate::storage::zfs::remote::run;
use crate::{Error, Result};
use openssl::hash::{MessageDigest, hash};

/// The program.
pub(super) struct Comstar;

/// The unit of a device in `sbdadm list-lu`: lines of unit, size and device.
fn unit(list: &str, device: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            [unit, _, found] if *found == device => Some((*unit).to_owned()),
            _ => None,
        }
    })
}

/// A name that is the same each time the device is published, so that its users know it again.
fn unit_name(device: &str) -> Result<String> {
    let digest = hash(MessageDigest::md5(), device.as_bytes()).map_err(|error| Error::new(error.to_string()))?;
    let digest = crate::types::hex(&digest);
    // Seven digits say who makes the name, by the rules of such names.
    Ok(format!("600144f{}", &digest[7..]))
}

fn find(storage: &Storage, device: &str) -> Result<Option<String>> {
    Ok(unit(&run(storage, &["/usr/sbin/sbdadm", "list-lu"])?, device))
}

fn add_view(storage: &Storage, unit: &str) -> Result<()> {
    let mut words = vec!["/usr/sbin/stmfadm", "add-view"];
    if let Some(group) = storage.entry.get("comstar_hg") {
        words.extend(["--host-group", group]);
    }
    if let Some(group) = storage.entry.get("comstar_tg") {
        words.extend(["--target-group", group]);
    }
    words.push(unit);
    run(storage, &words).map(drop)
}

impl Provider for Comstar {
    fn base_path(&self) -> &'static str {
        "/dev/zvol/rdsk"
    }

    fn number(&self, storage: &Storage, device: &str) -> Result<Option<u32>> {
        let Some(unit) = find(storage, device)? else { return Ok(None) };
        let text = run(storage, &["/usr/sbin/stmfadm", "list-view", "-l", &unit])?;
        Ok(text.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            if key.trim() == "LUN" { value.trim().parse().ok() } else { None }
        }))
    }

    fn publish(&self, storage: &Storage, device: &str) -> Result<()> {
        let unit = unit_name(device)?;
        let cache = format!("wcd={}", storage.entry.flag("nowritecache").unwrap_or(false));
        let name = format!("guid={unit}");
        run(storage, &["/usr/sbin/stmfadm", "create-lu", "-p", &cache, "-p", &name, device])?;
        add_view(storage, &unit)
    }

    fn publish_again(&self, storage: &Storage, device: &str) -> Result<()> {
        run(storage, &["/usr/sbin/stmfadm", "import-lu", device])?;
        match find(storage, device)? {
            Some(unit) => add_view(storage, &unit),
            None => Err(Error::new(format!("Could not find lu_name for '{device}'"))),
        }
    }

    fn withdraw(&self, storage: &Storage, device: &str) -> Result<()> {
        match find(storage, device)? {
            Some(unit) => run(storage, &["/usr/sbin/stmfadm", "delete-lu", &unit]).map(drop),
            None => Ok(()),
        }
    }

    fn resized(&self, storage: &Storage, device: &str, kib: u64) -> Result<()> {
        let Some(unit) = find(storage, device)? else { return Ok(()) };
        run(storage, &["/usr/sbin/stmfadm", "modify-lu", "-s", &format!("{kib}K"), &unit]).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_by_their_device() {
        let list = "Found 1 LU(s)\n\n              GUID                    DATA SIZE           SOURCE\n\
                    --------------------------------  -------------------  ----------------\n\
                    600144f0c0ffee  1073741824           /dev/zvol/rdsk/tank/vm-100-disk-0\n";
        assert_eq!(unit(list, "/dev/zvol/rdsk/tank/vm-100-disk-0").as_deref(), Some("600144f0c0ffee"));
        assert_eq!(unit(list, "/dev/zvol/rdsk/tank/vm-100-disk-1"), None);
        let name = unit_name("/dev/zvol/rdsk/tank/vm-100-disk-0").unwrap();
        assert!(name.starts_with("600144f") && name.len() == 32, "{name}");
    }
}
