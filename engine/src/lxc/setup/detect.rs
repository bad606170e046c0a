//! Which system a root file system holds, and for which processor. (PVE: LXC/Setup.pm, autodetect_type; LXC/Tools.pm)

use super::super::rootfs::RootDirectory;
use super::system::Version;
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
const MARKS: [(&str, &str); 11] = [
    ("/etc/debian_version", "debian"),
    ("/etc/devuan_version", "devuan"),
    ("/etc/SuSE-brand", "opensuse"),
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
    let lsb = root.read("/etc/lsb-release")?.unwrap_or_default();
    if lsb.lines().any(|line| line.trim_end().eq_ignore_ascii_case("DISTRIB_ID=Ubuntu")) {
        return Ok(("ubuntu".into(), warning));
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

/// The newest version of a system that was tried, by its type.
const TRIED: [(&str, Version); 5] = [
    ("debian", Version(14, u32::MAX)),
    ("devuan", Version(13, u32::MAX)),
    ("ubuntu", Version(26, 10)),
    ("centos", Version(10, u32::MAX)),
    ("opensuse", Version(16, u32::MAX)),
];

/// Names of releases that stand where others have a number.
const RELEASES: [(&str, Version); 14] = [
    ("stretch", Version(9, 1)),
    ("buster", Version(10, 0)),
    ("bullseye", Version(11, 0)),
    ("bookworm", Version(12, 0)),
    ("trixie", Version(13, 0)),
    ("forky", Version(14, 0)),
    ("duke", Version(15, 0)),
    ("kali-rolling", Version(12, 0)),
    ("jessie", Version(8, 0)),
    ("ascii", Version(9, 0)),
    ("beowulf", Version(10, 0)),
    ("chimaera", Version(11, 0)),
    ("daedalus", Version(12, 0)),
    ("excalibur", Version(13, 0)),
];

/// The version of a system, with a warning when it is newer than what was tried or cannot be told. A version is never a
/// reason to refuse a system: what it cannot read it will leave alone.
pub fn version(root: &RootDirectory, ostype: &str) -> Result<(Version, Option<String>)> {
    let text = match ostype {
        "debian" => first_line(root, "/etc/debian_version")?,
        "devuan" => first_line(root, "/etc/devuan_version")?,
        "alpine" => first_line(root, "/etc/alpine-release")?,
        "centos" => first_line(root, "/etc/redhat-release")?,
        "ubuntu" | "fedora" | "openeuler" | "opensuse" => os_release(root, "VERSION_ID")?,
        _ => return Ok((Version::default(), None)),
    };
    let newest = TRIED.iter().find(|(name, _)| *name == ostype).map_or(Version(u32::MAX, 0), |(_, version)| *version);
    let Some(found) = text.as_deref().and_then(parse_version) else {
        let text =
            format!("the version of ostype '{ostype}' is unknown, it is set up like the newest one that is known");
        return Ok((newest, Some(text)));
    };
    // Tumbleweed's versions are dates.
    if found <= newest || (ostype == "opensuse" && found.0 > 2000) {
        return Ok((found, None));
    }
    let name = match ostype {
        "debian" => "Debian",
        "devuan" => "Devuan",
        "ubuntu" => "Ubuntu",
        "centos" => "CentOS",
        _ => "openSUSE",
    };
    let shown = if ostype == "ubuntu" { format!("{}.{:02}", found.0, found.1) } else { found.0.to_string() };
    let warning = format!(
        "The container's {name} version '{shown}' is newer than the tested version '{}'. While everything may work \
         fine, full compatibility cannot be guaranteed. Please check for PVE system updates.",
        newest.0
    );
    Ok((found, Some(warning)))
}

/// The first number with its minor one, or that of a named release.
fn parse_version(text: &str) -> Option<Version> {
    let lower = text.trim().to_ascii_lowercase();
    let name = lower.split('/').next().unwrap_or_default();
    if let Some((_, version)) = RELEASES.iter().find(|(known, _)| *known == name) {
        return Some(*version);
    }
    let start = lower.find(|c: char| c.is_ascii_digit())?;
    let number = &lower[start..];
    let number = &number[..number.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(number.len())];
    let mut parts = number.split('.');
    let major = parts.next()?.parse().ok()?;
    Some(Version(major, parts.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

fn first_line(root: &RootDirectory, path: &str) -> Result<Option<String>> {
    Ok(root.read(path)?.and_then(|text| text.lines().next().map(str::to_owned)))
}

/// The version of systemd that is init, by the library of its own that it needs.
pub fn systemd_version(root: &RootDirectory) -> Result<Option<u32>> {
    if !root.read_link("/sbin/init").is_some_and(|target| target.ends_with("/systemd")) {
        return Ok(None);
    }
    let bytes = root.read_bytes("/sbin/init")?.unwrap_or_default();
    let mark = b"libsystemd-shared-";
    let found = bytes.windows(mark.len()).position(|window| window == mark);
    let digits = found.map(|start| bytes[start + mark.len()..].iter().take_while(|byte| byte.is_ascii_digit()));
    let number: Option<String> = digits.map(|digits| digits.take(4).map(|digit| char::from(*digit)).collect());
    Ok(number.and_then(|number| number.parse().ok()))
}

/// The processor that `/bin/sh` is made for.
fn architecture(root: &RootDirectory) -> Result<Option<&'static str>> {
    if let Some(bytes) = root.read_bytes("/bin/sh")? {
        return Ok(elf_architecture(&bytes));
    }
    // NixOS makes `/bin/sh` at its first boot; its init is a script that names the shell.
    let init = root.read("/sbin/init")?.unwrap_or_default();
    let shell = init.lines().next().and_then(|line| line.strip_prefix("#!")).map(str::trim);
    let shell = shell.and_then(|line| line.split_whitespace().next());
    let Some(shell) = shell else { return Ok(None) };
    Ok(root.read_bytes(shell)?.and_then(|bytes| elf_architecture(&bytes)))
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
    fn versions_are_numbers_names_or_inside_a_sentence() {
        let parsed = |text: &str| parse_version(text).unwrap();
        assert_eq!(parsed("12.5"), Version(12, 5));
        assert_eq!(parsed("trixie/sid"), Version(13, 0));
        assert_eq!(parsed("Daedalus/ceres"), Version(12, 0));
        assert_eq!(parsed("CentOS Linux release 7.9.2009 (Core)"), Version(7, 9));
        assert_eq!(parsed("24.04"), Version(24, 4));
        assert_eq!(parse_version("sid"), None);
    }

    #[test]
    fn new_versions_are_accepted_with_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("etc")).unwrap();
        fs::write(directory.path().join("etc/debian_version"), "17.1\n").unwrap();
        let root = RootDirectory::open(directory.path(), &IdMap::default()).unwrap();
        let (found, warning) = version(&root, "debian").unwrap();
        assert_eq!(found, Version(17, 1));
        assert!(warning.unwrap().contains("Debian version '17' is newer than the tested version '14'"));
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
