//! From a container's configuration to the configuration of liblxc: a pure function with golden files.
//!
//! Everything that depends on the machine comes in as [`Facts`]; what the machine cannot do becomes a warning that names
//! the limit. Differences to PVE: links are attached to their bridge by liblxc itself (no script), mounts exist before
//! liblxc starts (no hook, see [`super::mount`]), and a fixed address of an unmanaged system is set by liblxc, as if the
//! interface were `host-managed`, because nobody else would set it.
//! (PVE: pve-container PVE/LXC.pm, update_lxc_config, make_seccomp_config, make_apparmor_config)

use super::cgroup::{self, Hierarchies, Version};
use super::idmap::IdMap;
use super::interface::{self, Interface};
use super::system_calls;
use crate::config::guest::Part;
use crate::{Error, Result, Vmid};
use contract::property_string;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Where liblxc's own configuration files lie.
pub const LXC_CONFIG: &str = "/usr/share/lxc/config";

/// What the machine is like.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The container's directory, `ROOT/var/lib/lxc/VMID`.
    pub directory: PathBuf,
    /// liblxc's log for this container.
    pub log: PathBuf,
    /// Where the host listens for system calls that it makes for the container.
    pub system_calls: PathBuf,
    /// Control group of the container, below the root of each hierarchy.
    pub group: String,
    /// Control group of its monitor.
    pub monitor_group: String,
    /// The host's control groups.
    pub hierarchies: Hierarchies,
    /// Whether swap is counted (legacy hierarchies may lack it).
    pub swap_accounting: bool,
    /// AppArmor, if it is on.
    pub apparmor: Option<AppArmor>,
    /// Files below [`LXC_CONFIG`].
    pub includes: BTreeSet<String>,
    /// liblxc's general system call filter, if it is installed.
    pub seccomp_base: Option<String>,
    /// The bridges of the host.
    pub bridges: BTreeMap<String, Bridge>,
    /// Processors that containers may use.
    pub cpus: Vec<u32>,
    /// Device nodes that are passed through, by path.
    pub devices: BTreeMap<String, Device>,
}

/// Kinds of access that a profile may have to allow. Older parsers refuse to read a profile that names them, and do not
/// restrict them either.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AppArmor {
    /// Whether POSIX message queues are restricted.
    pub message_queues: bool,
    /// Whether the creation of user namespaces is restricted.
    pub user_namespaces: bool,
}

/// A bridge of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bridge {
    /// Its MTU.
    pub mtu: u64,
    /// Whether it filters VLANs.
    pub vlan_aware: bool,
    /// Whether it is one of Open vSwitch's, which tells VLANs apart in its own way.
    pub open_vswitch: bool,
}

/// A device node of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Whether it is a block device.
    pub block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What is to be written and said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// The text of liblxc's `config`.
    pub config: String,
    /// Rules for system calls, when the container gets its own.
    pub seccomp: Option<String>,
    /// Whether the host makes system calls for the container, see [`super::system_calls`].
    pub asks_for_system_calls: bool,
    /// What the machine cannot do although the configuration asks for it.
    pub warnings: Vec<String>,
}

impl Plan {
    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        self.config += &format!("{key} = {value}\n");
    }

    fn warn(&mut self, text: impl Into<String>) {
        self.warnings.push(text.into());
    }
}

