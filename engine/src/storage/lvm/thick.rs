//! Storages of type `lvm`: one logical volume per disk, with all its space taken from the start. With
//! `snapshot-as-volume-chain` a disk may be a qcow2 image on its logical volume, see [`super::chain`].
//! (PVE: pve-storage PVE/Storage/LVMPlugin.pm)

use super::report::{self, LogicalVolume};
use super::{chain, device, extend, full_name, group, group_report, remove, rename, volume, volumes, wipe};
use crate::storage::driver::{Described, Driver, Filter, Source, Space, Storage};
use crate::storage::feature::{Capability, Feature, State, can};
use crate::storage::guest_volume::{GuestVolume, Prefix, next_name};
use crate::storage::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::storage::{self, pool};
use crate::tool::Tool;
use crate::{Context, Error, Result, ResultExt, Vmid, bail};
use std::path::PathBuf;
use std::time::Duration;

const BOTH: &[Format] = &[Format::Raw, Format::Qcow2];
const QCOW2: &[Format] = &[Format::Qcow2];

/// What volumes can do. qcow2 exists with `snapshot-as-volume-chain` only.
const CAPABILITIES: &[Capability] = &[
    can(Feature::Copy, State::Current, BOTH),
    can(Feature::Copy, State::Snapshot, QCOW2),
    can(Feature::Rename, State::Current, BOTH),
    can(Feature::Snapshot, State::Current, QCOW2),
    can(Feature::Snapshot, State::Snapshot, QCOW2),
];

/// The driver.
pub struct Lvm;

/// Format and owner of a volume's name.
pub(super) fn parse(name: &str) -> Result<(GuestVolume, Format)> {
    let parsed = GuestVolume::parse(name, "lvm")?;
    if parsed.base.is_some() || parsed.prefix != Prefix::Vm {
        bail!("unable to parse lvm volume name '{}'", name.escape_debug());
    }
    let format = if name.ends_with(".qcow2") { Format::Qcow2 } else { Format::Raw };
    Ok((parsed, format))
}

impl Driver for Lvm {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn check_entry(&self, ctx: &Context, id: &str, entry: &mut storage::Entry, create: bool) -> Result<()> {
        if let Some(base) = entry.get("base") {
            base_volume(ctx, base)?;
        }
        if create || entry.flag("snapshot-as-volume-chain").unwrap_or(false) {
            return Ok(());
        }
        // Without the option nobody could read the images that were made with it.
        let storage = Storage { ctx, id: id.to_owned(), entry: entry.clone() };
        let chained =
            |row: &LogicalVolume| row.is_thick() && parse(&row.name).is_ok_and(|(_, format)| format == Format::Qcow2);
        if volumes(&storage).is_ok_and(|rows| rows.iter().any(chained)) {
            bail!("{id} - cannot disable 'snapshot-as-volume-chain' while a qcow2 image exists");
        }
        Ok(())
    }

    fn configure(&self, storage: &mut Storage, _secrets: &storage::driver::Secrets, create: bool) -> Result<()> {
        let Some(base) = storage.entry.get("base").filter(|_| create) else { return Ok(()) };
        let base = base_volume(storage.ctx, base)?;
        storage::activate(storage.ctx, &base.storage)?;
        let device = storage::path(storage.ctx, &base)?;
        create_group(storage.ctx, &device.to_string_lossy(), group(storage)?, false)
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        if let Some(base) = storage.entry.get("base") {
            let base = base_volume(storage.ctx, base)?;
            storage::activate(storage.ctx, &base.storage)?;
        }
        group_report(storage).map(drop)
    }

    fn deactivate(&self, storage: &Storage) -> Result<()> {
        let group = group(storage)?;
        Tool::new("vgchange")
            .args(["-aln", "--", group])
            .run(storage.ctx)
            .context(|| format!("can't deactivate VG '{group}'"))
    }

