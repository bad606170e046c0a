//! Storages of type `btrfs`: raw images and containers' directories are subvolumes, their snapshots are read-only
//! subvolumes `NAME@SNAPSHOT` beside them. Everything else lies as in a directory storage.
//! (PVE: pve-storage PVE/Storage/BTRFSPlugin.pm)

mod list;
mod stream;
mod subvolume;

use super::content::Content;
use super::directory::images::{create_empty, resize_at};
use super::directory::making::{Layout, Making, hide};
use super::directory::name::{ImageName, Name};
use super::directory::{self, DIRECTORY, check_inside, check_mounted, images, prepare_directories};
use super::driver::{Attributes, Described, Driver, Filter, Source, Space, Storage};
use super::feature::{Capability, Feature, State, can};
use super::stream::{Export, Form, Import};
use super::unfinished::Unfinished;
use super::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::{Error, Result, Vmid, bail, error::ResultExt};
use rustix::fs::{CWD, IFlags, RenameFlags};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The driver.
pub struct Btrfs;

/// The file in the subvolume of a raw image.
const RAW_FILE: &str = "disk.raw";

/// What `statfs` says about a btrfs. (Linux: include/uapi/linux/magic.h)
const MAGIC: i64 = 0x9123_683e;

const TREES: &[Format] = &[Format::Raw, Format::Subvol];
const FILES: &[Format] = &[Format::Raw, Format::Qcow2, Format::Vmdk];
const ALL: &[Format] = &[Format::Raw, Format::Qcow2, Format::Vmdk, Format::Subvol];
const KEPT: &[Format] = &[Format::Raw, Format::Qcow2, Format::Subvol];

const CAPABILITIES: &[Capability] = &[
    can(Feature::Snapshot, State::Current, KEPT),
    can(Feature::Snapshot, State::Snapshot, KEPT),
    can(Feature::Clone, State::Base, ALL),
    can(Feature::Clone, State::Current, &[Format::Raw]),
    can(Feature::Clone, State::Snapshot, &[Format::Raw]),
    can(Feature::Template, State::Current, ALL),
    can(Feature::Copy, State::Base, ALL),
    can(Feature::Copy, State::Current, ALL),
    can(Feature::Copy, State::Snapshot, KEPT),
    can(Feature::SparseInit, State::Base, FILES),
    can(Feature::SparseInit, State::Current, FILES),
    can(Feature::Rename, State::Current, FILES),
];

/// How images lie in their guests' directories.
struct Subvolumes;

impl Layout for Subvolumes {
    fn entry(&self, image: &ImageName) -> String {
        match image.format {
            Format::Raw => image.file.strip_suffix(".raw").unwrap_or(&image.file).to_owned(),
            _ => image.file.clone(),
        }
    }

    fn inside(&self, image: &ImageName) -> &'static str {
        if image.format == Format::Raw { RAW_FILE } else { "" }
    }
}

/// An image that is a subvolume; `None` for one that lies as in a directory storage.
fn subvolume_image(name: &str) -> Result<Option<ImageName>> {
    Ok(match name.parse()? {
        Name::Image(image) if TREES.contains(&image.format) => Some(image),
        _ => None,
    })
}

/// The subvolume of an image or of a snapshot of it.
fn subvolume_path(storage: &Storage, image: &ImageName, snapshot: Option<&str>) -> Result<PathBuf> {
    let directory = storage.entry.content_directory(Content::Images)?;
    let mut entry = Subvolumes.entry(image);
    if let Some(snapshot) = snapshot {
        entry = format!("{entry}@{snapshot}");
    }
    let path = directory.join(image.vmid.to_string()).join(entry);
    check_inside(storage, &directory, &path)?;
    Ok(path)
}

/// Where the bytes of an image are that is a subvolume.
fn data_path(image: &ImageName, subvolume: &Path) -> PathBuf {
    if image.format == Format::Raw { subvolume.join(RAW_FILE) } else { subvolume.to_owned() }
}

/// Makes the subvolume of a reserved image.
fn create(storage: &Storage, making: &Making, size: u64) -> Result<()> {
    subvolume::create(making.entry())?;
    if making.image().format == Format::Subvol {
        return Ok(());
    }
    let file = create_empty(making.inside())?;
    if storage.entry.flag("nocow") == Some(true) {
        let flags = rustix::fs::ioctl_getflags(&file).context(|| "FS_IOC_GETFLAGS failed")?;
        rustix::fs::ioctl_setflags(&file, flags.union(IFlags::NOCOW)).context(|| "FS_IOC_SETFLAGS failed")?;
    }
    file.set_len(size).context(|| "unable to create image")
}

/// A writable snapshot of a subvolume under a free name of a guest.
fn clone_subvolume(storage: &Storage, from: &Path, vmid: Vmid, format: Format, named: Option<&str>) -> Result<String> {
    let making = Making::reserve(storage, &Subvolumes, vmid, format, None, named)?;
    subvolume::snapshot(from, making.entry(), false)?;
    making.place()
}

