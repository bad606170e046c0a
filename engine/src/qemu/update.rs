//! Changing the options of a VM. (PVE: qemu-server API2/Qemu.pm, update_vm_api)

use super::config::{Bus, Drive, Machine, Properties, Slot, Vm, print_order};
use super::create::{check_vga, pinned};
use super::destroy::check_protection;
use super::disks::Made;
use super::permission::Subject;
use super::request::{Settings, check_product};
use super::{cloudinit, edit, hotplug, pending, status};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::guest::input;
use crate::types::split_list;
use crate::{Call, Context, Error, Result, Vmid, access, guest, storage};
use contract::{ParamErrors, Verb};
use std::collections::{BTreeMap, BTreeSet};

/// A wish for changes.
#[derive(Debug, Clone, Default)]
pub struct Update {
    /// New values.
    pub settings: Settings,
    /// Options to remove.
    pub delete: Vec<String>,
    /// Options whose waiting changes are dropped.
    pub revert: Vec<String>,
    /// The state that the caller saw.
    pub digest: Option<String>,
    /// Change it although it is marked as locked.
    pub skip_lock: bool,
    /// Remove the data of removed disks as well.
    pub force: bool,
    /// The request as a tool's arguments, for the log.
    pub described: String,
}

/// Parameters that say how a change is made.
const MANNER: [&str; 6] = ["node", "vmid", "digest", "background_delay", "skip_cloud_init", "import-working-storage"];
/// Parameters that are no options either, and that the log tells of.
const WISHES: [&str; 4] = ["skiplock", "delete", "revert", "force"];

impl Update {
    /// Reads the wish from a call and checks the caller's rights.
    pub fn read(call: &Call, vmid: Vmid) -> Result<Self> {
        let skip_lock = call.flag("skiplock");
        if skip_lock && !call.ctx.caller.is_root() {
            return Err(Error::parameter("skiplock", "Only root may use this option."));
        }
        let list = |name: &str| split_list(&call.text(name).unwrap_or_default());
        let mut update = Update {
            settings: super::request::settings(call, &[&MANNER[..], &WISHES].concat())?,
            delete: list("delete").into_iter().map(|key| if key == "cdrom" { "ide2".into() } else { key }).collect(),
            revert: list("revert"),
            digest: call.text("digest"),
            skip_lock,
            force: call.flag("force"),
            described: describe(call),
        };
        if update.settings.is_empty() && update.delete.is_empty() && update.revert.is_empty() {
            crate::bail!("no options specified");
        }
        update.check_names()?;
        if let Some(script) = update.settings.get("hookscript") {
            let checked = input::check_hookscript(call.ctx, script);
            checked.map_err(|error| Error::parameter("hookscript", error.message()))?;
        }
        let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
        let ostype = update.settings.get("ostype").cloned().or_else(|| config.current.get("ostype").map(str::to_owned));
        super::request::hash_password(&mut update.settings, ostype.as_deref())?;
        // Who may not change it need not know why it cannot be changed now.
        update.check_rights(call.ctx, vmid, &config)?;
        update.check_state(&config)?;
        update.check_memory(vmid, &config)?;
        Ok(update)
    }

    fn check_names(&self) -> Result<()> {
        let both = |key: &str, other: &str| format!("you can't use '-{key}' and -{other} {key}' at the same time");
        for key in &self.revert {
            if !is_option(key) {
                return Err(Error::parameter("revert", format!("unknown option '{key}'")));
            }
            if self.settings.contains_key(key) {
                return Err(Error::parameter("delete", both(key, "revert")));
            }
        }
        for key in &self.delete {
            if self.settings.contains_key(key) {
                return Err(Error::parameter("delete", both(key, "delete")));
            }
            if self.revert.contains(key) {
                let text = format!("you can't use '-delete {key}' and -revert {key}' at the same time");
                return Err(Error::parameter("revert", text));
            }
            if !is_option(key) {
                return Err(Error::parameter("delete", format!("unknown option '{key}'")));
            }
        }
        Ok(())
    }

    fn check_state(&self, config: &GuestConfig) -> Result<()> {
        if self.digest.as_ref().is_some_and(|seen| !seen.is_empty() && *seen != config.digest) {
            crate::bail!("checksum mismatch (file change by other user?)");
        }
        let wakes = config.current.get("lock") == Some("suspended") && self.delete.iter().any(|key| key == "vmstate");
        if self.skip_lock || wakes { Ok(()) } else { guest::check_lock(config) }
    }

