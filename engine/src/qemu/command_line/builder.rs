//! What the parts of a command line are added to, and what they need to know.
//!
//! PVE prints options in two runs: first those of the machine, then the devices; each part adds to the run it belongs to.

use super::{Options, Plan, Preparations, Surroundings, Volumes};
use crate::host::Host;
use crate::qemu::config::{Machine, MachineVersion, Vm, device_indices, highest_pve_revision};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A command line in the making.
pub(super) struct Builder<'a> {
    pub vm: Vm<'a>,
    pub host: &'a Host,
    pub volumes: &'a dyn Volumes,
    /// What else is there: mappings, devices of the host, CPU models.
    pub around: &'a Surroundings,
    pub options: &'a Options,
    /// The processor architecture of the guest.
    pub arch: String,
    /// Whether the host has that architecture.
    pub is_native: bool,
    /// The option `machine`.
    pub machine: Machine,
    /// The type with PVE's revision, as `pc+pve0`.
    pub machine_type: String,
    /// The version that decides about features.
    pub version: MachineVersion,
    /// Whether the kernel runs the guest.
    pub kvm: bool,
    /// `bootindex` by device.
    pub boot: BTreeMap<String, u32>,
    /// Options of the machine.
    pub command: Vec<String>,
    /// Options of devices.
    pub devices: Vec<String>,
    pub machine_flags: Vec<String>,
    pub rtc_flags: Vec<String>,
    /// PCI bridges that some device is behind.
    pub bridges: BTreeSet<u8>,
    /// A graphics card of the host takes the place of the first one.
    pub has_legacy_graphics: bool,
    /// Cards get the boot code of QEMU before 2.4.
    pub has_old_boot_code: bool,
    pub warnings: Vec<String>,
    /// What is only said.
    pub notes: Vec<String>,
    pub preparations: Preparations,
    /// What follows the machine option.
    pub last: Vec<String>,
    /// The lowest revision of PVE that has all features used.
    required_revision: u32,
}

impl<'a> Builder<'a> {
    pub fn new(
        vm: Vm<'a>,
        host: &'a Host,
        volumes: &'a dyn Volumes,
        around: &'a Surroundings,
        options: &'a Options,
    ) -> Result<Self> {
        let machine = Machine::parse(vm.text("machine"))?;
        let native = host.architecture();
        let arch = vm.text("arch").map_or_else(|| native.clone(), str::to_owned);
        if !matches!(arch.as_str(), "x86_64" | "aarch64") {
            crate::bail!("unsupported architecture '{arch}'");
        }
        let is_native = arch == native;
        let mut machine_type = machine_type(&vm, &arch, &machine, host, options)?;
        let qemu = host.qemu_version()?;
        let newest =
            MachineVersion { major: qemu.major, minor: qemu.minor, pve: highest_pve_revision(qemu.major, qemu.minor) };
        let version = MachineVersion::of_type(&machine_type).unwrap_or(newest);
        let mut notes = Vec::new();
        if qemu.micro >= 90 {
            notes.push(format!(
                "warning: Installed QEMU version ({qemu}) is a release candidate, ignoring version checks"
            ));
        } else {
            check_version(&machine_type, version, host)?;
        }
        let kvm = vm.flag("kvm").unwrap_or(is_native);
        if kvm && !host.has_kvm() {
            crate::bail!(
                "KVM virtualisation configured, but not available. Either disable in VM configuration or enable in BIOS."
            );
        }
        let mut has_old_boot_code = !version.at_least(2, 4, 0);
        if let Some(base) = machine_type.strip_suffix(".pxe") {
            machine_type = base.to_owned();
            has_old_boot_code = true;
        }
        let boot = device_indices(&vm)?;
        Ok(Builder {
            vm,
            host,
            volumes,
            around,
            options,
            arch,
            is_native,
            machine,
            machine_type,
            version,
            kvm,
            boot,
            command: Vec::new(),
            devices: Vec::new(),
            machine_flags: Vec::new(),
            rtc_flags: Vec::new(),
            bridges: BTreeSet::new(),
            has_legacy_graphics: false,
            has_old_boot_code,
            warnings: Vec::new(),
            notes,
            preparations: Preparations::default(),
            last: Vec::new(),
            required_revision: 0,
        })
    }

