//! Whether an entry of a mapping fits what the node has. (PVE: PVE/Mapping/{PCI,USB,Dir}.pm, assert_valid)

use super::{Entry, Mapping};
use crate::hardware::pci::PciDevice;
use crate::hardware::usb::UsbDevice;
use std::path::Path;

/// What is wrong with a PCI entry.
///
/// `is_partial`: the devices are host facts, which may leave out properties; these are then not compared.
pub fn pci_problem(
    id: &str,
    entry: &Entry,
    mapping: &Mapping,
    devices: &[PciDevice],
    is_partial: bool,
) -> Option<String> {
    for (number, path) in entry.text("path").unwrap_or_default().split(';').enumerate() {
        let path = if path.contains('.') { path.to_owned() } else { format!("{path}.0") };
        let Some(device) = devices.iter().find(|device| device.id == path) else {
            return Some(format!("pci device '{path}' not found"));
        };
        let plain = |text: &str| text.replace("0x", "");
        let pair = |(vendor, id): &(String, String)| format!("{}:{}", plain(vendor), plain(id));
        let found_id = pair(&(device.vendor.clone(), device.device.clone()));
        let switch = |on: bool| Some(u8::from(on).to_string());
        let mut properties = vec![("id", Some(found_id), entry.text("id"))];
        if number == 0 {
            properties.push(("iommugroup", device.group.map(|group| group.to_string()), entry.text("iommugroup")));
        }
        properties.push(("mdev", switch(device.mdev), switch(mapping.flag("mdev"))));
        properties.push(("subsystem-id", device.subsystem.as_ref().map(pair), entry.text("subsystem-id")));
        for (name, expected, configured) in properties {
            match (expected, configured.map(|text| plain(&text))) {
                (None, None) => {}
                (None, Some(_)) if is_partial => {}
                (Some(_), None) if is_partial => {}
                (Some(_), None) => return Some(format!("missing expected property '{name}' for device '{path}'")),
                (None, Some(_)) => return Some(format!("unexpected property '{name}' configured for device '{path}'")),
                (Some(expected), Some(configured)) if expected != configured => {
                    return Some(format!("'{name}' does not match for '{id}' ({expected} != {configured})"));
                }
                _ => {}
            }
        }
    }
    None
}

/// What is wrong with a USB entry.
pub fn usb_problem(id: &str, entry: &Entry, devices: &[UsbDevice]) -> Option<String> {
    let configured = entry.text("id").unwrap_or_default();
    let Some(path) = entry.text("path") else {
        let is_there = devices.iter().any(|device| device.id() == configured);
        return (!is_there).then(|| format!("usb device '{configured}' not found"));
    };
    let Some(device) = devices.iter().find(|device| device.full_path().as_deref() == Some(&path)) else {
        return Some(format!("usb device '{path}' not found"));
    };
    let found = device.id();
    (found != configured).then(|| format!("'id' does not match for '{id}' ({found} != {configured})"))
}

/// What is wrong with a directory.
pub fn directory_problem(path: &str) -> Option<String> {
    let is_valid = path.len() > 1 && path.starts_with('/') && !path.contains([';', ',', '=', '(', ')']);
    if !is_valid {
        return Some(
            "Value does not look like a valid absolute path. These symbols are currently not allowed in path: ;,=()"
                .into(),
        );
    }
    match Path::new(path) {
        directory if directory.is_dir() => None,
        other if other.exists() => Some(format!("Path {path} exists, but is not a directory")),
        _ => Some(format!("Path {path} does not exist")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;

    fn pci(entry: &str, device: PciDevice) -> Option<String> {
        let entry = Entry::parse(Kind::Pci, entry).unwrap();
        pci_problem("card", &entry, &Mapping::default(), &[device], false)
    }

    #[test]
    fn changed_hardware_is_told() {
        let device = || PciDevice {
            id: "0000:01:00.0".into(),
            vendor: "0x8086".into(),
            device: "0x10fb".into(),
            group: Some(3),
            ..PciDevice::default()
        };
        let good = "id=8086:10fb,iommugroup=3,node=a,path=0000:01:00";
        assert_eq!(pci(good, device()), None);
        let text = |entry| pci(entry, device()).unwrap();
        assert_eq!(text("id=8086:10fb,iommugroup=3,node=a,path=0000:02:00.0"), "pci device '0000:02:00.0' not found");
        assert_eq!(
            text("id=8086:10fb,node=a,path=0000:01:00.0"),
            "missing expected property 'iommugroup' for device '0000:01:00.0'"
        );
        assert_eq!(
            text("id=8086:ffff,iommugroup=3,node=a,path=0000:01:00.0"),
            "'id' does not match for 'card' (8086:10fb != 8086:ffff)"
        );
        let mediated = PciDevice { mdev: true, ..device() };
        assert_eq!(pci(good, mediated).unwrap(), "'mdev' does not match for 'card' (1 != 0)");
    }

    #[test]
    fn usb_devices_are_found_by_place_or_id() {
        let device = UsbDevice {
            bus: 1,
            path: Some("2".into()),
            vendor: "046d".into(),
            product: "c52b".into(),
            ..UsbDevice::default()
        };
        let problem = |text| usb_problem("m", &Entry::parse(Kind::Usb, text).unwrap(), std::slice::from_ref(&device));
        assert_eq!(problem("id=046d:c52b,node=a"), None);
        assert_eq!(problem("id=046d:c52b,node=a,path=1-2"), None);
        assert_eq!(
            problem("id=046d:0000,node=a,path=1-2").unwrap(),
            "'id' does not match for 'm' (046d:c52b != 046d:0000)"
        );
        assert_eq!(problem("id=046d:c52b,node=a,path=1-3").unwrap(), "usb device '1-3' not found");
    }

    #[test]
    fn directories_must_be_there() {
        assert_eq!(directory_problem("/"), Some(directory_problem("x").unwrap()));
        assert_eq!(directory_problem("/proc"), None);
        assert_eq!(directory_problem("/proc/none-such").unwrap(), "Path /proc/none-such does not exist");
        assert_eq!(directory_problem("/proc/version").unwrap(), "Path /proc/version exists, but is not a directory");
    }
}
