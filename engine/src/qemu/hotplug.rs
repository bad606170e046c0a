//! Changes of a running VM: which of them the guest takes at once, and how.
//!
//! Only options that the request has changed are tried; what waited before goes on waiting. What a running VM cannot take
//! stays pending without an error; what it could take and refuses is an error. What cloud-init would tell the guest is
//! recorded, as the disc holds the old values until it is written again.
//! (PVE: QemuServer.pm, vmconfig_hotplug_pending and the functions that it calls)

use super::cloudinit::{self, changes};
use super::config::{Bus, Drive, NetDevice, Slot, Vm};
use super::pending::detach;
use super::{edit, plug, qmp::Monitor, scope, throttle};
use crate::config::guest::{GuestConfig, Part, number_of};
use crate::{Context, Error, Result, Vmid, network, storage};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// Options that mean nothing to a running QEMU, besides those of cloud-init.
const NO_EFFECT_ON_QEMU: [&str; 12] = [
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
];

/// Whether an option means nothing to a running QEMU.
pub fn is_without_effect(key: &str) -> bool {
    NO_EFFECT_ON_QEMU.contains(&key) || changes::is_option(key)
}

/// What became of changes of a running VM.
#[derive(Debug, Default)]
pub struct Hotplugged {
    /// Errors by option.
    pub errors: BTreeMap<String, String>,
    /// Volumes that are to be removed.
    pub volumes: Vec<storage::VolumeId>,
}

impl Hotplugged {
    fn refuse(&mut self, key: String, error: &Error) {
        self.errors.insert(key, format!("hotplug problem - {error}"));
    }
}

/// Lets those changes of a running VM take effect that it can take, as far as `modified` names them.
pub fn apply(
    ctx: &Context,
    vmid: Vmid,
    config: &mut GuestConfig,
    modified: &BTreeSet<String>,
    warn: &mut dyn FnMut(&str),
) -> Result<Hotplugged> {
    let mut done = Hotplugged::default();
    for key in edit::pending_keys(config).into_iter().filter(|key| is_without_effect(key)) {
        commit(config, &key);
    }
    for (key, forced) in config.pending.delete.clone().into_iter().filter(|(key, _)| modified.contains(key)) {
        match unplug(ctx, vmid, config, &key) {
            None => {}
            Some(Ok(())) => {
                done.volumes.extend(detach(ctx, vmid, config, &key, None, forced, warn)?);
                changes::record(config, &key, None);
                edit::commit_delete(config, &key);
            }
            Some(Err(error)) => done.refuse(key, &error),
        }
    }
    let (discs, others): (Vec<String>, Vec<String>) = edit::pending_keys(config)
        .into_iter()
        .filter(|key| modified.contains(key))
        .partition(|key| is_cloudinit_drive(key, config.pending.part.get(key)));
    // The disc of cloud-init comes last, so that it tells of the other changes.
    for key in others.into_iter().chain(discs) {
        match change(ctx, vmid, config, &key) {
            None => {}
            Some(Ok(())) => {
                let new = config.pending.part.get(&key).map(str::to_owned);
                done.volumes.extend(detach(ctx, vmid, config, &key, new.as_deref(), false, warn)?);
                commit(config, &key);
            }
            Some(Err(error)) => done.refuse(key, &error),
        }
    }
    edit::drop_used(vmid, config)?;
    changes::tidy(vmid, config)?;
    if Vm::new(vmid, &config.current).hotplug().cloudinit && changes::exist(config) {
        cloudinit::write(ctx, vmid, config, true, warn)?;
        changes::forget(config);
    }
    Ok(done)
}

fn commit(config: &mut GuestConfig, key: &str) {
    let new = config.pending.part.get(key).map(str::to_owned);
    changes::record(config, key, new.as_deref());
    edit::commit(config, key);
}

fn is_cloudinit_drive(key: &str, value: Option<&str>) -> bool {
    let drive = Slot::of_key(key).zip(value).and_then(|(slot, text)| Drive::parse(slot, text).ok());
    drive.is_some_and(|drive| drive.is_cloudinit())
}

