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

pub use server::{check_server_name, ping, source_host};

use super::config::Entry;
use super::directory::{FileDriver, Mount};
use super::driver::{Secrets, Storage};
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

/// The driver of type `nfs`.
pub static NFS: FileDriver<Mounted<nfs::Nfs>> = FileDriver(Mounted(nfs::Nfs));

/// The driver of type `cifs`.
pub static CIFS: FileDriver<Mounted<cifs::Cifs>> = FileDriver(Mounted(cifs::Cifs));

/// The driver of type `cephfs`.
pub static CEPHFS: FileDriver<Mounted<cephfs::CephFs>> = FileDriver(Mounted(cephfs::CephFs));

/// A share as the directory that it is mounted on.
pub struct Mounted<S>(pub S);

impl<S: Share> Mount for Mounted<S> {
    fn mount(&self, storage: &Storage) -> Result<()> {
        activate(&self.0, storage)
    }

    fn unmount(&self, storage: &Storage) -> Result<()> {
        deactivate(&self.0, storage)
    }

    fn is_remote(&self) -> bool {
        true
    }

    fn secret_options(&self) -> &'static [&'static str] {
        self.0.secret_options()
    }

    fn check_entry(&self, ctx: &Context, id: &str, entry: &mut Entry, create: bool) -> Result<()> {
        if create && entry.get("path").is_none() {
            entry.set("path", ctx.root.path(&format!("/mnt/pve/{id}")).to_string_lossy());
        }
        let storage = Storage { ctx, id: id.to_owned(), entry: entry.clone() };
        self.0.source(&storage).map(drop)
    }

    fn configure(&self, storage: &mut Storage, secrets: &Secrets, create: bool) -> Result<()> {
        self.0.keep_secrets(storage, secrets, create)
    }

    fn unconfigure(&self, storage: &Storage) -> Result<()> {
        self.0.drop_secrets(storage)
    }
}

/// Mounts the share unless it is mounted already. Nothing touches the place while the server does not answer.
fn activate(share: &dyn Share, storage: &Storage) -> Result<()> {
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
fn deactivate(share: &dyn Share, storage: &Storage) -> Result<()> {
    if !is_mounted(share, storage)? {
        return Ok(());
    }
    let place = storage.entry.path()?.to_string_lossy().into_owned();
    Tool::new("umount").args(["--", &place]).within(MOUNT).run(storage.ctx).context(|| "umount error")
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
