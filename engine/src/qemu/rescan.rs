//! What storages hold for a VM against what its configuration says: volumes that nobody names become unused ones, sizes
//! are corrected. (PVE: qemu-server PVE/QemuServer.pm, rescan and update_disk_config)

use super::config::{Drive, Vm};
use super::edit;
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, Content};
use crate::{Context, Result, Vmid, guest};

/// Looks at one VM; says what has changed, or would change.
pub fn rescan(ctx: &Context, vmid: Vmid, dry_run: bool, log: &mut dyn FnMut(&str)) -> Result<()> {
    let found = storage::owned_by(ctx, vmid)?;
    let mut change = |config: &mut GuestConfig| -> Result<()> {
        guest::check_lock(config)?;
        let drives = Vm::new(vmid, &config.current).drives()?;
        let mut named: Vec<String> = named(vmid, config)?;
        for volume in &found {
            let id = volume.id.to_string();
            let attached = drives.iter().find(|(_, drive)| drive.file == id);
            if let Some((slot, drive)) = attached {
                let size = storage::print_size(volume.size);
                if !drive.is_cdrom() && drive.options.text("size").as_deref() != Some(&size) {
                    let mut drive: Drive = drive.clone();
                    drive.options.set("size", size);
                    log(&format!("VM {vmid} ({slot}): size of disk '{id}' updated"));
                    config.current.set(slot.to_string(), drive.to_string());
                }
            } else if volume.content == Content::Images && !named.contains(&id) && !is_generated(&id) {
                log(&format!("VM {vmid} add unreferenced volume '{id}' to config"));
                edit::add_unused(&mut config.current, &id);
                named.push(id);
            }
        }
        edit::drop_used(vmid, config)
    };
    if dry_run {
        return change(&mut guest::load(ctx, GuestKind::Qemu, vmid)?);
    }
    guest::update(ctx, GuestKind::Qemu, vmid, change)
}

/// Volumes that some part of the configuration names.
pub(super) fn named(vmid: Vmid, config: &GuestConfig) -> Result<Vec<String>> {
    let mut named = Vec::new();
    for part in [&config.current, &config.pending.part].into_iter().chain(config.snapshots.values()) {
        let vm = Vm::new(vmid, part);
        named.extend(vm.drives()?.into_iter().map(|(_, drive)| drive.file));
        named.extend(part.indexed("unused").map(|(_, text)| text.to_owned()));
        named.extend(part.get("vmstate").map(str::to_owned));
    }
    Ok(named)
}

/// Memory states and cloud-init images are made again when they are needed.
fn is_generated(id: &str) -> bool {
    let name = id.rsplit([':', '/']).next().unwrap_or(id).split('.').next().unwrap_or_default();
    name.contains("-state-") || name.ends_with("-cloudinit")
}
