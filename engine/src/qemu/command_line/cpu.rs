//! Processors: how many, which model, which flags. (PVE: qemu-server CPUConfig.pm)

use super::builder::{Builder, fail};
use super::custom_cpu::CustomModel;
use super::hostpci::Passed;
use crate::Result;
use crate::qemu::config::Properties;
use std::collections::BTreeMap;

/// A flag's sign and value: `+aes`, `kvm=off`, `enforce`; and why it is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Flag {
    sign: &'static str,
    value: Option<String>,
    reason: String,
}

type Flags = BTreeMap<String, Flag>;

/// Flags of the models that PVE puts together from a basic one.
pub(in crate::qemu) const BUILT_IN: [(&str, &str); 4] = [
    ("x86-64-v2", "popcnt;pni;sse4.1;sse4.2;ssse3"),
    ("x86-64-v2-AES", "aes;popcnt;pni;sse4.1;sse4.2;ssse3"),
    ("x86-64-v3", "aes;popcnt;pni;sse4.1;sse4.2;ssse3;avx;avx2;bmi1;bmi2;f16c;fma;abm;movbe;xsave"),
    (
        "x86-64-v4",
        "aes;popcnt;pni;sse4.1;sse4.2;ssse3;avx;avx2;bmi1;bmi2;f16c;fma;abm;movbe;xsave;avx512f;avx512bw;avx512cd;\
         avx512dq;avx512vl",
    ),
];

/// Sockets, cores, and processors that can be added later.
pub(super) fn topology(builder: &mut Builder) -> Result<()> {
    let (sockets, cores, vcpus) = (builder.vm.sockets(), builder.vm.cores(), builder.vm.vcpus());
    let most = sockets * cores;
    let allowed = builder.host.cpu_count();
    if allowed < most {
        return fail(format!("MAX {allowed} vcpus allowed per VM on this node"));
    }
    let can_grow = builder.vm.hotplug().cpu && builder.at_least(2, 7);
    let first = if can_grow { 1 } else { vcpus };
    builder.option("-smp", format!("{first},sockets={sockets},cores={cores},maxcpus={most}"));
    if can_grow {
        if vcpus > 1 && builder.is_arm() {
            return fail("Hotplug of non x86_64 CPU not yet supported");
        }
        let model = Model::configured(builder)?.name;
        for number in 2..=vcpus {
            let core = (number - 1) % cores;
            let socket = (number - 1 - core) / cores;
            let device = format!("{model}-x86_64-cpu,id=cpu{number},socket-id={socket},core-id={core},thread-id=0");
            builder.option("-device", device);
        }
    }
    Ok(())
}

/// QEMU's model for the configured one, and what comes with it.
struct Model {
    /// QEMU's name.
    name: String,
    /// Flags of PVE's own models.
    built_in: Option<&'static str>,
    /// The administrator's own model.
    custom: Option<CustomModel>,
    /// The option `cpu`.
    options: Properties,
}

impl Model {
    fn configured(builder: &Builder) -> Result<Self> {
        let options = builder.vm.properties("pve-vm-cpu-conf", "cpu")?.unwrap_or_default();
        let custom = CustomModel::named(builder, &options)?;
        let wanted = match (&custom, options.text("cputype")) {
            (Some(custom), _) => custom.reported(),
            (None, Some(name)) => name,
            (None, None) => default_model(builder).to_owned(),
        };
        let built_in = BUILT_IN.iter().find(|(name, _)| *name == wanted && !builder.is_arm()).map(|(_, flags)| *flags);
        // There never was a client processor of that name.
        let name = match built_in {
            Some(_) => "qemu64".to_owned(),
            None => wanted.replace("Icelake-Client", "Icelake-Server"),
        };
        if !exists(&name, builder) {
            return fail(format!(
                "CPU model '{name}' does not exist for configured vCPU architecture '{}'",
                builder.arch
            ));
        }
        Ok(Model { name, built_in, custom, options })
    }

    /// A value of the VM, else of the administrator's model.
    fn text(&self, key: &str) -> Option<String> {
        self.options.text(key).or_else(|| self.custom.as_ref()?.text(key).map(str::to_owned))
    }
}

fn default_model(builder: &Builder) -> &'static str {
    match (builder.is_arm(), builder.kvm) {
        (false, true) => "kvm64",
        (false, false) => "qemu64",
        (true, true) => "host",
        (true, false) => "max",
    }
}

/// Whether an architecture has a model.
fn exists(name: &str, builder: &Builder) -> bool {
    match name {
        "host" => builder.is_native,
        "max" => true,
        _ => builder.is_arm() == is_arm(name),
    }
}

fn is_arm(name: &str) -> bool {
    name == "a64fx" || name.starts_with("cortex-") || name.starts_with("neoverse-")
}

