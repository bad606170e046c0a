//! Names of drives: `ide2`, `scsi0`, `unused3`, …

use std::fmt;
use std::str::FromStr;

/// What a drive is attached to. The order is PVE's: drives are looked at and printed in it.
/// (PVE: qemu-server Drive.pm, valid_drive_names)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bus {
    /// IDE.
    Ide,
    /// The SCSI controller of `scsihw`.
    Scsi,
    /// virtio-blk.
    Virtio,
    /// AHCI.
    Sata,
    /// EFI variables.
    Efidisk,
    /// TPM state.
    Tpmstate,
    /// A volume that is kept but not attached.
    Unused,
}

const BUSES: [Bus; 7] = [Bus::Ide, Bus::Scsi, Bus::Virtio, Bus::Sata, Bus::Efidisk, Bus::Tpmstate, Bus::Unused];

impl Bus {
    /// The name before the number.
    pub fn name(self) -> &'static str {
        match self {
            Bus::Ide => "ide",
            Bus::Scsi => "scsi",
            Bus::Virtio => "virtio",
            Bus::Sata => "sata",
            Bus::Efidisk => "efidisk",
            Bus::Tpmstate => "tpmstate",
            Bus::Unused => "unused",
        }
    }

    /// How many drives it can hold.
    pub fn capacity(self) -> u16 {
        match self {
            Bus::Ide => 4,
            Bus::Scsi => 31,
            Bus::Virtio => 16,
            Bus::Sata => 6,
            Bus::Efidisk | Bus::Tpmstate => 1,
            Bus::Unused => 256,
        }
    }

    /// The property string format of the option; `alloc` also takes `import-from`.
    pub fn format(self, alloc: bool) -> &'static str {
        match (self, alloc) {
            (Bus::Ide, false) => "pve-qm-ide",
            (Bus::Ide, true) => "~qm-ide-alloc",
            (Bus::Scsi, false) => "~pve-qm-scsi",
            (Bus::Scsi, true) => "~qm-scsi-alloc",
            (Bus::Virtio, false) => "~pve-qm-virtio",
            (Bus::Virtio, true) => "~qm-virtio-alloc",
            (Bus::Sata, false) => "~pve-qm-sata",
            (Bus::Sata, true) => "~qm-sata-alloc",
            (Bus::Efidisk, false) => "~pve-qm-efidisk",
            (Bus::Efidisk, true) => "~qm-efidisk0-alloc",
            (Bus::Tpmstate, false) => "~qm-tpmstate0",
            (Bus::Tpmstate, true) => "~qm-tpmstate0-alloc",
            (Bus::Unused, _) => "~qm-unused",
        }
    }
}

/// One place for a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The bus.
    pub bus: Bus,
    /// The number on it.
    pub index: u16,
}

impl Slot {
    /// All slots of a VM, in PVE's order, `unused` apart.
    pub fn all() -> impl Iterator<Item = Slot> {
        let buses = BUSES.into_iter().filter(|bus| *bus != Bus::Unused);
        buses.flat_map(|bus| (0..bus.capacity()).map(move |index| Slot { bus, index }))
    }

    /// The slot that a configuration key names, `unused` apart.
    pub fn of_key(key: &str) -> Option<Slot> {
        key.parse().ok().filter(|slot: &Slot| slot.bus != Bus::Unused)
    }
}

impl FromStr for Slot {
    type Err = String;

    fn from_str(key: &str) -> Result<Self, String> {
        let unknown = || format!("invalid drive key: {key}");
        let digits = key.find(|c: char| c.is_ascii_digit()).ok_or_else(unknown)?;
        let bus = BUSES.into_iter().find(|bus| bus.name() == &key[..digits]).ok_or_else(unknown)?;
        let number = &key[digits..];
        if number.len() > 1 && number.starts_with('0') {
            return Err(unknown());
        }
        let index = number.parse().map_err(|_| unknown())?;
        if index < bus.capacity() { Ok(Slot { bus, index }) } else { Err(unknown()) }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.bus.name(), self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_printed_alike() {
        for name in ["ide0", "ide3", "scsi30", "virtio15", "sata5", "efidisk0", "tpmstate0", "unused255"] {
            assert_eq!(name.parse::<Slot>().unwrap().to_string(), name);
        }
        for bad in ["ide4", "scsi31", "scsi01", "scsi", "net0", "7", "efidisk1"] {
            assert!(bad.parse::<Slot>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_order_is_the_one_in_which_boot_disks_are_chosen() {
        let names: Vec<String> = Slot::all().map(|slot| slot.to_string()).collect();
        assert_eq!(names.len(), 4 + 31 + 16 + 6 + 2);
        assert_eq!((names[3].as_str(), names[4].as_str(), names[35].as_str()), ("ide3", "scsi0", "virtio0"));
    }
}
