//! The control groups of a process, as the places that others can be moved to.

use crate::lxc::cgroup::Hierarchies;
use std::fs;
use std::path::PathBuf;

/// Moves this process to where another one is. A group that is gone meanwhile is left out, and so are all when the other
/// has ended.
pub fn join(pid: u32) {
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    for place in places(&lines, &Hierarchies::of_host().unwrap_or_default()) {
        let _ = fs::write(place, std::process::id().to_string());
    }
}

/// `4:memory:/system.slice/x.service` → `/sys/fs/cgroup/memory/system.slice/x.service/cgroup.procs`.
fn places(lines: &str, hierarchies: &Hierarchies) -> Vec<PathBuf> {
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
        assert_eq!(found, wanted.map(|place| PathBuf::from(place).join("cgroup.procs")));
    }
}
