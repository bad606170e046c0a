//! istgt of FreeBSD: a configuration file that the program reads again on a signal.
//! (PVE: pve-storage PVE/Storage/LunCmd/Istgt.pm)

use super::{Provider, free_number};
use crate::storage::driver::Storage;
use crate::storage::iscsi::place;
use crate::storage::zfs::remote::{read_file, run, write_file};
use crate::{Error, Result, bail};

/// Where systems keep the configuration.
const CONFIGURATIONS: [&str; 2] = ["/usr/local/etc/istgt/istgt.conf", "/var/etc/iscsi/istgt.conf"];

/// Where the program's number is if the configuration does not say.
const PID_FILE: &str = "/var/run/istgt.pid";

/// Most numbers of a target.
const MAX_LUNS: u32 = 64;

/// The program.
pub(super) struct Istgt;

/// A value of a line `KEY VALUE`, without quotes.
fn value<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let rest = line.trim().strip_prefix(key)?;
    rest.starts_with(char::is_whitespace).then(|| rest.trim().trim_matches('"'))
}

/// A line `LUN3 Storage DEVICE SIZE`.
fn lun(line: &str) -> Option<(u32, &str)> {
    let mut words = line.split_whitespace();
    let number = words.next()?.strip_prefix("LUN")?.parse().ok()?;
    (words.next()?.eq_ignore_ascii_case("storage")).then_some(())?;
    Some((number, words.next()?))
}

/// Where the lines of a target are. Its name is the configuration's `NodeBase` and the section's `TargetName`.
fn section(lines: &[&str], target: &str) -> Option<(usize, usize)> {
    let base = lines.iter().find_map(|line| value(line, "NodeBase"))?;
    let is_head = |line: &&str| line.trim().starts_with('[');
    let mut start = 0;
    while let Some(more) = lines[start..].iter().position(is_head) {
        let first = start + more + 1;
        let end = lines[first..].iter().position(is_head).map_or(lines.len(), |more| first + more);
        let name = lines[first..end].iter().find_map(|line| value(line, "TargetName"));
        if lines[first - 1].trim().starts_with("[LogicalUnit")
            && name.is_some_and(|name| format!("{base}:{name}") == target)
        {
            return Some((first, end));
        }
        start = first;
    }
    None
}

fn luns<'t>(text: &'t str, target: &str) -> Result<Vec<(u32, &'t str)>> {
    let lines: Vec<&str> = text.lines().collect();
    let Some((start, end)) = section(&lines, target) else { bail!("{target}: Target not found") };
    Ok(lines[start..end].iter().filter_map(|line| lun(line)).collect())
}

/// The configuration with these lines for a device, or without it.
fn changed(text: &str, target: &str, device: &str, added: &[String]) -> Result<String> {
    let lines: Vec<&str> = text.lines().collect();
    let Some((start, end)) = section(&lines, target) else { bail!("{target}: Target not found") };
    let of_device = lines[start..end].iter().filter_map(|line| lun(line)).find(|(_, path)| *path == device);
    let prefix = of_device.map(|(number, _)| format!("LUN{number}"));
    let is_devices = |line: &str| prefix.is_some() && line.split_whitespace().next() == prefix.as_deref();
    let mut kept: Vec<&str> = lines[start..end].iter().copied().filter(|line| !is_devices(line)).collect();
    let last = kept.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |index| index + 1);
    for line in added.iter().rev() {
        kept.insert(last, line);
    }
    Ok([&lines[..start], &kept, &lines[end..]].concat().join("\n") + "\n")
}

