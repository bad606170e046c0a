//! Volumes on a real directory: made, listed, grown, removed, and never outside.

use super::*;
use crate::lock;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

struct Node {
    directory: tempfile::TempDir,
    ctx: Context,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        Node { directory, ctx }
    }

    fn storage_path(&self, relative: &str) -> PathBuf {
        self.directory.path().join("var/lib/vz").join(relative)
    }

    fn configure(&self, text: &str) {
        fs::create_dir_all(self.ctx.root.path("/etc/pve")).unwrap();
        fs::write(self.ctx.root.etc_pve("storage.cfg"), text).unwrap();
    }

    fn put(&self, relative: &str, content: &[u8]) -> PathBuf {
        let path = self.storage_path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }
}

fn vmid(number: u32) -> Vmid {
    number.try_into().unwrap()
}

fn raw(number: u32, size: u64) -> NewVolume {
    NewVolume { vmid: vmid(number), format: Some(Format::Raw), name: None, size, kind: VolumeKind::Image }
}

fn id(text: &str) -> VolumeId {
    text.parse().unwrap()
}

#[test]
fn a_raw_image_lives_from_allocation_to_removal() {
    let node = Node::new();
    let first = allocate(&node.ctx, "local", &raw(100, 1 << 20)).unwrap();
    assert_eq!(first.to_string(), "local:100/vm-100-disk-0.raw");
    let second = allocate(&node.ctx, "local", &raw(100, 4096)).unwrap();
    assert_eq!(second.name, "100/vm-100-disk-1.raw");
    let path = path(&node.ctx, &first).unwrap();
    assert_eq!(path, node.storage_path("images/100/vm-100-disk-0.raw"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(
        info(&node.ctx, &first).unwrap(),
        VolumeInfo { size: 1 << 20, used: 0, format: Format::Raw, parent: None }
    );
    resize(&node.ctx, &first, (1 << 20) + 1).unwrap();
    assert_eq!(info(&node.ctx, &first).unwrap().size, (1 << 20) + 1024);
    assert!(resize(&node.ctx, &first, 1).is_err());
    free(&node.ctx, &first).unwrap();
    assert!(!path.exists());
    assert_eq!(allocate(&node.ctx, "local", &raw(100, 1)).unwrap().name, "100/vm-100-disk-0.raw");
    assert_eq!(owned_by(&node.ctx, vmid(100)).unwrap().len(), 2);
    for volume in owned_by(&node.ctx, vmid(100)).unwrap() {
        free(&node.ctx, &volume.id).unwrap();
    }
    assert!(!node.storage_path("images/100").exists());
    free(&node.ctx, &first).unwrap();
    assert_eq!(info(&node.ctx, &first).unwrap_err().message(), "volume 'local:100/vm-100-disk-0.raw' does not exist");
}

#[test]
fn many_at_once_get_different_names() {
    let node = Node::new();
    let mut names: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..16).map(|_| scope.spawn(|| allocate(&node.ctx, "local", &raw(100, 1024)).unwrap().name)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 16);
    let waiting = fs::read_to_string(node.ctx.root.run("lock/ferrovisor").join(lock::storage("local"))).unwrap();
    assert_eq!(waiting, "", "the queue is empty again");
}

#[test]
fn a_failed_allocation_leaves_nothing() {
    let node = Node::new();
    let new = NewVolume { size: u64::MAX / 2, ..raw(100, 0) };
    let error = allocate(&node.ctx, "local", &new).unwrap_err();
    assert!(error.message().starts_with("unable to create image: "), "{error}");
    assert!(!node.storage_path("images/100").exists());
    for (name, format, text) in [
        (
            "vm-100-disk-0.raw",
            Format::Qcow2,
            "illegal name 'vm-100-disk-0.raw' - wrong extension for format ('raw != 'qcow2')",
        ),
        ("../../x.raw", Format::Raw, "unable to parse volume filename '../../x.raw'"),
        ("/etc/x.raw", Format::Raw, "unable to parse volume filename '/etc/x.raw'"),
        ("x", Format::Raw, "unable to parse volume filename 'x'"),
    ] {
        let new = NewVolume { format: Some(format), name: Some(name.into()), ..raw(100, 1) };
        assert_eq!(allocate(&node.ctx, "local", &new).unwrap_err().message(), text);
    }
    let new = NewVolume { name: Some("vm-100-disk-7.raw".into()), ..raw(100, 1) };
    allocate(&node.ctx, "local", &new).unwrap();
    let error = allocate(&node.ctx, "local", &new).unwrap_err();
    assert!(error.message().starts_with("disk image '") && error.message().ends_with("' already exists"), "{error}");
}

#[test]
fn subvolumes_are_directories_without_a_size() {
    let node = Node::new();
    let new = NewVolume { format: Some(Format::Subvol), kind: VolumeKind::ContainerRoot, ..raw(200, 0) };
    let volume = allocate(&node.ctx, "local", &new).unwrap();
    assert_eq!(volume.name, "200/subvol-200-disk-0.subvol");
    let path = path(&node.ctx, &volume).unwrap();
    fs::create_dir_all(path.join("etc/x")).unwrap();
    assert_eq!(info(&node.ctx, &volume).unwrap().size, 0);
    assert!(resize(&node.ctx, &volume, 1024).is_err());
    let error = allocate(&node.ctx, "local", &NewVolume { size: 1, ..new }).unwrap_err();
    assert_eq!(error.message(), "storage does not support subvol quotas");
    assert_eq!(allocate(&node.ctx, "local", &raw(200, 1)).unwrap().name, "200/vm-200-disk-1.raw");
    free(&node.ctx, &volume).unwrap();
    assert!(!path.exists());
}

#[test]
fn lists_show_every_content_type_and_nothing_else() {
    let node = Node::new();
    node.put("template/iso/debian 12.iso", b"iso");
    node.put("template/iso/notes.txt", b"no");
    node.put("template/iso/.hidden.iso", b"no");
    node.put("template/cache/alpine.tar.zst", b"t");
    node.put("dump/vzdump-qemu-100-2024_01_02-03_04_05.vma.zst", b"backup");
    node.put("dump/vzdump-qemu-100-2024_01_02-03_04_05.vma.zst.notes", "früh\nmore".as_bytes());
    node.put("dump/vzdump-qemu-100-2024_01_02-03_04_05.vma.zst.protected", b"");
    node.put("snippets/user.yaml", b"#cloud-config");
    node.put("import/image.qcow2", b"x");
    node.put("images/100/vm-100-disk-0.qcow2", &image::qcow2_bytes(1 << 30, "../900/base-900-disk-0.qcow2"));
    node.put("images/100/vm-100-disk-1.qcow2", b"not an image");
    node.put("images/100/snap-a-vm-100-disk-0.qcow2", b"no");
    node.put("images/900/base-900-disk-0.qcow2", &image::qcow2_bytes(1 << 30, ""));
    node.put("images/lost+found/x.raw", b"no");
    let volumes = list(&node.ctx, "local", None, &[]).unwrap();
    let rows: Vec<(String, &str)> = volumes.iter().map(|row| (row.id.name.clone(), row.format.as_str())).collect();
    let expected = [
        ("100/vm-100-disk-1.qcow2", "invalid"),
        ("900/base-900-disk-0.qcow2", "qcow2"),
        ("900/base-900-disk-0.qcow2/100/vm-100-disk-0.qcow2", "qcow2"),
        ("backup/vzdump-qemu-100-2024_01_02-03_04_05.vma.zst", "vma.zst"),
        ("import/image.qcow2", "qcow2"),
        ("iso/debian 12.iso", "iso"),
        ("snippets/user.yaml", "snippet"),
        ("vztmpl/alpine.tar.zst", "tzst"),
    ];
    assert_eq!(rows, expected.map(|(name, format)| (name.to_owned(), format)));
    let backup = &volumes[3];
    assert_eq!((backup.notes.as_deref(), backup.protected, backup.subtype), (Some("früh"), true, Some("qemu")));
    assert_eq!(volumes[2].size, 1 << 30);
    assert_eq!(volumes[2].vmid, Some(vmid(100)));
    let of_guest = list(&node.ctx, "local", Some(vmid(100)), &[Content::Images]).unwrap();
    assert_eq!(of_guest.len(), 2);
    let error = free(&node.ctx, &backup.id).unwrap_err();
    assert_eq!(error.message(), format!("cannot remove protected volume '{}' on 'local'", backup.id.name));
    let error = free(&node.ctx, &volumes[1].id).unwrap_err();
    assert_eq!(error.message(), "base volume '900/base-900-disk-0.qcow2' is still in use by linked clones");
    free(&node.ctx, &volumes[2].id).unwrap();
    free(&node.ctx, &volumes[1].id).unwrap();
}

#[test]
fn links_never_lead_out_of_the_storage() {
    let node = Node::new();
    activate(&node.ctx, "local").unwrap();
    let secret = node.directory.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("x.iso"), b"secret").unwrap();
    fs::write(secret.join("vm-100-disk-0.raw"), b"secret").unwrap();
    symlink(secret.join("x.iso"), node.storage_path("template/iso/out.iso")).unwrap();
    symlink(secret.join("nowhere"), node.storage_path("template/iso/dangling.iso")).unwrap();
    symlink(&secret, node.storage_path("images/100")).unwrap();
    node.put("template/iso/real.iso", b"iso");
    symlink("real.iso", node.storage_path("template/iso/inside.iso")).unwrap();
    for bad in ["local:iso/out.iso", "local:iso/dangling.iso", "local:100/vm-100-disk-0.raw"] {
        let error = path(&node.ctx, &id(bad)).unwrap_err();
        assert!(error.message().ends_with("leads out of storage 'local'"), "{bad}: {error}");
        assert!(free(&node.ctx, &id(bad)).is_err(), "{bad}");
        assert!(info(&node.ctx, &id(bad)).is_err(), "{bad}");
    }
    assert!(allocate(&node.ctx, "local", &raw(100, 1)).is_err());
    assert!(secret.join("vm-100-disk-0.raw").exists());
    let names: Vec<String> =
        list(&node.ctx, "local", None, &[]).unwrap().into_iter().map(|volume| volume.id.name).collect();
    assert_eq!(names, ["iso/inside.iso", "iso/real.iso"]);
    assert!(path(&node.ctx, &id("local:iso/inside.iso")).is_ok());
}

