//! One life cycle on every file system that people put a directory storage on, and on btrfs as a type of its own: real
//! file systems on loop devices. Skipped, and said, where this user may not mount.

use super::*;
use crate::command;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// A mounted file system of a type, gone when dropped.
struct Mounted {
    directory: tempfile::TempDir,
    ctx: Context,
}

impl Mounted {
    fn new(file_system: &str, kind: &str, options: &str) -> Option<Self> {
        let directory = tempfile::Builder::new().prefix("ferrovisor-fs-").tempdir().unwrap();
        let (image, place) = (directory.path().join("image"), directory.path().join("mnt"));
        fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
        fs::create_dir(&place).unwrap();
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let made = command::run(&format!("mkfs.{file_system}"), &["-q", &text(&image)]);
        let mounted = made.and_then(|_| command::run("mount", &["-o", "loop", &text(&image), &text(&place)]));
        if let Err(error) = mounted {
            eprintln!("SKIPPED: {file_system}: {error}");
            return None;
        }
        let ctx = Context::for_test(directory.path());
        fs::create_dir_all(ctx.root.etc_pve("")).unwrap();
        let section = format!("{kind}: store\n\tpath {}\n\tcontent images,rootdir\n{options}", text(&place));
        fs::write(ctx.root.etc_pve("storage.cfg"), section).unwrap();
        Some(Mounted { directory, ctx })
    }

    fn make(&self, vmid: u32, format: Format, size: u64) -> VolumeId {
        let new = NewVolume { vmid: id(vmid), format: Some(format), name: None, size, kind: VolumeKind::Image };
        allocate(&self.ctx, "store", &new).unwrap()
    }

    fn full_copy(&self, source: &VolumeId, snapshot: Option<&str>) -> Result<VolumeId> {
        let kind = VolumeKind::Image;
        let wanted = Copy { source, snapshot, storage: "store", vmid: id(300), format: None, kind, limit: None };
        copy(&self.ctx, &wanted, &mut |_| {})
    }

