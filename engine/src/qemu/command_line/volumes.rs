//! What a command line needs to know of volumes, behind a trait, so that planning needs no storage.

use crate::storage::VolumeId;
use crate::{Context, Result};

/// Questions about volumes and paths.
pub trait Volumes {
    /// The path, or whatever else QEMU opens.
    fn path(&self, volume: &VolumeId) -> Result<String>;
    /// The image format.
    fn format(&self, volume: &VolumeId) -> Result<String>;
    /// Whether it is an ISO image.
    fn is_iso(&self, volume: &VolumeId) -> bool;
    /// How the storage wants its volumes to be read.
    fn traits(&self, storage: &str) -> StorageTraits;
    /// Whether a path is a device rather than a file.
    fn is_device(&self, path: &str) -> Result<bool>;
}

/// What decides about caching and asynchronous I/O.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StorageTraits {
    /// The type in `storage.cfg`.
    pub kind: String,
    /// RBD through the kernel.
    pub krbd: bool,
    /// Btrfs without copy on write.
    pub nocow: bool,
}

/// The volumes of this node.
pub struct StoredVolumes<'a> {
    /// The node.
    pub ctx: &'a Context,
}

impl Volumes for StoredVolumes<'_> {
    fn path(&self, volume: &VolumeId) -> Result<String> {
        Ok(crate::storage::path(self.ctx, volume)?.to_string_lossy().into_owned())
    }

    fn format(&self, volume: &VolumeId) -> Result<String> {
        Ok(format_of_name(&volume.name).to_owned())
    }

    fn is_iso(&self, volume: &VolumeId) -> bool {
        volume.name.starts_with("iso/")
    }

    fn traits(&self, storage: &str) -> StorageTraits {
        let Ok(config) = crate::storage::config(self.ctx) else { return StorageTraits::default() };
        let Some(entry) = config.get(storage) else { return StorageTraits::default() };
        StorageTraits {
            kind: entry.kind().to_owned(),
            krbd: entry.flag("krbd") == Some(true),
            nocow: entry.flag("nocow") == Some(true),
        }
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
}

/// The format that the ending of a volume's name means; names without one are raw.
pub fn format_of_name(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((_, format @ ("qcow2" | "vmdk" | "qcow" | "qed" | "cloop"))) => format,
        _ => "raw",
    }
}
