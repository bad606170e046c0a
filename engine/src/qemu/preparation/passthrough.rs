//! Devices of the host for a guest: bound to `vfio-pci`, or divided into mediated devices.
//! (PVE: qemu-server PCI.pm, prepare_pci_device, and PCI/Mdev.pm; pve-common PVE/SysFSTools.pm)

use super::super::command_line::{HostPci, mediated_id};
use super::sysfs::Sysfs;
use crate::hardware::pci::full_id;
use crate::{Error, Result, Vmid};

const DEVICES: &str = "/sys/bus/pci/devices";
const VFIO: &str = "/sys/bus/pci/drivers/vfio-pci";
const MEDIATED: &str = "/sys/bus/mdev/devices";

/// What became of a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prepared {
    /// NVIDIA's mediated devices want QEMU to have an identity; this one if the VM has none.
    pub needs_identity: Option<String>,
}

/// Makes a device ready.
pub fn prepare(sysfs: &dyn Sysfs, vmid: Vmid, device: &HostPci, warn: &mut dyn FnMut(&str)) -> Result<Prepared> {
    if sysfs.names("/sys/class/iommu").is_empty() {
        return Err(Error::new("cannot prepare PCI pass-through, IOMMU not present"));
    }
    let own = mediated_id(vmid, device.number);
    if device.mediated.is_none() && device.nvidia.is_none() {
        for id in &device.ids {
            information(sysfs, id)?;
            if !device.keep {
                bind_group(sysfs, id)?;
                reset(sysfs, id, warn);
            }
        }
        return Ok(Prepared::default());
    }
    // The first device that still has room gives the instance.
    for id in &device.ids {
        let made = information(sysfs, id).and_then(|()| match (&device.mediated, &device.nvidia) {
            (Some(kind), _) if !device.keep => create_mediated(sysfs, id, &own, kind, warn),
            (_, Some(model)) => set_nvidia(sysfs, id, model),
            _ => Ok(()),
        });
        match made {
            Err(error) => warn(error.message()),
            Ok(()) => {
                let vendor = sysfs.line(&format!("{DEVICES}/{}/vendor", full_id(id))).unwrap_or_default();
                let is_nvidia = vendor.trim_start_matches("0x") == "10de";
                return Ok(Prepared { needs_identity: is_nvidia.then_some(own) });
            }
        }
    }
    Err(Error::new("could not create mediated device"))
}

fn information(sysfs: &dyn Sysfs, id: &str) -> Result<()> {
    let is_there =
        ["irq", "vendor", "device"].iter().all(|file| sysfs.line(&format!("{DEVICES}/{id}/{file}")).is_some());
    if is_there { Ok(()) } else { Err(Error::new(format!("no pci device info for device '{id}'"))) }
}

/// All devices that the IOMMU cannot tell apart go together; bridges stay.
fn bind_group(sysfs: &dyn Sysfs, id: &str) -> Result<()> {
    if !sysfs.is_directory(VFIO) {
        sysfs.load_module("vfio-pci");
    }
    if !sysfs.is_directory(VFIO) {
        return Err(Error::new("Cannot find vfio-pci module!"));
    }
    let members = sysfs.names(&format!("{DEVICES}/{id}/iommu_group/devices"));
    if members.is_empty() {
        return Err(Error::new(format!("can't unbind/bind PCI group to VFIO '{id}'")));
    }
    for member in members.iter().filter(|member| !sysfs.is_directory(&format!("{DEVICES}/{member}/pci_bus"))) {
        bind(sysfs, member).map_err(|error| error.context(format!("Cannot bind {member} to vfio")))?;
    }
    Ok(())
}

