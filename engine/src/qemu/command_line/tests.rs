//! Golden command lines: each `cases/NAME.conf` is a VM, `cases/NAME.cmd` what is printed for it.
//!
//! The first line of a case may replace host facts: `#facts {"qemu_version":"10.1.2"}`. Run the tests with
//! `UPDATE_GOLDEN=1` to rewrite the `.cmd` files, and read the difference before it is committed.

use super::*;
use crate::config::guest::{GuestConfig, GuestKind};
use crate::mapping::Kind;
use crate::storage::VolumeId;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The storages of the cases.
const STORAGES: &str = "\
dir: local\n\tpath /var/lib/vz\n\n\
dir: chained\n\tpath /mnt/chained\n\tsnapshot-as-volume-chain 1\n\n\
lvm: lvm\n\tvgname vg\n\n\
lvmthin: thin\n\tvgname pve\n\tthinpool data\n\n\
zfspool: zfs\n\tpool tank/vm\n\n\
btrfs: btrfs\n\tpath /butter\n\n\
cifs: cifs\n\tpath /mnt/pve/cifs\n\n\
rbd: rbd\n\tmonhost 10.0.0.1 10.0.0.2\n\tpool ceph\n\tusername admin\n\n\
rbd: krbd\n\tkrbd 1\n\tpool ceph\n\tfsid 01234567-89ab-cdef-0123-456789abcdef\n\n\
iscsidirect: direct\n\tportal 10.0.0.3\n\ttarget iqn.2020-01.org.example:target\n\n\
zfs: remote\n\tportal 10.0.0.4\n\ttarget iqn.2020-01.org.example:zfs\n\n";

/// The mappings of the cases.
const PCI: &str = "card\n\tmap id=8086:10fb,iommugroup=2,node=pve1,path=0000:02:00.0\n\t\
    map id=8086:10fb,iommugroup=3,node=pve1,path=0000:03:00.0\n\tlive-migration-capable 1\n\n\
    divided\n\tmap id=8086:1912,iommugroup=4,node=pve1,path=0000:04:00.0\n\tmdev 1\n\n";
const USB: &str = "stick\n\tmap id=046d:c52b,node=pve1\n\nport\n\tmap id=046d:c52b,node=pve1,path=1-2.3\n\n";

/// Volumes that exist because the test says so.
struct Assumed {
    host: Host,
}

impl Assumed {
    fn entry(&self, storage: &str) -> crate::storage::Entry {
        let sections = crate::config::SectionConfig::parse(STORAGES).sections;
        let section = sections.get(storage).unwrap_or_else(|| panic!("no storage '{storage}' in the cases"));
        let mut entry = crate::storage::Entry::new(&section.kind);
        for (key, value) in &section.values {
            entry.set(key, value.clone());
        }
        entry
    }

    fn place(&self, volume: &VolumeId) -> source::Place {
        let entry = self.entry(&volume.storage);
        let root = crate::Root::new("/nowhere");
        let facts = source::Facts { root: &root, host: &self.host };
        let path = entry.get("path").unwrap_or_default();
        source::place(&entry, volume, &facts).unwrap().unwrap_or_else(|| {
            source::Place::File(match volume.name.starts_with("iso/") {
                true => format!("{path}/template/{}", volume.name),
                false => format!("{path}/images/{}", volume.name),
            })
        })
    }
}

impl Volumes for Assumed {
    fn path(&self, volume: &VolumeId) -> Result<String> {
        Ok(self.place(volume).drive_text())
    }

    fn node(&self, volume: &VolumeId) -> Result<Map<String, Value>> {
        self.place(volume).node(|path| self.is_device(path))
    }

    fn format(&self, volume: &VolumeId) -> Result<String> {
        Ok(format_of_name(&volume.name).to_owned())
    }

    fn is_iso(&self, volume: &VolumeId) -> bool {
        volume.name.starts_with("iso/")
    }

    fn traits(&self, storage: &str) -> StorageTraits {
        StorageTraits::of(&self.entry(storage))
    }

    fn is_device(&self, path: &str) -> Result<bool> {
        Ok(path.starts_with("/dev/"))
    }

    fn chain(&self, volume: &VolumeId) -> Result<Vec<Layer>> {
        let snapshots = self.host.replaced("volume_snapshots").cloned().unwrap_or_default();
        Ok(volumes::replaced_chain(&snapshots[volume.to_string()]))
    }
}

