//! Changes that wait, and how they take effect: all of them when the VM is stopped, some while it runs.
//!
//! A change is written as pending first. What a running VM cannot take stays pending without an error; what it could
//! take and refuses is an error. (PVE: QemuServer.pm, vmconfig_apply_pending and vmconfig_hotplug_pending)

use super::config::{Bus, Drive, NetDevice, Slot, Vm};
use super::{edit, qmp::Monitor};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::types::split_list;
use crate::{Context, Result, Vmid, guest, network, storage};
use serde_json::json;
use std::collections::BTreeMap;

/// Options that mean nothing to a running QEMU.
const NO_EFFECT_ON_QEMU: [&str; 24] = [
    "description",
    "hookscript",
    "lock",
    "migrate_downtime",
    "migrate_speed",
    "name",
    "onboot",
    "protection",
    "shares",
    "startup",
    "tags",
    "vmstatestorage",
    "cicustom",
    "cipassword",
    "citype",
    "ciuser",
    "ciupgrade",
    "nameserver",
    "searchdomain",
    "sshkeys",
    "autostart",
    "template",
    "vmstate",
    "digest",
];

/// Options that only the guest's cloud-init reads.
pub fn is_cloudinit(key: &str) -> bool {
    const KEYS: [&str; 8] =
        ["cicustom", "cipassword", "citype", "ciuser", "ciupgrade", "nameserver", "searchdomain", "sshkeys"];
    KEYS.contains(&key) || key.starts_with("ipconfig")
}

fn is_without_effect(key: &str) -> bool {
    NO_EFFECT_ON_QEMU.contains(&key) || key.starts_with("ipconfig") || key.starts_with("unused")
}

/// Lets all waiting changes of a stopped VM take effect.
pub fn apply_stopped(ctx: &Context, vmid: Vmid, warn: &mut dyn FnMut(&str)) -> Result<()> {
    if guest::load(ctx, GuestKind::Qemu, vmid)?.pending.is_empty() {
        return Ok(());
    }
    let volumes = guest::update(ctx, GuestKind::Qemu, vmid, |config| apply_all(ctx, vmid, config, warn))?;
    free_all(ctx, volumes, warn);
    Ok(())
}

/// Applies all pending changes to a configuration; gives back volumes to remove.
pub fn apply_all(
    ctx: &Context,
    vmid: Vmid,
    config: &mut GuestConfig,
    warn: &mut dyn FnMut(&str),
) -> Result<Vec<storage::VolumeId>> {
    let mut volumes = Vec::new();
    for (key, forced) in config.pending.delete.clone() {
        if let Some(volume) = detach(ctx, vmid, config, &key, None, forced, warn)? {
            volumes.push(volume);
        }
        edit::commit_delete(config, &key);
    }
    for key in edit::pending_keys(config) {
        let new = config.pending.part.get(&key).map(str::to_owned);
        detach(ctx, vmid, config, &key, new.as_deref(), false, warn)?;
        edit::commit(config, &key);
    }
    edit::drop_used(vmid, config)?;
    Ok(volumes)
}

/// When a drive is taken off: its volume becomes unused, or is to be removed when that was asked for.
fn detach(
    ctx: &Context,
    vmid: Vmid,
    config: &mut GuestConfig,
    key: &str,
    new: Option<&str>,
    forced: bool,
    warn: &mut dyn FnMut(&str),
) -> Result<Option<storage::VolumeId>> {
    let (Some(slot), Some(old)) = (Slot::of_key(key), config.current.get(key).map(str::to_owned)) else {
        return Ok(None);
    };
    let Some(drive) = edit::owned_candidate(slot, &old)? else { return Ok(None) };
    let new_file = new.map(|text| Drive::parse(slot, text)).transpose()?.map(|drive| drive.file);
    if new_file.as_deref() == Some(drive.file.as_str()) {
        return Ok(None);
    }
    let volume = drive.volume().expect("a candidate has a volume");
    match storage::describe(ctx, &volume) {
        Ok(described) if described.vmid != Some(vmid) => return Ok(None),
        Err(error) => {
            warn(&format!("volume '{volume}' will be removed from the configuration: {error}"));
            return Ok(None);
        }
        Ok(_) => {}
    }
    if forced && !edit::is_in_use(vmid, config, &drive.file, key)? {
        return Ok(Some(volume));
    }
    if drive.is_cloudinit() {
        return Ok(Some(volume));
    }
    edit::add_unused(&mut config.current, &drive.file);
    Ok(None)
}

/// Removes volumes that nothing refers to any more; the configuration does not name them, so a failure is a warning.
pub fn free_all(ctx: &Context, volumes: Vec<storage::VolumeId>, warn: &mut dyn FnMut(&str)) {
    for volume in volumes {
        if let Err(error) = storage::free(ctx, &volume) {
            warn(&format!("Could not remove disk '{volume}', check manually: {error}"));
        }
    }
}

