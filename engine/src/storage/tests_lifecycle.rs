//! Snapshots, templates, clones, copies and imports on a real directory, with the host's `qemu-img`.

use super::*;
use crate::command;
use std::fs;
use std::path::Path;

struct Node {
    directory: tempfile::TempDir,
    ctx: Context,
}

impl Node {
    fn new(options: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        fs::create_dir_all(ctx.root.etc_pve("")).unwrap();
        let path = directory.path().join("store");
        let text = format!("dir: store\n\tpath {}\n\tcontent images,rootdir,import\n{options}\n", path.display());
        fs::write(ctx.root.etc_pve("storage.cfg"), text).unwrap();
        Node { directory, ctx }
    }

    fn allocate(&self, vmid: u32, format: Format) -> VolumeId {
        let size = if format == Format::Subvol { 0 } else { 8 << 20 };
        let new = NewVolume { vmid: id(vmid), format: Some(format), name: None, size, kind: VolumeKind::Image };
        allocate(&self.ctx, "store", &new).unwrap()
    }

    fn copy(&self, source: &VolumeId, snapshot: Option<&str>, format: Option<Format>) -> Result<VolumeId> {
        let kind = VolumeKind::Image;
        let wanted = Copy { source, snapshot, storage: "store", vmid: id(300), format, kind, limit: None };
        copy(&self.ctx, &wanted, &mut |_| {})
    }

    fn import(&self, source: ImageSource, format: Format) -> Result<VolumeId> {
        let (kind, limit) = (VolumeKind::Image, None);
        let wanted = ImportImage { source, storage: "store", vmid: id(400), format: Some(format), kind, limit };
        import_image(&self.ctx, &wanted, &mut |_| {})
    }

