//! Options of a request, checked and completed before anything is done with them.

use super::config::{Bus, Drive, NetDevice, Slot, random_mac};
use crate::guest::input;
use crate::lxc::cgroup;
use crate::{Call, Context, Error, Result, access, file, storage};
use std::collections::BTreeMap;

/// Options by name, as they will stand in the configuration.
pub type Settings = BTreeMap<String, String>;

/// Takes the options out of a call: everything but the parameters of the method itself, with aliases resolved, drives
/// normalised, hardware addresses given.
pub fn settings(call: &Call, not_options: &[&str]) -> Result<Settings> {
    let mut settings = Settings::new();
    for name in call.params.keys().filter(|name| !not_options.contains(&name.as_str())) {
        if let Some(text) = call.text(name) {
            settings.insert(name.clone(), text);
        }
    }
    resolve_cdrom(&mut settings);
    for (key, text) in &mut settings {
        if let Some(slot) = Slot::of_key(key) {
            *text = normalise_drive(call.ctx, slot, text)?.to_string();
        } else if is_net(key) {
            *text = with_address(call.ctx, key, text)?;
        } else if key == "sshkeys" {
            input::check_ssh_keys(text)?;
        } else if key == "cpuunits" {
            *text = cgroup::clamp_cpu_units(&cgroup::Hierarchies::of_host()?, text.parse().ok()).to_string();
        } else if key == "vmgenid" && text == "1" {
            *text = crate::types::random_uuid();
        } else if key == "tags" {
            *text = crate::guest::tags::unique(call.ctx, text)?;
        }
    }
    Ok(settings)
}

/// A password for cloud-init is kept as a hash, unless it is one already. Windows wants the password itself.
/// (PVE: API2/Qemu.pm, update_vm_api)
pub fn hash_password(settings: &mut Settings, ostype: Option<&str>) -> Result<()> {
    let windows = super::config::windows_version(ostype.unwrap_or_default()) > 0;
    if let Some(password) = settings.get_mut("cipassword").filter(|password| !windows && !password.is_empty()) {
        let is_hash = ["$1$", "$5$", "$6$", "$2a$", "$2y$"].iter().any(|kind| password.starts_with(kind));
        if !is_hash {
            *password = access::hash_password(password)?;
        }
    }
    Ok(())
}

fn is_net(key: &str) -> bool {
    key.strip_prefix("net").is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `cdrom` is another name of `ide2`.
fn resolve_cdrom(settings: &mut Settings) {
    if let Some(text) = settings.remove("cdrom") {
        let media = if text.contains("media=") { "" } else { ",media=cdrom" };
        settings.insert("ide2".into(), format!("{text}{media}"));
    }
}

/// Completes a drive: CD-ROMs are marked as such. (PVE: API2/Qemu.pm, check_drive_param)
fn normalise_drive(ctx: &Context, slot: Slot, text: &str) -> Result<Drive> {
    let mut drive = Drive::parse_request(slot, text)
        .map_err(|_| Error::parameter(&slot.to_string(), "unable to parse drive options"))?;
    check_import(&drive)?;
    if matches!(drive.file.as_str(), "none" | "cdrom") && drive.options.text("media").is_none() {
        drive.options.set("media", "cdrom");
        drive = Drive::parse_request(slot, &drive.to_string())
            .map_err(|_| Error::parameter(&slot.to_string(), "unable to parse drive options"))?;
    }
    if let Some(volume) = drive.volume().filter(|volume| volume.name != "cloudinit")
        && storage::describe(ctx, &volume)?.content == storage::Content::Iso
        && !drive.is_cdrom()
    {
        return Err(Error::parameter(&slot.to_string(), "explicit 'media=cdrom' is required for iso images"));
    }
    Ok(drive)
}

/// An import needs a storage, and for the state of firmware and TPM what kind it is.
fn check_import(drive: &Drive) -> Result<()> {
    if drive.options.text("import-from").is_none() {
        return Ok(());
    }
    let refuse = |text: String| Err(Error::parameter(&drive.slot.to_string(), text));
    if drive.new_disk().is_none_or(|new| new.size != 0) {
        let text = "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>";
        return refuse(text.to_owned());
    }
    let required: &[&str] = match drive.slot.bus {
        Bus::Efidisk => &["efitype", "pre-enrolled-keys"],
        Bus::Tpmstate => &["version"],
        _ => &[],
    };
    match required.iter().find(|key| drive.options.text(key).is_none()) {
        Some(key) => refuse(format!("need to specify '{key}' when using 'import-from'")),
        None => Ok(()),
    }
}

fn with_address(ctx: &Context, key: &str, text: &str) -> Result<String> {
    let mut net = NetDevice::parse(key, text)?;
    if net.mac().is_none() {
        net.set_mac(random_mac(mac_prefix(ctx)?.as_deref()));
    }
    Ok(net.to_string())
}

/// The prefix of hardware addresses that the datacenter prescribes.
pub fn mac_prefix(ctx: &Context) -> Result<Option<String>> {
    let text = file::read_or_empty(&ctx.root.etc_pve("datacenter.cfg"))?;
    Ok(crate::config::flat::FlatConfig::parse(&text).values.remove("mac_prefix"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cdrom_alias_becomes_a_drive() {
        let mut settings = Settings::from([("cdrom".to_owned(), "none".to_owned())]);
        resolve_cdrom(&mut settings);
        assert_eq!(settings["ide2"], "none,media=cdrom");
    }

    #[test]
    fn drives_without_a_medium_are_cdroms() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let normal =
            |key: &str, text: &str| normalise_drive(&ctx, key.parse().unwrap(), text).map(|drive| drive.to_string());
        assert_eq!(normal("ide2", "none").unwrap(), "none,media=cdrom");
        assert_eq!(normal("scsi0", "local:4,discard=on").unwrap(), "local:4,discard=on");
        assert!(normal("virtio0", "none").is_err());
        let refused = |key: &str, text: &str| normal(key, text).unwrap_err().to_string();
        assert!(
            refused("scsi0", "local:4,import-from=local:1/a.raw").contains("'import-from' requires special syntax")
        );
        assert!(refused("efidisk0", "local:0,import-from=/a,efitype=4m").contains("specify 'pre-enrolled-keys'"));
        assert!(normal("scsi0", "local:0,import-from=local:1/a.raw").is_ok());
        assert!(normal("ide2", "local:iso/a.iso").is_err());
    }

    #[test]
    fn uuids_have_their_version() {
        let uuid = crate::types::random_uuid();
        assert_eq!((uuid.len(), &uuid[14..15]), (36, "4"));
    }
}
