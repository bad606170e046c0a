//! Mappings: names under which devices and directories of each node are given to guests, in `/etc/pve/mapping/`.
//!
//! A guest that names a mapping instead of a device can start on any node that has an entry of that name. Owns the files,
//! whether an entry fits the hardware, and the methods below `/cluster/mapping`.
//! (PVE: pve-guest-common PVE/Mapping/{PCI,USB,Dir}.pm)

mod check;
mod file;
mod handlers;

pub use check::{directory_problem, pci_problem, usb_problem};
pub use file::{Entry, Mapping, MappingFile};
pub use handlers::METHODS;

use crate::{Context, Result};
use std::collections::BTreeMap;

/// What is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Directories, shared by virtio-fs.
    Directory,
    /// PCI devices.
    Pci,
    /// USB devices.
    Usb,
}

impl Kind {
    /// The word in paths and messages.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Directory => "dir",
            Kind::Pci => "pci",
            Kind::Usb => "usb",
        }
    }

    /// The file below `/etc/pve`.
    pub fn file(self) -> &'static str {
        match self {
            Kind::Directory => "mapping/directory.cfg",
            Kind::Pci => "mapping/pci.cfg",
            Kind::Usb => "mapping/usb.cfg",
        }
    }

    /// The property string of one entry.
    pub fn format(self) -> &'static str {
        match self {
            Kind::Directory => "~mapping-dir",
            Kind::Pci => "~mapping-pci",
            Kind::Usb => "~mapping-usb",
        }
    }
}

/// The mappings as one node sees them.
#[derive(Debug, Clone, Default)]
pub struct Mappings {
    node: String,
    files: BTreeMap<Kind, MappingFile>,
}

impl Mappings {
    /// Reads the files of some kinds.
    pub fn load(ctx: &Context, kinds: &[Kind]) -> Result<Self> {
        let files: Result<_> = kinds.iter().map(|kind| Ok((*kind, MappingFile::load(ctx, *kind)?))).collect();
        Ok(Mappings { node: ctx.node.to_string(), files: files? })
    }

    /// Mappings of a node from files' texts.
    pub fn of_texts(node: &str, texts: &[(Kind, &str)]) -> Self {
        let files = texts.iter().map(|(kind, text)| (*kind, MappingFile::parse(text))).collect();
        Mappings { node: node.to_owned(), files }
    }

    /// A mapping, whichever nodes it has entries for.
    pub fn mapping(&self, kind: Kind, id: &str) -> Option<&Mapping> {
        self.files.get(&kind)?.mappings.get(id)
    }

    /// The entries of a mapping for this node; entries that cannot be read count as absent.
    pub fn entries(&self, kind: Kind, id: &str) -> Vec<Entry> {
        self.mapping(kind, id).map(|mapping| mapping.entries_of(kind, &self.node)).unwrap_or_default()
    }
}
