//! Changes to a configuration that involve several keys: unused volumes, boot order, pending values. No effects outside
//! the configuration; volumes to remove are handed to the caller.

use super::config::{BootOrder, Drive, Slot, Vm, print_order};
use crate::config::guest::{GuestConfig, Part};
use crate::{Result, Vmid};
use std::collections::BTreeSet;

/// Keeps a volume under the first free `unusedN`. One that is listed already keeps its place.
/// Gives back that key; none when all are taken. (PVE: pve-guest-common PVE/AbstractConfig.pm, add_unused_volume)
pub fn add_unused(part: &mut Part, volume: &str) -> Option<String> {
    if let Some((number, _)) = part.indexed("unused").find(|(_, text)| *text == volume) {
        return Some(format!("unused{number}"));
    }
    let free = (0..256).map(|number| format!("unused{number}")).find(|key| part.get(key).is_none());
    free.inspect(|key| part.set(key, volume))
}

/// Forgets `unusedN` of volumes that are attached again.
pub fn drop_used(vmid: Vmid, config: &mut GuestConfig) -> Result<()> {
    let mut used = files_of(vmid, &config.current)?;
    used.extend(files_of(vmid, &config.pending.part)?);
    let stale = |(number, text): (u32, &str)| used.iter().any(|file| file == text).then(|| format!("unused{number}"));
    let stale: Vec<String> = config.current.indexed("unused").filter_map(stale).collect();
    for key in stale {
        config.current.options.remove(&key);
    }
    Ok(())
}

fn files_of(vmid: Vmid, part: &Part) -> Result<Vec<String>> {
    Ok(Vm::new(vmid, part).drives()?.into_iter().map(|(_, drive)| drive.file).collect())
}

