//! What the kernel and udev know about a block device, read from their files: `/sys` and `/run/udev/data`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Properties of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    values: HashMap<String, String>,
    links: Vec<String>,
}

impl Properties {
    /// Reads a device of `/sys/block` or below; `None` if it is no block device of the kind that people call a disk or
    /// partition.
    pub fn read(sys_directory: &Path, udev_directory: &Path) -> Option<Self> {
        let mut properties = Properties::default();
        for line in fs::read_to_string(sys_directory.join("uevent")).ok()?.lines() {
            if let Some((key, value)) = line.split_once('=') {
                properties.values.insert(key.to_owned(), value.to_owned());
            }
        }
        let number = format!("b{}:{}", properties.get("MAJOR")?, properties.get("MINOR")?);
        // A machine without udev knows less, but has disks all the same.
        let database = fs::read_to_string(udev_directory.join(number)).unwrap_or_default();
        properties.merge(&database);
        matches!(properties.get("DEVTYPE"), Some("disk" | "partition")).then_some(properties)
    }

    /// Lines of udev's database: `E:KEY=VALUE` are properties, `S:LINK` names below `/dev`.
    fn merge(&mut self, database: &str) {
        for line in database.lines() {
            if let Some((key, value)) = line.strip_prefix("E:").and_then(|line| line.split_once('=')) {
                self.values.insert(key.to_owned(), value.to_owned());
            } else if let Some(link) = line.strip_prefix("S:") {
                self.links.push(format!("/dev/{link}"));
            }
        }
        self.links.sort();
    }

    /// A property, if it is set.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The device's node.
    pub fn device(&self) -> Option<String> {
        self.get("DEVNAME").map(|name| format!("/dev/{}", name.trim_start_matches("/dev/")))
    }

    /// A name of the device that stays the same wherever it is plugged in.
    pub fn stable_link(&self) -> Option<&str> {
        let is_stable = |link: &&String| {
            let name = link.strip_prefix("/dev/disk/by-id/").unwrap_or_default();
            let good = ["ata", "scsi", "nvme"].iter().any(|bus| name.starts_with(bus));
            good && !name.starts_with("nvme-eui")
        };
        self.links.iter().find(is_stable).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sources_are_merged() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        write("uevent", "MAJOR=8\nMINOR=0\nDEVNAME=sda\nDEVTYPE=disk\n");
        let bare = Properties::read(directory.path(), directory.path()).unwrap();
        assert_eq!((bare.device().as_deref(), bare.stable_link()), (Some("/dev/sda"), None));
        write(
            "b8:0",
            "S:disk/by-id/wwn-0x5\nS:disk/by-id/nvme-eui.00\nS:disk/by-id/ata-DISK_1\nI:123\nE:ID_MODEL=DISK\nE:ID_SERIAL_SHORT=\n",
        );
        let full = Properties::read(directory.path(), directory.path()).unwrap();
        assert_eq!(full.stable_link(), Some("/dev/disk/by-id/ata-DISK_1"));
        assert_eq!((full.get("ID_MODEL"), full.get("ID_SERIAL_SHORT")), (Some("DISK"), None));
        write("uevent", "MAJOR=8\nMINOR=0\nDEVTYPE=other\n");
        assert_eq!(Properties::read(directory.path(), directory.path()), None);
    }
}
