//! Growing a volume of a container together with its file system. (PVE: API2/LXC.pm, resize_vm)

use super::volume::{MountPoint, Source};
use super::{monitor, mount};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, Format, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, bail, command, error::ResultExt, guest};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// A growth that may be carried out.
#[derive(Debug, Clone)]
pub struct Growth {
    mount: MountPoint,
    id: VolumeId,
    format: Format,
    size: u64,
}

/// Looks at a request: `size` is a size, or with `+` in front an addition.
pub fn check(ctx: &Context, vmid: Vmid, config: &GuestConfig, disk: &str, size: &str) -> Result<Growth> {
    guest::check_lock(config)?;
    let text = config.current.get(disk).ok_or_else(|| Error::new(format!("disk '{disk}' does not exist")))?;
    let mount = MountPoint::parse(disk, text)?;
    if mount.source() != Source::Volume {
        bail!("can't resize '{disk}': it is no volume of a storage");
    }
    let id: VolumeId = mount.volume().parse().map_err(Error::new)?;
    if let Some(owner) = storage::describe(ctx, &id)?.vmid.filter(|owner| *owner != vmid) {
        bail!("can't resize mount point owned by another container ({owner})");
    }
    let (added, number) = size.strip_prefix('+').map_or((false, size), |number| (true, number));
    let number = storage::parse_size(number).ok_or_else(|| Error::new("invalid size string"))?;
    let info = storage::info(ctx, &id)?;
    let size = if added { info.size + number } else { number };
    if size < info.size {
        bail!("unable to shrink disk size");
    }
    if size == info.size {
        bail!("disk is already at specified size");
    }
    Ok(Growth { mount, id, format: info.format, size })
}

/// Carries a growth out; the caller holds the guest's lock.
pub fn grow(task: &Task, vmid: Vmid, growth: Growth) -> Result<()> {
    let ctx = task.ctx;
    let Growth { mut mount, id, format, size } = growth;
    storage::resize(ctx, &id, size)?;
    mount.set_size(size);
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        config.current.set(mount.key.clone(), mount.print());
        Ok(())
    })?;
    if format != Format::Raw {
        return Ok(());
    }
    let path = storage::activate_volume(ctx, &id, None)?;
    let grown = match monitor::init(ctx, vmid) {
        Some(_) => online(ctx, vmid, &path),
        // What is damaged is not grown while it is mounted.
        None => mounted_for_it(task, vmid, &mount).or_else(|_| offline(task, &path)),
    };
    if let Err(error) = grown {
        task.warn(format!("Failed to update the container's filesystem: {error}"));
    }
    Ok(())
}

/// Grows the file system of a stopped container by the kernel: the tools alone look for eleven seconds, twice, whether
/// somebody else has it mounted.
fn mounted_for_it(task: &Task, vmid: Vmid, point: &MountPoint) -> Result<()> {
    let stage = monitor::directory(task.ctx, vmid).join("stage");
    std::fs::create_dir_all(&stage).context(|| format!("unable to create '{}'", stage.display()))?;
    mount::in_own_namespace(|| {
        mount::mount_at(task.ctx, point, None, &stage, false)?;
        let number = std::fs::metadata(&stage)?.dev();
        let link = format!("/sys/dev/block/{}:{}", libc::major(number), libc::minor(number));
        let device = std::fs::canonicalize(link).context(|| "unable to find the device of the file system")?;
        let name = device.file_name().unwrap_or_default().to_string_lossy();
        task.command("resize2fs", &[&format!("/dev/{name}")])
    })
}

fn offline(task: &Task, path: &Path) -> Result<()> {
    let path = path.to_string_lossy();
    // 1 means that something was repaired, which is what it is for.
    let checked = task.command("e2fsck", &["-f", "-y", &path]);
    checked.or_else(|error| if error.message().ends_with("exit code 1") { Ok(()) } else { Err(error) })?;
    task.command("resize2fs", &[path.as_ref()])
}

/// The loop device of an image that has grown, as large as the image.
fn grown_loop_device(image: &Path) -> Result<String> {
    let listed =
        command::run("losetup", &["--noheadings", "--output", "NAME", "--associated", &image.to_string_lossy()])?;
    let device = listed.stdout.split_whitespace().next().map(str::to_owned);
    let device = device.ok_or_else(|| Error::new("the volume has no loop device although the container runs"))?;
    command::run("losetup", &["--set-capacity", &device])?;
    Ok(device)
}

/// The file system is mounted by the container only; resize2fs wants to see a mount, so it gets one of its own.
fn online(ctx: &Context, vmid: Vmid, image: &Path) -> Result<()> {
    let is_device = std::fs::metadata(image).is_ok_and(|metadata| metadata.file_type().is_block_device());
    let device = if is_device { image.to_string_lossy().into_owned() } else { grown_loop_device(image)? };
    let stage = monitor::directory(ctx, vmid).join("stage");
    mount::in_own_namespace(|| {
        let target = stage.to_string_lossy();
        command::run("mount", &["-n", &device, &target]).context(|| "unable to see the file system")?;
        command::run("resize2fs", &[&device]).map(drop)
    })
}
