//! ZFS pools on disks. Untested on real hardware. (PVE: pve-storage PVE/API2/Disks/ZFS.pm)

use super::inventory::{self, Look, Places};
use super::udev::Properties;
use super::{device, entry, lock_disks, unit, zpool};
use crate::storage::Entry;
use crate::storage::node_entry::Wanted;
use crate::tool::{QUESTION, Tool};
use crate::types::split_list;
use crate::{Call, Context, Reply, Result, Task, bail};
use serde_json::Value;
use std::path::Path;

/// The unit that imports a pool at boot.
const IMPORT_UNIT: &str = "/lib/systemd/system/zfs-import@.service";

/// Levels and the least number of disks for each.
const LEVELS: [(&str, usize); 9] = [
    ("single", 1),
    ("mirror", 2),
    ("raid10", 4),
    ("raidz", 3),
    ("raidz2", 4),
    ("raidz3", 5),
    ("draid", 3),
    ("draid2", 4),
    ("draid3", 5),
];

fn pools(ctx: &Context) -> Result<Vec<Value>> {
    let tool = Tool::new("zpool").args(["list", "-HpPLo", zpool::COLUMNS]).within(QUESTION);
    Ok(zpool::list(&tool.read(ctx)?))
}

pub(super) fn list(call: &Call) -> Result<Reply> {
    Ok(Reply::from(Value::Array(pools(call.ctx)?)))
}

pub(super) fn detail(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    let text = Tool::new("zpool").args(["status", "-P", &name]).within(QUESTION).read(call.ctx)?;
    Ok(Reply::from(zpool::status(&text)))
}

fn wanted(name: &str) -> Wanted<'_> {
    let options = vec![("pool", name.to_owned()), ("content", "rootdir,images".to_owned())];
    Wanted { id: name, kind: "zfspool", options, same: &["pool"] }
}

/// Data and spare disks of a dRAID.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Draid {
    data: usize,
    spares: usize,
}

impl Draid {
    /// `spares=1,data=4`.
    fn parse(text: &str) -> Self {
        let value = |key: &str| {
            text.split(',').find_map(|item| item.trim().strip_prefix(key)?.strip_prefix('=')?.parse().ok()).unwrap_or(0)
        };
        Draid { data: value("data"), spares: value("spares") }
    }
}

/// Fails when so many disks are not enough, or not right, for a level.
fn check_count(level: &str, count: usize, draid: Option<Draid>) -> Result<()> {
    let least = LEVELS.iter().find(|(name, _)| *name == level).map_or(1, |(_, least)| *least);
    if level == "raid10" && !count.is_multiple_of(2) {
        bail!("raid10 needs an even number of disks");
    }
    if level == "single" && count > 1 {
        bail!("please give only one disk for single disk mode");
    }
    if count < least {
        bail!("{level} needs at least {least} disks");
    }
    if let Some(draid) = draid {
        let least = least - 2 + draid.data + draid.spares;
        if count < least {
            bail!("At least {least} disks needed for current dRAID config");
        }
    }
    Ok(())
}

/// The devices of a pool as `zpool create` takes them.
fn layout(level: &str, disks: &[String], draid: Option<Draid>) -> Vec<String> {
    let draid = draid.unwrap_or_default();
    let mut words = Vec::new();
    match level {
        "single" => {}
        "raid10" => {
            for pair in disks.chunks(2) {
                words.push("mirror".to_owned());
                words.extend(pair.iter().cloned());
            }
            return words;
        }
        _ => {
            let data = if draid.data > 0 { format!(":{}d", draid.data) } else { String::new() };
            let spares = if draid.spares > 0 { format!(":{}s", draid.spares) } else { String::new() };
            words.push(format!("{level}{data}{spares}"));
        }
    }
    words.extend(disks.iter().cloned());
    words
}

pub(super) fn create(call: &Call) -> Result<Reply> {
    let (name, level) = (call.param::<String>("name")?, call.param::<String>("raidlevel")?);
    let draid = call.text("draid-config").map(|text| Draid::parse(&text));
    if draid.is_some() && !level.starts_with("draid") {
        bail!("draid-config set without using dRAID level");
    }
    let disks: Vec<String> = split_list(&call.param::<String>("devices")?)
        .iter()
        .map(|path| device::resolve(path))
        .collect::<Result<_>>()?;
    disks.iter().try_for_each(|disk| device::assert_unused(call.ctx, disk))?;
    entry::check_new(call, &wanted(&name))?;
    if pools(call.ctx)?.iter().any(|pool| pool["name"] == name) {
        bail!("pool '{name}' already exists on node '{}'", call.ctx.node);
    }
    check_count(&level, disks.len(), draid)?;
    let ashift = call.opt::<u64>("ashift")?.unwrap_or(12);
    let compression = call.opt::<String>("compression")?.unwrap_or_else(|| "on".into());
    call.task("zfscreate", &name, |task| {
        let _lock = lock_disks(task.ctx)?;
        let members = disks.iter().map(|disk| member(task, disk)).collect::<Result<Vec<_>>>()?;
        let pool = Tool::new("zpool").args(["create", "-o", &format!("ashift={ashift}"), &name]);
        shown(task, pool.args(layout(&level, &members, draid)))?;
        shown(task, Tool::new("zfs").args(["set", &format!("compression={compression}"), &name]))?;
        if Path::new(IMPORT_UNIT).exists() {
            shown(task, Tool::new("systemctl").args(["enable", "--", &import_unit(&name)]))?;
        }
        device::trigger_udev(task.ctx, &members);
        entry::add(call, task.ctx, &wanted(&name))
    })
}

