//! Volumes and file systems of a pool: making, listing, removing them. The same on this machine and on another one.

use super::{BASE_SNAPSHOT, ask, check_dataset, parse, pool_name, run};
use crate::storage::driver::{Space, Storage};
use crate::storage::guest_volume::{Prefix, check_owner, check_snapshot, next_name};
use crate::storage::pool::Row;
use crate::storage::volume::{Format, VolumeInfo};
use crate::task::abort;
use crate::{Error, Result, Vmid, bail};
use std::time::Duration;

/// How often a busy data set is tried again, one second apart. (PVE: ZFSPoolPlugin.pm, zfs_delete_zvol)
const BUSY_TRIES: u32 = 6;

/// ZFS refuses volumes that are no multiple of the block size, the largest of which is at most this.
const VOLUME_UNIT: u64 = 1 << 20;

/// `POOL/NAME` of a volume.
pub(super) fn full_name(storage: &Storage, name: &str) -> Result<String> {
    Ok(format!("{}/{}", pool_name(storage)?, parse(name)?.0.name))
}

/// `POOL/NAME@SNAPSHOT`.
pub(super) fn snapshot_name(storage: &Storage, name: &str, snapshot: &str) -> Result<String> {
    Ok(format!("{}@{}", full_name(storage, name)?, check_snapshot(snapshot)?))
}

/// Values of properties, in the order in which they were asked for.
pub(super) fn properties(storage: &Storage, names: &str, dataset: &str) -> Result<Vec<String>> {
    let text = ask(storage, &["get", "-o", "value", "-Hp", names, dataset])?;
    Ok(text.lines().map(|line| line.trim().to_owned()).collect())
}

pub(super) fn space(storage: &Storage) -> Result<Space> {
    let values = properties(storage, "available,used", pool_name(storage)?)?;
    let figure = |index: usize| values.get(index).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let (avail, used) = (figure(0), figure(1));
    Ok(Space { total: avail + used, used, avail })
}

/// The volumes of the pool.
pub(super) fn list(storage: &Storage) -> Result<Vec<Row>> {
    let pool = pool_name(storage)?;
    let columns = "name,volsize,origin,type,refquota,used,creation";
    let text = ask(storage, &["list", "-o", columns, "-t", "volume,filesystem", "-d1", "-Hp", pool])?;
    Ok(text.lines().filter_map(|line| row(pool, line)).collect())
}

fn row(pool: &str, line: &str) -> Option<Row> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [dataset, size, origin, kind, quota, used, created] = fields.as_slice() else { return None };
    let name = dataset.strip_prefix(pool)?.strip_prefix('/')?;
    let (parsed, format) = parse(name).ok().filter(|(parsed, _)| parsed.base.is_none())?;
    let bytes = match *kind {
        "volume" if format == Format::Raw => size.parse().ok()?,
        "filesystem" if format == Format::Subvol => quota.parse().unwrap_or(0),
        _ => return None,
    };
    let parent = (*origin != "-").then(|| {
        let inner = origin.strip_prefix(pool).and_then(|rest| rest.strip_prefix('/'));
        inner.unwrap_or(origin).to_owned()
    });
    let base = parent.as_deref().and_then(|parent| parent.strip_suffix(&format!("@{BASE_SNAPSHOT}")));
    let base = base.filter(|base| parse(base).is_ok_and(|(base, _)| base.prefix.is_base()));
    Some(Row {
        name: base.map_or_else(|| name.to_owned(), |base| format!("{base}/{name}")),
        vmid: parsed.vmid,
        format,
        size: bytes,
        used: used.parse().ok(),
        parent,
        ctime: created.parse().ok(),
    })
}

pub(super) fn info(storage: &Storage, name: &str) -> Result<VolumeInfo> {
    let (parsed, format) = parse(name)?;
    let property = if format == Format::Subvol { "refquota" } else { "volsize" };
    let full = full_name(storage, name)?;
    let values = properties(storage, &format!("{property},usedbydataset"), &full)?;
    let figure = |index: usize| values.get(index).and_then(|value| value.parse::<u64>().ok());
    let size = match (figure(0), format) {
        (Some(size), _) => size,
        (None, Format::Subvol) => 0,
        (None, _) => bail!("Could not get zfs volume size"),
    };
    Ok(VolumeInfo { size, used: figure(1).unwrap_or(0), format, parent: parsed.base })
}

/// The name that a new volume gets: the wanted one, if it may have it, or a free one.
pub(super) fn choose_name(storage: &Storage, vmid: Vmid, format: Format, wanted: Option<&str>) -> Result<String> {
    let prefix = if format == Format::Subvol { Prefix::Subvol } else { Prefix::Vm };
    match wanted.filter(|name| !name.is_empty()) {
        Some(name) => {
            check_owner(&parse(name)?.0.name, prefix, vmid)?;
            if parse(name)?.0.base.is_some() {
                bail!("illegal name '{name}' - should be '{}-{vmid}-*'", prefix.name());
            }
            Ok(name.to_owned())
        }
        None => {
            let rows = list(storage)?;
            let names = rows.iter().map(|row| row.name.rsplit('/').next().unwrap_or_default());
            next_name(names, &storage.id, prefix, vmid, "")
        }
    }
}

/// Rounds up to what ZFS takes.
pub(super) fn volume_kib(size: u64) -> u64 {
    size.next_multiple_of(VOLUME_UNIT) / 1024
}

