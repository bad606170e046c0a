//! What lists say of a guest, taken from its configuration. Pure: a configuration in, facts out.
//! (PVE: qemu-server PVE/QemuServer.pm, vmstatus; pve-container PVE/LXC.pm, vmstatus)

use crate::config::guest::{GuestConfig, GuestKind, Part};
use contract::format::size;

/// One mebibyte.
const MIB: u64 = 1 << 20;
/// Memory of a guest that names none.
const DEFAULT_MEMORY: u64 = 512;
/// Weight of a VM that names none.
const DEFAULT_SHARES: u64 = 1000;
/// What a container's root is taken for when its size is not known.
const DEFAULT_ROOT: u64 = 4 << 30;

/// Facts of a guest that do not depend on whether it runs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GuestFacts {
    /// Name or host name as configured.
    pub name: Option<String>,
    /// It is a template.
    pub is_template: bool,
    /// Starts with the node.
    pub starts_on_boot: bool,
    /// The `startup` option.
    pub startup: Option<String>,
    /// Why it is locked.
    pub lock: Option<String>,
    /// Its tags as configured.
    pub tags: Option<String>,
    /// Processors; 0 means as many as the node has.
    pub cpus: f64,
    /// The number counts even if the node has fewer.
    pub has_cpus_by_name: bool,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of swap (containers).
    pub swap: u64,
    /// Bytes of the disk it starts from.
    pub disk: u64,
    /// Bytes of memory that ballooning leaves it (VMs that have it).
    pub balloon_min: Option<u64>,
    /// Its weight when memory is short (VMs with ballooning).
    pub shares: Option<u64>,
    /// It has a serial port that can be opened as a terminal (VMs).
    pub has_serial: bool,
    /// Numbers of lines that cannot be read.
    pub unreadable_lines: Vec<usize>,
}

impl GuestFacts {
    /// The facts of a configuration.
    pub fn of(config: &GuestConfig) -> Self {
        let part = &config.current;
        let text = |key: &str| part.get(key).filter(|text| !text.is_empty()).map(str::to_owned);
        let common = GuestFacts {
            is_template: part.flag("template"),
            starts_on_boot: part.flag("onboot"),
            startup: text("startup"),
            lock: text("lock"),
            tags: text("tags"),
            unreadable_lines: config.problems.iter().map(|problem| problem.line).collect(),
            ..GuestFacts::default()
        };
        let balloon = number(part, "balloon");
        match config.kind {
            GuestKind::Qemu => GuestFacts {
                name: text("name"),
                cpus: vm_cpus(part),
                has_cpus_by_name: number(part, "vcpus").is_some(),
                balloon_min: balloon.map(|mib| mib as u64 * MIB),
                shares: balloon
                    .map(|_| part.get("shares").and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SHARES)),
                has_serial: part.indexed("serial").any(|(_, port)| port == "socket"),
                memory: vm_memory(part) * MIB,
                disk: boot_disk(part).and_then(disk_size).unwrap_or(0),
                ..common
            },
            GuestKind::Lxc => GuestFacts {
                name: text("hostname").map(|name| name.split_whitespace().collect()),
                cpus: number(part, "cores").or_else(|| number(part, "cpulimit")).unwrap_or(0.0),
                has_cpus_by_name: true,
                memory: number(part, "memory").map_or(DEFAULT_MEMORY, |mib| mib as u64) * MIB,
                swap: number(part, "swap").map_or(0, |mib| mib as u64) * MIB,
                disk: part.get("rootfs").and_then(disk_size).filter(|size| *size > 0).unwrap_or(DEFAULT_ROOT),
                ..common
            },
        }
    }
}

/// A positive number.
fn number(part: &Part, key: &str) -> Option<f64> {
    part.get(key)?.parse().ok().filter(|number| *number > 0.0)
}

fn vm_cpus(part: &Part) -> f64 {
    let count = |key| number(part, key).unwrap_or(1.0);
    number(part, "vcpus").unwrap_or_else(|| count("sockets") * count("cores"))
}

/// `memory` is a property string whose first key may stand without its name.
fn vm_memory(part: &Part) -> u64 {
    let Some(text) = part.get("memory") else { return DEFAULT_MEMORY };
    text.split(',')
        .find_map(|item| item.strip_prefix("current=").unwrap_or(item).parse().ok())
        .unwrap_or(DEFAULT_MEMORY)
}

/// The first disk in the boot order that is no CD drive; the old `bootdisk` if there is no order.
fn boot_disk(part: &Part) -> Option<&str> {
    let is_disk = |value: &&str| !value.split(',').any(|item| item == "media=cdrom") && !value.starts_with("none");
    let order = part.get("boot").and_then(|boot| boot.split(',').find_map(|item| item.strip_prefix("order=")));
    let mut named = order.into_iter().flat_map(|order| order.split(';')).chain(part.get("bootdisk"));
    named.find_map(|name| part.get(name).filter(|_| is_disk_name(name)).filter(is_disk)).or_else(|| {
        let prefixes = ["ide", "scsi", "virtio", "sata"];
        prefixes.into_iter().find_map(|prefix| part.indexed(prefix).map(|(_, value)| value).find(is_disk))
    })
}

fn is_disk_name(name: &str) -> bool {
    ["ide", "scsi", "virtio", "sata"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

/// The `size=` of a drive or mount point.
fn disk_size(value: &str) -> Option<u64> {
    size::parse(value.split(',').find_map(|item| item.strip_prefix("size="))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(kind: GuestKind, text: &str) -> GuestFacts {
        GuestFacts::of(&GuestConfig::parse(kind, text))
    }

    #[test]
    fn a_virtual_machine() {
        let text = "name: web\ncores: 2\nsockets: 2\nmemory: current=2048\nboot: order=ide2;scsi1;net0\n\
            ide2: local:iso/x.iso,media=cdrom,size=3M\nscsi0: local:1/a.raw,size=1G\nscsi1: local:1/b.raw,size=4G\n\
            onboot: 1\ntags: a;b\n[snap]\nname: old\n";
        let facts = facts(GuestKind::Qemu, text);
        assert_eq!(facts.name.as_deref(), Some("web"));
        assert_eq!((facts.cpus, facts.memory, facts.disk), (4.0, 2048 * MIB, 4 << 30));
        assert!(facts.starts_on_boot && !facts.is_template && facts.lock.is_none());
    }

    #[test]
    fn a_container() {
        let facts =
            facts(GuestKind::Lxc, "hostname: c\ncpulimit: 0.5\nrootfs: local:1/a.raw,size=512M\nlock: backup\n??\n");
        assert_eq!((facts.cpus, facts.memory, facts.swap, facts.disk), (0.5, 512 * MIB, 0, 512 * MIB));
        assert_eq!(facts.lock.as_deref(), Some("backup"));
        assert_eq!(facts.unreadable_lines, [5]);
    }

    #[test]
    fn nothing_configured_is_no_reason_to_fail() {
        let facts = facts(GuestKind::Qemu, "");
        assert_eq!((facts.cpus, facts.memory, facts.disk), (1.0, 512 * MIB, 0));
        assert_eq!(self::facts(GuestKind::Qemu, "memory: 1024\n").memory, 1024 * MIB);
    }
}
