//! Storages on ZFS: `zfspool` on this machine ([`pool`]) and `zfs`, whose volumes another machine gives by iSCSI
//! ([`over_iscsi`]); and what both share: the commands and their answers. Untested on real hardware.
//! (PVE: pve-storage PVE/Storage/ZFSPoolPlugin.pm, PVE/Storage/ZFSPlugin.pm)

mod dataset;
pub mod over_iscsi;
pub mod pool;
mod remote;
mod stream;
mod target;
#[cfg(test)]
mod tests;

use super::driver::Storage;
use super::guest_volume::{GuestVolume, Prefix};
use super::volume::Format;
use crate::tool::Tool;
use crate::{Error, Result, bail};
use std::time::Duration;

/// The snapshot of a template that linked clones are made of.
const BASE_SNAPSHOT: &str = "__base__";

/// How long questions may take outside of tasks.
const QUESTION: Duration = Duration::from_secs(10);

/// The data set below which the volumes lie: `POOL` or `POOL/DATASET…`.
pub fn pool_name<'s>(storage: &'s Storage) -> Result<&'s str> {
    let name = storage.entry.get("pool").ok_or_else(|| Error::new("missing value for required option 'pool'"))?;
    check_dataset(name)
}

/// Refuses what cannot be a data set, so that no name is an option, a path out of the pool, or shell text on another
/// machine. (zfs(8): letters, digits, `-`, `_`, `.`, `:`)
pub fn check_dataset(name: &str) -> Result<&str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    let part_is_good = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed);
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.split('/').all(part_is_good) {
        bail!("invalid ZFS pool name '{}'", name.escape_debug());
    }
    Ok(name)
}

/// A parsed volume name and the format that it tells.
fn parse(name: &str) -> Result<(GuestVolume, Format)> {
    let parsed = GuestVolume::parse(name, "zfs")?;
    let format = if matches!(parsed.prefix, Prefix::Subvol | Prefix::Basevol) { Format::Subvol } else { Format::Raw };
    Ok((parsed, format))
}

/// `zfs` on the machine that has the pool.
fn zfs(storage: &Storage, arguments: &[&str]) -> Result<Tool> {
    if storage.entry.kind() == "zfs" {
        let command: Vec<&str> = std::iter::once("zfs").chain(arguments.iter().copied()).collect();
        return remote::command(storage, &command);
    }
    Ok(Tool::new("zfs").args(arguments.to_vec()))
}

fn run(storage: &Storage, arguments: &[&str]) -> Result<()> {
    zfs(storage, arguments)?.run(storage.ctx).map_err(|error| error.context("zfs error"))
}

fn ask(storage: &Storage, arguments: &[&str]) -> Result<String> {
    zfs(storage, arguments)?.within(QUESTION).read(storage.ctx).map_err(|error| error.context("zfs error"))
}
