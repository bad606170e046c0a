//! Where devices sit: fixed places on the PCI buses, so that a guest finds its hardware where it was.
//! (PVE: qemu-server PCI.pm, get_pci_addr_map and get_pcie_addr_map)

use super::builder::Builder;

/// Bus and place of a device, by its id.
fn place(id: &str) -> Option<(u8, u8)> {
    let digits = id.find(|c: char| c.is_ascii_digit()).unwrap_or(id.len());
    let number = |id: &str| id[digits..].parse::<u8>().ok();
    Some(match id {
        "piix3" | "ehci" => (0, 1),
        "vga" => (0, 2),
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
        "ivshmem" => (2, 11),
        "audio0" => (2, 12),
        _ => match (&id[..digits], number(id)?) {
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
        let Some((bus, address)) = place(id) else { return String::new() };
        self.bridges.insert(bus);
        format!(",bus=pci.{bus},addr=0x{address:x}")
    }
}

/// The place of a bridge itself.
pub(super) fn bridge_address(bridge: u8) -> String {
    match place(&format!("pci.{bridge}")) {
        Some((bus, address)) => format!(",bus=pci.{bus},addr=0x{address:x}"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn no_two_devices_share_a_place() {
        let mut ids: Vec<String> =
            ["piix3", "vga", "balloon0", "watchdog", "scsihw1", "ahci0", "qga0", "spice", "pci.1"]
                .iter()
                .chain(&["pci.2", "xhci", "pci.4", "rng0", "ivshmem", "audio0", "scsihw0"])
                .map(|id| (*id).to_owned())
                .collect();
        for (prefix, range) in
            [("virtio", 0..16), ("net", 0..32), ("vga", 1..4), ("virtioscsi", 0..31), ("scsihw", 2..5)]
        {
            ids.extend(range.map(|number| format!("{prefix}{number}")));
        }
        let places: Vec<(u8, u8)> = ids.iter().map(|id| place(id).unwrap_or_else(|| panic!("{id}"))).collect();
        let distinct: std::collections::BTreeSet<_> = places.iter().collect();
        assert_eq!(distinct.len(), places.len());
        assert_eq!(place("net32"), None);
    }
}
