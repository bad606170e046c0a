//! Which system a root file system holds, and for which processor. (PVE: LXC/Setup.pm, autodetect_type; LXC/Tools.pm)

use super::super::rootfs::RootDirectory;
use crate::{Error, Result};

/// Systems by their own id in `/etc/os-release`.
const KNOWN: [&str; 11] = [
    "alpine",
    "archlinux",
    "centos",
    "debian",
    "devuan",
    "fedora",
    "gentoo",
    "nixos",
    "openeuler",
    "opensuse",
    "ubuntu",
];

/// Relatives that are treated alike.
const RELATIVES: [(&str, &str); 8] = [
    ("opensuse-leap", "opensuse"),
    ("opensuse-tumbleweed", "opensuse"),
    ("opensuse-slowroll", "opensuse"),
    ("openEuler", "openeuler"),
    ("arch", "archlinux"),
    ("sles", "opensuse"),
    ("rocky", "centos"),
    ("almalinux", "centos"),
];

/// Files that only one system has, for those without an id.
const MARKS: [(&str, &str); 10] = [
    ("/etc/debian_version", "debian"),
    ("/etc/devuan_version", "devuan"),
    ("/etc/SuSE-release", "opensuse"),
    ("/etc/fedora-release", "fedora"),
    ("/etc/centos-release", "centos"),
    ("/etc/redhat-release", "centos"),
    ("/etc/arch-release", "archlinux"),
    ("/etc/alpine-release", "alpine"),
    ("/etc/gentoo-release", "gentoo"),
    ("/etc/openEuler-release", "openeuler"),
];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detected {
    /// The `ostype`.
    pub ostype: String,
    /// The `arch`, if `/bin/sh` says one.
    pub arch: Option<&'static str>,
    /// What the user should know about it.
    pub warning: Option<String>,
}

/// Looks at a root file system.
pub fn detect(root: &RootDirectory) -> Result<Detected> {
    let (ostype, warning) = ostype(root)?;
    Ok(Detected { ostype, arch: architecture(root)?, warning })
}

fn ostype(root: &RootDirectory) -> Result<(String, Option<String>)> {
    let mut warning = None;
    if let Some(id) = os_release(root, "ID")? {
        if KNOWN.contains(&id.as_str()) {
            return Ok((id, None));
        }
        if let Some((_, relative)) = RELATIVES.iter().find(|(name, _)| *name == id) {
            return Ok(((*relative).to_owned(), None));
        }
        warning = Some(format!("unknown ID '{id}' in /etc/os-release file, trying fallback detection"));
    }
    if let Some((_, ostype)) = MARKS.iter().find(|(file, _)| root.is_file(file)) {
        return Ok(((*ostype).to_owned(), warning));
    }
    if root.is_directory("/nix/store") {
        return Ok(("nixos".into(), warning));
    }
    if root.is_file("/etc/os-release") {
        return Err(Error::new("unable to detect OS distribution"));
    }
    let text = "/etc/os-release file not found and autodetection failed, falling back to 'unmanaged'";
    Ok(("unmanaged".into(), Some(text.into())))
}

/// A value of the system's own description.
fn os_release(root: &RootDirectory, key: &str) -> Result<Option<String>> {
    let text = match root.read("/etc/os-release")? {
        Some(text) => Some(text),
        None => root.read("/usr/lib/os-release")?,
    };
    let value =
        |line: &str| Some(line.trim().strip_prefix(key)?.strip_prefix('=')?.trim_matches(['"', '\'']).to_owned());
    Ok(text.and_then(|text| text.lines().find_map(value)))
}

/// Since 17.10 Ubuntu is configured by systemd-networkd.
pub fn ubuntu_has_networkd(root: &RootDirectory) -> Result<bool> {
    let version = os_release(root, "VERSION_ID")?.unwrap_or_default();
    let number = |part: Option<&str>| part.and_then(|part| part.parse::<u32>().ok()).unwrap_or(0);
    let mut parts = version.split('.');
    Ok((number(parts.next()), number(parts.next())) >= (17, 10))
}

/// The processor that `/bin/sh` is made for.
fn architecture(root: &RootDirectory) -> Result<Option<&'static str>> {
    Ok(root.read_bytes("/bin/sh")?.and_then(|bytes| elf_architecture(&bytes)))
}

fn elf_architecture(bytes: &[u8]) -> Option<&'static str> {
    if !bytes.starts_with(b"\x7fELF") || bytes.len() < 20 {
        return None;
    }
    let wide = bytes[4] == 2;
    match u16::from_le_bytes([bytes[18], bytes[19]]) {
        3 => Some("i386"),
        62 => Some("amd64"),
        40 => Some("armhf"),
        183 => Some("arm64"),
        243 if wide => Some("riscv64"),
        243 => Some("riscv32"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lxc::idmap::IdMap;
    use std::fs;

    fn detected(files: &[(&str, &str)]) -> Result<Detected> {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        detect(&RootDirectory::open(directory.path(), &IdMap::default()).unwrap())
    }

    #[test]
    fn systems_are_known_by_id_relative_or_mark() {
        let ostype = |files: &[(&str, &str)]| detected(files).unwrap().ostype;
        assert_eq!(ostype(&[("etc/os-release", "NAME=\"x\"\nID=debian\n")]), "debian");
        assert_eq!(ostype(&[("usr/lib/os-release", "ID=\"rocky\"\n")]), "centos");
        assert_eq!(ostype(&[("etc/alpine-release", "3.20.0\n")]), "alpine");
        let nothing = detected(&[]).unwrap();
        assert_eq!(nothing.ostype, "unmanaged");
        assert!(nothing.warning.unwrap().ends_with("falling back to 'unmanaged'"));
        assert!(detected(&[("etc/os-release", "ID=plan9\n")]).is_err());
    }

    #[test]
    fn processors_are_read_from_the_shell() {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(18, 0);
        header.extend([183, 0]);
        assert_eq!(elf_architecture(&header), Some("arm64"));
        assert_eq!(elf_architecture(b"#!/bin/sh"), None);
    }
}
