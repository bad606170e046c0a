//! Storages of type `dir`: a directory with one subdirectory per content type.
//! (PVE: pve-storage PVE/Storage/DirPlugin.pm and PVE/Storage/Plugin.pm)

mod attributes;
pub mod images;
mod interrupted;
pub mod list;
pub mod making;
pub mod name;
mod snapshots;
pub mod template;

use super::content::Content;
use super::driver::{Attributes, Described, Driver, Filter, Source, Space, Storage};
use super::feature::{Capability, Feature, State, can};
use super::unfinished::Unfinished;
use super::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::{Error, Result, Vmid, bail, error::ResultExt};
use making::Plain;
use name::Name;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How the directory of a file based storage comes to be there: it is, or something is mounted on it.
pub trait Mount: Sync {
    /// Makes the directory available, or says why it is not. Called often: quick when nothing is to be done.
    fn mount(&self, storage: &Storage) -> Result<()>;

    /// Undoes that.
    fn unmount(&self, _storage: &Storage) -> Result<()> {
        Ok(())
    }

    /// See [`Driver::is_remote`].
    fn is_remote(&self) -> bool {
        false
    }

    /// See [`Driver::secret_options`].
    fn secret_options(&self) -> &'static [&'static str] {
        &[]
    }

    /// See [`Driver::check_entry`].
    fn check_entry(&self, _ctx: &crate::Context, _id: &str, _entry: &mut super::Entry, _create: bool) -> Result<()> {
        Ok(())
    }

    /// See [`Driver::configure`].
    fn configure(&self, _storage: &mut Storage, _secrets: &super::driver::Secrets, _create: bool) -> Result<()> {
        Ok(())
    }

    /// See [`Driver::unconfigure`].
    fn unconfigure(&self, _storage: &Storage) -> Result<()> {
        Ok(())
    }
}

/// A directory that is there, or is mounted by somebody else.
pub struct Local;

impl Mount for Local {
    fn mount(&self, storage: &Storage) -> Result<()> {
        check_mounted(storage, storage.entry.path()?)
    }
}

/// The driver of file based storages.
pub struct FileDriver<M>(pub M);

/// The driver of type `dir`.
pub static DIRECTORY: FileDriver<Local> = FileDriver(Local);

const IMAGES: &[Format] = &[Format::Raw, Format::Qcow2, Format::Vmdk];
const ALL: &[Format] = &[Format::Raw, Format::Qcow2, Format::Vmdk, Format::Subvol];

/// What images in directories can do. Directories of containers can be copied, which PVE does not do.
const CAPABILITIES: &[Capability] = &[
    can(Feature::Snapshot, State::Current, &[Format::Qcow2]),
    can(Feature::Snapshot, State::Snapshot, &[Format::Qcow2]),
    can(Feature::Clone, State::Base, IMAGES),
    can(Feature::Template, State::Current, ALL),
    can(Feature::Copy, State::Base, IMAGES),
    can(Feature::Copy, State::Current, ALL),
    can(Feature::Copy, State::Snapshot, &[Format::Qcow2]),
    can(Feature::SparseInit, State::Base, IMAGES),
    can(Feature::SparseInit, State::Current, IMAGES),
    can(Feature::Rename, State::Current, IMAGES),
];

