//! Methods below `/nodes/{node}/hardware`.

use super::names::Names;
use super::pci::{self, PciDevice};
use super::usb;
use crate::mapping::{Kind, Mappings};
use crate::registry::{Binding, get};
use crate::types::split_list;
use crate::{Call, Reply, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The handlers of this area.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/hardware/pci", pci_devices),
    get("/nodes/{node}/hardware/pci/{pci-id-or-mapping}/mdev", mediated_types),
    get("/nodes/{node}/hardware/usb", usb_devices),
];

/// Memory, bridges and processors are of no use to guests.
const HIDDEN_CLASSES: &str = "05;06;0b";

fn pci_devices(call: &Call) -> Result<Reply> {
    let hidden = call.text("pci-class-blacklist").unwrap_or_else(|| HIDDEN_CLASSES.to_owned());
    let hidden = split_list(&hidden);
    let is_shown = |device: &PciDevice| {
        let class = device.class.trim_start_matches("0x");
        !hidden.iter().any(|prefix| class.starts_with(prefix.as_str()))
    };
    let names = (call.opt::<bool>("verbose")? != Some(false)).then(Names::load);
    let devices = pci::list(&call.ctx.host).into_iter().filter(is_shown);
    Ok(Reply::from(Value::Array(devices.map(|device| pci_row(&device, names.as_ref())).collect())))
}

fn pci_row(device: &PciDevice, names: Option<&Names>) -> Value {
    let mut row = json!({
        "id": device.id, "vendor": device.vendor, "device": device.device, "class": device.class,
        "iommugroup": device.group.map_or(-1, |group| group as i64),
    });
    if device.mdev {
        row["mdev"] = 1.into();
    }
    if device.nvidia {
        row["nvidia"] = 1.into();
    }
    let Some(names) = names else { return row };
    let mut set = |key: &str, text: Option<&str>| {
        if let Some(text) = text {
            row[key] = text.into();
        }
    };
    set("vendor_name", names.vendor(&device.vendor));
    set("device_name", names.device(&device.vendor, &device.device));
    if let Some((vendor, id)) = &device.subsystem {
        set("subsystem_vendor", Some(vendor));
        set("subsystem_device", Some(id));
        set("subsystem_vendor_name", names.vendor(vendor));
        set("subsystem_device_name", names.subsystem(&device.vendor, &device.device, (vendor, id)));
    }
    set("physfn", device.parent.as_deref());
    if !device.children.is_empty() {
        row["virtfns"] = device.children.iter().cloned().collect::<BTreeMap<String, String>>().into_iter().collect();
    }
    row
}

fn mediated_types(call: &Call) -> Result<Reply> {
    let wanted: String = call.param("pci-id-or-mapping")?;
    let mut found = BTreeMap::new();
    let ids = if pci::is_function(&pci::full_id(&wanted.to_ascii_lowercase())) {
        vec![wanted.to_ascii_lowercase()]
    } else {
        let mappings = Mappings::load(call.ctx, &[Kind::Pci])?;
        let paths = mappings.entries(Kind::Pci, &wanted).into_iter().filter_map(|entry| entry.text("path"));
        paths.filter(|path| !path.contains(';')).collect()
    };
    for id in ids {
        for kind in pci::mediated_types(pci::directory(), &id)? {
            found.entry(kind.id.clone()).or_insert(kind);
        }
    }
    let rows = found.into_values().map(|kind| {
        let mut row = json!({"type": kind.id, "description": kind.description, "available": kind.available});
        if let Some(name) = kind.name {
            row["name"] = name.into();
        }
        row
    });
    Ok(Reply::from(Value::Array(rows.collect())))
}

fn usb_devices(call: &Call) -> Result<Reply> {
    let devices = usb::list(&call.ctx.host).unwrap_or_default();
    Ok(Reply::from(Value::Array(devices.iter().map(usb::UsbDevice::row).collect())))
}
