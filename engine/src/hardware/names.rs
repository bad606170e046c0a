//! Names of PCI vendors and devices from the table that Debian's `pci.ids` installs.

use std::collections::HashMap;
use std::path::Path;

/// The table; empty when it is not installed.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Vendors by `0x8086`.
    vendors: HashMap<String, String>,
    /// Devices by vendor and id.
    devices: HashMap<(String, String), String>,
    /// Subsystems by vendor, device, and both ids of the subsystem.
    subsystems: HashMap<[String; 4], String>,
}

impl Names {
    /// The installed table.
    pub fn load() -> Self {
        let text = std::fs::read(Path::new("/usr/share/misc/pci.ids")).unwrap_or_default();
        Self::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> Self {
        let mut names = Names::default();
        let (mut vendor, mut device) = (String::new(), String::new());
        let split = |line: &str| {
            let (id, name) = line.split_once(char::is_whitespace)?;
            let is_id = id.len() == 4 && id.chars().all(|c| c.is_ascii_hexdigit());
            is_id.then(|| (format!("0x{id}"), name.trim().to_owned()))
        };
        for line in text.lines() {
            if let Some(line) = line.strip_prefix("\t\t") {
                let Some((first, rest)) = split(line) else { continue };
                let Some((second, name)) = split(&rest) else { continue };
                names.subsystems.insert([vendor.clone(), device.clone(), first, second], name);
            } else if let Some(line) = line.strip_prefix('\t') {
                let Some((id, name)) = split(line) else { continue };
                device.clone_from(&id);
                names.devices.insert((vendor.clone(), id), name);
            } else if let Some((id, name)) = split(line) {
                vendor.clone_from(&id);
                names.vendors.insert(id, name);
            }
        }
        names
    }

    /// A vendor's name.
    pub fn vendor(&self, id: &str) -> Option<&str> {
        self.vendors.get(id).map(String::as_str)
    }

    /// A device's name.
    pub fn device(&self, vendor: &str, device: &str) -> Option<&str> {
        self.devices.get(&(vendor.to_owned(), device.to_owned())).map(String::as_str)
    }

    /// A subsystem's name.
    pub fn subsystem(&self, vendor: &str, device: &str, subsystem: (&str, &str)) -> Option<&str> {
        let key = [vendor, device, subsystem.0, subsystem.1].map(str::to_owned);
        self.subsystems.get(&key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_stand_below_their_vendor() {
        let text =
            "# head\n8086  Intel Corporation\n\t1237  440FX\n\t\t1af4 1100  Qemu virtual machine\n1af4  Red Hat\n";
        let names = Names::parse(text);
        assert_eq!(names.vendor("0x1af4"), Some("Red Hat"));
        assert_eq!(names.device("0x8086", "0x1237"), Some("440FX"));
        assert_eq!(names.subsystem("0x8086", "0x1237", ("0x1af4", "0x1100")), Some("Qemu virtual machine"));
        assert_eq!(names.device("0x1af4", "0x1237"), None);
    }
}