    /// Adds an option of the machine with its value.
    pub fn option(&mut self, option: &str, value: impl Into<String>) {
        self.command.extend([option.to_owned(), value.into()]);
    }

    /// Adds an option of a device with its value.
    pub fn device_option(&mut self, option: &str, value: impl Into<String>) {
        self.devices.extend([option.to_owned(), value.into()]);
    }

    /// Adds a device.
    pub fn device(&mut self, value: impl Into<String>) {
        self.device_option("-device", value);
    }

    /// Whether the machine has the features of a version.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        self.version.at_least(major, minor, 0)
    }

    /// As [`Builder::at_least`] for a revision; the machine type will name the revision when it matters.
    pub fn uses(&mut self, major: u32, minor: u32, pve: u32) -> bool {
        if !self.version.at_least(major, minor, pve) {
            return false;
        }
        let is_newer = self.version.at_least(major, minor, highest_pve_revision(major, minor) + 1);
        if !is_newer {
            self.required_revision = self.required_revision.max(pve);
        }
        true
    }

    /// `,bootindex=N` for a device that the VM boots from.
    pub fn boot_index(&self, device: &str) -> String {
        self.boot.get(device).map(|index| format!(",bootindex={index}")).unwrap_or_default()
    }

    /// The machine type with the lowest revision that will do.
    pub fn final_machine_type(&self) -> String {
        let base = self.machine_type.rsplit_once("+pve").map_or(self.machine_type.as_str(), |(base, _)| base);
        format!("{base}+pve{}", self.required_revision)
    }

    /// Whether the guest has ARM processors.
    pub fn is_arm(&self) -> bool {
        self.arch == "aarch64"
    }

    /// Whether the machine is one of ARM's, without the devices of a PC.
    pub fn is_virt(&self) -> bool {
        self.machine_type.starts_with("virt")
    }

    /// Whether the firmware is UEFI.
    pub fn is_uefi(&self) -> bool {
        self.vm.text("bios") == Some("ovmf")
    }

    /// Whether the Q35 chipset is used.
    pub fn is_q35(&self) -> bool {
        self.machine.is_q35()
    }

    /// The file of the VM with an ending, for example its `qmp` socket.
    pub fn run_file(&self, ending: &str) -> String {
        format!("{}/{}.{ending}", self.options.paths.run, self.vm.vmid)
    }

    /// Joins the two runs.
    pub fn finish(self) -> Plan {
        let mut command = self.command;
        command.extend(self.devices);
        if !self.rtc_flags.is_empty() {
            command.extend(["-rtc".to_owned(), self.rtc_flags.join(",")]);
        }
        command.extend(["-machine".to_owned(), self.machine_flags.join(",")]);
        command.extend(self.last);
        command.extend(split_words(self.vm.text("args").unwrap_or_default()));
        Plan { command, warnings: self.warnings, notes: self.notes, preparations: self.preparations }
    }
}

fn check_version(machine_type: &str, version: MachineVersion, host: &Host) -> Result<()> {
    let qemu = host.qemu_version()?;
    let node = host.node_name();
    if !qemu.at_least(version.major, version.minor) {
        crate::bail!(
            "Installed QEMU version '{qemu}' is too old to run machine type '{machine_type}', please upgrade node \
             '{node}'"
        );
    }
    let (major, minor) = (version.major, version.minor);
    let highest = highest_pve_revision(major, minor);
    if version.pve > highest {
        crate::bail!(
            "Installed qemu-server (max feature level for {major}.{minor} is pve{highest}) is too old to run machine \
             type '{machine_type}', please upgrade node '{node}'"
        );
    }
    Ok(())
}

