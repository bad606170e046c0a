//! The chipset, the bridges behind which devices sit, and the machine option.

use super::builder::Builder;
use super::display::Display;
use crate::Result;
use crate::qemu::config::MachineVersion;

/// Loads the layout of Q35 before anything refers to it.
pub(super) fn chipset(builder: &mut Builder) -> Result<()> {
    if builder.is_q35() {
        let layout = if builder.at_least(4, 0) { "pve-q35-4.0.cfg" } else { "pve-q35.cfg" };
        builder.device_option("-readconfig", format!("/usr/share/qemu-server/{layout}"));
    }
    if keeps_old_slot_numbers(builder)? {
        builder.option("-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off");
    }
    Ok(())
}

/// Linux guests on Q35 from before QEMU 6.1 would find their network cards under new names.
/// (PVE: QemuServer.pm, qemu_created_version_fixups)
fn keeps_old_slot_numbers(builder: &Builder) -> Result<bool> {
    let has_version =
        builder.machine.configured_type().is_some_and(|machine| !matches!(machine.as_str(), "pc" | "q35" | "virt"));
    let forced = builder.options.machine.as_deref().and_then(MachineVersion::of_type);
    if !builder.is_q35()
        || builder.vm.ostype() != Some("l26")
        || has_version
        || forced.is_some_and(|forced| !forced.at_least(6, 1, 0))
    {
        return Ok(false);
    }
    let meta = builder.vm.properties("~pve-qm-meta", "meta")?;
    let created = meta.and_then(|meta| meta.text("creation-qemu")).unwrap_or_default();
    let mut numbers = created.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    Ok(version < (6, 1) && builder.host.qemu_version()?.at_least(6, 1))
}

/// Memory shared between guests and host.
pub(super) fn shared_memory(builder: &mut Builder) -> Result<()> {
    let Some(ivshmem) = builder.vm.properties("~pve-qm-ivshmem", "ivshmem")? else { return Ok(()) };
    let address = if builder.is_q35() { ",bus=pcie.0,addr=0x14".to_owned() } else { builder.pci_address("ivshmem") };
    let name = ivshmem.text("name").unwrap_or_else(|| builder.vm.vmid.to_string());
    let size = ivshmem.text("size").unwrap_or_default();
    builder.device(format!("ivshmem-plain,memdev=ivshmem{address},"));
    let memory = format!("memory-backend-file,id=ivshmem,share=on,mem-path=/dev/shm/pve-shm-{name},size={size}M");
    builder.device_option("-object", memory);
    Ok(())
}

/// PCI bridges, in front of all devices.
pub(super) fn bridges(builder: &mut Builder) {
    if builder.bridges.contains(&4) {
        builder.bridges.insert(1);
    }
    if !builder.is_q35() {
        if builder.at_least(2, 3) {
            builder.bridges.extend([1, 2]);
        }
        if builder.vm.scsihw() == "virtio-scsi-single" {
            builder.bridges.insert(3);
        }
    }
    let at = if builder.is_q35() { 2 } else { 0 };
    let first = if builder.is_q35() { 4 } else { 1 };
    let bridges: Vec<u8> = builder.bridges.iter().copied().filter(|bridge| *bridge >= first).collect();
    let mut options = Vec::new();
    for bridge in bridges {
        let device = format!("pci-bridge,id=pci.{bridge},chassis_nr={bridge}{}", builder.bridge_address(bridge));
        options.extend(["-device".to_owned(), device]);
    }
    builder.devices.splice(at..at, options);
}

/// Accelerator, power states, type and virtual IOMMU.
pub(super) fn machine(builder: &mut Builder, display: &Display) -> Result<()> {
    if !builder.kvm {
        builder.machine_flags.push("accel=tcg".into());
    }
    power_states(builder);
    if !builder.is_virt() && display.is_headless() && matches!(builder.vm.text("bios"), None | Some("seabios")) {
        builder.machine_flags.push("smm=off".into());
    }
    let machine = builder.final_machine_type();
    builder.machine_flags.push(format!("type={machine}"));
    builder.machine.check()?;
    if let Some(viommu) = builder.machine.viommu() {
        let bits = builder.machine.aw_bits().map_or_else(String::new, |bits| {
            builder.notes.push(format!(
                "vIOMMU 'aw-bits' set to {bits}. Sometimes it is necessary to set the CPU's 'guest-phys-bits' to the \
                 same value."
            ));
            format!(",aw-bits={bits}")
        });
        if viommu == "intel" {
            let device = format!("intel-iommu,intremap=on,caching-mode=on{bits}");
            builder.devices.splice(0..0, ["-device".to_owned(), device]);
            builder.machine_flags.push("kernel-irqchip=split".into());
        } else {
            builder.device(format!("virtio-iommu-pci{bits}"));
        }
    }
    Ok(())
}

/// Whether the kernel may share equal pages with other VMs.
pub(super) fn page_merging(builder: &mut Builder) {
    if builder.vm.flag("allow-ksm") == Some(false) {
        builder.machine_flags.push("mem-merge=off".into());
    }
}

/// The state that a suspended VM goes on from, and what a template is opened with.
pub(super) fn saved_state(builder: &mut Builder) -> Result<()> {
    if let Some(state) = builder.vm.text("vmstate") {
        let volume = state.parse().map_err(crate::Error::new)?;
        let path = builder.volumes.path(&volume)?;
        builder.last.extend(["-loadstate".to_owned(), path]);
        builder.notes.push(format!("activating and using '{state}' as vmstate"));
    }
    if builder.vm.is_template() {
        builder.last.push("-snapshot".into());
    }
    Ok(())
}

/// Suspend to RAM and disk are off from 9.2+pve1 on, unless configured. (PVE: Machine.pm, get_power_state_flags)
fn power_states(builder: &mut Builder) {
    if builder.is_virt() {
        return;
    }
    let chip = if builder.is_q35() { "ICH9-LPC" } else { "PIIX4_PM" };
    let default = !builder.uses(9, 2, 1);
    for state in [3, 4] {
        if !builder.machine.power_state(state).unwrap_or(default) {
            builder.option("-global", format!("{chip}.disable_s{state}=1"));
        }
    }
}
