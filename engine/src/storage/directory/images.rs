//! Making, removing and growing images of a directory storage.
//! (PVE: pve-storage PVE/Storage/Plugin.pm, alloc_image, free_image, volume_resize)
//!
//! The storage's queue lock covers choosing a name and creating an empty file under it, nothing that takes time.

use super::attributes::{notes_path, protection_path, remove_if_there};
use super::list;
use super::name::{ImageName, Name, disk_number, parse_image_file};
use super::path_of;
use crate::context::Mode;
use crate::storage::content::Content;
use crate::storage::driver::{Filter, Storage};
use crate::storage::volume::{Format, NewVolume};
use crate::task::abort;
use crate::{Error, Result, Vmid, bail, command, error::ResultExt, lock};
use rustix::fs::{FallocateFlags, IFlags, Mode as FileMode, OFlags};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Most disks of a guest on one storage.
const MAX_VOLUMES_PER_GUEST: u32 = 1024;

/// How the space of a new image is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Preallocation {
    Off,
    Metadata,
    Falloc,
    Full,
}

impl Preallocation {
    /// What the storage says, or the format's default. Raw images have no metadata.
    fn of(storage: &Storage, format: Format) -> Self {
        match (storage.entry.get("preallocation"), format) {
            (Some("falloc"), _) => Preallocation::Falloc,
            (Some("full"), _) => Preallocation::Full,
            (Some("off"), _) | (_, Format::Raw) => Preallocation::Off,
            _ => Preallocation::Metadata,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Preallocation::Off => "off",
            Preallocation::Metadata => "metadata",
            Preallocation::Falloc => "falloc",
            Preallocation::Full => "full",
        }
    }
}

/// Waits for the storage's queue.
fn lock_names(storage: &Storage) -> Result<lock::QueueLock> {
    let label = match &storage.ctx.mode {
        Mode::Worker(upid) => upid.to_string(),
        _ => format!("process-{}", std::process::id()),
    };
    lock::acquire(storage.ctx, &lock::storage(&storage.id), &label, |_| {})
}

pub(super) fn allocate(storage: &Storage, new: &NewVolume) -> Result<String> {
    let named = new.name.as_deref().filter(|name| !name.is_empty());
    let format = match (new.format, named) {
        (Some(format), _) => format,
        (None, Some(name)) => parse_image_file(name)?.0,
        (None, None) => storage.entry.default_format(),
    };
    if let Some(name) = named {
        let (of_name, _) = parse_image_file(name)?;
        if of_name != format {
            bail!("illegal name '{name}' - wrong extension for format ('{of_name} != '{format}')");
        }
    }
    if format == Format::Subvol && new.size != 0 {
        bail!("storage does not support subvol quotas");
    }
    let image = reserve(storage, new.vmid, format, named)?;
    let path = path_of(storage, &Name::Image(image.clone()))?;
    fill(storage, &path, format, new.size).map_err(|error| {
        let failures: Vec<Error> = discard(&path).err().into_iter().collect();
        error.with_cleanup_failures(&failures)
    })?;
    Ok(image.to_string())
}

/// Chooses a name and creates an empty file or directory under it.
fn reserve(storage: &Storage, vmid: Vmid, format: Format, named: Option<&str>) -> Result<ImageName> {
    let _lock = lock_names(storage)?;
    let directory = storage.entry.content_directory(Content::Images)?.join(vmid.to_string());
    let file = match named {
        Some(name) => name.to_owned(),
        None => next_disk_name(storage, &directory, vmid, format)?,
    };
    let image = ImageName { vmid, base: None, format, is_base: parse_image_file(&file)?.1, file };
    // Looks at links in the way before anything is made.
    let path = path_of(storage, &Name::Image(image.clone()))?;
    fs::create_dir_all(&directory).context(|| format!("unable to create '{}'", directory.display()))?;
    let created = if format == Format::Subvol {
        fs::create_dir(&path).map_err(Error::from).and_then(|()| {
            let mode = FileMode::from_raw_mode(0o755);
            rustix::fs::chmod(&path, mode).map_err(Error::from)
        })
    } else {
        create_empty(&path).map(drop)
    };
    created.map_err(|error| {
        // Only an empty directory goes away.
        let _ = fs::remove_dir(&directory);
        let exists = fs::symlink_metadata(&path).is_ok();
        if exists {
            return Error::new(format!("disk image '{}' already exists", path.display()));
        }
        error.context(format!("unable to create image: '{}'", path.display()))
    })?;
    Ok(image)
}

