//! LIO of Linux, by targetcli. (PVE: pve-storage PVE/Storage/LunCmd/LIO.pm)

use super::Provider;
use crate::storage::driver::Storage;
use crate::storage::iscsi::place;
use crate::storage::zfs::remote::{read_file, run};
use crate::{Error, Result, bail};
use serde_json::Value;

/// Where distributions keep the saved configuration.
const CONFIGURATIONS: [&str; 3] =
    ["/etc/rtslib-fb-target/saveconfig.json", "/etc/target/saveconfig.json", "/etc/saveconfig.json"];

const TARGETCLI: &str = "/usr/bin/targetcli";
const STORES: &str = "/backstores/block";

/// The program.
pub(super) struct Lio;

/// The storage's portal group, such as `tpg1`.
fn group<'s>(storage: &'s Storage) -> Result<(&'s str, u64)> {
    let text = storage.entry.get("lio_tpg").ok_or_else(|| Error::new("Target Portal Group not set, aborting!"))?;
    match text.strip_prefix("tpg").and_then(|number| number.parse().ok()) {
        Some(number) => Ok((text, number)),
        None => {
            bail!("Target Portal Group has invalid value, must contain string 'tpg' and a suffix number, eg 'tpg17'")
        }
    }
}

/// The name of a device's store: pool and volume, as several pools may have volumes of the same name.
fn store_name(device: &str, base: &str) -> String {
    device.strip_prefix(base).unwrap_or(device).trim_start_matches('/').replace('/', "-")
}

/// Numbers and stores of a target's group in a saved configuration.
fn published(text: &str, target: &str, group: u64) -> Result<Vec<(u32, String)>> {
    let config: Value =
        serde_json::from_str(text).map_err(|_| Error::new("unable to read targetcli's configuration"))?;
    let rows = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let of_target = rows(&config["targets"]).into_iter().find(|row| row["fabric"] == "iscsi" && row["wwn"] == target);
    let of_group = of_target.and_then(|row| rows(&row["tpgs"]).into_iter().find(|tpg| tpg["tag"] == group));
    let Some(of_group) = of_group else { bail!("target portal group tpg{group} not found!") };
    let lun = |row: &Value| {
        let store = row["storage_object"].as_str()?.strip_prefix(STORES)?.strip_prefix('/')?.to_owned();
        Some((u32::try_from(row["index"].as_u64()?).ok()?, store))
    };
    Ok(rows(&of_group["luns"]).iter().filter_map(lun).collect())
}

fn look(storage: &Storage) -> Result<Vec<(u32, String)>> {
    let (_, target) = place(storage)?;
    let (_, number) = group(storage)?;
    let mut last = Error::new("No configuration found. Install targetcli on the portal");
    for path in CONFIGURATIONS {
        match read_file(storage, path) {
            Ok(text) => return published(&text, target, number),
            Err(error) if error.message().contains("No such file") => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The number and store of a device. Volumes of older storages have a store without the pool's name.
fn find(storage: &Storage, device: &str) -> Result<Option<(u32, String)>> {
    let base = storage.entry.get("zfs-base-path").unwrap_or(Lio.base_path());
    let name = store_name(device, base);
    let short = device.rsplit('/').next().unwrap_or(device);
    let all = look(storage)?;
    let by_name = |wanted: &str| all.iter().find(|(_, store)| store == wanted).cloned();
    Ok(by_name(&name).or_else(|| by_name(short)))
}

impl Provider for Lio {
    fn base_path(&self) -> &'static str {
        "/dev"
    }

    fn number(&self, storage: &Storage, device: &str) -> Result<Option<u32>> {
        Ok(find(storage, device)?.map(|(number, _)| number))
    }

    fn publish(&self, storage: &Storage, device: &str) -> Result<()> {
        if find(storage, device)?.is_some() {
            bail!("{device}: LUN already exists!");
        }
        let (_, target) = place(storage)?;
        let (group, _) = group(storage)?;
        let base = storage.entry.get("zfs-base-path").unwrap_or(self.base_path());
        let name = store_name(device, base);
        run(storage, &[TARGETCLI, STORES, "create", &format!("name={name}"), &format!("dev={device}")])?;
        run(storage, &[TARGETCLI, &format!("{STORES}/{name}"), "set", "attribute", "emulate_tpu=1"])?;
        let place = format!("/iscsi/{target}/{group}/luns/");
        run(storage, &[TARGETCLI, &place, "create", &format!("{STORES}/{name}")])?;
        run(storage, &[TARGETCLI, "saveconfig"]).map(drop)
    }

    fn withdraw(&self, storage: &Storage, device: &str) -> Result<()> {
        let Some((number, store)) = find(storage, device)? else { return Ok(()) };
        let (_, target) = place(storage)?;
        let (group, _) = group(storage)?;
        run(storage, &[TARGETCLI, &format!("/iscsi/{target}/{group}/luns/"), "delete", &format!("lun{number}")])?;
        run(storage, &[TARGETCLI, STORES, "delete", &store])?;
        run(storage, &[TARGETCLI, "saveconfig"]).map(drop)
    }

    /// LIO asks the device itself.
    fn resized(&self, _storage: &Storage, _device: &str, _kib: u64) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_devices_are_read_from_the_saved_configuration() {
        let text = r#"{"targets": [{"fabric": "iscsi", "wwn": "iqn.a", "tpgs": [
            {"tag": 1, "luns": [{"index": 3, "storage_object": "/backstores/block/tank-vm-100-disk-0"},
                                {"index": 4, "storage_object": "/backstores/fileio/x"}]}]}]}"#;
        assert_eq!(published(text, "iqn.a", 1).unwrap(), [(3, "tank-vm-100-disk-0".to_owned())]);
        assert_eq!(published(text, "iqn.a", 2).unwrap_err().message(), "target portal group tpg2 not found!");
        assert!(published(text, "iqn.b", 1).is_err());
        assert_eq!(store_name("/dev/zvol/tank/a/vm-1", "/dev/zvol"), "tank-a-vm-1");
    }
}
