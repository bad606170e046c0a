//! The exact sequences of commands that LVM storages run, against canned reports.

use super::samples;
use super::thick::Lvm;
use super::thin::LvmThin;
use crate::Context;
use crate::storage::driver::{Driver, Filter, Storage};
use crate::storage::feature::Feature;
use crate::storage::volume::{Format, NewVolume, VolumeKind};
use crate::storage::{Content, Entry};
use crate::tool::script::Script;
use std::sync::Arc;
use tempfile::TempDir;

const GIB: u64 = 1 << 30;

/// A node with a script of LVM's answers.
struct Node {
    _root: TempDir,
    script: Arc<Script>,
    ctx: Context,
}

impl Node {
    fn new(volumes: &[(&str, u64, &str, &str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let script = Script::new()
            .answer("vgs", &samples::groups("pve", 5 * GIB))
            .answer("lvs", &samples::volumes("pve", volumes));
        let ctx = script.context(root.path());
        Node { _root: root, script, ctx }
    }

    fn storage(&self, kind: &str, options: &[(&str, &str)]) -> Storage<'_> {
        let mut entry = Entry::new(kind);
        entry.set("vgname", "pve");
        entry.set("content", "images,rootdir");
        for (key, value) in options {
            entry.set(key, *value);
        }
        Storage { ctx: &self.ctx, id: "vg".into(), entry }
    }

    fn changes(&self) -> String {
        self.script.take_changes()
    }
}

fn new(format: Option<Format>, name: Option<&str>, size: u64) -> NewVolume {
    let name = name.map(str::to_owned);
    NewVolume { vmid: "100".parse().unwrap(), format, name, size, kind: VolumeKind::Image }
}

fn all() -> Filter {
    Filter { contents: Content::ALL.to_vec(), vmid: None }
}

#[test]
fn thick_volumes_are_made_with_tags_and_without_autoactivation() {
    let node =
        Node::new(&[("vm-100-disk-0", GIB, "-wi-a-----", "", "pve-vm-100"), ("root", GIB, "-wi-ao----", "", "")]);
    let storage = node.storage("lvm", &[]);
    assert_eq!(Lvm.allocate(&storage, &new(None, None, GIB + 1)).unwrap(), "vm-100-disk-1");
    assert_eq!(
        node.changes(),
        "lvcreate -aly -Wy --yes --size 1048577k --name vm-100-disk-1 --setautoactivation n --addtag pve-vm-100 -- pve\n"
    );
    assert_eq!(Lvm.allocate(&storage, &new(None, Some("vm-100-cloudinit"), 4 << 20)).unwrap(), "vm-100-cloudinit");
    node.changes();
    let full = Lvm.allocate(&storage, &new(None, None, 6 * GIB)).unwrap_err();
    assert_eq!(full.message(), "not enough free space (5242880 < 6291456)");
    for (format, name, text) in [
        (Some(Format::Qcow2), None, "unsupported format 'qcow2' for storage type lvm"),
        (None, Some("-f"), "unable to parse lvm volume name '-f'"),
        (
            None,
            Some("vm-100-a.qcow2"),
            "volume name 'vm-100-a.qcow2' does not match requested format 'raw' (did you mean 'vm-100-a'?)",
        ),
    ] {
        assert_eq!(Lvm.allocate(&storage, &new(format, name, 1)).unwrap_err().message(), text);
    }
    assert_eq!(node.changes(), "");
}

#[test]
fn thick_volumes_are_listed_grown_renamed_and_removed() {
    let node = Node::new(&[
        ("vm-100-disk-0", GIB, "-wi-a-----", "", "pve-vm-100"),
        ("vm-101-disk-0", GIB, "rwi-a-r---", "", "other"),
        ("vm-102-disk-0", GIB, "Vwi-a-tz--", "data", ""),
        ("snap_vm-100-disk-0_a", GIB, "-wi-a-----", "", ""),
    ]);
    let storage = node.storage("lvm", &[]);
    let names = |storage: &Storage| -> Vec<String> {
        Lvm.list(storage, &all()).unwrap().into_iter().map(|volume| volume.id.to_string()).collect()
    };
    assert_eq!(names(&storage), ["vg:vm-100-disk-0", "vg:vm-101-disk-0"]);
    assert_eq!(names(&node.storage("lvm", &[("tagged_only", "1")])), ["vg:vm-100-disk-0"]);
    assert_eq!(Lvm.space(&storage).unwrap().avail, 5 * GIB);
    Lvm.resize(&storage, "vm-100-disk-0", 2 * GIB).unwrap();
    // Within the last extent there is nothing to do, and LVM would say so with an error.
    Lvm.resize(&storage, "vm-100-disk-0", GIB).unwrap();
    assert!(Lvm.resize(&storage, "vm-100-disk-0", GIB - 1).is_err());
    Lvm.activate_volume(&storage, "vm-100-disk-0", None).unwrap();
    assert_eq!(Lvm.rename(&storage, "vm-100-disk-0", "105".parse().unwrap(), None).unwrap(), "vm-105-disk-0");
    Lvm.free(&storage, "vm-100-disk-0").unwrap();
    Lvm.free(&storage, "vm-100-gone").unwrap();
    assert_eq!(
        node.changes(),
        "lvextend -L 2097152k -- pve/vm-100-disk-0\n\
         lvchange -aey -- pve/vm-100-disk-0\n\
         lvchange --refresh -- pve/vm-100-disk-0\n\
         lvrename -- pve vm-100-disk-0 vm-105-disk-0\n\
         lvchange --addtag pve-vm-105 --deltag pve-vm-100 -- pve/vm-105-disk-0\n\
         lvremove -f -- pve/vm-100-disk-0\n"
    );
    assert!(!Lvm.can(&storage, Feature::Snapshot, "vm-100-disk-0", None, false).unwrap());
    assert!(Lvm.can(&storage, Feature::Copy, "vm-100-disk-0", None, false).unwrap());
    assert_eq!(Lvm.snapshot(&storage, "vm-100-disk-0", "a").unwrap_err().message(), "can't snapshot 'raw' volume");
}

#[test]
fn safe_removal_frees_the_name_first_and_wipes_afterwards() {
    let node = Node::new(&[("vm-100-disk-0", GIB, "-wi-a-----", "", "")]);
    let storage = node.storage("lvm", &[("saferemove", "1")]);
    Lvm.free(&storage, "vm-100-disk-0").unwrap();
    assert_eq!(
        node.changes(),
        "lvrename -- pve vm-100-disk-0 del-vm-100-disk-0\n\
         lvchange -aly -- pve/del-vm-100-disk-0\n\
         lvchange --refresh -- pve/del-vm-100-disk-0\n\
         lvremove -f -- pve/del-vm-100-disk-0\n"
    );
}

const CHAIN: [(&str, &str); 1] = [("snapshot-as-volume-chain", "1")];
const ACTIVATE: &str = "lvchange -aey --select 'vg_name = \\\"pve\\\" && lv_name =~ \\'^(vm-100-disk-0|snap_vm-100-disk-0_.+)\\\\.qcow2$\\''\n\
                        lvchange --refresh --select 'vg_name = \\\"pve\\\" && lv_name =~ \\'^(vm-100-disk-0|snap_vm-100-disk-0_.+)\\\\.qcow2$\\''\n";

/// A node with the chain base ← a ← b ← current, as long as wanted.
fn chained(snapshots: &[&str]) -> Node {
    let node = Node::new(&[("vm-100-disk-0.qcow2", GIB + (4 << 20), "-wi-a-----", "", "")]);
    let mut files = vec!["vm-100-disk-0.qcow2".to_owned()];
    files.extend(snapshots.iter().rev().map(|name| format!("snap_vm-100-disk-0_{name}.qcow2")));
    let images: Vec<String> =
        files.iter().map(|file| format!(r#"{{"filename": "/dev/pve/{file}", "virtual-size": {GIB}}}"#)).collect();
    node.script
        .answer("qemu-img info", &format!("[{}]", images.join(",")))
        .answer("qemu-img measure", r#"{"required": 1, "fully-allocated": 1074135040}"#);
    node
}

#[test]
fn images_on_volumes_are_measured_and_written() {
    let node = chained(&[]);
    let storage = node.storage("lvm", &CHAIN);
    assert_eq!(Lvm.allocate(&storage, &new(None, None, GIB)).unwrap(), "vm-100-disk-1.qcow2");
    assert_eq!(
        node.changes(),
        "qemu-img measure --output=json --size 1073741824 -O qcow2\n\
         lvcreate -aly -Wy --yes --size 1048960k --name vm-100-disk-1.qcow2 --setautoactivation n \
         --addtag pve-vm-100 --addtag pve-vm-100-disk-1.qcow2 -- pve\n\
         qemu-img create -o preallocation=metadata -f qcow2 /dev/pve/vm-100-disk-1.qcow2 1048576K\n"
    );
    node.script.fail("qemu-img create", "qemu-img: no room");
    let error = Lvm.allocate(&storage, &new(None, None, GIB)).unwrap_err();
    assert_eq!(error.message(), "unable to create image: command 'qemu-img' failed: qemu-img: no room");
    assert!(node.changes().ends_with("lvremove -f -- pve/vm-100-disk-1.qcow2\n"));
}

#[test]
fn a_snapshot_takes_the_volume_and_puts_a_new_one_on_it() {
    let node = chained(&[]);
    let storage = node.storage("lvm", &CHAIN);
    Lvm.snapshot(&storage, "vm-100-disk-0.qcow2", "a").unwrap();
    assert_eq!(
        node.changes(),
        format!(
            "{ACTIVATE}lvrename -- pve vm-100-disk-0.qcow2 snap_vm-100-disk-0_a.qcow2\n\
             qemu-img measure --output=json --size 1073741824 -O qcow2 -o extended_l2=on,cluster_size=128k\n\
             lvcreate -aly -Wy --yes --size 1048960k --name vm-100-disk-0.qcow2 --setautoactivation n \
             --addtag pve-vm-100 --addtag pve-vm-100-disk-0.qcow2 -- pve\n\
             qemu-img create -F qcow2 -b snap_vm-100-disk-0_a.qcow2 -f qcow2 -o extended_l2=on,cluster_size=128k \
             /dev/pve/vm-100-disk-0.qcow2\n"
        )
    );
    // Without room for the new volume everything is as before.
    node.script.fail("lvcreate", "  insufficient free space");
    Lvm.snapshot(&storage, "vm-100-disk-0.qcow2", "a").unwrap_err();
    assert!(node.changes().ends_with("lvrename -- pve snap_vm-100-disk-0_a.qcow2 vm-100-disk-0.qcow2\n"));
}

#[test]
fn only_the_newest_snapshot_can_be_gone_back_to() {
    let node = chained(&["a", "b"]);
    let storage = node.storage("lvm", &CHAIN);
    let name = "vm-100-disk-0.qcow2";
    assert_eq!(Lvm.snapshots(&storage, name).unwrap(), ["a", "b"]);
    assert_eq!(
        Lvm.rollback_possible(&storage, name, "a").unwrap_err().message(),
        "can't rollback, 'a' is not most recent snapshot on 'vm-100-disk-0.qcow2'"
    );
    assert!(Lvm.rollback_possible(&storage, name, "c").is_err());
    node.changes();
    Lvm.rollback(&storage, name, "b").unwrap();
    assert_eq!(
        node.changes(),
        format!(
            "{ACTIVATE}lvrename -- pve vm-100-disk-0.qcow2 del-vm-100-disk-0.qcow2\n\
             qemu-img measure --output=json --size 1073741824 -O qcow2 -o extended_l2=on,cluster_size=128k\n\
             lvcreate -aly -Wy --yes --size 1048960k --name vm-100-disk-0.qcow2 --setautoactivation n \
             --addtag pve-vm-100 --addtag pve-vm-100-disk-0.qcow2 -- pve\n\
             qemu-img create -F qcow2 -b snap_vm-100-disk-0_b.qcow2 -f qcow2 -o extended_l2=on,cluster_size=128k \
             /dev/pve/vm-100-disk-0.qcow2\n\
             lvremove -f -- pve/del-vm-100-disk-0.qcow2\n"
        )
    );
}

#[test]
fn removed_snapshots_leave_the_chain_whole() {
    let node = chained(&["a", "b"]);
    let storage = node.storage("lvm", &CHAIN);
    Lvm.snapshot_delete(&storage, "vm-100-disk-0.qcow2", "b").unwrap();
    assert_eq!(
        node.changes(),
        format!(
            "{ACTIVATE}qemu-img rebase -b snap_vm-100-disk-0_a.qcow2 -F qcow2 -f qcow2 /dev/pve/vm-100-disk-0.qcow2\n\
             lvremove -f -- pve/snap_vm-100-disk-0_b.qcow2\n"
        )
    );
    Lvm.snapshot_delete(&storage, "vm-100-disk-0.qcow2", "a").unwrap();
    assert_eq!(
        node.changes(),
        format!(
            "{ACTIVATE}qemu-img commit -f qcow2 /dev/pve/snap_vm-100-disk-0_b.qcow2\n\
             lvrename -- pve snap_vm-100-disk-0_b.qcow2 del-snap_vm-100-disk-0_b.qcow2\n\
             lvrename -- pve snap_vm-100-disk-0_a.qcow2 snap_vm-100-disk-0_b.qcow2\n\
             lvremove -f -- pve/del-snap_vm-100-disk-0_b.qcow2\n"
        )
    );
    assert!(Lvm.snapshot_delete(&storage, "vm-100-disk-0.qcow2", "c").is_err());
}

#[test]
fn thin_volumes_live_in_their_pool() {
    let node = Node::new(&[
        ("data", 8 * GIB, "twi-aotz--", "", ""),
        ("vm-100-disk-0", GIB, "Vwi-a-tz--", "data", ""),
        ("vm-101-disk-0", GIB, "Vwi-a-tz--", "other", ""),
        ("vm-102-disk-0", GIB, "-wi-a-----", "", ""),
        ("base-103-disk-0", GIB, "Vri---tz-k", "data", ""),
        ("snap_vm-100-disk-0_a", GIB, "Vri---tz-k", "data", ""),
    ]);
    let storage = node.storage("lvmthin", &[("thinpool", "data")]);
    let names: Vec<String> =
        LvmThin.list(&storage, &all()).unwrap().into_iter().map(|volume| volume.id.to_string()).collect();
    assert_eq!(names, ["vg:vm-100-disk-0", "vg:base-103-disk-0"]);
    let space = LvmThin.space(&storage).unwrap();
    assert_eq!((space.total, space.used), (8 * GIB, 2 * GIB));
    LvmThin.activate(&storage).unwrap();
    assert_eq!(LvmThin.allocate(&storage, &new(None, None, GIB)).unwrap(), "vm-100-disk-1");
    assert!(LvmThin.allocate(&storage, &new(None, Some("vm-101-disk-9"), GIB)).is_err());
    LvmThin.snapshot(&storage, "vm-100-disk-0", "b").unwrap();
    assert_eq!(
        LvmThin.clone_linked(&storage, "base-103-disk-0", None, "104".parse().unwrap()).unwrap(),
        "vm-104-disk-0"
    );
    LvmThin.activate_volume(&storage, "base-103-disk-0", None).unwrap();
    LvmThin.activate_volume(&storage, "vm-100-disk-0", Some("a")).unwrap();
    LvmThin.deactivate_volume(&storage, "vm-100-disk-0", Some("a")).unwrap();
    LvmThin.deactivate_volume(&storage, "vm-100-disk-0", None).unwrap();
    assert_eq!(
        node.changes(),
        "lvcreate -aly -V 1048576k --name vm-100-disk-1 --thinpool pve/data\n\
         lvchange --setautoactivation n -- pve/vm-100-disk-1\n\
         lvcreate -n snap_vm-100-disk-0_b -pr -s -- pve/vm-100-disk-0\n\
         lvcreate -n vm-104-disk-0 -prw -kn -s -- pve/base-103-disk-0\n\
         lvchange --setautoactivation n -- pve/vm-104-disk-0\n\
         lvchange -ay -K -- pve/base-103-disk-0\n\
         lvchange -ay -K -- pve/snap_vm-100-disk-0_a\n\
         lvchange -an -- pve/snap_vm-100-disk-0_a\n"
    );
    assert!(LvmThin.clone_linked(&storage, "vm-100-disk-0", None, "104".parse().unwrap()).is_err());
    assert!(LvmThin.make_template(&storage, "vm-100-disk-0").unwrap_err().message().contains("snap_vm-100-disk-0_a"));
}

#[test]
fn thin_volumes_go_back_and_become_templates() {
    let node = Node::new(&[
        ("data", 8 * GIB, "twi-aotz--", "", ""),
        ("vm-100-disk-0", GIB, "Vwi-a-tz--", "data", ""),
        ("vm-105-disk-0", GIB, "Vwi-a-tz--", "data", ""),
        ("snap_vm-100-disk-0_a", GIB, "Vri---tz-k", "data", ""),
        ("snap_vm-100-disk-0_b", GIB, "Vri---tz-k", "data", ""),
    ]);
    let storage = node.storage("lvmthin", &[("thinpool", "data")]);
    assert_eq!(LvmThin.snapshots(&storage, "vm-100-disk-0").unwrap(), ["a", "b"]);
    LvmThin.rollback(&storage, "vm-100-disk-0", "a").unwrap();
    assert_eq!(
        node.changes(),
        "lvcreate -n rollback_vm-100-disk-0 -prw -kn -s -- pve/snap_vm-100-disk-0_a\n\
         lvchange --setautoactivation n -- pve/rollback_vm-100-disk-0\n\
         lvremove -f -- pve/vm-100-disk-0\n\
         lvrename -- pve rollback_vm-100-disk-0 vm-100-disk-0\n"
    );
    assert_eq!(
        LvmThin.rollback(&storage, "vm-100-disk-0", "c").unwrap_err().message(),
        "can't rollback, snapshot 'c' does not exist on 'vm-100-disk-0'"
    );
    LvmThin.free(&storage, "vm-100-disk-0").unwrap();
    assert_eq!(LvmThin.make_template(&storage, "vm-105-disk-0").unwrap(), "base-105-disk-0");
    assert_eq!(
        node.changes(),
        "lvremove -f -- pve/snap_vm-100-disk-0_a\n\
         lvremove -f -- pve/snap_vm-100-disk-0_b\n\
         lvremove -f -- pve/vm-100-disk-0\n\
         lvrename -- pve vm-105-disk-0 base-105-disk-0\n\
         lvchange -pr -ky -- pve/base-105-disk-0\n\
         lvchange -an -- pve/base-105-disk-0\n"
    );
    node.script.fail("lvremove", "  device is busy");
    assert!(LvmThin.rollback(&storage, "vm-100-disk-0", "a").is_err());
    assert!(node.changes().ends_with("lvremove -f -- pve/vm-100-disk-0\nlvremove -f -- pve/rollback_vm-100-disk-0\n"));
}

#[test]
fn a_chain_is_not_changed_below_a_running_guest() {
    let node = Node::new(&[]);
    let storage = node.storage("lvm", &[("snapshot-as-volume-chain", "1")]);
    let can = |feature, running| Lvm.can(&storage, feature, "vm-100-disk-0.qcow2", None, running).unwrap();
    assert!(can(Feature::Snapshot, false) && !can(Feature::Snapshot, true));
    assert!(can(Feature::Copy, true));
}
