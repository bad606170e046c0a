//! One system that is being set up: its files, by the rules that hold for all of them.
//!
//! A file with a neighbour `.pve-ignore.NAME` is the container's own and is neither written, linked nor removed. A file that
//! says the same already is not written again. (PVE: LXC/Setup/Base.pm, ct_* functions)

use super::super::interface::{self, Interface};
use super::super::rootfs::RootDirectory;
use super::section::{self, Otherwise};
use crate::Result;
use crate::config::guest::Part;

/// A system below its root.
pub struct System<'a> {
    pub root: &'a RootDirectory,
    pub part: &'a Part,
    pub ostype: &'a str,
    /// What the system calls its version, as a number; 0 when it does not matter or is not known.
    pub version: Version,
    pub warn: &'a dyn Fn(&str),
    /// The host's `/etc/resolv.conf`.
    pub host_resolver: String,
}

/// Major and minor number of a system's version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl System<'_> {
    /// Replaces a file.
    pub fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        if is_ignored(self.root, path) || self.root.read(path)?.as_deref() == Some(text) {
            return Ok(());
        }
        self.root.write(path, text, mode)
    }

    /// Writes a file that is not there yet.
    pub fn write_missing(&self, path: &str, text: &str) -> Result<()> {
        if self.root.is_file(path) { Ok(()) } else { self.write(path, text, 0o644) }
    }

    /// Changes an existing file.
    pub fn edit(&self, path: &str, change: impl FnOnce(&str) -> String) -> Result<()> {
        match self.root.read(path)? {
            Some(old) => self.write(path, &change(&old), 0o644),
            None => Ok(()),
        }
    }

    /// Replaces the marked part of a file.
    pub fn write_section(&self, path: &str, content: &str, otherwise: Otherwise) -> Result<()> {
        let old = self.root.read(path)?;
        match section::with_section(old.as_deref(), content, otherwise) {
            Some(text) => self.write(path, &text, 0o644),
            None => Ok(()),
        }
    }

    /// Makes a symbolic link in place of whatever file was there.
    pub fn link(&self, target: &str, path: &str) -> Result<()> {
        if is_ignored(self.root, path) || self.root.read_link(path).as_deref() == Some(target) {
            return Ok(());
        }
        self.root.symlink(target, path)
    }

    /// Makes a symbolic link where nothing is yet; a missing directory is no place for one.
    pub fn link_missing(&self, target: &str, path: &str) -> Result<()> {
        let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
        if !self.root.is_directory(parent) || self.root.read_link(path).is_some() || self.root.stat(path).is_some() {
            return Ok(());
        }
        self.link(target, path)
    }

    /// Removes a file or link.
    pub fn remove(&self, path: &str) -> Result<()> {
        if is_ignored(self.root, path) { Ok(()) } else { self.root.remove(path) }
    }

    /// Makes a directory with its parents.
    pub fn make_directories(&self, path: &str) -> Result<()> {
        self.root.make_directories(path).map(drop)
    }

    /// The directory of systemd's own units, if systemd is there.
    pub fn unit_directory(&self) -> Option<&'static str> {
        [("/lib/systemd/systemd", "/lib/systemd/system"), ("/usr/lib/systemd/systemd", "/usr/lib/systemd/system")]
            .into_iter()
            .find_map(|(program, units)| self.root.is_file(program).then_some(units))
    }

    /// Whether init is a link to systemd.
    pub fn boots_systemd(&self) -> bool {
        self.root.read_link("/sbin/init").is_some_and(|target| target.ends_with("/systemd"))
    }

    /// How many terminals the container has.
    pub fn terminals(&self) -> u32 {
        self.part.get("tty").and_then(|text| text.parse().ok()).unwrap_or(2)
    }

    /// The directory of terminals below `/dev`, with a slash at its end if it is one.
    pub fn terminal_directory(&self) -> &'static str {
        if self.part.flag("unprivileged") || has_plain_terminals(self.ostype) { "" } else { "lxc/" }
    }

    /// Interfaces that the system itself configures: they have a name, and the host does not do it.
    pub fn interfaces(&self) -> Result<Vec<Interface>> {
        let mut found = interface::interfaces(self.part)?;
        found.retain(|net| !net.flag("host-managed") && !net.name().is_empty());
        Ok(found)
    }

    /// The container's name. Creation gives each one; who has none is called so by its own files, though its kernel says
    /// `CT` and its number. (PVE: LXC/Setup/Base.pm, set_hostname)
    pub fn hostname(&self) -> String {
        self.part.get("hostname").unwrap_or("localhost").to_owned()
    }

    /// Search domains and name servers: the container's own, or the host's.
    pub fn resolver_values(&self) -> (Vec<String>, Vec<String>) {
        let of_host = |key: &str| -> Vec<String> {
            let lines = self.host_resolver.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix([' ', '\t']));
            lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
        };
        let own = |key: &str| self.part.get(key).map(crate::types::split_list);
        let domains = own("searchdomain").unwrap_or_else(|| of_host("search"));
        let servers = own("nameserver").unwrap_or_else(|| of_host("nameserver").into_iter().take(3).collect());
        (domains, servers)
    }
}

/// Systems that know no directory for terminals below `/dev`.
pub fn has_plain_terminals(ostype: &str) -> bool {
    matches!(ostype, "debian" | "devuan" | "ubuntu" | "alpine" | "gentoo")
}

/// Whether a file is the container's own.
pub fn is_ignored(root: &RootDirectory, path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    root.is_file(&format!("{directory}/.pve-ignore.{name}"))
}