    fn patience(&self) -> Duration {
        crate::storage::status::LOCAL_TOOLS
    }

    fn space(&self, storage: &Storage) -> Result<Space> {
        let found = group_report(storage)?;
        Ok(Space { total: found.size, used: found.size.saturating_sub(found.free), avail: found.free })
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        let tagged_only = storage.entry.flag("tagged_only").unwrap_or(false);
        let is_tagged = |row: &LogicalVolume| {
            let owner = |tag: &String| tag.strip_prefix("pve-vm-").is_some_and(|vmid| vmid.parse::<u32>().is_ok());
            row.tags.iter().any(owner)
        };
        let rows = volumes(storage)?.into_iter().filter(|row| row.is_thick() && (!tagged_only || is_tagged(row)));
        let found = rows.filter_map(|row| {
            let (parsed, format) = parse(&row.name).ok()?;
            let chained = format == Format::Qcow2 && row.is_active();
            let size = if chained { chain::header_size(storage, &row.name) } else { None };
            Some(pool::Row {
                name: row.name,
                vmid: parsed.vmid,
                format,
                size: size.unwrap_or(row.size),
                used: Some(row.size),
                parent: None,
                ctime: row.created,
            })
        });
        Ok(pool::list(storage, filter, found))
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        let (parsed, format) = parse(name)?;
        Ok(pool::describe(&parsed, format))
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        parse(name)?;
        device(storage, name)
    }

    fn source(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<Source> {
        let path = match (parse(name)?.1, snapshot) {
            (_, None) => device(storage, name)?,
            (Format::Qcow2, Some(snapshot)) => device(storage, &chain::snapshot_name(name, snapshot)?)?,
            (_, Some(_)) => return Err(storage.unsupported("reading a snapshot")),
        };
        Ok(Source { path, internal: None })
    }

    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        let path = self.source(storage, name, snapshot)?.path;
        if parse(name)?.1 == Format::Qcow2 {
            chain::activate(storage, name)?;
        } else {
            let full = full_name(storage, name)?;
            let change = |options: &'static str| Tool::new("lvchange").args([options, "--", &full]).run(storage.ctx);
            change("-aey").context(|| format!("can't activate LV '/dev/{full}'"))?;
            change("--refresh").context(|| format!("can't refresh LV '/dev/{full}' for activation"))?;
        }
        Ok(path)
    }

