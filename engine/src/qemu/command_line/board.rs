//! What PVE's machines have on board, which PVE keeps in files for `-readconfig`.

/// The devices of such a file, in its order.
pub(super) fn devices(file: &str) -> Option<Vec<String>> {
    let owned = |devices: &[&str]| devices.iter().map(|device| (*device).to_owned()).collect::<Vec<_>>();
    match file.strip_prefix("/usr/share/qemu-server/")? {
        "pve-usb.cfg" => Some(owned(&USB)),
        "pve-q35-4.0.cfg" => Some(board("pcie-root-port", "x-speed=16,x-width=32,")),
        "pve-q35.cfg" => Some(board("ioh3420", "")),
        _ => None,
    }
}

/// The devices of Q35; the ports behind which devices of the host sit are of a newer kind from 4.0 on.
fn board(port: &str, speed: &str) -> Vec<String> {
    let ports = (1..=4).map(|number| {
        format!(
            "{port},id=ich9-pcie-port-{number},{speed}multifunction=on,bus=pcie.0,addr=1c.{},port={number},\
             chassis={number}",
            number - 1
        )
    });
    let before = BEFORE_PORTS.iter().map(|device| (*device).to_owned());
    before.chain(ports).chain(AFTER_PORTS.iter().map(|device| (*device).to_owned())).collect()
}

/// USB 2 for machines that have only USB 1 on board.
const USB: [&str; 4] = [
    "ich9-usb-ehci1,id=ehci,addr=1d.7,multifunction=on",
    "ich9-usb-uhci1,id=uhci-1,addr=1d.0,multifunction=on,masterbus=ehci.0,firstport=0",
    "ich9-usb-uhci2,id=uhci-2,addr=1d.1,multifunction=on,masterbus=ehci.0,firstport=2",
    "ich9-usb-uhci3,id=uhci-3,addr=1d.2,multifunction=on,masterbus=ehci.0,firstport=4",
];

const BEFORE_PORTS: [&str; 9] = [
    "ich9-usb-ehci1,id=ehci,multifunction=on,bus=pcie.0,addr=1d.7",
    "ich9-usb-uhci1,id=uhci-1,multifunction=on,bus=pcie.0,addr=1d.0,masterbus=ehci.0,firstport=0",
    "ich9-usb-uhci2,id=uhci-2,multifunction=on,bus=pcie.0,addr=1d.1,masterbus=ehci.0,firstport=2",
    "ich9-usb-uhci3,id=uhci-3,multifunction=on,bus=pcie.0,addr=1d.2,masterbus=ehci.0,firstport=4",
    "ich9-usb-ehci2,id=ehci-2,multifunction=on,bus=pcie.0,addr=1a.7",
    "ich9-usb-uhci4,id=uhci-4,multifunction=on,bus=pcie.0,addr=1a.0,masterbus=ehci-2.0,firstport=0",
    "ich9-usb-uhci5,id=uhci-5,multifunction=on,bus=pcie.0,addr=1a.1,masterbus=ehci-2.0,firstport=2",
    "ich9-usb-uhci6,id=uhci-6,multifunction=on,bus=pcie.0,addr=1a.2,masterbus=ehci-2.0,firstport=4",
    "ich9-intel-hda,id=audio0,bus=pcie.0,addr=1b.0",
];

const AFTER_PORTS: [&str; 5] = [
    "i82801b11-bridge,id=pcidmi,bus=pcie.0,addr=1e.0",
    "pci-bridge,id=pci.0,bus=pcidmi,addr=1.0,chassis_nr=1",
    "pci-bridge,id=pci.1,bus=pcidmi,addr=2.0,chassis_nr=2",
    "pci-bridge,id=pci.2,bus=pcidmi,addr=3.0,chassis_nr=3",
    "pci-bridge,id=pci.3,bus=pcidmi,addr=4.0,chassis_nr=4",
];
