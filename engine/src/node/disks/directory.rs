//! File systems on disks, mounted at `/mnt/pve/NAME` by a unit of systemd.
//! (PVE: pve-storage PVE/API2/Disks/Directory.pm)

use super::inventory::{self, Look, Places};
use super::unit::{MountUnit, name_for, storage_of};
use super::{device, entry, lock_disks};
use crate::storage::Entry;
use crate::storage::node_entry::Wanted;
use crate::tool::{QUESTION, Tool};
use crate::{Call, Error, Reply, Result, Task, bail, error::ResultExt, file, mounts};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Where units of the administrator lie.
const UNITS: &str = "/etc/systemd/system";

fn unit_path(call: &Call, name: &str) -> PathBuf {
    call.ctx.root.path(UNITS).join(format!("{}.mount", name_for(name)))
}

pub(super) fn list(call: &Call) -> Result<Reply> {
    let directory = call.ctx.root.path(UNITS);
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    let mut files: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    files.sort();
    let rows = files.iter().filter_map(|name| {
        let storage = storage_of(name)?;
        let unit = MountUnit::parse(&fs::read_to_string(directory.join(name)).ok()?);
        Some(json!({
            "unitfile": format!("{UNITS}/{name}"), "path": format!("/mnt/pve/{storage}"),
            "device": unit.what, "type": unit.kind, "options": unit.options,
        }))
    });
    Ok(Reply::from(rows.collect::<Value>()))
}

fn wanted(name: &str) -> Wanted<'_> {
    let options = vec![
        ("path", format!("/mnt/pve/{name}")),
        ("content", "rootdir,images,iso,backup,vztmpl,snippets".to_owned()),
        ("is_mountpoint", "1".to_owned()),
    ];
    Wanted { id: name, kind: "dir", options, same: &["path"] }
}

pub(super) fn create(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    let disk = device::resolve(&call.param::<String>("device")?)?;
    let kind = call.opt::<String>("filesystem")?.unwrap_or_else(|| "ext4".into());
    device::assert_unused(call.ctx, &disk)?;
    entry::check_new(call, &wanted(&name))?;
    let place = format!("/mnt/pve/{name}");
    if let Some(mount) = mounts::at(Path::new(&place)) {
        bail!("the path for '{name}' is already mounted: {place} ({})", mount.source);
    }
    let unit = unit_path(call, &name);
    if unit.exists() {
        bail!("a systemd mount unit already exists: {}", unit.display());
    }
    call.task("dircreate", &name, |task| {
        let _lock = lock_disks(task.ctx)?;
        device::assert_unused(task.ctx, &disk)?;
        let part = whole_partition(task, &disk)?;
        shown(task, Tool::new("mkfs").args(["-t", &kind, &part]))?;
        let what = format!("/dev/disk/by-uuid/{}", uuid(task, &part)?);
        let text = MountUnit { what, kind: kind.clone(), options: "defaults".into() }.print(&name);
        file::replace(&unit, text.as_bytes(), 0o644)?;
        device::trigger_udev(task.ctx, std::slice::from_ref(&part));
        device::settle(task.ctx);
        enable(task, &name).and_then(|()| entry::add(call, task.ctx, &wanted(&name))).map_err(|error| {
            // The file system stays, as a new one is empty; a unit that does not work would only stop the next try.
            let failures: Vec<Error> = disable(task, &name).err().into_iter().collect();
            let _ = fs::remove_file(&unit);
            error.with_cleanup_failures(&failures)
        })
    })
}

/// A partition over the whole disk; a partition is taken as it is.
fn whole_partition(task: &Task, disk: &str) -> Result<String> {
    if device::partition_number(disk).is_some() {
        if let Err(error) = device::set_partition_type(task.ctx, disk, "8300") {
            task.warn(error.message());
        }
        return Ok(disk.to_owned());
    }
    shown(task, Tool::new("sgdisk").args(["-n1", "-t1:8300", disk]))?;
    device::settle(task.ctx);
    match device::partitions(disk).pop() {
        Some(part) => Ok(part),
        None => bail!("the kernel shows no partition on '{disk}'"),
    }
}

/// Runs a command that the task's log shows.
fn shown(task: &Task, tool: Tool) -> Result<()> {
    task.log(format!("# {tool}"));
    tool.run_logged(task.ctx, &mut |line| task.log(line))
}

fn uuid(task: &Task, part: &str) -> Result<String> {
    let tool = Tool::new("blkid").args([part, "-o", "export"]).within(QUESTION);
    task.log(format!("# {tool}"));
    let text = tool.read(task.ctx)?;
    let uuid = text.lines().find_map(|line| line.strip_prefix("UUID=")).unwrap_or_default();
    let good = !uuid.is_empty() && uuid.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if good { Ok(uuid.to_owned()) } else { bail!("could not get UUID of device '{part}'") }
}

fn systemctl(task: &Task, arguments: &[&str]) -> Result<()> {
    Tool::new("systemctl").args(arguments.to_vec()).run_logged(task.ctx, &mut |line| task.log(line))
}

fn enable(task: &Task, name: &str) -> Result<()> {
    let unit = format!("{}.mount", name_for(name));
    systemctl(task, &["daemon-reload"])?;
    systemctl(task, &["enable", "--", &unit])?;
    systemctl(task, &["start", "--", &unit])
}

fn disable(task: &Task, name: &str) -> Result<()> {
    let unit = format!("{}.mount", name_for(name));
    systemctl(task, &["stop", "--", &unit])?;
    systemctl(task, &["disable", "--", &unit])
}

pub(super) fn remove(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    entry::check_removal(call)?;
    call.task("dirremove", &name, |task| {
        let _lock = lock_disks(task.ctx)?;
        let unit = unit_path(call, &name);
        let mut doomed = Vec::new();
        if call.flag("cleanup-disks") {
            let text = fs::read_to_string(&unit).context(|| unit.display().to_string())?;
            doomed.push(disk_to_wipe(task, &MountUnit::parse(&text).what)?);
        }
        disable(task, &name)?;
        file::remove_if_there(&unit).context(|| format!("cannot remove {}", unit.display()))?;
        let place = format!("/mnt/pve/{name}");
        let is_its = |entry: &Entry| entry.kind() == "dir" && entry.get("path") == Some(place.as_str());
        entry::clean_up(call, task, &doomed, is_its)
    })
}

/// The whole disk if the file system's partition is its only one.
fn disk_to_wipe(task: &Task, what: &str) -> Result<String> {
    let part = device::resolve(what)?;
    let name = device::name_of(&part);
    let look = Look { only: Some(name), partitions: true, ..Look::default() };
    let found = inventory::look(task.ctx, &Places::default(), &look);
    match found.get(name) {
        None => bail!("unable to obtain information for disk '{name}'"),
        Some(device) => match &device.parent {
            Some(parent) if found.len() == 2 => Ok(parent.clone()),
            _ => Ok(part.clone()),
        },
    }
}