    fn deactivate_volume(&self, storage: &Storage, name: &str, _snapshot: Option<&str>) -> Result<()> {
        if parse(name)?.1 == Format::Qcow2 {
            return chain::deactivate(storage, name);
        }
        let full = full_name(storage, name)?;
        if !device(storage, name)?.exists() {
            return Ok(());
        }
        Tool::new("lvchange")
            .args(["-aln", "--", &full])
            .run(storage.ctx)
            .context(|| format!("can't deactivate LV '/dev/{full}'"))
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let (_, format) = parse(name)?;
        let row = volume(storage, name)?;
        let size = if format == Format::Qcow2 { chain::size(storage, name)? } else { row.size };
        Ok(VolumeInfo { size, used: row.size, format, parent: None })
    }

    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String> {
        let format = new.format.unwrap_or_else(|| formats(storage)[0]);
        if !formats(storage).contains(&format) {
            bail!("unsupported format '{format}' for storage type {}", storage.entry.kind());
        }
        let suffix = if format == Format::Qcow2 { ".qcow2" } else { "" };
        let _lock = storage.lock()?;
        let name = match new.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => {
                let (_, of_name) = parse(name)?;
                if of_name != format {
                    let stem = name.strip_suffix(".qcow2").unwrap_or(name);
                    bail!(
                        "volume name '{name}' does not match requested format '{format}' (did you mean '{stem}{suffix}'?)"
                    );
                }
                name.to_owned()
            }
            None => {
                let rows = volumes(storage)?;
                let names = rows.iter().map(|row| row.name.as_str());
                next_name(names, &storage.id, Prefix::Vm, new.vmid, suffix)?
            }
        };
        create(storage, &name, new.vmid, new.size, chain::Backing::None)?;
        Ok(name)
    }

    fn free(&self, storage: &Storage, name: &str) -> Result<()> {
        let (_, format) = parse(name)?;
        let lock = storage.lock()?;
        let rows = volumes(storage)?;
        let mut doomed: Vec<String> = rows.iter().filter(|row| row.name == name).map(|row| row.name.clone()).collect();
        if format == Format::Qcow2 {
            doomed.extend(chain::parts(&rows, name));
        }
        if !storage.entry.flag("saferemove").unwrap_or(false) {
            return doomed.iter().try_for_each(|name| remove(storage, name));
        }
        // The name is free at once; overwriting the data takes its time without the lock.
        for name in &doomed {
            rename(storage, name, &wipe::doomed_name(name))?;
        }
        drop(lock);
        doomed.iter().try_for_each(|name| wipe::wipe_and_remove(storage, &wipe::doomed_name(name)))
    }

    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()> {
        let (_, format) = parse(name)?;
        let _lock = storage.lock()?;
        match format {
            Format::Qcow2 => chain::resize(storage, name, size),
            _ => {
                let old = volume(storage, name)?.size;
                if size < old {
                    bail!("unable to shrink '/dev/{}' from {old} to {size} bytes", full_name(storage, name)?);
                }
                extend(storage, name, size)
            }
        }
    }

    fn snapshot(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        only_qcow2(name, "snapshot")?;
        chain::snapshot(storage, name, snapshot)
    }

    fn snapshot_delete(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        only_qcow2(name, "delete snapshot for")?;
        chain::snapshot_delete(storage, name, snapshot)
    }

    fn rollback_possible(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        only_qcow2(name, "rollback snapshot for")?;
        chain::rollback_possible(storage, name, snapshot)
    }

    fn rollback(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        only_qcow2(name, "rollback snapshot for")?;
        chain::rollback(storage, name, snapshot)
    }

    fn snapshots(&self, storage: &Storage, name: &str) -> Result<Vec<String>> {
        if parse(name)?.1 == Format::Qcow2 { chain::snapshots(storage, name) } else { Ok(Vec::new()) }
    }

    fn make_template(&self, _storage: &Storage, _name: &str) -> Result<String> {
        Err(Error::new("can't create base images in lvm storage"))
    }

    fn clone_linked(&self, _storage: &Storage, _name: &str, _snapshot: Option<&str>, _vmid: Vmid) -> Result<String> {
        Err(Error::new("can't clone images in lvm storage"))
    }

    fn rename(&self, storage: &Storage, name: &str, vmid: Vmid, new_name: Option<&str>) -> Result<String> {
        let (old, format) = parse(name)?;
        if format == Format::Qcow2 && !chain::snapshots(storage, name)?.is_empty() {
            bail!("can't rename volume '{name}' - external snapshot exists");
        }
        let suffix = if format == Format::Qcow2 { ".qcow2" } else { "" };
        let _lock = storage.lock()?;
        let rows = volumes(storage)?;
        let target = match new_name {
            Some(target) if parse(target)?.1 == format => target.to_owned(),
            Some(target) => bail!("volume name '{target}' does not match format '{format}'"),
            None => next_name(rows.iter().map(|row| row.name.as_str()), &storage.id, Prefix::Vm, vmid, suffix)?,
        };
        if rows.iter().any(|row| row.name == target) {
            bail!("target volume '{target}' already exists");
        }
        rename(storage, name, &target)?;
        let mut tags = Vec::new();
        if old.vmid != vmid {
            tags.push((format!("pve-vm-{vmid}"), format!("pve-vm-{}", old.vmid)));
        }
        if format == Format::Qcow2 {
            tags.push((format!("pve-{target}"), format!("pve-{name}")));
        }
        for (add, remove) in tags {
            let full = full_name(storage, &target)?;
            // The name says who owns the volume; a stale tag hurts nobody.
            let _ = Tool::new("lvchange").args(["--addtag", &add, "--deltag", &remove, "--", &full]).run(storage.ctx);
        }
        Ok(target)
    }
}

