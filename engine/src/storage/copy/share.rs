//! Volumes that share their blocks with something that lies on their storage, where its file system can do that.

use super::raw;
use crate::storage::content::Content;
use crate::storage::directory::making;
use crate::storage::driver::{Source, Storage};
use crate::storage::volume::{Format, NewVolume, VolumeId};
use crate::storage::{activated, with_images};
use crate::{Context, Result, error::ResultExt};
use rustix::fs::{CWD, RenameFlags};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Where a storage keeps what its volumes are made of; no volume has such a name.
const PLACE: &str = ".unpacked";

/// Types whose volumes are files that can share blocks.
const KINDS: [&str; 2] = ["dir", "btrfs"];

fn place(storage: &Storage) -> Option<PathBuf> {
    let is_able = KINDS.contains(&storage.entry.kind());
    Some(storage.entry.content_directory(Content::Images).ok().filter(|_| is_able)?.join(PLACE))
}

/// A directory for what volumes of a storage may share; none where its file system cannot.
pub fn sharing_place(ctx: &Context, storage: &str) -> Result<Option<PathBuf>> {
    let (storage, _) = activated(ctx, storage)?;
    let Some(place) = place(&storage) else { return Ok(None) };
    if !place.parent().is_some_and(raw::can_share) {
        return Ok(None);
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&place).context(|| format!("unable to create '{}'", place.display()))?;
    making::remove_abandoned_in(&storage, &place);
    Ok(Some(place))
}

/// The directories of all storages that have one.
pub fn sharing_places(ctx: &Context) -> Result<Vec<PathBuf>> {
    let storages = with_images(ctx)?.into_iter().filter_map(|id| activated(ctx, &id).ok());
    Ok(storages.filter_map(|(storage, _)| place(&storage)).filter(|place| place.is_dir()).collect())
}

/// Makes what volumes will share: `fill` gets an empty image or directory as a new volume would be, `note` the directory that
/// becomes `entry` with it, in one step.
pub fn make_shared(
    ctx: &Context,
    storage: &str,
    new: &NewVolume,
    entry: &Path,
    fill: &dyn Fn(&Path) -> Result<()>,
    note: &dyn Fn(&Path) -> Result<()>,
) -> Result<()> {
    let (storage, driver) = activated(ctx, storage)?;
    let target = driver.begin(&storage, new)?;
    fill(target.path())?;
    let hidden = making::hide(&storage, entry.parent().unwrap_or(entry))?;
    let placed = (|| {
        target.keep(&hidden.join("root"))?;
        note(&hidden)?;
        rustix::fs::renameat_with(CWD, &hidden, CWD, entry, RenameFlags::NOREPLACE)
            .context(|| format!("unable to create '{}'", entry.display()))
    })();
    if placed.is_err() {
        let _ = fs::remove_dir_all(&hidden);
    }
    placed
}

/// Makes a volume that shares all blocks of a file or directory on its storage; none where the file system cannot.
pub fn share(ctx: &Context, source: &Path, storage: &str, new: &NewVolume) -> Result<Option<VolumeId>> {
    let (to, driver) = activated(ctx, storage)?;
    let source = Source { path: source.to_owned(), internal: None };
    if let Some(name) = driver.copy_at_once(&to, &source, new)? {
        return Ok(Some(to.volume(name)));
    }
    let target = driver.begin(&to, new)?;
    let shared = match target.format() {
        Format::Subvol => raw::reflink_tree(&source.path, target.path())?,
        _ => raw::reflink(&source.path, target.path())?,
    };
    if !shared {
        return Ok(None);
    }
    target.finish().map(|name| Some(to.volume(name)))
}
