//! `/etc/network/interfaces` as PVE reads, shows and writes it.
//!
//! Owns the text: [`Interfaces::parse`], [`Interfaces::print`] and the consistency rules between them. Pure: what the
//! kernel knows comes in as [`KernelView`]. Everything that is not understood is kept. What the file means for the kernel
//! is another matter; sourced files are not read here, as in PVE.
//! (PVE: pve-common PVE/Network/Interfaces.pm)
//!
//! Differences to PVE. What PVE would lose is kept: a second `address`, `netmask` or `gateway` of an interface and a second
//! section of the same family stay as options of the first; a section without a family does not repeat its addresses in
//! one with a family; `uplink-id`, `bridge-disable-mac-learning` and `vxlan-remoteip` outside of a VXLAN are written again,
//! and so are letters beyond ASCII. What PVE says badly is said well: a bond whose port is missing, and a VLAN or alias whose
//! link has no section, where PVE names an empty kind or fails. `bridge_vlan_aware=0` is no,
//! as its name says, a list of VLANs is written with blanks after an update, too, and a port of two lines once.

mod check;
mod kind;
mod parse;
mod print;
mod reply;
#[cfg(test)]
mod tests;

pub use reply::describe;

use std::collections::{BTreeMap, BTreeSet};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// Interfaces by name.
    pub ifaces: BTreeMap<String, Iface>,
    /// Lines outside of interfaces that are only kept, with their place in the file: `source`, `mapping`, …
    pub other: Vec<(u32, String)>,
    /// Other names of the kernel's links.
    pub altnames: BTreeMap<String, Vec<String>>,
}

/// Address family of a section; `None` is a section without one.
pub type Family = Option<&'static str>;

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Iface {
    /// `eth`, `bridge`, `bond`, `vlan`, `alias`, `OVSBridge`, …, or `unknown`; empty for one that is only mentioned.
    pub kind: String,
    /// Place in the file.
    pub priority: Option<u32>,
    /// Whether it is brought up with the node.
    pub autostart: bool,
    /// Families in the order of their sections.
    pub families: Vec<Family>,
    /// Options by PVE's name: `address`, `address6`, `method`, `bridge_ports`, `mtu`, `comments`, …
    pub values: BTreeMap<String, String>,
    /// `vxlan-remoteip`, which may stand several times.
    pub remotes: Vec<String>,
    /// Options that are only kept, of `inet` or of no family.
    pub options: Vec<String>,
    /// Options that are only kept, of `inet6`.
    pub options6: Vec<String>,
    /// Whether the kernel has the link below it, where that can be told.
    pub exists: Option<bool>,
    /// Whether it is switched on.
    pub active: bool,
}

impl Iface {
    /// A value by PVE's name; an empty one counts as absent, as in PVE.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str).filter(|value| !value.is_empty() && *value != "0")
    }

    /// Sets a value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_owned(), value.into());
    }

    /// The names in a list such as `bridge_ports`.
    pub fn list(&self, key: &str) -> Vec<&str> {
        self.get(key).map(split_list).unwrap_or_default()
    }

    fn is_mentioned_only(&self) -> bool {
        self.families.is_empty()
    }
}

/// What the kernel knows, as far as the file's reader asks.
#[derive(Debug, Clone, Default)]
pub struct KernelView {
    /// Links by name.
    pub links: BTreeMap<String, KernelLink>,
    /// Names of links that are switched on.
    pub active: BTreeSet<String>,
}

/// One link of the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelLink {
    /// Whether it is an Ethernet device of the hardware and nothing made by software.
    pub physical: bool,
    /// Other names of the same link.
    pub altnames: Vec<String>,
}

impl KernelView {
    /// The link's own name for an other name.
    pub fn own_name<'a>(&'a self, name: &'a str) -> &'a str {
        let with =
            |(own, link): (&'a String, &KernelLink)| link.altnames.iter().any(|other| other == name).then_some(own);
        if self.links.contains_key(name) { name } else { self.links.iter().find_map(with).map_or(name, String::as_str) }
    }

    fn is_physical(&self, name: &str) -> bool {
        self.links.get(self.own_name(name)).is_some_and(|link| link.physical)
    }
}

/// Splits a list at blanks, commas and semicolons. (PVE: pve-common PVE/Tools.pm, split_list)
pub fn split_list(text: &str) -> Vec<&str> {
    text.split([' ', '\t', '\n', ',', ';', '\0']).filter(|part| !part.is_empty()).collect()
}

/// Names that options go by in files, and PVE's name for them.
const ALIASES: &[(&str, &str)] = &[
    ("ovs_mtu", "mtu"),
    ("bond-slaves", "slaves"),
    ("bond_slaves", "slaves"),
    ("bond-xmit-hash-policy", "bond_xmit_hash_policy"),
    ("bond-mode", "bond_mode"),
    ("bond-miimon", "bond_miimon"),
    ("bridge-vlan-aware", "bridge_vlan_aware"),
    ("bridge-fd", "bridge_fd"),
    ("bridge-stp", "bridge_stp"),
    ("bridge-ports", "bridge_ports"),
    ("bridge-vids", "bridge_vids"),
];

/// The seven modes of the kernel's bonds, by number.
pub const BOND_MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
