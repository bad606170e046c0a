//! Which backups stay and which go. (PVE: pve-storage PVE/Storage.pm, prune_mark_backup_group)
//!
//! The choice is a pure function of names, times and rules; only [`run`] removes something.

use super::content::Content;
use super::directory::name::backup_subtype;
use super::volume::{Volume, VolumeId};
use crate::{Context, Error, Result, Vmid, bail};
use contract::parse_boolean;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::{BTreeMap, BTreeSet};

/// How many backups of each kind stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keep {
    all: bool,
    counts: [u64; 6],
}

/// Options in the order in which they choose.
const OPTIONS: [&str; 6] = ["keep-last", "keep-hourly", "keep-daily", "keep-weekly", "keep-monthly", "keep-yearly"];

impl Keep {
    /// Reads `keep-last=3,keep-daily=7`.
    pub fn parse(text: &str) -> Result<Self> {
        let mut keep = Keep::default();
        for item in crate::types::split_list(text) {
            let bad = || Error::parameter("prune-backups", format!("invalid item '{item}'"));
            let (key, value) = item.split_once('=').ok_or_else(bad)?;
            match OPTIONS.iter().position(|option| *option == key) {
                Some(at) => keep.counts[at] = value.parse().map_err(|_| bad())?,
                None if key == "keep-all" => keep.all = parse_boolean(value).ok_or_else(bad)?,
                None => return Err(bad()),
            }
        }
        if keep.all && keep.counts.iter().any(|count| *count > 0) {
            return Err(Error::parameter("prune-backups", "keep-all cannot be set together with other options."));
        }
        Ok(keep)
    }

    fn keeps_everything(&self) -> bool {
        self.all || self.counts.iter().all(|count| *count == 0)
    }
}

/// What happens to a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It stays.
    Keep,
    /// It goes.
    Remove,
    /// It stays because somebody protected it.
    Protected,
    /// It stays because its name is somebody's own.
    Renamed,
}

impl Mark {
    /// PVE's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Mark::Keep => "keep",
            Mark::Remove => "remove",
            Mark::Protected => "protected",
            Mark::Renamed => "renamed",
        }
    }
}

/// A backup and what happens to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// The backup.
    pub id: VolumeId,
    /// When it was made.
    pub ctime: i64,
    /// `qemu`, `lxc`, `openvz` or `unknown`.
    pub kind: &'static str,
    /// The guest.
    pub vmid: Option<Vmid>,
    /// What happens to it.
    pub mark: Mark,
}

/// What pruning a storage would do. `keep` is the storage's own rule if absent; `kind` and `vmid` choose some backups.
pub fn plan(
    ctx: &Context,
    storage: &str,
    keep: Option<&str>,
    vmid: Option<Vmid>,
    kind: Option<&str>,
) -> Result<Vec<Marked>> {
    let entry = super::find(ctx, storage)?.entry;
    if !entry.has_content(Content::Backup) {
        bail!("storage '{storage}' does not support backups");
    }
    let Some(rule) = keep.or_else(|| entry.get("prune-backups")) else {
        bail!("no prune-backups options configured for storage '{storage}'");
    };
    let keep = Keep::parse(rule)?;
    let backups = super::list(ctx, storage, vmid, &[Content::Backup])?;
    let zone = TimeZone::system();
    Ok(mark(&backups, &keep, kind, &zone))
}

/// Marks backups in the order in which they are given.
pub fn mark(backups: &[Volume], keep: &Keep, kind: Option<&str>, zone: &TimeZone) -> Vec<Marked> {
    let mut marked = Vec::new();
    let mut groups: BTreeMap<(&str, Vmid), Vec<usize>> = BTreeMap::new();
    for backup in backups {
        let file = backup.id.name.rsplit('/').next().unwrap_or_default();
        let subtype = backup.subtype.unwrap_or_else(|| backup_subtype(file));
        if kind.is_some_and(|kind| kind != subtype) {
            continue;
        }
        let standard = backup.vmid.filter(|_| is_standard_name(file));
        let mark = if backup.protected { Mark::Protected } else { Mark::Renamed };
        if let Some(vmid) = standard {
            groups.entry((subtype, vmid)).or_default().push(marked.len());
        }
        let ctime = backup.ctime.unwrap_or(0);
        marked.push(Marked { id: backup.id.clone(), ctime, kind: subtype, vmid: backup.vmid, mark });
    }
    for group in groups.values() {
        mark_group(&mut marked, group, keep, zone);
    }
    marked
}

/// `vzdump-TYPE-VMID-YYYY_MM_DD-HH_MM_SS.…`
fn is_standard_name(file: &str) -> bool {
    let stem = file.split('.').next().unwrap_or_default();
    let shape: String = stem.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    backup_subtype(file) != "unknown" && shape.ends_with("-0000_00_00-00_00_00")
}

/// The backups of one guest, newest first: each rule keeps the newest of so many hours, days, … that no rule before it
/// has kept anything of.
fn mark_group(marked: &mut [Marked], group: &[usize], keep: &Keep, zone: &TimeZone) {
    let mut order = group.to_vec();
    order.sort_by_key(|at| std::cmp::Reverse(marked[*at].ctime));
    let open: Vec<usize> = order.iter().copied().filter(|at| marked[*at].mark != Mark::Protected).collect();
    let mut chosen: BTreeMap<usize, Mark> = BTreeMap::new();
    if keep.keeps_everything() {
        chosen.extend(open.iter().map(|at| (*at, Mark::Keep)));
    }
    for (rule, count) in keep.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let period = |at: usize| period(rule, marked[at].ctime, zone);
        let kept = chosen.iter().filter(|(_, mark)| **mark == Mark::Keep);
        let before: BTreeSet<String> = kept.map(|(at, _)| period(*at)).collect();
        let mut new = BTreeSet::new();
        for at in &open {
            let id = period(*at);
            if chosen.contains_key(at) || before.contains(&id) {
                continue;
            }
            if new.contains(&id) {
                chosen.insert(*at, Mark::Remove);
            } else if new.len() as u64 >= *count {
                break;
            } else {
                new.insert(id);
                chosen.insert(*at, Mark::Keep);
            }
        }
    }
    for at in open {
        marked[at].mark = chosen.get(&at).copied().unwrap_or(Mark::Remove);
    }
}