/// Plans the start of a container.
pub fn plan(vmid: Vmid, part: &Part, facts: &Facts) -> Result<Plan> {
    let mut plan = Plan::default();
    let map = IdMap::of(part)?;
    let features = features(part)?;
    plan.line("lxc.log.file", facts.log.display());
    plan.line("lxc.log.level", if part.flag("debug") { "DEBUG" } else { "WARN" });
    plan.line("lxc.cgroup.relative", 0);
    plan.line("lxc.cgroup.dir.monitor", &facts.monitor_group);
    plan.line("lxc.cgroup.dir.container", &facts.group);
    plan.line("lxc.cgroup.dir.container.inner", "ns");
    plan.line("lxc.arch", part.get("arch").unwrap_or("amd64"));
    includes(&mut plan, part, facts, !map.is_empty());
    seccomp(&mut plan, part, facts, &features, !map.is_empty());
    apparmor(&mut plan, part, facts, &features);
    if features.flag("fuse") {
        plan.line("lxc.mount.entry", "/dev/fuse dev/fuse none bind,create=file 0 0");
    }
    if !map.is_empty() && !features.flag("force_rw_sys") {
        plan.line("lxc.mount.auto", "sys:mixed");
    }
    devices(&mut plan, part, facts)?;
    let has_own_map = part.raw.iter().any(|(key, _)| key == "lxc.idmap");
    if !map.is_empty() && !has_own_map {
        for (kind, ranges) in [("u", &map.users), ("g", &map.groups)] {
            for range in ranges {
                plan.line("lxc.idmap", format!("{kind} {} {} {}", range.inside, range.host, range.count));
            }
        }
    }
    terminals(&mut plan, vmid, part, facts);
    memory(&mut plan, part, facts);
    processor(&mut plan, vmid, part, facts);
    plan.line("lxc.rootfs.path", format!("dir:{}", facts.directory.join("rootfs").display()));
    if let Some(command) = part.get("entrypoint") {
        plan.line("lxc.init.cmd", command);
        if command != "/sbin/init" {
            plan.line("lxc.mount.entry", "shm dev/shm tmpfs rw,nosuid,nodev,create=dir 0 0");
        }
    }
    let unmanaged = part.get("ostype") == Some("unmanaged");
    for interface in interface::interfaces(part)? {
        network(&mut plan, vmid, &interface, facts, unmanaged)?;
    }
    raw(&mut plan, part, facts);
    Ok(plan)
}

/// The `features` value.
#[derive(Debug, Default)]
pub struct Features(Map<String, Value>);

impl Features {
    /// Whether a feature is on.
    pub fn flag(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|value| crate::call::config_text(value) == "1")
    }
}

/// Reads the features of a configuration.
pub fn features(part: &Part) -> Result<Features> {
    let Some(text) = part.get("features") else { return Ok(Features::default()) };
    let values = property_string::parse("~lxc-features", text)
        .map_err(|errors| Error::new(format!("unable to parse 'features': {}", errors.to_string().trim())))?;
    Ok(Features(values))
}

fn includes(plan: &mut Plan, part: &Part, facts: &Facts, unprivileged: bool) {
    let kinds: &[&str] = if unprivileged { &["common", "userns"] } else { &["common"] };
    for kind in kinds {
        let special = format!("{}.{kind}.conf", part.get("ostype").unwrap_or_default());
        let name = if facts.includes.contains(&special) { special } else { format!("{kind}.conf") };
        plan.line("lxc.include", format!("{LXC_CONFIG}/{name}"));
    }
    if super::setup::has_plain_terminals(part.get("ostype").unwrap_or_default()) {
        plan.line("lxc.tty.dir", "");
    }
}

/// Unprivileged containers get a few rules more than liblxc's general filter has.
fn seccomp(plan: &mut Plan, part: &Part, facts: &Facts, features: &Features, unprivileged: bool) {
    if part.raw.iter().any(|(key, _)| key == "lxc.seccomp.profile") {
        warn_overridden(plan, "lxc.seccomp.profile", &["keyctl", "mknod"], features, "");
        return;
    }
    if !unprivileged {
        return;
    }
    let Some(base) = &facts.seccomp_base else {
        plan.warn("this host has no general system call filter for containers");
        return;
    };
    let mut rules = String::from("ioctl errno 1 [1,0x9400,SCMP_CMP_MASKED_EQ,0xff00]\n");
    if !features.flag("keyctl") {
        rules += "keyctl errno 38\n";
    }
    if features.flag("mknod") {
        rules += system_calls::RULES;
        plan.line("lxc.seccomp.notify.proxy", format!("unix:{}", facts.system_calls.display()));
        plan.asks_for_system_calls = true;
    }
    rules += "socket errno 97 [0,38,SCMP_CMP_EQ]\n";
    plan.seccomp = Some(format!("{}\n{rules}", base.trim_end()));
    plan.line("lxc.seccomp.profile", facts.directory.join("rules.seccomp").display());
}