    fn files(&self) -> Vec<String> {
        let images = self.directory.path().join("mnt/images");
        let guests = fs::read_dir(images).unwrap().flatten();
        let names = guests.flat_map(|guest| fs::read_dir(guest.path()).unwrap().flatten());
        names.map(|entry| entry.path().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let place = self.directory.path().join("mnt");
        let _ = command::run("umount", &["-l", &place.to_string_lossy()]);
    }
}

fn id(vmid: u32) -> Vmid {
    vmid.try_into().unwrap()
}

/// Something that tells states of a volume apart.
fn write(ctx: &Context, volume: &VolumeId, mark: u8) {
    let path = path(ctx, volume).unwrap();
    match info(ctx, volume).unwrap().format {
        Format::Subvol => fs::write(path.join("mark"), [mark]).unwrap(),
        format => {
            let order = format!("write -P {mark} 1M 1M");
            command::run("qemu-io", &["-f", format.name(), "-c", &order, &path.to_string_lossy()]).unwrap();
        }
    }
}

fn holds(ctx: &Context, volume: &VolumeId, mark: u8) -> bool {
    let path = path(ctx, volume).unwrap();
    match info(ctx, volume).unwrap().format {
        Format::Subvol => fs::read(path.join("mark")).unwrap() == [mark],
        format => {
            let order = format!("read -P {mark} 1M 1M");
            let output = command::run("qemu-io", &["-r", "-f", format.name(), "-c", &order, &path.to_string_lossy()]);
            !output.unwrap().stdout.contains("verification failed")
        }
    }
}

/// Everything that a volume of this format can do on this storage, by its declared capabilities.
fn live(store: &Mounted, format: Format) {
    let ctx = &store.ctx;
    let can = |feature, volume: &VolumeId, snapshot: Option<&str>| {
        has_feature(ctx, feature, volume, snapshot, false).unwrap()
    };
    let volume = store.make(100, format, if format == Format::Subvol { 0 } else { 4 << 20 });
    write(ctx, &volume, 1);
    if matches!(format, Format::Raw | Format::Qcow2) {
        resize(ctx, &volume, 8 << 20).unwrap();
        assert_eq!(info(ctx, &volume).unwrap().size, 8 << 20);
    }
    let snapshots_work = can(Feature::Snapshot, &volume, None);
    if snapshots_work {
        snapshot(ctx, &volume, "one").unwrap();
        write(ctx, &volume, 2);
        snapshot(ctx, &volume, "two").unwrap();
        write(ctx, &volume, 3);
        assert_eq!(snapshots(ctx, &volume).unwrap(), ["one", "two"]);
        if can(Feature::Copy, &volume, Some("one")) {
            let old = store.full_copy(&volume, Some("one")).unwrap();
            assert!(holds(ctx, &old, 1), "{format}");
            free(ctx, &old).unwrap();
        }
        rollback(ctx, &volume, "two").unwrap();
        assert!(holds(ctx, &volume, 2), "{format}");
        snapshot_delete(ctx, &volume, "two").unwrap();
        rollback(ctx, &volume, "one").unwrap();
        assert!(holds(ctx, &volume, 1), "{format}");
        snapshot_delete(ctx, &volume, "one").unwrap();
        assert_eq!(snapshots(ctx, &volume).unwrap(), [""; 0]);
    } else {
        assert!(snapshot(ctx, &volume, "one").is_err());
    }
    let full = store.full_copy(&volume, None).unwrap();
    assert!(holds(ctx, &full, 1) && full.name.starts_with("300/"), "{format}");
    free(ctx, &full).unwrap();
    let listed = owned_by(ctx, id(100)).unwrap();
    assert_eq!(listed.iter().map(|row| &row.id).collect::<Vec<_>>(), [&volume], "{format}");
    let base = make_template(ctx, &volume).unwrap();
    if can(Feature::Clone, &base, None) {
        let clone = clone_linked(ctx, &base, None, id(200)).unwrap();
        assert!(holds(ctx, &clone, 1), "{format}");
        write(ctx, &clone, 9);
        assert!(holds(ctx, &base, 1) && holds(ctx, &clone, 9), "{format}");
        free(ctx, &clone).unwrap();
    }
    free(ctx, &base).unwrap();
    assert_eq!(store.files(), [""; 0], "{format}");
}

#[test]
fn a_life_on_ext4() {
    let Some(store) = Mounted::new("ext4", "dir", "") else { return };
    for format in [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Subvol] {
        live(&store, format);
    }
    // A full disk: the error is clear and nothing is left of the volume.
    let new =
        NewVolume { vmid: id(100), format: Some(Format::Raw), name: None, size: 4 << 30, kind: VolumeKind::Image };
    fs::write(store.ctx.root.etc_pve("storage.cfg"), {
        let text = fs::read_to_string(store.ctx.root.etc_pve("storage.cfg")).unwrap();
        format!("{text}\tpreallocation falloc\n")
    })
    .unwrap();
    let error = allocate(&store.ctx, "store", &new).unwrap_err();
    assert!(error.message().contains("No space left on device"), "{error}");
    assert_eq!(store.files(), [""; 0]);
}

#[test]
fn a_life_on_xfs_with_copies_by_reference() {
    let Some(store) = Mounted::new("xfs", "dir", "\tsnapshot-as-volume-chain 1\n") else { return };
    for format in [Format::Raw, Format::Subvol] {
        live(&store, format);
    }
    copies_at_once(&store);
}

#[test]
fn a_life_on_btrfs() {
    let Some(store) = Mounted::new("btrfs", "btrfs", "") else { return };
    for format in [Format::Raw, Format::Subvol] {
        live(&store, format);
    }
    copies_at_once(&store);
    send_and_receive(&store);
}

/// 10 GiB that are mostly holes take no time on the same storage.
fn copies_at_once(store: &Mounted) {
    let volume = store.make(100, Format::Raw, 10 << 30);
    write(&store.ctx, &volume, 4);
    let start = Instant::now();
    let made = store.full_copy(&volume, None).unwrap();
    let time = start.elapsed();
    // Far above what it takes, and far below what copying would take on a machine that does other things as well.
    assert!(time < Duration::from_secs(5), "{time:?}");
    assert!(holds(&store.ctx, &made, 4));
    for volume in [volume, made] {
        free(&store.ctx, &volume).unwrap();
    }
}

fn send_and_receive(store: &Mounted) {
    let ctx = &store.ctx;
    let volume = store.make(100, Format::Raw, 4 << 20);
    write(ctx, &volume, 1);
    snapshot(ctx, &volume, "old").unwrap();
    write(ctx, &volume, 2);
    snapshot(ctx, &volume, "new").unwrap();
    let mut file = tempfile::tempfile().unwrap();
    let name = String::new();
    let (snapshot, with_snapshots) = (Some("new".to_owned()), true);
    let export =
        stream::Export { name: name.clone(), snapshot: snapshot.clone(), with_snapshots, ..Default::default() };
    stream::export(ctx, &volume, &export, stream::Form::Btrfs, &file).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let import = stream::Import { name, snapshot, with_snapshots, allow_rename: true, ..Default::default() };
    let got = stream::import(ctx, &volume, &import, stream::Form::Btrfs, &file).unwrap();
    assert!(got != volume && holds(ctx, &got, 2));
    let mut names = snapshots(ctx, &got).unwrap();
    names.sort();
    assert_eq!(names, ["new", "old"]);
    rollback(ctx, &got, "old").unwrap();
    assert!(holds(ctx, &got, 1));
    for volume in [volume, got] {
        free(ctx, &volume).unwrap();
    }
    assert_eq!(store.files(), [""; 0]);
}