/// A change of one option in the running QEMU; `None` when that is not possible.
fn change(ctx: &Context, vmid: Vmid, config: &GuestConfig, key: &str) -> Option<Result<()>> {
    let new = config.pending.part.get(key)?;
    let old = config.current.get(key);
    if let Some(slot) = Slot::of_key(key) {
        return change_drive(ctx, vmid, config, slot, old, new);
    }
    if number_of(key, "net").is_some()
        && let Some(old) = old
        && let Some(outcome) = change_cable(ctx, vmid, key, old, new)
    {
        return Some(outcome);
    }
    match key {
        "balloon" => return change_balloon(ctx, vmid, &config.current, new, false),
        "hotplug" => return (!grows(Some(new)) && !grows(old)).then_some(Ok(())),
        "agent" => return is_trim_only(old?, new).then_some(Ok(())),
        "cpuunits" | "cpulimit" => return Some(scope::change(ctx, vmid, key, Some(new))),
        _ => {}
    }
    may_be_plugged(vmid, &config.current, key).then(|| exchange(ctx, vmid, &config.current, key, new))?
}

/// Takes a device out of the running QEMU, or an option back to its default; `None` when that is not possible.
fn unplug(ctx: &Context, vmid: Vmid, config: &GuestConfig, key: &str) -> Option<Result<()>> {
    if is_without_effect(key) {
        return Some(Ok(()));
    }
    match key {
        "hotplug" => return (!grows(config.current.get(key))).then_some(Ok(())),
        "cpuunits" | "cpulimit" => return Some(scope::change(ctx, vmid, key, None)),
        "balloon" => {
            let memory = Vm::new(vmid, &config.current).memory();
            return memory.map_or_else(
                |error| Some(Err(error)),
                |memory| change_balloon(ctx, vmid, &config.current, &memory.to_string(), true),
            );
        }
        _ => {}
    }
    if !may_be_plugged(vmid, &config.current, key) {
        return None;
    }
    if let Err(error) = refuse_boot_disk(vmid, &config.current, key) {
        return Some(Err(error));
    }
    let mut part = config.current.clone();
    part.options.remove(key);
    plug::change(ctx, vmid, &config.current, &part)
}

/// Puts a device in place of the one that had its name, if there was one.
fn exchange(ctx: &Context, vmid: Vmid, current: &Part, key: &str, new: &str) -> Option<Result<()>> {
    let mut part = current.clone();
    if current.get(key).is_some() && !matches!(key, "vcpus" | "memory" | "tablet") {
        if let Err(error) = refuse_boot_disk(vmid, current, key) {
            return Some(Err(error));
        }
        part.options.remove(key);
        match plug::change(ctx, vmid, current, &part)? {
            Ok(()) => {}
            refused => return Some(refused),
        }
    }
    let between = part.clone();
    part.set(key, new);
    plug::change(ctx, vmid, &between, &part)
}

/// The disk that the guest has been started from stays. (PVE: Drive.pm, get_bootdisks)
fn refuse_boot_disk(vmid: Vmid, current: &Part, key: &str) -> Result<()> {
    if Slot::of_key(key).is_none() {
        return Ok(());
    }
    let vm = Vm::new(vmid, current);
    let is_boot_disk = match super::config::BootOrder::parse(vm.text("boot"))? {
        super::config::BootOrder::Devices(devices) => devices.iter().any(|device| device == key),
        super::config::BootOrder::Legacy(_) => vm.text("bootdisk") == Some(key),
    };
    if is_boot_disk { Err(Error::new(format!("can't unplug bootdisk '{key}'"))) } else { Ok(()) }
}

/// Whether processors or memory can be added: that is decided at the start.
fn grows(hotplug: Option<&str>) -> bool {
    hotplug.is_some_and(|text| text.contains("cpu") || text.contains("memory"))
}

/// Whether two values of `agent` differ in nothing that the running VM would have to know.
fn is_trim_only(old: &str, new: &str) -> bool {
    let without = |text: &str| {
        let options = super::config::Properties::parse("~pve-qm-agent", "agent", text).ok()?;
        Some(["enabled", "type", "freeze-fs"].map(|key| options.text(key)))
    };
    without(old).is_some_and(|old| without(new) == Some(old))
}

