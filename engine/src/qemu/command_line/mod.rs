//! The QEMU command line of a VM: a pure function of its configuration, the host's facts and its volumes.
//!
//! [`plan`] prints what PVE's own `qm showcmd` prints, option by option and in the same order, because administrators
//! and tests compare the two. What the distribution's QEMU does not understand, and what PVE leaves to its helper
//! scripts, is changed afterwards by [`local::localise`], which is what gets started. Both are functions without effects.
//!
//! One file per kind of device; each adds to the [`Builder`]. (PVE: qemu-server QemuServer.pm, config_to_command)

mod audio;
mod blockdev;
mod board;
mod builder;
mod confidential;
mod cpu;
mod custom_cpu;
mod display;
mod drives;
mod firmware;
mod hostpci;
mod layout;
pub mod local;
mod local_check;
mod memory;
mod network;
mod pci;
mod peripherals;
mod source;
mod usb;
mod virtiofs;
mod volumes;

#[cfg(test)]
mod accepted;
#[cfg(test)]
mod tests;

pub use builder::pin_for_windows;
pub(in crate::qemu) use cpu::{BUILT_IN as BUILT_IN_MODELS, vendor as cpu_vendor};
pub use firmware::{FirmwareCopy, files as firmware_files};
pub use hostpci::HostPci;
pub(in crate::qemu) use hostpci::mediated_id;
pub(in crate::qemu) use memory::page_mount;
pub use memory::{HugePages, hugepages_needed};
pub use network::tap_name;
pub(in crate::qemu) use virtiofs::{shared_path, shares};
pub use volumes::{Layer, StorageTraits, StoredVolumes, Volumes, format_of_name};

use super::config::{Slot, Vm};
use crate::Result;
use crate::config::guest::Part;
use crate::hardware::{pci::PciDevice, usb::UsbDevice};
use crate::host::Host;
use crate::mapping::Mappings;
use builder::Builder;
use std::collections::{BTreeMap, BTreeSet};

/// A planned command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Program and arguments.
    pub command: Vec<String>,
    /// What the administrator should know; a task that has some ends with `WARNINGS`.
    pub warnings: Vec<String>,
    /// What is only said, and does not change how a task ends.
    pub notes: Vec<String>,
    /// What has to be there before QEMU starts, beyond what the configuration says.
    pub preparations: Preparations,
}

/// What planning decided that has to be made before the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preparations {
    /// Devices of the host that the VM gets.
    pub pci: Vec<HostPci>,
    /// The copy of the firmware's variables for a VM without an EFI disk.
    pub firmware: Option<FirmwareCopy>,
}

/// Where the files of running VMs lie, as they stand in the command line.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The directory of sockets and pid files.
    pub run: String,
    /// The directory of what PVE does not keep with the sockets: variables of firmware, sockets of file systems.
    pub short_run: String,
    /// The socket that events are sent to.
    pub events: String,
}

impl Paths {
    /// The paths of a node. PVE writes `/var/run`, which is `/run`.
    pub fn of(root: &crate::Root) -> Self {
        let text = |path: &str| root.path(path).to_string_lossy().into_owned();
        Paths {
            run: text("/var/run/qemu-server"),
            short_run: text("/run/qemu-server"),
            events: text("/var/run/qmeventd.sock"),
        }
    }
}

/// What a caller may force.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where sockets lie.
    pub paths: Paths,
    /// Instead of the configured machine type.
    pub machine: Option<String>,
    /// Instead of the configured processor.
    pub cpu: Option<String>,
    /// MTUs by card that a guest knows already; 0 means that it was told none.
    pub mtus: BTreeMap<String, u64>,
    /// The port of SPICE.
    pub spice_port: Option<u16>,
}

/// What a plan may refer to besides volumes. Only what a configuration needs has to be filled in.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Names of devices and directories of this node.
    pub mappings: Mappings,
    /// The host's PCI devices.
    pub pci: Vec<PciDevice>,
    /// PCI devices that other VMs have.
    pub busy: BTreeSet<String>,
    /// The host's USB devices; `None` takes every mapping for valid.
    pub usb: Option<Vec<UsbDevice>>,
    /// The administrator's own CPU models, by name without `custom-`.
    pub cpu_models: BTreeMap<String, BTreeMap<String, String>>,
}