fn configuration(storage: &Storage) -> Result<(&'static str, String)> {
    let mut last = Error::new("No configuration found. Install istgt on the portal");
    for path in CONFIGURATIONS {
        match read_file(storage, path) {
            Ok(text) => return Ok((path, text)),
            Err(error) if error.message().contains("No such file") => {}
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The program reads its configuration again.
fn reload(storage: &Storage, text: &str) -> Result<()> {
    let file = text.lines().find_map(|line| value(line, "PidFile")).unwrap_or(PID_FILE);
    let number = read_file(storage, file)?;
    let number = number.trim();
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit()) {
        bail!("istgt does not run on the portal");
    }
    run(storage, &["kill", "-HUP", number]).map(drop)
}

fn replace(storage: &Storage, device: &str, lines: &[String]) -> Result<()> {
    let (_, target) = place(storage)?;
    let (path, text) = configuration(storage)?;
    write_file(storage, path, &changed(&text, target, device, lines)?)?;
    reload(storage, &text).map_err(|error| {
        let failures: Vec<Error> = write_file(storage, path, &text).err().into_iter().collect();
        error.with_cleanup_failures(&failures)
    })
}

impl Provider for Istgt {
    fn base_path(&self) -> &'static str {
        "/dev/zvol"
    }

    fn number(&self, storage: &Storage, device: &str) -> Result<Option<u32>> {
        let (_, target) = place(storage)?;
        let (_, text) = configuration(storage)?;
        Ok(luns(&text, target)?.into_iter().find(|(_, path)| *path == device).map(|(number, _)| number))
    }

    fn publish(&self, storage: &Storage, device: &str) -> Result<()> {
        let (_, target) = place(storage)?;
        let (_, text) = configuration(storage)?;
        let luns = luns(&text, target)?;
        if luns.iter().any(|(_, path)| *path == device) {
            bail!("{device}: LUN exists");
        }
        let number = free_number(&luns.iter().map(|(number, _)| *number).collect::<Vec<_>>(), MAX_LUNS)?;
        let mut lines = vec![format!("LUN{number} Storage {device} AUTO")];
        if storage.entry.flag("nowritecache").unwrap_or(false) {
            lines.push(format!("LUN{number} Option WriteCache Disable"));
        }
        replace(storage, device, &lines)
    }

    fn withdraw(&self, storage: &Storage, device: &str) -> Result<()> {
        if self.number(storage, device)?.is_none() { Ok(()) } else { replace(storage, device, &[]) }
    }

    /// The size is `AUTO`: the program looks again when it reads its configuration.
    fn resized(&self, storage: &Storage, _device: &str, _kib: u64) -> Result<()> {
        let (_, text) = configuration(storage)?;
        reload(storage, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[Global]\n  NodeBase \"iqn.x\"\n  PidFile /var/run/istgt.pid\n\n[LogicalUnit1]\n  TargetName other\n\
                        \x20 LUN0 Storage /dev/zvol/tank/a AUTO\n\n[LogicalUnit2]\nTargetName data\nMapping PortalGroup1 InitiatorGroup1\n\
                        LUN0 Storage /dev/zvol/tank/vm-100-disk-0 AUTO\nLUN0 Option WriteCache Disable\n\n[UnitControl]\nX y\n";

    #[test]
    fn only_the_targets_own_lines_change() {
        assert_eq!(luns(TEXT, "iqn.x:data").unwrap(), [(0, "/dev/zvol/tank/vm-100-disk-0")]);
        assert!(luns(TEXT, "iqn.x:none").is_err());
        let line = vec!["LUN1 Storage /dev/zvol/tank/b AUTO".to_owned()];
        let more = changed(TEXT, "iqn.x:data", "/dev/zvol/tank/b", &line).unwrap();
        assert!(more.contains("WriteCache Disable\nLUN1 Storage /dev/zvol/tank/b AUTO\n\n[UnitControl]"), "{more}");
        assert_eq!(changed(&more, "iqn.x:data", "/dev/zvol/tank/b", &[]).unwrap(), TEXT);
        let less = changed(TEXT, "iqn.x:data", "/dev/zvol/tank/vm-100-disk-0", &[]).unwrap();
        assert!(!less.contains("WriteCache") && less.contains("/dev/zvol/tank/a AUTO"), "{less}");
    }
}
