//! What all creations and removals share: the storage entry that goes with them, and the rights it needs.

use super::{device, joined};
use crate::storage::Entry;
use crate::storage::node_entry::{self, Wanted};
use crate::{Call, Context, Error, Result, Task, access};

/// The rights and the entry are checked before anything is written to a disk.
pub fn check_new(call: &Call, wanted: &Wanted) -> Result<()> {
    if !call.flag("add_storage") {
        return Ok(());
    }
    access::check(call.ctx, "/storage", &["Datastore.Allocate"])?;
    node_entry::check(call.ctx, wanted)
}

/// Adds the entry if that is wanted.
pub fn add(call: &Call, ctx: &Context, wanted: &Wanted) -> Result<()> {
    if call.flag("add_storage") { node_entry::add(ctx, wanted) } else { Ok(()) }
}

/// The right to change entries, if a removal is to do that.
pub fn check_removal(call: &Call) -> Result<()> {
    if call.flag("cleanup-config") {
        access::check(call.ctx, "/storage", &["Datastore.Allocate"])?;
    }
    Ok(())
}

/// What follows a removal: entries go, disks are wiped. Each is tried even if the other fails.
pub fn clean_up(call: &Call, task: &Task, disks: &[String], is_its: impl Fn(&Entry) -> bool) -> Result<()> {
    let mut failures = Vec::new();
    for disk in disks {
        let wiped = device::resolve(disk).and_then(|disk| device::wipe(task.ctx, &disk, &mut |line| task.log(line)));
        failures.extend(wiped.err().map(|error| error.context("cleanup failed")));
    }
    device::trigger_udev(task.ctx, disks);
    if call.flag("cleanup-config") {
        let left = node_entry::leave(task.ctx, is_its);
        failures.extend(left.err().map(|error: Error| error.context("config cleanup failed")));
    }
    joined(failures)
}