#[test]
fn storages_that_cannot_be_used_are_kept_and_say_why() {
    let node = Node::new();
    node.configure(
        "dir: local\n\tpath /nonexistent/vz\n\tcreate-base-path 0\n\ndir: off\n\tpath /x\n\tdisable\n\n\
         dir: else\n\tpath /x\n\tnodes other\n\npbs: thin\n\tserver v\n\tdatastore t\n\nfancy: new\n\n\
         dir: mount\n\tpath /nonexistent/m\n\tis_mountpoint 1\n",
    );
    let states: Vec<(String, bool, bool)> =
        status(&node.ctx).into_iter().map(|state| (state.id, state.enabled, state.active)).collect();
    let expected = [
        ("local", true, false),
        ("off", false, false),
        ("else", false, false),
        ("thin", true, false),
        ("new", true, false),
        ("mount", true, false),
    ];
    assert_eq!(states, expected.map(|(id, enabled, active)| (id.to_owned(), enabled, active)));
    let reason = |id: &str| probe(&node.ctx, id).unwrap().reason.unwrap();
    assert_eq!(
        reason("local"),
        "unable to activate storage 'local' - directory '/nonexistent/vz' does not exist or is unreachable"
    );
    assert_eq!(reason("thin"), "storage 'thin': type 'pbs' is not supported");
    assert!(reason("mount").contains("expected to be a mount point but is not mounted"));
    for (id, text) in [
        ("off", "storage 'off' is disabled"),
        ("else", "storage 'else' is not available on node 'pve1'"),
        ("gone", "storage 'gone' does not exist"),
    ] {
        assert_eq!(list(&node.ctx, id, None, &[]).unwrap_err().message(), text);
    }
    assert!(!Path::new("/nonexistent").exists());
}

#[test]
fn status_shows_the_space_of_the_file_system() {
    let node = Node::new();
    let state = probe(&node.ctx, "local").unwrap();
    assert!(state.active && state.total > 0 && state.used <= state.total && state.avail <= state.total, "{state:?}");
    assert!(node.storage_path("template/iso").is_dir() && node.storage_path("dump").is_dir());
}

#[test]
fn content_must_be_allowed() {
    let node = Node::new();
    node.configure("dir: local\n\tpath /tmp\n\tcontent iso\n");
    assert!(check_content(&node.ctx, "local", "iso").is_ok());
    let error = check_content(&node.ctx, "local", "images").unwrap_err();
    assert_eq!(error.message(), "storage 'local' does not support content-type 'images'");
}
