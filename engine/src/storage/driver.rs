//! The life cycle that all types of storages share, in words of the domain.
//!
//! A driver sees one configured storage and names of its volumes. It decides what names mean, does the work, and leaves
//! nothing half-done behind: an operation that fails has removed what it made. What a type cannot do answers one clear
//! error by the methods' default; what it can do is declared in [`Driver::capabilities`].

use super::config::Entry;
use super::content::Content;
use super::convert::RemoteDisk;
use super::feature::{self, Capability, Feature, State};
use super::stream::{self, Export, Import};
use super::unfinished::{Allocated, Unfinished};
use super::volume::{Format, NewVolume, Volume, VolumeId, VolumeInfo};
use crate::context::Mode;
use crate::{Context, Error, Result, Vmid, lock};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

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

    /// Waits for the storage's queue. Held for choosing and committing a name, never for anything that takes time.
    pub fn lock(&self) -> Result<lock::QueueLock> {
        let label = match &self.ctx.mode {
            Mode::Worker(upid) => upid.to_string(),
            _ => format!("process-{}", std::process::id()),
        };
        lock::acquire(self.ctx, &lock::storage(&self.id), &label, |_| {})
    }

    /// "The type cannot do that", for drivers.
    pub fn unsupported(&self, what: &str) -> Error {
        Error::new(format!("storage '{}': {what} is not supported by type '{}'", self.id, self.entry.kind()))
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
    /// The image's format; `Raw` for everything that is no image.
    pub format: Format,
    /// Of a linked clone: the name of the volume that it is based on.
    pub base: Option<String>,
}

/// What people say about a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Free text; `None` where volumes have none.
    pub notes: Option<String>,
    /// Must not be removed; `None` where volumes have no such mark.
    pub protected: Option<bool>,
}

/// Where the bytes of a volume or of one of its snapshots are read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// File, device or directory; for some types a name that QEMU understands (`rbd:…`, `iscsi://…`).
    pub path: PathBuf,
    /// The snapshot within the file, where snapshots are kept inside (qcow2).
    pub internal: Option<String>,
}

/// Values that never stand in `storage.cfg`; `None` for one that is taken away.
pub type Secrets = BTreeMap<String, Option<String>>;

