//! A new VM: configuration and volumes, all or nothing.

use super::command_line::pin_for_windows;
use super::config::{Drive, Machine, Properties, Slot, Vm, default_devices, print_order};
use super::disks::Made;
use super::request::{Settings, check_product};
use super::{cloudinit, recovery};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::{Context, Result, Task, Vmid, access, guest};

/// What a new VM is made of.
pub struct Create {
    /// Its number.
    pub vmid: Vmid,
    /// Its options.
    pub settings: Settings,
    /// The pool that it joins.
    pub pool: Option<String>,
    /// Where volumes without a storage go.
    pub storage: Option<String>,
    /// Start it when it is there.
    pub start: bool,
}

/// Makes a VM.
pub fn create(task: &Task, new: &Create) -> Result<()> {
    let ctx = task.ctx;
    let place = || format!("unable to create VM {} -", new.vmid);
    let failed = |error: crate::Error| crate::Error::new(format!("{} {}", place(), error.message()));
    let lock = recovery::NOTES.lock(task, new.vmid)?;
    // The number is taken first, with a lock in the file, so that nobody else can get it meanwhile.
    let mut reserved = GuestConfig::new(GuestKind::Qemu);
    reserved.current.set("lock", "create");
    guest::create(ctx, new.vmid, &reserved)?;
    let mut made = Made::new(ctx);
    let outcome = build(task, new, &mut made).and_then(|config| {
        guest::update(ctx, GuestKind::Qemu, new.vmid, |stored| {
            *stored = config;
            Ok(())
        })
    });
    if let Err(error) = outcome {
        let error = made.undo(failed(error));
        let removed = guest::remove(ctx, GuestKind::Qemu, new.vmid);
        return Err(error.with_cleanup_failures(&removed.err().into_iter().collect::<Vec<_>>()));
    }
    if let Some(pool) = &new.pool {
        access::pool_add_guest(ctx, pool, new.vmid)?;
    }
    drop(lock);
    if new.start {
        task.log("Execute autostart");
        if let Err(error) = super::launch::start(task, new.vmid, &super::launch::Start::default()) {
            task.warn(error.message());
        }
    }
    Ok(())
}

fn build(task: &Task, new: &Create, made: &mut Made) -> Result<GuestConfig> {
    let mut config = GuestConfig::new(GuestKind::Qemu);
    for (key, value) in &new.settings {
        match key.as_str() {
            "description" => config.current.description = Some(value.clone()).filter(|text| !text.is_empty()),
            _ => config.current.set(key, value),
        }
    }
    for (slot, text) in drives(&new.settings) {
        let drive = Drive::parse_request(slot, &text)?;
        if drive.is_cloudinit() {
            cloudinit::refuse_second(slot, &[&new.settings])?;
        }
        check_product(task.ctx, &drive)?;
        let drive = made.realise(new.vmid, drive, new.storage.as_deref(), &mut |line| task.log(line))?;
        config.current.set(slot.to_string(), drive.to_string());
    }
    complete(task.ctx, new.vmid, &mut config, &mut |line| task.log(line))?;
    Ok(config)
}

fn drives(settings: &Settings) -> Vec<(Slot, String)> {
    let mut drives: Vec<(Slot, String)> =
        settings.iter().filter_map(|(key, text)| Some((Slot::of_key(key)?, text.clone()))).collect();
    drives.sort();
    drives
}

/// What every new VM gets when the caller did not say: boot order, identity, origin.
fn complete(ctx: &Context, vmid: Vmid, config: &mut GuestConfig, log: &mut dyn FnMut(&str)) -> Result<()> {
    let qemu = ctx.host.qemu_version()?;
    config.current.set("meta", format!("creation-qemu={qemu},ctime={}", ctx.clock.now()));
    if config.current.get("boot").is_none() {
        let devices = default_devices(&Vm::new(vmid, &config.current))?;
        config.current.set("boot", print_order(&devices));
    }
    if config.current.get("smbios1").is_none() {
        config.current.set("smbios1", format!("uuid={}", crate::types::random_uuid()));
    }
    let is_arm = config.current.get("arch").map_or_else(|| ctx.host.architecture(), str::to_owned) == "aarch64";
    if config.current.get("vmgenid").is_none() && !is_arm {
        config.current.set("vmgenid", crate::types::random_uuid());
    }
    if let Some(vga) = config.current.get("vga") {
        check_vga(vga)?;
    }
    if let Some(machine) = pinned(ctx, vmid, &config.current, log)? {
        config.current.set("machine", machine);
    }
    Ok(())
}

/// The option `machine` of a Windows VM whose type has no version, with one. (PVE: Machine.pm,
/// check_and_pin_machine_string)
pub fn pinned(ctx: &Context, vmid: Vmid, part: &Part, log: &mut dyn FnMut(&str)) -> Result<Option<String>> {
    let vm = Vm::new(vmid, part);
    let mut machine = Machine::parse(vm.text("machine"))?;
    machine.check()?;
    let Some(pinned) = pin_for_windows(&vm, &machine, &ctx.host)? else { return Ok(None) };
    log(&format!("pinning machine type to '{pinned}' for Windows guest OS"));
    machine.set_type(pinned);
    Ok(Some(machine.to_string()))
}

/// The clipboard of VNC needs a card that shows something. (PVE: QemuServer.pm, assert_clipboard_config)
pub fn check_vga(text: &str) -> Result<()> {
    let vga = Properties::parse("~pve-qm-vga", "vga", text)?;
    let fits = |kind: &str| ["std", "cirrus", "vmware", "virtio", "qxl"].iter().any(|start| kind.starts_with(start));
    match vga.text("type").filter(|kind| vga.text("clipboard").as_deref() == Some("vnc") && !fits(kind)) {
        Some(kind) => Err(crate::Error::new(format!("vga type {kind} is not compatible with VNC clipboard"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use serde_json::json;
    use std::sync::Arc;

    fn completed(text: &str) -> GuestConfig {
        let root = tempfile::tempdir().unwrap();
        let facts = json!({"qemu_version": "10.0.2"}).as_object().unwrap().clone();
        let ctx = Context {
            host: Arc::new(Host::with_overrides(facts)),
            clock: crate::Clock::Fixed(1_700_000_000),
            ..Context::for_test(root.path())
        };
        let mut config = GuestConfig::parse(GuestKind::Qemu, text);
        complete(&ctx, "100".parse().unwrap(), &mut config, &mut |_| {}).unwrap();
        config
    }

    #[test]
    fn new_vms_know_where_they_come_from() {
        let config = completed("scsi0: local:100/vm-100-disk-0.raw\nnet0: virtio\n");
        assert_eq!(config.current.get("meta"), Some("creation-qemu=10.0.2,ctime=1700000000"));
        assert_eq!(config.current.get("boot"), Some("order=scsi0;net0"));
        assert!(config.current.get("smbios1").unwrap().starts_with("uuid="));
        assert_eq!(config.current.get("vmgenid").unwrap().len(), 36);
        assert_eq!(config.current.get("machine"), None);
    }

    #[test]
    fn windows_keeps_the_machine_that_it_was_installed_on() {
        assert_eq!(completed("ostype: win11\nmachine: q35\n").current.get("machine"), Some("pc-q35-10.0+pve1"));
        assert_eq!(completed("ostype: win11\nmachine: pc-q35-8.1\n").current.get("machine"), Some("pc-q35-8.1"));
    }
}
