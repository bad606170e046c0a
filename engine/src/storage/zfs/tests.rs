//! The exact sequences of commands that ZFS storages run, against canned answers.

use super::over_iscsi::ZfsOverIscsi;
use super::pool::ZfsPool;
use crate::storage::driver::{Driver, Filter, Storage};
use crate::storage::stream::{Export, Form, Import};
use crate::storage::volume::{Format, NewVolume, VolumeKind};
use crate::storage::{Content, Entry};
use crate::tool::script::Script;
use std::path::Path;
use std::sync::Arc;

const LIST: &str = "tank\t-\t-\tfilesystem\tnone\t1000\t1700000000\n\
                    tank/base-100-disk-0\t1073741824\t-\tvolume\t-\t56\t1700000001\n\
                    tank/vm-101-disk-0\t1073741824\ttank/base-100-disk-0@__base__\tvolume\t-\t8\t1700000002\n\
                    tank/subvol-102-disk-0\t-\t-\tfilesystem\t8589934592\t9\t1700000003\n\
                    tank/home\t-\t-\tfilesystem\tnone\t9\t1700000004\n";

fn new(format: Format, size: u64) -> NewVolume {
    let vmid = "101".parse().unwrap();
    NewVolume { vmid, format: Some(format), name: None, size, kind: VolumeKind::Image }
}

fn script() -> Arc<Script> {
    Script::new().answer("zfs list -o name,volsize", LIST)
}

fn entry(kind: &str, options: &[(&str, &str)]) -> Entry {
    let mut entry = Entry::new(kind);
    entry.set("pool", "tank");
    entry.set("content", "images,rootdir");
    for (key, value) in options {
        entry.set(key, *value);
    }
    entry
}

#[test]
fn volumes_and_file_systems_are_made_and_listed() {
    let root = tempfile::tempdir().unwrap();
    let script = script();
    let ctx = script.context(root.path());
    let options = [("sparse", "1"), ("blocksize", "16k"), ("mountpoint", "/tank")];
    let storage = Storage { ctx: &ctx, id: "z".into(), entry: entry("zfspool", &options) };
    let volumes = ZfsPool.list(&storage, &Filter { contents: Content::ALL.to_vec(), vmid: None }).unwrap();
    let rows: Vec<String> =
        volumes.iter().map(|volume| format!("{} {} {}", volume.id, volume.format, volume.size)).collect();
    assert_eq!(
        rows,
        [
            "z:base-100-disk-0 raw 1073741824",
            "z:base-100-disk-0/vm-101-disk-0 raw 1073741824",
            "z:subvol-102-disk-0 subvol 8589934592"
        ]
    );
    assert_eq!(ZfsPool.allocate(&storage, &new(Format::Raw, (1 << 30) + 1)).unwrap(), "vm-101-disk-1");
    assert_eq!(ZfsPool.allocate(&storage, &new(Format::Subvol, 0)).unwrap(), "subvol-101-disk-1");
    assert_eq!(ZfsPool.path(&storage, "subvol-102-disk-0").unwrap(), Path::new("/tank/subvol-102-disk-0"));
    assert_eq!(
        ZfsPool.path(&storage, "base-100-disk-0/vm-101-disk-0").unwrap(),
        Path::new("/dev/zvol/tank/vm-101-disk-0")
    );
    assert_eq!(
        script.take_changes(),
        "zfs create -s -b 16k -V 1049600k tank/vm-101-disk-1\n\
         udevadm settle --timeout=10 --exit-if-exists=/dev/zvol/tank/vm-101-disk-1\n\
         zfs create -o acltype=posixacl -o xattr=sa -o refquota=none tank/subvol-101-disk-1\n"
    );
    for bad in ["../x", "vm-101-disk-0@s", "-r", "vm-101-a/vm-102-b"] {
        assert!(ZfsPool.path(&storage, bad).is_err(), "{bad}");
    }
}