impl Driver for Btrfs {
    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        let path = storage.entry.path()?;
        check_mounted(storage, path)?;
        let create = storage.entry.flag("create-base-path").or(storage.entry.flag("mkdir")).unwrap_or(true);
        if create {
            fs::create_dir_all(path).context(|| format!("unable to create '{}'", path.display()))?;
        }
        let found = rustix::fs::statfs(path).context(|| format!("statfs on '{}' failed", path.display()))?;
        if found.f_type != MAGIC {
            bail!("'{}' is not a btrfs file system", path.display());
        }
        prepare_directories(storage)
    }

    fn space(&self, storage: &Storage) -> Result<Space> {
        DIRECTORY.space(storage)
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        directory::list::list_with(storage, filter, list::image_volume)
    }

    fn describe(&self, storage: &Storage, name: &str) -> Result<Described> {
        DIRECTORY.describe(storage, name)
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        Ok(self.source(storage, name, None)?.path)
    }

    fn source(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<Source> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.source(storage, name, snapshot) };
        let path = data_path(&image, &subvolume_path(storage, &image, snapshot)?);
        Ok(Source { path, internal: None })
    }

    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        match subvolume_image(name)? {
            Some(_) => Ok(self.source(storage, name, snapshot)?.path),
            None => DIRECTORY.activate_volume(storage, name, snapshot),
        }
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.info(storage, name) };
        let path = data_path(&image, &subvolume_path(storage, &image, None)?);
        match fs::metadata(&path) {
            Ok(_) if image.format == Format::Subvol => {
                Ok(VolumeInfo { size: 0, used: 0, format: Format::Subvol, parent: None })
            }
            Ok(data) => {
                Ok(VolumeInfo { size: data.len(), used: data.blocks() * 512, format: Format::Raw, parent: None })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("volume '{}' does not exist", storage.volume(name))
            }
            Err(error) => Err(error).context(|| path.display().to_string()),
        }
    }

    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String> {
        self.begin(storage, new)?.finish()
    }

    fn begin<'a>(&'a self, storage: &'a Storage<'a>, new: &NewVolume) -> Result<Box<dyn Unfinished + 'a>> {
        let subvol = new.format == Some(Format::Subvol);
        if subvol && new.size != 0 {
            bail!("btrfs quotas are currently not supported, use an unsized subvolume or a raw file");
        }
        let making = images::begin(storage, &Subvolumes, new)?;
        if TREES.contains(&making.image().format) {
            create(storage, &making, new.size)?;
        } else {
            images::create(storage, &making, new.size)?;
        }
        Ok(Box::new(making))
    }

    fn free(&self, storage: &Storage, name: &str) -> Result<()> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.free(storage, name) };
        let path = subvolume_path(storage, &image, None)?;
        // Snapshots go first: what a kill in between leaves is a volume that can be freed again.
        for snapshot in subvolume::snapshots_of(&path)? {
            subvolume::delete(&subvolume_path(storage, &image, Some(&snapshot))?)?;
        }
        if fs::symlink_metadata(&path).is_ok() {
            subvolume::delete(&path)?;
        }
        let _lock = storage.lock()?;
        images::remove_empty_parent(&path);
        Ok(())
    }

    fn remove_abandoned(&self, storage: &Storage, vmid: Vmid) {
        DIRECTORY.remove_abandoned(storage, vmid);
    }

    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.resize(storage, name, size) };
        if image.format == Format::Subvol {
            bail!("cannot resize subvolume - btrfs quotas are currently not supported");
        }
        let path = data_path(&image, &subvolume_path(storage, &image, None)?);
        resize_at(storage, &path, Format::Raw, size)
    }

    fn snapshot(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.snapshot(storage, name, snapshot) };
        let (from, to) = (subvolume_path(storage, &image, None)?, subvolume_path(storage, &image, Some(snapshot))?);
        if fs::symlink_metadata(&to).is_ok() {
            bail!("snapshot '{snapshot}' already exists on '{name}'");
        }
        subvolume::snapshot(&from, &to, true)
    }

    fn snapshot_delete(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.snapshot_delete(storage, name, snapshot) };
        subvolume::delete(&subvolume_path(storage, &image, Some(snapshot))?)
    }

    fn rollback_possible(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.rollback_possible(storage, name, snapshot) };
        if !subvolume_path(storage, &image, Some(snapshot))?.is_dir() {
            bail!("can't rollback, snapshot '{snapshot}' does not exist on '{name}'");
        }
        Ok(())
    }

    fn rollback(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.rollback(storage, name, snapshot) };
        let (path, from) = (subvolume_path(storage, &image, None)?, subvolume_path(storage, &image, Some(snapshot))?);
        let Some(directory) = path.parent() else { bail!("'{}' has no directory", path.display()) };
        let hidden = hide(storage, directory)?;
        let copy = hidden.join("rollback");
        let result = subvolume::snapshot(&from, &copy, false).and_then(|()| {
            rustix::fs::renameat_with(CWD, &copy, CWD, &path, RenameFlags::EXCHANGE)
                .context(|| format!("failed to rotate '{}' into place at '{}'", copy.display(), path.display()))
        });
        // The old state, or what did not get its place.
        let removed = if copy.exists() { subvolume::delete(&copy) } else { Ok(()) };
        let _ = fs::remove_dir(&hidden);
        let failures: Vec<Error> = removed.err().into_iter().collect();
        result.map_err(|error| error.with_cleanup_failures(&failures))
    }

    fn snapshots(&self, storage: &Storage, name: &str) -> Result<Vec<String>> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.snapshots(storage, name) };
        subvolume::snapshots_of(&subvolume_path(storage, &image, None)?)
    }

    fn make_template(&self, storage: &Storage, name: &str) -> Result<String> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.make_template(storage, name) };
        let rest = image.file.strip_prefix("vm-").or_else(|| image.file.strip_prefix("subvol-"));
        let Some(rest) = rest else { bail!("create_base not possible with '{name}'") };
        let base = ImageName { file: format!("base-{rest}"), is_base: true, base: None, ..image.clone() };
        let (from, to) = (subvolume_path(storage, &image, None)?, subvolume_path(storage, &base, None)?);
        directory::template::rename_new(&from, &to)?;
        subvolume::set_read_only(&to, true)?;
        Ok(base.to_string())
    }

    fn clone_linked(&self, storage: &Storage, name: &str, snapshot: Option<&str>, vmid: Vmid) -> Result<String> {
        let Some(image) = subvolume_image(name)? else {
            return DIRECTORY.clone_linked(storage, name, snapshot, vmid);
        };
        clone_subvolume(storage, &subvolume_path(storage, &image, snapshot)?, vmid, image.format, None)
    }

    fn copy_at_once(&self, storage: &Storage, source: &Source, new: &NewVolume) -> Result<Option<String>> {
        let format = match new.format {
            Some(format) if TREES.contains(&format) && source.internal.is_none() => format,
            _ => return Ok(None),
        };
        let from = match format {
            Format::Raw => source.path.parent().unwrap_or(&source.path),
            _ => &source.path,
        };
        if !subvolume::is_subvolume(from) {
            return Ok(None);
        }
        clone_subvolume(storage, from, new.vmid, format, new.name.as_deref()).map(Some)
    }

    fn rename(&self, storage: &Storage, name: &str, vmid: Vmid, new_name: Option<&str>) -> Result<String> {
        let Some(image) = subvolume_image(name)? else { return DIRECTORY.rename(storage, name, vmid, new_name) };
        let path = subvolume_path(storage, &image, None)?;
        if !subvolume::snapshots_of(&path)?.is_empty() {
            bail!("we can't rename a volume that has snapshots");
        }
        let making = Making::reserve(storage, &Subvolumes, vmid, image.format, None, new_name)?;
        directory::template::rename_new(&path, making.target())?;
        images::remove_empty_parent(&path);
        Ok(making.image().to_string())
    }

    fn export_formats(&self, storage: &Storage, export: &Export) -> Result<Vec<Form>> {
        stream::export_formats(self, storage, export)
    }

    fn import_formats(&self, storage: &Storage, import: &Import) -> Result<Vec<Form>> {
        let export = Export {
            name: import.name.clone(),
            snapshot: import.snapshot.clone(),
            base: import.base.clone(),
            with_snapshots: import.with_snapshots,
            snapshots: Vec::new(),
        };
        stream::export_formats(self, storage, &export)
    }

    fn export(&self, storage: &Storage, export: &Export, form: Form, to: &File) -> Result<()> {
        stream::export(self, storage, export, form, to)
    }

    fn import(&self, storage: &Storage, import: &Import, form: Form, from: &File) -> Result<String> {
        stream::import(self, storage, import, form, from)
    }

    fn attributes(&self, storage: &Storage, name: &str) -> Result<Attributes> {
        DIRECTORY.attributes(storage, name)
    }

    fn set_notes(&self, storage: &Storage, name: &str, notes: &str) -> Result<()> {
        DIRECTORY.set_notes(storage, name, notes)
    }

    fn set_protected(&self, storage: &Storage, name: &str, protected: bool) -> Result<()> {
        DIRECTORY.set_protected(storage, name, protected)
    }

    fn content_directory(&self, storage: &Storage, content: Content) -> Result<PathBuf> {
        storage.entry.content_directory(content)
    }

    fn import_metadata(&self, storage: &Storage, name: &str) -> Result<serde_json::Value> {
        DIRECTORY.import_metadata(storage, name)
    }
}
