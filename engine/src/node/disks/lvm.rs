//! Volume groups on disks. (PVE: pve-storage PVE/API2/Disks/LVM.pm)

use super::{device, entry, lock_disks};
use crate::storage::Entry;
use crate::storage::lvm::{report, thick};
use crate::storage::node_entry::Wanted;
use crate::tool::Tool;
use crate::{Call, Context, Reply, Result, Task, bail, error::ResultExt};
use serde_json::{Value, json};

pub(super) fn list(call: &Call) -> Result<Reply> {
    let groups = report::groups(call.ctx, true)?;
    let rows = groups.iter().map(|(name, group)| {
        let leaf = |physical: &report::PhysicalVolume| {
            json!({ "name": physical.name, "size": physical.size, "free": physical.free, "leaf": 1 })
        };
        json!({
            "name": name, "size": group.size, "free": group.free, "lvcount": group.volumes, "leaf": 0,
            "children": group.physical.iter().map(leaf).collect::<Value>(),
        })
    });
    Ok(Reply::from(json!({ "leaf": 0, "children": rows.collect::<Value>() })))
}

fn wanted(name: &str) -> Wanted<'_> {
    let options =
        vec![("vgname", name.to_owned()), ("content", "rootdir,images".to_owned()), ("shared", "0".to_owned())];
    Wanted { id: name, kind: "lvm", options, same: &["vgname"] }
}

pub(super) fn create(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    let disk = device::resolve(&call.param::<String>("device")?)?;
    device::assert_unused(call.ctx, &disk)?;
    entry::check_new(call, &wanted(&name))?;
    call.task("lvmcreate", &name, |task| {
        let _lock = lock_disks(task.ctx)?;
        make_group(task, &disk, &name)?;
        device::trigger_udev(task.ctx, std::slice::from_ref(&disk));
        entry::add(call, task.ctx, &wanted(&name))
    })
}

/// Makes a volume group on an unused disk.
pub(super) fn make_group(task: &Task, disk: &str, name: &str) -> Result<()> {
    device::assert_unused(task.ctx, disk)?;
    if report::groups(task.ctx, false)?.contains_key(name) {
        bail!("volume group with name '{name}' already exists on node '{}'", task.ctx.node);
    }
    if device::partition_number(disk).is_some()
        && let Err(error) = device::set_partition_type(task.ctx, disk, "8E00")
    {
        task.warn(error.message());
    }
    thick::create_group(task.ctx, disk, name, true)
}

/// Removes a volume group with all its volumes.
pub(super) fn remove_group(ctx: &Context, name: &str) -> Result<()> {
    Tool::new("vgremove")
        .args(["-y", "--", report::check_name(name, "volume group")?])
        .run(ctx)
        .context(|| format!("unable to remove volume group {name}"))
}

pub(super) fn remove(call: &Call) -> Result<Reply> {
    let name: String = call.param("name")?;
    entry::check_removal(call)?;
    call.task("lvmremove", &name, |task| {
        let _lock = lock_disks(task.ctx)?;
        let Some(group) = report::groups(task.ctx, true)?.remove(&name) else {
            bail!("no such volume group '{name}'");
        };
        remove_group(task.ctx, &name)?;
        let disks: Vec<String> = match call.flag("cleanup-disks") {
            true => group.physical.into_iter().map(|physical| physical.name).collect(),
            false => Vec::new(),
        };
        let is_its = |entry: &Entry| entry.kind() == "lvm" && entry.get("vgname") == Some(name.as_str());
        entry::clean_up(call, task, &disks, is_its)
    })
}
