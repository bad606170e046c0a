//! What the tools do with a container's volumes from outside: `pct mount`, `unmount`, `df`, `fsck`, `cpusets`, `unlock`.
//! (PVE: CLI/pct.pm)

use super::idmap::IdMap;
use super::volume::{self, MountPoint, Source};
use super::{cgroup, monitor, mount};
use crate::config::guest::GuestKind;
use crate::storage::{self, Format, VolumeId};
use crate::{Context, Error, Result, Vmid, bail, command, error::ResultExt, guest, lock};
use rustix::mount::{UnmountFlags, unmount as detach};
use std::fs;
use std::path::PathBuf;

/// Why a container is locked while its volumes are mounted on the host.
const MOUNTED: &str = "mounted";

/// Mounts a stopped container's volumes where the host sees them, and locks the container. Gives back the place.
pub fn mount_on_host(ctx: &Context, vmid: Vmid) -> Result<PathBuf> {
    let _lock = lock::acquire(ctx, &lock::guest(vmid), "pct mount", |_| {})?;
    if monitor::init(ctx, vmid).is_some() {
        bail!("CT {vmid} is running - its volumes cannot be mounted");
    }
    let config = guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        guest::check_lock(config)?;
        config.current.set("lock", MOUNTED);
        Ok(config.clone())
    })?;
    let mounts = volume::mounts(&config.current);
    let mounted = mounts.and_then(|mounts| mount::mount_all(ctx, vmid, &mounts, &IdMap::of(&config.current)?, false));
    mounted.map(|mounted| mounted.path).map_err(|error| {
        let failures: Vec<Error> = release(ctx, vmid).err().into_iter().collect();
        error.with_cleanup_failures(&failures)
    })
}

/// Takes off what [`mount_on_host`] has mounted, and unlocks the container.
pub fn unmount(ctx: &Context, vmid: Vmid) -> Result<()> {
    let _lock = lock::acquire(ctx, &lock::guest(vmid), "pct unmount", |_| {})?;
    guest::load(ctx, GuestKind::Lxc, vmid)?;
    release(ctx, vmid)
}

/// As [`unmount`], for callers that hold the guest's lock.
pub fn release(ctx: &Context, vmid: Vmid) -> Result<()> {
    let root = monitor::directory(ctx, vmid).join("rootfs");
    let text = fs::read_to_string("/proc/self/mountinfo").context(|| "/proc/self/mountinfo")?;
    let places = text.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    let mut places: Vec<PathBuf> = places.filter(|place| place.starts_with(&root)).collect();
    // The last mounted lies on top.
    while let Some(place) = places.pop() {
        detach(&place, UnmountFlags::empty()).context(|| format!("unable to unmount '{}'", place.display()))?;
    }
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        if config.current.get("lock") == Some(MOUNTED) {
            config.current.options.remove("lock");
        }
        Ok(())
    })
}

/// The kernel writes blanks in paths as `\040`.
fn unescape(text: &str) -> PathBuf {
    PathBuf::from(text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
}

/// Removes the mark that an operation has left in the configuration.
pub fn unlock(ctx: &Context, vmid: Vmid) -> Result<()> {
    guest::update(ctx, GuestKind::Lxc, vmid, |config| match config.current.options.remove("lock") {
        Some(_) => Ok(()),
        None => bail!("no lock found"),
    })
}

/// How full one mount is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filling {
    /// `rootfs` or `mpN`.
    pub key: String,
    /// What is mounted.
    pub volume: String,
    /// Where.
    pub target: String,
    /// Bytes in all.
    pub total: u64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes that users may still take.
    pub available: u64,
}

/// How full the mounts of a container are, running or not.
pub fn fillings(ctx: &Context, vmid: Vmid) -> Result<Vec<Filling>> {
    let part = guest::load(ctx, GuestKind::Lxc, vmid)?.current;
    let mounts = volume::mounts(&part)?;
    let map = IdMap::of(&part)?;
    if monitor::init(ctx, vmid).is_some() {
        let (root, _) = super::transfer::open_root(ctx, vmid)?;
        return measure(&root, &mounts);
    }
    let _lock = lock::acquire(ctx, &lock::guest(vmid), "pct df", |_| {})?;
    mount::in_own_namespace(|| measure(&mount::mount_all(ctx, vmid, &mounts, &map, false)?.root, &mounts))
}