/// What became of changes of a running VM.
#[derive(Debug, Default)]
pub struct Hotplugged {
    /// Errors by option.
    pub errors: BTreeMap<String, String>,
    /// Volumes that are to be removed.
    pub volumes: Vec<storage::VolumeId>,
}

/// Lets those changes of a running VM take effect that it can take.
pub fn hotplug(ctx: &Context, vmid: Vmid, config: &mut GuestConfig, warn: &mut dyn FnMut(&str)) -> Result<Hotplugged> {
    let mut done = Hotplugged::default();
    for (key, forced) in config.pending.delete.clone() {
        if is_without_effect(&key) {
            edit::commit_delete(config, &key);
            continue;
        }
        match unplug(ctx, vmid, config, &key) {
            None => {}
            Some(Ok(())) => {
                done.volumes.extend(detach(ctx, vmid, config, &key, None, forced, warn)?);
                edit::commit_delete(config, &key);
            }
            Some(Err(error)) => drop(done.errors.insert(key, format!("hotplug problem - {error}"))),
        }
    }
    for key in edit::pending_keys(config) {
        if is_without_effect(&key) {
            edit::commit(config, &key);
            continue;
        }
        match plug(ctx, vmid, config, &key) {
            None => {}
            Some(Ok(())) => {
                let new = config.pending.part.get(&key).map(str::to_owned);
                done.volumes.extend(detach(ctx, vmid, config, &key, new.as_deref(), false, warn)?);
                edit::commit(config, &key);
            }
            Some(Err(error)) => drop(done.errors.insert(key, format!("hotplug problem - {error}"))),
        }
    }
    edit::drop_used(vmid, config)?;
    Ok(done)
}

/// A change of one option in the running QEMU; `None` when that is not possible.
fn plug(ctx: &Context, vmid: Vmid, config: &GuestConfig, key: &str) -> Option<Result<()>> {
    let new = config.pending.part.get(key)?;
    let old = config.current.get(key);
    if let (Some(slot), Some(old)) = (Slot::of_key(key), old)
        && let Some(outcome) = change_medium(ctx, vmid, slot, old, new)
    {
        return Some(outcome);
    }
    if key == "balloon" {
        return change_balloon(ctx, vmid, &config.current, new);
    }
    if key.starts_with("net")
        && let Some(old) = old
        && let Some(outcome) = change_cable(ctx, vmid, key, old, new)
    {
        return Some(outcome);
    }
    if !may_be_plugged(vmid, &config.current, key) {
        return None;
    }
    let mut part = config.current.clone();
    if old.is_some() && (Slot::of_key(key).is_some() || key.starts_with("net") || key.starts_with("usb")) {
        // Another device under the same name: the old one has to go first.
        part.options.remove(key);
        match super::plug::change(ctx, vmid, &config.current, &part)? {
            Ok(()) => {}
            refused => return Some(refused),
        }
        let between = part.clone();
        part.set(key, new);
        return super::plug::change(ctx, vmid, &between, &part);
    }
    part.set(key, new);
    super::plug::change(ctx, vmid, &config.current, &part)
}

/// Takes a device out of the running QEMU; `None` when that is not possible.
fn unplug(ctx: &Context, vmid: Vmid, config: &GuestConfig, key: &str) -> Option<Result<()>> {
    if !may_be_plugged(vmid, &config.current, key) {
        return None;
    }
    let mut part = config.current.clone();
    part.options.remove(key);
    super::plug::change(ctx, vmid, &config.current, &part)
}

/// Whether the option `hotplug` lets a device come and go. Drives on IDE and SATA cannot.
fn may_be_plugged(vmid: Vmid, part: &Part, key: &str) -> bool {
    let text = match Vm::new(vmid, part).text("hotplug") {
        None | Some("1") => "network,disk,usb",
        Some("0") => "",
        Some(text) => text,
    };
    let numbered = |prefix: &str| key.strip_prefix(prefix).is_some_and(|number| number.parse::<u32>().is_ok());
    let feature = match Slot::of_key(key) {
        Some(slot) if matches!(slot.bus, Bus::Scsi | Bus::Virtio) => "disk",
        Some(_) => return false,
        None if numbered("net") => "network",
        None if numbered("usb") => "usb",
        None if key == "vcpus" => "cpu",
        None if key == "memory" => "memory",
        None => return false,
    };
    split_list(text).iter().any(|name| name == feature)
}

