//! Storages and volumes: what is configured, where volumes are, making and removing them.
//!
//! Other areas use the functions of this file and the types of [`volume`]. Each type of storage is a [`driver::Driver`]
//! in a file of its own with a row in [`kind::KINDS`]; today `dir` is at work, the others are kept and shown.
//!
//! A volume id is checked on every way to a path, so that no id can name anything outside its storage.

pub mod appliance;
mod backup;
pub mod btrfs;
pub mod ceph;
pub mod config;
pub mod content;
pub mod convert;
pub mod copy;
pub mod directory;
pub mod download;
pub mod driver;
mod edit;
pub mod esxi;
pub mod extract;
pub mod feature;
pub mod guest_volume;
pub mod handlers;
mod headers;
pub mod image;
pub mod import;
pub mod iscsi;
pub mod kind;
mod lifecycle;
mod limit;
pub mod lvm;
pub mod mounted;
pub mod node_entry;
mod permission;
pub mod pool;
pub mod prune;
pub mod rbd;
mod receive;
pub mod status;
pub mod stream;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_documents;
#[cfg(test)]
mod tests_filesystems;
#[cfg(test)]
mod tests_lifecycle;
pub mod transfer;
pub mod unfinished;
pub mod volume;
pub mod zfs;

pub use config::{Entry, StorageConfig};
pub use content::Content;
pub use contract::format::size::{parse as parse_size, print as print_size};
pub use copy::{Copy, copy, copy_as};
pub use driver::{Attributes, Described};
pub use feature::Feature;
pub use import::{ImageSource, ImportImage, import_image};
pub use lifecycle::{
    activate_existing, activate_volume, clone_linked, deactivate_volume, has_feature, linked_clones_of, make_template,
    reassign, rollback, rollback_possible, snapshot, snapshot_delete, snapshots, snapshots_in_image,
};
pub use limit::bandwidth_limit;
pub use permission::check_volume_access;
pub use status::{StorageStatus, probe};
pub use volume::{Format, NewVolume, Volume, VolumeId, VolumeInfo, VolumeKind};

use crate::{Context, Error, Result, Vmid, bail};
use driver::{Driver, Filter, Storage};
use std::path::PathBuf;

/// The storages of the cluster as this node sees them.
pub fn config(ctx: &Context) -> Result<StorageConfig> {
    StorageConfig::load(ctx)
}

/// A configured storage.
///
/// # Errors
/// `storage 'x' does not exist`.
pub fn find<'a>(ctx: &'a Context, id: &str) -> Result<Storage<'a>> {
    let entry = config(ctx)?.entry(id)?.clone();
    Ok(Storage { ctx, id: id.to_owned(), entry })
}

/// A storage that may be used on this node. (PVE: pve-storage PVE/Storage.pm, storage_check_enabled)
pub fn find_enabled<'a>(ctx: &'a Context, id: &str) -> Result<Storage<'a>> {
    let storage = find(ctx, id)?;
    if storage.entry.is_disabled() {
        bail!("storage '{id}' is disabled");
    }
    if !storage.entry.is_on_node(&ctx.node) {
        bail!("storage '{id}' is not available on node '{}'", ctx.node);
    }
    Ok(storage)
}

/// Who does the work for a storage.
pub fn driver_of(storage: &Storage) -> Result<&'static dyn Driver> {
    let kind = storage.entry.known_kind();
    kind.and_then(|kind| kind.driver).ok_or_else(|| {
        Error::new(format!("storage '{}': type '{}' is not supported", storage.id, storage.entry.kind()))
    })
}

/// An enabled storage made ready, with its driver.
pub(crate) fn activated<'a>(ctx: &'a Context, id: &str) -> Result<(Storage<'a>, &'static dyn Driver)> {
    let storage = find_enabled(ctx, id)?;
    let driver = driver_of(&storage)?;
    status::ready(&storage, driver)?;
    Ok((storage, driver))
}

fn with_driver<'a>(ctx: &'a Context, id: &str) -> Result<(Storage<'a>, &'static dyn Driver)> {
    let storage = find(ctx, id)?;
    let driver = driver_of(&storage)?;
    Ok((storage, driver))
}

/// Makes a storage usable on this node.
pub fn activate(ctx: &Context, id: &str) -> Result<()> {
    activated(ctx, id).map(drop)
}

/// Where a volume's bytes are, whether it exists or not.
pub fn path(ctx: &Context, volume: &VolumeId) -> Result<PathBuf> {
    let (storage, driver) = with_driver(ctx, &volume.storage)?;
    driver.path(&storage, &volume.name)
}

