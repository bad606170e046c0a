//! What all storages share that keep their volumes in a pool (LVM, ZFS, RBD, iSCSI): rows of a content list.

use super::content::Content;
use super::driver::{Described, Filter, Storage};
use super::guest_volume::GuestVolume;
use super::volume::{Format, Volume};
use crate::config::guest::GuestKind;
use crate::{Vmid, guest};
use std::collections::HashMap;

/// One volume of a pool.
pub struct Row {
    /// Its name as a volume of the storage.
    pub name: String,
    /// Its owner.
    pub vmid: Vmid,
    /// How its bytes are to be read.
    pub format: Format,
    /// Bytes that a guest sees.
    pub size: u64,
    /// Bytes that it takes, where the pool says so.
    pub used: Option<u64>,
    /// What a linked clone was made of.
    pub parent: Option<String>,
    /// Seconds since 1970 at which it was made.
    pub ctime: Option<i64>,
}

/// The rows that a list is to hold. Volumes of containers are `rootdir`, as their owner is one.
pub fn list(storage: &Storage, filter: &Filter, rows: impl Iterator<Item = Row>) -> Vec<Volume> {
    let mut owners: HashMap<Vmid, Content> = HashMap::new();
    let mut volumes = Vec::new();
    for row in rows.filter(|row| filter.vmid.is_none_or(|vmid| vmid == row.vmid)) {
        let content = *owners.entry(row.vmid).or_insert_with(|| match guest::find(storage.ctx, row.vmid) {
            Some(GuestKind::Lxc) => Content::Rootdir,
            _ => Content::Images,
        });
        if !filter.contents.contains(&content) {
            continue;
        }
        volumes.push(Volume {
            used: row.used,
            vmid: Some(row.vmid),
            parent: row.parent,
            ctime: row.ctime,
            ..Volume::new(storage.volume(row.name), content, row.format.name(), row.size)
        });
    }
    volumes
}

/// What a name says.
pub fn describe(parsed: &GuestVolume, format: Format) -> Described {
    Described {
        content: Content::Images,
        vmid: Some(parsed.vmid),
        is_base: parsed.prefix.is_base(),
        format,
        base: parsed.base.clone(),
    }
}