fn bind(sysfs: &dyn Sysfs, id: &str) -> Result<()> {
    if sysfs.is_directory(&format!("{VFIO}/{id}")) {
        return Ok(());
    }
    let number = |file: &str| {
        let text = sysfs.line(&format!("{DEVICES}/{id}/{file}")).unwrap_or_default();
        text.trim_start_matches("0x").to_owned()
    };
    sysfs.write(&format!("{VFIO}/new_id"), &format!("{} {}", number("vendor"), number("device")))?;
    if sysfs.is_directory(&format!("{DEVICES}/{id}/driver")) && !sysfs.is_directory(&format!("{VFIO}/{id}")) {
        sysfs.write(&format!("{DEVICES}/{id}/driver/unbind"), id)?;
    }
    if !sysfs.is_directory(&format!("{VFIO}/{id}")) {
        sysfs.write(&format!("{VFIO}/bind"), id)?;
    }
    match sysfs.is_directory(&format!("{VFIO}/{id}")) {
        true => Ok(()),
        false => Err(Error::new(format!("'{id}' did not appear below its driver"))),
    }
}

/// Not every device can be reset, and some need none.
fn reset(sysfs: &dyn Sysfs, id: &str, warn: &mut dyn FnMut(&str)) {
    let file = format!("{DEVICES}/{id}/reset");
    let can = sysfs.names(&format!("{DEVICES}/{id}")).iter().any(|name| name == "reset");
    if can && sysfs.write(&file, "1").is_err() {
        warn(&format!("failed to reset PCI device '{id}', but trying to continue as not all devices need a reset"));
    }
}

fn create_mediated(sysfs: &dyn Sysfs, id: &str, uuid: &str, kind: &str, warn: &mut dyn FnMut(&str)) -> Result<()> {
    let id = full_id(id);
    let types = format!("{DEVICES}/{id}/mdev_supported_types");
    if !sysfs.is_directory(&types) {
        return Err(Error::new(format!("pci device '{id}' does not support mediated devices")));
    }
    if !sysfs.is_directory(&format!("{types}/{kind}")) {
        return Err(Error::new(format!("pci device '{id}' has no type '{kind}'")));
    }
    let instance = format!("{DEVICES}/{id}/{uuid}");
    if sysfs.is_directory(&instance) {
        if sysfs.link_name(&format!("{instance}/mdev_type")).as_deref() != Some(kind) {
            return Err(Error::new(format!("mdev instance '{uuid}' already exists, but type is not '{kind}'")));
        }
        warn(&format!("mdev instance '{uuid}' already existed, using it."));
        return Ok(());
    }
    let available = sysfs.line(&format!("{types}/{kind}/available_instances")).unwrap_or_default();
    if available.trim().parse::<u64>().unwrap_or(0) < 1 {
        return Err(Error::new(format!("pci device '{id}' has no available instances of '{kind}'")));
    }
    sysfs
        .write(&format!("{types}/{kind}/create"), uuid)
        .map(drop)
        .map_err(|error| error.context(format!("could not create '{kind}' for pci devices '{id}'")))
}

/// The newer driver of NVIDIA divides virtual functions by a number of its own.
fn set_nvidia(sysfs: &dyn Sysfs, id: &str, model: &str) -> Result<()> {
    let id = full_id(id);
    let file = format!("{DEVICES}/{id}/nvidia/current_vgpu_type");
    let Some(current) = sysfs.line(&file) else {
        return Err(Error::new(format!("no nvidia sysfs api for '{id}'")));
    };
    if current == model {
        return Ok(());
    }
    if current != "0" {
        sysfs.write(&file, "0").map_err(|error| error.context(format!("unable to reset vgpu type for '{id}'")))?;
    }
    sysfs
        .write(&file, model)
        .map(drop)
        .map_err(|error| error.context(format!("could not set vgpu type to '{model}' for '{id}'")))
}

