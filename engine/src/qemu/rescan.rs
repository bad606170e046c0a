//! What storages hold for a VM against what its configuration says: volumes that nobody names become unused ones, sizes
//! are corrected. (PVE: qemu-server PVE/QemuServer.pm, rescan and update_disk_config)

use super::config::Vm;
use super::edit;
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, Content, Volume};
use crate::{Context, Result, Vmid, guest};
use std::path::PathBuf;

/// Looks at one VM; says what has changed, or would change.
pub fn rescan(ctx: &Context, vmid: Vmid, dry_run: bool, log: &mut dyn FnMut(&str)) -> Result<()> {
    let found = storage::owned_by(ctx, vmid)?;
    let mut change = |config: &mut GuestConfig| -> Result<()> {
        guest::check_lock(config)?;
        correct_sizes(vmid, config, &found, log)?;
        forget_used(vmid, config, log)?;
        let mut named: Vec<String> = named(vmid, config)?;
        // Storages may share a place: the same file is one volume, whatever it is called.
        let place = |id: &str| storage::path(ctx, &id.parse().ok()?).ok();
        let mut places: Vec<PathBuf> = named.iter().filter_map(|id| place(id)).collect();
        for volume in found.iter().filter(|volume| volume.content == Content::Images) {
            let id = volume.id.to_string();
            let path = place(&id);
            let is_known = named.contains(&id) || path.as_ref().is_some_and(|path| places.contains(path));
            if is_known || is_generated(&id) {
                continue;
            }
            let key = edit::add_unused(&mut config.current, &id).unwrap_or_default();
            log(&format!("VM {vmid} add unreferenced volume '{id}' as '{key}' to config"));
            named.push(id);
            places.extend(path);
        }
        Ok(())
    };
    if dry_run {
        return change(&mut guest::load(ctx, GuestKind::Qemu, vmid)?);
    }
    guest::update(ctx, GuestKind::Qemu, vmid, change)
}

/// Drives say how large their volumes are. (PVE: QemuServer/Drive.pm, update_disksize)
fn correct_sizes(vmid: Vmid, config: &mut GuestConfig, found: &[Volume], log: &mut dyn FnMut(&str)) -> Result<()> {
    for (slot, mut drive) in Vm::new(vmid, &config.current).drives()? {
        let volume = found.iter().find(|volume| volume.id.to_string() == drive.file);
        let Some(volume) = volume.filter(|_| !drive.is_cdrom()) else { continue };
        let (old, new) = (drive.options.text("size"), storage::print_size(volume.size));
        if old.as_deref() == Some(&new) {
            continue;
        }
        let was = old.unwrap_or_else(|| "0T".into());
        log(&format!("VM {vmid} ({slot}): size of disk '{}' updated from {was} to {new}", drive.file));
        drive.options.set("size", new);
        config.current.set(slot.to_string(), drive.to_string());
    }
    Ok(())
}

/// A volume that is attached is not unused.
fn forget_used(vmid: Vmid, config: &mut GuestConfig, log: &mut dyn FnMut(&str)) -> Result<()> {
    let unused = |config: &GuestConfig| -> Vec<(u32, String)> {
        config.current.indexed("unused").map(|(number, text)| (number, text.to_owned())).collect()
    };
    let before = unused(config);
    edit::drop_used(vmid, config)?;
    let after = unused(config);
    for (number, volume) in before.into_iter().filter(|entry| !after.contains(entry)) {
        log(&format!("VM {vmid} remove entry 'unused{number}', its volume '{volume}' is in use"));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_attached_is_not_unused() {
        let text = "scsi0: local:100/a.raw\nunused0: local:100/a.raw\nunused3: local:100/b.raw\n";
        let mut config = GuestConfig::parse(GuestKind::Qemu, text);
        let mut said = Vec::new();
        forget_used("100".parse().unwrap(), &mut config, &mut |line| said.push(line.to_owned())).unwrap();
        assert_eq!(said, ["VM 100 remove entry 'unused0', its volume 'local:100/a.raw' is in use"]);
        assert_eq!((config.current.get("unused0"), config.current.get("unused3")), (None, Some("local:100/b.raw")));
    }
}
