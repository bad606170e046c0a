//! Holding a running container still: for suspending it, and for snapshots that are to be of one moment.
//! (PVE: LXC.pm freeze, thaw, sync_container_namespace)

use super::liblxc::Runtime;
use super::volume::{self, Source};
use super::{monitor, transfer};
use crate::config::guest::Part;
use crate::{Context, Result, Vmid, bail, error::ResultExt};
use rustix::fs::OFlags;

/// A container that stands still as long as this lives.
pub struct Frozen<'a> {
    runtime: &'a dyn Runtime,
    vmid: Vmid,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        // It may have been killed meanwhile; nothing else can keep it from going on.
        let _ = self.runtime.thaw(self.vmid);
    }
}

/// Stops all processes of a running container, and writes what its file systems hold in memory. A stopped container needs
/// nothing of it.
pub fn hold<'a>(ctx: &Context, runtime: &'a dyn Runtime, vmid: Vmid, part: &Part) -> Result<Option<Frozen<'a>>> {
    if monitor::init(ctx, vmid).is_none() {
        return Ok(None);
    }
    runtime.freeze(vmid)?;
    let frozen = Frozen { runtime, vmid };
    sync(ctx, vmid, part)?;
    Ok(Some(frozen))
}

fn sync(ctx: &Context, vmid: Vmid, part: &Part) -> Result<()> {
    let (root, _) = transfer::open_root(ctx, vmid)?;
    for point in volume::mounts(part)?.iter().filter(|point| point.source() == Source::Volume) {
        let what = || format!("unable to sync '{}' of CT {vmid}", point.target());
        let directory = root.open_path(point.target(), OFlags::RDONLY | OFlags::DIRECTORY).context(what)?;
        rustix::fs::syncfs(directory).context(what)?;
    }
    Ok(())
}

/// Suspends a running container: its processes stay where they are in memory.
pub fn suspend(ctx: &Context, runtime: &dyn Runtime, vmid: Vmid) -> Result<()> {
    if monitor::init(ctx, vmid).is_none() {
        bail!("CT {vmid} not running");
    }
    runtime.freeze(vmid)
}

/// Lets a suspended container go on.
pub fn resume(ctx: &Context, runtime: &dyn Runtime, vmid: Vmid) -> Result<()> {
    if monitor::init(ctx, vmid).is_none() {
        bail!("CT {vmid} not running");
    }
    runtime.thaw(vmid)
}
