//! PCI devices of the host in the guest. (PVE: qemu-server PCI.pm, parse_hostpci and print_hostpci_devices)

use super::builder::{Builder, fail};
use super::display::Display;
use super::pci::{root_port, root_port_address};
use crate::Result;
use crate::hardware::pci::{self, PciDevice};
use crate::mapping::{Kind, pci_problem};
use crate::qemu::config::Properties;
use std::collections::BTreeSet;

/// How many a VM can have.
const MOST: u32 = 16;

/// A device that has to be prepared before QEMU starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPci {
    /// The number in the option's name.
    pub number: u32,
    /// Functions of one device. Of a mediated one: the devices, any of which may give an instance.
    pub ids: Vec<String>,
    /// The type of mediated device.
    pub mediated: Option<String>,
    /// The type in NVIDIA's own way.
    pub nvidia: Option<String>,
    /// Leave the driver that it has.
    pub keep: bool,
}

/// What devices of the host mean for the processor.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Passed {
    /// The guest must not see that it runs under KVM.
    pub hide_kvm: bool,
    /// A graphics card is among them.
    pub graphics: bool,
}

/// One option, with the devices that it may mean.
struct Parsed {
    options: Properties,
    /// Alternatives, each with the functions of one device.
    alternatives: Vec<Vec<PciDevice>>,
    mediated: Option<String>,
    nvidia: Option<String>,
    can_migrate: bool,
}

/// Adds all devices.
pub(super) fn add(builder: &mut Builder, display: &mut Display) -> Result<Passed> {
    let mut parsed = Vec::new();
    for (number, text) in builder.vm.indexed("hostpci").into_iter().filter(|(number, _)| *number < MOST) {
        let device = parse(builder, number, text)?;
        check(builder, &device, &parsed)?;
        parsed.push((number, device));
    }
    let mut used = BTreeSet::new();
    let mut chosen = Vec::new();
    for (number, device) in parsed {
        let devices = choose(builder, number, &device, &mut used)?;
        chosen.push((number, device, devices));
    }
    let mut passed = Passed::default();
    for (number, device, devices) in chosen {
        add_one(builder, display, number, &device, &devices, &mut passed)?;
        builder.preparations.pci.push(HostPci {
            number,
            ids: devices.into_iter().map(|device| device.id).collect(),
            mediated: device.mediated,
            nvidia: device.nvidia,
            keep: device.options.text("driver").as_deref() == Some("keep"),
        });
    }
    Ok(passed)
}

fn parse(builder: &Builder, number: u32, text: &str) -> Result<Parsed> {
    let options = Properties::parse("pve-qm-hostpci", &format!("hostpci{number}"), text)?;
    let mut can_migrate = false;
    let paths: Vec<String> = match (options.text("host"), options.text("mapping")) {
        (Some(_), Some(_)) => return fail("Cannot set both 'host' and 'mapping'."),
        (None, None) => return fail("Either 'host' or 'mapping' must be set."),
        (Some(host), None) => vec![host],
        (None, Some(name)) => {
            let mappings = &builder.around.mappings;
            let entries = mappings.entries(Kind::Pci, &name);
            let Some(mapping) = mappings.mapping(Kind::Pci, &name).filter(|_| !entries.is_empty()) else {
                return fail(format!("PCI device mapping not found for '{name}'"));
            };
            can_migrate = mapping.flag("live-migration-capable");
            let is_partial = builder.host.is_imagined();
            for entry in &entries {
                if let Some(problem) = pci_problem(&name, entry, mapping, &builder.around.pci, is_partial) {
                    return fail(format!("PCI device mapping invalid (hardware probably changed): {problem}"));
                }
            }
            entries.iter().filter_map(|entry| entry.text("path")).collect()
        }
    };
    let mut device =
        Parsed { mediated: options.text("mdev"), options, alternatives: Vec::new(), nvidia: None, can_migrate };
    for path in paths {
        let mut functions = Vec::new();
        for id in path.split(';') {
            let found = builder.around.pci.iter().filter(|device| pci::is_meant(device, id));
            let before = functions.len();
            functions.extend(found.cloned());
            if functions.len() == before {
                return fail(format!("no PCI device found for '{id}'"));
            }
        }
        if functions.len() > 1 && (device.mediated.is_some() || device.nvidia.is_some()) {
            return fail("cannot use mediated device with multifunction device");
        }
        if let Some(kind) = device.mediated.as_deref().and_then(|kind| kind.strip_prefix("nvidia-"))
            && functions[0].nvidia
            && kind.parse::<u64>().is_ok()
        {
            device.nvidia = Some(kind.to_owned());
            device.mediated = None;
        }
        device.alternatives.push(functions);
    }
    Ok(device)
}

