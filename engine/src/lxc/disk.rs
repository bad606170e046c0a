//! New volumes of a container: reserved on a storage, formatted, owned by the container's root.
//! (PVE: LXC.pm, alloc_disk, create_disks, mkfs)

use super::idmap::IdMap;
use super::volume::MountPoint;
use super::{monitor, mount};
use crate::storage::{self, Copy, Format, NewVolume, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Task, Vmid, command, error::ResultExt};
use std::path::Path;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// The storage, bytes and format of the new volume that a mount point asks for.
pub fn wanted<'a>(ctx: &Context, mount: &'a MountPoint) -> Result<Option<(&'a str, u64, Format)>> {
    let Some((storage, gib)) = mount.wants_new_volume() else { return Ok(None) };
    storage::check_content(ctx, storage, "rootdir")?;
    // Whole KiB, as PVE rounds.
    let size = (gib * GIB) as u64 / 1024 * 1024;
    Ok(Some((storage, size, format_on(ctx, storage, size)?)))
}

/// Makes the volume that `STORAGE:GIB` asks for and puts its id and size into the mount point. A mount point that
/// asks for nothing stays as it is. Gives back what was made.
pub fn allocate(
    ctx: &Context,
    vmid: Vmid,
    mount: &mut MountPoint,
    map: &IdMap,
    log: &dyn Fn(&str),
) -> Result<Option<VolumeId>> {
    let Some((storage, size, format)) = wanted(ctx, mount)? else { return Ok(None) };
    let new = NewVolume { vmid, format: Some(format), name: None, size, kind: VolumeKind::ContainerRoot };
    let id = storage::allocate(ctx, storage, &new)?;
    let prepared = prepare(ctx, &id, format, map, log);
    if let Err(error) = prepared {
        let failures: Vec<Error> = storage::free(ctx, &id).err().into_iter().collect();
        return Err(error.with_cleanup_failures(&failures));
    }
    mount.set_volume(id.to_string(), Some(size));
    Ok(Some(id))
}

/// The format of a new volume: a directory without a size, an image with one, unless the storage has directories with
/// sizes only (ZFS), or its administrator wants them (BTRFS with quotas). (PVE: LXC.pm, alloc_disk)
fn format_on(ctx: &Context, storage: &str, size: u64) -> Result<Format> {
    let entry = storage::find(ctx, storage)?.entry;
    let formats = entry.formats();
    let wanted = if size == 0 || entry.flag("quotas") == Some(true) { Format::Subvol } else { Format::Raw };
    if formats.contains(&wanted) {
        return Ok(wanted);
    }
    if size > 0 && formats.contains(&Format::Subvol) { Ok(Format::Subvol) } else { Ok(Format::Raw) }
}

/// Copies a volume for a container, to any storage that can hold one. Where the storage has no volumes of the same
/// format, the files are copied into a new one.
pub fn copy(
    task: &Task,
    point: &MountPoint,
    snapshot: Option<&str>,
    storage: &str,
    vmid: Vmid,
    map: &IdMap,
    limit: Option<u64>,
) -> Result<VolumeId> {
    let ctx = task.ctx;
    let source: VolumeId = point.volume().parse().map_err(Error::new)?;
    let info = storage::info(ctx, &source)?;
    if storage::find(ctx, storage)?.entry.formats().contains(&info.format) {
        let kind = VolumeKind::ContainerRoot;
        let format = Some(info.format);
        let wanted = Copy { source: &source, snapshot, storage, vmid, format, kind, limit };
        return storage::copy(ctx, &wanted, &mut |line| task.log(line));
    }
    let size = point.size().unwrap_or(info.size);
    if info.format == Format::Subvol && size == 0 {
        return Err(Error::new(format!(
            "volume '{source}' has no size, so it cannot be copied to storage '{storage}'"
        )));
    }
    let mut new = point.clone();
    new.set_volume(format!("{storage}:{}", size as f64 / GIB), None);
    let made = allocate(ctx, vmid, &mut new, map, &|line| task.log(line))?;
    let made = made.ok_or_else(|| Error::new(format!("unable to allocate a copy of '{source}'")))?;
    let copied = mount::in_own_namespace(|| {
        let directory = monitor::directory(ctx, vmid);
        let (from, to) = (directory.join("stage"), directory.join("rootfs"));
        mount::mount_at(ctx, point, snapshot, &from, true)?;
        mount::mount_at(ctx, &new, None, &to, false)?;
        storage::copy::tree(&from, &to, limit)
    });
    copied.map(|()| made.clone()).map_err(|error| error.with_cleanup_failures(&free_all(ctx, &[made])))
}

fn prepare(ctx: &Context, id: &VolumeId, format: Format, map: &IdMap, log: &dyn Fn(&str)) -> Result<()> {
    let path = storage::activate_volume(ctx, id, None)?;
    if format == Format::Subvol {
        return own(&path, map);
    }
    format_image(&path, map, log).context(|| format!("unable to format volume '{id}'"))
}

/// Gives an empty directory to the container's root.
pub fn own(path: &Path, map: &IdMap) -> Result<()> {
    let (user, group) = (map.user(0)?, map.group(0)?);
    std::os::unix::fs::chown(path, Some(user), Some(group)).context(|| path.display().to_string())
}

/// Makes a file system that belongs to the container's root.
pub fn format_image(path: &Path, map: &IdMap, log: &dyn Fn(&str)) -> Result<()> {
    let (user, group) = (map.user(0)?, map.group(0)?);
    let owner = format!("root_owner={user}:{group}");
    let path = path.to_string_lossy();
    command::run_lines("mkfs.ext4", &["-F", "-O", "mmp", "-E", &owner, &path], |_, line| {
        if line.starts_with("Creating filesystem") || line.starts_with("Filesystem UUID") {
            log(line);
        }
    })
}

/// Takes the mark "mounted elsewhere" off a volume that was copied or set back while its file system was in use: else the
/// kernel waits for another user that does not exist, 11 seconds and more. The caller knows that nobody has it mounted.
pub fn forget_user(ctx: &Context, id: &VolumeId) -> Result<()> {
    let path = storage::activate_volume(ctx, id, None)?;
    if !path.is_dir() {
        // What is no ext4 has no such mark, and the mount will say what is wrong with it.
        let _ = command::run("tune2fs", &["-f", "-E", "clear_mmp", &path.to_string_lossy()]);
    }
    Ok(())
}

/// Removes volumes that were made for nothing, and reports each failure.
pub fn free_all(ctx: &Context, volumes: &[VolumeId]) -> Vec<Error> {
    volumes.iter().filter_map(|volume| storage::free(ctx, volume).err()).collect()
}
