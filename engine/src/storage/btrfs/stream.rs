//! Subvolumes as streams: `btrfs send` and `btrfs receive`. (PVE: pve-storage PVE/Storage/BTRFSPlugin.pm, volume_export
//! and volume_import)

use super::{Btrfs, Subvolumes, subvolume, subvolume_image, subvolume_path};
use crate::storage::content::Content;
use crate::storage::directory::making::{Making, hide};
use crate::storage::driver::Storage;
use crate::storage::stream::{self, Export, Form, Import};
use crate::{Error, Result, bail, error::ResultExt};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub fn export_formats(driver: &Btrfs, storage: &Storage, export: &Export) -> Result<Vec<Form>> {
    let mut forms = stream::default_export_formats(driver, storage, export)?;
    let listed = !export.snapshots.is_empty();
    let possible = export.snapshot.is_some() && !(export.base.is_some() && export.with_snapshots && !listed);
    if possible && subvolume_image(&export.name)?.is_some() {
        forms.insert(0, Form::Btrfs);
    }
    Ok(forms)
}

pub fn export(driver: &Btrfs, storage: &Storage, export: &Export, form: Form, to: &File) -> Result<()> {
    if form != Form::Btrfs {
        return stream::default_export(driver, storage, export, form, to);
    }
    let Some(snapshot) = &export.snapshot else { bail!("format 'btrfs' only works on snapshots") };
    let Some(image) = subvolume_image(&export.name)? else {
        bail!("btrfs-sending volumes like '{}' is not supported", export.name);
    };
    let path = |snapshot: &str| subvolume_path(storage, &image, Some(snapshot));
    let mut command = Command::new("btrfs");
    command.args(["-q", "send", "-e"]);
    if let Some(base) = &export.base {
        command.arg("-p").arg(path(base)?);
    }
    command.arg("--");
    let others = match (export.with_snapshots, export.snapshots.is_empty()) {
        (false, _) => Vec::new(),
        (true, false) => export.snapshots.clone(),
        (true, true) => subvolume::snapshots_of(&subvolume_path(storage, &image, None)?)?,
    };
    for other in others.iter().filter(|other| *other != snapshot) {
        command.arg(path(other)?);
    }
    command.arg(path(snapshot)?);
    run(command.stdin(Stdio::null()).stdout(to.try_clone()?))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stderr(Stdio::piped()).spawn().context(|| "unable to start 'btrfs'")?.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(Error::new(format!("command 'btrfs' failed: {}", text.lines().last().unwrap_or("no reason given"))))
}

pub fn import(driver: &Btrfs, storage: &Storage, import: &Import, form: Form, from: &File) -> Result<String> {
    if form != Form::Btrfs {
        return stream::default_import(driver, storage, import, form, from);
    }
    let Some(snapshot) = &import.snapshot else { bail!("format 'btrfs' only works on snapshots") };
    let Some(image) = subvolume_image(&import.name)? else {
        bail!("btrfs-receiving volumes like '{}' is not supported", import.name);
    };
    if let Some(base) = &import.base {
        let path = subvolume_path(storage, &image, Some(base))?;
        if !subvolume::is_subvolume(&path) {
            bail!("base snapshot '{base}' not found - no such directory '{}'", path.display());
        }
    }
    let taken = import.base.is_none() && fs::symlink_metadata(subvolume_path(storage, &image, None)?).is_ok();
    if taken && !import.allow_rename {
        bail!("volume {} already exists", import.name);
    }
    let directory = storage.entry.content_directory(Content::Images)?.join(image.vmid.to_string());
    let hidden = hide(storage, &directory)?;
    let result = receive(&hidden, from, snapshot).and_then(|received| {
        if import.base.is_some() {
            return settle(&received, &subvolume_path(storage, &image, None)?, snapshot).map(|()| image.to_string());
        }
        let named = if taken { None } else { Some(image.file.as_str()) };
        let making = Making::reserve(storage, &Subvolumes, image.vmid, image.format, None, named)?;
        settle(&received, making.target(), snapshot)?;
        Ok(making.image().to_string())
    });
    clean(&hidden);
    result
}

/// The snapshots in a stream, by name and place.
fn receive(hidden: &Path, from: &File, snapshot: &str) -> Result<Vec<(String, PathBuf)>> {
    let mut command = Command::new("btrfs");
    run(command.args(["-q", "receive", "-e", "--"]).arg(hidden).stdin(from.try_clone()?).stdout(Stdio::null()))?;
    let mut received = Vec::new();
    let mut disk = None;
    for entry in fs::read_dir(hidden)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((volume, name)) = name.split_once('@') else { bail!("send stream included a non-snapshot subvolume") };
        if disk.get_or_insert_with(|| volume.to_owned()) != volume {
            bail!("multiple disks contained in stream");
        }
        received.push((name.to_owned(), entry.path()));
    }
    if !received.iter().any(|(name, _)| name == snapshot) {
        bail!("send stream did not contain the expected current snapshot '{snapshot}'");
    }
    Ok(received)
}

/// Moves the other snapshots to their places, then the current state, last the snapshot of it.
fn settle(received: &[(String, PathBuf)], target: &Path, snapshot: &str) -> Result<()> {
    let beside = |name: &str| {
        let entry = target.file_name().unwrap_or_default().to_string_lossy();
        target.with_file_name(format!("{entry}@{name}"))
    };
    let move_to = |from: &Path, to: &Path| {
        // A read-only subvolume cannot be moved to another directory.
        subvolume::set_read_only(from, false)?;
        crate::storage::directory::template::rename_new(from, to)
    };
    for (name, path) in received.iter().filter(|(name, _)| name != snapshot) {
        move_to(path, &beside(name))?;
        subvolume::set_read_only(&beside(name), true)?;
    }
    let Some((_, current)) = received.iter().find(|(name, _)| name == snapshot) else { return Ok(()) };
    if subvolume::is_subvolume(target) {
        // An increment: the received state becomes the snapshot, and the volume follows it.
        move_to(current, &beside(snapshot))?;
        return subvolume::set_read_only(&beside(snapshot), true);
    }
    move_to(current, target)?;
    subvolume::snapshot(target, &beside(snapshot), true)
}

fn clean(hidden: &Path) {
    for entry in fs::read_dir(hidden).into_iter().flatten().flatten() {
        // What is left was not wanted; whoever comes next tries again.
        let _ = subvolume::delete(&entry.path());
    }
    let _ = fs::remove_dir(hidden);
    crate::storage::directory::images::remove_empty_parent(hidden);
}
