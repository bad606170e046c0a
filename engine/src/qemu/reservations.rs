//! Which VM has which PCI device: `/run/qemu-server/pci-id-reservations`, one line each.
//!
//! ```text
//! 0000:01:00.0 100 time:1760000000      until then, while the VM starts
//! 0000:01:00.1 101 pid:4711             as long as this process is the VM
//! ```
//! (PVE: qemu-server PCI.pm, reserve_pci_usage)

use super::files;
use crate::{Context, Error, Result, Vmid, file};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Until when a reservation holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Seconds since 1970.
    Until(u64),
    /// While this process is the VM.
    Process(u32),
}

type Table = BTreeMap<String, (Vmid, Holds)>;

fn path(ctx: &Context) -> PathBuf {
    files::directory(ctx).join("pci-id-reservations")
}

fn parse(text: &str) -> Table {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (id, vmid, holds) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let holds = match holds.split_once(':')? {
            ("time", seconds) => Holds::Until(seconds.parse().ok()?),
            ("pid", pid) => Holds::Process(pid.parse().ok()?),
            _ => return None,
        };
        Some((id.to_owned(), (vmid, holds)))
    };
    text.lines().filter_map(line).collect()
}

fn print(table: &Table) -> String {
    let line = |(id, (vmid, holds)): (&String, &(Vmid, Holds))| match holds {
        Holds::Until(seconds) => format!("{id} {vmid} time:{seconds}\n"),
        Holds::Process(pid) => format!("{id} {vmid} pid:{pid}\n"),
    };
    table.iter().map(line).collect()
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn is_valid(ctx: &Context, vmid: Vmid, holds: Holds) -> bool {
    match holds {
        Holds::Until(seconds) => seconds > now(),
        Holds::Process(pid) => files::process(ctx, vmid).is_some_and(|process| process.pid == pid),
    }
}

/// Devices that other VMs have or are about to get.
pub fn of_others(ctx: &Context, vmid: Vmid) -> Result<BTreeSet<String>> {
    let table = parse(&file::read_or_empty(&path(ctx))?);
    let others = table.into_iter().filter(|(_, (owner, holds))| *owner != vmid && is_valid(ctx, *owner, *holds));
    Ok(others.map(|(id, _)| id).collect())
}

/// Takes devices for a VM that will start within `seconds`.
///
/// # Errors
/// When another VM has one of them.
pub fn reserve(ctx: &Context, vmid: Vmid, ids: &[String], seconds: u64) -> Result<()> {
    if ids.is_empty() {
        return Ok(());
    }
    file::update(ctx, &path(ctx), 0o644, |text| {
        let mut table = parse(text);
        for id in ids {
            if let Some((owner, holds)) = table.get(id).copied().filter(|(owner, _)| *owner != vmid)
                && is_valid(ctx, owner, holds)
            {
                return Err(Error::new(match holds {
                    Holds::Until(_) => format!("PCI device '{id}' is currently reserved for use by VMID '{owner}'"),
                    Holds::Process(_) => format!("PCI device '{id}' already in use by VMID '{owner}'"),
                }));
            }
            table.insert(id.clone(), (vmid, Holds::Until(now() + seconds + 5)));
        }
        Ok(print(&table))
    })
}

/// From now on the devices of a VM are taken as long as it runs.
pub fn keep(ctx: &Context, vmid: Vmid, pid: u32) -> Result<()> {
    change(ctx, |table| {
        for (_, holds) in table.values_mut().filter(|(owner, _)| *owner == vmid) {
            *holds = Holds::Process(pid);
        }
    })
}

/// The devices of a VM are free.
pub fn release(ctx: &Context, vmid: Vmid) -> Result<()> {
    change(ctx, |table| table.retain(|_, (owner, _)| *owner != vmid))
}

/// Without a file there is nothing to change.
fn change(ctx: &Context, change: impl FnOnce(&mut Table)) -> Result<()> {
    let path = path(ctx);
    if !path.exists() {
        return Ok(());
    }
    file::update(ctx, &path, 0o644, |text| {
        let mut table = parse(text);
        change(&mut table);
        Ok(print(&table))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_belongs_to_one_vm_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        files::ensure_directory(&ctx).unwrap();
        let (one, two): (Vmid, Vmid) = ("100".parse().unwrap(), "101".parse().unwrap());
        let ids = ["0000:01:00.0".to_owned()];
        reserve(&ctx, one, &ids, 30).unwrap();
        reserve(&ctx, one, &ids, 30).unwrap();
        let refused = reserve(&ctx, two, &ids, 30).unwrap_err().message().to_owned();
        assert_eq!(refused, "PCI device '0000:01:00.0' is currently reserved for use by VMID '100'");
        assert!(of_others(&ctx, one).unwrap().is_empty() && of_others(&ctx, two).unwrap().len() == 1);
        // The process of the reservation does not run, so it means nothing any more.
        keep(&ctx, one, 1).unwrap();
        reserve(&ctx, two, &ids, 30).unwrap();
        release(&ctx, two).unwrap();
        assert!(of_others(&ctx, one).unwrap().is_empty());
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let text = "0000:01:00.0 100 time:17\n0000:01:00.1 101 pid:4711\n";
        assert_eq!(print(&parse(&format!("{text}junk\n"))), text);
    }
}