/// Tells of features that an administrator's own line leaves without effect.
fn warn_overridden(plan: &mut Plan, key: &str, names: &[&str], features: &Features, prefix: &str) {
    let is_used = |name: &&&str| features.flag(name) || (**name == "mount" && features.0.contains_key("mount"));
    let used: Vec<String> = names.iter().filter(is_used).map(|name| format!("{prefix}{name}")).collect();
    if !used.is_empty() {
        plan.warn(format!("explicitly configured {key} overrides the following settings: {}", used.join(", ")));
    }
}

fn apparmor(plan: &mut Plan, part: &Part, facts: &Facts, features: &Features) {
    if part.raw.iter().any(|(key, _)| key == "lxc.apparmor.profile") {
        warn_overridden(plan, "lxc.apparmor.profile", &["fuse", "nesting", "mount"], features, "features:");
        return;
    }
    let Some(apparmor) = facts.apparmor else {
        if features.flag("nesting") {
            // Mounting /proc and /sys again is only allowed where an uncovered one can be seen.
            plan.line("lxc.mount.entry", "proc dev/.lxc/proc proc create=dir,optional 0 0");
            plan.line("lxc.mount.entry", "sys dev/.lxc/sys sysfs create=dir,optional 0 0");
        }
        return;
    };
    plan.line("lxc.apparmor.profile", "generated");
    if apparmor.message_queues {
        plan.line("lxc.apparmor.raw", "allow mqueue,");
    }
    if features.flag("nesting") {
        plan.line("lxc.apparmor.allow_nesting", 1);
        if apparmor.user_namespaces {
            plan.line("lxc.apparmor.raw", "allow userns,");
        }
    } else {
        plan.line("lxc.apparmor.raw", "deny mount -> /proc/,");
        plan.line("lxc.apparmor.raw", "deny mount -> /sys/,");
    }
    let kinds = features.0.get("mount").and_then(Value::as_str).unwrap_or_default();
    for kind in kinds.split(';').filter(|kind| !kind.is_empty()) {
        plan.line("lxc.apparmor.raw", format!("mount fstype={kind},"));
    }
    if features.flag("fuse") {
        plan.line("lxc.apparmor.raw", "mount fstype=fuse,");
    }
}

/// Nodes of passed-through devices are made by [`super::mount`]; here they are allowed and put in place.
fn devices(plan: &mut Plan, part: &Part, facts: &Facts) -> Result<()> {
    for passed in passed_devices(part)? {
        let path = &passed.path;
        let device = facts.devices.get(path).ok_or_else(|| Error::new(format!("device '{path}' does not exist")))?;
        let kind = if device.block { 'b' } else { 'c' };
        let rule = format!("{kind} {}:{}", device.major, device.minor);
        let key = devices_key(facts);
        plan.line(&format!("{key}.allow"), format!("{rule} {}", if passed.deny_write { "r" } else { "rw" }));
        if passed.deny_write {
            plan.line(&format!("{key}.deny"), format!("{rule} w"));
        }
        let relative = path.trim_start_matches('/');
        let source = facts.directory.join("passthrough").join(relative);
        plan.line("lxc.mount.entry", format!("{} {relative} none bind,create=file 0 0", source.display()));
    }
    Ok(())
}

fn devices_key(facts: &Facts) -> &'static str {
    if facts.hierarchies.is_unified() { "lxc.cgroup2.devices" } else { "lxc.cgroup.devices" }
}

/// A `devN` value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedDevice {
    /// The node on the host and in the container.
    pub path: String,
    /// Permissions of the node.
    pub mode: u32,
    /// Its owner in the container.
    pub uid: u32,
    /// Its group in the container.
    pub gid: u32,
    /// Whether the container may only read it.
    pub deny_write: bool,
}

/// All `devN` of a configuration by number. (PVE: LXC/Config.pm, parse_device)
pub fn passed_devices(part: &Part) -> Result<Vec<PassedDevice>> {
    let read = |(index, text): (u32, &str)| {
        let values = property_string::parse("~lxc-dev", text)
            .map_err(|errors| Error::new(format!("unable to parse 'dev{index}': {}", errors.to_string().trim())))?;
        let text = |key: &str| values.get(key).map(crate::call::config_text);
        let number = |key: &str| text(key).and_then(|number| number.parse().ok()).unwrap_or(0);
        Ok(PassedDevice {
            path: text("path")
                .ok_or_else(|| Error::new(format!("Path is not defined for passthrough device dev{index}")))?,
            mode: text("mode").and_then(|mode| u32::from_str_radix(&mode, 8).ok()).unwrap_or(0o660),
            uid: number("uid"),
            gid: number("gid"),
            deny_write: text("deny-write").as_deref() == Some("1"),
        })
    };
    part.indexed("dev").map(read).collect()
}

