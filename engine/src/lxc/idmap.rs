//! User and group ids of a container as the host sees them.
//!
//! Unprivileged containers use 100000–165535 of the host unless raw `lxc.idmap` lines say otherwise. The maps are also
//! used to unpack templates and to own files that we write into a container.
//! (PVE: pve-container PVE/LXC.pm, parse_id_maps and validate_id_maps)

use crate::config::guest::Part;
use crate::{Context, Error, Result, error::ResultExt};
use std::fmt::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The first id of the host that unprivileged containers use, and how many.
const DEFAULT_START: u32 = 100_000;
const DEFAULT_COUNT: u32 = 65_536;

/// A run of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first id inside.
    pub inside: u32,
    /// The first id on the host.
    pub host: u32,
    /// How many.
    pub count: u32,
}

/// The maps of a container; empty for a privileged one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap {
    /// Users.
    pub users: Vec<Range>,
    /// Groups.
    pub groups: Vec<Range>,
}

impl IdMap {
    /// The maps that a configuration asks for.
    pub fn of(part: &Part) -> Result<Self> {
        let mut map = IdMap::default();
        for (_, value) in part.raw.iter().filter(|(key, _)| key == "lxc.idmap") {
            map.add(value)?;
        }
        if map.is_empty() && part.flag("unprivileged") {
            let range = Range { inside: 0, host: DEFAULT_START, count: DEFAULT_COUNT };
            map = IdMap { users: vec![range], groups: vec![range] };
        }
        Ok(map)
    }

    fn add(&mut self, line: &str) -> Result<()> {
        let bad = || Error::new(format!("failed to parse idmap: {line}"));
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [kind, inside, host, count] = fields[..] else { return Err(bad()) };
        let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
        let range = Range { inside: number(inside)?, host: number(host)?, count: number(count)? };
        if range.inside.checked_add(range.count).is_none() || range.host.checked_add(range.count).is_none() {
            return Err(bad());
        }
        if !matches!(kind, "u" | "g" | "b") {
            return Err(bad());
        }
        if kind != "g" {
            self.users.push(range);
        }
        if kind != "u" {
            self.groups.push(range);
        }
        Ok(())
    }

    /// The map of a mount point with the option `idmap`: from ids on its disk to ids of the host. `passthrough` shows the
    /// container the ids of the disk; `u:CONTAINER:DISK:COUNT;g:…` does so for some, the others stay as they are.
    /// (PVE: LXC.pm, resolve_mountpoint_idmap)
    pub fn for_mount(&self, text: &str) -> Result<Self> {
        if text == "passthrough" {
            return Ok(self.clone());
        }
        let mut exceptions = IdMap::default();
        for part in text.split(';').filter(|part| !part.is_empty()) {
            exceptions.add(&part.replace(':', " "))?;
        }
        Ok(IdMap { users: resolve(&self.users, exceptions.users), groups: resolve(&self.groups, exceptions.groups) })
    }

    /// Whether ids are the host's own.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.groups.is_empty()
    }

    /// The host's id of a user inside.
    pub fn user(&self, inside: u32) -> Result<u32> {
        lookup(&self.users, inside).ok_or_else(|| Error::new(format!("user id {inside} is not mapped")))
    }

    /// The host's id of a group inside.
    pub fn group(&self, inside: u32) -> Result<u32> {
        lookup(&self.groups, inside).ok_or_else(|| Error::new(format!("group id {inside} is not mapped")))
    }

    /// A user namespace with these maps, for programs that work on a container's files. It lives as long as the
    /// descriptor. None for a privileged container.
    pub fn namespace(&self) -> Result<Option<OwnedFd>> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: between fork and exec only one system call is made, which touches no memory of ours.
        unsafe {
            command.pre_exec(|| match libc::unshare(libc::CLONE_NEWUSER) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let mut child = command.spawn().context(|| "unable to make a user namespace")?;
        let directory = format!("/proc/{}", child.id());
        let open = || -> Result<OwnedFd> {
            std::fs::write(format!("{directory}/uid_map"), kernel_map(&self.users)).context(|| "uid_map")?;
            std::fs::write(format!("{directory}/gid_map"), kernel_map(&self.groups)).context(|| "gid_map")?;
            let file = std::fs::File::open(format!("{directory}/ns/user")).context(|| "namespace")?;
            Ok(file.into())
        };
        let namespace = open().context(|| "unable to set up a user namespace");
        drop(child.stdin.take());
        // It ends by itself once its input is closed.
        let _ = child.wait();
        namespace.map(Some)
    }
}