/// The command line of a VM.
///
/// # Errors
/// When the configuration contradicts itself or the host, or has an option that cannot be carried out.
pub fn plan(vm: Vm, host: &Host, volumes: &dyn Volumes, around: &Surroundings, options: &Options) -> Result<Plan> {
    let reduced = if vm.is_template() { Some(template_part(&vm)) } else { None };
    let vm = reduced.as_ref().map_or(vm, |part| Vm::new(vm.vmid, part));
    let mut builder = Builder::new(vm, host, volumes, around, options)?;
    peripherals::start(&mut builder)?;
    firmware::add(&mut builder)?;
    layout::chipset(&mut builder)?;
    peripherals::generation_id(&mut builder);
    usb::controllers(&mut builder)?;
    let mut display = display::Display::of(&builder)?;
    display::pointer(&mut builder, &display);
    let passed = hostpci::add(&mut builder, &mut display)?;
    usb::devices(&mut builder)?;
    peripherals::serial_ports(&mut builder)?;
    peripherals::parallel_ports(&mut builder)?;
    audio::add(&mut builder)?;
    peripherals::trusted_platform_module(&mut builder);
    cpu::topology(&mut builder)?;
    peripherals::firmware_menu(&mut builder);
    display::card(&mut builder, &display)?;
    peripherals::clock(&mut builder);
    cpu::model(&mut builder, passed)?;
    memory::add(&mut builder)?;
    peripherals::keyboard(&mut builder);
    peripherals::agent(&mut builder)?;
    peripherals::random_source(&mut builder)?;
    display::channels(&mut builder, &display)?;
    peripherals::balloon(&mut builder);
    peripherals::watchdog(&mut builder)?;
    drives::add(&mut builder)?;
    network::add(&mut builder)?;
    layout::shared_memory(&mut builder)?;
    layout::bridges(&mut builder);
    layout::machine(&mut builder, &display)?;
    confidential::add(&mut builder)?;
    layout::page_merging(&mut builder);
    virtiofs::add(&mut builder)?;
    layout::saved_state(&mut builder)?;
    Ok(builder.finish())
}

/// A template is only started to be read, so it has its disks and nothing else.
fn template_part(vm: &Vm) -> Part {
    let mut part = Part::default();
    for (key, value) in [("template", "1"), ("kvm", "0"), ("vga", "none")] {
        part.set(key, value);
    }
    let disks = Slot::all().map(|slot| slot.to_string());
    for key in disks.chain(["scsihw", "bios", "name"].map(str::to_owned)) {
        if let Some(value) = vm.text(&key) {
            part.set(key.as_str(), value);
        }
    }
    part
}

/// The command line as one line that a shell understands. (PVE: pve-common PVE/Tools.pm, cmd2string)
pub fn to_text(command: &[String]) -> String {
    command.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
}

/// As [`to_text`], with a new line in front of each dash after a blank, also between quotes. (PVE: CLI/qm.pm, showcmd)
pub fn to_pretty_text(command: &[String]) -> String {
    to_text(command).replace(" -", " \\\n  -")
}

/// A word as a shell takes it. PVE asks a Perl library, which also quotes words with `=`, because they could stand for
/// a variable at the start of a command, and writes several single quotes in a row between double ones.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_!%+,-./:@^".contains(c);
    if word.chars().all(is_plain) && !word.is_empty() {
        return word.to_owned();
    }
    if word.is_empty() {
        return "''".to_owned();
    }
    let mut quoted = String::from("'");
    let mut rest = word;
    while let Some(start) = rest.find('\'') {
        let count = rest[start..].chars().take_while(|c| *c == '\'').count();
        quoted += &rest[..start];
        quoted += &if count == 1 { r"'\''".to_owned() } else { format!("'\"{}\"'", "'".repeat(count)) };
        rest = &rest[start + count..];
    }
    quoted += rest;
    quoted.push('\'');
    let start = quoted.strip_prefix("''").unwrap_or(&quoted);
    start.strip_suffix("''").unwrap_or(start).to_owned()
}