/// Whether a model has no 64-bit mode, which UEFI needs.
pub(super) fn is_32_bit(builder: &Builder) -> Result<bool> {
    if builder.is_arm() || builder.vm.text("cpu").is_none() {
        return Ok(false);
    }
    let old = ["486", "pentium", "pentium2", "pentium3", "coreduo", "athlon", "kvm32", "qemu32"];
    Ok(old.contains(&Model::configured(builder)?.name.as_str()))
}

/// The vendor that a model shows; `None` for those that show the host's.
pub(in crate::qemu) fn vendor(model: &str) -> Option<&'static str> {
    match model {
        "host" | "max" | "kvm32" | "kvm64" | "qemu32" | "qemu64" => None,
        "athlon" | "phenom" => Some("AuthenticAMD"),
        model if model.starts_with("EPYC") || model.starts_with("Opteron") => Some("AuthenticAMD"),
        _ => Some("GenuineIntel"),
    }
}

/// Model and flags.
pub(super) fn model(builder: &mut Builder, passed: Passed) -> Result<()> {
    if let Some(forced) = &builder.options.cpu {
        let forced = forced.clone();
        builder.option("-cpu", forced);
        return Ok(());
    }
    let model = Model::configured(builder)?;
    let is_x86 = !builder.is_arm();
    let mut flags = default_flags(builder, &model.name);
    flags.extend(hyperv_flags(builder, &model, passed));
    let built_in = model.built_in.iter().flat_map(|list| list.split(';')).map(|name| (name.to_owned(), on())).collect();
    merge(builder, &mut flags, built_in, "set by builtin CPU model");
    let custom = model.custom.as_ref().and_then(|custom| custom.text("flags")).unwrap_or_default().to_owned();
    let custom = configured_flags(builder, &custom);
    merge(builder, &mut flags, custom, "set by custom CPU model");
    let own = configured_flags(builder, &model.options.text("flags").unwrap_or_default());
    merge(builder, &mut flags, own, "manually set for VM");
    if builder.kvm && model.name != "host" && is_x86 {
        flags.insert("enforce".into(), Flag::default());
    }
    let is_hidden = model.options.flag("hidden").unwrap_or_else(|| {
        passed.hide_kvm || model.custom.as_ref().is_some_and(|custom| custom.text("hidden").is_some())
    });
    if is_hidden && is_x86 {
        flags.insert("kvm".into(), set("off"));
    }
    if let Some(vendor) = vendor(&model.name).filter(|_| is_x86) {
        flags.insert("vendor".into(), set(vendor));
    }
    let mut text = model.name.clone();
    match model.text("level") {
        Some(level) if is_x86 => text += &format!(",level={level}"),
        Some(_) => {
            let arch = &builder.arch;
            let note = format!("CPU 'level' property is ignored for architecture '{arch}'");
            builder.notes.push(note);
        }
        None => {}
    }
    for (name, flag) in &flags {
        text += &format!(",{}{name}", flag.sign);
        if let Some(value) = &flag.value {
            text += &format!("={value}");
        }
    }
    if let Some(bits) = model.text("guest-phys-bits") {
        text += &format!(",guest-phys-bits={bits}");
    }
    let mut bits = None;
    match model.text("phys-bits").as_deref() {
        Some("host") => {
            text += ",host-phys-bits=true";
            bits = builder.host.phys_address_bits();
        }
        Some(configured) => {
            text += &format!(",phys-bits={configured}");
            bits = configured.parse().ok();
        }
        None => {}
    }
    let has_large_pages = flags.get("pdpe1gb").is_some_and(|flag| flag.sign != "-");
    if bits > Some(40) && matches!(model.name.as_str(), "qemu64" | "kvm64") && builder.is_uefi() && !has_large_pages {
        let text = "OVMF firmware might limit CPU 'phys-bits' to 40 - enable the 'pdpe1gb' CPU flag to avoid this";
        builder.warnings.push(text.into());
    }
    builder.option("-cpu", text);
    Ok(())
}

fn on() -> Flag {
    Flag { sign: "+", ..Flag::default() }
}

fn off() -> Flag {
    Flag { sign: "-", ..Flag::default() }
}

fn set(value: &str) -> Flag {
    Flag { value: Some(value.to_owned()), ..Flag::default() }
}

/// Adds flags that stand above those before; what they change is told. (PVE: CPUConfig.pm, resolve_cpu_flags)
fn merge(builder: &mut Builder, flags: &mut Flags, more: Flags, reason: &str) {
    for (name, mut flag) in more {
        flag.reason = reason.to_owned();
        match flags.get_mut(&name) {
            Some(old) if old.sign == flag.sign && old.value == flag.value => old.reason += &format!(" & {reason}"),
            Some(old) => {
                let shown = |flag: &Flag| {
                    let reason = if flag.reason.is_empty() { default_reason(&name) } else { &flag.reason };
                    format!("'{}{name}' ({reason})", flag.sign)
                };
                builder.notes.push(format!("warning: CPU flag/setting {} overwrites {}", shown(&flag), shown(old)));
                *old = flag;
            }
            None => drop(flags.insert(name, flag)),
        }
    }
}