impl<M: Mount> Driver for FileDriver<M> {
    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn secret_options(&self) -> &'static [&'static str] {
        self.0.secret_options()
    }

    fn check_entry(&self, ctx: &crate::Context, id: &str, entry: &mut super::Entry, create: bool) -> Result<()> {
        self.0.check_entry(ctx, id, entry, create)
    }

    fn configure(&self, storage: &mut Storage, secrets: &super::driver::Secrets, create: bool) -> Result<()> {
        self.0.configure(storage, secrets, create)
    }

    fn unconfigure(&self, storage: &Storage) -> Result<()> {
        self.0.unconfigure(storage)
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        self.0.mount(storage)?;
        prepare_directories(storage)
    }

    fn deactivate(&self, storage: &Storage) -> Result<()> {
        self.0.unmount(storage)
    }

    fn is_remote(&self) -> bool {
        self.0.is_remote()
    }

    fn space(&self, storage: &Storage) -> Result<Space> {
        let path = storage.entry.path()?;
        let found = rustix::fs::statvfs(path).context(|| path.display().to_string())?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Space {
            total: bytes(found.f_blocks),
            used: bytes(found.f_blocks.saturating_sub(found.f_bfree)),
            avail: bytes(found.f_bavail),
        })
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        list::list(storage, filter)
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        describe(&name.parse()?)
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        path_of(storage, &name.parse()?)
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let parsed: Name = name.parse()?;
        let path = path_of(storage, &parsed)?;
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("volume '{}' does not exist", storage.volume(name))
            }
            Err(error) => return Err(error).context(|| path.display().to_string()),
        };
        let format = match &parsed {
            Name::Image(image) => image.format,
            Name::File(file) => file.format.parse().unwrap_or(Format::Raw),
            Name::Packed(_, disk, format) => {
                let member = super::import::ova::member(&path, disk)?;
                let size = super::import::ova::header(&path, &member)?.size;
                return Ok(VolumeInfo { size, used: member.length, format: *format, parent: None });
            }
        };
        if (format == Format::Subvol) != metadata.is_dir() {
            let is = if metadata.is_dir() { "is a directory" } else { "is not a directory" };
            bail!("expected format '{format}', but '{}' {is}", path.display());
        }
        let (size, parent) = match format {
            Format::Subvol => return Ok(VolumeInfo { size: 0, used: 0, format, parent: None }),
            Format::Raw => (metadata.len(), None),
            Format::Qcow2 | Format::Vmdk => {
                let header = super::image::read(&path).context(|| path.display().to_string())?;
                if header.format != format {
                    bail!("image '{}' is not in {format} format", path.display());
                }
                (header.size, header.backing)
            }
        };
        Ok(VolumeInfo { size, used: metadata.blocks() * 512, format, parent })
    }

    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String> {
        self.begin(storage, new)?.finish()
    }

    fn begin<'a>(&'a self, storage: &'a Storage<'a>, new: &NewVolume) -> Result<Box<dyn Unfinished + 'a>> {
        let making = images::begin(storage, &Plain, new)?;
        images::create(storage, &making, new.size)?;
        Ok(Box::new(making))
    }

    fn source(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<Source> {
        let name = name.parse()?;
        match snapshot {
            None => Ok(Source { path: path_of(storage, &name)?, internal: None }),
            Some(snapshot) => snapshots::source(storage, &name, snapshot),
        }
    }

    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        let path = self.source(storage, name, snapshot)?.path;
        if matches!(name.parse()?, Name::Image(image) if image.format == Format::Qcow2) {
            interrupted::repair(storage, &path)?;
        }
        Ok(path)
    }

    fn snapshot(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        snapshots::create(storage, &name.parse()?, snapshot)
    }

    fn snapshot_delete(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        snapshots::delete(storage, &name.parse()?, snapshot)
    }

    fn rollback_possible(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        snapshots::rollback_possible(storage, &name.parse()?, snapshot)
    }

    fn rollback(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        snapshots::rollback(storage, &name.parse()?, snapshot)
    }

    fn snapshots(&self, storage: &Storage, name: &str) -> Result<Vec<String>> {
        snapshots::list(storage, &name.parse()?)
    }

    fn make_template(&self, storage: &Storage, name: &str) -> Result<String> {
        template::make(storage, &name.parse()?)
    }

    fn clone_linked(&self, storage: &Storage, name: &str, snapshot: Option<&str>, vmid: Vmid) -> Result<String> {
        template::clone(storage, &name.parse()?, snapshot, vmid)
    }

    fn rename(&self, storage: &Storage, name: &str, vmid: Vmid, new_name: Option<&str>) -> Result<String> {
        template::rename(storage, &name.parse()?, vmid, new_name)
    }

    fn free(&self, storage: &Storage, name: &str) -> Result<()> {
        images::free(storage, &name.parse()?)
    }

    fn remove_abandoned(&self, storage: &Storage, vmid: Vmid) {
        making::remove_abandoned_of(storage, vmid);
    }

    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()> {
        images::resize(storage, &name.parse()?, size)
    }

    fn attributes(&self, storage: &Storage, name: &str) -> Result<Attributes> {
        attributes::read(storage, &name.parse()?)
    }

    fn set_notes(&self, storage: &Storage, name: &str, notes: &str) -> Result<()> {
        attributes::set_notes(storage, &name.parse()?, notes)
    }

    fn set_protected(&self, storage: &Storage, name: &str, protected: bool) -> Result<()> {
        attributes::set_protected(storage, &name.parse()?, protected)
    }

    fn content_directory(&self, storage: &Storage, content: Content) -> Result<PathBuf> {
        storage.entry.content_directory(content)
    }

    fn import_metadata(&self, storage: &Storage, name: &str) -> Result<serde_json::Value> {
        super::import::describe::appliance(storage, name)
    }
}

