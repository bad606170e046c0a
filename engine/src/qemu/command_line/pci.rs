//! Where devices sit: fixed places on the PCI buses, so that a guest finds its hardware where it was.
//! (PVE: qemu-server PCI.pm, get_pci_addr_map and get_pcie_addr_map)

use super::builder::Builder;

/// Bus and place of a device, by its id.
fn place(id: &str) -> Option<(u8, u8)> {
    let digits = id.find(|c: char| c.is_ascii_digit()).unwrap_or(id.len());
    let number = |id: &str| id[digits..].parse::<u8>().ok();
    Some(match id {
        "piix3" | "ehci" => (0, 1),
        "vga" | "legacy-igd" => (0, 2),
        "balloon0" => (0, 3),
        "watchdog" => (0, 4),
        "scsihw0" | "pci.3" => (0, 5),
        "scsihw1" => (0, 6),
        "ahci0" => (0, 7),
        "qga0" => (0, 8),
        "spice" => (0, 9),
        "pci.1" => (0, 30),
        "pci.2" => (0, 31),
        "xhci" => (1, 27),
        "pci.4" => (1, 28),
        "rng0" => (1, 29),
        "pci.2-igd" => (1, 30),
        "ivshmem" => (2, 11),
        "audio0" => (2, 12),
        _ => match (&id[..digits], number(id)?) {
            ("hostpci", n @ 0..=1) => (0, 16 + n),
            ("hostpci", n @ 2..=3) => (0, 25 + n),
            ("hostpci", n @ 4..=15) => (2, 9 + n),
            ("virtio", n @ 0..=5) => (0, 10 + n),
            ("virtio", n @ 6..=15) => (2, n - 5),
            ("net", n @ 0..=5) => (0, 18 + n),
            ("net", n @ 6..=31) => (1, n - 5),
            ("vga", n @ 1..=3) => (0, 23 + n),
            ("virtioscsi", n @ 0..=30) => (3, 1 + n),
            ("scsihw", n @ 2..=4) => (4, n - 1),
            _ => return None,
        },
    })
}

impl Builder<'_> {
    /// `,bus=pci.B,addr=0xA` of a device; the bridge that it is behind will be there.
    pub(super) fn pci_address(&mut self, id: &str) -> String {
        let Some((bus, _)) = place(id) else { return String::new() };
        self.bridges.insert(bus);
        self.address_of(id)
    }

    /// The place of a bridge itself.
    pub(super) fn bridge_address(&self, bridge: u8) -> String {
        match bridge {
            2 if self.has_legacy_graphics => self.address_of("pci.2-igd"),
            _ => self.address_of(&format!("pci.{bridge}")),
        }
    }

    /// ARM's machine begins with a PCI Express bus; bridges behind it are named as everywhere.
    fn address_of(&self, id: &str) -> String {
        let Some((bus, address)) = place(id) else { return String::new() };
        let name = if self.is_arm() && bus == 0 { "pcie" } else { "pci" };
        format!(",bus={name}.{bus},addr=0x{address:x}")
    }
}

/// Where a device of the host is plugged in on Q35: behind a port, or for Windows 7 on the bus itself.
pub(super) fn root_port_address(number: u32, without_port: bool) -> String {
    if !without_port {
        return format!(",bus=ich9-pcie-port-{},addr=0x0", number + 1);
    }
    let address = match number {
        0..=3 => 16 + number,
        4..=10 => 5 + number,
        _ => 10 + number,
    };
    format!(",bus=pcie.0,addr=0x{address:x}")
}

/// The port for a device; the first four are always there.
pub(super) fn root_port(number: u32) -> Option<String> {
    let address = match number {
        4..=11 => format!("10.{}", number - 4),
        12..=15 => format!("11.{}", number - 12),
        _ => return None,
    };
    let port = number + 1;
    Some(format!(
        "pcie-root-port,id=ich9-pcie-port-{port},addr={address},x-speed=16,x-width=32,multifunction=on,bus=pcie.0,\
         port={port},chassis={port}"
    ))
}

#[cfg(test)]
mod tests {
    use super::{place, root_port, root_port_address};

    #[test]
    fn devices_of_the_host_have_ports() {
        assert_eq!(root_port(3), None);
        assert!(root_port(12).unwrap().starts_with("pcie-root-port,id=ich9-pcie-port-13,addr=11.0,"));
        assert_eq!(root_port_address(4, false), ",bus=ich9-pcie-port-5,addr=0x0");
        assert_eq!(
            (root_port_address(4, true), root_port_address(11, true)),
            (",bus=pcie.0,addr=0x9".into(), ",bus=pcie.0,addr=0x15".into())
        );
    }

    #[test]
    fn no_two_devices_share_a_place() {
        let mut ids: Vec<String> =
            ["piix3", "vga", "balloon0", "watchdog", "scsihw1", "ahci0", "qga0", "spice", "pci.1"]
                .iter()
                .chain(&["pci.2", "xhci", "pci.4", "rng0", "ivshmem", "audio0", "scsihw0"])
                .map(|id| (*id).to_owned())
                .collect();
        for (prefix, range) in [
            ("virtio", 0..16),
            ("hostpci", 0..16),
            ("net", 0..32),
            ("vga", 1..4),
            ("virtioscsi", 0..31),
            ("scsihw", 2..5),
        ] {
            ids.extend(range.map(|number| format!("{prefix}{number}")));
        }
        let places: Vec<(u8, u8)> = ids.iter().map(|id| place(id).unwrap_or_else(|| panic!("{id}"))).collect();
        let distinct: std::collections::BTreeSet<_> = places.iter().collect();
        assert_eq!(distinct.len(), places.len());
        assert_eq!(place("net32"), None);
    }
}