/// A type of storage at work.
pub trait Driver: Sync {
    /// What volumes of this type can do. A storage's options may take something away or add it: see [`Driver::can`].
    fn capabilities(&self) -> &'static [Capability] {
        &[]
    }

    /// Whether a volume can do something now. `running`: its guest runs.
    fn can(
        &self,
        storage: &Storage,
        feature: Feature,
        name: &str,
        snapshot: Option<&str>,
        running: bool,
    ) -> Result<bool> {
        let described = self.describe(storage, name)?;
        // A chain changes below a running guest without its QEMU knowing. (PVE has QEMU take part in that)
        let is_chain = storage.entry.flag("snapshot-as-volume-chain").unwrap_or(false);
        if running && is_chain && feature == Feature::Snapshot && described.format == Format::Qcow2 {
            return Ok(false);
        }
        let state = match snapshot {
            Some(_) => State::Snapshot,
            None if described.is_base => State::Base,
            None => State::Current,
        };
        Ok(feature::declared(self.capabilities(), feature, state, described.format))
    }

    /// Names of options that are kept as secrets by the driver and never written to `storage.cfg`.
    fn secret_options(&self) -> &'static [&'static str] {
        &[]
    }

    /// Completes and checks an entry before it is written; `create` when it is new.
    fn check_entry(&self, _ctx: &Context, _id: &str, _entry: &mut Entry, _create: bool) -> Result<()> {
        Ok(())
    }

    /// An entry is about to be written; secrets that were given are stored, and the entry may be completed. Called with
    /// the configuration's lock held. (PVE: on_add_hook and on_update_hook)
    fn configure(&self, _storage: &mut Storage, _secrets: &Secrets, _create: bool) -> Result<()> {
        Ok(())
    }

    /// An entry is about to be removed; its secrets go, too. (PVE: on_delete_hook)
    fn unconfigure(&self, _storage: &Storage) -> Result<()> {
        Ok(())
    }

    /// Makes the storage usable on this node, or says why it is not.
    fn activate(&self, storage: &Storage) -> Result<()>;

    /// Undoes what activation did (unmounts, logs out).
    fn deactivate(&self, _storage: &Storage) -> Result<()> {
        Ok(())
    }

    /// Whether touching it may hang in the kernel, because another machine has to answer.
    fn is_remote(&self) -> bool {
        false
    }

    /// How long it may take to become ready and say how full it is, before it counts as one that hangs.
    fn patience(&self) -> Duration {
        super::status::DEADLINE
    }

    /// How full it is.
    fn space(&self, storage: &Storage) -> Result<Space>;

    /// What it holds, in any order.
    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>>;

    /// What a name means; an error if it is none of this storage's.
    fn describe(&self, storage: &Storage, name: &str) -> Result<Described>;

    /// Where the volume's bytes are, whether it exists or not. The path never leaves the storage.
    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf>;

    /// Where to read a volume or a snapshot of it.
    fn source(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<Source> {
        match snapshot {
            None => Ok(Source { path: self.path(storage, name)?, internal: None }),
            Some(_) => Err(storage.unsupported("reading a snapshot")),
        }
    }

    /// Makes a volume, or a snapshot of it, usable (devices, mappings) and answers where it is.
    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        Ok(self.source(storage, name, snapshot)?.path)
    }

    /// Nobody on this node needs the volume any longer.
    fn deactivate_volume(&self, _storage: &Storage, _name: &str, _snapshot: Option<&str>) -> Result<()> {
        Ok(())
    }

    /// A disk that another machine's web server has, for imports; `None` where disks are files or devices of this node.
    fn remote_disk(&self, _storage: &Storage, _name: &str) -> Result<Option<RemoteDisk>> {
        Ok(None)
    }

    /// Size and format of an existing volume.
    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo>;

    /// Makes a volume and answers its name.
    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String>;

    /// Makes a volume that is filled before anybody may take it for a good one. By default it is allocated and freed
    /// again unless it is finished; file based types keep it under a hidden name.
    fn begin<'a>(&'a self, storage: &'a Storage<'a>, new: &NewVolume) -> Result<Box<dyn Unfinished + 'a>> {
        Ok(Box::new(Allocated::new(self.as_driver(), storage, new)?))
    }

    /// This driver as a trait object; always `self`.
    fn as_driver(&self) -> &dyn Driver;

    /// Removes a volume. One that is gone already is no error.
    fn free(&self, storage: &Storage, name: &str) -> Result<()>;

    /// Removes what killed processes have left of a guest's volumes without anybody listing it. What cannot be removed
    /// now is removed by whoever comes next.
    fn remove_abandoned(&self, _storage: &Storage, _vmid: Vmid) {}

    /// Makes a volume larger. The guest must not be running, or must not use it.
    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()>;

    /// Keeps the volume's state under a name.
    fn snapshot(&self, storage: &Storage, _name: &str, _snapshot: &str) -> Result<()> {
        Err(storage.unsupported("snapshot"))
    }

    /// Drops a kept state. One that is gone already is an error of the type's tool.
    fn snapshot_delete(&self, storage: &Storage, _name: &str, _snapshot: &str) -> Result<()> {
        Err(storage.unsupported("snapshot"))
    }

    /// Fails when the volume cannot go back to a snapshot; the text names what is in the way.
    fn rollback_possible(&self, storage: &Storage, _name: &str, _snapshot: &str) -> Result<()> {
        Err(storage.unsupported("snapshot"))
    }

    /// Goes back to a snapshot.
    fn rollback(&self, storage: &Storage, _name: &str, _snapshot: &str) -> Result<()> {
        Err(storage.unsupported("snapshot"))
    }

    /// The names of a volume's snapshots, oldest first.
    fn snapshots(&self, _storage: &Storage, _name: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Makes a template's image of a volume and answers its new name.
    fn make_template(&self, storage: &Storage, _name: &str) -> Result<String> {
        Err(storage.unsupported("template"))
    }

    /// Makes a linked clone for a guest and answers its name.
    fn clone_linked(&self, storage: &Storage, _name: &str, _snapshot: Option<&str>, _vmid: Vmid) -> Result<String> {
        Err(storage.unsupported("linked clone"))
    }

    /// A full copy on the same storage that costs no copying, where the type can do that; `None` where it cannot.
    fn copy_at_once(&self, _storage: &Storage, _source: &Source, _new: &NewVolume) -> Result<Option<String>> {
        Ok(None)
    }

    /// Gives a volume to another guest, under a free name unless one is wanted; answers the new name.
    fn rename(&self, storage: &Storage, _name: &str, _vmid: Vmid, _new_name: Option<&str>) -> Result<String> {
        Err(storage.unsupported("rename"))
    }

    /// The forms in which a volume can leave as a stream, best first.
    fn export_formats(&self, storage: &Storage, export: &Export) -> Result<Vec<stream::Form>> {
        stream::default_export_formats(self.as_driver(), storage, export)
    }

    /// The forms in which a volume can come as a stream, best first.
    fn import_formats(&self, storage: &Storage, import: &Import) -> Result<Vec<stream::Form>> {
        stream::default_import_formats(self.as_driver(), storage, import)
    }

    /// Writes a volume as a stream.
    fn export(&self, storage: &Storage, export: &Export, form: stream::Form, to: &File) -> Result<()> {
        stream::default_export(self.as_driver(), storage, export, form, to)
    }

    /// Makes a volume of a stream and answers its name. Nothing is left behind if it fails.
    fn import(&self, storage: &Storage, import: &Import, form: stream::Form, from: &File) -> Result<String> {
        stream::default_import(self.as_driver(), storage, import, form, from)
    }

    /// Notes and protection.
    fn attributes(&self, _storage: &Storage, _name: &str) -> Result<Attributes> {
        Ok(Attributes::default())
    }

    /// Sets the notes; an empty text removes them.
    fn set_notes(&self, storage: &Storage, _name: &str, _notes: &str) -> Result<()> {
        Err(storage.unsupported("volume notes"))
    }

    /// Sets or removes the protection.
    fn set_protected(&self, storage: &Storage, _name: &str, _protected: bool) -> Result<()> {
        Err(storage.unsupported("attribute 'protected'"))
    }

    /// The directory in which files of a content type lie; an error where there is none.
    fn content_directory(&self, storage: &Storage, _content: Content) -> Result<PathBuf> {
        Err(storage.unsupported("files"))
    }

    /// What guest a volume of content type `import` describes, in the shape of the API.
    fn import_metadata(&self, storage: &Storage, _name: &str) -> Result<serde_json::Value> {
        Err(storage.unsupported("import metadata"))
    }

    /// What tells this storage from all others of its type, wherever it is configured.
    fn identity(&self, storage: &Storage) -> Result<String> {
        Err(storage.unsupported("identity"))
    }
}