/// The machine type with a revision. (PVE: Machine.pm, get_vm_machine)
fn machine_type(vm: &Vm, arch: &str, machine: &Machine, host: &Host, options: &Options) -> Result<String> {
    let default = || if arch == "aarch64" { "virt" } else { "pc" }.to_owned();
    let configured = options.machine.clone().or_else(|| machine.configured_type()).unwrap_or_else(default);
    let qemu = host.qemu_version()?;
    let revision = highest_pve_revision(qemu.major, qemu.minor);
    let mut name = configured.clone();
    if matches!(configured.as_str(), "pc" | "q35" | "virt") {
        name = match vm.windows() {
            0 => format!("{configured}+pve{revision}"),
            _ => windows_machine(vm, &configured, qemu)?,
        };
    }
    let (base, pxe) = name.strip_suffix(".pxe").map_or((name.as_str(), ""), |base| (base, ".pxe"));
    Ok(if base.contains("+pve") { name } else { format!("{base}+pve0{pxe}") })
}

/// Windows keeps the version that it was installed with. (PVE: Machine.pm, windows_get_pinned_machine_version)
fn windows_machine(vm: &Vm, base: &str, qemu: &crate::host::QemuVersion) -> Result<String> {
    let meta = vm.properties("~pve-qm-meta", "meta")?;
    let created = meta.and_then(|meta| meta.text("creation-qemu")).and_then(|text| {
        let mut numbers = text.split('.').map(|number| number.parse::<u32>().ok());
        Some((numbers.next()??, numbers.next()??))
    });
    let (major, minor) = created.filter(|version| *version >= (9, 1)).unwrap_or((5, 1));
    let version = if qemu.at_least(major, minor) { format!("{major}.{minor}") } else { newest_machine_version(qemu) };
    Ok(pinned_machine(base, &version))
}

/// `pc` at a version is `pc-i440fx-VERSION`.
fn pinned_machine(base: &str, version: &str) -> String {
    match base {
        "pc" => format!("pc-i440fx-{version}"),
        "virt" => format!("virt-{version}"),
        other => format!("pc-{other}-{version}"),
    }
}

/// The newest version of the installed QEMU with its newest revision.
fn newest_machine_version(qemu: &crate::host::QemuVersion) -> String {
    let pve = highest_pve_revision(qemu.major, qemu.minor);
    MachineVersion { major: qemu.major, minor: qemu.minor, pve }.to_string()
}

/// The type that a new Windows VM is pinned to, `None` for other systems or when a version is configured.
pub fn pin_for_windows(vm: &Vm, machine: &Machine, host: &Host) -> Result<Option<String>> {
    let is_arm = vm.text("arch").map_or_else(|| host.architecture(), str::to_owned) == "aarch64";
    let default = || if is_arm { "virt" } else { "pc" }.to_owned();
    let configured = machine.configured_type().unwrap_or_else(default);
    if vm.windows() == 0 || !matches!(configured.as_str(), "pc" | "q35" | "virt") {
        return Ok(None);
    }
    Ok(Some(pinned_machine(&configured, &newest_machine_version(host.qemu_version()?))))
}

/// JSON with sorted keys, as QEMU is given block devices.
pub(super) fn canonical_json(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            let members: Vec<String> = sorted
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::String(key.clone()), canonical_json(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical_json).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// Doubles commas: inside a value QEMU takes one comma as the end.
pub(super) fn escape_commas(value: &str) -> String {
    value.replace(',', ",,")
}

/// Splits as a shell would, with quotes and backslashes, without expanding anything.
fn split_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(open), c) if c == open => quote = None,
            (None | Some('"'), '\\') => word.get_or_insert_default().extend(chars.next()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A failure with a text of our own.
pub(super) fn fail<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn args_are_split_as_a_shell_would() {
        assert_eq!(
            split_words(r#"-append "console=ttyS0 x='1'" a\ b '' "#),
            ["-append", "console=ttyS0 x='1'", "a b", ""]
        );
        assert!(split_words("  ").is_empty());
    }

    #[test]
    fn json_has_sorted_keys() {
        assert_eq!(
            canonical_json(&json!({"b": [1, {"d": true, "c": "x"}], "a": null})),
            r#"{"a":null,"b":[1,{"c":"x","d":true}]}"#
        );
    }
}
