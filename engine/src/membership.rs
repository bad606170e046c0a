//! The control groups that a process is in, and this process's way into them.
//!
//! - liblxc moves the process that starts a container into the group of the container's monitor. A worker that lives on would
//!   keep that group from being removed, and would be taken along when the group is frozen or killed; so it goes back to
//!   where it was. (liblxc: cgroups/cgfsng.c, cgfsng_monitor_enter and its transient process)
//! - A VM's keeper goes into the VM's scope. systemd moves processes for others only into units with delegation.

use crate::lxc::cgroup::Hierarchies;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// Where a process is, as the files that processes are moved by.
pub struct Membership(BTreeSet<PathBuf>);

impl Membership {
    /// Where a process is now; nowhere when it has ended or the kernel does not tell.
    pub fn of(pid: u32) -> Self {
        let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        Membership(places(&lines, &Hierarchies::of_host().unwrap_or_default()))
    }

    /// Where this process is now.
    pub fn now() -> Self {
        Membership::of(std::process::id())
    }

    /// Moves this process there. A group that is gone meanwhile is left out.
    pub fn enter(&self) {
        for place in self.0.difference(&Membership::now().0) {
            let _ = fs::write(place, std::process::id().to_string());
        }
    }
}

/// `4:memory:/system.slice/x.service` → `/sys/fs/cgroup/memory/system.slice/x.service/cgroup.procs`.
fn places(lines: &str, hierarchies: &Hierarchies) -> BTreeSet<PathBuf> {
    let place = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, group) = rest.split_once(':')?;
        let root = match controllers {
            "" => hierarchies.unified.as_ref(),
            some => some.split(',').find_map(|controller| hierarchies.legacy.get(controller)),
        };
        Some(root?.join(group.trim_start_matches('/')).join("cgroup.procs"))
    };
    lines.lines().filter_map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_files_of_each_hierarchy() {
        let hierarchies = Hierarchies {
            legacy: [("cpu", "/c/cpu"), ("name=systemd", "/c/systemd")].map(|(k, v)| (k.into(), v.into())).into(),
            unified: Some("/c/unified".into()),
            ..Hierarchies::default()
        };
        let lines = "5:cpuacct,cpu:/lxc.monitor/7\n2:name=systemd:/\n1:misc:/x\n0::/a.slice/b:c\n";
        let found = places(lines, &hierarchies);
        let wanted = ["/c/cpu/lxc.monitor/7", "/c/systemd", "/c/unified/a.slice/b:c"];
        assert_eq!(found, wanted.iter().map(|place| PathBuf::from(place).join("cgroup.procs")).collect());
    }
}
