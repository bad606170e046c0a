//! USB devices. (PVE: pve-common PVE/SysFSTools.pm, scan_usb)

use super::first_line;
use crate::host::Host;
use serde_json::{Value, json};
use std::path::Path;

/// A USB device or hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UsbDevice {
    /// The bus.
    pub bus: u64,
    /// The number on the bus.
    pub number: u64,
    /// How many hubs are above it.
    pub level: u64,
    /// The port of its hub, from 0.
    pub port: u64,
    /// Ports from the bus down, `1.4`; `None` for the bus itself.
    pub path: Option<String>,
    /// `046d`.
    pub vendor: String,
    /// `c52b`.
    pub product: String,
    /// Mbit/s.
    pub speed: String,
    /// The device class.
    pub class: u64,
    /// The product's name.
    pub product_name: Option<String>,
    /// The manufacturer's name.
    pub manufacturer: Option<String>,
    /// The serial number.
    pub serial: Option<String>,
}

impl UsbDevice {
    /// `046d:c52b`.
    pub fn id(&self) -> String {
        format!("{}:{}", self.vendor, self.product)
    }

    /// `1-1.4`, as mappings and guests name it.
    pub fn full_path(&self) -> Option<String> {
        self.path.as_ref().map(|path| format!("{}-{path}", self.bus))
    }

    /// The shape that clients get.
    pub fn row(&self) -> Value {
        let mut row = json!({
            "busnum": self.bus, "devnum": self.number, "level": self.level, "port": self.port, "class": self.class,
            "vendid": self.vendor, "prodid": self.product, "speed": self.speed,
        });
        let texts = [("usbpath", &self.path), ("product", &self.product_name), ("manufacturer", &self.manufacturer)];
        for (key, text) in texts.into_iter().chain([("serial", &self.serial)]) {
            if let Some(text) = text.as_ref().filter(|text| !text.is_empty()) {
                row[key] = text.as_str().into();
            }
        }
        row
    }
}

/// All devices; `None` when planning for another machine whose devices nobody told.
pub fn list(host: &Host) -> Option<Vec<UsbDevice>> {
    if host.is_imagined() { None } else { Some(scan(Path::new("/sys/bus/usb/devices"))) }
}

/// All devices below a directory of sysfs: each bus, followed by what is plugged into it.
pub fn scan(directory: &Path) -> Vec<UsbDevice> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    let mut devices = Vec::new();
    for bus in names.iter().filter(|name| name.strip_prefix("usb").is_some_and(|number| number.parse::<u64>().is_ok()))
    {
        let Some(device) = read(directory, bus, None) else { continue };
        let prefix = format!("{}-", device.bus);
        devices.push(device);
        let on_bus = names.iter().filter_map(|name| Some((name, name.strip_prefix(&prefix)?)));
        let plugged = on_bus.filter(|(_, path)| path.chars().all(|c| c.is_ascii_digit() || c == '.'));
        devices.extend(plugged.filter_map(|(name, path)| read(directory, name, Some(path))));
    }
    devices
}

fn read(directory: &Path, name: &str, path: Option<&str>) -> Option<UsbDevice> {
    let line = |file: &str| first_line(&directory.join(name).join(file)).map(|line| line.trim().to_owned());
    let number = |file: &str| line(file)?.parse().ok();
    let port = path.and_then(|path| path.rsplit('.').next()?.parse::<u64>().ok());
    Some(UsbDevice {
        bus: number("busnum")?,
        number: number("devnum")?,
        level: path.map_or(0, |path| path.matches('.').count() as u64 + 1),
        port: port.map_or(0, |port| port.saturating_sub(1)),
        path: path.map(str::to_owned),
        vendor: line("idVendor")?,
        product: line("idProduct")?,
        speed: line("speed").unwrap_or_default(),
        class: line("bDeviceClass").and_then(|class| u64::from_str_radix(&class, 16).ok()).unwrap_or(0),
        product_name: line("product"),
        manufacturer: line("manufacturer"),
        serial: line("serial"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn buses_come_with_what_is_plugged_in() {
        let root = tempfile::tempdir().unwrap();
        for (name, number) in [("usb1", "1"), ("1-1", "2"), ("1-1.4", "3"), ("1-1.4:1.0", "9"), ("usb2", "1")] {
            let place = root.path().join(name);
            fs::create_dir(&place).unwrap();
            let bus = if name == "usb2" { "2" } else { "1" };
            for (file, text) in [
                ("busnum", bus),
                ("devnum", number),
                ("idVendor", "046d"),
                ("idProduct", "c52b"),
                ("bDeviceClass", "09"),
            ] {
                fs::write(place.join(file), format!("{text}\n")).unwrap();
            }
        }
        let devices = scan(root.path());
        let paths: Vec<Option<String>> = devices.iter().map(UsbDevice::full_path).collect();
        assert_eq!(paths, [None, Some("1-1".into()), Some("1-1.4".into()), None]);
        assert_eq!((devices[2].level, devices[2].port, devices[2].class), (2, 3, 9));
        assert_eq!(devices[2].row()["usbpath"], "1.4");
    }
}