    /// What a guest's directory has, hidden files included.
    fn files(&self, vmid: u32) -> Vec<String> {
        let path = self.directory.path().join(format!("store/images/{vmid}"));
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn write(&self, volume: &VolumeId, pattern: u8) {
        let path = path(&self.ctx, volume).unwrap();
        io(&path, info(&self.ctx, volume).unwrap().format, &format!("write -P {pattern} 1M 1M"));
    }

    fn holds(&self, volume: &VolumeId, pattern: u8) -> bool {
        let path = path(&self.ctx, volume).unwrap();
        holds(&path, info(&self.ctx, volume).unwrap().format, pattern)
    }
}

fn id(vmid: u32) -> Vmid {
    vmid.try_into().unwrap()
}

fn io(path: &Path, format: Format, order: &str) -> String {
    let access = if order.starts_with("read") { "-r" } else { "--cache=writeback" };
    let arguments = [access, "-f", format.name(), "-c", order, &path.to_string_lossy()];
    command::run("qemu-io", &arguments).unwrap().stdout
}

fn holds(path: &Path, format: Format, pattern: u8) -> bool {
    !io(path, format, &format!("read -P {pattern} 1M 1M")).contains("verification failed")
}

#[test]
fn snapshots_within_and_beside_an_image_keep_its_state() {
    for options in ["", "\tsnapshot-as-volume-chain 1\n"] {
        let node = Node::new(options);
        let volume = node.allocate(100, Format::Qcow2);
        node.write(&volume, 1);
        snapshot(&node.ctx, &volume, "first").unwrap();
        node.write(&volume, 2);
        snapshot(&node.ctx, &volume, "second").unwrap();
        node.write(&volume, 3);
        snapshot(&node.ctx, &volume, "third").unwrap();
        assert!(snapshot(&node.ctx, &volume, "third").is_err(), "{options}");
        assert_eq!(snapshots(&node.ctx, &volume).unwrap(), ["first", "second", "third"], "{options}");
        let of_first = node.copy(&volume, Some("first"), None).unwrap();
        assert!(node.holds(&of_first, 1), "{options}");
        snapshot_delete(&node.ctx, &volume, "second").unwrap();
        assert!(node.holds(&volume, 3), "{options}");
        if options.is_empty() {
            rollback(&node.ctx, &volume, "first").unwrap();
            assert!(node.holds(&volume, 1));
        } else {
            let error = rollback(&node.ctx, &volume, "first").unwrap_err();
            assert!(error.message().contains("not most recent"), "{error}");
            node.write(&volume, 9);
            rollback(&node.ctx, &volume, "third").unwrap();
            assert!(node.holds(&volume, 3));
            snapshot_delete(&node.ctx, &volume, "third").unwrap();
            snapshot_delete(&node.ctx, &volume, "first").unwrap();
            assert_eq!(snapshots(&node.ctx, &volume).unwrap(), [""; 0]);
            assert!(node.holds(&volume, 3));
            snapshot(&node.ctx, &volume, "again").unwrap();
        }
        assert!(rollback(&node.ctx, &volume, "none").is_err());
        free(&node.ctx, &volume).unwrap();
        assert_eq!(node.files(100), [""; 0], "{options}");
    }
}

#[test]
fn a_template_is_read_only_and_has_linked_clones() {
    let node = Node::new("");
    let raw = node.allocate(100, Format::Raw);
    node.write(&raw, 5);
    assert!(clone_linked(&node.ctx, &raw, None, id(101)).is_err());
    let base = make_template(&node.ctx, &raw).unwrap();
    assert_eq!(base.to_string(), "store:100/base-100-disk-0.raw");
    let clone = clone_linked(&node.ctx, &base, None, id(101)).unwrap();
    assert_eq!(clone.to_string(), "store:100/base-100-disk-0.raw/101/vm-101-disk-0.qcow2");
    assert!(node.holds(&clone, 5));
    node.write(&clone, 6);
    assert!(node.holds(&base, 5));
    assert_eq!(linked_clones_of(&node.ctx, &base).unwrap(), std::slice::from_ref(&clone.name));
    assert!(free(&node.ctx, &base).unwrap_err().message().contains("still in use by linked clones"));
    let mut names: Vec<String> = std::thread::scope(|scope| {
        let clone = || clone_linked(&node.ctx, &base, None, id(500)).unwrap().name;
        let threads: Vec<_> = (0..20).map(|_| scope.spawn(clone)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 20, "clones at the same time get names of their own");
    for name in names {
        free(&node.ctx, &VolumeId::new("store", name)).unwrap();
    }
    let full = node.copy(&clone, None, Some(Format::Qcow2)).unwrap();
    assert_eq!(info(&node.ctx, &full).unwrap().parent, None);
    assert!(node.holds(&full, 6));
    let moved = reassign(&node.ctx, &clone, id(102), None).unwrap();
    assert_eq!(moved.to_string(), "store:100/base-100-disk-0.raw/102/vm-102-disk-0.qcow2");
    assert!(node.holds(&moved, 6) && node.files(101).is_empty());
    free(&node.ctx, &moved).unwrap();
    free(&node.ctx, &base).unwrap();
    assert_eq!(node.files(100), [""; 0]);
}

#[test]
fn copies_go_from_any_format_to_any_other() {
    let node = Node::new("");
    for from in [Format::Raw, Format::Qcow2, Format::Vmdk] {
        let source = node.allocate(100, from);
        node.write(&source, 7);
        for to in [Format::Raw, Format::Qcow2] {
            let made = node.copy(&source, None, Some(to)).unwrap();
            assert!(node.holds(&made, 7), "{from} to {to}");
            assert_eq!(info(&node.ctx, &made).unwrap().size, 8 << 20);
        }
        assert!(node.copy(&source, None, Some(Format::Subvol)).is_err());
    }
    let tree = node.allocate(200, Format::Subvol);
    let path_of = |volume: &VolumeId| path(&node.ctx, volume).unwrap();
    fs::create_dir(path_of(&tree).join("etc")).unwrap();
    fs::write(path_of(&tree).join("etc/hostname"), "x").unwrap();
    std::os::unix::fs::lchown(path_of(&tree).join("etc/hostname"), Some(100_033), Some(100_033)).unwrap();
    let made = node.copy(&tree, None, None).unwrap();
    let metadata = fs::metadata(path_of(&made).join("etc/hostname")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&metadata), 100_033);
}

#[test]
fn what_a_killed_process_left_is_neither_listed_nor_in_the_way() {
    let node = Node::new("");
    let volume = node.allocate(100, Format::Raw);
    let directory = node.directory.path().join("store/images/100");
    let dead = directory.join(".making-pve1-4194303-1-0");
    let other = directory.join(".making-pve2-4194303-1-0");
    for hidden in [&dead, &other] {
        fs::create_dir(hidden).unwrap();
        fs::write(hidden.join("vm-100-disk-1.raw.reserved"), "").unwrap();
        fs::write(hidden.join("vm-100-disk-1.raw"), "half").unwrap();
    }
    assert_eq!(owned_by(&node.ctx, id(100)).unwrap().len(), 1);
    // Another node's may still be at work.
    assert_eq!(node.allocate(100, Format::Raw).name, "100/vm-100-disk-2.raw");
    assert!(!dead.exists() && other.exists());
    free(&node.ctx, &volume).unwrap();
}

#[test]
fn streams_carry_images_directories_and_files() {
    let node = Node::new("");
    let import = stream::Import { allow_rename: true, ..Default::default() };
    let through = |volume: &VolumeId, form: stream::Form, with_snapshots: bool| {
        let export = stream::Export { with_snapshots, ..Default::default() };
        let mut file = tempfile::tempfile().unwrap();
        stream::export(&node.ctx, volume, &export, form, &file).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        stream::import(&node.ctx, volume, &stream::Import { with_snapshots, ..import.clone() }, form, &file).unwrap()
    };
    let raw = node.allocate(100, Format::Raw);
    node.write(&raw, 8);
    let got = through(&raw, stream::Form::Raw, false);
    assert!(got != raw && node.holds(&got, 8));
    let qcow2 = node.allocate(100, Format::Qcow2);
    node.write(&qcow2, 9);
    snapshot(&node.ctx, &qcow2, "s").unwrap();
    let got = through(&qcow2, stream::Form::Qcow2, true);
    assert_eq!(snapshots(&node.ctx, &got).unwrap(), ["s"]);
    let export = stream::Export::default();
    let mut file = tempfile::tempfile().unwrap();
    stream::export(&node.ctx, &qcow2, &export, stream::Form::Raw, &file).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (8 << 20) + 8);
    file.set_len(1 << 20).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let error = stream::import(&node.ctx, &raw, &import, stream::Form::Raw, &file).unwrap_err();
    assert!(error.message().contains("the stream ended"), "{error}");
    let tree = node.allocate(200, Format::Subvol);
    fs::write(path(&node.ctx, &tree).unwrap().join("a"), "b").unwrap();
    let got = through(&tree, stream::Form::Tar, false);
    assert_eq!(fs::read(path(&node.ctx, &got).unwrap().join("a")).unwrap(), b"b");
    assert!(node.files(100).iter().all(|name| !name.starts_with('.')));
}

#[test]
fn images_of_many_kinds_are_imported_and_hostile_ones_refused() {
    let node = Node::new("");
    let source = node.allocate(100, Format::Raw);
    node.write(&source, 4);
    let plain = path(&node.ctx, &source).unwrap();
    let at = |name: &str| node.directory.path().join("store/import").join(name);
    let convert = |format: &str, name: &str| {
        let (from, to) = (plain.to_string_lossy().into_owned(), at(name).to_string_lossy().into_owned());
        command::run("qemu-img", &["convert", "-f", "raw", "-O", format, &from, &to]).unwrap();
    };
    for (format, name) in
        [("qcow2", "a.qcow2"), ("vmdk", "a.vmdk"), ("raw", "a.raw"), ("vhdx", "a.vhdx"), ("vpc", "a.vhd")]
    {
        convert(format, name);
        let made = node.import(ImageSource::File(&at(name)), Format::Qcow2).unwrap();
        assert!(node.holds(&made, 4), "{name}");
    }
    command::run("gzip", &["-k", &at("a.qcow2").to_string_lossy()]).unwrap();
    let made = node.import(ImageSource::File(&at("a.qcow2.gz")), Format::Raw).unwrap();
    assert!(node.holds(&made, 4));
    let directory = at("").to_string_lossy().into_owned();
    fs::write(at("a.ovf"), "<Envelope/>").unwrap();
    command::run("tar", &["-cf", &at("x.ova").to_string_lossy(), "-C", &directory, "a.ovf", "a.vmdk"]).unwrap();
    let volume: VolumeId = "store:import/x.ova/a.vmdk".parse().unwrap();
    assert_eq!(info(&node.ctx, &volume).unwrap().size, 8 << 20);
    let made = node.import(ImageSource::Volume(&volume), Format::Raw).unwrap();
    assert!(node.holds(&made, 4));
    fs::write(at("evil.qcow2"), image::qcow2_bytes(1 << 20, "/etc/shadow")).unwrap();
    fs::write(at("evil.vmdk"), "# Disk DescriptorFile\nRW 10 FLAT \"/etc/shadow\" 0\n").unwrap();
    for (name, text) in [("evil.qcow2", "backing file not allowed"), ("evil.vmdk", "extents are not allowed")] {
        let error = node.import(ImageSource::Volume(&format!("store:import/{name}").parse().unwrap()), Format::Raw);
        assert!(error.unwrap_err().message().contains(text), "{name}");
    }
    let wrong = node.import(ImageSource::Volume(&"store:import/x.ova/none.raw".parse().unwrap()), Format::Raw);
    assert!(wrong.unwrap_err().message().contains("has no file"));
    assert!(node.files(400).iter().all(|name| !name.starts_with('.')));
}
