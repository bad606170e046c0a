//! What a command line needs to know of volumes, behind a trait, so that planning needs no storage.

use super::source;
use crate::storage::{Entry, VolumeId};
use crate::{Context, Result, command};
use serde_json::{Map, Value};

/// Questions about volumes and paths.
pub trait Volumes {
    /// The path, or whatever else `-drive file=` takes.
    fn path(&self, volume: &VolumeId) -> Result<String>;
    /// Driver and options of the lowest block node.
    fn node(&self, volume: &VolumeId) -> Result<Map<String, Value>>;
    /// The image format.
    fn format(&self, volume: &VolumeId) -> Result<String>;
    /// Whether it is an ISO image.
    fn is_iso(&self, volume: &VolumeId) -> bool;
    /// How the storage wants its volumes to be read.
    fn traits(&self, storage: &str) -> StorageTraits;
    /// Whether a path is a device rather than a file.
    fn is_device(&self, path: &str) -> Result<bool>;
    /// Snapshots that are volumes of their own, from the one that the volume itself builds on to the oldest.
    fn chain(&self, volume: &VolumeId) -> Result<Vec<Layer>>;
}

/// What decides about caching, asynchronous I/O and snapshots.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageTraits {
    /// The type in `storage.cfg`.
    pub kind: String,
    /// RBD through the kernel.
    pub krbd: bool,
    /// Btrfs without copy on write.
    pub nocow: bool,
    /// Snapshots become volumes of their own.
    pub chains: bool,
}

/// A snapshot that is a volume of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The snapshot's name.
    pub snapshot: String,
    /// Where it lies.
    pub file: String,
}

impl StorageTraits {
    /// What an entry of `storage.cfg` says.
    pub fn of(entry: &Entry) -> Self {
        StorageTraits {
            kind: entry.kind().to_owned(),
            krbd: entry.flag("krbd") == Some(true),
            nocow: entry.flag("nocow") == Some(true),
            chains: entry.flag("snapshot-as-volume-chain") == Some(true),
        }
    }

    /// Whether snapshots of a volume are volumes. (PVE: pve-storage, volume_qemu_snapshot_method)
    pub fn has_chain(&self, format: &str) -> bool {
        let shared = matches!(self.kind.as_str(), "dir" | "nfs" | "cifs") && self.chains;
        format == "qcow2" && (shared || self.kind == "lvm")
    }
}

/// The volumes of this node.
pub struct StoredVolumes<'a> {
    /// The node.
    pub ctx: &'a Context,
}

impl StoredVolumes<'_> {
    fn entry(&self, storage: &str) -> Result<Entry> {
        Ok(crate::storage::config(self.ctx)?.entry(storage)?.clone())
    }

    fn place(&self, volume: &VolumeId) -> Result<source::Place> {
        let entry = self.entry(&volume.storage)?;
        let facts = source::Facts { root: &self.ctx.root, host: &self.ctx.host };
        match source::place(&entry, volume, &facts)? {
            Some(place) => Ok(place),
            None => {
                let path = crate::storage::path(self.ctx, volume)?.to_string_lossy().into_owned();
                Ok(source::Place::File(path))
            }
        }
    }
}

