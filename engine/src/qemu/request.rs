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
    if let Some(password) = settings.get_mut("cipassword")
        && !windows
        && !password.is_empty()
        && !is_hash(password)
    {
        *password = access::hash_password(password)?;
    }
    Ok(())
}

/// `$KIND$…$…`: whether a password is the hash of one, as cloud-init decides it.
fn is_hash(password: &str) -> bool {
    let kinds = ["$1$", "$5$", "$6$", "$2a$", "$2y$"];
    let rest = kinds.iter().find_map(|kind| password.strip_prefix(kind)).unwrap_or_default();
    let mut chars = rest.chars();
    chars.next().is_some() && chars.as_str().split_once('$').is_some_and(|(_, hash)| !hash.is_empty())
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

/// What the guest is told of a disk's maker can only be said of disks that QEMU makes itself.
/// (PVE: API2/Qemu.pm, assert_scsi_feature_compatibility)
pub fn check_product(ctx: &Context, drive: &Drive) -> Result<()> {
    let is_passed = drive.slot.bus == Bus::Scsi
        && drive.file.starts_with('/')
        && !drive.is_cdrom()
        && match ctx.host.scsi_type(&drive.file) {
            Some(0) => drive.options.is_on("scsiblock"),
            kind => kind == Some(1),
        };
    match ["product", "vendor"].into_iter().find(|key| is_passed && drive.options.text(key).is_some()) {
        None => Ok(()),
        Some(key) => Err(Error::parameter(
            &drive.slot.to_string(),
            format!(
                "Passing of {key} information is only supported for 'scsi-hd' and 'scsi-cd' devices (e.g. not \
                 pass-through)."
            ),
        )),
    }
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
    fn makers_are_told_of_own_disks_only() {
        let root = tempfile::tempdir().unwrap();
        let facts = serde_json::json!({"qemu_version": "10.1.2"}).as_object().unwrap().clone();
        let mut ctx = Context::for_test(root.path());
        ctx.host = crate::Host::with_overrides(facts).into();
        let check = |key: &str, text: &str| check_product(&ctx, &Drive::parse(key.parse().unwrap(), text).unwrap());
        let refused = check("scsi0", "/dev/sdb,scsiblock=1,vendor=ab").unwrap_err().to_string();
        assert!(refused.contains("Passing of vendor information is only supported for 'scsi-hd' and"), "{refused}");
        assert!(check("scsi0", "/dev/sdb,vendor=ab").is_ok());
        assert!(check("scsi0", "local:100/a.raw,product=ab,vendor=ab").is_ok());
    }

    #[test]
    fn passwords_that_begin_like_a_hash_are_hashed() {
        assert!(is_hash("$5$salt$hash") && is_hash("$6$rounds=9$a$b") && is_hash("$2y$10$x"));
        assert!(!["$5$", "$5$salt", "$5$salt$", "$5$$", "$3$a$b", "a$5$b$c", ""].iter().any(|text| is_hash(text)));
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