/// The facts of a case's host.
pub(super) fn facts(text: &str) -> Map<String, Value> {
    let mut facts = json!({
        "nodename": "pve1", "qemu_version": "10.1.2", "host_arch": "x86_64", "cpu_vendor": "GenuineIntel", "cpu_count": 16,
        "phys_address_bits": 46, "vhost_net": true, "iscsi_initiator": "iqn.1993-08.org.debian:01:aabbccdd",
        "cdrom_path": "/dev/cdrom", "bridges": {"vmbr0": 1500, "jumbo": 9000}, "numa_nodes": 2,
        "hugepages": "any", "next_spice_port": 61000, "zfs_over_iscsi": {"lu_name": "x", "lun": 5},
        "pci_devices": [
            {"id": "0000:00:02.0", "vendor": "0x8086", "device": "0x1912", "iommugroup": 1},
            {"id": "0000:02:00.0", "vendor": "0x8086", "device": "0x10fb", "iommugroup": 2},
            {"id": "0000:03:00.0", "vendor": "0x8086", "device": "0x10fb", "iommugroup": 3},
            {"id": "0000:04:00.0", "vendor": "0x8086", "device": "0x1912", "iommugroup": 4, "mdev": true},
            {"id": "0000:05:00.0", "vendor": "0x10de", "device": "0x1234", "iommugroup": 5},
            {"id": "0000:05:00.1", "vendor": "0x10de", "device": "0x1235", "iommugroup": 5},
            {"id": "0000:06:00.0", "vendor": "0x10de", "device": "0x2230", "iommugroup": 6, "nvidia": true},
        ],
        "hw_capabilities": {
            "amd-sev": {"sev-support": true, "sev-support-es": true, "sev-support-snp": true, "cbitpos": 51,
                "reduced-phys-bits": 1},
            "intel-tdx": {"tdx-support": true},
        },
    })
    .as_object()
    .unwrap()
    .clone();
    if let Some(line) = text.lines().next().and_then(|line| line.strip_prefix("#facts ")) {
        facts.extend(serde_json::from_str::<Map<String, Value>>(line).unwrap());
    }
    facts
}

/// What is planned for a case on a host with these facts, and what is wrong with its configuration.
pub(super) fn planned(text: &str, facts: &Map<String, Value>, paths: Paths) -> (Result<Plan>, Vec<String>) {
    let host = Host::with_overrides(facts.clone());
    let config = GuestConfig::parse(GuestKind::Qemu, text);
    let vm = Vm::new("8006".parse().unwrap(), &config.current);
    let (readable, warnings) = crate::qemu::config::readable(&vm);
    let vm = Vm::new(vm.vmid, &readable);
    let options = Options { paths, machine: None, cpu: None, mtus: BTreeMap::new(), spice_port: None };
    let model = [("flags", "+aes;-avx"), ("hidden", "1"), ("reported-model", "Skylake-Server"), ("phys-bits", "host")];
    let around = Surroundings {
        mappings: Mappings::of_texts("pve1", &[(Kind::Pci, PCI), (Kind::Usb, USB)]),
        pci: crate::hardware::pci::list(&host),
        cpu_models: BTreeMap::from([(
            "mine".to_owned(),
            model.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        )]),
        ..Surroundings::default()
    };
    let volumes = Assumed { host: Host::with_overrides(facts.clone()) };
    (plan(vm, &host, &volumes, &around, &options), warnings)
}

/// What is printed for a case: the command line, warnings, or the refusal.
fn printed(text: &str) -> String {
    let paths = Paths {
        run: "/var/run/qemu-server".into(),
        short_run: "/run/qemu-server".into(),
        events: "/var/run/qmeventd.sock".into(),
    };
    match planned(text, &facts(text), paths) {
        (Ok(plan), warnings) => {
            let notes: String = warnings.iter().chain(&plan.notes).map(|note| format!("note: {note}\n")).collect();
            let warnings: String = plan.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
            format!("{notes}{warnings}{}\n", to_pretty_text(&plan.command))
        }
        (Err(error), _) => format!("error: {error}\n"),
    }
}

/// The configurations of all cases, in order of their names.
pub(super) fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/qemu/command_line/cases");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .collect();
    cases.sort();
    assert!(cases.len() > 5, "the cases are where they are looked for");
    cases
}

#[test]
fn command_lines_are_the_golden_ones() {
    let mut wrong = Vec::new();
    for case in cases() {
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