/// Puts another disc into a CD-ROM drive.
fn change_medium(ctx: &Context, vmid: Vmid, slot: Slot, old: &str, new: &str) -> Option<Result<()>> {
    let (old, new) = (Drive::parse(slot, old).ok()?, Drive::parse(slot, new).ok()?);
    if !old.is_plain_cdrom() || !new.is_plain_cdrom() || new.file == "cdrom" {
        return None;
    }
    let volume = new.volume();
    Some((|| {
        let path = volume.map(|volume| storage::path(ctx, &volume)).transpose()?;
        let mut monitor = Monitor::connect(ctx, vmid)?;
        let drive = slot.to_string();
        monitor.execute("eject", json!({"id": drive, "force": true}))?;
        if let Some(path) = path {
            let medium = json!({"id": drive, "filename": path, "format": "raw"});
            monitor.execute("blockdev-change-medium", medium)?;
        }
        Ok(())
    })())
}

fn change_balloon(ctx: &Context, vmid: Vmid, current: &Part, new: &str) -> Option<Result<()>> {
    // Without the device there is nothing to inflate, and it cannot be added or removed here.
    let target: u64 = new.parse().ok()?;
    if current.get("balloon") == Some("0") || target == 0 {
        return None;
    }
    let change =
        Monitor::connect(ctx, vmid).and_then(|mut monitor| monitor.execute("balloon", json!({"value": target << 20})));
    Some(change.map(drop))
}

/// Pulls or plugs the cable, or leads it elsewhere, when the card stays the same.
fn change_cable(ctx: &Context, vmid: Vmid, key: &str, old: &str, new: &str) -> Option<Result<()>> {
    let (old, new) = (NetDevice::parse(key, old).ok()?, NetDevice::parse(key, new).ok()?);
    if old.without_cable() != new.without_cable() || old.bridge().is_some() != new.bridge().is_some() {
        return None;
    }
    let number = key.trim_start_matches("net").parse().ok()?;
    Some((|| {
        if let (Some(before), Some(port)) = (old.port(vmid, number)?, new.port(vmid, number)?)
            && before != port
        {
            network::port::change(ctx, &port)?;
        }
        let link = json!({"name": key, "up": !new.is_link_down()});
        Monitor::connect(ctx, vmid)?.execute("set_link", link).map(drop)
    })())
}

/// What `GET pending` shows: current and new values of every key. (PVE: GuestHelpers.pm, config_with_pending_array)
pub fn listing(config: &GuestConfig) -> Vec<serde_json::Value> {
    let mut keys: Vec<String> = config.current.options.keys().cloned().collect();
    keys.extend(config.current.description.as_ref().map(|_| "description".to_owned()));
    keys.extend(edit::pending_keys(config));
    keys.extend(config.pending.delete.keys().cloned());
    keys.sort();
    keys.dedup();
    let mut rows = vec![json!({"key": "digest", "value": config.digest})];
    for key in keys {
        let mut row = json!({"key": key});
        if let Some(value) = edit::value(&config.current, &key) {
            row["value"] = super::reply::typed(&key, &value);
        }
        if let Some(value) = edit::value(&config.pending.part, &key) {
            row["pending"] = super::reply::typed(&key, &value);
        }
        if let Some(forced) = config.pending.delete.get(&key) {
            row["delete"] = if *forced { 2.into() } else { 1.into() };
        }
        rows.push(row);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_disk_is_kept_as_unused_and_a_changed_one_is_not() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let text = "scsi0: local:100/vm-100-disk-0.raw,size=1G\nscsi1: local:100/vm-100-disk-1.raw\n\n[PENDING]\n\
                    scsi0: local:100/vm-100-disk-0.raw,cache=none,size=1G\nscsi1: local:100/vm-100-disk-2.raw\n";
        let mut config = GuestConfig::parse(GuestKind::Qemu, text);
        let vmid = "100".parse().unwrap();
        let volumes = apply_all(&ctx, vmid, &mut config, &mut |text| panic!("{text}")).unwrap();
        assert!(volumes.is_empty() && config.pending.is_empty());
        assert_eq!(config.current.get("scsi0"), Some("local:100/vm-100-disk-0.raw,cache=none,size=1G"));
        assert_eq!(config.current.get("unused0"), Some("local:100/vm-100-disk-1.raw"));
        assert_eq!(config.current.get("unused1"), None);
    }

    #[test]
    fn forced_deletions_hand_the_volume_to_the_caller() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let text = "scsi0: local:100/vm-100-disk-0.raw\nscsi1: local:100/vm-100-disk-1.raw\n\n[PENDING]\ndelete: !scsi0,scsi1\n";
        let mut config = GuestConfig::parse(GuestKind::Qemu, text);
        let vmid = "100".parse().unwrap();
        let volumes = apply_all(&ctx, vmid, &mut config, &mut |text| panic!("{text}")).unwrap();
        assert_eq!(volumes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["local:100/vm-100-disk-0.raw"]);
        assert_eq!(
            config.current.options.into_iter().collect::<Vec<_>>(),
            [("unused0".into(), "local:100/vm-100-disk-1.raw".into())]
        );
    }
}
