//! What a storage may hold. (PVE: pve-storage PVE/Storage/Plugin.pm, pve-storage-content)

use std::fmt;
use std::str::FromStr;

/// A content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// Disks of VMs.
    Images,
    /// File systems of containers.
    Rootdir,
    /// Container templates.
    Vztmpl,
    /// ISO files.
    Iso,
    /// Backups.
    Backup,
    /// Hook scripts and cloud-init files.
    Snippets,
    /// Images and appliances to import.
    Import,
    /// Nothing: the storage is only a base for others.
    None,
}

impl Content {
    /// All types, in the order in which PVE lists a storage's content.
    pub const ALL: [Content; 8] = [
        Content::Rootdir,
        Content::Images,
        Content::Vztmpl,
        Content::Iso,
        Content::Backup,
        Content::Snippets,
        Content::Import,
        Content::None,
    ];

    /// The word in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Content::Images => "images",
            Content::Rootdir => "rootdir",
            Content::Vztmpl => "vztmpl",
            Content::Iso => "iso",
            Content::Backup => "backup",
            Content::Snippets => "snippets",
            Content::Import => "import",
            Content::None => "none",
        }
    }

    /// The directory below a file based storage, unless `content-dirs` says otherwise.
    pub fn default_directory(self) -> &'static str {
        match self {
            Content::Images => "images",
            Content::Rootdir => "private",
            Content::Vztmpl => "template/cache",
            Content::Iso => "template/iso",
            Content::Backup => "dump",
            Content::Snippets => "snippets",
            Content::Import => "import",
            Content::None => "",
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Content {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Content::ALL
            .into_iter()
            .find(|content| content.name() == text)
            .ok_or_else(|| format!("invalid content type '{text}'"))
    }
}

crate::param_from_str!(Content);
