//! What VMs and containers have in common: where their configuration lies, how it is read and changed.
//!
//! Changing a configuration takes the file's short lock only; tasks that work on the guest itself hold the guest's queue
//! lock ([`crate::lock::guest`]) and change the file through [`update`] as well.

pub mod firewall;
pub mod input;
pub mod purge;
pub mod startup;
pub mod tags;
pub mod values;
pub mod work;

use crate::config::guest::{GuestConfig, GuestKind};
use crate::{Context, Error, Result, Vmid, error::ResultExt, file};
use std::path::PathBuf;

/// The directory of a kind's files on this node.
pub fn directory(ctx: &Context, kind: GuestKind) -> PathBuf {
    ctx.root.etc_pve("nodes").join(&ctx.node).join(kind.config_directory())
}

/// The file of a guest on this node.
pub fn path(ctx: &Context, kind: GuestKind, vmid: Vmid) -> PathBuf {
    directory(ctx, kind).join(format!("{vmid}.conf"))
}

/// All guests of a kind on this node, by number.
pub fn list(ctx: &Context, kind: GuestKind) -> Result<Vec<Vmid>> {
    let directory = directory(ctx, kind);
    let entries = match std::fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| directory.display().to_string()),
    };
    let mut found: Vec<Vmid> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".conf")?.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// The kind of the guest that has this number on this node.
pub fn find(ctx: &Context, vmid: Vmid) -> Option<GuestKind> {
    [GuestKind::Qemu, GuestKind::Lxc].into_iter().find(|kind| path(ctx, *kind, vmid).exists())
}

/// Reads a guest's configuration.
///
/// # Errors
/// `Configuration file 'nodes/N/qemu-server/V.conf' does not exist`, which clients match on.
pub fn load(ctx: &Context, kind: GuestKind, vmid: Vmid) -> Result<GuestConfig> {
    let path = path(ctx, kind, vmid);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(read(kind, vmid, &String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(missing(ctx, kind, vmid)),
        Err(error) => Err(error).context(|| format!("unable to read '{}'", path.display())),
    }
}

/// A configuration's text as PVE reads it: values that their options do not allow do not count, and are reported as problems.
pub fn read(kind: GuestKind, vmid: Vmid, text: &str) -> GuestConfig {
    let check = |section: &_, key: &str, value: &str| values::stored(kind, section, key, value);
    let mut config = GuestConfig::parse_with(kind, text, &check);
    for problem in &mut config.problems {
        problem.text.insert_str(0, &format!("vm {vmid} - "));
    }
    config
}

fn missing(ctx: &Context, kind: GuestKind, vmid: Vmid) -> Error {
    let file = format!("nodes/{}/{}/{vmid}.conf", ctx.node, kind.config_directory());
    Error::new(format!("Configuration file '{file}' does not exist"))
}

/// Writes the configuration of a new guest. The number must be free.
pub fn create(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<()> {
    let path = path(ctx, config.kind, vmid);
    std::fs::create_dir_all(directory(ctx, config.kind)).context(|| path.display().to_string())?;
    // One lock for all kinds: a VM and a container must not get the same number.
    let _lock = file::lock_file(ctx, &ctx.root.etc_pve("new-guest"))?;
    if let Some(kind) = find(ctx, vmid) {
        let label = kind.label();
        return Err(Error::new(format!(
            "unable to create {label} {vmid} - {label} {vmid} already exists on node '{}'",
            ctx.node
        )));
    }
    let mut config = config.clone();
    values::settle(&mut config)?;
    file::replace(&path, config.print().as_bytes(), 0o640)
}

/// Changes a guest's configuration under the file's lock and gives back what `change` returned. An unchanged
/// configuration is not written.
pub fn update<T>(
    ctx: &Context,
    kind: GuestKind,
    vmid: Vmid,
    change: impl FnOnce(&mut GuestConfig) -> Result<T>,
) -> Result<T> {
    let path = path(ctx, kind, vmid);
    let _lock = file::lock_file(ctx, &path)?;
    let old = load(ctx, kind, vmid)?;
    let mut new = old.clone();
    let result = change(&mut new)?;
    if new != old {
        values::settle(&mut new)?;
        file::replace(&path, new.print().as_bytes(), 0o640)?;
    }
    Ok(result)
}

/// Removes a guest's configuration; the guest is gone after this.
pub fn remove(ctx: &Context, kind: GuestKind, vmid: Vmid) -> Result<()> {
    let path = path(ctx, kind, vmid);
    let _lock = file::lock_file(ctx, &path)?;
    std::fs::remove_file(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(ctx, kind, vmid),
        _ => Error::from(error).context(path.display()),
    })?;
    // The number is free again at once, also if it was given out a moment ago.
    crate::cluster::nextid::release(ctx, vmid)
}

/// Fails while the guest is marked as locked (backup, migration, …). (PVE: pve-guest-common PVE/AbstractConfig.pm)
pub fn check_lock(config: &GuestConfig) -> Result<()> {
    match config.current.get("lock") {
        Some(lock) => Err(Error::new(format!("{} is locked ({lock})", config.kind.label()))),
        None => Ok(()),
    }
}
