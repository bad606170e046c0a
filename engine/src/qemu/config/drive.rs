//! A drive option: `scsi0: local:100/vm-100-disk-0.qcow2,discard=on,size=4G`.

use super::{Bus, Properties, Slot};
use crate::storage::VolumeId;
use crate::{Error, Result};
use std::fmt;

/// What a drive's first value can be besides a volume: `none`, `cdrom` (the host's drive) or an absolute path.
#[derive(Debug, Clone, PartialEq)]
pub struct Drive {
    /// Where it is attached.
    pub slot: Slot,
    /// The volume id, path, `none` or `cdrom`, or the wish for a new volume.
    pub file: String,
    /// All other keys.
    pub options: Properties,
}

/// `STORAGE:GIB`: a volume to allocate.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDisk {
    /// Where; `None` means the default of the request.
    pub storage: Option<String>,
    /// Bytes.
    pub size: u64,
}

impl Drive {
    /// Reads a stored drive.
    pub fn parse(slot: Slot, text: &str) -> Result<Self> {
        Self::read(slot, text, false)
    }

    /// Reads a drive of a request, where `import-from` may occur.
    pub fn parse_request(slot: Slot, text: &str) -> Result<Self> {
        Self::read(slot, text, true)
    }

    fn read(slot: Slot, text: &str, alloc: bool) -> Result<Self> {
        let mut options = Properties::parse(slot.bus.format(alloc), &slot.to_string(), &without_geometry(text))?;
        let file = options.remove("file").unwrap_or_default();
        let mut drive = Drive { slot, file, options };
        drive
            .rename_rates()
            .and_then(|()| drive.check())
            .map_err(|text| Error::new(format!("unable to parse '{slot}': {text}")))?;
        Ok(drive)
    }

    /// Rates in bytes are an old way to write those in MiB. (PVE's own conversion makes no limit of each.)
    fn rename_rates(&mut self) -> std::result::Result<(), String> {
        for (old, new) in [("bps", "mbps"), ("bps_rd", "mbps_rd"), ("bps_wr", "mbps_wr")] {
            let Some(bytes) = self.options.fraction(old) else { continue };
            if self.options.text(new).is_some() {
                return Err(format!("both {old} and {new} specified"));
            }
            self.options.remove(old);
            self.options.set(new, format!("{:.3}", bytes / 1_048_576.0));
        }
        Ok(())
    }

    /// Rules between keys. (PVE: qemu-server Drive.pm, parse_drive)
    fn check(&self) -> std::result::Result<(), String> {
        let is_set = |key: &str| self.options.text(key).is_some_and(|text| text != "0");
        for (option, requires) in REQUIRES {
            if is_set(option) && !is_set(requires) {
                return Err(format!("{option} requires {requires}"));
            }
        }
        for (total, part) in [("mbps", "mbps_rd"), ("mbps", "mbps_wr"), ("iops", "iops_rd"), ("iops", "iops_wr")] {
            if is_set(total) && is_set(part) {
                return Err(format!("{total} and {part} exclude each other"));
            }
        }
        if self.is_cdrom() {
            if self.options.is_on("snapshot") || self.options.text("format").is_some() {
                return Err("a CD-ROM takes neither 'snapshot' nor 'format'".into());
            }
            if self.slot.bus == Bus::Virtio {
                return Err("a CD-ROM cannot be a virtio disk".into());
            }
        }
        Ok(())
    }

    /// The wish for a new volume, if this is one. (PVE: qemu-server Drive.pm, NEW_DISK_RE)
    pub fn new_disk(&self) -> Option<NewDisk> {
        let (storage, size) = match self.file.split_once(':') {
            Some((storage, size)) => (Some(storage), size),
            None => (None, self.file.as_str()),
        };
        let is_number = size.chars().all(|c| c.is_ascii_digit() || c == '.')
            && size.starts_with(|c: char| c.is_ascii_digit())
            && size.ends_with(|c: char| c.is_ascii_digit());
        if !is_number || storage.is_some_and(|storage| storage.is_empty() || storage.contains('/')) {
            return None;
        }
        let gib: f64 = size.parse().ok()?;
        // Whole KiB, as PVE allocates; the product is positive and far below 2^64.
        let size = (gib * 1024.0 * 1024.0) as u64 * 1024;
        Some(NewDisk { storage: storage.map(str::to_owned), size })
    }

    /// The volume behind the drive, if it is one of a storage.
    pub fn volume(&self) -> Option<VolumeId> {
        if self.file.starts_with('/') || self.new_disk().is_some() {
            return None;
        }
        self.file.parse().ok()
    }

    /// Whether it shows as a CD-ROM.
    pub fn is_cdrom(&self) -> bool {
        self.options.text("media").as_deref() == Some("cdrom")
    }

