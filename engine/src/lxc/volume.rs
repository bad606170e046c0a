//! `rootfs` and `mpN`: what a container mounts, from where and how.
//!
//! Owns the reading and the canonical printing of these values. It looks at no storage and mounts nothing.
//! (PVE: pve-container PVE/LXC/Config.pm, parse_volume, print_ct_mountpoint, classify_mountpoint)

use crate::config::guest::Part;
use crate::{Error, Result};
use contract::property_string;
use serde_json::{Map, Value};

/// The highest `mpN`.
const LAST_MOUNT_POINT: u32 = 255;

/// What a mount comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A volume of a storage.
    Volume,
    /// A directory of the host.
    Bind,
    /// A block device of the host.
    Device,
}

/// One `rootfs` or `mpN` value.
#[derive(Debug, Clone, PartialEq)]
pub struct MountPoint {
    /// `rootfs` or `mpN`.
    pub key: String,
    values: Map<String, Value>,
}

impl MountPoint {
    /// Reads the value of an option.
    pub fn parse(key: &str, text: &str) -> Result<Self> {
        let values = property_string::parse(format_of(key), text)
            .map_err(|errors| Error::new(format!("unable to parse '{key}': {}", one_line(&errors))))?;
        Ok(MountPoint { key: key.to_owned(), values })
    }

    /// The canonical text.
    pub fn print(&self) -> String {
        // The values were read by the same format, so none of them can be unprintable.
        property_string::print(format_of(&self.key), &self.values).unwrap_or_default()
    }

    /// Volume id, directory or device.
    pub fn volume(&self) -> &str {
        self.text("volume").unwrap_or_default()
    }

    /// Replaces the volume, and its size when it is known.
    pub fn set_volume(&mut self, volume: impl Into<String>, size: Option<u64>) {
        self.values.insert("volume".into(), Value::String(volume.into()));
        if let Some(size) = size {
            self.set_size(size);
        }
    }

    /// The size that the configuration remembers, in bytes.
    pub fn size(&self) -> Option<u64> {
        contract::format::size::parse(self.text("size")?)
    }

    /// Remembers a size in bytes.
    pub fn set_size(&mut self, size: u64) {
        self.values.insert("size".into(), Value::String(contract::format::size::print(size)));
    }

    /// Where it is seen in the container; `/` for `rootfs`.
    pub fn target(&self) -> &str {
        if self.key == "rootfs" { "/" } else { self.text("mp").unwrap_or_default() }
    }

    /// What the text behind `volume` names.
    pub fn source(&self) -> Source {
        match self.volume() {
            path if path.starts_with("/dev/") => Source::Device,
            path if path.starts_with('/') => Source::Bind,
            _ => Source::Volume,
        }
    }

    /// `STORAGE:GIB` asks for a new volume of that size; 0 means a plain directory.
    pub fn wants_new_volume(&self) -> Option<(&str, f64)> {
        let (storage, size) = self.volume().split_once(':')?;
        let is_number = size.split_once('.').map_or_else(|| digits(size), |(a, b)| digits(a) && digits(b));
        if storage.is_empty() || !is_number {
            return None;
        }
        Some((storage, size.parse().ok()?))
    }

    /// A boolean of the value; `None` when it is not set.
    pub fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name).map(|value| matches!(crate::call::config_text(value).as_str(), "1"))
    }

    /// How ids on its disk are shown, if otherwise than they are.
    pub fn id_map(&self) -> Option<&str> {
        self.text("idmap")
    }

    /// Whether the container may only read it.
    pub fn read_only(&self) -> bool {
        self.flag("ro") == Some(true)
    }

    /// Mount options in the form of mount(8).
    pub fn mount_options(&self) -> Vec<String> {
        let mut options: Vec<String> =
            self.text("mountoptions").map(|list| list.split(';').map(str::to_owned).collect()).unwrap_or_default();
        options.retain(|option| !option.is_empty());
        if self.read_only() {
            // An image without recovery of its journal is all that may be written to a read-only mount.
            options.retain(|option| option != "discard" && option != "lazytime");
        }
        if self.flag("acl") == Some(true) {
            options.push("acl".into());
        }
        options
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_str()
    }
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn format_of(key: &str) -> &'static str {
    if key == "rootfs" { "~pve-ct-rootfs" } else { "pve-ct-mountpoint" }
}

