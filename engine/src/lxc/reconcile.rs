//! What a daemon does for containers when it starts: it looks for what dead monitors and dead workers have left.
//!
//! Running containers are left alone, and so is one that a task is starting just now: each guest is looked at under its
//! own lock, so this may wait and has a thread of its own. Mounts and loop devices need no look: they end with their namespace.

use super::{cgroup, interface, monitor, recovery, stop, unpacked};
use crate::config::guest::GuestKind;
use crate::{Context, Error, Result, Vmid, guest, lock};
use std::collections::BTreeSet;

/// What was cleaned, and what could not be.
#[derive(Debug, Default)]
pub struct Report {
    /// Sentences for the log.
    pub done: Vec<String>,
    /// Failures.
    pub failures: Vec<Error>,
}

/// Removes control groups and links of containers that do not run.
pub fn reconcile(ctx: &Context) -> Result<Report> {
    let mut report = Report::default();
    recovery::NOTES.before(ctx);
    report.failures.extend(unpacked::tidy_all(ctx).err());
    let ours: BTreeSet<Vmid> = guest::list(ctx, GuestKind::Lxc)?.into_iter().collect();
    let mut left = cgroup::present(ctx)?;
    // Names of links do not tell the node's root, so a link only counts for a container that we know.
    left.extend(links().into_iter().filter(|vmid| ours.contains(vmid)));
    for vmid in left.into_iter().filter(|vmid| monitor::init(ctx, *vmid).is_none()) {
        let _lock = lock::acquire(ctx, &lock::guest(vmid), "start of the daemon", |_| {})?;
        if monitor::init(ctx, vmid).is_some() {
            continue;
        }
        match stop::clean_up(ctx, vmid) {
            Ok(()) => report.done.push(format!("removed what CT {vmid} had left when it ended")),
            Err(error) => report.failures.push(error),
        }
    }
    Ok(report)
}

fn links() -> BTreeSet<Vmid> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| interface::parse_host_name(&name)).map(|(vmid, _)| vmid).collect()
}
