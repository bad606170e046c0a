//! Full copies between any two storages and formats. The storage's queue is never held while bytes move: the target is
//! made under its own lock, filled without one, and becomes visible in one step at the end.

pub(super) mod pace;
pub(super) mod pipe;
pub(super) mod raw;
mod share;

use super::convert::{self, Conversion, Input};
use super::driver::{Driver, Source, Storage};
use super::unfinished::Unfinished;
use super::volume::{Format, NewVolume, VolumeId, VolumeKind};
use super::{activated, image};
use crate::{Context, Result, Vmid, bail};
pub use pace::Pace;
use pace::Progress;
pub use share::{make_shared, share, sharing_place, sharing_places};
use std::path::Path;

/// A full copy that is wanted.
#[derive(Debug, Clone)]
pub struct Copy<'a> {
    /// The volume to copy.
    pub source: &'a VolumeId,
    /// The snapshot of it to copy; the current state if absent.
    pub snapshot: Option<&'a str>,
    /// The storage of the copy.
    pub storage: &'a str,
    /// The guest that will own the copy.
    pub vmid: Vmid,
    /// The copy's format; the source's if the storage can hold it, else the storage's default.
    pub format: Option<Format>,
    /// What the copy is for.
    pub kind: VolumeKind,
    /// KiB per second at most.
    pub limit: Option<u64>,
}

/// Makes the copy; `progress` gets lines for a task's log. Nothing is left behind if it fails or is stopped.
pub fn copy(ctx: &Context, wanted: &Copy, progress: &mut dyn FnMut(&str)) -> Result<VolumeId> {
    copy_as(ctx, wanted, None, progress)
}

/// The same under a file name of the caller's choice.
pub fn copy_as(ctx: &Context, wanted: &Copy, file: Option<&str>, progress: &mut dyn FnMut(&str)) -> Result<VolumeId> {
    let (from, from_driver) = activated(ctx, &wanted.source.storage)?;
    let (to, to_driver) = activated(ctx, wanted.storage)?;
    let name = &wanted.source.name;
    let format = from_driver.describe(&from, name)?.format;
    let info = from_driver.info(&from, name)?;
    let target_format = target_format(&to, format, wanted.format)?;
    let source = from_driver.source(&from, name, wanted.snapshot)?;
    let new = NewVolume {
        vmid: wanted.vmid,
        format: Some(target_format),
        name: file.map(str::to_owned),
        size: info.size,
        kind: wanted.kind,
    };
    if wanted.source.storage == wanted.storage
        && format == target_format
        && let Some(made) = to_driver.copy_at_once(&to, &source, &new)?
    {
        Progress::new(info.size, progress).finish();
        return Ok(to.volume(made));
    }
    let path = from_driver.activate_volume(&from, name, wanted.snapshot)?;
    let source = Source { path, ..source };
    let result = fill(to_driver, &to, &new, &source, format, wanted.limit, progress);
    if wanted.snapshot.is_some() {
        // The snapshot's device was made for this copy; that it stays harms nobody.
        let _ = from_driver.deactivate_volume(&from, name, wanted.snapshot);
    }
    result.map(|name| to.volume(name))
}

/// Copies all files of a directory into an empty one, with owners, attributes and holes. `limit`: KiB per second.
pub fn tree(source: &Path, target: &Path, limit: Option<u64>) -> Result<()> {
    pipe::tree(source, target, &mut Pace::new(limit.map(|kib| kib.saturating_mul(1024))))
}

/// The wanted format, or the source's, or the target's default.
fn target_format(to: &Storage, source: Format, wanted: Option<Format>) -> Result<Format> {
    let possible = to.entry.formats();
    let format = match wanted {
        Some(format) => format,
        None if possible.contains(&source) && source != Format::Vmdk => source,
        None if source == Format::Subvol => Format::Subvol,
        None => to.entry.default_format(),
    };
    if !possible.contains(&format) {
        bail!("unsupported format '{format}' for storage type {}", to.entry.kind());
    }
    if (format == Format::Subvol) != (source == Format::Subvol) {
        bail!("cannot copy a volume in format '{source}' to format '{format}'");
    }
    Ok(format)
}

fn fill(
    driver: &dyn Driver,
    storage: &Storage,
    new: &NewVolume,
    source: &Source,
    format: Format,
    limit: Option<u64>,
    progress: &mut dyn FnMut(&str),
) -> Result<String> {
    let size = if format == Format::Subvol { 0 } else { new.size };
    let target = driver.begin(storage, &NewVolume { size, ..new.clone() })?;
    let limit = limit.map(|kib| kib.saturating_mul(1024));
    let mut pace = Pace::new(limit);
    match (format, target.format()) {
        (Format::Subvol, _) => pipe::tree(&source.path, target.path(), &mut pace)?,
        (Format::Raw, Format::Raw) if is_local(&source.path) && is_local(target.path()) => {
            let zeros = target.reads_as_zeros();
            raw::copy(&source.path, target.path(), zeros, &mut pace, &mut Progress::new(size, progress))?;
        }
        (from, to) if from == to && limit.is_none() && complete_in_itself(source)? => {
            if raw::reflink(&source.path, target.path())? {
                Progress::new(size, progress).finish();
            } else {
                run_conversion(source, format, &*target, limit, size, progress)?;
            }
        }
        _ => run_conversion(source, format, &*target, limit, size, progress)?,
    }
    target.finish()
}

fn run_conversion(
    source: &Source,
    format: Format,
    target: &dyn Unfinished,
    limit: Option<u64>,
    size: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<()> {
    let conversion = Conversion {
        source: Input::File(&source.path, format.name()),
        snapshot: source.internal.as_deref(),
        target: target.path(),
        target_format: target.format(),
        target_is_zero: target.reads_as_zeros(),
        limit,
    };
    convert::run(&conversion, &mut Progress::new(size, progress))
}

/// A file or device, not a name that only QEMU understands.
fn is_local(path: &Path) -> bool {
    path.is_absolute()
}

/// An image file that is the whole truth about its disk: no snapshots in it, nothing in other files.
fn complete_in_itself(source: &Source) -> Result<bool> {
    if source.internal.is_some() || !is_local(&source.path) {
        return Ok(false);
    }
    let header = image::read(&source.path)?;
    Ok(header.format == Format::Qcow2 && header.backing.is_none() && !header.external_data && header.snapshots == 0)
}