/// A new file of our own; an existing one, also a link, is an error.
fn create_empty(path: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::open(path, flags, FileMode::from_raw_mode(0o640))?))
}

fn next_disk_name(storage: &Storage, directory: &Path, vmid: Vmid, format: Format) -> Result<String> {
    let taken: Vec<u32> = match fs::read_dir(directory) {
        Ok(entries) => entries.filter_map(|entry| disk_number(entry.ok()?.file_name().to_str()?, vmid)).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).context(|| format!("unable to read '{}'", directory.display())),
    };
    let number = (0..MAX_VOLUMES_PER_GUEST).find(|number| !taken.contains(number)).ok_or_else(|| {
        Error::new(format!("unable to allocate an image name for VM {vmid} in storage '{}'", storage.id))
    })?;
    let prefix = if format == Format::Subvol { "subvol" } else { "vm" };
    Ok(format!("{prefix}-{vmid}-disk-{number}.{format}"))
}

/// Gives a new image its size.
fn fill(storage: &Storage, path: &Path, format: Format, size: u64) -> Result<()> {
    let preallocation = Preallocation::of(storage, format);
    match format {
        Format::Subvol => Ok(()),
        Format::Raw => fill_raw(path, size, preallocation).context(|| "unable to create image"),
        Format::Qcow2 | Format::Vmdk => {
            let path = path.to_string_lossy();
            let size = size.to_string();
            let option = format!("preallocation={}", preallocation.name());
            let mut arguments = vec!["create", "-f", format.name()];
            if format == Format::Qcow2 {
                arguments.extend(["-o", &option]);
            }
            arguments.extend([&*path, &size]);
            command::run("qemu-img", &arguments).map(drop).context(|| "unable to create image")
        }
    }
}

fn fill_raw(path: &Path, size: u64, preallocation: Preallocation) -> Result<()> {
    let mut file = File::options().write(true).open(path)?;
    match preallocation {
        Preallocation::Off | Preallocation::Metadata => file.set_len(size)?,
        Preallocation::Falloc if size > 0 => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?,
        Preallocation::Falloc => {}
        Preallocation::Full => {
            let zeros = vec![0; 1 << 20];
            let mut rest = size;
            while rest > 0 {
                abort::check()?;
                let count = rest.min(zeros.len() as u64);
                file.write_all(&zeros[..count as usize])?;
                rest -= count;
            }
            file.sync_data()?;
        }
    }
    Ok(())
}

/// Removes what a failed allocation made.
fn discard(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir(path) } else { remove_if_there(path) };
    remove_empty_parent(path);
    removed.context(|| format!("unable to remove '{}'", path.display()))
}

/// The guest's directory goes with its last image.
fn remove_empty_parent(path: &Path) {
    if let Some(directory) = path.parent() {
        // Fails, as wanted, while something is in it.
        let _ = fs::remove_dir(directory);
    }
}