/// Why PVE sets a flag by itself, as it says so.
fn default_reason(name: &str) -> &'static str {
    match name {
        "lahf_lm" => "set by PVE; to support Windows 8.1+",
        "x2apic" => "set by PVE; incompatible with Solaris",
        "sep" => "set by PVE; to support Windows 8+ and improve Windows XP+",
        "rdtscp" => "set by PVE; broken on AMD Opteron",
        "kvm_pv_unhalt" => "set by PVE; to improve Linux guest spinlock performance",
        "kvm_pv_eoi" => "set by PVE; to improve Linux guest interrupt performance",
        "cet-ibt" | "cet-ss" => "set by PVE; to avoid issues with certain Windows configurations like VBS",
        "vmx-mbec" => "set by PVE; for backwards compatibility with older kernel and QEMU",
        _ => "unknown origin",
    }
}

/// Flags that certain models and systems need. (PVE: CPUConfig.pm, get_pve_cpu_flags)
fn default_flags(builder: &mut Builder, model: &str) -> Flags {
    let mut flags = Flags::new();
    let is_x86 = !builder.is_arm();
    if model == "kvm64" && is_x86 {
        flags.insert("lahf_lm".into(), on());
    }
    if builder.vm.ostype() == Some("solaris") {
        flags.insert("x2apic".into(), off());
    }
    if matches!(model, "kvm64" | "kvm32") {
        flags.insert("sep".into(), on());
    }
    if model.starts_with("Opteron") {
        flags.insert("rdtscp".into(), off());
    }
    if builder.uses(2, 3, 0) && builder.kvm && is_x86 {
        flags.insert("kvm_pv_unhalt".into(), on());
        flags.insert("kvm_pv_eoi".into(), on());
    }
    let is_new = is_x86 && builder.host.qemu_version().is_ok_and(|qemu| qemu.at_least(11, 0));
    if is_new && builder.vm.windows() >= 11 {
        flags.insert("cet-ibt".into(), off());
        flags.insert("cet-ss".into(), off());
    }
    if is_new && model == "host" && !builder.uses(11, 0, 0) {
        flags.insert("vmx-mbec".into(), off());
    }
    flags
}

/// What makes Windows run well. (PVE: CPUConfig.pm, get_hyperv_enlightenments)
fn hyperv_flags(builder: &mut Builder, model: &Model, passed: Passed) -> Flags {
    let windows = builder.vm.windows();
    let mut flags = Flags::new();
    if !builder.kvm || builder.is_arm() || windows < 6 || (windows < 8 && builder.is_uefi()) {
        return flags;
    }
    // Drivers of NVIDIA do not like the usual one.
    let vendor = model.text("hv-vendor-id").or_else(|| passed.graphics.then(|| "proxmox".to_owned()));
    if let Some(vendor) = vendor {
        flags.insert("hv_vendor_id".into(), set(&vendor));
    }
    let mut names = Vec::new();
    if builder.uses(2, 3, 0) {
        flags.insert("hv_spinlocks".into(), set("0x1fff"));
        names.extend(["hv_vapic", "hv_time"]);
    } else {
        flags.insert("hv_spinlocks".into(), set("0xffff"));
    }
    if builder.uses(2, 6, 0) {
        names.extend(["hv_reset", "hv_vpindex", "hv_runtime"]);
    }
    if windows >= 7 {
        names.push("hv_relaxed");
        if builder.uses(2, 12, 0) {
            names.extend(["hv_synic", "hv_stimer"]);
        }
        if builder.uses(3, 1, 0) {
            names.push("hv_ipi");
        }
    }
    if windows >= 11 && builder.host.cpu_vendor() == "GenuineIntel" && builder.uses(11, 0, 2) {
        names.push("hv_evmcs");
    }
    flags.extend(names.into_iter().map(|name| (name.to_owned(), Flag::default())));
    flags
}

/// `+aes;-pcid` of an option; `nested-virt` is the flag that the host has for it.
fn configured_flags(builder: &mut Builder, list: &str) -> Flags {
    let mut flags = Flags::new();
    for flag in list.split(';').filter(|flag| !flag.is_empty()) {
        let (flag_of, name) = match flag.strip_prefix('-') {
            Some(name) => (off(), name),
            None => (on(), flag.trim_start_matches('+')),
        };
        if name != "nested-virt" {
            flags.insert(name.to_owned(), flag_of);
        } else if let Some(nested) = builder.host.nested_flag() {
            builder.notes.push(format!("CPU flag '{name}' resolved to '{nested}'"));
            flags.insert(nested.to_owned(), flag_of);
        } else {
            builder.warnings.push("ignoring 'nested-virt' CPU flag - unable to resolve from host CPU flags".into());
        }
    }
    flags
}
