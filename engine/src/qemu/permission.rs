//! Who may change which option. The contract's permission opens the method; these checks look at each option.
//! (PVE: qemu-server API2/Qemu.pm, check_vm_modify_config_perm and its kin)

use super::config::{Drive, NetDevice, Properties, Slot};
use crate::config::guest::Part;
use crate::{Context, Error, Result, Vmid, access, storage};

/// The VM whose options are changed, with the pool that it will be in when it is new.
pub struct Subject<'a> {
    /// The node and the caller.
    pub ctx: &'a Context,
    /// The VM.
    pub vmid: Vmid,
    /// The pool of a new VM.
    pub pool: Option<&'a str>,
    /// Whether the VM is being made.
    pub is_new: bool,
}

/// The privilege that each option needs. Those that are not listed are for root only.
const PRIVILEGES: [(&str, &[&str]); 8] = [
    ("VM.Config.CPU", &["cores", "cpu", "cpulimit", "cpuunits", "numa", "runningcpu", "smp", "sockets", "vcpus"]),
    ("VM.Config.Memory", &["memory", "balloon", "shares", "allow-ksm"]),
    (
        "VM.Config.HWType",
        &[
            "acpi",
            "hotplug",
            "kvm",
            "machine",
            "runningmachine",
            "scsihw",
            "smbios1",
            "tablet",
            "vga",
            "watchdog",
            "audio0",
        ],
    ),
    (
        "VM.Config.Options",
        &[
            "agent",
            "autostart",
            "bios",
            "description",
            "keyboard",
            "localtime",
            "migrate_downtime",
            "migrate_speed",
            "name",
            "onboot",
            "ostype",
            "protection",
            "reboot",
            "startdate",
            "startup",
            "tdf",
            "template",
        ],
    ),
    ("VM.PowerMgmt", &["freeze"]),
    ("VM.Config.Disk", &["boot", "bootdisk", "vmstatestorage"]),
    ("VM.Config.Network", &["running-nets-host-mtu"]),
    (
        "VM.Config.Cloudinit",
        &["cicustom", "cipassword", "citype", "ciuser", "ciupgrade", "nameserver", "searchdomain", "sshkeys"],
    ),
];