/// Cuts the container's ranges at the exceptions. `inside` of the result is the id on the disk.
fn resolve(container: &[Range], mut exceptions: Vec<Range>) -> Vec<Range> {
    exceptions.sort_by_key(|range| range.inside);
    let mut result = Vec::new();
    for chunk in container {
        let end = chunk.inside + chunk.count;
        let mut next = chunk.inside;
        let mut same = |from: u32, to: u32| {
            let host = chunk.host + (from - chunk.inside);
            result.extend((from < to).then_some(Range { inside: host, host, count: to.saturating_sub(from) }));
        };
        let mut mapped = Vec::new();
        for exception in &exceptions {
            let (first, last) = (exception.inside.max(next), (exception.inside + exception.count).min(end));
            if first >= last {
                continue;
            }
            same(next, first);
            let disk = exception.host + (first - exception.inside);
            mapped.push(Range { inside: disk, host: chunk.host + (first - chunk.inside), count: last - first });
            next = last;
        }
        same(next, end);
        result.extend(mapped);
    }
    result
}

fn lookup(map: &[Range], inside: u32) -> Option<u32> {
    if map.is_empty() {
        return Some(inside);
    }
    map.iter()
        .find(|range| (range.inside..range.inside + range.count).contains(&inside))
        .map(|range| range.host + (inside - range.inside))
}

fn kernel_map(map: &[Range]) -> String {
    let mut text = String::new();
    for range in map {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} {} {}", range.inside, range.host, range.count);
    }
    text
}

/// Where the host's ranges for root are written down.
const RANGE_FILES: [&str; 2] = ["/etc/subuid", "/etc/subgid"];

/// liblxc refuses maps that `/etc/subuid` and `/etc/subgid` do not grant to root when the host has newuidmap. PVE's
/// packages enter the default range; on a host without it we do, and say so. Other ranges are the administrator's to
/// grant; a missing one is an error that names the line.
pub fn ensure_granted(ctx: &Context, map: &IdMap, log: impl Fn(&str)) -> Result<()> {
    if map.is_empty() || !Path::new("/usr/bin/newuidmap").exists() {
        return Ok(());
    }
    for (file, ranges) in RANGE_FILES.into_iter().zip([&map.users, &map.groups]) {
        let path = Path::new(file);
        for range in ranges {
            if is_granted(&crate::file::read_or_empty(path)?, *range) {
                continue;
            }
            let line = format!("root:{}:{}", range.host, range.count);
            if range.host != DEFAULT_START || range.count != DEFAULT_COUNT {
                return Err(Error::new(format!("'{file}' does not allow root to use this idmap - add '{line}'")));
            }
            log(&format!("adding '{line}' to {file}"));
            crate::file::update(ctx, path, 0o644, |old| {
                let separator = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
                Ok(format!("{old}{separator}{line}\n"))
            })?;
        }
    }
    Ok(())
}

/// Whether one line of a range file covers a range for root. An id that is mapped to itself needs no grant of more
/// than one.
fn is_granted(text: &str, range: Range) -> bool {
    text.lines().any(|line| {
        let fields: Vec<&str> = line.trim().split(':').collect();
        let [user, start, count] = fields[..] else { return false };
        let (Ok(start), Ok(count)) = (start.parse::<u64>(), count.parse::<u64>()) else { return false };
        let end = u64::from(range.host) + u64::from(range.count);
        matches!(user, "root" | "0") && start <= u64::from(range.host) && end <= start + count
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(unprivileged: bool, raw: &[&str]) -> Part {
        let mut part = Part::default();
        if unprivileged {
            part.set("unprivileged", "1");
        }
        part.raw = raw.iter().map(|line| ("lxc.idmap".to_owned(), (*line).to_owned())).collect();
        part
    }

    #[test]
    fn maps_come_from_raw_lines_or_the_default() {
        assert!(IdMap::of(&part(false, &[])).unwrap().is_empty());
        let default = IdMap::of(&part(true, &[])).unwrap();
        assert_eq!((default.user(0).unwrap(), default.group(1000).unwrap()), (100_000, 101_000));
        assert!(default.user(65_536).is_err());
        let own = IdMap::of(&part(true, &["u 0 200000 1000", "u 1000 1000 1", "g 0 200000 65536"])).unwrap();
        assert_eq!((own.user(1000).unwrap(), own.user(7).unwrap(), own.group(7).unwrap()), (1000, 200_007, 200_007));
        for bad in ["u 0 1", "x 0 1 2", "u 0 4294967295 2", "u a 1 2"] {
            assert!(IdMap::of(&part(true, &[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_have_maps_from_their_disk_to_the_host() {
        let map = IdMap::of(&part(true, &[])).unwrap();
        assert_eq!(map.for_mount("passthrough").unwrap(), map);
        let mount = map.for_mount("u:1000:1000:1;g:0:5:2").unwrap();
        let text = |ranges: &[Range]| {
            let text = ranges.iter().map(|range| format!("{} {} {}", range.inside, range.host, range.count));
            text.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(text(&mount.users), "100000 100000 1000, 101001 101001 64535, 1000 101000 1");
        assert_eq!(text(&mount.groups), "100002 100002 65534, 5 100000 2");
    }

    #[test]
    fn grants_must_cover_the_whole_range() {
        let range = Range { inside: 0, host: 100_000, count: 65_536 };
        assert!(is_granted("user:1:2\nroot:100000:65536\n", range));
        assert!(is_granted("root:90000:99999999\n", range));
        assert!(!is_granted("root:100000:65535\nuser:100000:65536\n", range));
    }
}
