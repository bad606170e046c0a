//! One disk or partition: which it is, whether it may be used, and changing what is on it.
//! (PVE: pve-storage PVE/Diskmanage.pm)

use super::inventory::{self, Look, Places};
use crate::tool::Tool;
use crate::{Context, Error, Result, bail, error::ResultExt, mounts};
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// How much of a disk is overwritten at most; file systems and tables have their marks there.
const WIPED_MIB: u64 = 200;

/// The device's node behind links, as `/dev/NAME`.
///
/// # Errors
/// When it does not exist, is no block device, or lies elsewhere.
pub fn resolve(path: &str) -> Result<String> {
    let real = fs::canonicalize(path).map_err(|_| Error::new(format!("failed to get absolute path to {path}")))?;
    let text = real.to_string_lossy().into_owned();
    let name = text.strip_prefix("/dev/").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/' | '.' | ':');
    if name.is_empty() || !name.chars().all(allowed) || name.starts_with('-') {
        bail!("got unusual device path '{}'", text.escape_debug());
    }
    if !fs::metadata(&real).is_ok_and(|metadata| metadata.file_type().is_block_device()) {
        bail!("not a valid block device");
    }
    Ok(text)
}

/// The name below `/dev`.
pub fn name_of(device: &str) -> &str {
    device.strip_prefix("/dev/").unwrap_or(device)
}

/// The last part of the node's name, for ids of tasks.
pub fn short_name(device: &str) -> &str {
    device.rsplit('/').next().unwrap_or(device)
}

/// Its directory in `/sys/class/block`, where slashes are written as `!`.
fn directory(device: &str) -> std::path::PathBuf {
    Path::new("/sys/class/block").join(name_of(device).replace('/', "!"))
}

/// Its number on the disk, if it is a partition.
pub fn partition_number(device: &str) -> Option<u32> {
    fs::read_to_string(directory(device).join("partition")).ok()?.trim().parse().ok()
}

/// The disk of a partition.
fn disk_of(partition: &str) -> Result<String> {
    let real = fs::canonicalize(directory(partition)).context(|| "Can't parse parent device")?;
    let parent = real.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().replace('!', "/"));
    match parent {
        Some(name) if name != "block" => Ok(format!("/dev/{name}")),
        _ => bail!("Can't parse parent device"),
    }
}

/// Nodes of its partitions.
pub fn partitions(device: &str) -> Vec<String> {
    let entries = fs::read_dir(directory(device)).into_iter().flatten().flatten();
    let parts = entries.filter(|entry| entry.path().join("partition").exists());
    let mut names: Vec<String> =
        parts.map(|entry| format!("/dev/{}", entry.file_name().to_string_lossy().replace('!', "/"))).collect();
    names.sort();
    names
}

/// Fails when something uses the device.
pub fn assert_unused(ctx: &Context, device: &str) -> Result<()> {
    let name = name_of(device);
    let look = Look { only: Some(name), partitions: true, ..Look::default() };
    match inventory::look(ctx, &Places::default(), &look).get(name) {
        None => bail!("'{name}' is not a valid local disk"),
        Some(found) if found.used.is_some() => bail!("device '{device}' is already in use"),
        Some(_) => Ok(()),
    }
}

/// Fails when the device or a partition of it is mounted, or something is made of it.
pub fn assert_free_to_wipe(device: &str) -> Result<()> {
    let real = |path: &str| fs::canonicalize(path).map_or_else(|_| path.to_owned(), |real| real.display().to_string());
    let mounted: Vec<String> = mounts::all()
        .iter()
        .filter(|mount| mount.source.starts_with("/dev/"))
        .map(|mount| real(&mount.source))
        .collect();
    let mut parts = vec![device.to_owned()];
    parts.extend(partitions(device));
    if let Some(part) = parts.iter().find(|part| mounted.contains(part)) {
        bail!("disk/partition '{part}' is mounted");
    }
    if let Some(part) = parts.iter().find(|part| inventory::has_holders(&directory(part))) {
        bail!("disk/partition '{part}' has a holder");
    }
    Ok(())
}

/// Removes all marks from a device and its partitions, and overwrites its beginning.
pub fn wipe(ctx: &Context, device: &str, log: &mut dyn FnMut(&str)) -> Result<()> {
    let sectors =
        fs::read_to_string(directory(device).join("size")).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let Some(sectors) = sectors else { bail!("Couldn't get the size of the device {}", name_of(device)) };
    let count = (sectors / 2048).min(WIPED_MIB);
    let mut doomed = partitions(device);
    if !doomed.is_empty() {
        log(&format!("found child partitions to wipe: {}", doomed.join(", ")));
    }
    doomed.push(device.to_owned());
    log(&format!("wiping block device {device}"));
    let what = || format!("error wiping '{device}'");
    Tool::new("wipefs").args(["--all", "--"]).args(doomed).run_logged(ctx, log).context(what)?;
    let arguments = ["if=/dev/zero", &format!("of={device}"), "bs=1M", "conv=fdatasync", &format!("count={count}")];
    Tool::new("dd").args(arguments.to_vec()).run_logged(ctx, log).context(what)?;
    if partition_number(device).is_some() {
        // A partition without a type that fits is still an empty one.
        let _ = set_partition_type(ctx, device, "8300");
    }
    Ok(())
}

/// Sets what a partition is for; only GUID partition tables know.
pub fn set_partition_type(ctx: &Context, partition: &str, kind: &str) -> Result<()> {
    let failed = || format!("unable to change partition type for {partition}");
    let number = partition_number(partition).ok_or_else(|| Error::new("Partition does not exist")).context(failed)?;
    let disk = disk_of(partition).context(failed)?;
    let look = Look { only: Some(name_of(&disk)), ..Look::default() };
    match inventory::look(ctx, &Places::default(), &look).get(name_of(&disk)) {
        Some(found) if found.gpt => {}
        Some(_) => bail!("{} - disk '{disk}' is not GPT partitioned", failed()),
        None => bail!("{} - unable to get disk info for '{disk}'", failed()),
    }
    Tool::new("sgdisk").args([&format!("-t{number}:{kind}"), &disk]).run(ctx).context(failed)
}

/// Tells udev to look again, so that links and types are those of now.
pub fn trigger_udev(ctx: &Context, devices: &[String]) {
    if !devices.is_empty() {
        // A machine without udev has nothing to be told.
        let _ = Tool::new("udevadm").arg("trigger").args(devices.to_vec()).run(ctx);
    }
}

/// Waits until udev has made what belongs to new partitions.
pub fn settle(ctx: &Context) {
    // Without udev there is nothing to wait for.
    let _ = Tool::new("udevadm").args(["settle", "--timeout=10"]).run(ctx);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_are_accepted() {
        for (path, text) in [
            ("/dev/does-not-exist", "failed to get absolute path to /dev/does-not-exist"),
            ("/etc/passwd", "got unusual device path '/etc/passwd'"),
            ("/dev/null", "not a valid block device"),
            ("/dev/../etc", "got unusual device path '/etc'"),
        ] {
            assert_eq!(resolve(path).unwrap_err().message(), text);
        }
        assert_eq!((name_of("/dev/cciss/c0d0"), short_name("/dev/cciss/c0d0")), ("cciss/c0d0", "c0d0"));
    }
}