fn import_unit(name: &str) -> String {
    format!("zfs-import@{}.service", unit::escape(name))
}

/// A disk on its way into a pool: marked as ZFS's, and called by a name that stays.
fn member(task: &Task, disk: &str) -> Result<String> {
    device::assert_unused(task.ctx, disk)?;
    if device::partition_number(disk).is_some()
        && let Err(error) = device::set_partition_type(task.ctx, disk, "6a898cc3-1dd2-11b2-99a6-080020736631")
    {
        task.warn(error.message());
    }
    let places = Places::default();
    let directory = places.sys.join("class/block").join(device::name_of(disk).replace('/', "!"));
    let properties = Properties::read(&directory, &places.udev).unwrap_or_default();
    Ok(properties.stable_link().unwrap_or(disk).to_owned())
}

/// Runs a command that the task's log shows.
fn shown(task: &Task, tool: Tool) -> Result<()> {
    task.log(format!("# {tool}"));
    tool.run_logged(task.ctx, &mut |line| task.log(line))
}

pub(super) fn remove(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    entry::check_removal(call)?;
    call.task("zfsremove", &name, |task| {
        let _lock = lock_disks(task.ctx)?;
        let disks = if call.flag("cleanup-disks") { disks_of(task, &name)? } else { Vec::new() };
        if Path::new(IMPORT_UNIT).exists() {
            shown(task, Tool::new("systemctl").args(["disable", "--", &import_unit(&name)]))?;
        }
        Tool::new("zpool").args(["destroy", &name]).run_logged(task.ctx, &mut |line| task.log(line))?;
        let is_its = |entry: &Entry| entry.kind() == "zfspool" && entry.get("pool") == Some(name.as_str());
        entry::clean_up(call, task, &disks, is_its)
    })
}

/// The devices of a pool; whole disks where ZFS made both partitions by itself.
fn disks_of(task: &Task, pool: &str) -> Result<Vec<String>> {
    let text = Tool::new("zpool").args(["list", "-vHPL", pool]).within(QUESTION).read(task.ctx)?;
    let names = text.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| name.starts_with("/dev/"));
    names
        .map(|name| {
            let disk = device::resolve(name)?;
            let short = device::name_of(&disk);
            let look = Look { only: Some(short), partitions: true, ..Look::default() };
            let found = inventory::look(task.ctx, &Places::default(), &look);
            let Some(parent) = found.get(short).and_then(|device| device.parent.clone()) else { return Ok(disk) };
            let reserved = found.values().any(|device| device.used.as_deref() == Some("ZFS reserved"));
            Ok(if found.len() == 3 && reserved { parent } else { disk })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_want_their_disks() {
        let error = |level, count, draid| check_count(level, count, draid).unwrap_err().message().to_owned();
        assert_eq!(error("raid10", 5, None), "raid10 needs an even number of disks");
        assert_eq!(error("single", 2, None), "please give only one disk for single disk mode");
        assert_eq!(error("raidz2", 3, None), "raidz2 needs at least 4 disks");
        let draid = Draid::parse("spares=1,data=4");
        assert_eq!(draid, Draid { data: 4, spares: 1 });
        assert_eq!(error("draid", 5, Some(draid)), "At least 6 disks needed for current dRAID config");
        check_count("draid", 6, Some(draid)).unwrap();
    }

    #[test]
    fn layouts_are_words_of_zpool() {
        let disks: Vec<String> = ["a", "b", "c", "d"].map(String::from).into();
        let words = |level, draid| layout(level, &disks, draid).join(" ");
        assert_eq!(words("raid10", None), "mirror a b mirror c d");
        assert_eq!(words("raidz", None), "raidz a b c d");
        assert_eq!(words("draid2", Some(Draid { data: 3, spares: 1 })), "draid2:3d:1s a b c d");
        assert_eq!(layout("single", &disks[..1], None), ["a"]);
        assert_eq!(import_unit("my-tank"), "zfs-import@my\\x2dtank.service");
    }
}