/// What a volume's name says.
pub fn describe(ctx: &Context, volume: &VolumeId) -> Result<Described> {
    let (storage, driver) = with_driver(ctx, &volume.storage)?;
    driver.describe(&storage, &volume.name)
}

/// Size and format of an existing volume.
///
/// # Errors
/// `volume 'S:V' does not exist`.
pub fn info(ctx: &Context, volume: &VolumeId) -> Result<VolumeInfo> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.info(&storage, &volume.name)
}

/// Makes a volume. Nothing is left behind if it fails.
pub fn allocate(ctx: &Context, storage: &str, new: &NewVolume) -> Result<VolumeId> {
    let (storage, driver) = activated(ctx, storage)?;
    if let Some(format) = new.format
        && !storage.entry.formats().contains(&format)
    {
        bail!("unsupported format '{format}' for storage type {}", storage.entry.kind());
    }
    let name = driver.allocate(&storage, new)?;
    Ok(storage.volume(name))
}

/// Removes a volume. One that is gone already is no error.
pub fn free(ctx: &Context, volume: &VolumeId) -> Result<()> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.free(&storage, &volume.name)
}

/// Makes a volume larger; a running VM is told apart from this.
pub fn resize(ctx: &Context, volume: &VolumeId, size: u64) -> Result<()> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.resize(&storage, &volume.name, size)
}

/// Notes and protection of a volume.
pub fn attributes(ctx: &Context, volume: &VolumeId) -> Result<Attributes> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.attributes(&storage, &volume.name)
}

/// Sets a backup's notes; an empty text removes them.
pub fn set_notes(ctx: &Context, volume: &VolumeId, notes: &str) -> Result<()> {
    let (storage, driver) = activated(ctx, &volume.storage)?;
    driver.set_notes(&storage, &volume.name, notes)
}

/// What a storage holds, sorted by id. `contents` is all that it may hold if empty.
pub fn list(ctx: &Context, id: &str, vmid: Option<Vmid>, contents: &[Content]) -> Result<Vec<Volume>> {
    let (storage, driver) = activated(ctx, id)?;
    let allowed = storage.entry.contents();
    let wanted = if contents.is_empty() { &Content::ALL[..] } else { contents };
    let contents = wanted.iter().copied().filter(|content| allowed.contains(content)).collect();
    let mut volumes = driver.list(&storage, &Filter { contents, vmid })?;
    volumes.sort_by_cached_key(|volume| volume.id.to_string().to_lowercase());
    Ok(volumes)
}

/// All images that belong to a guest, on all usable storages of this node.
pub fn owned_by(ctx: &Context, vmid: Vmid) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    for id in with_images(ctx)? {
        volumes.extend(list(ctx, &id, Some(vmid), &[Content::Images, Content::Rootdir])?);
    }
    Ok(volumes)
}

/// Removes what killed processes have left of a guest that is being destroyed, on all usable storages of this node. One
/// that is not there now keeps it.
pub fn remove_abandoned(ctx: &Context, vmid: Vmid) -> Result<()> {
    for id in with_images(ctx)? {
        if let Ok((storage, driver)) = activated(ctx, &id) {
            driver.remove_abandoned(&storage, vmid);
        }
    }
    Ok(())
}

/// The usable storages of this node that may hold images of guests.
pub(crate) fn with_images(ctx: &Context) -> Result<Vec<String>> {
    let config = config(ctx)?;
    let usable = config.entries().filter(|(_, entry)| {
        let holds_images = entry.has_content(Content::Images) || entry.has_content(Content::Rootdir);
        let works = entry.known_kind().is_some_and(|kind| kind.driver.is_some());
        holds_images && works && !entry.is_disabled() && entry.is_on_node(&ctx.node)
    });
    Ok(usable.map(|(id, _)| id.to_owned()).collect())
}

/// Fails unless the storage may hold a content type and can be used here. `content` is the word of `storage.cfg`.
pub fn check_content(ctx: &Context, id: &str, content: &str) -> Result<()> {
    let storage = find_enabled(ctx, id)?;
    let wanted: Content = content.parse().map_err(Error::new)?;
    if !storage.entry.has_content(wanted) {
        bail!("storage '{id}' does not support content-type '{content}'");
    }
    Ok(())
}

/// The state of all storages; one that hangs is reported as inactive after a short time. Empty if `storage.cfg` cannot
/// be read at all.
pub fn status(ctx: &Context) -> Vec<StorageStatus> {
    status::all(ctx).unwrap_or_default()
}