    /// Whether it is the generated cloud-init image.
    pub fn is_cloudinit(&self) -> bool {
        let name = self.file.rsplit([':', '/']).next().unwrap_or_default();
        let stem = name.strip_suffix(".raw").or_else(|| name.strip_suffix(".qcow2")).unwrap_or(name);
        stem == "cloudinit"
            || stem.strip_prefix("vm-").is_some_and(|rest| {
                rest.split_once('-')
                    .is_some_and(|(vmid, name)| name == "cloudinit" && vmid.bytes().all(|byte| byte.is_ascii_digit()))
            })
    }

    /// Whether it is an inserted or empty CD-ROM, not the cloud-init image.
    pub fn is_plain_cdrom(&self) -> bool {
        self.is_cdrom() && !self.is_cloudinit()
    }

    /// The size that the configuration claims, in bytes.
    pub fn size(&self) -> Option<u64> {
        crate::storage::parse_size(&self.options.text("size")?)
    }
}

/// Without the keys of a disk's geometry, which mean nothing any more. (PVE: qemu-server Drive.pm, DROPPED_PROPERTIES)
fn without_geometry(text: &str) -> String {
    let is_kept = |part: &&str| {
        let key = part.split('=').next().unwrap_or_default();
        !(part.contains('=') && matches!(key, "cyls" | "heads" | "secs" | "trans"))
    };
    text.split(',').filter(is_kept).collect::<Vec<_>>().join(",")
}

const REQUIRES: [(&str, &str); 9] = [
    ("mbps_max", "mbps"),
    ("mbps_rd_max", "mbps_rd"),
    ("mbps_wr_max", "mbps_wr"),
    ("bps_max_length", "mbps_max"),
    ("bps_rd_max_length", "mbps_rd_max"),
    ("bps_wr_max_length", "mbps_wr_max"),
    ("iops_max_length", "iops_max"),
    ("iops_rd_max_length", "iops_rd_max"),
    ("iops_wr_max_length", "iops_wr_max"),
];

impl fmt::Display for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = self.options.clone();
        all.set("file", self.file.clone());
        f.write_str(&all.print(self.slot.bus.format(true)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(key: &str, text: &str) -> Drive {
        Drive::parse_request(key.parse().unwrap(), text).unwrap()
    }

    #[test]
    fn canonical_texts_are_kept() {
        for (key, text) in [
            ("scsi0", "local:100/vm-100-disk-0.qcow2,discard=on,iothread=1,size=4G,ssd=1"),
            ("ide2", "none,media=cdrom"),
            ("ide2", "local:iso/debian.iso,media=cdrom,size=600M"),
            ("virtio1", "/dev/sdb,backup=0,cache=none"),
        ] {
            assert_eq!(drive(key, text).to_string(), text);
        }
        assert_eq!(drive("sata0", "cache=none,volume=local:100/a.raw").to_string(), "local:100/a.raw,cache=none");
    }

    #[test]
    fn numbers_stay_as_they_are_written_and_bytes_become_mebibytes() {
        for (text, printed) in [
            ("local:100/a.raw,iops=0100,mbps_rd=1.50", "local:100/a.raw,iops=0100,mbps_rd=1.50"),
            ("local:100/a.raw,bps_wr=3145728", "local:100/a.raw,mbps_wr=3.000"),
        ] {
            assert_eq!(drive("scsi0", text).to_string(), printed);
        }
    }

    #[test]
    fn wishes_for_new_volumes_are_told_from_volumes() {
        let new = |text| drive("scsi0", text).new_disk();
        assert_eq!(new("local:4"), Some(NewDisk { storage: Some("local".into()), size: 4 << 30 }));
        assert_eq!(new("local:0.5"), Some(NewDisk { storage: Some("local".into()), size: 1 << 29 }));
        assert_eq!(new("local:100/vm-100-disk-0.raw"), None);
        assert!(drive("scsi0", "local:4").volume().is_none());
        assert_eq!(drive("scsi0", "local:100/vm-100-disk-0.raw").volume().unwrap().storage, "local");
    }

    #[test]
    fn cloud_init_images_are_recognised_by_name() {
        assert!(drive("ide2", "local:100/vm-100-cloudinit.qcow2,media=cdrom").is_cloudinit());
        assert!(drive("ide2", "local:cloudinit").is_cloudinit());
        assert!(!drive("ide2", "local:iso/my-cloudinit.iso,media=cdrom").is_cloudinit());
    }

    #[test]
    fn contradictions_are_refused() {
        assert!(Drive::parse("scsi0".parse().unwrap(), "local:100/a.raw,iops=0,iops_rd=10").is_ok());
        for (key, text) in [
            ("scsi0", "local:100/a.raw,mbps=0,mbps_max=10"),
            ("scsi0", "local:100/a.raw,bps=10,mbps=10"),
            ("virtio0", "none,media=cdrom"),
            ("ide0", "none,media=cdrom,format=raw"),
            ("scsi0", "local:100/a.raw,mbps_max=10"),
            ("scsi0", "local:100/a.raw,iops=10,iops_rd=10"),
            ("ide0", "local:100/a.raw,iothread=1"),
        ] {
            assert!(Drive::parse(key.parse().unwrap(), text).is_err(), "{text}");
        }
    }
}
