//! `/nodes/{node}/capabilities/qemu`: what virtual machines can have here.
//!
//! PVE's lists, cut down to what the installed QEMU knows: a choice that could not be started is not offered.
//! (PVE: qemu-server API2/Qemu/{CPU,CPUFlags,Machine}.pm, API2/NodeCapabilities/Qemu/Migration.pm)

use super::command_line::{BUILT_IN_MODELS, cpu_vendor};
use super::config::{MachineVersion, highest_pve_revision};
use super::cpu_models;
use crate::{Call, Context, Error, Reply, Result, access, error::ResultExt};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

/// The architecture whose machines can be started.
const ARCHITECTURE: &str = "x86_64";

/// Flags that a VM may switch, with a word on each. (PVE: CPUFlags.pm)
const FLAGS: [(&str, &str); 13] = [
    ("nested-virt", "Virtual machines inside the VM: 'svm' of AMD or 'vmx' of Intel, whichever the host has."),
    ("aes", "Encryption by AES in hardware."),
    ("amd-no-ssb", "Tells the guest that an AMD host does not suffer from Speculative Store Bypass."),
    ("amd-ssbd", "Faster protection against Speculative Store Bypass on AMD, best together with 'virt-ssbd'."),
    ("hv-evmcs", "Faster nested virtualization for Windows, on Intel only."),
    ("hv-tlbflush", "Faster Windows guests on busy hosts; old processors may crash with it."),
    ("ibpb", "Better protection against Spectre on AMD."),
    ("md-clear", "Tells the guest that microcode clears buffers against MDS."),
    ("pcid", "Makes the protection against Meltdown cheaper on older Intel processors."),
    ("pdpe1gb", "Pages of 1 GiB, if the host has them."),
    ("spec-ctrl", "Better protection against Spectre on Intel."),
    ("ssbd", "Protection against Speculative Store Bypass on Intel."),
    ("virt-ssbd", "Base of the protection against Speculative Store Bypass on AMD."),
];

fn architecture(call: &Call) -> Result<String> {
    Ok(call.opt("arch")?.unwrap_or_else(|| call.ctx.host.architecture()))
}

/// `GET …/machines`.
pub fn machines(call: &Call) -> Result<Reply> {
    let what = || "could not load supported machine versions";
    let architecture = architecture(call)?;
    if architecture != ARCHITECTURE {
        return Err(Error::new(format!("no QEMU for {architecture} is installed"))).context(what);
    }
    let help = call.ctx.host.qemu_help(&call.ctx.root, "machine").context(what)?;
    Ok(Reply::from(Value::Array(machine_rows(&help))))
}

/// The versioned PC types of `-machine help` and PVE's revisions of them, newest first.
fn machine_rows(help: &str) -> Vec<Value> {
    let names = help.lines().filter_map(|line| line.split_ascii_whitespace().next());
    let known = names.filter_map(|name| {
        let (kind, version) = name.strip_prefix("pc-")?.split_once('-')?;
        let parsed = MachineVersion::of_type(name)?;
        ["i440fx", "q35"].contains(&kind).then_some((parsed, kind, version))
    });
    let known: Vec<_> = known.collect();
    let mut rows: Vec<(MachineVersion, Value)> = Vec::new();
    for (parsed, kind, version) in &known {
        rows.push((*parsed, json!({"id": format!("pc-{kind}-{version}"), "type": kind, "version": version})));
    }
    for (parsed, kind, version) in &known {
        for pve in 1..=highest_pve_revision(parsed.major, parsed.minor) {
            let parsed = MachineVersion { pve, ..*parsed };
            let version = format!("{version}+pve{pve}");
            let mut row = json!({"id": format!("pc-{kind}-{version}"), "type": kind, "version": version});
            if let Some(changes) = revision_changes(parsed) {
                row["changes"] = changes.into();
            }
            rows.push((parsed, row));
        }
    }
    rows.sort_by_key(|(version, _)| Reverse(*version));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// What is new in a revision. (PVE: Machine.pm)
fn revision_changes(version: MachineVersion) -> Option<&'static str> {
    Some(match (version.major, version.minor, version.pve) {
        (4, 1, 1) => "First machine type with a revision; nothing else is new.",
        (4, 1, 2) => "More SCSI drives.",
        (9, 2, 1) => "Without the power states S3 and S4 unless configured.",
        (10, 0, 1) => "Network cards name the host's MTU even if it is the default.",
        (11, 0, 1) => "VirtIO network cards without offloading for tunnels.",
        (11, 0, 2) => "Windows 11, 2022 and 2025 with hv-evmcs.",
        _ => return None,
    })
}