fn one_line(errors: &impl std::fmt::Display) -> String {
    errors.to_string().trim().replace('\n', "; ")
}

/// Whether an option holds a mounted volume.
pub fn is_mount_key(key: &str) -> bool {
    key == "rootfs"
        || key.strip_prefix("mp").is_some_and(|n| digits(n) && n.parse().is_ok_and(|n: u32| n <= LAST_MOUNT_POINT))
}

/// Whether an option holds a volume that nothing uses.
pub fn is_unused_key(key: &str) -> bool {
    key.strip_prefix("unused").is_some_and(digits)
}

/// All mounts of a configuration in the order of mounting: `rootfs`, then `mpN` by number.
pub fn mounts(part: &Part) -> Result<Vec<MountPoint>> {
    let rootfs = part.get("rootfs").map(|text| MountPoint::parse("rootfs", text));
    let rest = part.indexed("mp").map(|(index, text)| MountPoint::parse(&format!("mp{index}"), text));
    rootfs.into_iter().chain(rest).collect()
}

/// The volume ids that a part of a configuration refers to, unused ones included, each once.
pub fn volumes(part: &Part) -> Vec<String> {
    let mut found = Vec::new();
    let mounted = mounts(part).unwrap_or_default().into_iter().filter(|mount| mount.source() == Source::Volume);
    let unused = part.indexed("unused").map(|(_, volume)| volume.to_owned());
    for volume in mounted.map(|mount| mount.volume().to_owned()).chain(unused) {
        if !found.contains(&volume) {
            found.push(volume);
        }
    }
    found
}

/// Adds a volume as `unusedN` under the first free number, unless it is there already.
pub fn add_unused(part: &mut Part, volume: &str) -> Result<()> {
    if part.indexed("unused").any(|(_, known)| known == volume) {
        return Ok(());
    }
    let free = (0..=255).find(|index| part.get(&format!("unused{index}")).is_none());
    let index = free.ok_or_else(|| Error::new("too many unused volumes"))?;
    part.set(format!("unused{index}"), volume);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_they_are_stored() {
        for (key, text) in [
            ("rootfs", "local:100/vm-100-disk-0.raw,size=4G"),
            ("mp0", "/srv/data,mp=/data,ro=1"),
            ("mp1", "local:100/vm-100-disk-1.raw,mp=/var/lib,backup=1,size=8G"),
        ] {
            assert_eq!(MountPoint::parse(key, text).unwrap().print(), text);
        }
    }

    #[test]
    fn sources_are_told_by_the_text() {
        let source = |text: &str| MountPoint::parse("mp0", text).unwrap().source();
        assert_eq!(source("/srv,mp=/a"), Source::Bind);
        assert_eq!(source("/dev/sdb1,mp=/a"), Source::Device);
        assert_eq!(source("local:4,mp=/a"), Source::Volume);
        let rootfs = |text: &str| MountPoint::parse("rootfs", text).unwrap();
        assert_eq!(rootfs("local:0.5").wants_new_volume(), Some(("local", 0.5)));
        assert_eq!(rootfs("local:100/vm-100-disk-0.raw").wants_new_volume(), None);
        assert_eq!(rootfs("local:0").wants_new_volume(), Some(("local", 0.0)));
    }

    #[test]
    fn volumes_are_listed_once_and_unused_numbers_are_filled() {
        let mut part = Part::default();
        part.set("rootfs", "local:100/a.raw,size=1G");
        part.set("mp0", "/srv,mp=/srv");
        part.set("mp1", "local:100/b.raw,mp=/b");
        part.set("unused0", "local:100/a.raw");
        assert_eq!(volumes(&part), ["local:100/a.raw", "local:100/b.raw"]);
        add_unused(&mut part, "local:100/c.raw").unwrap();
        add_unused(&mut part, "local:100/c.raw").unwrap();
        assert_eq!(part.get("unused1"), Some("local:100/c.raw"));
        assert_eq!(part.get("unused2"), None);
    }
}