fn terminals(plan: &mut Plan, vmid: Vmid, part: &Part, facts: &Facts) {
    if part.get("console").is_some() && !part.flag("console") {
        plan.line("lxc.console.path", "none");
        plan.line(&format!("{}.deny", devices_key(facts)), "c 5:1 rwm");
    }
    plan.line("lxc.tty.max", part.get("tty").unwrap_or("2"));
    plan.line("lxc.environment", "TERM=linux");
    for (_, variable) in part.raw.iter().filter(|(key, _)| key == "lxc.environment.runtime") {
        plan.line("lxc.environment", variable);
    }
    plan.line("lxc.uts.name", part.get("hostname").map_or_else(|| format!("CT{vmid}"), str::to_owned));
}

fn memory(plan: &mut Plan, part: &Part, facts: &Facts) {
    let number = |key: &str| part.get(key).and_then(|text| text.parse::<u64>().ok());
    let memory = number("memory").unwrap_or(512);
    let swap = number("swap").unwrap_or(0) * 1024 * 1024;
    let (max, high) = cgroup::memory_limits(memory);
    match facts.hierarchies.version("memory") {
        Some(Version::V2) => {
            plan.line("lxc.cgroup2.memory.max", max);
            plan.line("lxc.cgroup2.memory.high", high);
            plan.line("lxc.cgroup2.memory.swap.max", swap);
        }
        Some(Version::V1) => {
            plan.line("lxc.cgroup.memory.limit_in_bytes", max);
            if facts.swap_accounting {
                plan.line("lxc.cgroup.memory.memsw.limit_in_bytes", max + swap);
            } else {
                plan.warn("the swap limit has no effect: this kernel does not count swap in control groups");
            }
        }
        None => plan.warn("the memory limit has no effect: this kernel has no cgroup controller 'memory'"),
    }
}

fn processor(plan: &mut Plan, vmid: Vmid, part: &Part, facts: &Facts) {
    let limit = part.get("cpulimit").and_then(|text| text.parse::<f64>().ok()).filter(|limit| *limit > 0.0);
    let units = part.get("cpuunits").and_then(|text| text.parse::<u64>().ok());
    let units = units.map(|units| cgroup::clamp_cpu_units(&facts.hierarchies, Some(units)));
    match facts.hierarchies.version("cpu") {
        Some(Version::V2) => {
            if let Some(limit) = limit {
                plan.line("lxc.cgroup2.cpu.max", format!("{} 100000", cgroup::cpu_quota(limit)));
            }
            if let Some(units) = units {
                plan.line("lxc.cgroup2.cpu.weight", units);
            }
        }
        Some(Version::V1) => {
            if let Some(limit) = limit {
                plan.line("lxc.cgroup.cpu.cfs_period_us", 100_000);
                plan.line("lxc.cgroup.cpu.cfs_quota_us", cgroup::cpu_quota(limit));
            }
            if let Some(units) = units {
                plan.line("lxc.cgroup.cpu.shares", units);
            }
        }
        None if limit.is_some() || units.is_some() => {
            plan.warn("'cpulimit' and 'cpuunits' have no effect: this kernel has no cgroup controller 'cpu'");
        }
        None => {}
    }
    let chosen_by_hand = part.raw.iter().any(|(key, _)| key.ends_with(".cpuset.cpus"));
    let cores = part.get("cores").and_then(|text| text.parse::<usize>().ok()).filter(|_| !chosen_by_hand);
    match (cores, facts.hierarchies.version("cpuset")) {
        (None, _) => {}
        (Some(cores), Some(_)) if cores >= facts.cpus.len() => {}
        (Some(cores), Some(version)) => {
            let key = if version == Version::V2 { "lxc.cgroup2.cpuset.cpus" } else { "lxc.cgroup.cpuset.cpus" };
            plan.line(key, cpu_list(&choose_cpus(vmid, cores, &facts.cpus)));
        }
        (Some(_), None) => plan.warn("'cores' has no effect: this kernel has no cgroup controller 'cpuset'"),
    }
}

