//! Making a disk larger, also while the VM runs. (PVE: qemu-server API2/Qemu.pm, resize_vm)

use super::config::{Drive, Slot};
use super::qmp::Monitor;
use super::recovery::{self, Facts};
use super::status;
use crate::config::guest::GuestKind;
use crate::{Error, Result, Task, Vmid, access, guest, storage};
use serde_json::json;
use std::str::FromStr;
use std::time::Duration;

/// A new size: absolute or, with a plus, on top of the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSize {
    bytes: u64,
    is_added: bool,
}

/// What is wished for.
#[derive(Debug, Clone)]
pub struct Resize {
    /// The drive.
    pub slot: Slot,
    /// Its new size.
    pub size: NewSize,
    /// The state that the caller saw.
    pub digest: Option<String>,
    /// Do it although the VM is marked as locked.
    pub skip_lock: bool,
}

impl FromStr for NewSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (is_added, size) = text.strip_prefix('+').map_or((false, text), |size| (true, size));
        let bytes = storage::parse_size(size).ok_or_else(|| format!("unable to parse size '{text}'"))?;
        Ok(NewSize { bytes, is_added })
    }
}

/// Makes a disk larger; the caller holds the VM's lock.
pub fn resize(task: &Task, vmid: Vmid, wish: &Resize) -> Result<()> {
    let (ctx, slot) = (task.ctx, wish.slot);
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    if wish.digest.as_ref().is_some_and(|seen| !seen.is_empty() && *seen != config.digest) {
        crate::bail!("checksum mismatch (file change by other user?)");
    }
    if !wish.skip_lock {
        guest::check_lock(&config)?;
    }
    let Some(text) = config.current.get(&slot.to_string()) else { crate::bail!("disk '{slot}' does not exist") };
    let drive = Drive::parse(slot, text)?;
    if drive.is_cdrom() {
        crate::bail!("you can't resize a cdrom");
    }
    let Some(volume) = drive.volume() else { crate::bail!("disk '{slot}' has no associated volume") };
    access::check(ctx, &format!("/storage/{}", volume.storage), &["Datastore.AllocateSpace"])?;
    let old = storage::info(ctx, &volume)?.size;
    let new = if wish.size.is_added { old + wish.size.bytes } else { wish.size.bytes };
    if new < old {
        crate::bail!("shrinking disks is not supported");
    }
    if new == old {
        return Ok(());
    }
    let _work = recovery::begin(ctx, vmid, &Facts::default())?;
    // While QEMU has an image file open only QEMU may change it.
    let running = status::is_running(ctx, vmid);
    if !running || storage::path(ctx, &volume)?.starts_with("/dev") {
        storage::resize(ctx, &volume, new)?;
    }
    if running {
        tell_qemu(&mut Monitor::connect(ctx, vmid)?, slot, new)?;
    }
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        let mut drive = drive;
        drive.options.set("size", storage::print_size(new));
        config.current.set(slot.to_string(), drive.to_string());
        Ok(())
    })
}

/// The block node of a drive is found by its device, because it is named differently before and after machine 10.0.
fn tell_qemu(monitor: &mut Monitor, slot: Slot, size: u64) -> Result<()> {
    let name = slot.to_string();
    let blocks = monitor.execute("query-block", json!({}))?;
    let is_ours = |device: &str| {
        device == name
            || device == format!("drive-{name}")
            || device == format!("/machine/peripheral/{name}/virtio-backend")
    };
    let block = blocks
        .as_array()
        .into_iter()
        .flatten()
        .find(|block| ["qdev", "device"].iter().any(|key| block[key].as_str().is_some_and(is_ours)));
    let node = block.and_then(|block| block["inserted"]["node-name"].as_str());
    let node = node.ok_or_else(|| Error::new(format!("no block node inserted for drive '{slot}'")))?;
    // What the guest has under way on the drive is finished first.
    let wish = json!({"node-name": node, "size": size.next_multiple_of(1024)});
    monitor.execute_within("block_resize", wish, Duration::from_secs(60)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plus_adds() {
        assert_eq!("+1G".parse(), Ok(NewSize { bytes: 1 << 30, is_added: true }));
        assert_eq!("512M".parse(), Ok(NewSize { bytes: 512 << 20, is_added: false }));
        assert_eq!("+1.5K".parse(), Ok(NewSize { bytes: 1536, is_added: true }));
        assert!("-1G".parse::<NewSize>().is_err() && "x".parse::<NewSize>().is_err());
    }
}
