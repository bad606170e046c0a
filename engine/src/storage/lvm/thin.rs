//! Storages of type `lvmthin`: thin volumes of a pool, with snapshots and linked clones that share their blocks.
//! (PVE: pve-storage PVE/Storage/LvmThinPlugin.pm)
//!
//! A snapshot is a read-only thin volume `snap_vm-100-disk-0_NAME`. A linked clone depends on nothing: its base may go.

use super::report::{LogicalVolume, check_name};
use super::{device, extend, full_name, group, group_report, remove, rename, volume, volumes, without_autoactivation};
use crate::storage::driver::{Described, Driver, Filter, Source, Space, Storage};
use crate::storage::feature::{Capability, Feature, State, can};
use crate::storage::guest_volume::{GuestVolume, Prefix, check_owner, check_snapshot, next_name};
use crate::storage::pool;
use crate::storage::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::tool::Tool;
use crate::{Error, Result, ResultExt, Vmid, bail};
use std::path::PathBuf;
use std::time::Duration;

const RAW: &[Format] = &[Format::Raw];

/// What volumes can do.
const CAPABILITIES: &[Capability] = &[
    can(Feature::Snapshot, State::Current, RAW),
    can(Feature::Clone, State::Base, RAW),
    can(Feature::Clone, State::Snapshot, RAW),
    can(Feature::Template, State::Current, RAW),
    can(Feature::Copy, State::Current, RAW),
    can(Feature::Copy, State::Base, RAW),
    can(Feature::Copy, State::Snapshot, RAW),
    can(Feature::SparseInit, State::Current, RAW),
    can(Feature::SparseInit, State::Base, RAW),
    can(Feature::Rename, State::Current, RAW),
];

/// The driver.
pub struct LvmThin;

fn parse(name: &str) -> Result<GuestVolume> {
    let parsed = GuestVolume::parse(name, "lvm")?;
    if parsed.base.is_some() || !matches!(parsed.prefix, Prefix::Vm | Prefix::Base) {
        bail!("unable to parse lvm volume name '{}'", name.escape_debug());
    }
    Ok(parsed)
}

/// The thin pool of a storage.
fn pool_name<'s>(storage: &'s Storage) -> Result<&'s str> {
    let name =
        storage.entry.get("thinpool").ok_or_else(|| Error::new("missing value for required option 'thinpool'"))?;
    check_name(name, "thin pool")
}

fn snapshot_name(name: &str, snapshot: &str) -> Result<String> {
    Ok(format!("snap_{name}_{}", check_snapshot(snapshot)?))
}

/// The volume itself, or one of its snapshots.
fn member_name(name: &str, snapshot: Option<&str>) -> Result<String> {
    parse(name)?;
    snapshot.map_or_else(|| Ok(name.to_owned()), |snapshot| snapshot_name(name, snapshot))
}

/// The snapshots of a volume with their names, oldest first. A logical volume that could be a snapshot of two volumes
/// belongs to the one with the longer name.
fn snapshots_of<'r>(rows: &'r [LogicalVolume], name: &str) -> Vec<(&'r LogicalVolume, &'r str)> {
    fn word<'v>(volume: &'v str, name: &str) -> Option<&'v str> {
        check_snapshot(volume.strip_prefix("snap_")?.strip_prefix(name)?.strip_prefix('_')?).ok()
    }
    let of_longer = |row: &LogicalVolume| {
        let fits = |other: &LogicalVolume| other.name.len() > name.len() && word(&row.name, &other.name).is_some();
        rows.iter().any(|other| parse(&other.name).is_ok() && fits(other))
    };
    let mut found: Vec<_> =
        rows.iter().filter_map(|row| Some((row, word(&row.name, name)?))).filter(|(row, _)| !of_longer(row)).collect();
    found.sort_by_key(|(row, _)| row.created);
    found
}

/// Makes a volume of another one's state.
fn derive(storage: &Storage, new: &str, from: &str) -> Result<()> {
    let (full, origin) = (full_name(storage, new)?, full_name(storage, from)?);
    Tool::new("lvcreate")
        .args(["-n", new, "-prw", "-kn", "-s", "--", &origin])
        .run(storage.ctx)
        .context(|| format!("lvcreate '{full}' of '{origin}' error"))?;
    without_autoactivation(storage, new)
}