/// Whether a volume is attached, waiting to be attached, or in a snapshot. The key `except` does not count in the
/// current state. (PVE: Drive.pm, is_volume_in_use)
pub fn is_in_use(vmid: Vmid, config: &GuestConfig, volume: &str, except: &str) -> Result<bool> {
    let uses = |part: &Part, except: &str| -> Result<bool> {
        let drives = Vm::new(vmid, part).drives()?;
        Ok(drives.iter().any(|(slot, drive)| drive.file == volume && slot.to_string() != except && !drive.is_cdrom()))
    };
    if uses(&config.current, except)? || uses(&config.pending.part, "")? {
        return Ok(true);
    }
    for snapshot in config.snapshots.values() {
        if uses(snapshot, "")? || snapshot.get("vmstate") == Some(volume) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The volume that a drive's value names, unless it is a CD-ROM that can simply be taken out.
pub fn owned_candidate(slot: Slot, text: &str) -> Result<Option<Drive>> {
    let drive = Drive::parse(slot, text)?;
    Ok(Some(drive).filter(|drive| drive.volume().is_some() && !drive.is_plain_cdrom()))
}

/// The explicit boot order that holds now or will, if there is one.
pub fn boot_order(config: &GuestConfig) -> Result<Option<Vec<String>>> {
    let text = config.pending.part.get("boot").or_else(|| config.current.get("boot")).filter(|text| !text.is_empty());
    match text.map(|text| BootOrder::parse(Some(text))).transpose()? {
        // A VM that boots from nothing is left so.
        Some(BootOrder::Devices(devices)) if !devices.is_empty() => Ok(Some(devices)),
        _ => Ok(None),
    }
}

/// Takes a removed device out of an explicit boot order; says whether it was in one.
pub fn leave_boot_order(config: &mut GuestConfig, device: &str) -> Result<bool> {
    if let Some(devices) = boot_order(config)?
        && devices.iter().any(|found| found == device)
    {
        let rest: Vec<String> = devices.into_iter().filter(|found| found != device).collect();
        config.pending.part.set("boot", print_order(&rest));
        return Ok(true);
    }
    Ok(false)
}

/// A new CD-ROM drive is bootable, as it was with the letters of old.
pub fn join_boot_order(config: &mut GuestConfig, device: &str) -> Result<()> {
    if let Some(mut devices) = boot_order(config)?
        && !devices.iter().any(|found| found == device)
    {
        devices.push(device.to_owned());
        config.pending.part.set("boot", print_order(&devices));
    }
    Ok(())
}

/// Sets a pending value; what was to be deleted is not any more.
pub fn set_pending(config: &mut GuestConfig, key: &str, value: String) {
    config.pending.delete.remove(key);
    if key == "description" {
        config.pending.part.description = Some(value);
    } else {
        config.pending.part.set(key, value);
    }
}

/// A VM has started with `started`. Of what was changed while it did, those options that are meant wait for the next start.
pub fn postpone(config: &mut GuestConfig, started: &Part, is_meant: impl Fn(&str) -> bool) {
    let keys = started.options.keys().chain(config.current.options.keys()).cloned();
    let keys: BTreeSet<String> = keys.filter(|key| is_meant(key)).collect();
    for key in keys {
        if started.get(&key) == config.current.get(&key) {
            continue;
        }
        let new = config.current.options.remove(&key);
        if let Some(old) = started.get(&key) {
            config.current.set(&key, old);
        }
        match new {
            Some(new) => set_pending(config, &key, new),
            None => drop(config.pending.delete.insert(key, false)),
        }
    }
}

/// The present value of a key.
pub fn value(part: &Part, key: &str) -> Option<String> {
    if key == "description" { part.description.clone() } else { part.get(key).map(str::to_owned) }
}

/// Moves a pending value into the current state.
pub fn commit(config: &mut GuestConfig, key: &str) {
    if key == "description" {
        config.current.description = config.pending.part.description.take().filter(|text| !text.is_empty());
    } else if let Some(value) = config.pending.part.options.remove(key) {
        config.current.options.insert(key.to_owned(), value);
    }
}

/// Removes a key from the current state and from the list of those that wait to be removed.
pub fn commit_delete(config: &mut GuestConfig, key: &str) {
    config.pending.delete.remove(key);
    if key == "description" {
        config.current.description = None;
    } else {
        config.current.options.remove(key);
    }
}

/// Forgets pending values that are what holds already, and deletions of what is not there.
pub fn tidy(config: &mut GuestConfig) {
    let current = config.current.clone();
    config.pending.part.options.retain(|key, value| current.get(key) != Some(value));
    if config.pending.part.description == current.description {
        config.pending.part.description = None;
    }
    config.pending.delete.retain(|key, _| value(&current, key).is_some());
}

/// Keys with pending values.
pub fn pending_keys(config: &GuestConfig) -> Vec<String> {
    let mut keys: Vec<String> = config.pending.part.options.keys().cloned().collect();
    keys.extend(config.pending.part.description.as_ref().map(|_| "description".to_owned()));
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestKind;

    fn config(text: &str) -> GuestConfig {
        GuestConfig::parse(GuestKind::Qemu, text)
    }

    #[test]
    fn unused_volumes_take_the_first_free_number_once() {
        let mut config = config("unused0: local:100/a.raw\nunused2: local:100/c.raw\n");
        add_unused(&mut config.current, "local:100/b.raw");
        add_unused(&mut config.current, "local:100/b.raw");
        assert_eq!(config.current.get("unused1"), Some("local:100/b.raw"));
        assert_eq!(config.current.indexed("unused").count(), 3);
        config.current.set("scsi0", "local:100/a.raw,size=1G");
        drop_used("100".parse().unwrap(), &mut config).unwrap();
        assert_eq!(config.current.get("unused0"), None);
    }

    #[test]
    fn snapshots_keep_a_volume_in_use() {
        let config = config("unused0: local:100/a.raw\n\n[before]\nscsi0: local:100/a.raw\n");
        let vmid = "100".parse().unwrap();
        assert!(is_in_use(vmid, &config, "local:100/a.raw", "unused0").unwrap());
        assert!(!is_in_use(vmid, &config, "local:100/b.raw", "unused0").unwrap());
    }

    #[test]
    fn what_changes_during_a_start_waits_for_the_next() {
        let started = config("cores: 1\nmemory: 512\nname: a\nsockets: 2\n").current;
        let mut config = config("cores: 1\ncpu: host\nmemory: 1024\nname: b\n");
        postpone(&mut config, &started, |key| key != "name");
        let expected = "cores: 1\nmemory: 512\nname: b\nsockets: 2\n\n[PENDING]\ncpu: host\ndelete: sockets\n\
                        memory: 1024\n";
        assert_eq!(config.print(), expected);
    }

    #[test]
    fn the_boot_order_follows_devices() {
        let mut config = config("boot: order=scsi0;net0\n");
        leave_boot_order(&mut config, "scsi0").unwrap();
        join_boot_order(&mut config, "ide2").unwrap();
        assert_eq!(config.pending.part.get("boot"), Some("order=net0;ide2"));
        let mut none = self::config("boot: \n");
        join_boot_order(&mut none, "ide2").unwrap();
        assert_eq!(none.pending.part.get("boot"), None);
    }

    #[test]
    fn what_is_the_same_does_not_wait() {
        let mut config = config("cores: 2\n\n[PENDING]\ncores: 2\nmemory: 512\ndelete: onboot\n");
        tidy(&mut config);
        assert_eq!(pending_keys(&config), ["memory"]);
        assert!(config.pending.delete.is_empty());
    }
}