/// Whether the option `hotplug` lets a device come and go. Drives on IDE and SATA cannot.
fn may_be_plugged(vmid: Vmid, part: &Part, key: &str) -> bool {
    let allowed = Vm::new(vmid, part).hotplug();
    match Slot::of_key(key) {
        Some(slot) => allowed.disk && matches!(slot.bus, Bus::Scsi | Bus::Virtio),
        None if number_of(key, "net").is_some() => allowed.network,
        // Other systems have no controller that takes them. (PVE: QemuServer.pm, is_usb_hotplug_supported)
        None if number_of(key, "usb").is_some() => {
            let vm = Vm::new(vmid, part);
            allowed.usb && (vm.ostype() == Some("l26") || vm.windows() > 7)
        }
        None if key == "tablet" => allowed.usb,
        None => allowed.cpu && key == "vcpus" || allowed.memory && key == "memory",
    }
}

/// Keys of a drive that the running QEMU does not take.
const FIXED: [&str; 9] = ["aio", "discard", "iothread", "queues", "product", "cache", "ssd", "vendor", "ro"];

/// Another disc, other limits, other remarks, or another disk. (PVE: QemuServer.pm, vmconfig_update_disk)
fn change_drive(
    ctx: &Context,
    vmid: Vmid,
    config: &GuestConfig,
    slot: Slot,
    old: Option<&str>,
    new: &str,
) -> Option<Result<()>> {
    if matches!(slot.bus, Bus::Efidisk | Bus::Tpmstate) {
        return None;
    }
    let drive = match Drive::parse(slot, new) {
        Ok(drive) => drive,
        Err(error) => return Some(Err(error)),
    };
    if drive.is_cloudinit() {
        let mut with_drive = config.clone();
        with_drive.current.set(slot.to_string(), new);
        if let Err(error) = cloudinit::write(ctx, vmid, &with_drive, false, &mut |_| {}) {
            return Some(Err(error));
        }
    }
    if let Some(old) = old.and_then(|old| Drive::parse(slot, old).ok()) {
        if old.is_cdrom() != drive.is_cdrom() {
            return Some(Err(Error::new("unable to change media type")));
        }
        if old.is_cdrom() {
            return change_medium(ctx, vmid, &drive);
        }
        if old.file == drive.file {
            if FIXED.iter().any(|key| old.options.text(key) != drive.options.text(key)) {
                return None;
            }
            return Some(throttle::change(ctx, vmid, &old, &drive));
        }
    }
    let key = slot.to_string();
    may_be_plugged(vmid, &config.current, &key).then(|| exchange(ctx, vmid, &config.current, &key, new))?
}

/// Puts another disc into a CD-ROM drive.
fn change_medium(ctx: &Context, vmid: Vmid, new: &Drive) -> Option<Result<()>> {
    if new.file == "cdrom" {
        return None;
    }
    Some((|| {
        let medium = match new.volume() {
            Some(volume) => {
                let path = storage::activate_volume(ctx, &volume, None)?;
                Some((path.to_string_lossy().into_owned(), storage::describe(ctx, &volume)?.format.name()))
            }
            None => new.file.starts_with('/').then(|| (new.file.clone(), "raw")),
        };
        let mut monitor = Monitor::connect(ctx, vmid)?;
        let drive = new.slot.to_string();
        monitor.execute("eject", json!({"id": drive, "force": true}))?;
        if let Some((path, format)) = medium {
            monitor.execute("blockdev-change-medium", json!({"id": drive, "filename": path, "format": format}))?;
        }
        Ok(())
    })())
}

fn change_balloon(ctx: &Context, vmid: Vmid, current: &Part, new: &str, is_deleted: bool) -> Option<Result<()>> {
    // Without the device there is nothing to inflate, and it cannot be added or removed here.
    let target: u64 = new.parse().ok()?;
    if current.get("balloon") == Some("0") || target == 0 {
        return None;
    }
    // Those with a weight are told by the node how much they get, as long as its memory is shared out.
    if current.get("shares") != Some("0") && !is_deleted {
        return Some(Ok(()));
    }
    let change =
        Monitor::connect(ctx, vmid).and_then(|mut monitor| monitor.execute("balloon", json!({"value": target << 20})));
    Some(change.map(drop))
}