impl Subject<'_> {
    /// Fails unless the caller has the privileges on the VM or on its future pool.
    pub fn check(&self, privileges: &[&str]) -> Result<()> {
        if let Some(pool) = self.pool
            && access::has(self.ctx, &format!("/pool/{pool}"), privileges)
        {
            return Ok(());
        }
        access::check(self.ctx, &format!("/vms/{}", self.vmid), privileges)
    }

    /// Fails unless the caller may set (`value`) or delete an option. `old` is what it is now.
    pub fn check_option(&self, key: &str, value: Option<&str>, old: Option<&str>) -> Result<()> {
        if self.ctx.caller.is_root() {
            return Ok(());
        }
        if let Some(slot) = Slot::of_key(key) {
            return [old, value].into_iter().flatten().try_for_each(|text| self.check_drive(slot, text));
        }
        let prefix = key.trim_end_matches(|c: char| c.is_ascii_digit());
        let texts = || [old, value].into_iter().flatten();
        match prefix {
            "unused" => return self.check(&["VM.Config.Disk"]),
            "serial" if texts().all(|text| text == "socket") => return self.check(&["VM.Config.HWType"]),
            "serial" => crate::bail!("only root can {} '{key}' config for real devices", self.verb(value)),
            "net" => return self.check_net(key, old, value),
            "ipconfig" => return self.check_cloudinit(),
            "numa" if prefix != key => return self.check(&["VM.Config.CPU"]),
            "usb" | "hostpci" | "virtiofs" | "rng" => {
                return texts().try_for_each(|text| self.check_mapped(prefix, key, text, true));
            }
            "tags" => {
                self.check(&["VM.Config.Options"])?;
                return crate::guest::tags::check_change(self.ctx, old.unwrap_or_default(), value.unwrap_or_default());
            }
            "cpu" => self.check_model(old, value)?,
            "vmstate" => return self.check(&["VM.Config.Disk", "VM.PowerMgmt"]),
            _ => {}
        }
        let found = PRIVILEGES.iter().find(|(_, keys)| keys.contains(&key));
        match found.map(|(privilege, _)| *privilege) {
            Some("VM.Config.Cloudinit") => self.check_cloudinit(),
            Some(privilege) => {
                self.check(&[privilege])?;
                // The order of all guests is the node's affair.
                if key == "startup" { access::check(self.ctx, "/", &["Sys.Modify"]) } else { Ok(()) }
            }
            None => Err(Error::new(format!("only root can set '{key}' config"))),
        }
    }

    /// Fails unless the caller may use what a configuration that is copied has of the host: devices, directories, models.
    /// (PVE: QemuServer.pm, check_mapping_access; API2/Qemu.pm, clone_vm)
    pub fn check_copied(&self, part: &Part) -> Result<()> {
        if self.ctx.caller.is_root() {
            return Ok(());
        }
        for (key, text) in &part.options {
            let prefix = key.trim_end_matches(|c: char| c.is_ascii_digit());
            if prefix != key && ["usb", "hostpci", "virtiofs", "rng"].contains(&prefix) {
                self.check_mapped(prefix, key, text, false)?;
            }
        }
        self.check_model(None, part.get("cpu"))
    }

    /// What a request does with an option, as messages say it.
    fn verb(&self, value: Option<&str>) -> &'static str {
        match value {
            None => "delete",
            Some(_) if self.is_new => "set",
            Some(_) => "modify",
        }
    }

    /// Devices and directories of the host: others than root need a mapping that they may use, and if it is `set`, the
    /// right to change the VM.
    /// (PVE: API2/Qemu.pm, check_usb_perm, check_hostpci_perm, check_rng_perm, check_dir_perm)
    fn check_mapped(&self, prefix: &str, key: &str, text: &str, set: bool) -> Result<()> {
        let (format, kind, privilege) = match prefix {
            "usb" => ("pve-qm-usb", "usb", "VM.Config.HWType"),
            "hostpci" => ("pve-qm-hostpci", "pci", "VM.Config.HWType"),
            "rng" => ("pve-qm-rng", "hwrng", "VM.Config.HWType"),
            _ => ("pve-qm-virtiofs", "dir", "VM.Config.Disk"),
        };
        let options = Properties::parse(format, key, text)?;
        let may_use = |path: String| access::check(self.ctx, &path, &["Mapping.Use"]);
        if prefix != "hostpci" && set {
            self.check(&[privilege])?;
        }
        match prefix {
            "rng" if options.text("source").as_deref() == Some("/dev/hwrng") => {
                return may_use("/mapping/hwrng".into());
            }
            "rng" => return Ok(()),
            "virtiofs" => return may_use(format!("/mapping/dir/{}", options.text("dirid").unwrap_or_default())),
            _ => {}
        }
        match (options.text("host"), options.text("mapping")) {
            (Some(host), _) if prefix == "usb" && host.eq_ignore_ascii_case("spice") => return Ok(()),
            (Some(_), _) if prefix == "usb" => crate::bail!("only root can set '{key}' config for real devices"),
            (Some(_), _) => crate::bail!("only root can set '{key}' config for non-mapped devices"),
            (None, Some(name)) => may_use(format!("/mapping/{kind}/{name}"))?,
            (None, None) => crate::bail!("either 'host' or 'mapping' must be set."),
        }
        if prefix == "hostpci" && set {
            self.check(&[privilege])?;
            if options.text("romfile").is_some() {
                return Err(Error::parameter(key, "only root@pam can set 'romfile' option"));
            }
        }
        Ok(())
    }

    /// Models of the administrator's own making are given out; who has one already may change the rest of the option.
    fn check_model(&self, old: Option<&str>, value: Option<&str>) -> Result<()> {
        let model = |text: &str| Properties::parse("pve-vm-cpu-conf", "cpu", text).ok()?.text("cputype");
        let Some(new) = value.and_then(model).filter(|new| old.and_then(model).as_ref() != Some(new)) else {
            return Ok(());
        };
        match new.strip_prefix("custom-") {
            Some(name) => access::check(self.ctx, &format!("/mapping/cpu/{name}"), &["Mapping.Use"]),
            None => Ok(()),
        }
    }

    fn check_cloudinit(&self) -> Result<()> {
        access::check_any(self.ctx, &format!("/vms/{}", self.vmid), &["VM.Config.Cloudinit", "VM.Config.Network"])
    }

    fn check_drive(&self, slot: Slot, text: &str) -> Result<()> {
        let drive = Drive::parse_request(slot, text)?;
        if drive.is_cloudinit() {
            self.check(&["VM.Config.Cloudinit", "VM.Config.CDROM"])
        } else if drive.is_plain_cdrom() {
            self.check(&["VM.Config.CDROM"])
        } else {
            self.check(&["VM.Config.Disk"])
        }
    }

    fn check_net(&self, key: &str, old: Option<&str>, value: Option<&str>) -> Result<()> {
        self.check(&["VM.Config.Network"])?;
        for text in [old, value].into_iter().flatten() {
            let card = NetDevice::parse(key, text)?;
            if let Some(bridge) = card.bridge() {
                access::check_bridge(
                    self.ctx,
                    &bridge,
                    card.option("tag").as_deref(),
                    card.option("trunks").as_deref(),
                )?;
            }
        }
        Ok(())
    }

    /// Fails unless the caller may use a volume that is entered as unused.
    pub fn check_unused(&self, key: &str, text: &str) -> Result<()> {
        let file = Properties::parse("~qm-unused", key, text)
            .map_err(|_| Error::parameter(key, format!("failed to parse value '{text}'")))?
            .text("file")
            .unwrap_or_default();
        let volume: storage::VolumeId =
            file.parse().map_err(|_| Error::parameter(key, format!("not a valid volid: {file}")))?;
        if storage::describe(self.ctx, &volume)?.content != storage::Content::Images {
            return Err(Error::new(format!("unable to use volume {volume} - content type needs to be 'images'")));
        }
        storage::check_volume_access(self.ctx, Some(self.vmid), &volume)
    }

    /// Fails unless the caller may use the storage behind a drive of a request.
    pub fn check_storage(&self, drive: &Drive, default_storage: Option<&str>) -> Result<()> {
        let (ctx, key) = (self.ctx, drive.slot.to_string());
        if let Some(source) = drive.options.text("import-from") {
            super::import::check_source(ctx, &source, &key)?;
        }
        if let Some(new) = drive.new_disk().filter(|_| !drive.is_cdrom()) {
            let Some(id) = new.storage.as_deref().or(default_storage) else {
                crate::bail!("no storage ID specified (and no default storage)");
            };
            access::check(ctx, &format!("/storage/{id}"), &["Datastore.AllocateSpace"])?;
            return match storage::config(ctx)?.entry(id)?.has_content(storage::Content::Images) {
                true => Ok(()),
                false => Err(Error::parameter("storage", format!("storage '{id}' does not support vm images"))),
            };
        }
        if let Some(volume) = drive.volume() {
            if volume.name == "cloudinit" {
                return access::check(ctx, &format!("/storage/{}", volume.storage), &["Datastore.AllocateSpace"]);
            }
            storage::check_volume_access(ctx, Some(self.vmid), &volume)?;
            let content = storage::describe(ctx, &volume)?.content;
            if !matches!(content, storage::Content::Images | storage::Content::Iso) {
                return Err(Error::parameter(&key, "content type needs to be 'images' or 'iso'"));
            }
            return Ok(());
        }
        match drive.file.as_str() {
            "none" => Ok(()),
            "cdrom" => access::check(ctx, "/", &["Sys.Console"]),
            path if path.starts_with('/') && !ctx.caller.is_root() => {
                Err(Error::Forbidden("Only root can pass arbitrary filesystem paths.".into()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_devices_are_for_root() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path()).with_caller(crate::Caller::verified("joe@pve"));
        let subject = Subject { ctx: &ctx, vmid: "100".parse().unwrap(), pool: None, is_new: false };
        let text =
            |key: &str, value: &str| subject.check_option(key, Some(value), None).unwrap_err().message().to_owned();
        assert_eq!(text("serial1", "/dev/ttyS0"), "only root can modify 'serial1' config for real devices");
        assert_eq!(text("hostpci0", "01:00.0"), "only root can set 'hostpci0' config for non-mapped devices");
        assert!(text("hostpci0", "mapping=card").contains("/mapping/pci/card, Mapping.Use"));
        assert!(text("usb0", "spice").contains("VM.Config.HWType"));
        assert!(text("virtiofs0", "share").contains("VM.Config.Disk"));
        let copied = |key: &str, value: &str| {
            let mut part = Part::default();
            part.set(key, value);
            subject.check_copied(&part).map_err(|error| error.message().to_owned())
        };
        assert!(copied("hostpci0", "01:00.0").unwrap_err().contains("non-mapped devices"));
        assert!(copied("usb1", "mapping=key").unwrap_err().contains("/mapping/usb/key, Mapping.Use"));
        assert!(copied("cpu", "custom-x").unwrap_err().contains("/mapping/cpu/x"));
        assert!(copied("usb0", "spice").is_ok() && copied("rng0", "source=/dev/urandom").is_ok());
        assert!(text("cpu", "custom-x").contains("/mapping/cpu/x, Mapping.Use"));
        assert_eq!(text("affinity", "0-1"), "only root can set 'affinity' config");
        assert_eq!(text("parallel0", "/dev/parport0"), "only root can set 'parallel0' config");
    }

    #[test]
    fn options_that_nobody_lists_are_for_root() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let subject = |ctx| {
            Subject { ctx, vmid: "100".parse().unwrap(), pool: None, is_new: false }.check_option(
                "args",
                Some("-x"),
                None,
            )
        };
        assert!(subject(&ctx).is_ok());
        let other = ctx.with_caller(crate::Caller::verified("joe@pve"));
        assert_eq!(subject(&other).unwrap_err().message(), "only root can set 'args' config");
    }
}
