//! A guest's configuration file, for VMs and containers alike.
//!
//! ```text
//! #description, one line each, percent-encoded
//! key: value
//! lxc.raw.key: value          (containers)
//!
//! [PENDING]                   ([pve:pending] in containers)
//! key: new value
//! delete: key,!forced
//!
//! [special:cloudinit]
//! …
//! [snapshot name]
//! …
//! ```
//! Snapshots come last, sorted. Lines that cannot be read are reported and kept at the end of their part.
//! This is the file as a value; [`super::guest_text`] reads and prints it.

use std::collections::BTreeMap;

/// Which kind of guest a file describes; the two differ in the name of the pending section and in raw keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestKind {
    /// A virtual machine.
    Qemu,
    /// A container.
    Lxc,
}

impl GuestKind {
    /// The name in paths and ids: `qemu` or `lxc`.
    pub fn as_str(self) -> &'static str {
        match self {
            GuestKind::Qemu => "qemu",
            GuestKind::Lxc => "lxc",
        }
    }

    /// The directory below `/etc/pve/nodes/NODE`.
    pub fn config_directory(self) -> &'static str {
        match self {
            GuestKind::Qemu => "qemu-server",
            GuestKind::Lxc => "lxc",
        }
    }

    /// `VM` or `CT`, as messages name the guest.
    pub fn label(self) -> &'static str {
        match self {
            GuestKind::Qemu => "VM",
            GuestKind::Lxc => "CT",
        }
    }

    /// The name of the section with changes that wait.
    pub(super) fn pending_header(self) -> &'static str {
        match self {
            GuestKind::Qemu => "PENDING",
            GuestKind::Lxc => "pve:pending",
        }
    }
}

/// The number of a key such as `net3`; none if it is not `prefix` and a number.
pub fn number_of(key: &str, prefix: &str) -> Option<u32> {
    key.strip_prefix(prefix)?.parse().ok()
}

/// One part of the file: the current state or a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// The description, decoded; each line ends with a line break, of VMs all but the last.
    pub description: Option<String>,
    /// Values by key.
    pub options: BTreeMap<String, String>,
    /// `lxc.*` lines in the order of the file.
    pub raw: Vec<(String, String)>,
    /// Lines that could not be read.
    pub unreadable: Vec<String>,
}

impl Part {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }

    /// Whether a key holds `1`.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key).map(str::to_ascii_lowercase).as_deref(), Some("1" | "on" | "yes" | "true"))
    }

    /// Sets a value.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.options.insert(key.into(), value.into());
    }

    /// Values of `prefix0`, `prefix1`, … by number.
    pub fn indexed<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (u32, &'a str)> {
        let mut found: Vec<(u32, &str)> =
            self.options.iter().filter_map(|(key, value)| Some((number_of(key, prefix)?, value.as_str()))).collect();
        found.sort_unstable();
        found.into_iter()
    }
}

/// Changes that wait for the next start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pending {
    /// New values, the description among them.
    pub part: Part,
    /// Keys to delete; `true` means forced (data of unused disks goes, too).
    pub delete: BTreeMap<String, bool>,
}

impl Pending {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.delete.is_empty() && self.part == Part::default()
    }
}

/// A line that does not count, or does not say what it should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it. Holds the value, which may be a secret.
    pub text: String,
}

/// A whole file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestConfig {
    /// What it describes.
    pub kind: GuestKind,
    /// The current state.
    pub current: Part,
    /// Changes that wait.
    pub pending: Pending,
    /// `[special:NAME]` sections.
    pub special: BTreeMap<String, Part>,
    /// Snapshots by name.
    pub snapshots: BTreeMap<String, Part>,
    /// Sections with headers that are none, with their lines. (VMs; PVE forgets them.)
    pub unknown_sections: Vec<String>,
    /// What of the text does not count.
    pub problems: Vec<Problem>,
    /// SHA-1 of the text that was read; empty for a new configuration.
    pub digest: String,
}

impl GuestConfig {
    /// An empty configuration.
    pub fn new(kind: GuestKind) -> Self {
        GuestConfig {
            kind,
            current: Part::default(),
            pending: Pending::default(),
            special: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            unknown_sections: Vec::new(),
            problems: Vec::new(),
            digest: String::new(),
        }
    }
}
