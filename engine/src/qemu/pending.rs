//! Changes that wait, and how they take effect when the VM is stopped: all of them.
//!
//! A change is written as pending first; what a running VM can take is in [`super::hotplug`].
//! (PVE: QemuServer.pm, vmconfig_apply_pending)

use super::config::{Drive, Slot};
use super::{cloudinit, edit, firmware_keys};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::{Context, Error, Result, Vmid, guest, storage};
use serde_json::json;
use std::collections::BTreeMap;

/// Lets all waiting changes of a stopped VM take effect.
pub fn apply_stopped(ctx: &Context, vmid: Vmid, warn: &mut dyn FnMut(&str)) -> Result<()> {
    if guest::load(ctx, GuestKind::Qemu, vmid)?.pending.is_empty() {
        return Ok(());
    }
    let done = guest::update(ctx, GuestKind::Qemu, vmid, |config| apply_all(ctx, vmid, config, warn))?;
    free_all(ctx, done.volumes, warn);
    Ok(())
}

/// What became of changes that waited.
#[derive(Debug, Default)]
pub struct Applied {
    /// Errors by option; these go on waiting.
    pub errors: BTreeMap<String, String>,
    /// Volumes that are to be removed.
    pub volumes: Vec<storage::VolumeId>,
}

impl Applied {
    fn refuse(&mut self, key: &str, error: &Error, warn: &mut dyn FnMut(&str)) {
        let text = format!("unable to apply pending change {key} : {error}");
        warn(&text);
        self.errors.insert(key.to_owned(), text);
    }
}

/// Applies all pending changes to a configuration.
pub fn apply_all(ctx: &Context, vmid: Vmid, config: &mut GuestConfig, warn: &mut dyn FnMut(&str)) -> Result<Applied> {
    let mut done = Applied::default();
    for (key, forced) in config.pending.delete.clone() {
        match detach(ctx, vmid, config, &key, None, forced, warn) {
            Ok(volume) => {
                done.volumes.extend(volume);
                edit::commit_delete(config, &key);
            }
            Err(error) => done.refuse(&key, &error, warn),
        }
    }
    for key in edit::pending_keys(config) {
        let outcome = firmware_keys::follow(ctx, config, &key).and_then(|()| {
            let new = config.pending.part.get(&key).map(str::to_owned);
            detach(ctx, vmid, config, &key, new.as_deref(), false, warn)
        });
        match outcome {
            Ok(_) => edit::commit(config, &key),
            Err(error) => done.refuse(&key, &error, warn),
        }
    }
    edit::drop_used(vmid, config)?;
    cloudinit::changes::tidy(vmid, config)?;
    Ok(done)
}

/// When a drive is taken off: its volume becomes unused, or is to be removed when that was asked for.
pub(super) fn detach(
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
        let is_secret = key == "cipassword";
        if let Some(value) = edit::value(&config.current, &key) {
            row["value"] = if is_secret { "**********".into() } else { super::reply::typed(&key, &value) };
        }
        if let Some(value) = edit::value(&config.pending.part, &key) {
            // The blank makes it another value, so that clients show a change.
            row["pending"] = if is_secret { "********** ".into() } else { super::reply::typed(&key, &value) };
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
        let volumes = apply_all(&ctx, vmid, &mut config, &mut |text| panic!("{text}")).unwrap().volumes;
        assert!(volumes.is_empty() && config.pending.is_empty());
        assert_eq!(config.current.get("scsi0"), Some("local:100/vm-100-disk-0.raw,cache=none,size=1G"));
        assert_eq!(config.current.get("unused0"), Some("local:100/vm-100-disk-1.raw"));
        assert_eq!(config.current.get("unused1"), None);
    }

    #[test]
    fn passwords_are_not_listed() {
        let text = "cipassword: $5$a$old\ncores: 2\n\n[PENDING]\ncipassword: $5$a$new\n";
        let rows = serde_json::Value::Array(listing(&GuestConfig::parse(GuestKind::Qemu, text)));
        assert_eq!(rows[1], json!({"key": "cipassword", "value": "**********", "pending": "********** "}));
        assert!(!rows.to_string().contains('$'));
    }

    #[test]
    fn forced_deletions_hand_the_volume_to_the_caller() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let text = "scsi0: local:100/vm-100-disk-0.raw\nscsi1: local:100/vm-100-disk-1.raw\n\n[PENDING]\ndelete: !scsi0,scsi1\n";
        let mut config = GuestConfig::parse(GuestKind::Qemu, text);
        let vmid = "100".parse().unwrap();
        let volumes = apply_all(&ctx, vmid, &mut config, &mut |text| panic!("{text}")).unwrap().volumes;
        assert_eq!(volumes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["local:100/vm-100-disk-0.raw"]);
        assert_eq!(
            config.current.options.into_iter().collect::<Vec<_>>(),
            [("unused0".into(), "local:100/vm-100-disk-1.raw".into())]
        );
    }
}
