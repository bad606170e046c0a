//! Processors: how many, which model, which flags. (PVE: qemu-server CPUConfig.pm)

use super::builder::{Builder, fail};
use crate::Result;
use crate::qemu::config::Properties;
use std::collections::BTreeMap;

/// A flag's sign and value: `+aes`, `kvm=off`, `enforce`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Flag {
    sign: &'static str,
    value: Option<String>,
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
        let model = basic_model(&configured(builder)?, builder.kvm).0;
        for number in 2..=vcpus {
            let core = (number - 1) % cores;
            let socket = (number - 1 - core) / cores;
            let device = format!("{model}-x86_64-cpu,id=cpu{number},socket-id={socket},core-id={core},thread-id=0");
            builder.option("-device", device);
        }
    }
    Ok(())
}

fn configured(builder: &Builder) -> Result<Properties> {
    let cpu = builder.vm.properties("pve-vm-cpu-conf", "cpu")?.unwrap_or_default();
    match cpu.text("cputype") {
        Some(model) if model.starts_with("custom-") => fail(format!("option 'cpu: {model}' is not supported yet")),
        _ => Ok(cpu),
    }
}

/// QEMU's model for a configured one, and the flags that come with it.
fn basic_model(cpu: &Properties, kvm: bool) -> (String, Option<&'static str>) {
    let Some(model) = cpu.text("cputype") else { return (if kvm { "kvm64" } else { "qemu64" }.to_owned(), None) };
    if let Some((_, flags)) = BUILT_IN.iter().find(|(name, _)| *name == model) {
        return ("qemu64".into(), Some(flags));
    }
    // There never was a client processor of that name.
    (model.replace("Icelake-Client", "Icelake-Server"), None)
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
pub(super) fn model(builder: &mut Builder) -> Result<()> {
    if let Some(forced) = &builder.options.cpu {
        let forced = forced.clone();
        builder.option("-cpu", forced);
        return Ok(());
    }
    let cpu = configured(builder)?;
    let (model, built_in) = basic_model(&cpu, builder.kvm);
    let mut flags = default_flags(builder, &model);
    flags.extend(hyperv_flags(builder, &cpu));
    flags.extend(built_in.iter().flat_map(|list| list.split(';')).map(|name| (name.to_owned(), on())));
    add_configured_flags(builder, &cpu, &mut flags);
    if builder.kvm && model != "host" {
        flags.insert("enforce".into(), Flag::default());
    }
    if cpu.is_on("hidden") {
        flags.insert("kvm".into(), set("off"));
    }
    if let Some(vendor) = vendor(&model) {
        flags.insert("vendor".into(), set(vendor));
    }
    let mut text = model;
    if let Some(level) = cpu.text("level") {
        text += &format!(",level={level}");
    }
    for (name, flag) in &flags {
        text += &format!(",{}{name}", flag.sign);
        if let Some(value) = &flag.value {
            text += &format!("={value}");
        }
    }
    if let Some(bits) = cpu.text("guest-phys-bits") {
        text += &format!(",guest-phys-bits={bits}");
    }
    match cpu.text("phys-bits").as_deref() {
        Some("host") => text += ",host-phys-bits=true",
        Some(bits) => text += &format!(",phys-bits={bits}"),
        None => {}
    }
    builder.option("-cpu", text);
    Ok(())
}

fn on() -> Flag {
    Flag { sign: "+", value: None }
}

fn off() -> Flag {
    Flag { sign: "-", value: None }
}

fn set(value: &str) -> Flag {
    Flag { sign: "", value: Some(value.to_owned()) }
}

/// Flags that certain models and systems need. (PVE: CPUConfig.pm, get_pve_cpu_flags)
fn default_flags(builder: &mut Builder, model: &str) -> Flags {
    let mut flags = Flags::new();
    if model == "kvm64" {
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
    if builder.uses(2, 3, 0) && builder.kvm {
        flags.insert("kvm_pv_unhalt".into(), on());
        flags.insert("kvm_pv_eoi".into(), on());
    }
    let is_new = builder.host.qemu_version().is_ok_and(|qemu| qemu.at_least(11, 0));
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
fn hyperv_flags(builder: &mut Builder, cpu: &Properties) -> Flags {
    let windows = builder.vm.windows();
    let mut flags = Flags::new();
    if !builder.kvm || windows < 6 || (windows < 8 && builder.vm.text("bios") == Some("ovmf")) {
        return flags;
    }
    if let Some(vendor) = cpu.text("hv-vendor-id") {
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

/// `+aes;-pcid` of the option; `nested-virt` is the flag that the host has for it.
fn add_configured_flags(builder: &mut Builder, cpu: &Properties, flags: &mut Flags) {
    for flag in cpu.text("flags").unwrap_or_default().split(';').filter(|flag| !flag.is_empty()) {
        let (flag_of, name) = match flag.strip_prefix('-') {
            Some(name) => (off(), name),
            None => (on(), flag.trim_start_matches('+')),
        };
        if name != "nested-virt" {
            flags.insert(name.to_owned(), flag_of);
        } else if let Some(nested) = ["svm", "vmx"].into_iter().find(|nested| builder.host.has_cpu_flag(nested)) {
            flags.insert(nested.to_owned(), flag_of);
        } else {
            builder.warnings.push("ignoring 'nested-virt' CPU flag - unable to resolve from host CPU flags".into());
        }
    }
}