/// What a name says.
pub fn describe(name: &Name) -> Result<Described> {
    let (is_base, format, base) = match name {
        Name::Image(image) => {
            let base = image.base.as_ref().map(|(vmid, file)| format!("{vmid}/{file}"));
            (image.is_base, image.format, base)
        }
        Name::File(file) => (false, file.format.parse().unwrap_or(Format::Raw), None),
        Name::Packed(_, _, format) => (false, *format, None),
    };
    Ok(Described { content: name.content(), vmid: name.vmid(), is_base, format, base })
}

/// Makes the storage's directory and those of its contents, as far as it may.
pub fn prepare_directories(storage: &Storage) -> Result<()> {
    let path = storage.entry.path()?;
    let create = storage.entry.flag("create-base-path").or(storage.entry.flag("mkdir")).unwrap_or(true);
    if create {
        fs::create_dir_all(path).context(|| format!("unable to create '{}'", path.display()))?;
    }
    if !path.is_dir() {
        bail!(
            "unable to activate storage '{}' - directory '{}' does not exist or is unreachable",
            storage.id,
            path.display()
        );
    }
    create_content_directories(storage)?;
    check_content_directories_differ(storage)
}

/// Where a volume is. Symbolic links may lead anywhere within the storage, or be a content directory, but a volume is
/// never outside of both.
pub fn path_of(storage: &Storage, name: &Name) -> Result<PathBuf> {
    let directory = storage.entry.content_directory(name.content())?;
    let path = directory.join(name.relative_path());
    check_inside(storage, &directory, &path)?;
    Ok(path)
}

/// Refuses a path that a symbolic link takes out of the storage.
pub fn check_inside(storage: &Storage, directory: &Path, path: &Path) -> Result<()> {
    let outside = || Error::new(format!("'{}' leads out of storage '{}'", path.display(), storage.id));
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    let real = match fs::canonicalize(path) {
        Ok(real) => real,
        Err(_) if is_link => return Err(outside()),
        // What does not exist yet is where its parent is; a missing parent will be made by us.
        Err(_) => match path.parent().map(fs::canonicalize) {
            Some(Ok(real)) => real,
            _ => return Ok(()),
        },
    };
    let allowed = [Some(directory), storage.entry.path().ok()].into_iter().flatten();
    let inside = allowed.filter_map(|place| fs::canonicalize(place).ok()).any(|place| real.starts_with(place));
    if inside { Ok(()) } else { Err(outside()) }
}

/// A storage that is to be a mount point of somebody else is offline without it.
pub fn check_mounted(storage: &Storage, path: &Path) -> Result<()> {
    let place = match storage.entry.get("is_mountpoint") {
        None => return Ok(()),
        Some(text) => match contract::parse_boolean(text) {
            Some(false) => return Ok(()),
            Some(true) => path,
            None => Path::new(text),
        },
    };
    let mounted = fs::canonicalize(place).ok().is_some_and(|real| is_mount_point(&real));
    if mounted {
        return Ok(());
    }
    bail!(
        "unable to activate storage '{}' - directory is expected to be a mount point but is not mounted: '{}'",
        storage.id,
        place.display()
    )
}

/// Whether something is mounted at a path; `/proc/self/mounts` writes blanks and backslashes as octal numbers.
pub fn is_mount_point(path: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let unescape = |field: &str| field.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\");
    text.lines().filter_map(|line| line.split(' ').nth(1)).any(|field| Path::new(&unescape(field)) == path)
}

fn create_content_directories(storage: &Storage) -> Result<()> {
    let entry = &storage.entry;
    if !entry.flag("create-subdirs").unwrap_or(true) || !entry.flag("mkdir").unwrap_or(true) {
        return Ok(());
    }
    let mut contents = entry.contents();
    contents.retain(|content| *content != Content::None);
    // Backups of containers are unpacked beside the archives.
    if contents.contains(&Content::Rootdir) && !contents.contains(&Content::Backup) {
        contents.push(Content::Backup);
    }
    for content in contents {
        let directory = entry.content_directory(content)?;
        fs::create_dir_all(&directory).map_err(|error| {
            let hint = match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                    " - ensure that you have read and write access to your storage!"
                }
                _ => "",
            };
            let text = Error::from(error);
            let place = directory.display();
            Error::new(format!("failed to create content directory '{place}' for content '{content}' - {text}{hint}"))
        })?;
    }
    Ok(())
}

fn check_content_directories_differ(storage: &Storage) -> Result<()> {
    let mut seen = Vec::new();
    for content in storage.entry.contents().into_iter().filter(|content| *content != Content::None) {
        let Ok(real) = fs::canonicalize(storage.entry.content_directory(content)?) else { continue };
        if seen.contains(&real) {
            bail!("storage '{}' uses directory {} for multiple content types", storage.id, real.display());
        }
        seen.push(real);
    }
    Ok(())
}