/// Rules of the mode in which a graphics card of Intel replaces the VM's own.
fn check(builder: &Builder, device: &Parsed, before: &[(u32, Parsed)]) -> Result<()> {
    if device.options.is_on("pcie") && !builder.is_q35() {
        return fail("q35 machine model is not enabled");
    }
    if !device.options.is_on("legacy-igd") {
        return Ok(());
    }
    let wrong = [
        (
            before.iter().any(|(_, other)| other.options.is_on("legacy-igd")),
            "only one device can be assigned in legacy-igd mode",
        ),
        (builder.vm.text("vga") != Some("none"), "legacy IGD assignment requires VGA mode to be 'none'"),
        (device.options.flag("rombar") == Some(false), "legacy IGD assignment requires rombar to be enabled"),
        (device.options.is_on("x-vga"), "legacy IGD assignment is not compatible with x-vga"),
        (device.mediated.is_some() || device.nvidia.is_some(), "legacy IGD assignment is not compatible with mdev"),
        (builder.is_q35(), "legacy IGD assignment is not compatible with q35"),
        (
            device.alternatives.iter().any(|functions| functions.len() > 1),
            "legacy IGD assignment is not compatible with multifunction devices",
        ),
        (device.alternatives.len() > 1, "legacy IGD assignment is not compatible with alternate devices"),
        (
            !device.alternatives[0][0].id.ends_with("02.0"),
            "legacy IGD assignment only works for devices on host bus 00:02.0",
        ),
    ];
    wrong.into_iter().find(|(is_wrong, _)| *is_wrong).map_or(Ok(()), |(_, text)| fail(text))
}

/// The first alternative that nobody else has. Mediated devices are decided when they are made.
fn choose(builder: &Builder, number: u32, device: &Parsed, used: &mut BTreeSet<String>) -> Result<Vec<PciDevice>> {
    if device.mediated.is_some() {
        return Ok(device.alternatives.iter().map(|functions| functions[0].clone()).collect());
    }
    let chosen = match device.alternatives.as_slice() {
        [only] => only,
        several => {
            let is_free =
                |function: &PciDevice| !used.contains(&function.id) && !builder.around.busy.contains(&function.id);
            match several.iter().find(|functions| functions.iter().all(is_free)) {
                Some(functions) => functions,
                None => return fail(format!("could not find a free device for 'hostpci{number}'")),
            }
        }
    };
    for function in chosen {
        if !used.insert(function.id.clone()) {
            return fail(format!("device '{}' assigned more than once", function.id));
        }
    }
    Ok(chosen.clone())
}

fn add_one(
    builder: &mut Builder,
    display: &mut Display,
    number: u32,
    device: &Parsed,
    functions: &[PciDevice],
    passed: &mut Passed,
) -> Result<()> {
    let id = format!("hostpci{number}");
    let options = &device.options;
    let address = if options.is_on("pcie") {
        if builder.vm.windows() != 7
            && let Some(port) = root_port(number)
        {
            builder.device(port);
        }
        // Windows 7 wants its devices without a port in between.
        root_port_address(number, builder.vm.windows() == 7)
    } else if options.is_on("legacy-igd") {
        builder.has_legacy_graphics = true;
        builder.pci_address("legacy-igd")
    } else {
        builder.pci_address(&id)
    };
    let is_several = functions.len() > 1 && device.mediated.is_none();
    let mut primary = "";
    if options.is_on("x-vga") {
        primary = if builder.is_uefi() { "" } else { ",x-vga=on" };
        *passed = Passed { hide_kvm: true, graphics: true };
        if builder.vm.text("vga").is_none() {
            display.remove_card();
        }
    }
    for (function, found) in functions.iter().enumerate() {
        let place = match device.mediated {
            Some(_) => format!("sysfsdev=/sys/bus/mdev/devices/{}", mediated_id(builder.vm.vmid, number)),
            None => format!("host={}", found.id),
        };
        let migration = if device.can_migrate { ",enable-migration=on" } else { "" };
        let suffix = if is_several { format!(".{function}") } else { String::new() };
        let mut text = format!("vfio-pci,{place}{migration},id={id}{suffix}{address}{suffix}");
        if function == 0 {
            text += if options.flag("rombar") == Some(false) { ",rombar=0" } else { "" };
            text += primary;
            text += if is_several { ",multifunction=on" } else { "" };
            if let Some(file) = options.text("romfile") {
                text += &format!(",romfile=/usr/share/kvm/{file}");
            }
            text += &builder.boot_index(&id);
            for key in ["vendor-id", "device-id", "sub-vendor-id", "sub-device-id"] {
                if let Some(value) = options.text(key) {
                    text += &format!(",x-pci-{key}={value}");
                }
            }
        }
        builder.device(text);
        if device.mediated.is_some() {
            break;
        }
    }
    Ok(())
}

/// The id of a VM's mediated device. (PVE: PCI/Mdev.pm, generate_mdev_uuid)
pub(in crate::qemu) fn mediated_id(vmid: crate::Vmid, number: u32) -> String {
    format!("{number:08}-0000-0000-0000-{:012}", vmid.number())
}
