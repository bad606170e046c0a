//! Making, removing and growing images of a directory storage.
//! (PVE: pve-storage PVE/Storage/Plugin.pm, alloc_image, free_image, volume_resize)
//!
//! The storage's queue lock covers choosing and reserving a name, nothing that takes time.

use super::attributes::{notes_path, protection_path};
use super::making::{Layout, Making, remove_hidden};
use super::name::{ImageName, Name, parse_image_file};
use super::{list, path_of, snapshots};
use crate::file::remove_if_there;
use crate::storage::content::Content;
use crate::storage::driver::{Filter, Storage};
use crate::storage::volume::{Format, NewVolume};
use crate::task::abort;
use crate::{Error, Result, bail, command, error::ResultExt};
use rustix::fs::{FallocateFlags, IFlags, Mode as FileMode, OFlags};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

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

/// Reserves a name for a new image: what is asked must fit together.
pub fn begin(storage: &Storage, layout: &dyn Layout, new: &NewVolume) -> Result<Making> {
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
    Making::reserve(storage, layout, new.vmid, format, None, named)
}

/// Makes the file or directory of a reserved image.
pub fn create(storage: &Storage, making: &Making, size: u64) -> Result<()> {
    let (path, format) = (making.inside(), making.image().format);
    if format == Format::Subvol {
        fs::create_dir(path).context(|| format!("unable to create subvol '{}'", path.display()))?;
        return Ok(rustix::fs::chmod(path, FileMode::from_raw_mode(0o755))?);
    }
    create_empty(path)?;
    fill(storage, path, format, size)
}

/// A new file of our own; an existing one, also a link, is an error.
pub fn create_empty(path: &Path) -> Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, FileMode::from_raw_mode(0o640))
        .context(|| format!("unable to create image: '{}'", path.display()))?;
    Ok(file.into())
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

/// A qcow2 image on top of another one, named as the new image's directory will see it: a hidden one sees it otherwise.
pub fn create_backed(path: &Path, backing: &str, format: Format, size: u64) -> Result<()> {
    let options = "extended_l2=on,cluster_size=128k";
    let (place, size) = (path.to_string_lossy(), size.to_string());
    let arguments = ["create", "-u", "-f", "qcow2", "-F", format.name(), "-b", backing, "-o", options, &place, &size];
    command::run("qemu-img", &arguments).context(|| "unable to create image")?;
    Ok(rustix::fs::chmod(path, FileMode::from_raw_mode(0o640))?)
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

/// The guest's directory goes with its last image.
pub fn remove_empty_parent(path: &Path) {
    if let Some(directory) = path.parent() {
        // Fails, as wanted, while something is in it.
        let _ = fs::remove_dir(directory);
    }
}

pub(super) fn free(storage: &Storage, name: &Name) -> Result<()> {
    if matches!(name, Name::Packed(..)) {
        bail!("a disk within an archive cannot be removed");
    }
    let path = path_of(storage, name)?;
    if name.content() == Content::Backup && protection_path(&path).exists() {
        bail!("cannot remove protected volume '{name}' on '{}'", storage.id);
    }
    let Name::Image(image) = name else {
        remove_if_there(&path).context(|| format!("unlink '{}' failed", path.display()))?;
        return if name.content() == Content::Backup { remove_companions(&path) } else { Ok(()) };
    };
    if image.format == Format::Subvol {
        // A tree can be large: it is out of sight at once, and gone later.
        remove_hidden(storage, &path)?;
    }
    let _lock = storage.lock()?;
    if image.is_base {
        check_without_clones(storage, image)?;
        make_mutable(&path);
    }
    if image.format != Format::Subvol {
        let chain = if storage.entry.flag("snapshot-as-volume-chain") == Some(true) {
            snapshots::chain_files(&path)
        } else {
            Vec::new()
        };
        remove_if_there(&path).context(|| format!("unlink '{}' failed", path.display()))?;
        for file in chain {
            remove_if_there(&file).context(|| format!("unlink '{}' failed", file.display()))?;
        }
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
pub fn make_mutable(path: &Path) {
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
    resize_at(storage, &path_of(storage, name)?, image.format, size)
}

/// Makes an image at a path larger.
pub fn resize_at(storage: &Storage, path: &Path, format: Format, size: u64) -> Result<()> {
    let size = size.checked_next_multiple_of(1024).ok_or_else(|| Error::new("size is too large"))?;
    match format {
        Format::Vmdk | Format::Subvol => bail!("can't resize this image format"),
        Format::Raw => {
            let place = || path.display().to_string();
            let file = File::options().write(true).open(path).context(place)?;
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