/// Which processors a container gets: neighbours in the list, at a start that differs from guest to guest.
pub fn choose_cpus(vmid: Vmid, cores: usize, cpus: &[u32]) -> Vec<u32> {
    let start = vmid.number() as usize * cores % cpus.len().max(1);
    let mut chosen: Vec<u32> = cpus.iter().cycle().skip(start).take(cores.min(cpus.len())).copied().collect();
    chosen.sort_unstable();
    chosen
}

/// `0-2,5` for 0, 1, 2 and 5.
pub fn cpu_list(cpus: &[u32]) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for cpu in cpus {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => parts.push((*cpu, *cpu)),
        }
    }
    let print = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(print).collect::<Vec<_>>().join(",")
}

fn network(plan: &mut Plan, vmid: Vmid, net: &Interface, facts: &Facts, unmanaged: bool) -> Result<()> {
    let index = net.index;
    let mut line = |key: &str, value: &dyn std::fmt::Display| plan.line(&format!("lxc.net.{index}.{key}"), value);
    line("type", &"veth");
    line("veth.pair", &interface::host_name(vmid, index));
    if let Some(address) = net.get("hwaddr") {
        line("hwaddr", &address);
    }
    line("name", &net.name());
    let down = net.flag("link_down");
    let mut mtu = net.number("mtu");
    if let Some(name) = net.get("bridge") {
        let bridge = facts.bridges.get(name).ok_or_else(|| Error::new(format!("bridge '{name}' does not exist")))?;
        let wanted = mtu.unwrap_or(bridge.mtu);
        if wanted > bridge.mtu {
            let limit = bridge.mtu;
            return Err(Error::new(format!("net{index}: MTU size '{wanted}' is bigger than bridge MTU '{limit}'")));
        }
        mtu = Some(wanted);
        if !down && net.get("trunks").is_some() && !bridge.vlan_aware {
            return Err(Error::new("vlan aware feature need to be enabled to use trunks"));
        }
        // Our own plugging puts links on bridges of Open vSwitch, and on those of a VLAN, which come and go with guests.
        let by_plugging = bridge.open_vswitch || net.number("tag").is_some() && !bridge.vlan_aware;
        if !down && !by_plugging {
            let trunks = net.get("trunks").unwrap_or_default();
            line("link", &name);
            if let Some(tag) = net.number("tag") {
                line("veth.vlan.id", &tag);
            }
            for tag in trunks.split(';').filter(|tag| !tag.is_empty()) {
                line("veth.vlan.tagged.id", &tag);
            }
        }
    }
    if let Some(mtu) = mtu {
        line("mtu", &mtu);
    }
    if !down && net.flag("host-managed") && net.get("ip6") == Some("auto") {
        return Err(Error::new(format!("net{index}: SLAAC is not supported for host-managed network configuration")));
    }
    if !down && (unmanaged || net.flag("host-managed")) {
        for (key, address, gateway) in [("ipv4", "ip", "gw"), ("ipv6", "ip6", "gw6")] {
            if let Some(address) = net.fixed_address(address) {
                line(&format!("{key}.address"), &address);
                if let Some(gateway) = net.get(gateway) {
                    line(&format!("{key}.gateway"), &gateway);
                }
            }
        }
        line("flags", &"up");
    }
    Ok(())
}

/// The administrator's own lines come last, so that they win.
fn raw(plan: &mut Plan, part: &Part, facts: &Facts) {
    for (key, value) in part.raw.iter().filter(|(key, _)| key != "lxc.environment.runtime") {
        if matches!(key.as_str(), "lxc.rootfs" | "lxc.rootfs.path" | "lxc.rootfs.options") {
            plan.warn(format!("'{key}' is ignored: it is made from other options"));
            continue;
        }
        let controller = key.strip_prefix("lxc.cgroup2.").and_then(|rest| rest.split('.').next());
        if let Some(controller) = controller
            && controller != "devices"
            && facts.hierarchies.version(controller) != Some(Version::V2)
        {
            plan.warn(format!("'{key}' has no effect: '{controller}' is not in this host's unified hierarchy"));
        }
        plan.line(key, value);
    }
}

#[cfg(test)]
mod tests;
