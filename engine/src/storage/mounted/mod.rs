//! Directories of other machines: `nfs`, `cifs` and `cephfs` are mounted at `/mnt/pve/ID`, and are directory storages
//! from then on. What the types do before and after that is a [`Share`].
//! (PVE: pve-storage PVE/Storage/NFSPlugin.pm, CIFSPlugin.pm, CephFSPlugin.pm)
//!
//! A server is asked with a deadline before anything touches its mount, so that a dead one makes an error and not a
//! process that hangs in the kernel.

pub mod cephfs;
pub mod cifs;
pub mod nfs;
mod server;

pub use server::{check_server_name, source_host};

use super::driver::{Secrets, Storage};
use super::config::Entry;
use crate::tool::Tool;
use crate::{Context, Result, bail, error::ResultExt, mounts};
use std::fs;
use std::time::Duration;

/// How long mounting may take; a server that answers at all needs less than a second.
const MOUNT: Duration = Duration::from_secs(25);

/// A kind of server that gives a directory.
pub trait Share: Sync {
    /// What the kernel calls the mounted thing, such as `nas:/export`.
    fn source(&self, storage: &Storage) -> Result<String>;

    /// Whether a mounted file system of that type and source is this one.
    fn is_mounted_as(&self, storage: &Storage, mount: &mounts::Mount) -> Result<bool>;

    /// The command that mounts it.
    fn mount(&self, storage: &Storage, source: &str, place: &str) -> Result<Tool>;

    /// Fails when the server does not answer.
    fn check_connection(&self, storage: &Storage) -> Result<()>;

    /// Options that never stand in `storage.cfg`.
    fn secret_options(&self) -> &'static [&'static str] {
        &[]
    }

    /// Keeps secrets that were given with a new or changed entry.
    fn keep_secrets(&self, _storage: &Storage, _secrets: &Secrets, _create: bool) -> Result<()> {
        Ok(())
    }

    /// Removes kept secrets.
    fn drop_secrets(&self, _storage: &Storage) -> Result<()> {
        Ok(())
    }
}

/// A new entry without a path gets the usual one.
pub fn complete_entry(ctx: &Context, id: &str, entry: &mut Entry, create: bool) {
    if create && entry.get("path").is_none() {
        entry.set("path", ctx.root.path(&format!("/mnt/pve/{id}")).to_string_lossy());
    }
}

/// Mounts the share unless it is mounted already. Nothing touches the place while the server does not answer.
pub fn activate(share: &dyn Share, storage: &Storage) -> Result<()> {
    if let Err(error) = share.check_connection(storage) {
        bail!("storage '{}' is not online - {error}", storage.id);
    }
    if is_mounted(share, storage)? {
        return Ok(());
    }
    let place = storage.entry.path()?;
    let create = storage.entry.flag("create-base-path").or(storage.entry.flag("mkdir")).unwrap_or(true);
    if create {
        fs::create_dir_all(place).context(|| format!("unable to create '{}'", place.display()))?;
    }
    if !place.is_dir() {
        bail!("unable to activate storage '{}' - directory '{}' does not exist", storage.id, place.display());
    }
    let source = share.source(storage)?;
    let result = share.mount(storage, &source, &place.to_string_lossy())?.within(MOUNT).run(storage.ctx);
    match result {
        // Another task may have been faster.
        Err(error) if !is_mounted(share, storage)? => Err(error.context("mount error")),
        _ => Ok(()),
    }
}

/// Unmounts the share if it is mounted.
pub fn deactivate(share: &dyn Share, storage: &Storage) -> Result<()> {
    if !is_mounted(share, storage)? {
        return Ok(());
    }
    let place = storage.entry.path()?.to_string_lossy().into_owned();
    Tool::new("umount").args(["--", &place]).within(MOUNT).run(storage.ctx).context(|| "umount error")
}

/// Fails unless the share is mounted; for everything that only looks.
pub fn check_mounted(share: &dyn Share, storage: &Storage) -> Result<()> {
    if !is_mounted(share, storage)? {
        bail!("storage '{}' is not mounted at '{}'", storage.id, storage.entry.path()?.display());
    }
    Ok(())
}

/// Whether the share lies at its place. Something else there is an error: its files are none of ours.
fn is_mounted(share: &dyn Share, storage: &Storage) -> Result<bool> {
    let place = storage.entry.path()?;
    match mounts::at(place) {
        None => Ok(false),
        Some(mount) if share.is_mounted_as(storage, &mount)? => Ok(true),
        Some(mount) => {
            bail!("'{}' is mounted at '{}', where storage '{}' belongs", mount.source, place.display(), storage.id)
        }
    }
}
