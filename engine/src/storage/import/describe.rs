//! What the API says about an appliance on a file based storage.
//! (PVE: pve-storage PVE/Storage/DirPlugin.pm, get_import_metadata)

use super::{ova, ovf};
use crate::storage::directory::name::Name;
use crate::storage::directory::path_of;
use crate::storage::driver::Storage;
use crate::storage::image;
use crate::{Result, bail, error::ResultExt};
use serde_json::{Map, Value, json};
use std::fs::File;

/// Settings, disks and warnings of the guest in an OVF or OVA file.
pub fn appliance(storage: &Storage, name: &str) -> Result<Value> {
    let parsed: Name = name.parse()?;
    let Name::File(file) = &parsed else { bail!("invalid format") };
    let path = path_of(storage, &parsed)?;
    let packed = match file.format.as_str() {
        "ova" => true,
        "ovf" => false,
        _ => bail!("invalid format"),
    };
    let text = if packed {
        ova::description(&path)?
    } else {
        ova::read_text(File::open(&path).context(|| path.display().to_string())?)?
    };
    let guest = ovf::parse(&text)?;
    let mut warnings = Vec::new();
    if packed {
        warnings.push(json!({ "type": "ova-needs-extracting" }));
    }
    let mut disks = Map::new();
    for disk in &guest.disks {
        let volume = if packed {
            format!("{}:{name}/{}", storage.id, disk.file)
        } else {
            format!("{}:import/{}", storage.id, disk.file)
        };
        let size = if packed {
            disk.size
        } else {
            let beside: Name = format!("import/{}", disk.file).parse()?;
            let path = path_of(storage, &beside)?;
            Some(image::read(&path).context(|| format!("error parsing {}", disk.file))?.size)
        };
        let mut row = json!({ "volid": volume });
        if let Some(size) = size {
            row["size"] = json!(size);
        }
        disks.insert(disk.address.clone(), row);
    }
    let mut arguments = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            arguments.insert(key.to_owned(), value);
        }
    };
    put("name", guest.name.map(Value::from));
    put("cores", guest.cores.map(Value::from));
    put("memory", guest.memory.map(Value::from));
    put("ostype", Some(json!(guest.ostype)));
    put("bios", guest.uefi.then(|| json!("ovmf")));
    let order: Vec<&str> = guest.disks.iter().map(|disk| disk.address.as_str()).collect();
    put("boot", (!order.is_empty()).then(|| json!(format!("order={}", order.join(";")))));
    if guest.uefi {
        disks.insert("efidisk0".to_owned(), json!(1));
        warnings.push(json!({ "type": "efi-state-lost", "key": "bios", "value": "ovmf" }));
    }
    let networks = guest.networks.iter().enumerate();
    let net: Map<String, Value> =
        networks.map(|(number, model)| (format!("net{number}"), json!({ "model": model }))).collect();
    Ok(json!({
        "type": "vm", "source": name, "create-args": arguments, "disks": disks, "net": net, "warnings": warnings,
    }))
}