pub(super) fn free(storage: &Storage, name: &Name) -> Result<()> {
    let path = path_of(storage, name)?;
    if name.content() == Content::Backup && protection_path(&path).exists() {
        bail!("cannot remove protected volume '{name}' on '{}'", storage.id);
    }
    let Name::Image(image) = name else {
        remove_if_there(&path).context(|| format!("unlink '{}' failed", path.display()))?;
        return if name.content() == Content::Backup { remove_companions(&path) } else { Ok(()) };
    };
    if image.format == Format::Subvol {
        // A tree can be large; its name is free when it is gone.
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => other.context(|| format!("unable to remove '{}'", path.display()))?,
        }
    }
    let _lock = lock_names(storage)?;
    if image.is_base {
        check_without_clones(storage, image)?;
        make_mutable(&path);
    }
    if image.format != Format::Subvol {
        remove_if_there(&path).context(|| format!("unlink '{}' failed", path.display()))?;
    }
    remove_empty_parent(&path);
    Ok(())
}

/// A backup's log and notes go with it. (PVE: PVE/Storage.pm, archive_auxiliaries_remove)
fn remove_companions(archive: &Path) -> Result<()> {
    let text = archive.to_string_lossy();
    // The stem ends at the first dot of the file name: names of backups have their dots in the extension.
    let directory = text.rfind('/').map_or(0, |slash| slash + 1);
    let stem = text[directory..].find('.').map_or(&*text, |dot| &text[..directory + dot]);
    for path in [PathBuf::from(format!("{stem}.log")), notes_path(archive)] {
        remove_if_there(&path).context(|| format!("removing '{}' failed", path.display()))?;
    }
    Ok(())
}

/// A base image stays while linked clones need it.
fn check_without_clones(storage: &Storage, base: &ImageName) -> Result<()> {
    let filter = Filter { contents: vec![Content::Images, Content::Rootdir], vmid: None };
    let is_child = |image: ImageName| image.base.is_some_and(|(vmid, file)| vmid == base.vmid && file == base.file);
    let used = list::list(storage, &filter)?.into_iter().any(|volume| match volume.id.name.parse() {
        Ok(Name::Image(image)) => is_child(image),
        _ => false,
    });
    if used {
        bail!("base volume '{base}' is still in use by linked clones");
    }
    Ok(())
}

/// Templates' images carry the immutable flag where the file system has one.
fn make_mutable(path: &Path) {
    let Ok(file) = File::open(path) else { return };
    if let Ok(flags) = rustix::fs::ioctl_getflags(&file)
        && flags.contains(IFlags::IMMUTABLE)
    {
        // The removal that follows reports what is wrong.
        let _ = rustix::fs::ioctl_setflags(&file, flags.difference(IFlags::IMMUTABLE));
    }
}

pub(super) fn resize(storage: &Storage, name: &Name, size: u64) -> Result<()> {
    let Name::Image(image) = name else { bail!("can't resize this image format") };
    let path = path_of(storage, name)?;
    let size = size.checked_next_multiple_of(1024).ok_or_else(|| Error::new("size is too large"))?;
    match image.format {
        Format::Vmdk | Format::Subvol => bail!("can't resize this image format"),
        Format::Raw => {
            let place = || path.display().to_string();
            let file = File::options().write(true).open(&path).context(place)?;
            let old = file.metadata().context(place)?.len();
            if size < old {
                bail!("unable to shrink '{}' from {old} to {size} bytes", path.display());
            }
            let result = match Preallocation::of(storage, Format::Raw) {
                Preallocation::Falloc | Preallocation::Full if size > old => {
                    rustix::fs::fallocate(&file, FallocateFlags::empty(), old, size - old).map_err(Error::from)
                }
                _ => file.set_len(size).map_err(Error::from),
            };
            result.map_err(|error| {
                // A disk that could not grow is as it was.
                let failures: Vec<Error> = file.set_len(old).err().map(Error::from).into_iter().collect();
                error.context(place()).with_cleanup_failures(&failures)
            })
        }
        Format::Qcow2 => {
            let option = format!("--preallocation={}", Preallocation::of(storage, Format::Qcow2).name());
            let arguments = ["resize", &option, "-f", "qcow2", &path.to_string_lossy(), &size.to_string()];
            command::run("qemu-img", &arguments).map(drop)
        }
    }
}