#[test]
fn snapshots_keep_quotas_and_templates_get_clones() {
    let root = tempfile::tempdir().unwrap();
    let script = script()
        .answer("zfs get -o value -Hp refquota", "8589934592\n")
        .answer("zfs get -o value -Hp pve-storage:refquota", "8589934592\n")
        .answer("zfs get -o value -Hp volsize", "1073741824\n56\n")
        .answer("zfs list -H -d1", "tank/vm-101-disk-0@a\ntank/vm-101-disk-0@b\n");
    let ctx = script.context(root.path());
    let storage = Storage { ctx: &ctx, id: "z".into(), entry: entry("zfspool", &[]) };
    ZfsPool.snapshot(&storage, "subvol-102-disk-0", "a").unwrap();
    ZfsPool.rollback(&storage, "subvol-102-disk-0", "a").unwrap();
    let volume = "base-100-disk-0/vm-101-disk-0";
    assert_eq!(ZfsPool.make_template(&storage, volume).unwrap(), "base-100-disk-0/base-101-disk-0");
    let vmid = "103".parse().unwrap();
    assert_eq!(ZfsPool.clone_linked(&storage, "base-100-disk-0", None, vmid).unwrap(), "base-100-disk-0/vm-103-disk-0");
    assert_eq!(ZfsPool.rename(&storage, volume, vmid, None).unwrap(), "base-100-disk-0/vm-103-disk-0");
    ZfsPool.resize(&storage, volume, 2 << 30).unwrap();
    ZfsPool.free(&storage, volume).unwrap();
    assert_eq!(
        script.take_changes(),
        "zfs snapshot tank/subvol-102-disk-0@a\n\
         zfs set pve-storage:refquota=8589934592 tank/subvol-102-disk-0@a\n\
         zfs rollback tank/subvol-102-disk-0@a\n\
         zfs set refquota=8589934592 tank/subvol-102-disk-0\n\
         zfs unmount tank/subvol-102-disk-0\n\
         zfs rename tank/vm-101-disk-0 tank/base-101-disk-0\n\
         zfs snapshot tank/base-101-disk-0@__base__\n\
         zfs clone tank/base-100-disk-0@__base__ tank/vm-103-disk-0\n\
         zfs rename tank/vm-101-disk-0 tank/vm-103-disk-0\n\
         zfs set volsize=2097152k tank/vm-101-disk-0\n\
         zfs destroy -r tank/vm-101-disk-0\n"
    );
    assert_eq!(
        ZfsPool.rollback_possible(&storage, "vm-101-disk-0", "a").unwrap_err().message(),
        "can't rollback, 'a' is not most recent snapshot on 'z:vm-101-disk-0'"
    );
    assert!(ZfsPool.resize(&storage, volume, 1 << 20).is_err());
}

#[test]
fn volumes_of_another_machine_are_made_by_ssh_and_published() {
    let root = tempfile::tempdir().unwrap();
    let key = root.path().join("etc/pve/priv/zfs/10.0.0.1_id_rsa");
    let ssh = format!("ssh -o BatchMode=yes -i {} -- root@10.0.0.1", key.display());
    let saved = r#"{"targets": [{"fabric": "iscsi", "wwn": "iqn.a", "tpgs": [{"tag": 1, "luns":
        [{"index": 3, "storage_object": "/backstores/block/tank-vm-101-disk-0"}]}]}]}"#;
    let script = Script::new().answer(&format!("{ssh} cat"), saved).answer(&format!("{ssh} zfs list"), LIST);
    let ctx = script.context(root.path());
    let options = [
        ("portal", "10.0.0.1"),
        ("target", "iqn.a"),
        ("iscsiprovider", "LIO"),
        ("lio_tpg", "tpg1"),
        ("zfs-base-path", "/dev/zvol"),
    ];
    let mut storage = Storage { ctx: &ctx, id: "z".into(), entry: entry("zfs", &options) };
    assert_eq!(ZfsOverIscsi.path(&storage, "vm-101-disk-0").unwrap(), Path::new("iscsi://10.0.0.1/iqn.a/3"));
    script.take();
    assert_eq!(ZfsOverIscsi.allocate(&storage, &new(Format::Raw, 1 << 30)).unwrap(), "vm-101-disk-1");
    ZfsOverIscsi.free(&storage, "vm-101-disk-0").unwrap();
    let changes = script.take().replace(&ssh, "@");
    let changes: Vec<&str> =
        changes.lines().filter(|line| !line.starts_with("@ cat") && !line.contains(" list ")).collect();
    assert_eq!(
        changes,
        [
            "@ zfs create -V 1048576k tank/vm-101-disk-1",
            "@ /usr/bin/targetcli /backstores/block create name=tank-vm-101-disk-1 dev=/dev/zvol/tank/vm-101-disk-1",
            "@ /usr/bin/targetcli /backstores/block/tank-vm-101-disk-1 set attribute emulate_tpu=1",
            "@ /usr/bin/targetcli /iscsi/iqn.a/tpg1/luns/ create /backstores/block/tank-vm-101-disk-1",
            "@ /usr/bin/targetcli saveconfig",
            "@ /usr/bin/targetcli /iscsi/iqn.a/tpg1/luns/ delete lun3",
            "@ /usr/bin/targetcli /backstores/block delete tank-vm-101-disk-0",
            "@ /usr/bin/targetcli saveconfig",
            "@ zfs destroy -r tank/vm-101-disk-0",
        ]
    );
    // Whatever could be more than a word to the other machine's shell goes nowhere.
    storage.entry.set("zfs-base-path", "/dev/zvol;reboot");
    assert!(ZfsOverIscsi.allocate(&storage, &new(Format::Raw, 1 << 30)).is_err());
    assert!(!script.take().contains("reboot"));
    storage.entry.set("iscsiprovider", "other");
    let error = ZfsOverIscsi.path(&storage, "vm-101-disk-0").unwrap_err();
    storage.entry.unset("zfs-base-path");
    assert!(error.message().starts_with("other: unknown iscsi provider"), "{error}");
}

