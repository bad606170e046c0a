//! The life cycle that all types of storages share, in words of the domain.
//!
//! A driver sees one configured storage and names of its volumes. It decides what names mean, does the work, and leaves
//! nothing half-done behind: an operation that fails has removed what it made.

use super::config::Entry;
use super::content::Content;
use super::volume::{NewVolume, Volume, VolumeId, VolumeInfo};
use crate::{Context, Result, Vmid};
use std::path::PathBuf;

/// A configured storage on this node.
pub struct Storage<'a> {
    /// The node.
    pub ctx: &'a Context,
    /// The storage's id.
    pub id: String,
    /// What `storage.cfg` says about it.
    pub entry: Entry,
}

impl Storage<'_> {
    /// The id of a volume of this storage.
    pub fn volume(&self, name: impl Into<String>) -> VolumeId {
        VolumeId::new(&self.id, name)
    }
}

/// Bytes of a storage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What is taken.
    pub used: u64,
    /// What can still be taken.
    pub avail: u64,
}

/// What a list is to hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Content types.
    pub contents: Vec<Content>,
    /// Only volumes of this guest.
    pub vmid: Option<Vmid>,
}

/// What a volume's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// What it is; volumes of containers are `images` here.
    pub content: Content,
    /// The guest that owns it.
    pub vmid: Option<Vmid>,
    /// A template's image.
    pub is_base: bool,
}

/// What people say about a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Free text; `None` where volumes have none.
    pub notes: Option<String>,
    /// Must not be removed; `None` where volumes have no such mark.
    pub protected: Option<bool>,
}

/// A type of storage at work.
pub trait Driver: Sync {
    /// Makes the storage usable on this node, or says why it is not.
    fn activate(&self, storage: &Storage) -> Result<()>;

    /// How full it is.
    fn space(&self, storage: &Storage) -> Result<Space>;

    /// What it holds, in any order.
    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>>;

    /// What a name means; an error if it is none of this storage's.
    fn describe(&self, storage: &Storage, name: &str) -> Result<Described>;

    /// Where the volume's bytes are, whether it exists or not. The path never leaves the storage.
    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf>;

    /// Size and format of an existing volume.
    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo>;

    /// Makes a volume and answers its name.
    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String>;

    /// Removes a volume. One that is gone already is no error.
    fn free(&self, storage: &Storage, name: &str) -> Result<()>;

    /// Makes a volume larger. The guest must not be running, or must not use it.
    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()>;

    /// Notes and protection.
    fn attributes(&self, storage: &Storage, name: &str) -> Result<Attributes>;

    /// Sets the notes; an empty text removes them.
    fn set_notes(&self, storage: &Storage, name: &str, notes: &str) -> Result<()>;

    /// Sets or removes the protection.
    fn set_protected(&self, storage: &Storage, name: &str, protected: bool) -> Result<()>;

    /// The directory in which files of a content type lie; an error where there is none.
    fn content_directory(&self, storage: &Storage, content: Content) -> Result<PathBuf>;
}