    fn check_rights(&self, ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<()> {
        let subject = Subject { ctx, vmid, pool: None, is_new: false };
        let old = |key: &str| config.current.get(key).or_else(|| config.pending.part.get(key));
        for key in self.delete.iter().chain(&self.revert) {
            subject.check_option(key, None, old(key))?;
        }
        for (key, value) in &self.settings {
            subject.check_option(key, Some(value), old(key))?;
            if key.starts_with("unused") {
                subject.check_unused(key, value)?;
            }
            if let Some(slot) = Slot::of_key(key) {
                subject.check_storage(&Drive::parse_request(slot, value)?, None)?;
            }
        }
        for key in self.delete.iter().filter(|_| self.force) {
            self.check_removal(ctx, vmid, config, key)?;
        }
        if let Some(storage) = self.settings.get("vmstatestorage") {
            access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        }
        Ok(())
    }

    /// Data may be removed by those only who may make it. (PVE: API2/Qemu.pm, try_deallocate_drive)
    fn check_removal(&self, ctx: &Context, vmid: Vmid, config: &GuestConfig, key: &str) -> Result<()> {
        let text = config.current.get(key).or_else(|| config.pending.part.get(key));
        let Some((slot, text)) = Slot::of_key(key).zip(text) else { return Ok(()) };
        let volume = edit::owned_candidate(slot, text)?.and_then(|drive| drive.volume());
        match volume.filter(|volume| storage::describe(ctx, volume).is_ok_and(|found| found.vmid == Some(vmid))) {
            Some(volume) => access::check(ctx, &format!("/storage/{}", volume.storage), &["Datastore.AllocateSpace"]),
            None => Ok(()),
        }
    }

    fn check_memory(&self, vmid: Vmid, config: &GuestConfig) -> Result<()> {
        if !self.settings.contains_key("memory") && !self.settings.contains_key("balloon") {
            return Ok(());
        }
        let mut part = config.current.clone();
        part.options.extend(config.pending.part.options.clone());
        part.options.extend(self.settings.clone());
        let vm = Vm::new(vmid, &part);
        if vm.number("balloon").unwrap_or(0) > vm.memory()? {
            crate::bail!("balloon value too large (must be smaller than assigned memory)");
        }
        Ok(())
    }

    /// The options that this changes; others that wait are left alone while the VM runs.
    fn modified(&self) -> BTreeSet<String> {
        let named = self.settings.keys().chain(&self.delete).chain(&self.revert).cloned();
        // These follow from others.
        named.chain(["boot", "bootdisk"].map(str::to_owned)).collect()
    }

    /// Whether volumes are made or removed, or the running VM is touched: then the VM must be nobody else's meanwhile.
    pub fn works_on_guest(&self) -> bool {
        let keys = self.settings.keys().chain(&self.delete);
        keys.into_iter().any(|key| key.parse::<Slot>().is_ok())
    }
}

/// A request as a tool's arguments. Passwords are not shown.
fn describe(call: &Call) -> String {
    let map = call.params.to_map();
    let mut keys: Vec<&String> = map.keys().filter(|key| !MANNER.contains(&key.as_str())).collect();
    keys.sort();
    let shown = |key: &String| match key.as_str() {
        "cipassword" => format!("-{key} <hidden>"),
        _ => format!("-{key} {}", crate::call::config_text(&map[key])),
    };
    keys.into_iter().map(shown).collect::<Vec<_>>().join(" ")
}

/// Whether a name is an option of VMs.
fn is_option(key: &str) -> bool {
    let config = contract::method(Verb::Get, "/nodes/{node}/qemu/{vmid}/config");
    key != "digest" && config.is_some_and(|method| method.returned(key).is_some())
}

/// Carries a change out: new volumes first, then the configuration in one step, then volumes that are not needed.
pub fn apply(ctx: &Context, vmid: Vmid, update: &Update, log: &mut dyn FnMut(&str)) -> Result<()> {
    log(&format!("update VM {vmid}: {}", update.described));
    let mut made = Made::new(ctx);
    let outcome = realise_drives(ctx, vmid, update, &mut made, log).and_then(|drives| {
        guest::update(ctx, GuestKind::Qemu, vmid, |config| {
            update.check_state(config)?;
            let mut volumes = enter(ctx, vmid, update, &drives, config, log)?;
            let (errors, freed) = if status::is_running(ctx, vmid) {
                let done = hotplug::apply(ctx, vmid, config, &update.modified(), log)?;
                (done.errors, done.volumes)
            } else {
                let done = pending::apply_all(ctx, vmid, config, log)?;
                (done.errors, done.volumes)
            };
            volumes.extend(freed);
            Ok((volumes, errors))
        })
    });
    let (volumes, errors) = outcome.map_err(|error| made.undo(error))?;
    pending::free_all(ctx, volumes, log);
    if errors.is_empty() {
        return Ok(());
    }
    let mut refused = ParamErrors::default();
    errors.iter().for_each(|(key, text)| refused.add(key, text.as_str()));
    Err(Error::Parameters(refused))
}

fn realise_drives(
    ctx: &Context,
    vmid: Vmid,
    update: &Update,
    made: &mut Made,
    log: &mut dyn FnMut(&str),
) -> Result<BTreeMap<String, String>> {
    let mut drives = BTreeMap::new();
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    for (key, text) in &update.settings {
        let Some(slot) = Slot::of_key(key) else { continue };
        if config.pending.part.get(key) == Some(text.as_str()) {
            continue;
        }
        let drive = Drive::parse_request(slot, text)?;
        if drive.is_cloudinit() {
            cloudinit::refuse_second(slot, &[&config.current.options, &config.pending.part.options, &drives])?;
        }
        check_tpm_version(config.current.get(key), &drive)?;
        check_product(ctx, &drive)?;
        let drive = made.realise(vmid, drive, None, log)?;
        drives.insert(key.clone(), drive.to_string());
    }
    Ok(drives)
}

/// Writes the wish into the pending part. Gives back volumes to remove.
fn enter(
    ctx: &Context,
    vmid: Vmid,
    update: &Update,
    drives: &BTreeMap<String, String>,
    config: &mut GuestConfig,
    log: &mut dyn FnMut(&str),
) -> Result<Vec<storage::VolumeId>> {
    let mut volumes = Vec::new();
    for key in &update.revert {
        if Slot::of_key(key).is_some() {
            keep_pending_volume(ctx, vmid, config, key)?;
        }
        config.pending.part.options.remove(key);
        config.pending.delete.remove(key);
        if key == "description" {
            config.pending.part.description = None;
        }
    }
    for key in &update.delete {
        volumes.extend(enter_delete(ctx, vmid, update.force, config, key, log)?);
    }
    for (key, value) in &update.settings {
        if let Some(drive) = drives.get(key) {
            keep_pending_volume(ctx, vmid, config, key)?;
            edit::set_pending(config, key, drive.clone());
            if Drive::parse(key.parse().map_err(Error::new)?, drive)?.is_plain_cdrom() {
                edit::join_boot_order(config, key)?;
            }
        } else if Slot::of_key(key).is_none() {
            let value = enter_option(ctx, vmid, update, config, (key, value), log)?;
            edit::set_pending(config, key, value);
        }
    }
    edit::tidy(config);
    Ok(volumes)
}

/// What follows from the new value of an option that is no drive; gives back the value as it is stored.
fn enter_option(
    ctx: &Context,
    vmid: Vmid,
    update: &Update,
    config: &mut GuestConfig,
    (key, value): (&str, &str),
    log: &mut dyn FnMut(&str),
) -> Result<String> {
    match key {
        "boot" => {
            let Some(devices) = explicit_boot_order(config, update, value)? else { return Ok(value.to_owned()) };
            if config.current.get("bootdisk").is_some() {
                config.pending.delete.insert("bootdisk".into(), false);
            }
            return Ok(print_order(&devices));
        }
        "vga" => check_vga(value)?,
        "machine" => Machine::parse(Some(value))?.check()?,
        "ostype" => {
            let has_wish = update.settings.contains_key("machine") || update.delete.iter().any(|key| key == "machine");
            if !has_wish && config.pending.part.get("machine").is_none() {
                let mut part = config.current.clone();
                part.set("ostype", value);
                match pinned(ctx, vmid, &part, log) {
                    Ok(Some(machine)) => edit::set_pending(config, "machine", machine),
                    Ok(None) => {}
                    Err(error) => log(&format!("automatic pinning of machine version failed - {error}")),
                }
            }
        }
        _ => {}
    }
    Ok(value.to_owned())
}

/// The state of a TPM belongs to its version. (PVE: API2/Qemu.pm, prohibit_tpm_version_change)
fn check_tpm_version(old: Option<&str>, new: &Drive) -> Result<()> {
    let Some(old) = old.filter(|_| new.slot.bus == Bus::Tpmstate) else { return Ok(()) };
    let old = Drive::parse(new.slot, old)?;
    let version = |drive: &Drive| drive.options.text("version").unwrap_or_else(|| "v1.2".into());
    if old.file == new.file && version(&old) != version(new) {
        crate::bail!("cannot change TPM state version after creation");
    }
    Ok(())
}

/// A volume that was to be attached and is replaced before that stays as unused.
fn keep_pending_volume(ctx: &Context, vmid: Vmid, config: &mut GuestConfig, key: &str) -> Result<()> {
    let Some(text) = config.pending.part.get(key) else { return Ok(()) };
    let slot: Slot = key.parse().map_err(Error::new)?;
    if let Some(drive) = edit::owned_candidate(slot, text)?
        && let Some(volume) = drive.volume()
        && storage::describe(ctx, &volume).is_ok_and(|found| found.vmid == Some(vmid))
    {
        edit::add_unused(&mut config.current, &drive.file);
    }
    Ok(())
}

fn enter_delete(
    ctx: &Context,
    vmid: Vmid,
    force: bool,
    config: &mut GuestConfig,
    key: &str,
    log: &mut dyn FnMut(&str),
) -> Result<Option<storage::VolumeId>> {
    if edit::value(&config.current, key).is_none() && edit::value(&config.pending.part, key).is_none() {
        log(&format!("cannot delete '{key}' - not set in current configuration!"));
        return Ok(None);
    }
    edit::leave_boot_order(config, key)?;
    if key.starts_with("unused") {
        return delete_unused(ctx, vmid, config, key);
    }
    if key == "vmstate" {
        return delete_state(ctx, vmid, config);
    }
    if Slot::of_key(key).is_some() {
        check_protection(config, &format!("can't remove drive '{key}'"))?;
        keep_pending_volume(ctx, vmid, config, key)?;
    }
    if key == "description" {
        config.pending.part.description = None;
    }
    config.pending.part.options.remove(key);
    config.pending.delete.insert(key.to_owned(), force);
    Ok(None)
}

/// Removing an unused volume from the configuration removes its data, if it is the VM's own.
fn delete_unused(ctx: &Context, vmid: Vmid, config: &mut GuestConfig, key: &str) -> Result<Option<storage::VolumeId>> {
    let text = config.current.get(key).unwrap_or_default().to_owned();
    let file = Properties::parse("~qm-unused", key, &text)?.text("file").unwrap_or_default();
    check_protection(config, &format!("can't remove unused disk '{file}'"))?;
    let volume: storage::VolumeId = file.parse().map_err(Error::new)?;
    let is_ours = storage::describe(ctx, &volume).is_ok_and(|found| found.vmid == Some(vmid));
    if is_ours {
        access::check(ctx, &format!("/storage/{}", volume.storage), &["Datastore.AllocateSpace"])?;
        if edit::is_in_use(vmid, config, &file, key)? {
            crate::bail!("unable to delete '{file}' - volume is still in use (snapshot?)");
        }
    }
    config.current.options.remove(key);
    Ok(Some(volume).filter(|_| is_ours))
}

/// The memory of a suspended VM is thrown away: its next start is a cold one.
fn delete_state(ctx: &Context, vmid: Vmid, config: &mut GuestConfig) -> Result<Option<storage::VolumeId>> {
    let text = config.current.get("vmstate").unwrap_or_default().to_owned();
    check_protection(config, &format!("can't remove vmstate '{text}'"))?;
    let volume: storage::VolumeId = text.parse().map_err(Error::new)?;
    let is_ours = storage::describe(ctx, &volume).is_ok_and(|found| found.vmid == Some(vmid));
    if is_ours {
        access::check(ctx, &format!("/storage/{}", volume.storage), &["Datastore.AllocateSpace"])?;
        if edit::is_in_use(vmid, config, &text, "")? {
            crate::bail!("unable to delete '{text}' - volume is still in use (snapshot?)");
        }
    }
    for key in ["vmstate"].iter().chain(&super::snapshot::plan::RUNNING) {
        config.current.options.remove(*key);
    }
    if config.current.get("lock") == Some("suspended") {
        config.current.options.remove("lock");
    }
    Ok(Some(volume).filter(|_| is_ours))
}

/// The devices of an explicit order, which must be there.
fn explicit_boot_order(config: &GuestConfig, update: &Update, text: &str) -> Result<Option<Vec<String>>> {
    let super::config::BootOrder::Devices(devices) = super::config::BootOrder::parse(Some(text))? else {
        return Ok(None);
    };
    for device in &devices {
        let exists = config.current.get(device).is_some()
            || config.pending.part.get(device).is_some()
            || update.settings.contains_key(device);
        if !exists || update.delete.contains(device) {
            crate::bail!("invalid bootorder: device '{device}' does not exist'");
        }
    }
    Ok(Some(devices).filter(|devices| !devices.is_empty()))
}

#[cfg(test)]
mod tests;