/// `GET …/cpu`.
pub fn models(call: &Call) -> Result<Reply> {
    if architecture(call)? != ARCHITECTURE {
        return Ok(Reply::from(json!([])));
    }
    let help = call.ctx.host.qemu_help(&call.ctx.root, "cpu")?;
    let mut rows = model_rows(&help);
    for (name, values) in cpu_models::values(call.ctx)? {
        let reported = values.get("reported-model").map_or("kvm64", String::as_str);
        let may_see = access::has_any(call.ctx, &format!("/mapping/cpu/{name}"), &cpu_models::VISIBLE)
            || access::has(call.ctx, "/nodes", &["Sys.Audit"]);
        if may_see {
            let vendor = cpu_vendor(reported).unwrap_or("default");
            rows.push(json!({"name": format!("custom-{name}"), "custom": 1, "vendor": vendor}));
        }
    }
    Ok(Reply::from(Value::Array(rows)))
}

/// PVE's models that `-cpu help` lists, and those that PVE puts together itself.
fn model_rows(help: &str) -> Vec<Value> {
    let words = help.lines().filter_map(|line| line.strip_prefix("x86 ")?.split_ascii_whitespace().next());
    let known: BTreeSet<&str> = words.collect();
    let format = contract::property_string::format("pve-vm-cpu-conf");
    let names = format.and_then(|format| format.keys.get("reported-model")?.enumeration.as_ref());
    let vendor = |name: &str| cpu_vendor(name).unwrap_or("default");
    // These are started as the server models.
    let started_as = |name: &str| name.replace("Icelake-Client", "Icelake-Server");
    let real = names.into_iter().flatten().filter(|name| known.contains(started_as(name).as_str()));
    let real = real.map(|name| json!({"name": name, "custom": 0, "vendor": vendor(name)}));
    let abstract_ones = BUILT_IN_MODELS.iter().filter(|_| known.contains("qemu64"));
    let abstract_ones =
        abstract_ones.map(|(name, _)| json!({"name": name, "custom": 0, "abstract": 1, "vendor": vendor("qemu64")}));
    real.chain(abstract_ones).collect()
}

/// `GET …/cpu-flags`.
pub fn flags(call: &Call) -> Result<Reply> {
    if architecture(call)? != ARCHITECTURE {
        return Ok(Reply::from(json!([])));
    }
    let kvm = call.text("accel").as_deref() != Some("tcg");
    let supported = supported_flags(call.ctx, kvm)?;
    Ok(Reply::from(Value::Array(flag_rows(&call.ctx.node, &supported))))
}

/// `GET /cluster/qemu/cpu-flags`: all flags that QEMU understands, for models of the administrator's own making.
pub fn all_flags(call: &Call) -> Result<Reply> {
    if architecture(call)? != ARCHITECTURE {
        return Ok(Reply::from(json!([])));
    }
    let kvm = call.text("accel").as_deref() != Some("tcg");
    let supported = supported_flags(call.ctx, kvm)?;
    let help = call.ctx.host.qemu_help(&call.ctx.root, "cpu")?;
    Ok(Reply::from(Value::Array(understood_rows(&call.ctx.node, &help, &supported))))
}

