//! Machine types and their versions, with PVE's revisions (`pc-i440fx-9.2+pve1`).
//!
//! A revision changes the layout of a VM without a new machine type of QEMU. A type without version means the newest one
//! of the installed QEMU. (PVE: qemu-server Machine.pm)

use super::Properties;
use crate::Result;
use std::cmp::Ordering;
use std::fmt;

/// `major.minor`, with PVE's revision of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MachineVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// PVE's revision; 0 is what QEMU has.
    pub pve: u32,
}

/// The newest revision that PVE 9.2 knows of a version.
pub fn highest_pve_revision(major: u32, minor: u32) -> u32 {
    match (major, minor) {
        (4, 1) | (11, 0) => 2,
        (9, 2) | (10, 0) => 1,
        _ => 0,
    }
}

impl MachineVersion {
    /// Whether this is at least that version. (PVE: Helpers.pm, min_version)
    pub fn at_least(self, major: u32, minor: u32, pve: u32) -> bool {
        self.cmp(&MachineVersion { major, minor, pve }) != Ordering::Less
    }

    /// The version in a machine type such as `pc-q35-8.1+pve0`; `None` for `pc`, `q35` and `virt`.
    pub fn of_type(machine: &str) -> Option<Self> {
        let rest = ["pc-i440fx-", "pc-q35-", "pc-", "virt-"].iter().find_map(|prefix| machine.strip_prefix(prefix))?;
        let rest = rest.strip_suffix(".pxe").unwrap_or(rest);
        let (version, pve) = rest.split_once("+pve").unwrap_or((rest, "0"));
        let mut numbers = version.split('.');
        let major = numbers.next()?.parse().ok()?;
        let minor = numbers.next()?.parse().ok()?;
        Some(MachineVersion { major, minor, pve: pve.parse().ok()? })
    }
}

impl fmt::Display for MachineVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.pve > 0 { write!(f, "+pve{}", self.pve) } else { Ok(()) }
    }
}

/// The option `machine`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    options: Properties,
}

impl Machine {
    /// Reads the option; an absent one is the default machine.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            Some(text) if !text.is_empty() => {
                Ok(Machine { options: Properties::parse("pve-qemu-machine-fmt", "machine", text)? })
            }
            _ => Ok(Machine::default()),
        }
    }

    /// The type as configured.
    pub fn configured_type(&self) -> Option<String> {
        self.options.text("type")
    }

    /// Sets the type.
    pub fn set_type(&mut self, machine: String) {
        self.options.set("type", machine);
    }

    /// Whether the chipset is Q35.
    pub fn is_q35(&self) -> bool {
        self.configured_type().is_some_and(|machine| machine.contains("q35"))
    }

    /// The variant of the virtual IOMMU.
    pub fn viommu(&self) -> Option<String> {
        self.options.text("viommu")
    }

    /// Address bits of the virtual IOMMU.
    pub fn aw_bits(&self) -> Option<String> {
        self.options.text("aw-bits")
    }

    /// Whether suspend to RAM (3) or disk (4) is offered, when configured.
    pub fn power_state(&self, number: u8) -> Option<bool> {
        self.options.flag(if number == 3 { "enable-s3" } else { "enable-s4" })
    }

    /// Rules between keys. (PVE: Machine.pm, assert_valid_machine_property)
    pub fn check(&self) -> Result<()> {
        if self.viommu().as_deref() == Some("intel") {
            if !self.is_q35() {
                crate::bail!("to use Intel vIOMMU please set the machine type to q35");
            }
            if self.aw_bits().is_some_and(|bits| bits != "39" && bits != "48") {
                crate::bail!("Intel vIOMMU supports only 39 or 48 bits as address width");
            }
        }
        if self.aw_bits().is_some() && self.viommu().is_none() {
            crate::bail!("cannot set aw-bits if no vIOMMU is configured");
        }
        Ok(())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.options.print("pve-qemu-machine-fmt"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_types() {
        let version = |text| MachineVersion::of_type(text).map(|version| version.to_string());
        assert_eq!(version("pc-i440fx-9.2+pve1").as_deref(), Some("9.2+pve1"));
        assert_eq!(version("pc-q35-8.1").as_deref(), Some("8.1"));
        assert_eq!(version("pc-i440fx-2.11.pxe").as_deref(), Some("2.11"));
        assert_eq!(version("pc+pve0"), None);
        assert_eq!(version("q35"), None);
    }

    #[test]
    fn revisions_order_within_a_version() {
        let version = MachineVersion { major: 9, minor: 2, pve: 0 };
        assert!(version.at_least(9, 2, 0) && version.at_least(8, 9, 5) && !version.at_least(9, 2, 1));
    }
}
