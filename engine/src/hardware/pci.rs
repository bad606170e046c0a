//! PCI devices. (PVE: pve-common PVE/SysFSTools.pm, lspci and pci_device_info; qemu-server PCI/Mdev.pm)

use super::first_line;
use crate::host::Host;
use crate::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A function of a PCI device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PciDevice {
    /// With domain: `0000:01:00.0`.
    pub id: String,
    /// `0x10de`.
    pub vendor: String,
    /// `0x1234`.
    pub device: String,
    /// `0x030000`; empty in host facts.
    pub class: String,
    /// `None` without an IOMMU.
    pub group: Option<u64>,
    /// Whether it can be divided into mediated devices.
    pub mdev: bool,
    /// Whether NVIDIA's driver divides it, which is done in a way of its own.
    pub nvidia: bool,
    /// Vendor and device of the subsystem.
    pub subsystem: Option<(String, String)>,
    /// The physical function behind a virtual one.
    pub parent: Option<String>,
    /// Virtual functions by the name of their link.
    pub children: Vec<(String, String)>,
}

/// A type of mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediatedType {
    /// For example `i915-GVTg_V5_4`.
    pub id: String,
    /// What it is, over several lines.
    pub description: String,
    /// How many more can be made.
    pub available: u64,
    /// A name for people.
    pub name: Option<String>,
}

/// Where devices are described.
pub fn directory() -> &'static Path {
    Path::new("/sys/bus/pci/devices")
}

/// All devices, sorted by id: those of the host facts if these name any.
pub fn list(host: &Host) -> Vec<PciDevice> {
    match host.replaced("pci_devices") {
        Some(Value::Array(devices)) => {
            let mut devices: Vec<PciDevice> = devices.iter().map(of_fact).collect();
            devices.sort_by(|a, b| a.id.cmp(&b.id));
            devices
        }
        _ => scan(directory()),
    }
}

/// All devices below a directory of sysfs.
pub fn scan(directory: &Path) -> Vec<PciDevice> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut devices: Vec<PciDevice> = names.filter(|name| is_function(name)).map(|id| read(directory, id)).collect();
    devices.sort_by(|a, b| a.id.cmp(&b.id));
    devices
}

