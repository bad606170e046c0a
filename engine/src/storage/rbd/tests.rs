//! The exact sequences of commands that RBD storages run, against canned answers.

use super::Rbd;
use crate::storage::driver::{Driver, Filter, Storage};
use crate::storage::volume::{NewVolume, VolumeKind};
use crate::storage::{Content, Entry};
use crate::tool::script::Script;
use std::path::Path;

/// Where and who, before each operation.
const RBD: &str = "rbd -p data --namespace ns -m 10.0.0.1 --auth_supported none -n client.admin";

fn entry(options: &[(&str, &str)]) -> Entry {
    let mut entry = Entry::new("rbd");
    let fixed = [("pool", "data"), ("namespace", "ns"), ("monhost", "10.0.0.1"), ("content", "images")];
    for (key, value) in fixed.iter().chain(options) {
        entry.set(key, *value);
    }
    entry
}

#[test]
fn images_live_through_their_operations() {
    let root = tempfile::tempdir().unwrap();
    let script = Script::new()
        .answer(&format!("{RBD} ls --format"), r#"["vm-100-disk-0", "base-101-disk-0"]"#)
        .answer(
            &format!("{RBD} ls -l"),
            r#"[{"image": "vm-100-disk-0", "size": 1073741824, "parent": {"image": "base-101-disk-0", "snapshot": "__base__"}},
                {"image": "vm-100-disk-0", "snapshot": "a", "size": 1},
                {"image": "base-101-disk-0", "size": 5}, {"image": "foreign", "size": 5}]"#,
        )
        .answer(
            &format!("{RBD} snap ls"),
            r#"[{"name": "a", "protected": "true"}, {"name": "__base__", "protected": "false"}]"#,
        );
    let ctx = script.context(root.path());
    let storage = Storage { ctx: &ctx, id: "ceph".into(), entry: entry(&[("data-pool", "ec")]) };
    let found = Rbd.list(&storage, &Filter { contents: Content::ALL.to_vec(), vmid: None }).unwrap();
    let names: Vec<String> = found.iter().map(|volume| volume.id.to_string()).collect();
    assert_eq!(names, ["ceph:base-101-disk-0/vm-100-disk-0", "ceph:base-101-disk-0"]);
    let vmid = "100".parse().unwrap();
    let new = NewVolume { vmid, format: None, name: None, size: (1 << 30) + 1, kind: VolumeKind::Image };
    script.take();
    assert_eq!(Rbd.allocate(&storage, &new).unwrap(), "vm-100-disk-1");
    assert_eq!(Rbd.clone_linked(&storage, "base-101-disk-0", None, vmid).unwrap(), "base-101-disk-0/vm-100-disk-1");
    assert_eq!(Rbd.make_template(&storage, "vm-100-disk-0").unwrap(), "base-100-disk-0");
    Rbd.snapshot(&storage, "vm-100-disk-0", "a").unwrap();
    Rbd.rollback(&storage, "vm-100-disk-0", "a").unwrap();
    Rbd.snapshot_delete(&storage, "vm-100-disk-0", "a").unwrap();
    Rbd.resize(&storage, "vm-100-disk-0", 2 << 30).unwrap();
    Rbd.free(&storage, "vm-100-disk-0").unwrap();
    assert_eq!(Rbd.snapshots(&storage, "vm-100-disk-0").unwrap(), ["a"]);
    let commands = script.take().replace(RBD, "@");
    let changes: Vec<&str> = commands.lines().filter(|line| !line.contains(" ls ")).collect();
    assert_eq!(
        changes,
        [
            "@ create --image-format 2 --size 1025 --data-pool ec vm-100-disk-1",
            "@ clone data/ns/base-101-disk-0 --snap __base__ --data-pool ec data/ns/vm-100-disk-1",
            "@ rename data/ns/vm-100-disk-0 data/ns/base-100-disk-0",
            "@ snap create --snap __base__ base-100-disk-0",
            "@ snap protect base-100-disk-0 --snap __base__",
            "@ snap create --snap a vm-100-disk-0",
            "@ snap rollback --snap a vm-100-disk-0",
            "@ snap unprotect vm-100-disk-0 --snap a",
            "@ snap rm --snap a vm-100-disk-0",
            "@ resize --size 2048 vm-100-disk-0",
            "@ snap unprotect vm-100-disk-0 --snap a",
            "@ snap purge vm-100-disk-0",
            "@ rm vm-100-disk-0",
        ]
    );
}

#[test]
fn places_are_for_qemu_or_the_kernel() {
    let root = tempfile::tempdir().unwrap();
    let script = Script::new();
    let ctx = script.context(root.path());
    let storage = Storage { ctx: &ctx, id: "ceph".into(), entry: entry(&[("monhost", "10.0.0.1:6789 fe80::2")]) };
    assert_eq!(
        Rbd.path(&storage, "vm-100-disk-0").unwrap(),
        Path::new("rbd:data/ns/vm-100-disk-0:mon_host=10.0.0.1\\:6789;[fe80\\:\\:2]:auth_supported=none")
    );
    let storage = Storage { ctx: &ctx, id: "ceph".into(), entry: entry(&[("krbd", "1")]) };
    assert_eq!(
        Rbd.activate_volume(&storage, "vm-100-disk-0", None).unwrap(),
        Path::new("/dev/rbd/data/ns/vm-100-disk-0")
    );
    assert_eq!(script.take().replace(RBD, "@"), "@ map vm-100-disk-0\n");
    let storage = Storage { ctx: &ctx, id: "ceph".into(), entry: entry(&[("pool", "-x")]) };
    assert!(Rbd.path(&storage, "vm-100-disk-0").is_err());
}

#[test]
fn figures_come_from_the_cluster() {
    let root = tempfile::tempdir().unwrap();
    let script = Script::new().answer(
        "ceph -m 10.0.0.1",
        r#"{"pools": [{"name": "data", "stats": {"max_avail": 30, "stored": 10, "bytes_used": 99}}]}"#,
    );
    let ctx = script.context(root.path());
    let storage = Storage { ctx: &ctx, id: "ceph".into(), entry: entry(&[]) };
    let space = Rbd.space(&storage).unwrap();
    assert_eq!((space.total, space.used, space.avail), (40, 10, 30));
}
