//! The types of storages: one row each. What a type declares (options, contents, formats) is data of the contract; what
//! it does is a [`Driver`].
//!
//! Adding a type: write its driver in a file of its own and name it in its row.

use super::btrfs::Btrfs;
use super::content::Content;
use super::directory::DIRECTORY;
use super::driver::Driver;
use super::volume::Format;
use contract::section_config_schema::{self, SectionConfig, SectionType};

/// A type of storage.
pub struct Kind {
    /// The word in the section header.
    pub name: &'static str,
    /// The same content on all nodes, whatever the configuration says. (PVE: Storage/Plugin.pm, SHARED_STORAGE)
    pub always_shared: bool,
    /// Who does the work; `None` for a type that is kept and shown only.
    pub driver: Option<&'static dyn Driver>,
}

const fn row(name: &'static str, always_shared: bool, driver: Option<&'static dyn Driver>) -> Kind {
    Kind { name, always_shared, driver }
}

/// All types of the interface.
pub static KINDS: [Kind; 14] = [
    row("btrfs", false, Some(&Btrfs)),
    row("cephfs", true, Some(&super::mounted::CEPHFS)),
    row("cifs", true, Some(&super::mounted::CIFS)),
    row("dir", false, Some(&DIRECTORY)),
    row("esxi", false, Some(&super::esxi::Esxi)),
    row("iscsi", true, Some(&super::iscsi::initiator::Iscsi)),
    row("iscsidirect", true, Some(&super::iscsi::direct::IscsiDirect)),
    row("lvm", false, Some(&super::lvm::thick::Lvm)),
    row("lvmthin", false, Some(&super::lvm::thin::LvmThin)),
    row("nfs", true, Some(&super::mounted::NFS)),
    row("pbs", true, None),
    row("rbd", true, Some(&super::rbd::Rbd)),
    row("zfs", true, Some(&super::zfs::over_iscsi::ZfsOverIscsi)),
    row("zfspool", false, Some(&super::zfs::pool::ZfsPool)),
];

/// What `storage.cfg` may say, type by type.
pub fn schema() -> &'static SectionConfig {
    section_config_schema::file("storage.cfg").expect("the contract has storage.cfg")
}

impl Kind {
    /// The type of that name.
    pub fn named(name: &str) -> Option<&'static Kind> {
        KINDS.iter().find(|kind| kind.name == name)
    }

    /// What the contract declares about it.
    pub fn declared(&self) -> &'static SectionType {
        schema().types.get(self.name).expect("each row has a type of the contract, as a test shows")
    }

    /// Content types that it can hold.
    pub fn contents(&self) -> impl Iterator<Item = Content> {
        self.declared().content.iter().filter_map(|name| name.parse().ok())
    }

    /// Content types if the configuration names none.
    pub fn default_contents(&self) -> impl Iterator<Item = Content> {
        self.declared().content_default.iter().filter_map(|name| name.parse().ok())
    }

    /// Image formats that it can hold; `raw` for a type that declares none.
    pub fn formats(&self) -> Vec<Format> {
        let declared: Vec<Format> = self.declared().format.iter().filter_map(|name| name.parse().ok()).collect();
        if declared.is_empty() { vec![Format::Raw] } else { declared }
    }

    /// Image format if the configuration names none.
    pub fn default_format(&self) -> Format {
        self.declared().format_default.as_deref().and_then(|name| name.parse().ok()).unwrap_or(Format::Raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_of_the_contract_has_its_row() {
        let rows: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let declared: Vec<&str> = schema().types.keys().map(String::as_str).collect();
        assert_eq!(rows, declared);
    }

    #[test]
    fn a_directory_holds_everything_and_images_by_default() {
        let dir = Kind::named("dir").unwrap();
        assert_eq!(dir.contents().count(), Content::ALL.len());
        assert_eq!(dir.default_contents().collect::<Vec<_>>(), [Content::Images, Content::Rootdir]);
        assert_eq!(dir.default_format(), Format::Raw);
        assert_eq!(Kind::named("lvmthin").unwrap().formats(), [Format::Raw]);
    }
}