/// What backups have in common that a rule counts as one.
fn period(rule: usize, ctime: i64, zone: &TimeZone) -> String {
    let Ok(time) = Timestamp::from_second(ctime) else { return ctime.to_string() };
    let time = time.to_zoned(zone.clone());
    match OPTIONS[rule] {
        "keep-hourly" => time.strftime("%Y-%m-%d %H").to_string(),
        "keep-daily" => time.strftime("%Y-%m-%d").to_string(),
        "keep-weekly" => time.strftime("%G-%V").to_string(),
        "keep-monthly" => time.strftime("%Y-%m").to_string(),
        "keep-yearly" => time.strftime("%Y").to_string(),
        _ => ctime.to_string(),
    }
}

/// Removes what a plan says; `log` gets a line for each, and all failures are reported.
pub fn run(ctx: &Context, plan: &[Marked], log: &mut dyn FnMut(String)) -> Result<()> {
    let mut failed = false;
    for entry in plan.iter().filter(|entry| entry.mark == Mark::Remove) {
        log(format!("removing backup '{}'", entry.id));
        if let Err(error) = super::free(ctx, &entry.id) {
            log(format!("error when removing backup '{}' - {error}", entry.id));
            failed = true;
        }
    }
    if failed {
        bail!("error pruning backups - check log");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backup(name: &str, protected: bool) -> Volume {
        let time = name.get(16..35).and_then(|text| jiff::civil::DateTime::strptime("%Y_%m_%d-%H_%M_%S", text).ok());
        Volume {
            id: VolumeId::new("local", format!("backup/{name}")),
            content: Content::Backup,
            format: "vma.zst".into(),
            size: 1,
            used: None,
            vmid: Some("100".parse().unwrap()),
            parent: None,
            ctime: time.map(|time| time.to_zoned(TimeZone::UTC).unwrap().timestamp().as_second()),
            subtype: Some(backup_subtype(name)),
            notes: None,
            protected,
        }
    }

    /// The marks of backups at these times, one letter each.
    fn marks(times: &[&str], keep: &str) -> String {
        let backups: Vec<Volume> =
            times.iter().map(|time| backup(&format!("vzdump-qemu-100-{time}.vma.zst"), false)).collect();
        let marked = mark(&backups, &Keep::parse(keep).unwrap(), None, &TimeZone::UTC);
        marked.iter().map(|entry| &entry.mark.name()[..1]).collect()
    }

    const TIMES: [&str; 8] = [
        "2026_01_01-10_00_00",
        "2026_01_01-10_30_00",
        "2026_01_01-11_00_00",
        "2026_01_02-10_00_00",
        "2026_01_09-10_00_00",
        "2026_02_01-10_00_00",
        "2027_02_01-10_00_00",
        "2027_02_01-11_00_00",
    ];

    #[test]
    fn each_rule_keeps_the_newest_of_its_periods() {
        assert_eq!(marks(&TIMES, "keep-last=2"), "rrrrrrkk");
        assert_eq!(marks(&TIMES, "keep-hourly=4"), "rrrrkkkk");
        assert_eq!(marks(&TIMES, "keep-daily=3"), "rrrrkkrk");
        assert_eq!(marks(&TIMES, "keep-monthly=2"), "rrrrrkrk");
        assert_eq!(marks(&TIMES, "keep-yearly=9"), "rrrrrkrk");
        assert_eq!(marks(&TIMES, "keep-weekly=3"), "rrrrkkrk");
        assert_eq!(marks(&TIMES, "keep-last=1,keep-daily=1"), "rrrrrkrk");
        assert_eq!(marks(&TIMES, "keep-all=1"), "kkkkkkkk");
        assert_eq!(marks(&TIMES, "keep-last=0"), "kkkkkkkk");
    }

    #[test]
    fn protected_and_renamed_backups_stay_and_do_not_count() {
        let backups = [
            backup("vzdump-qemu-100-2026_01_01-10_00_00.vma.zst", true),
            backup("vzdump-qemu-100-2026_01_02-10_00_00.vma.zst", false),
            backup("vzdump-qemu-100-2026_01_03-10_00_00.vma.zst", false),
            backup("vzdump-qemu-100-mine.vma.zst", false),
            backup("vzdump-lxc-100-2026_01_01-10_00_00.tar.zst", false),
        ];
        let marked = mark(&backups, &Keep::parse("keep-last=1").unwrap(), None, &TimeZone::UTC);
        let names: Vec<&str> = marked.iter().map(|entry| entry.mark.name()).collect();
        assert_eq!(names, ["protected", "remove", "keep", "renamed", "keep"]);
        assert_eq!(mark(&backups, &Keep::default(), Some("lxc"), &TimeZone::UTC).len(), 1);
    }

    #[test]
    fn rules_must_make_sense() {
        for bad in ["keep-last", "keep-last=x", "keep-never=1", "keep-all=1,keep-last=1"] {
            assert!(Keep::parse(bad).is_err(), "{bad}");
        }
    }
}
