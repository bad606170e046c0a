//! `/nodes/{node}/disks`: the machine's disks, what they are used for, and making storages of unused ones.
//! (PVE: pve-storage PVE/Diskmanage.pm, PVE/API2/Disks.pm and PVE/API2/Disks/)
//!
//! Looking changes nothing. Whatever changes a disk holds the lock `disks` and looks again under it, so that two tasks
//! never take the same disk.

mod device;
mod directory;
mod entry;
mod general;
mod inventory;
mod lvm;
mod smart;
mod thin;
mod udev;
mod unit;
mod zfs;
mod zpool;

use crate::context::Mode;
use crate::registry::{Binding, delete, get, post, put};
use crate::{Context, Error, Result, lock};
use serde_json::Value;

pub use thin::pools;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/disks/list", general::list),
    get("/nodes/{node}/disks/smart", general::smart),
    post("/nodes/{node}/disks/initgpt", general::init),
    put("/nodes/{node}/disks/wipedisk", general::wipe),
    get("/nodes/{node}/disks/directory", directory::list),
    post("/nodes/{node}/disks/directory", directory::create),
    delete("/nodes/{node}/disks/directory/{name}", directory::remove),
    get("/nodes/{node}/disks/lvm", lvm::list),
    post("/nodes/{node}/disks/lvm", lvm::create),
    delete("/nodes/{node}/disks/lvm/{name}", lvm::remove),
    get("/nodes/{node}/disks/lvmthin", thin::list),
    post("/nodes/{node}/disks/lvmthin", thin::create),
    delete("/nodes/{node}/disks/lvmthin/{name}", thin::remove),
    get("/nodes/{node}/disks/zfs", zfs::list),
    post("/nodes/{node}/disks/zfs", zfs::create),
    get("/nodes/{node}/disks/zfs/{name}", zfs::detail),
    delete("/nodes/{node}/disks/zfs/{name}", zfs::remove),
];

/// Thin pools as the API shows them.
pub fn pool_rows(pools: &[crate::storage::lvm::report::LogicalVolume]) -> Value {
    pools.iter().map(thin::shape).collect()
}

/// Waits until nobody else changes disks.
fn lock_disks(ctx: &Context) -> Result<lock::QueueLock> {
    let label = match &ctx.mode {
        Mode::Worker(upid) => upid.to_string(),
        _ => format!("process-{}", std::process::id()),
    };
    lock::acquire(ctx, "disks", &label, |_| {})
}

/// All failures of a clean-up as one error; none if there are none.
fn joined(failures: Vec<Error>) -> Result<()> {
    let mut failures = failures.into_iter();
    match failures.next() {
        None => Ok(()),
        Some(first) => Err(first.with_cleanup_failures(&failures.collect::<Vec<_>>())),
    }
}