pub(super) fn create_volume(storage: &Storage, name: &str, size: u64) -> Result<()> {
    let (size, full) = (format!("{}k", volume_kib(size)), full_name(storage, name)?);
    let mut arguments = vec!["create"];
    if storage.entry.flag("sparse").unwrap_or(false) {
        arguments.push("-s");
    }
    if let Some(block) = storage.entry.get("blocksize") {
        arguments.extend(["-b", check_dataset(block)?]);
    }
    arguments.extend(["-V", &size, &full]);
    run(storage, &arguments)
}

pub(super) fn create_filesystem(storage: &Storage, name: &str, size: u64) -> Result<()> {
    let quota = format!("refquota={}", quota(size));
    let full = full_name(storage, name)?;
    run(storage, &["create", "-o", "acltype=posixacl", "-o", "xattr=sa", "-o", &quota, &full])
}

/// A quota as ZFS takes it; it does not take 0.
pub(super) fn quota(size: u64) -> String {
    if size == 0 { "none".into() } else { format!("{}k", size.div_ceil(1024)) }
}

/// Removes a data set with its snapshots. Clones of it are an error.
pub(super) fn destroy(storage: &Storage, name: &str) -> Result<()> {
    let full = full_name(storage, name)?;
    for last in (0..BUSY_TRIES).rev() {
        match run(storage, &["destroy", "-r", &full]) {
            Err(error) if error.message().contains("dataset does not exist") => return Ok(()),
            // udev or a guest that just ended may still have it open.
            Err(error) if last > 0 && error.message().contains("dataset is busy") => {
                abort::check()?;
                std::thread::sleep(Duration::from_secs(1));
            }
            result => return result,
        }
    }
    Ok(())
}

/// Names of a volume's snapshots, oldest first, without that of a template.
pub(super) fn snapshots(storage: &Storage, name: &str) -> Result<Vec<String>> {
    let full = full_name(storage, name)?;
    let text = ask(storage, &["list", "-H", "-d1", "-t", "snapshot", "-o", "name", "-s", "creation", &full])?;
    let names = text.lines().filter_map(|line| line.trim().split_once('@').map(|(_, name)| name.to_owned()));
    Ok(names.filter(|name| name != BASE_SNAPSHOT).collect())
}

/// ZFS goes back to the newest snapshot only: going further would destroy the others.
pub(super) fn rollback_possible(storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
    let snapshots = snapshots(storage, name)?;
    let volume = storage.volume(name);
    match snapshots.iter().position(|other| other == snapshot) {
        None => bail!("can't rollback, snapshot '{snapshot}' does not exist on '{volume}'"),
        Some(index) if index + 1 < snapshots.len() => {
            bail!("can't rollback, '{snapshot}' is not most recent snapshot on '{volume}'")
        }
        Some(_) => Ok(()),
    }
}

/// The template's name of a volume, with the base that it was cloned from.
pub(super) fn template_names(name: &str) -> Result<(String, String)> {
    let (parsed, _) = parse(name)?;
    if parsed.prefix.is_base() {
        bail!("create_base not possible with base image");
    }
    let bare = parsed.template_name();
    let whole = parsed.base.map_or_else(|| bare.clone(), |base| format!("{base}/{bare}"));
    Ok((bare, whole))
}

/// Renames a data set.
pub(super) fn rename(storage: &Storage, from: &str, to: &str) -> Result<()> {
    run(storage, &["rename", &full_name(storage, from)?, &full_name(storage, to)?])
}

/// Makes a linked clone of a template and answers its bare name.
pub(super) fn clone(storage: &Storage, name: &str, vmid: Vmid) -> Result<String> {
    let (parsed, format) = parse(name)?;
    if !parsed.prefix.is_base() {
        bail!("clone_image only works on base images");
    }
    let clone = choose_name(storage, vmid, format, None)?;
    let source = format!("{}@{BASE_SNAPSHOT}", full_name(storage, name)?);
    let target = full_name(storage, &clone)?;
    if format == Format::Subvol {
        let values = properties(storage, "refquota", &full_name(storage, name)?)?;
        let size = values.first().and_then(|value| value.parse().ok()).unwrap_or(0);
        run(storage, &["clone", "-o", &format!("refquota={}", quota(size)), &source, &target])?;
    } else {
        run(storage, &["clone", &source, &target])?;
    }
    Ok(clone)
}

/// Gives a volume to another guest; answers the new name with its base.
pub(super) fn reassign(storage: &Storage, name: &str, vmid: Vmid, new_name: Option<&str>) -> Result<(String, String)> {
    let (parsed, format) = parse(name)?;
    let target = choose_name(storage, vmid, format, new_name)?;
    if list(storage)?.iter().any(|row| row.name.rsplit('/').next() == Some(target.as_str())) {
        bail!("target volume '{target}' already exists");
    }
    rename(storage, &parsed.name, &target)?;
    let whole = parsed.base.map_or_else(|| target.clone(), |base| format!("{base}/{target}"));
    Ok((target, whole))
}

/// Fails with PVE's text for a size that would shrink a volume.
pub(super) fn check_growth(storage: &Storage, name: &str, size: u64) -> Result<()> {
    let old = info(storage, name)?.size;
    if old > 0 && size < old {
        return Err(Error::new(format!("unable to shrink '{}' from {old} to {size} bytes", storage.volume(name))));
    }
    Ok(())
}
