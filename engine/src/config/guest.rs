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
//! (PVE: qemu-server PVE/QemuServer.pm, parse_vm_config and write_vm_config; pve-container PVE/LXC/Config.pm)

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

    fn pending_header(self) -> &'static str {
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
    /// Unreadable lines with their numbers from 1, for reports.
    pub problems: Vec<(usize, String)>,
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
            problems: Vec::new(),
            digest: String::new(),
        }
    }

    /// Reads a file's text; never fails, see `problems`.
    pub fn parse(kind: GuestKind, text: &str) -> Self {
        let mut config = GuestConfig { digest: crate::file::digest(text), ..GuestConfig::new(kind) };
        let mut header = String::new();
        for (index, line) in text.lines().enumerate() {
            if let Some(name) = line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                header = name.to_owned();
                config.part_mut(&header);
                continue;
            }
            if line.trim().is_empty() {
                continue;
            }
            if header == kind.pending_header()
                && let Some(list) = line.strip_prefix("delete:")
            {
                config.pending.delete.extend(parse_delete(list));
                continue;
            }
            let part = config.part_mut(&header);
            if !part.read_line(kind, line) {
                part.unreadable.push(line.to_owned());
                config.problems.push((index + 1, line.to_owned()));
            }
        }
        if kind == GuestKind::Qemu {
            config.trim_descriptions();
        }
        config
    }

    /// PVE cuts off what is blank at the end of a VM's description, but not of a container's.
    fn trim_descriptions(&mut self) {
        let others = self.special.values_mut().chain(self.snapshots.values_mut());
        for part in [&mut self.current, &mut self.pending.part].into_iter().chain(others) {
            if let Some(description) = &mut part.description {
                description.truncate(description.trim_end().len());
            }
        }
    }

    fn part_mut(&mut self, header: &str) -> &mut Part {
        if header.is_empty() {
            &mut self.current
        } else if header.eq_ignore_ascii_case(self.kind.pending_header()) {
            &mut self.pending.part
        } else if let Some(name) = header.strip_prefix("special:") {
            self.special.entry(name.to_owned()).or_default()
        } else {
            self.snapshots.entry(header.to_owned()).or_default()
        }
    }

    /// The file's text.
    pub fn print(&self) -> String {
        let mut text = String::new();
        self.current.write(&mut text);
        if !self.pending.is_empty() {
            text += &format!("\n[{}]\n", self.kind.pending_header());
            let mut part = self.pending.part.clone();
            // PVE sorts the list of keys to delete in among the others.
            if !self.pending.delete.is_empty() {
                let mark = |forced: &bool| if *forced { "!" } else { "" };
                let keys = self.pending.delete.iter().map(|(key, forced)| format!("{}{key}", mark(forced)));
                part.set("delete", keys.collect::<Vec<_>>().join(","));
            }
            part.write(&mut text);
        }
        for (name, part) in &self.special {
            text += &format!("\n[special:{name}]\n");
            part.write(&mut text);
        }
        for (name, part) in &self.snapshots {
            text += &format!("\n[{name}]\n");
            part.write(&mut text);
        }
        text
    }
}

/// `a,!b` → a plain, b forced.
fn parse_delete(list: &str) -> impl Iterator<Item = (String, bool)> {
    crate::types::split_list(list).into_iter().map(|key| match key.strip_prefix('!') {
        Some(key) => (key.to_owned(), true),
        None => (key, false),
    })
}

impl Part {
    fn read_line(&mut self, kind: GuestKind, line: &str) -> bool {
        if let Some(comment) = line.strip_prefix('#') {
            let description = self.description.get_or_insert_default();
            description.push_str(&super::text::decode(comment.trim_end()));
            description.push('\n');
            return true;
        }
        if kind == GuestKind::Lxc
            && line.starts_with("lxc.")
            && let Some((key, value)) = line.split_once([':', '='])
        {
            self.raw.push((key.trim().to_owned(), value.trim().to_owned()));
            return true;
        }
        match super::flat::split_line(line) {
            Some(("description", value)) => {
                self.description = Some(super::text::decode(value));
                true
            }
            Some((key, value)) if key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) => {
                self.options.insert(key.to_owned(), value.to_owned());
                true
            }
            _ => false,
        }
    }

    fn write(&self, text: &mut String) {
        for line in self.description.iter().flat_map(|description| description.lines()) {
            *text += &format!("#{}\n", super::text::encode(line));
        }
        for (key, value) in &self.options {
            *text += &format!("{key}: {value}\n");
        }
        for (key, value) in &self.raw {
            *text += &format!("{key}: {value}\n");
        }
        for line in &self.unreadable {
            *text += &format!("{line}\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: &str = "#web%3A one\n#two\nboot: order=scsi0\ncores: 2\nscsi0: local:100/vm-100-disk-0.raw,size=4G\n\n\
        [PENDING]\nballoon: 0\ndelete: onboot,!unused0\nmemory: 1024\n\n[special:cloudinit]\nciuser: debian\n\n[before]\ncores: 1\n\
        snaptime: 1700000000\n";

    #[test]
    fn printing_inverts_parsing() {
        let config = GuestConfig::parse(GuestKind::Qemu, VM);
        assert_eq!(config.current.description.as_deref(), Some("web: one\ntwo"));
        assert_eq!(config.pending.delete, BTreeMap::from([("onboot".into(), false), ("unused0".into(), true)]));
        assert_eq!(config.snapshots["before"].get("cores"), Some("1"));
        assert_eq!(config.current.indexed("scsi").next(), Some((0, "local:100/vm-100-disk-0.raw,size=4G")));
        assert!(config.problems.is_empty());
        assert_eq!(config.print(), VM);
    }

    #[test]
    fn raw_keys_of_containers_keep_their_order_and_bad_lines_are_reported() {
        let text = "arch: amd64\nlxc.mount.entry: /a b none bind\nlxc.apparmor.profile = unconfined\n!!\n";
        let config = GuestConfig::parse(GuestKind::Lxc, text);
        assert_eq!(config.current.raw[1], ("lxc.apparmor.profile".into(), "unconfined".into()));
        assert_eq!(config.problems, [(4, "!!".to_owned())]);
        assert!(config.print().ends_with("lxc.apparmor.profile: unconfined\n!!\n"));
    }
}