/// Removes the mediated devices of a VM.
pub fn remove_mediated(sysfs: &dyn Sysfs, vmid: Vmid) -> Result<()> {
    let ending = format!("-0000-0000-0000-{:012}", vmid.number());
    for uuid in sysfs.names(MEDIATED).iter().filter(|uuid| uuid.ends_with(&ending)) {
        sysfs.write(&format!("{MEDIATED}/{uuid}/remove"), "1")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::fake::FakeSysfs;
    use super::*;

    fn device(ids: &[&str]) -> HostPci {
        HostPci {
            number: 2,
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            mediated: None,
            nvidia: None,
            keep: false,
        }
    }

    fn machine(more: &[(&str, &str)]) -> FakeSysfs {
        let mut files = vec![
            ("/sys/class/iommu/dmar0", ""),
            ("/sys/bus/pci/drivers/vfio-pci/new_id", ""),
            ("/sys/bus/pci/devices/0000:05:00.0/irq", "11"),
            ("/sys/bus/pci/devices/0000:05:00.0/vendor", "0x10de"),
            ("/sys/bus/pci/devices/0000:05:00.0/device", "0x1234"),
            ("/sys/bus/pci/devices/0000:05:00.0/reset", ""),
            ("/sys/bus/pci/devices/0000:05:00.0/driver/unbind", ""),
            ("/sys/bus/pci/devices/0000:05:00.0/iommu_group/devices/0000:04:00.0", ""),
            ("/sys/bus/pci/devices/0000:05:00.0/iommu_group/devices/0000:05:00.0", ""),
            ("/sys/bus/pci/devices/0000:04:00.0/pci_bus/x", ""),
        ];
        files.extend_from_slice(more);
        FakeSysfs::with(&files)
    }

    fn vmid() -> Vmid {
        "100".parse().unwrap()
    }

    #[test]
    fn a_device_and_its_group_are_bound_but_not_the_bridge() {
        let sysfs = machine(&[]);
        prepare(&sysfs, vmid(), &device(&["0000:05:00.0"]), &mut |_| {}).unwrap();
        let expected = [
            "/sys/bus/pci/drivers/vfio-pci/new_id <- 10de 1234",
            "/sys/bus/pci/devices/0000:05:00.0/driver/unbind <- 0000:05:00.0",
            "/sys/bus/pci/drivers/vfio-pci/bind <- 0000:05:00.0",
            "/sys/bus/pci/devices/0000:05:00.0/reset <- 1",
        ];
        assert_eq!(*sysfs.written.borrow(), expected);
        let kept = HostPci { keep: true, ..device(&["0000:05:00.0"]) };
        let sysfs = machine(&[]);
        prepare(&sysfs, vmid(), &kept, &mut |_| {}).unwrap();
        assert!(sysfs.written.borrow().is_empty());
    }

    #[test]
    fn without_an_iommu_nothing_is_touched() {
        let sysfs = FakeSysfs::with(&[]);
        let refused = prepare(&sysfs, vmid(), &device(&["0000:05:00.0"]), &mut |_| {}).unwrap_err();
        assert_eq!(refused.message(), "cannot prepare PCI pass-through, IOMMU not present");
    }

    #[test]
    fn mediated_devices_are_made_and_removed() {
        let types = "/sys/bus/pci/devices/0000:05:00.0/mdev_supported_types/fast/available_instances";
        let uuid = "00000002-0000-0000-0000-000000000100";
        let wanted = HostPci { mediated: Some("fast".into()), ..device(&["0000:06:00.0", "0000:05:00.0"]) };
        let sysfs = machine(&[(types, "1")]);
        let mut warnings = Vec::new();
        let prepared = prepare(&sysfs, vmid(), &wanted, &mut |text| warnings.push(text.to_owned())).unwrap();
        assert_eq!(prepared.needs_identity.as_deref(), Some(uuid));
        assert_eq!(warnings, ["no pci device info for device '0000:06:00.0'"]);
        let create = types.replace("available_instances", "create");
        assert_eq!(*sysfs.written.borrow(), [format!("{create} <- {uuid}")]);
        let full = machine(&[(types, "0")]);
        assert!(prepare(&full, vmid(), &wanted, &mut |_| {}).is_err());
        let other = "/sys/bus/mdev/devices/00000002-0000-0000-0000-000000000101/remove";
        let sysfs = FakeSysfs::with(&[(&format!("/sys/bus/mdev/devices/{uuid}/remove"), ""), (other, "")]);
        remove_mediated(&sysfs, vmid()).unwrap();
        assert_eq!(*sysfs.written.borrow(), [format!("/sys/bus/mdev/devices/{uuid}/remove <- 1")]);
    }
}