/// Whether a text is the full id of a function. (PVE: SysFSTools.pm, pciregex)
pub fn is_function(text: &str) -> bool {
    let hex = |text: &str, least: usize, most: usize| {
        (least..=most).contains(&text.len()) && text.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'))
    };
    let mut parts = text.split(':');
    let (Some(domain), Some(bus), Some(rest), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Some((slot, function)) = rest.split_once('.') else { return false };
    hex(domain, 4, 8) && hex(bus, 2, 2) && hex(slot, 2, 2) && hex(function, 1, 1)
}

/// An id with its domain.
pub fn full_id(id: &str) -> String {
    if id.matches(':').count() > 1 { id.to_owned() } else { format!("0000:{id}") }
}

/// Whether a device is meant by an id or by its beginning, with or without domain.
pub fn is_meant(device: &PciDevice, id: &str) -> bool {
    device.id.starts_with(id) || device.id.strip_prefix("0000:").is_some_and(|short| short.starts_with(id))
}

fn of_fact(fact: &Value) -> PciDevice {
    let text = |key: &str| fact[key].as_str().map(str::to_owned);
    let flag = |key: &str| matches!(&fact[key], Value::Bool(true)) || fact[key].as_u64() == Some(1);
    let group = fact["iommugroup"].as_u64().or_else(|| fact["iommugroup"].as_str()?.parse().ok());
    let nvidia = flag("nvidia");
    PciDevice {
        id: full_id(&text("id").unwrap_or_default()),
        vendor: text("vendor").unwrap_or_default(),
        device: text("device").unwrap_or_default(),
        class: text("class").unwrap_or_default(),
        group,
        mdev: flag("mdev") || nvidia,
        nvidia,
        subsystem: text("subsystem_vendor").zip(text("subsystem_device")),
        ..PciDevice::default()
    }
}

fn read(directory: &Path, id: String) -> PciDevice {
    let place = directory.join(&id);
    let line = |name: &str| first_line(&place.join(name)).unwrap_or_default();
    let link_name = |name: &str| {
        let target = std::fs::read_link(place.join(name)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    };
    let nvidia = !place.join("mdev_supported_types").is_dir() && place.join("nvidia").is_dir();
    let subsystem = (line("subsystem_vendor"), line("subsystem_device"));
    let entries = std::fs::read_dir(&place).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut children: Vec<(String, String)> = names
        .filter(|name| name.strip_prefix("virtfn").is_some_and(|number| number.parse::<u32>().is_ok()))
        .filter_map(|name| Some((name.clone(), link_name(&name)?)))
        .collect();
    children.sort();
    PciDevice {
        vendor: line("vendor"),
        device: line("device"),
        class: line("class"),
        group: link_name("iommu_group").and_then(|group| group.parse().ok()),
        mdev: nvidia || place.join("mdev_supported_types").is_dir(),
        nvidia,
        subsystem: (!subsystem.0.is_empty()).then_some(subsystem),
        parent: link_name("physfn").filter(|parent| is_function(parent)),
        children,
        id,
    }
}

/// Which mediated devices a device can be divided into.
///
/// # Errors
/// NVIDIA's own way is not among them: its types can only be asked of the vendor's library.
pub fn mediated_types(directory: &Path, id: &str) -> Result<Vec<MediatedType>> {
    let place: PathBuf = directory.join(full_id(id));
    let types = place.join("mdev_supported_types");
    if !types.is_dir() && place.join("nvidia/creatable_vgpu_types").is_file() {
        return nvidia_types(&place.join("nvidia/creatable_vgpu_types"));
    }
    let entries = std::fs::read_dir(&types).into_iter().flatten().flatten();
    let mut found: Vec<MediatedType> = entries
        .filter_map(|entry| {
            let id = entry.file_name().into_string().ok()?;
            let line = |name: &str| first_line(&entry.path().join(name));
            Some(MediatedType {
                available: line("available_instances")?.trim().parse().ok()?,
                description: std::fs::read_to_string(entry.path().join("description")).unwrap_or_default(),
                name: line("name"),
                id,
            })
        })
        .collect();
    found.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(found)
}

/// The driver's table: a heading, then `NUMBER : NAME` lines.
fn nvidia_types(table: &Path) -> Result<Vec<MediatedType>> {
    let text = std::fs::read_to_string(table)
        .map_err(|error| Error::from(error).context("failed to query NVIDIA vGPU types"))?;
    let rows = text.lines().filter(|line| !line.starts_with("ID")).filter_map(|line| line.split_once(':'));
    let types = rows.map(|(id, name)| MediatedType {
        id: format!("nvidia-{}", id.trim()),
        description: String::new(),
        available: 1,
        name: Some(name.trim().to_owned()),
    });
    Ok(types.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn ids_are_told_from_other_names() {
        assert!(is_function("0000:01:00.0") && is_function("10000:01:1f.7"));
        for bad in ["01:00.0", "0000:01:00", "0000:01:00.x", "../01:00.0", "0000:01:00.0:1"] {
            assert!(!is_function(bad), "{bad}");
        }
        let device = PciDevice { id: "0000:01:00.0".into(), ..PciDevice::default() };
        assert!(is_meant(&device, "01:00") && is_meant(&device, "0000:01:00.0") && !is_meant(&device, "1:00"));
    }

    #[test]
    fn devices_are_read_from_sysfs() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("0000:01:00.0");
        fs::create_dir_all(place.join("mdev_supported_types/fast_1")).unwrap();
        for (name, text) in [("vendor", "0x8086\n"), ("device", "0x1912\n"), ("class", "0x030000\n")] {
            fs::write(place.join(name), text).unwrap();
        }
        for (name, text) in [("available_instances", "2\n"), ("description", "a\nb\n"), ("name", "Fast\n")] {
            fs::write(place.join("mdev_supported_types/fast_1").join(name), text).unwrap();
        }
        symlink("../../kernel/iommu_groups/7", place.join("iommu_group")).unwrap();
        symlink("../0000:01:00.1", place.join("virtfn0")).unwrap();
        fs::create_dir(root.path().join("not-a-device")).unwrap();
        let devices = scan(root.path());
        assert_eq!(devices.len(), 1);
        assert_eq!((devices[0].vendor.as_str(), devices[0].group, devices[0].mdev), ("0x8086", Some(7), true));
        assert_eq!(devices[0].children, [("virtfn0".to_owned(), "0000:01:00.1".to_owned())]);
        let types = mediated_types(root.path(), "01:00.0").unwrap();
        assert_eq!((types[0].id.as_str(), types[0].available, types[0].name.as_deref()), ("fast_1", 2, Some("Fast")));
        assert!(mediated_types(root.path(), "02:00.0").unwrap().is_empty());
    }
}