fn activate_member(storage: &Storage, name: &str) -> Result<()> {
    if volume(storage, name)?.is_active() {
        return Ok(());
    }
    let full = full_name(storage, name)?;
    Tool::new("lvchange")
        .args(["-ay", "-K", "--", &full])
        .run(storage.ctx)
        .context(|| format!("activating LV '{full}' failed"))
}

impl Driver for LvmThin {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        group_report(storage)?;
        activate_member(storage, pool_name(storage)?)
    }

    fn patience(&self) -> Duration {
        crate::storage::status::LOCAL_TOOLS
    }

    fn space(&self, storage: &Storage) -> Result<Space> {
        let pool = volume(storage, pool_name(storage)?)?;
        if pool.kind() != 't' {
            bail!("'{}' is no thin pool", full_name(storage, &pool.name)?);
        }
        Ok(Space { total: pool.size, used: pool.used(), avail: pool.size - pool.used() })
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        let pool_name = pool_name(storage)?;
        let rows = volumes(storage)?.into_iter().filter(|row| row.is_thin_in(pool_name)).filter_map(|row| {
            Some(pool::Row {
                vmid: parse(&row.name).ok()?.vmid,
                format: Format::Raw,
                size: row.size,
                used: Some(row.used()),
                parent: None,
                ctime: row.created,
                name: row.name,
            })
        });
        Ok(pool::list(storage, filter, rows))
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        Ok(pool::describe(&parse(name)?, Format::Raw))
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        device(storage, &member_name(name, None)?)
    }

    fn source(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<Source> {
        Ok(Source { path: device(storage, &member_name(name, snapshot)?)?, internal: None })
    }

    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        let member = member_name(name, snapshot)?;
        activate_member(storage, &member)?;
        device(storage, &member)
    }

    fn deactivate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<()> {
        // Guests' volumes stay active, as PVE leaves them: it costs nothing, and two guests may be clones of one base.
        if snapshot.is_none() && !parse(name)?.prefix.is_base() {
            return Ok(());
        }
        let full = full_name(storage, &member_name(name, snapshot)?)?;
        Tool::new("lvchange")
            .args(["-an", "--", &full])
            .run(storage.ctx)
            .context(|| format!("deactivate_volume '{full}' error"))
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        parse(name)?;
        let row = volume(storage, name)?;
        Ok(VolumeInfo { size: row.size, used: row.used(), format: Format::Raw, parent: None })
    }

    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String> {
        let format = new.format.unwrap_or(Format::Raw);
        if format != Format::Raw {
            bail!("unsupported format '{format}'");
        }
        let (group, pool) = (group(storage)?, pool_name(storage)?);
        let _lock = storage.lock()?;
        let name = match new.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => {
                check_owner(name, parse(name)?.prefix, new.vmid)?;
                name.to_owned()
            }
            None => free_name(storage, new.vmid)?,
        };
        let size = format!("{}k", new.size.div_ceil(1024));
        Tool::new("lvcreate")
            .args(["-aly", "-V", &size, "--name", &name, "--thinpool", &format!("{group}/{pool}")])
            .run(storage.ctx)
            .context(|| format!("lvcreate '{group}/{name}' error"))?;
        without_autoactivation(storage, &name)?;
        Ok(name)
    }

    fn free(&self, storage: &Storage, name: &str) -> Result<()> {
        parse(name)?;
        let _lock = storage.lock()?;
        let rows = volumes(storage)?;
        for (row, _) in snapshots_of(&rows, name) {
            remove(storage, &row.name)?;
        }
        let exists = rows.iter().any(|row| row.name == name);
        if exists { remove(storage, name) } else { Ok(()) }
    }

    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()> {
        parse(name)?;
        let _lock = storage.lock()?;
        let old = volume(storage, name)?.size;
        if size < old {
            bail!("unable to shrink '/dev/{}' from {old} to {size} bytes", full_name(storage, name)?);
        }
        extend(storage, name, size)
    }

    fn snapshot(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let (kept, full) = (snapshot_name(name, snapshot)?, full_name(storage, &member_name(name, None)?)?);
        // Snapshots are skipped when the machine activates volumes, as LVM makes them so.
        Tool::new("lvcreate")
            .args(["-n", &kept, "-pr", "-s", "--", &full])
            .run(storage.ctx)
            .context(|| format!("lvcreate snapshot '{}/{kept}' error", group(storage).unwrap_or_default()))
    }

    fn snapshot_delete(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        remove(storage, &member_name(name, Some(snapshot))?)
    }

    fn rollback_possible(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        volume(storage, &member_name(name, Some(snapshot))?).map(drop)
    }

    fn rollback(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let kept = member_name(name, Some(snapshot))?;
        let fresh = format!("rollback_{name}");
        let _lock = storage.lock()?;
        let rows = volumes(storage)?;
        if !rows.iter().any(|row| row.name == kept) {
            bail!("can't rollback, snapshot '{snapshot}' does not exist on '{name}'");
        }
        // Left behind by a machine that lost its power in between; the snapshot has everything.
        if rows.iter().any(|row| row.name == fresh) {
            remove(storage, &fresh)?;
        }
        derive(storage, &fresh, &kept)?;
        // From here on the new state replaces the old one; whoever is cut off here rolls back again.
        if rows.iter().any(|row| row.name == name) {
            remove(storage, name).map_err(|error| {
                let failures: Vec<Error> = remove(storage, &fresh).err().into_iter().collect();
                error.with_cleanup_failures(&failures)
            })?;
        }
        rename(storage, &fresh, name)
    }

    fn snapshots(&self, storage: &Storage, name: &str) -> Result<Vec<String>> {
        parse(name)?;
        Ok(snapshots_of(&volumes(storage)?, name).into_iter().map(|(_, word)| word.to_owned()).collect())
    }

    fn make_template(&self, storage: &Storage, name: &str) -> Result<String> {
        let parsed = parse(name)?;
        if parsed.prefix.is_base() {
            bail!("create_base not possible with base image");
        }
        let _lock = storage.lock()?;
        if let Some((row, _)) = snapshots_of(&volumes(storage)?, name).first() {
            bail!("unable to create base volume - found snaphost '{}'", row.name);
        }
        let base = parsed.template_name();
        rename(storage, name, &base)?;
        let full = full_name(storage, &base)?;
        let change =
            |options: &[&str]| Tool::new("lvchange").args(options.to_vec()).args(["--", &full]).run(storage.ctx);
        change(&["-pr", "-ky"]).map_err(|error| {
            let failures: Vec<Error> = rename(storage, &base, name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
        // LVM wants activation to be changed on its own. A template that stays active is as good as one that does not.
        let _ = change(&["-an"]);
        Ok(base)
    }

    fn clone_linked(&self, storage: &Storage, name: &str, snapshot: Option<&str>, vmid: Vmid) -> Result<String> {
        if snapshot.is_none() && !parse(name)?.prefix.is_base() {
            bail!("clone_image only works on base images");
        }
        let _lock = storage.lock()?;
        let clone = free_name(storage, vmid)?;
        derive(storage, &clone, &member_name(name, snapshot)?)?;
        Ok(clone)
    }

    fn rename(&self, storage: &Storage, name: &str, vmid: Vmid, new_name: Option<&str>) -> Result<String> {
        parse(name)?;
        let _lock = storage.lock()?;
        let rows = volumes(storage)?;
        if let Some((row, _)) = snapshots_of(&rows, name).first() {
            bail!("can't rename volume '{name}' - snapshot '{}' exists", row.name);
        }
        let target = match new_name {
            Some(target) => {
                check_owner(target, parse(target)?.prefix, vmid)?;
                target.to_owned()
            }
            None => free_name(storage, vmid)?,
        };
        if rows.iter().any(|row| row.name == target) {
            bail!("target volume '{target}' already exists");
        }
        rename(storage, name, &target)?;
        Ok(target)
    }
}

fn free_name(storage: &Storage, vmid: Vmid) -> Result<String> {
    let rows = volumes(storage)?;
    next_name(rows.iter().map(|row| row.name.as_str()), &storage.id, Prefix::Vm, vmid, "")
}
