//! Templates, linked clones and new owners of images in directories.
//! (PVE: pve-storage PVE/Storage/Plugin.pm, create_base, clone_image and rename_volume)

use super::images::{create_backed, make_mutable, remove_empty_parent};
use super::making::{Making, Plain};
use super::name::{ImageName, Name, parse_image_file};
use super::{path_of, snapshots};
use crate::storage::driver::Storage;
use crate::storage::image;
use crate::storage::volume::Format;
use crate::{Error, Result, Vmid, bail, error::ResultExt};
use rustix::fs::{CWD, IFlags, Mode, RenameFlags};
use rustix::io::Errno;
use std::fs::{self, File};
use std::path::Path;

/// The image in a name.
pub fn image_of(name: &Name, what: &str) -> Result<ImageName> {
    match name {
        Name::Image(image) => Ok(image.clone()),
        _ => bail!("{what} on wrong vtype '{}'", name.content()),
    }
}

/// `vm-…` becomes `base-…`, which nobody may write any more.
pub fn make(storage: &Storage, name: &Name) -> Result<String> {
    let image = image_of(name, "create_base")?;
    if image.is_base {
        bail!("create_base not possible with base image");
    }
    let path = path_of(storage, name)?;
    check_base(&image, &path)?;
    let Some(rest) = image.file.strip_prefix("vm-") else {
        // Directories and images with a name of their own stay what they are.
        return Ok(name.to_string());
    };
    let base = ImageName { file: format!("base-{rest}"), is_base: true, ..image.clone() };
    let base = Name::Image(base);
    let new = path_of(storage, &base)?;
    rename_new(&path, &new)?;
    if let Err(error) = protect(&new) {
        let failures: Vec<Error> = fs::rename(&new, &path).err().map(Error::from).into_iter().collect();
        return Err(error.with_cleanup_failures(&failures));
    }
    Ok(base.to_string())
}

/// The file must be based on what its name says.
fn check_base(image: &ImageName, path: &Path) -> Result<()> {
    let Some((vmid, file)) = &image.base else { return Ok(()) };
    let expected = format!("../{vmid}/{file}");
    if image::read(path)?.backing.as_deref() != Some(&expected) {
        bail!("volname '{image}' contains wrong information about parent");
    }
    Ok(())
}

fn protect(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444)).context(|| format!("chmod '{}'", path.display()))?;
    if let Ok(flags) = rustix::fs::ioctl_getflags(&file) {
        // Not every file system has the flag.
        let _ = rustix::fs::ioctl_setflags(&file, flags.union(IFlags::IMMUTABLE));
    }
    Ok(())
}

/// Renames to a name that nobody has.
pub fn rename_new(from: &Path, to: &Path) -> Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => bail!("file '{}' already exists", to.display()),
        Err(Errno::INVAL) if fs::symlink_metadata(to).is_err() => Ok(fs::rename(from, to)?),
        Err(error) => Err(error).context(|| format!("rename '{}' to '{}' failed", from.display(), to.display())),
    }
}

/// A qcow2 image on top of a template's.
pub fn clone(storage: &Storage, name: &Name, snapshot: Option<&str>, vmid: Vmid) -> Result<String> {
    let base = image_of(name, "clone_image")?;
    if snapshot.is_some() {
        bail!("this storage type does not support clone_image on snapshot");
    }
    if base.format == Format::Subvol {
        bail!("this storage type does not support clone_image on subvolumes");
    }
    if !base.is_base {
        bail!("clone_image only works on base images");
    }
    let size =
        image::read(&path_of(storage, name)?).context(|| format!("volume '{}'", storage.volume(name.to_string())))?;
    let making = Making::reserve(storage, &Plain, vmid, Format::Qcow2, Some((base.vmid, base.file.clone())), None)?;
    create_backed(making.inside(), &format!("../{}/{}", base.vmid, base.file), base.format, size.size)?;
    // The template cannot have gone meanwhile: whoever removes it looks for clones under this lock.
    let _lock = storage.lock()?;
    if fs::symlink_metadata(path_of(storage, name)?).is_err() {
        bail!("volume '{}' does not exist", storage.volume(name.to_string()));
    }
    making.place()
}

/// Moves an image to another guest.
pub fn rename(storage: &Storage, name: &Name, vmid: Vmid, wanted: Option<&str>) -> Result<String> {
    let image = image_of(name, "rename")?;
    let path = path_of(storage, name)?;
    if snapshots::has_chain(storage, &path).unwrap_or(false) {
        bail!("we can't rename volume if a snapshot backed by a volume-chain exists");
    }
    if let Some(wanted) = wanted
        && parse_image_file(wanted)?.0 != image.format
    {
        bail!("illegal name '{wanted}' - wrong extension for format '{}'", image.format);
    }
    let making = Making::reserve(storage, &Plain, vmid, image.format, image.base.clone(), wanted)?;
    let immutable = image.is_base;
    if immutable {
        make_mutable(&path);
    }
    // The volume itself never lies in the hidden directory: whatever happens, it has one name or the other.
    let renamed = rename_new(&path, making.target());
    if immutable {
        let protected = if renamed.is_ok() && making.image().is_base { making.target() } else { &path };
        protect(protected)?;
    }
    renamed?;
    remove_empty_parent(&path);
    Ok(making.image().to_string())
}
