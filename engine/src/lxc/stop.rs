//! Stopping a container, and removing what a stopped one has left.
//!
//! A container has stopped when its monitor has: the command socket closes. What is left then are empty control groups,
//! sometimes a link, and changes that waited for the stop.

use super::liblxc::Runtime;
use super::volume::{self, Source};
use super::{cgroup, dhcp, hook, interface, monitor, system_calls, update};
use crate::config::guest::{GuestKind, Part};
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, bail, command, error::ResultExt, guest, network};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a killed container may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(60);

/// How long the kernel may take to give up its mounts after that.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);

/// How a container is to be stopped.
#[derive(Debug, Clone, Copy)]
pub enum Stop {
    /// At once.
    Kill,
    /// By its own init.
    Shutdown {
        /// How long to wait.
        patience: Duration,
        /// Whether to kill it after that.
        then_kill: bool,
    },
}

/// Stops a container; the caller holds the guest's lock. A stopped one is no error.
pub fn stop(task: &Task, runtime: &dyn Runtime, vmid: Vmid, how: Stop) -> Result<()> {
    let ctx = task.ctx;
    let Some(mut monitor) = monitor::connect(ctx, vmid) else {
        return clean_up(ctx, vmid);
    };
    let part = guest::load(ctx, GuestKind::Lxc, vmid)?.current;
    hook::run(ctx, vmid, &part, "pre-stop", |line| task.log(line)).unwrap_or_else(|error| task.log(error.message()));
    match how {
        Stop::Kill => runtime.kill(vmid)?,
        Stop::Shutdown { patience, then_kill } => {
            if !runtime.shutdown(vmid, patience)? {
                if !then_kill {
                    bail!("container did not stop");
                }
                task.log("container did not shut down in time, stopping it now");
                runtime.kill(vmid)?;
            }
        }
    }
    // The monitor never writes to a connection without a question, so this returns at its end or at the time limit.
    monitor.set_read_timeout(Some(KILL_PATIENCE))?;
    if !matches!(monitor.read(&mut [0; 1]), Ok(0)) {
        bail!("container did not stop");
    }
    clean_up(ctx, vmid)?;
    deactivate_volumes(task, vmid, &part)?;
    update::apply_all_pending(ctx, vmid, |text| task.warn(text))?;
    hook::run(ctx, vmid, &part, "post-stop", |line| task.log(line)).unwrap_or_else(|error| task.log(error.message()));
    Ok(())
}

/// Gives back the devices of a container's volumes; one that somebody else uses stays.
/// (PVE: pve-container PVE/LXC.pm, vm_stop_cleanup)
fn deactivate_volumes(task: &Task, vmid: Vmid, part: &Part) -> Result<()> {
    for mount in volume::mounts(part)?.iter().filter(|mount| mount.source() == Source::Volume) {
        let id: VolumeId = mount.volume().parse().map_err(Error::new)?;
        wait_until_unmounted(&storage::path(task.ctx, &id)?);
        if let Err(error) = storage::deactivate_volume(task.ctx, &id, None) {
            task.log(format!("volume '{id}' of CT {vmid} stays active: {}", error.message()));
        }
    }
    Ok(())
}

/// Waits until a volume that is a device has no file system mounted: the container's mounts go with the last breath of its
/// monitor, a moment after its socket. One that somebody else has mounted is not waited for long.
fn wait_until_unmounted(path: &Path) {
    let deadline = Instant::now() + UNMOUNT_PATIENCE;
    let is_device = std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
    // Nobody else may open a device like this while it is mounted.
    let open = || rustix::fs::open(path, OFlags::EXCL | OFlags::CLOEXEC, Mode::empty());
    let is_mounted = || open().is_err_and(|error| error == Errno::BUSY);
    while is_device && is_mounted() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes what a container that does not run has left: control groups, links, a socket. All failures are reported.
pub fn clean_up(ctx: &Context, vmid: Vmid) -> Result<()> {
    if monitor::init(ctx, vmid).is_some() {
        bail!("CT {vmid} is running");
    }
    let mut failures: Vec<Error> = dhcp::end_all(ctx, vmid).err().into_iter().collect();
    failures.extend(remove_groups(ctx, vmid).err());
    failures.extend(system_calls::remove_socket(ctx, vmid).err());
    failures.extend(leftover_links(vmid).iter().filter_map(|link| remove_link(link).err()));
    failures.extend(network::tidy(ctx).err());
    match failures.split_first() {
        None => Ok(()),
        Some((first, rest)) => Err(Error::new(first.message()).with_cleanup_failures(rest)),
    }
}

/// Processes that were just killed may need a moment to leave their group.
fn remove_groups(ctx: &Context, vmid: Vmid) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut pause = Duration::from_millis(1);
    loop {
        match cgroup::remove(ctx, vmid) {
            Err(_) if Instant::now() < deadline => std::thread::sleep(pause),
            result => return result,
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

fn leftover_links(vmid: Vmid) -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| interface::parse_host_name(name).is_some_and(|(owner, _)| owner == vmid)).collect()
}

/// Removes a link. The kernel may be faster, because the other end went with its namespace.
fn remove_link(name: &str) -> Result<()> {
    let removed = command::run("ip", &["link", "delete", "dev", name]);
    if removed.is_err() && !Path::new("/sys/class/net").join(name).exists() {
        return Ok(());
    }
    removed.map(drop).context(|| format!("unable to remove link '{name}'"))
}
