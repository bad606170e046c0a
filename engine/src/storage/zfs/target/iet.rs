//! The iSCSI Enterprise Target of Linux: a configuration file for the next start, and `ietadm` for now.
//! (PVE: pve-storage PVE/Storage/LunCmd/Iet.pm)

use super::{Provider, free_number};
use crate::storage::driver::Storage;
use crate::storage::iscsi::place;
use crate::storage::zfs::remote::{read_file, run, write_file};
use crate::{Error, Result, bail};

const CONFIGURATION: &str = "/etc/iet/ietd.conf";
const IETADM: &str = "/usr/sbin/ietadm";

/// Most numbers of a target.
const MAX_LUNS: u32 = 16864;

/// The program.
pub(super) struct Iet;

/// A line `Lun NUMBER Path=DEVICE,Type=…`.
fn lun(line: &str) -> Option<(u32, &str)> {
    let mut words = line.split('#').next()?.split_whitespace();
    (words.next()? == "Lun").then_some(())?;
    let number = words.next()?.parse().ok()?;
    let path = words.next()?.split(',').find_map(|option| option.strip_prefix("Path="))?;
    Some((number, path))
}

/// Where the lines of a target are: the first behind its head, and the end.
fn section(lines: &[&str], target: &str) -> Option<(usize, usize)> {
    let head = |line: &str| {
        line.trim()
            .strip_prefix("Target")
            .filter(|rest| rest.starts_with(char::is_whitespace))
            .map(|rest| rest.trim().to_owned())
    };
    let start = lines.iter().position(|line| head(line).as_deref() == Some(target))? + 1;
    let end = lines[start..].iter().position(|line| head(line).is_some()).map_or(lines.len(), |more| start + more);
    Some((start, end))
}

fn luns<'t>(text: &'t str, target: &str) -> Result<Vec<(u32, &'t str)>> {
    let lines: Vec<&str> = text.lines().collect();
    let Some((start, end)) = section(&lines, target) else { bail!("{target}: Target not found") };
    Ok(lines[start..end].iter().filter_map(|line| lun(line)).collect())
}

/// The configuration with a device, or without it.
fn changed(text: &str, target: &str, device: &str, number: Option<u32>) -> Result<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    let Some((start, end)) = section(&lines, target) else { bail!("{target}: Target not found") };
    let added;
    match number {
        Some(number) => {
            added = format!("\tLun {number} Path={device},Type=blockio");
            let last =
                (start..end).rev().find(|index| !lines[*index].trim().is_empty()).map_or(start, |index| index + 1);
            lines.insert(last, &added);
        }
        None => {
            let mut index = 0;
            lines.retain(|line| {
                index += 1;
                let inside = index > start && index <= end;
                !(inside && lun(line).is_some_and(|(_, path)| path == device))
            });
        }
    }
    Ok(lines.join("\n") + "\n")
}

/// The number that the running program gave the target.
fn target_number(storage: &Storage, target: &str) -> Result<String> {
    let text = read_file(storage, "/proc/net/iet/volume")?;
    let found = text.lines().find_map(|line| {
        let (number, name) = line.trim().strip_prefix("tid:")?.split_once(" name:")?;
        (name.trim() == target).then(|| number.trim().to_owned())
    });
    found.ok_or_else(|| Error::new(format!("{target}: Target not found")))
}

fn announce(storage: &Storage, target: &str, number: u32, device: &str) -> Result<()> {
    let (tid, lun) = (format!("--tid={}", target_number(storage, target)?), format!("--lun={number}"));
    let parameters = format!("Path={device},Type=blockio");
    run(storage, &[IETADM, "--op", "new", &tid, &lun, "--params", &parameters]).map(drop)
}

fn forget(storage: &Storage, target: &str, number: u32) -> Result<()> {
    let (tid, lun) = (format!("--tid={}", target_number(storage, target)?), format!("--lun={number}"));
    run(storage, &[IETADM, "--op", "delete", &tid, &lun]).map(drop)
}

impl Provider for Iet {
    fn base_path(&self) -> &'static str {
        "/dev"
    }

    fn number(&self, storage: &Storage, device: &str) -> Result<Option<u32>> {
        let (_, target) = place(storage)?;
        let text = read_file(storage, CONFIGURATION)?;
        Ok(luns(&text, target)?.into_iter().find(|(_, path)| *path == device).map(|(number, _)| number))
    }

    fn publish(&self, storage: &Storage, device: &str) -> Result<()> {
        let (_, target) = place(storage)?;
        let text = read_file(storage, CONFIGURATION)?;
        let luns = luns(&text, target)?;
        if luns.iter().any(|(_, path)| *path == device) {
            bail!("{device}: LUN exists");
        }
        let number = free_number(&luns.iter().map(|(number, _)| *number).collect::<Vec<_>>(), MAX_LUNS)?;
        write_file(storage, CONFIGURATION, &changed(&text, target, device, Some(number))?)?;
        announce(storage, target, number, device).map_err(|error| {
            let failures: Vec<Error> = write_file(storage, CONFIGURATION, &text).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })
    }

    fn withdraw(&self, storage: &Storage, device: &str) -> Result<()> {
        let (_, target) = place(storage)?;
        let text = read_file(storage, CONFIGURATION)?;
        let found = luns(&text, target)?.into_iter().find(|(_, path)| *path == device);
        let Some((number, _)) = found else { return Ok(()) };
        forget(storage, target, number)?;
        write_file(storage, CONFIGURATION, &changed(&text, target, device, None)?)
    }

    /// The program sees a new size only when the device is given anew.
    fn resized(&self, storage: &Storage, device: &str, _kib: u64) -> Result<()> {
        let (_, target) = place(storage)?;
        let Some(number) = self.number(storage, device)? else { return Ok(()) };
        forget(storage, target, number)?;
        announce(storage, target, number, device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# mine\nTarget iqn.a\n\tMaxConnections 1\n\tLun 0 Path=/dev/tank/vm-100-disk-0,Type=blockio\n\n\
                        Target iqn.b\n\tLun 0 Path=/dev/tank/other,Type=fileio\n";

    #[test]
    fn only_the_targets_own_lines_change() {
        assert_eq!(luns(TEXT, "iqn.a").unwrap(), [(0, "/dev/tank/vm-100-disk-0")]);
        assert!(luns(TEXT, "iqn.c").is_err());
        let more = changed(TEXT, "iqn.a", "/dev/tank/vm-101-disk-0", Some(1)).unwrap();
        assert_eq!(luns(&more, "iqn.a").unwrap(), [(0, "/dev/tank/vm-100-disk-0"), (1, "/dev/tank/vm-101-disk-0")]);
        assert_eq!(luns(&more, "iqn.b").unwrap(), [(0, "/dev/tank/other")]);
        assert_eq!(changed(&more, "iqn.a", "/dev/tank/vm-101-disk-0", None).unwrap(), TEXT);
        assert_eq!(changed(TEXT, "iqn.a", "/dev/tank/other", None).unwrap(), TEXT);
    }
}