#[test]
fn streams_are_those_of_zfs_and_come_in_under_a_hidden_name() {
    let root = tempfile::tempdir().unwrap();
    let script = script().fail("zfs get -H name", "dataset does not exist");
    let ctx = script.context(root.path());
    let storage = Storage { ctx: &ctx, id: "z".into(), entry: entry("zfspool", &[]) };
    let data = tempfile::tempfile().unwrap();
    let export = |snapshot: Option<&str>, base: Option<&str>, with_snapshots| {
        let (snapshot, base) = (snapshot.map(str::to_owned), base.map(str::to_owned));
        let name = "vm-101-disk-0".to_owned();
        let export = Export { name, snapshot, base, with_snapshots, ..Export::default() };
        ZfsPool.export(&storage, &export, Form::Zfs, &data)
    };
    export(Some("b"), None, false).unwrap();
    export(Some("b"), Some("a"), false).unwrap();
    export(Some("b"), Some("a"), true).unwrap();
    assert_eq!(export(None, None, false).unwrap_err().message(), "zfspool storage can only export snapshots");
    assert_eq!(
        script.take_changes(),
        "zfs send -Rpv -- tank/vm-101-disk-0@b\n\
         zfs send -Rpv -i a -- tank/vm-101-disk-0@b\n\
         zfs send -Rpv -I a -- tank/vm-101-disk-0@b\n"
    );
    let import = |base: Option<&str>, allow_rename| {
        let (name, base) = ("vm-101-disk-0".to_owned(), base.map(str::to_owned));
        ZfsPool.import(&storage, &Import { name, base, allow_rename, ..Import::default() }, Form::Zfs, &data)
    };
    let missing = import(Some("a"), false).unwrap_err();
    assert_eq!(missing.message(), "base snapshot 'tank/vm-101-disk-0@a' doesn't exist");
    assert_eq!(import(None, false).unwrap(), "vm-101-disk-0");
    let commands = script.take_changes();
    let hidden = commands.split_whitespace().find(|word| word.starts_with("tank/recv-101-")).unwrap();
    let golden = format!(
        "zfs recv -x encryption -- {hidden}\n\
         zfs rename -- {hidden} tank/vm-101-disk-0\n"
    );
    assert_eq!(commands, golden);
    // The name is taken.
    let script = script.answer("zfs get -H name", "tank/vm-101-disk-0");
    assert_eq!(import(None, false).unwrap_err().message(), "volume 'tank/vm-101-disk-0' already exists");
    assert_eq!(import(None, true).unwrap(), "vm-101-disk-1");
    assert!(script.take_changes().contains(" tank/vm-101-disk-1\n"));
    assert_eq!(import(Some("a"), false).unwrap(), "vm-101-disk-0");
    assert_eq!(script.take_changes(), "zfs recv -F -x encryption -- tank/vm-101-disk-0\n");
    script.fail("zfs recv", "cannot receive: invalid stream");
    assert!(import(Some("a"), false).is_err());
    assert_eq!(
        script.take_changes(),
        "zfs recv -F -x encryption -- tank/vm-101-disk-0\nzfs rollback -r -- tank/vm-101-disk-0@a\n"
    );
}