/// The flags below the heading of `-cpu help`, in the order of [`flag_rows`].
fn understood_rows(node: &str, help: &str, supported: &BTreeSet<String>) -> Vec<Value> {
    let listed = help.lines().skip_while(|line| !line.starts_with("Recognized CPUID flags")).skip(1);
    let mut names: BTreeSet<&str> = listed.flat_map(str::split_ascii_whitespace).collect();
    names.insert("nested-virt");
    let is_supported = |name: &str| match name {
        "nested-virt" => supported.contains("svm") || supported.contains("vmx"),
        name => supported.contains(name),
    };
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_key(|name| (*name != "nested-virt", !is_supported(name), *name));
    let row = |name: &str| {
        let nodes = if is_supported(name) { vec![node] } else { Vec::new() };
        let mut row = json!({"name": name, "supported-on": nodes});
        let text = FLAGS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text);
        if let Some(text) = text.or_else(|| ["svm", "vmx"].contains(&name).then_some("Better use 'nested-virt'.")) {
            row["description"] = text.into();
        }
        row
    };
    names.into_iter().map(row).collect()
}

/// `nested-virt` first, then what the node supports, then the rest.
fn flag_rows(node: &str, supported: &BTreeSet<String>) -> Vec<Value> {
    let is_supported = |name: &str| match name {
        "nested-virt" => supported.contains("svm") || supported.contains("vmx"),
        name => supported.contains(name),
    };
    let mut flags = FLAGS;
    flags.sort_by_key(|(name, _)| (*name != "nested-virt", !is_supported(name), *name));
    flags
        .iter()
        .map(|(name, text)| {
            let nodes = if is_supported(name) { vec![node] } else { Vec::new() };
            json!({"name": name, "description": text, "supported-on": nodes})
        })
        .collect()
}