/// The formats of a storage, the default first.
fn formats(storage: &Storage) -> &'static [Format] {
    match storage.entry.flag("snapshot-as-volume-chain") {
        Some(true) => &[Format::Qcow2, Format::Raw],
        _ => &[Format::Raw],
    }
}

fn only_qcow2(name: &str, what: &str) -> Result<()> {
    match parse(name)?.1 {
        Format::Qcow2 => Ok(()),
        format => bail!("can't {what} '{format}' volume"),
    }
}

/// A volume of an iSCSI storage on which the group lies.
fn base_volume(ctx: &Context, text: &str) -> Result<storage::VolumeId> {
    let base: storage::VolumeId = text.parse().map_err(Error::new)?;
    let config = storage::config(ctx)?;
    let Some(entry) = config.get(&base.storage) else { bail!("base storage ID '{}' does not exist", base.storage) };
    if entry.kind() != "iscsi" {
        bail!("unsupported base type '{}'", entry.kind());
    }
    Ok(base)
}

/// Makes a logical volume, for qcow2 also the image on it. Nothing is left behind if it fails.
pub(super) fn create(storage: &Storage, name: &str, vmid: Vmid, size: u64, backing: chain::Backing) -> Result<()> {
    let (_, format) = parse(name)?;
    let (full, group) = (full_name(storage, name)?, group(storage)?);
    let bytes = if format == Format::Qcow2 { chain::measure(storage, size, &backing)? } else { size };
    let free = group_report(storage)?.free;
    if free < bytes {
        bail!("not enough free space ({} < {})", free / 1024, bytes.div_ceil(1024));
    }
    let mut tool = Tool::new("lvcreate")
        .args(["-aly", "-Wy", "--yes", "--size", &format!("{}k", bytes.div_ceil(1024)), "--name", name])
        .args(["--setautoactivation", "n", "--addtag", &format!("pve-vm-{vmid}")]);
    if format == Format::Qcow2 {
        tool = tool.args(["--addtag", &format!("pve-{name}")]);
    }
    tool.args(["--", group]).run(storage.ctx).context(|| format!("lvcreate '{full}' error"))?;
    if format == Format::Qcow2 {
        chain::write_image(storage, name, size, &backing).map_err(|error| {
            let failures: Vec<Error> = remove(storage, name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
    }
    Ok(())
}

/// Makes a volume group on a device, unless the device has that group already. `wipe` removes what the device had before;
/// without it LVM refuses a device on which it sees something. (PVE: LVMPlugin.pm, lvm_create_volume_group)
pub fn create_group(ctx: &Context, device: &str, name: &str, wipe: bool) -> Result<()> {
    report::check_name(name, "volume group")?;
    let owner = report::groups(ctx, true)?
        .into_iter()
        .find(|(_, group)| group.physical.iter().any(|physical| physical.name == device))
        .map(|(owner, _)| owner);
    match owner {
        Some(owner) if owner == name => return Ok(()),
        Some(owner) => bail!("device '{device}' is already used by volume group '{owner}'"),
        None => {}
    }
    if wipe {
        Tool::new("wipefs").args(["--all", "--", device]).run(ctx)?;
    }
    // So much metadata puts the first extent to 128 KiB, which flash memory likes.
    Tool::new("pvcreate")
        .args(["--metadatasize", "250k", "--", device])
        .run(ctx)
        .context(|| format!("pvcreate '{device}' error"))?;
    Tool::new("vgcreate").args(["--", name, device]).run(ctx).context(|| format!("vgcreate {name} {device} error"))
}
