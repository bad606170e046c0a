//! Golden command lines: each `cases/NAME.conf` is a VM, `cases/NAME.cmd` what is printed for it.
//!
//! The first line of a case may replace host facts: `#facts {"qemu_version":"10.1.2"}`. Run the tests with
//! `UPDATE_GOLDEN=1` to rewrite the `.cmd` files, and read the difference before it is committed.

use super::*;
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::VolumeId;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Volumes that exist because the test says so.
struct Assumed;

impl Volumes for Assumed {
    fn path(&self, volume: &VolumeId) -> Result<String> {
        Ok(match volume.storage.as_str() {
            "lvm" => format!("/dev/vg/{}", volume.name),
            _ if volume.name.starts_with("iso/") => format!("/var/lib/vz/template/{}", volume.name),
            _ => format!("/var/lib/vz/images/{}", volume.name),
        })
    }

    fn format(&self, volume: &VolumeId) -> Result<String> {
        Ok(format_of_name(&volume.name).to_owned())
    }

    fn is_iso(&self, volume: &VolumeId) -> bool {
        volume.name.starts_with("iso/")
    }

    fn traits(&self, storage: &str) -> StorageTraits {
        let kind = if storage == "lvm" { "lvm" } else { "dir" };
        StorageTraits { kind: kind.into(), ..StorageTraits::default() }
    }

    fn is_device(&self, path: &str) -> Result<bool> {
        Ok(path.starts_with("/dev/"))
    }
}

fn facts(text: &str) -> Map<String, Value> {
    let mut facts = json!({
        "nodename": "pve1", "qemu_version": "10.1.2", "host_arch": "x86_64", "cpu_vendor": "GenuineIntel", "cpu_count": 16,
        "phys_address_bits": 46, "vhost_net": true, "iscsi_initiator": "iqn.1993-08.org.debian:01:aabbccdd",
        "cdrom_path": "/dev/cdrom", "bridges": {"vmbr0": 1500, "jumbo": 9000}, "numa_nodes": 2,
    })
    .as_object()
    .unwrap()
    .clone();
    if let Some(line) = text.lines().next().and_then(|line| line.strip_prefix("#facts ")) {
        facts.extend(serde_json::from_str::<Map<String, Value>>(line).unwrap());
    }
    facts
}

/// What is printed for a case: the command line, warnings, or the refusal.
fn printed(text: &str) -> String {
    let host = Host::with_overrides(facts(text));
    let config = GuestConfig::parse(GuestKind::Qemu, text);
    let vm = Vm::new("8006".parse().unwrap(), &config.current);
    let paths = Paths { run: "/var/run/qemu-server".into(), events: "/var/run/qmeventd.sock".into() };
    let options = Options { paths, machine: None, cpu: None };
    match plan(vm, &host, &Assumed, &options) {
        Ok(plan) => {
            let warnings: String = plan.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            format!("{warnings}{}\n", to_pretty_text(&plan.command))
        }
        Err(error) => format!("error: {error}\n"),
    }
}

#[test]
fn command_lines_are_the_golden_ones() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/qemu/command_line/cases");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    cases.sort();
    assert!(cases.len() > 5, "the cases are where they are looked for");
    let mut wrong = Vec::new();
    for case in cases {
        let found = printed(&std::fs::read_to_string(&case).unwrap());
        let golden = case.with_extension("cmd");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        if found != expected {
            wrong.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "not as golden:\n{}", wrong.join("\n"));
}

#[test]
fn texts_for_a_shell_are_quoted() {
    let words = ["kvm", "-append", "a b", "it's", "-x", "", "a=b"].map(str::to_owned);
    assert_eq!(to_text(&words), r"kvm -append 'a b' 'it'\''s' -x '' 'a=b'");
    assert_eq!(to_pretty_text(&words[..3]), "kvm \\\n  -append 'a b'");
    assert_eq!(to_text(&["'x'".to_owned()]), r"\''x'\'");
}