impl Volumes for StoredVolumes<'_> {
    fn path(&self, volume: &VolumeId) -> Result<String> {
        Ok(self.place(volume)?.drive_text())
    }

    fn node(&self, volume: &VolumeId) -> Result<Map<String, Value>> {
        self.place(volume)?.node(|path| self.is_device(path))
    }

    fn format(&self, volume: &VolumeId) -> Result<String> {
        Ok(format_of_name(&volume.name).to_owned())
    }

    fn is_iso(&self, volume: &VolumeId) -> bool {
        volume.name.starts_with("iso/")
    }

    fn traits(&self, storage: &str) -> StorageTraits {
        self.entry(storage).map(|entry| StorageTraits::of(&entry)).unwrap_or_default()
    }

    fn is_device(&self, path: &str) -> Result<bool> {
        if self.ctx.host.volumes_are_assumed() {
            return Ok(path.starts_with("/dev/"));
        }
        use std::os::unix::fs::FileTypeExt;
        let metadata = std::fs::metadata(path)
            .map_err(|error| crate::Error::from(error).context(format!("stat for '{path}' failed")))?;
        Ok(metadata.file_type().is_block_device() || metadata.file_type().is_char_device())
    }

    fn chain(&self, volume: &VolumeId) -> Result<Vec<Layer>> {
        if !self.traits(&volume.storage).has_chain(&self.format(volume)?) {
            return Ok(Vec::new());
        }
        if let Some(known) = self.ctx.host.replaced("volume_snapshots") {
            return Ok(replaced_chain(known.get(volume.to_string()).unwrap_or(&Value::Null)));
        }
        if self.ctx.host.volumes_are_assumed() {
            return Ok(Vec::new());
        }
        let path = self.path(volume)?;
        let words = ["info", "--output=json", "--backing-chain", "-f", "qcow2", "-U", &path];
        let information = command::run("qemu-img", &words)?.stdout;
        let information: Value =
            serde_json::from_str(&information).map_err(|error| crate::Error::new(error.to_string()))?;
        Ok(found_chain(&information, &volume.name))
    }
}

/// The chain in host facts: `{"current": {"parent": "b"}, "b": {"file": "/x", "parent": "a"}, …}`.
pub fn replaced_chain(snapshots: &Value) -> Vec<Layer> {
    let mut layers = Vec::new();
    let mut name = snapshots["current"]["parent"].as_str();
    while let Some(snapshot) = name.filter(|name| !name.is_empty() && layers.len() < 1000 && *name != "current") {
        let file = snapshots[snapshot]["file"].as_str().unwrap_or_default().to_owned();
        layers.push(Layer { snapshot: snapshot.to_owned(), file });
        name = snapshots[snapshot]["parent"].as_str();
    }
    layers
}

/// The chain that `qemu-img` found, without the volume itself and what is none of its snapshots.
fn found_chain(information: &Value, volume_name: &str) -> Vec<Layer> {
    let name = volume_name.rsplit('/').next().unwrap_or(volume_name);
    let stem = name.strip_suffix(".qcow2").unwrap_or(name);
    let snapshot_of = |file: &str| {
        let file = file.rsplit('/').next()?;
        let in_directory = file.strip_prefix("snap-").and_then(|rest| rest.strip_suffix(name)?.strip_suffix('-'));
        let in_group = || file.strip_prefix(&format!("snap_{stem}_"))?.strip_suffix(".qcow2");
        in_directory.or_else(in_group).map(str::to_owned)
    };
    let images = information.as_array().into_iter().flatten();
    let files = images.filter_map(|image| image["filename"].as_str());
    files.filter_map(|file| Some(Layer { snapshot: snapshot_of(file)?, file: file.to_owned() })).collect()
}

/// The format that the ending of a volume's name means; names without one are raw.
pub fn format_of_name(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((_, format @ ("qcow2" | "vmdk" | "qcow" | "qed" | "cloop"))) => format,
        _ => "raw",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn chains_follow_the_parents() {
        let layer = |snapshot: &str, file: &str| Layer { snapshot: snapshot.into(), file: file.into() };
        let facts = json!({"current": {"parent": "b"}, "b": {"file": "/b", "parent": "a"}, "a": {"file": "/a"}});
        assert_eq!(replaced_chain(&facts), [layer("b", "/b"), layer("a", "/a")]);
        let found = json!([
            {"filename": "/x/vm-1-disk-0.qcow2"}, {"filename": "/x/snap-s2-vm-1-disk-0.qcow2"},
            {"filename": "/x/base-2-disk-0.qcow2"},
        ]);
        let layers = found_chain(&found, "1/vm-1-disk-0.qcow2");
        assert_eq!(layers, [layer("s2", "/x/snap-s2-vm-1-disk-0.qcow2")]);
        let group =
            json!([{"filename": "/dev/vg/vm-1-disk-0.qcow2"}, {"filename": "/dev/vg/snap_vm-1-disk-0_s1.qcow2"}]);
        assert_eq!(found_chain(&group, "vm-1-disk-0.qcow2")[0].snapshot, "s1");
    }
}
