//! The boot order: which device gets which `bootindex`.

use super::{Drive, Properties, Slot, Vm};
use crate::Result;
use crate::types::split_list;
use std::collections::BTreeMap;

/// The option `boot`: a list of devices, or letters as it was long ago.
#[derive(Debug, Clone, PartialEq)]
pub enum BootOrder {
    /// `order=scsi0;net0`: these, in this order.
    Devices(Vec<String>),
    /// `cdn`: disk, CD-ROM, network; the disk is the one in `bootdisk`.
    Legacy(String),
}

impl BootOrder {
    /// Reads the option; an absent one is `cdn`.
    pub fn parse(text: Option<&str>) -> Result<Self> {
        let Some(text) = text else { return Ok(BootOrder::Legacy("cdn".into())) };
        let options = Properties::parse("pve-qm-boot", "boot", text)?;
        Ok(match options.text("legacy") {
            Some(letters) => BootOrder::Legacy(letters),
            None => BootOrder::Devices(split_list(&options.text("order").unwrap_or_default())),
        })
    }
}

/// `order=a;b`, or an empty text for no device at all.
pub fn print_order(devices: &[String]) -> String {
    if devices.is_empty() { String::new() } else { format!("order={}", devices.join(";")) }
}

/// `bootindex` by device name. Explicit orders start at 100, so that `args` can put a device in front.
/// (PVE: QemuServer.pm, device_bootorder and bootorder_from_legacy)
pub fn device_indices(vm: &Vm) -> Result<BTreeMap<String, u32>> {
    match BootOrder::parse(vm.text("boot"))? {
        BootOrder::Devices(devices) => Ok(devices.into_iter().zip(100..).collect()),
        BootOrder::Legacy(letters) => legacy_indices(vm, &letters),
    }
}

fn legacy_indices(vm: &Vm, letters: &str) -> Result<BTreeMap<String, u32>> {
    let mut next: BTreeMap<char, u32> = letters.chars().zip(1..).map(|(letter, i)| (letter, i * 100)).collect();
    let mut take = |letter: char| {
        let index = next.get_mut(&letter)?;
        *index += 1;
        Some(*index - 1)
    };
    let mut indices = BTreeMap::new();
    for (slot, drive) in vm.drives()? {
        let letter = if drive.is_plain_cdrom() { 'd' } else { 'c' };
        if let Some(index) = take(letter)
            && (letter == 'd' || vm.text("bootdisk") == Some(slot.to_string().as_str()))
        {
            indices.insert(slot.to_string(), index);
        }
    }
    for (number, _) in vm.nets()? {
        if let Some(index) = take('n') {
            indices.insert(format!("net{number}"), index);
        }
    }
    Ok(indices)
}

/// The devices that a new VM boots from: first disk, first CD-ROM, first network card.
/// (PVE: QemuServer.pm, get_default_bootdevices)
pub fn default_devices(vm: &Vm) -> Result<Vec<String>> {
    let drives: Vec<(Slot, Drive)> = vm.drives()?.into_iter().filter(|(slot, _)| is_bootable(*slot)).collect();
    let first = |cdrom: bool| drives.iter().find(|(_, drive)| drive.is_cdrom() == cdrom);
    let mut devices: Vec<String> =
        [first(false), first(true)].into_iter().flatten().map(|(slot, _)| slot.to_string()).collect();
    devices.extend(vm.nets()?.first().map(|(number, _)| format!("net{number}")));
    Ok(devices)
}

fn is_bootable(slot: Slot) -> bool {
    !matches!(slot.bus, super::Bus::Efidisk | super::Bus::Tpmstate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::{GuestConfig, GuestKind};

    fn indices(text: &str) -> Vec<(String, u32)> {
        let config = GuestConfig::parse(GuestKind::Qemu, text);
        device_indices(&Vm::new("100".parse().unwrap(), &config.current)).unwrap().into_iter().collect()
    }

    #[test]
    fn explicit_orders_count_from_one_hundred() {
        assert_eq!(indices("boot: order=net0;scsi0\n"), [("net0".into(), 100), ("scsi0".into(), 101)]);
    }

    #[test]
    fn letters_take_the_boot_disk_and_every_cdrom() {
        let text = "bootdisk: scsi1\nide2: none,media=cdrom\nscsi0: aa:100/x.raw\nscsi1: aa:100/y.raw\nnet0: virtio\nnet1: virtio\n";
        let expected = [("ide2", 200), ("net0", 300), ("net1", 301), ("scsi1", 101)];
        assert_eq!(indices(text), expected.map(|(name, index)| (name.to_owned(), index)));
    }

    #[test]
    fn new_vms_boot_from_disk_cdrom_and_network() {
        let config =
            GuestConfig::parse(GuestKind::Qemu, "net1: virtio\nide2: none,media=cdrom\nvirtio3: aa:100/x.raw\n");
        let vm = Vm::new("100".parse().unwrap(), &config.current);
        assert_eq!(print_order(&default_devices(&vm).unwrap()), "order=virtio3;ide2;net1");
    }
}