fn measure(root: &super::rootfs::RootDirectory, mounts: &[MountPoint]) -> Result<Vec<Filling>> {
    let one = |point: &MountPoint| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let directory = root.open_path(point.target(), flags).context(|| point.target().to_owned())?;
        let stat = rustix::fs::fstatvfs(directory)?;
        Ok(Filling {
            key: point.key.clone(),
            volume: point.volume().to_owned(),
            target: point.target().to_owned(),
            total: stat.f_blocks * stat.f_frsize,
            used: (stat.f_blocks - stat.f_bfree) * stat.f_frsize,
            available: stat.f_bavail * stat.f_frsize,
        })
    };
    mounts.iter().map(one).collect()
}

/// Checks the file system of a stopped container's volume; what fsck prints goes to `print`.
pub fn check_file_system(ctx: &Context, vmid: Vmid, key: &str, force: bool, print: impl Fn(&str)) -> Result<()> {
    let _lock = lock::acquire(ctx, &lock::guest(vmid), "pct fsck", |_| {})?;
    let part = guest::load(ctx, GuestKind::Lxc, vmid)?.current;
    let text =
        part.get(key).ok_or_else(|| Error::new(format!("cannot run command on non-existing mount point {key}")))?;
    let point = MountPoint::parse(key, text)?;
    if monitor::init(ctx, vmid).is_some() {
        bail!("cannot run fsck when container is running");
    }
    let volume = point.volume();
    let path = match point.source() {
        Source::Bind => bail!("path '{volume}' does not point to a block device"),
        Source::Device => PathBuf::from(volume),
        Source::Volume => {
            let id: VolumeId = volume.parse().map_err(Error::new)?;
            let format = storage::info(ctx, &id)?.format;
            if format != Format::Raw {
                bail!("unable to run fsck for '{volume}' (format == {format})");
            }
            storage::activate_volume(ctx, &id, None)?
        }
    };
    let mut arguments = vec!["-a".to_owned(), "-l".to_owned()];
    arguments.extend(force.then(|| "-f".to_owned()));
    arguments.push(path.to_string_lossy().into_owned());
    command::run_lines("fsck", &arguments, |_, line| print(line))
}

/// Puts the sizes in configurations right and enters volumes that no configuration names, for one container or all.
/// (PVE: LXC.pm, rescan)
pub fn rescan(ctx: &Context, wanted: Option<Vmid>, dry_run: bool, print: impl Fn(&str)) -> Result<()> {
    let vmids = wanted.map_or_else(|| guest::list(ctx, GuestKind::Lxc), |vmid| Ok(vec![vmid]))?;
    for vmid in vmids {
        let _lock = lock::acquire(ctx, &lock::guest(vmid), "pct rescan", |_| {})?;
        let owned = storage::owned_by(ctx, vmid)?;
        guest::update(ctx, GuestKind::Lxc, vmid, |config| {
            guest::check_lock(config)?;
            let before = config.clone();
            for volume in owned.iter().map(|volume| volume.id.to_string()) {
                let parts = [&config.current, &config.pending.part].into_iter().chain(config.snapshots.values());
                if parts.flat_map(volume::volumes).any(|known| known == volume) {
                    continue;
                }
                volume::add_unused(&mut config.current, &volume)?;
                print(&format!("CT {vmid}: add unreferenced volume '{volume}' to config."));
            }
            for mut point in volume::mounts(&config.current)? {
                let found = owned.iter().find(|volume| volume.id.to_string() == point.volume());
                let Some(found) = found.filter(|found| point.size() != Some(found.size)) else { continue };
                print(&format!("CT {vmid}: updated volume size of '{}' in config.", point.volume()));
                point.set_size(found.size);
                config.current.set(point.key.clone(), point.print());
            }
            if dry_run {
                *config = before;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The processors that each running container may use.
pub fn cpu_sets(ctx: &Context) -> Result<Vec<(Vmid, Vec<u32>)>> {
    let hierarchies = cgroup::Hierarchies::of_host()?;
    let guests = guest::list(ctx, GuestKind::Lxc)?.into_iter().filter(|vmid| monitor::init(ctx, *vmid).is_some());
    Ok(guests.filter_map(|vmid| Some((vmid, cgroup::cpu_set(ctx, &hierarchies, vmid)?))).collect())
}
