//! The QEMU command line of a VM: a pure function of its configuration, the host's facts and its volumes.
//!
//! [`plan`] prints what PVE's own `qm showcmd` prints, option by option and in the same order, because administrators
//! and tests compare the two. What the distribution's QEMU does not understand, and what PVE leaves to its helper
//! scripts, is changed afterwards by [`local::localise`], which is what gets started. Both are functions without effects.
//!
//! One file per kind of device; each adds to the [`Builder`]. (PVE: qemu-server QemuServer.pm, config_to_command)

mod builder;
mod cpu;
mod display;
mod drives;
mod layout;
pub mod local;
mod memory;
mod network;
mod pci;
mod peripherals;
mod usb;
mod volumes;

#[cfg(test)]
mod tests;

pub use builder::pin_for_windows;
pub use builder::{Options, Paths};
pub(in crate::qemu) use cpu::{BUILT_IN as BUILT_IN_MODELS, vendor as cpu_vendor};
pub use network::tap_name;
pub use volumes::{StorageTraits, StoredVolumes, Volumes, format_of_name};

use super::config::Vm;
use crate::host::Host;
use crate::{Error, Result};
use builder::Builder;

/// A planned command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Program and arguments.
    pub command: Vec<String>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// Options that this build knows but cannot carry out yet. A VM that has one is refused by name.
const NOT_YET: [&str; 7] = ["hostpci", "usb", "efidisk", "tpmstate", "virtiofs", "audio", "parallel"];

/// As [`NOT_YET`], for options without a number.
const NOT_YET_SINGLE: [&str; 5] = ["amd-sev", "intel-tdx", "hugepages", "vmstate", "arch"];

/// The command line of a VM.
///
/// # Errors
/// When the configuration contradicts itself or the host, or has an option that cannot be carried out.
pub fn plan(vm: Vm, host: &Host, volumes: &dyn Volumes, options: &Options) -> Result<Plan> {
    refuse_what_is_missing(&vm, host)?;
    let mut builder = Builder::new(vm, host, volumes, options)?;
    peripherals::start(&mut builder)?;
    layout::chipset(&mut builder)?;
    peripherals::generation_id(&mut builder);
    usb::controllers(&mut builder);
    let display = display::Display::of(&builder)?;
    display::tablet(&mut builder, &display);
    peripherals::serial_ports(&mut builder)?;
    cpu::topology(&mut builder)?;
    peripherals::firmware_menu(&mut builder);
    display::card(&mut builder, &display)?;
    peripherals::clock(&mut builder);
    cpu::model(&mut builder)?;
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
    Ok(builder.finish())
}

fn refuse_what_is_missing(vm: &Vm, host: &Host) -> Result<()> {
    let refuse = |option: &str| Err(Error::new(format!("option '{option}' is not supported yet")));
    for prefix in NOT_YET {
        if let Some((number, _)) = vm.indexed(prefix).first() {
            return refuse(&format!("{prefix}{number}"));
        }
    }
    if let Some(option) = NOT_YET_SINGLE.into_iter().find(|option| vm.text(option).is_some())
        && !(option == "arch" && vm.text("arch") == Some(&host.architecture()))
    {
        return refuse(option);
    }
    if vm.text("bios").is_some_and(|bios| bios != "seabios") {
        return refuse("bios: ovmf");
    }
    Ok(())
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
/// a variable at the start of a command.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_!%+,-./:@^".contains(c);
    if word.chars().all(is_plain) && !word.is_empty() {
        return word.to_owned();
    }
    let quoted = format!("'{}'", word.replace('\'', r"'\''"));
    if word.is_empty() {
        return quoted;
    }
    let start = quoted.strip_prefix("''").unwrap_or(&quoted);
    start.strip_suffix("''").unwrap_or(start).to_owned()
}
