//! Listing disks, their health, new partition tables, wiping. (PVE: pve-storage PVE/API2/Disks.pm)

use super::inventory::{self, Look, Places};
use super::{device, lock_disks, smart as health};
use crate::tool::Tool;
use crate::{Call, Reply, Result, bail};
use serde_json::{Value, json};

pub(super) fn list(call: &Call) -> Result<Reply> {
    let kind: Option<String> = call.opt("type")?;
    let look = Look { only: None, smart: !call.flag("skipsmart"), partitions: call.flag("include-partitions") };
    let disks = inventory::look(call.ctx, &Places::default(), &look);
    let rows = disks.values().filter(|disk| match kind.as_deref() {
        Some("unused") => disk.used.is_none(),
        Some("journal_disks") => {
            let fits = match disk.used.as_deref() {
                None | Some("LVM") => true,
                Some("partitions") => disk.gpt,
                Some(_) => false,
            };
            disk.osd() < 0 && fits
        }
        _ => true,
    });
    Ok(Reply::from(rows.map(inventory::Device::shape).collect::<Value>()))
}

/// A disk that does not answer has no health, which is no error.
pub(super) fn smart(call: &Call) -> Result<Reply> {
    let disk = device::resolve(&call.param::<String>("disk")?)?;
    let health_only = call.flag("healthonly");
    let answer = health::read(call.ctx, &disk, health_only).unwrap_or_default().shape();
    Ok(Reply::from(if health_only { json!({ "health": answer["health"] }) } else { answer }))
}

pub(super) fn init(call: &Call) -> Result<Reply> {
    let disk = device::resolve(&call.param::<String>("disk")?)?;
    let uuid: String = call.opt("uuid")?.unwrap_or_else(|| "R".into());
    if device::partition_number(&disk).is_some() {
        bail!("{disk} is a partition");
    }
    device::assert_unused(call.ctx, &disk)?;
    call.task("diskinit", device::short_name(&disk), |task| {
        let _lock = lock_disks(task.ctx)?;
        device::assert_unused(task.ctx, &disk)?;
        Tool::new("sgdisk").args([&disk, "-U", &uuid]).run_logged(task.ctx, &mut |line| task.log(line))
    })
}

pub(super) fn wipe(call: &Call) -> Result<Reply> {
    let disk = device::resolve(&call.param::<String>("disk")?)?;
    device::assert_free_to_wipe(&disk)?;
    call.task("wipedisk", device::short_name(&disk), |task| {
        let _lock = lock_disks(task.ctx)?;
        device::assert_free_to_wipe(&disk)?;
        device::wipe(task.ctx, &disk, &mut |line| task.log(line))?;
        device::trigger_udev(task.ctx, std::slice::from_ref(&disk));
        Ok(())
    })
}
