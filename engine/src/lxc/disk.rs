//! New volumes of a container: reserved on a storage, formatted, owned by the container's root.
//! (PVE: LXC.pm, alloc_disk, create_disks, mkfs)

use super::idmap::IdMap;
use super::volume::MountPoint;
use crate::storage::{self, Format, NewVolume, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Vmid, command, error::ResultExt};

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Makes the volume that `STORAGE:GIB` asks for and puts its id and size into the mount point. A mount point that
/// asks for nothing stays as it is. Gives back what was made.
pub fn allocate(
    ctx: &Context,
    vmid: Vmid,
    mount: &mut MountPoint,
    map: &IdMap,
    log: &dyn Fn(&str),
) -> Result<Option<VolumeId>> {
    let Some((storage, gib)) = mount.wants_new_volume() else { return Ok(None) };
    storage::check_content(ctx, storage, "rootdir")?;
    // Whole KiB, as PVE rounds.
    let size = (gib * GIB) as u64 / 1024 * 1024;
    let format = if size == 0 { Format::Subvol } else { Format::Raw };
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

fn prepare(ctx: &Context, id: &VolumeId, format: Format, map: &IdMap, log: &dyn Fn(&str)) -> Result<()> {
    let path = storage::path(ctx, id)?;
    let (user, group) = (map.user(0)?, map.group(0)?);
    if format == Format::Subvol {
        return std::os::unix::fs::chown(&path, Some(user), Some(group)).context(|| path.display().to_string());
    }
    let owner = format!("root_owner={user}:{group}");
    let path = path.to_string_lossy();
    command::run_lines("mkfs.ext4", &["-F", "-O", "mmp", "-E", &owner, &path], |_, line| {
        if line.starts_with("Creating filesystem") || line.starts_with("Filesystem UUID") {
            log(line);
        }
    })
    .context(|| format!("unable to format volume '{id}'"))
}

/// Removes volumes that were made for nothing, and reports each failure.
pub fn free_all(ctx: &Context, volumes: &[VolumeId]) -> Vec<Error> {
    volumes.iter().filter_map(|volume| storage::free(ctx, volume).err()).collect()
}