/// The flags that QEMU can give to guests of this host. Without KVM there are none for it.
fn supported_flags(ctx: &Context, kvm: bool) -> Result<BTreeSet<String>> {
    if kvm && !ctx.host.has_kvm() {
        return Ok(BTreeSet::new());
    }
    let name = if kvm { "flags-kvm" } else { "flags-tcg" };
    let text = ctx.host.remember(&ctx.root, name, || ask_for_flags(ctx.host.qemu_program(), kvm))?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Starts QEMU without a machine and asks it. (PVE: QemuServer.pm, query_supported_cpu_flags)
fn ask_for_flags(program: &str, kvm: bool) -> Result<String> {
    let what = || "unable to ask QEMU for its CPU flags";
    let (machine, model) = match kvm {
        true => ("none,accel=kvm", json!({"name": "host", "props": {"hv-passthrough": true}})),
        false => ("none,accel=tcg", json!({"name": "max"})),
    };
    // It is asked three things at once and ends by itself after the last one; `timeout` ends one that hangs.
    let mut child = Command::new("timeout")
        .args(["--kill-after=2", "10", program, "-S", "-nodefaults", "-no-user-config", "-display", "none"])
        .args(["-machine", machine, "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(what)?;
    let expansion = json!({"type": "full", "model": model});
    let requests = [
        json!({"execute": "qmp_capabilities"}),
        json!({"execute": "query-cpu-model-expansion", "arguments": expansion}),
        json!({"execute": "quit"}),
    ];
    let text: String = requests.iter().map(|request| format!("{request}\n")).collect();
    // One that does not start reads nothing; its missing answer is the error then.
    let mut stdin = child.stdin.take();
    let _ = stdin.as_mut().map(|stdin| stdin.write_all(text.as_bytes()));
    let lines = child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines().map_while(|l| l.ok()));
    let answer = lines.filter_map(|line| serde_json::from_str(&line).ok()).find_map(|answer: Value| {
        let properties = answer["return"]["model"]["props"].as_object()?;
        let on = properties.iter().filter(|(_, value)| **value == Value::Bool(true));
        Some(on.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "))
    });
    drop(stdin);
    child.wait().context(what)?;
    answer.ok_or_else(|| Error::new(what()))
}

/// `GET …/migration`. Nothing here carries state over a bus from one node to another.
pub fn migration(_: &Call) -> Result<Reply> {
    Ok(Reply::from(json!({"has-dbus-vmstate": false})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_versioned_and_newest_first() {
        let help = "Supported machines are:\nmicrovm  microvm (i386)\npc  Standard PC (alias of pc-i440fx-9.2)\n\
            pc-i440fx-4.1  Standard PC\npc-i440fx-9.2  Standard PC (default)\npc-q35-9.2  Standard PC\n\
            pc-q35-4.0.1  Standard PC\nisapc  ISA-only PC\n";
        let rows = machine_rows(help);
        let ids: Vec<&str> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
        let revised = ["pc-i440fx-9.2+pve1", "pc-q35-9.2+pve1", "pc-i440fx-9.2", "pc-q35-9.2"];
        let older = ["pc-i440fx-4.1+pve2", "pc-i440fx-4.1+pve1", "pc-i440fx-4.1", "pc-q35-4.0.1"];
        assert_eq!(ids, [revised, older].concat());
        assert_eq!((&rows[1]["type"], &rows[1]["version"]), (&json!("q35"), &json!("9.2+pve1")));
        assert!(rows.iter().all(|row| row.get("changes").is_some() == row["id"].as_str().unwrap().contains("+pve")));
    }

    #[test]
    fn only_models_that_qemu_knows_are_offered() {
        let rows = model_rows(
            "Available CPUs:\nx86 EPYC  (alias)\nx86 n270  Atom\nx86 qemu64  x\nx86 host  y\nx86 Icelake-Server\n",
        );
        let vendor = |name: &str| rows.iter().find(|row| row["name"] == name).map(|row| row["vendor"].clone());
        assert_eq!(vendor("EPYC"), Some(json!("AuthenticAMD")));
        assert_eq!(vendor("Icelake-Client"), Some(json!("GenuineIntel")));
        assert_eq!((vendor("host"), vendor("x86-64-v3")), (Some(json!("default")), Some(json!("default"))));
        assert_eq!((vendor("EPYC-Turin"), vendor("n270"), vendor("cortex-a53")), (None, None, None));
        assert_eq!(rows.iter().filter(|row| row["abstract"] == 1).count(), 4);
    }

    #[test]
    fn all_understood_flags_are_listed() {
        let help = "Available CPUs:\nx86 n270\n\nRecognized CPUID flags:\n  aes avx\n  svm vmx\n";
        let rows = understood_rows("pve1", help, &["svm", "avx"].map(str::to_owned).into());
        let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
        assert_eq!(names, ["nested-virt", "avx", "svm", "aes", "vmx"]);
        assert_eq!(rows[0]["supported-on"], json!(["pve1"]));
    }

    #[test]
    fn supported_flags_follow_nested_virtualization() {
        let rows = flag_rows("pve1", &["vmx", "pcid"].map(str::to_owned).into());
        let names: Vec<&str> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
        assert_eq!(names[..3], ["nested-virt", "pcid", "aes"]);
        assert_eq!((&rows[0]["supported-on"], &rows[2]["supported-on"]), (&json!(["pve1"]), &json!([])));
        assert_eq!(rows.len(), FLAGS.len());
    }

    #[test]
    fn the_installed_qemu_names_its_flags() {
        if !std::path::Path::new("/usr/bin/qemu-system-x86_64").exists() {
            return;
        }
        let flags = ask_for_flags("/usr/bin/qemu-system-x86_64", false).unwrap();
        assert!(flags.split(' ').any(|flag| flag == "aes"), "{flags}");
        assert!(ask_for_flags("/bin/false", false).is_err());
    }
}