/// Pulls or plugs the cable, or leads it elsewhere, when the card stays the same. A guest that is led elsewhere sees its
/// cable pulled for a moment, so that it asks for an address again. (PVE: QemuServer.pm, vmconfig_update_net)
fn change_cable(ctx: &Context, vmid: Vmid, key: &str, old: &str, new: &str) -> Option<Result<()>> {
    let (old, new) = (NetDevice::parse(key, old).ok()?, NetDevice::parse(key, new).ok()?);
    if !old.is_same_card(&new) || old.bridge().is_none() || new.bridge().is_none() {
        return None;
    }
    let number = number_of(key, "net")?;
    Some((|| {
        let moves = old.bridge() != new.bridge() || old.option("tag") != new.option("tag");
        let mut monitor = Monitor::connect(ctx, vmid)?;
        if moves {
            monitor.execute("set_link", json!({"name": key, "up": false}))?;
        }
        if let (Some(before), Some(port)) = (old.port(vmid, number)?, new.port(vmid, number)?)
            && before != port
        {
            network::port::change(ctx, &port)?;
        }
        if moves || old.is_link_down() != new.is_link_down() {
            monitor.execute("set_link", json!({"name": key, "up": !new.is_link_down()}))?;
        }
        Ok(())
    })())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestKind;

    fn config(text: &str) -> GuestConfig {
        GuestConfig::parse(GuestKind::Qemu, text)
    }

    fn applied(text: &str, modified: &[&str]) -> (GuestConfig, Hotplugged) {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let mut config = config(text);
        let modified = modified.iter().map(|key| (*key).to_owned()).collect();
        let done = apply(&ctx, "100".parse().unwrap(), &mut config, &modified, &mut |text| panic!("{text}")).unwrap();
        (config, done)
    }

    #[test]
    fn what_only_the_file_says_holds_at_once() {
        let text = "scsi0: local:100/vm-100-disk-0.raw,size=1G\n\n[PENDING]\nagent: 1\nhotplug: disk\nname: web\n\
                    scsi0: local:100/vm-100-disk-0.raw,backup=0,size=1G\n";
        let (config, done) = applied(text, &["agent", "hotplug", "scsi0"]);
        assert!(done.errors.is_empty(), "{done:?}");
        let expected =
            "hotplug: disk\nname: web\nscsi0: local:100/vm-100-disk-0.raw,backup=0,size=1G\n\n[PENDING]\nagent: 1\n";
        assert_eq!(config.print(), expected);
    }

    #[test]
    fn what_qemu_cannot_take_and_what_waited_before_goes_on_waiting() {
        let text = "hotplug: disk,cpu\nide0: local:100/a.raw\nscsi0: local:100/b.raw\n\n[PENDING]\n\
                    hotplug: disk\nide0: local:100/a.raw,cache=none\nscsi0: local:100/b.raw,backup=0\n";
        let (config, done) = applied(text, &["hotplug", "ide0"]);
        assert!(done.errors.is_empty(), "{done:?}");
        assert_eq!(config.print(), text);
    }

    #[test]
    fn disks_and_discs_are_not_exchanged_and_the_boot_disk_stays() {
        let text = "boot: order=scsi0\nide2: none,media=cdrom\nscsi0: local:100/a.raw\n\n[PENDING]\ndelete: scsi0\n\
                    ide2: local:100/vm-100-disk-9.raw\n";
        let (_, done) = applied(text, &["ide2", "scsi0"]);
        assert_eq!(done.errors["ide2"], "hotplug problem - unable to change media type");
        assert_eq!(done.errors["scsi0"], "hotplug problem - can't unplug bootdisk 'scsi0'");
    }

    #[test]
    fn trimming_cloned_disks_is_nothing_to_a_running_guest() {
        assert!(is_trim_only("1", "enabled=1,fstrim_cloned_disks=1"));
        assert!(!is_trim_only("1", "0"));
        assert!(!is_trim_only("1", "1,type=isa"));
    }
}
