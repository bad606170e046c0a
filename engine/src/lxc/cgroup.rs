//! The control groups of containers, on hosts with the unified hierarchy, the legacy ones, or both.
//!
//! Owns where a container's groups lie, what they report, and their removal. Limits for the start are part of the
//! configuration of liblxc; limits of running containers are changed here.
//! (PVE: pve-common PVE/CGroup.pm)

use crate::{Context, Error, Result, Vmid, error::ResultExt};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Which hierarchies the host has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hierarchies {
    /// Mount points of legacy hierarchies by controller; named ones as `name=X`.
    pub legacy: BTreeMap<String, PathBuf>,
    /// Mount point of the unified hierarchy.
    pub unified: Option<PathBuf>,
    /// Controllers of the unified hierarchy.
    pub unified_controllers: BTreeSet<String>,
}

/// The version of the interface that has a controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A legacy hierarchy.
    V1,
    /// The unified hierarchy.
    V2,
}

impl Hierarchies {
    /// What this host has.
    pub fn of_host() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context(|| "/proc/self/mountinfo")?;
        let mut found = Hierarchies::parse(&mounts);
        if let Some(unified) = &found.unified {
            let controllers = fs::read_to_string(unified.join("cgroup.controllers")).unwrap_or_default();
            found.unified_controllers = controllers.split_whitespace().map(str::to_owned).collect();
        }
        Ok(found)
    }

    /// Reads `/proc/self/mountinfo`; the controllers of the unified hierarchy are not in it.
    fn parse(mounts: &str) -> Self {
        let mut found = Hierarchies::default();
        for line in mounts.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let kind = right.next().unwrap_or_default();
            let options = right.nth(1).unwrap_or_default();
            let Some(place) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            match kind {
                "cgroup2" if found.unified.is_none() => found.unified = Some(place),
                "cgroup" => {
                    for option in options.split(',').filter(|option| !matches!(*option, "rw" | "ro" | "xattr")) {
                        found.legacy.entry(option.to_owned()).or_insert_with(|| place.clone());
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Which interface has a controller; none when the kernel lacks it.
    pub fn version(&self, controller: &str) -> Option<Version> {
        if self.unified_controllers.contains(controller) {
            Some(Version::V2)
        } else if self.legacy.contains_key(controller) {
            Some(Version::V1)
        } else {
            None
        }
    }

    /// Whether only the unified hierarchy is in use.
    pub fn is_unified(&self) -> bool {
        self.legacy.is_empty()
    }

    /// The directory of a group in the hierarchy of a controller.
    fn place(&self, controller: &str, group: &str) -> Option<(PathBuf, Version)> {
        let version = self.version(controller)?;
        let root = if version == Version::V2 { self.unified.as_ref() } else { self.legacy.get(controller) };
        Some((root?.join(group), version))
    }

    fn roots(&self) -> BTreeSet<&Path> {
        self.legacy.values().chain(&self.unified).map(PathBuf::as_path).collect()
    }
}

/// The group of a container's processes, below the root of each hierarchy. Nodes below a root of their own get names
/// of their own.
pub fn group(ctx: &Context, vmid: Vmid) -> String {
    format!("lxc/{}{vmid}", root_tag(ctx))
}

/// The group of a container's monitor.
pub fn monitor_group(ctx: &Context, vmid: Vmid) -> String {
    format!("lxc.monitor/{}{vmid}", root_tag(ctx))
}

/// The processes of a container's monitor; none when it does not run or no hierarchy tells.
pub fn monitor_processes(ctx: &Context, vmid: Vmid) -> Vec<u32> {
    let group = monitor_group(ctx, vmid);
    let hierarchies = Hierarchies::of_host().unwrap_or_default();
    let lists = hierarchies.roots().into_iter().map(|root| root.join(&group).join("cgroup.procs"));
    let list = lists.filter_map(|file| fs::read_to_string(file).ok()).find(|list| !list.is_empty());
    list.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}

fn root_tag(ctx: &Context) -> String {
    let prefix = ctx.root.prefix().as_os_str();
    if prefix.is_empty() {
        return String::new();
    }
    format!("{}-", &crate::file::digest(&prefix.to_string_lossy())[..8])
}

/// What a running container has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory without file cache.
    pub memory: u64,
    /// Bytes of swap.
    pub swap: u64,
    /// Processor time in microseconds.
    pub cpu_time: u64,
    /// Bytes read from block devices.
    pub read: u64,
    /// Bytes written to block devices.
    pub written: u64,
}

/// What a container has used; what the kernel does not count is 0.
pub fn usage(ctx: &Context, hierarchies: &Hierarchies, vmid: Vmid) -> Usage {
    let group = group(ctx, vmid);
    let mut usage = Usage::default();
    if let Some((place, version)) = hierarchies.place("memory", &group) {
        let stat = fs::read_to_string(place.join("memory.stat")).unwrap_or_default();
        match version {
            Version::V2 => {
                usage.memory = number(&place.join("memory.current")).saturating_sub(keyed(&stat, "file"));
                usage.swap = number(&place.join("memory.swap.current"));
            }
            Version::V1 => {
                let all = number(&place.join("memory.usage_in_bytes"));
                usage.memory = all.saturating_sub(keyed(&stat, "total_cache"));
                usage.swap = number(&place.join("memory.memsw.usage_in_bytes")).saturating_sub(all);
            }
        }
    }
    // The unified hierarchy counts processor time without its controller, too.
    if let Some((place, Version::V1)) = hierarchies.place("cpuacct", &group) {
        usage.cpu_time = number(&place.join("cpuacct.usage")) / 1000;
    } else if let Some(unified) = &hierarchies.unified {
        let stat = fs::read_to_string(unified.join(&group).join("cpu.stat")).unwrap_or_default();
        usage.cpu_time = keyed(&stat, "usage_usec");
    }
    if let Some((place, Version::V2)) = hierarchies.place("io", &group) {
        let stat = fs::read_to_string(place.join("io.stat")).unwrap_or_default();
        let sum =
            |key: &str| stat.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum();
        (usage.read, usage.written) = (sum("rbytes="), sum("wbytes="));
    } else if let Some((place, Version::V1)) = hierarchies.place("blkio", &group) {
        let stat = fs::read_to_string(place.join("blkio.throttle.io_service_bytes_recursive")).unwrap_or_default();
        let sum = |kind: &str| {
            let bytes = |line: &str| line.split_once(&format!(" {kind} "))?.1.trim().parse::<u64>().ok();
            stat.lines().filter_map(bytes).sum()
        };
        (usage.read, usage.written) = (sum("Read"), sum("Write"));
    }
    usage
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn keyed(text: &str, key: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

/// The processors that a running container may use; none when the kernel does not tell.
pub fn cpu_set(ctx: &Context, hierarchies: &Hierarchies, vmid: Vmid) -> Option<Vec<u32>> {
    let (place, version) = hierarchies.place("cpuset", &group(ctx, vmid))?;
    let file = if version == Version::V2 { "cpuset.cpus.effective" } else { "cpuset.effective_cpus" };
    Some(parse_cpu_list(&fs::read_to_string(place.join(file)).ok()?))
}

/// The numbers of a list such as `0-2,5`.
pub fn parse_cpu_list(text: &str) -> Vec<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// Hard and throttling limit for an amount of memory in MiB. (PVE: LXC/Config.pm, calculate_memory_constraints)
pub fn memory_limits(mib: u64) -> (u64, u64) {
    let high = if mib >= 16 * 1024 { (mib - 128) * 1024 * 1024 } else { mib * 1024 * 1016 };
    (mib * 1024 * 1024, high)
}

/// Changes the memory limits of a running container; both in MiB.
pub fn set_memory(ctx: &Context, vmid: Vmid, memory: u64, swap: u64) -> Result<()> {
    let (place, version) = place_of(ctx, vmid, "memory")?;
    let (max, high) = memory_limits(memory);
    let swap = swap * 1024 * 1024;
    match version {
        Version::V2 => {
            write(&place, "memory.swap.max", swap)?;
            write(&place, "memory.high", high)?;
            write(&place, "memory.max", max)
        }
        Version::V1 => {
            // The sum may never be below the memory limit, so growing and shrinking go in opposite orders.
            let both = place.join("memory.memsw.limit_in_bytes");
            if !both.exists() {
                return write(&place, "memory.limit_in_bytes", max);
            }
            if max + swap > number(&both) {
                write(&place, "memory.memsw.limit_in_bytes", max + swap)?;
                write(&place, "memory.limit_in_bytes", max)
            } else {
                write(&place, "memory.limit_in_bytes", max)?;
                write(&place, "memory.memsw.limit_in_bytes", max + swap)
            }
        }
    }
}

/// Changes the processor time limit of a running container, in processors; none lifts it.
pub fn set_cpu_limit(ctx: &Context, vmid: Vmid, limit: Option<f64>) -> Result<()> {
    let (place, version) = place_of(ctx, vmid, "cpu")?;
    let quota = limit.filter(|limit| *limit > 0.0).map(cpu_quota);
    match version {
        Version::V2 => {
            let quota = quota.map_or_else(|| "max".into(), |quota| quota.to_string());
            write(&place, "cpu.max", format!("{quota} 100000"))
        }
        Version::V1 => {
            write(&place, "cpu.cfs_period_us", 100_000)?;
            write(&place, "cpu.cfs_quota_us", quota.map_or(-1, u64::cast_signed))
        }
    }
}

/// Microseconds of processor time in a period of 100 ms.
pub fn cpu_quota(limit: f64) -> u64 {
    // The limit is at most 8192 processors, so the product is small and not negative.
    (limit * 100_000.0) as u64
}

/// Changes the weight of a running container against others.
pub fn set_cpu_weight(ctx: &Context, hierarchies: &Hierarchies, vmid: Vmid, units: Option<u64>) -> Result<()> {
    let (place, version) = place_of(ctx, vmid, "cpu")?;
    let units = clamp_cpu_units(hierarchies, units);
    write(&place, if version == Version::V2 { "cpu.weight" } else { "cpu.shares" }, units)
}

/// A weight that the host's interface accepts, or its default. (PVE: PVE/CGroup.pm, clamp_cpu_shares)
pub fn clamp_cpu_units(hierarchies: &Hierarchies, units: Option<u64>) -> u64 {
    match (hierarchies.is_unified(), units) {
        (true, None) => 100,
        (false, None) => 1024,
        (true, Some(units)) => units.clamp(1, 10_000),
        (false, Some(units)) => units.max(2),
    }
}

fn place_of(ctx: &Context, vmid: Vmid, controller: &str) -> Result<(PathBuf, Version)> {
    Hierarchies::of_host()?
        .place(controller, &group(ctx, vmid))
        .ok_or_else(|| Error::new(format!("this kernel has no cgroup controller '{controller}'")))
}

fn write(place: &Path, file: &str, value: impl ToString) -> Result<()> {
    let path = place.join(file);
    fs::write(&path, value.to_string()).context(|| format!("unable to change '{}'", path.display()))
}

/// Removes what a container has left in all hierarchies. Groups with processes in them are an error.
pub fn remove(ctx: &Context, vmid: Vmid) -> Result<()> {
    let hierarchies = Hierarchies::of_host()?;
    for root in hierarchies.roots() {
        for group in [group(ctx, vmid), monitor_group(ctx, vmid)] {
            let place = root.join(group);
            remove_tree(&place).context(|| format!("unable to remove control group '{}'", place.display()))?;
        }
    }
    Ok(())
}

fn remove_tree(place: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The containers of this node that have groups, running or not.
pub fn present(ctx: &Context) -> Result<BTreeSet<Vmid>> {
    let tag = root_tag(ctx);
    let mut found = BTreeSet::new();
    for root in Hierarchies::of_host()?.roots() {
        for parent in ["lxc", "lxc.monitor"] {
            let Ok(entries) = fs::read_dir(root.join(parent)) else { continue };
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            found.extend(names.filter_map(|name| name.strip_prefix(&tag)?.parse::<Vmid>().ok()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs cgroup rw,mode=755
31 30 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:4 - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";

    #[test]
    fn hierarchies_are_read_from_the_mount_table() {
        let found = Hierarchies::parse(HYBRID);
        assert_eq!(found.version("memory"), Some(Version::V1));
        assert_eq!(found.version("io"), None);
        assert_eq!(found.legacy["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.unified.as_deref(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(found.roots().len(), 4);
        assert!(!found.is_unified());
    }

    #[test]
    fn a_unified_host_has_one_root() {
        let mut found = Hierarchies::parse("25 20 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        found.unified_controllers = ["memory".to_owned()].into();
        assert!(found.is_unified());
        assert_eq!(found.place("memory", "lxc/100"), Some(("/sys/fs/cgroup/lxc/100".into(), Version::V2)));
        assert_eq!(clamp_cpu_units(&found, Some(200_000)), 10_000);
    }

    #[test]
    fn limits_follow_the_amount() {
        assert_eq!(memory_limits(512), (536_870_912, 532_676_608));
        assert_eq!(memory_limits(16 * 1024), (17_179_869_184, 17_045_651_456));
        assert_eq!(cpu_quota(0.5), 50_000);
    }
}
