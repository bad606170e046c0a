//! Volumes as the rest of the engine speaks of them: ids, formats, what is known about one, what is asked of a new one.
//!
//! Owns the types; whether a name means anything on a storage is that storage type's decision.

use super::content::Content;
use crate::Vmid;
use std::fmt;
use std::str::FromStr;

/// Longest volume id that is accepted; a path component may have 255 bytes, and a linked clone has four of them.
const MAX_ID_LENGTH: usize = 1024;

/// `STORAGE:NAME`. (PVE: pve-storage PVE/Storage/Plugin.pm, parse_volume_id)
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeId {
    /// The storage's id.
    pub storage: String,
    /// The volume's name, as the storage's type understands it.
    pub name: String,
}

impl VolumeId {
    /// The volume `name` of a storage.
    pub fn new(storage: impl Into<String>, name: impl Into<String>) -> Self {
        VolumeId { storage: storage.into(), name: name.into() }
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.storage, self.name)
    }
}

impl FromStr for VolumeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("unable to parse volume ID '{}'", text.escape_debug());
        let (storage, name) = text.split_once(':').ok_or_else(bad)?;
        let good = is_storage_id(storage)
            && !name.is_empty()
            && text.len() <= MAX_ID_LENGTH
            && !name.contains(|c: char| c.is_control());
        if good { Ok(VolumeId::new(storage, name)) } else { Err(bad()) }
    }
}

crate::param_from_str!(VolumeId);

/// A letter, then letters, digits, `-`, `_`, `.`; the last a letter or digit. (PVE: JSONSchema.pm, pve-storage-id)
pub fn is_storage_id(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(inner)
}

/// How an image is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Format {
    /// The bytes of the disk, one by one.
    Raw,
    /// QEMU's format with snapshots and backing files.
    Qcow2,
    /// VMware's format.
    Vmdk,
    /// A directory.
    Subvol,
}

impl Format {
    /// All formats.
    pub const ALL: [Format; 4] = [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Subvol];

    /// The word in configuration files, which is also the file name's extension.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Subvol => "subvol",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Format::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| format!("invalid format '{text}'"))
    }
}

crate::param_from_str!(Format);

/// What a new volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeKind {
    /// A disk of a VM (content type `images`).
    Image,
    /// A file system of a container (content type `rootdir`).
    ContainerRoot,
}

impl VolumeKind {
    /// The content type that the storage must allow.
    pub fn content(self) -> Content {
        match self {
            VolumeKind::Image => Content::Images,
            VolumeKind::ContainerRoot => Content::Rootdir,
        }
    }
}

/// A volume to be made.
#[derive(Debug, Clone)]
pub struct NewVolume {
    /// The guest that will own it.
    pub vmid: Vmid,
    /// The format; the storage's default if absent.
    pub format: Option<Format>,
    /// The file name, such as `vm-100-cloudinit.qcow2`; the next free disk name if absent.
    pub name: Option<String>,
    /// The size in bytes; 0 for a subvolume.
    pub size: u64,
    /// What it is for.
    pub kind: VolumeKind,
}

/// What is known about one volume's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInfo {
    /// The size that a guest sees; 0 for a subvolume.
    pub size: u64,
    /// The bytes that it takes on the storage.
    pub used: u64,
    /// The image's format; `Raw` for files that are no images (ISO files, templates, backups).
    pub format: Format,
    /// The backing file as the image names it.
    pub parent: Option<String>,
}

/// One row of a storage's content. (PVE: pve-storage PVE/Storage/Plugin.pm, list_volumes)
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// What it is.
    pub content: Content,
    /// `raw`, `qcow2`, `iso`, `tzst`, `vma.zst`, …; `invalid` when an image is not what its name says.
    pub format: String,
    /// The size that a guest sees, or the file's.
    pub size: u64,
    /// The bytes that it takes; only known for images.
    pub used: Option<u64>,
    /// The guest that owns it.
    pub vmid: Option<Vmid>,
    /// The backing file as the image names it.
    pub parent: Option<String>,
    /// Seconds since 1970: last change of the inode, or a backup's time.
    pub ctime: Option<i64>,
    /// Of a backup: `qemu`, `lxc`, `openvz` or `unknown`.
    pub subtype: Option<&'static str>,
    /// Of a backup: the first line of its notes.
    pub notes: Option<String>,
    /// Of a backup: it must not be removed.
    pub protected: bool,
}

impl Volume {
    /// A row of which no more is known.
    pub fn new(id: VolumeId, content: Content, format: impl Into<String>, size: u64) -> Self {
        Volume {
            id,
            content,
            format: format.into(),
            size,
            used: None,
            vmid: None,
            parent: None,
            ctime: None,
            subtype: None,
            notes: None,
            protected: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_have_a_storage_and_a_name() {
        let id: VolumeId = "local:100/vm-100-disk-0.raw".parse().unwrap();
        assert_eq!((id.storage.as_str(), id.name.as_str()), ("local", "100/vm-100-disk-0.raw"));
        assert_eq!("pbs-1:backup/vm/100/2020-01-01T00:00:00Z".parse::<VolumeId>().unwrap().storage, "pbs-1");
        for bad in ["", "local", "local:", ":x", "l:x", "1ocal:x", "local-:x", "lo/cal:x", "../x:y", "/etc/passwd"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad}");
        }
        for bad in ["local:iso/a\n.iso", "local:iso/a\0.iso", "local:iso/a.iso\n", "local:\u{1b}[2J"] {
            assert!(bad.parse::<VolumeId>().is_err(), "{bad:?}");
        }
        assert!(format!("local:{}", "x".repeat(5000)).parse::<VolumeId>().is_err());
        assert_eq!("a b".parse::<VolumeId>().unwrap_err(), "unable to parse volume ID 'a b'");
    }

    proptest! {
        #[test]
        fn printing_inverts_parsing(text in "[a-z][a-z0-9_.-]{0,8}[a-z0-9]:[ -~]{1,40}") {
            prop_assert_eq!(text.parse::<VolumeId>().unwrap().to_string(), text);
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            if let Ok(id) = text.parse::<VolumeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
