//! How long a guest's processes have waited lately, as the kernel tells for control groups of the unified hierarchy.
//! (PVE: pve-common PVE/ProcFSTools.pm, read_cgroup_pressure)

use crate::Vmid;
use crate::config::guest::GuestKind;
use serde::Serialize;
use std::fs;
use std::path::Path;

/// Where the unified hierarchy is mounted, unless older ones are in use as well.
const UNIFIED: &str = "/sys/fs/cgroup";

/// Percent of the last ten seconds in which some, or all, processes waited for something. 0 where the kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// Some waited for a processor.
    #[serde(rename = "pressurecpusome")]
    pub cpu_some: f64,
    /// All waited for a processor.
    #[serde(rename = "pressurecpufull")]
    pub cpu_full: f64,
    /// Some waited for a device.
    #[serde(rename = "pressureiosome")]
    pub io_some: f64,
    /// All waited for a device.
    #[serde(rename = "pressureiofull")]
    pub io_full: f64,
    /// Some waited for memory.
    #[serde(rename = "pressurememorysome")]
    pub memory_some: f64,
    /// All waited for memory.
    #[serde(rename = "pressurememoryfull")]
    pub memory_full: f64,
}

impl Pressure {
    /// What the control group of a guest says.
    pub fn of(kind: GuestKind, vmid: Vmid) -> Self {
        let group = match kind {
            GuestKind::Qemu => format!("{UNIFIED}/qemu.slice/{vmid}.scope"),
            GuestKind::Lxc => format!("{UNIFIED}/lxc/{vmid}"),
        };
        Pressure::read(Path::new(&group), ".pressure")
    }

    /// What the whole machine says.
    pub fn of_node() -> Self {
        Pressure::read(Path::new("/proc/pressure"), "")
    }

    fn read(directory: &Path, ending: &str) -> Self {
        let [cpu, io, memory] = ["cpu", "io", "memory"]
            .map(|name| parse(&fs::read_to_string(directory.join(format!("{name}{ending}"))).unwrap_or_default()));
        Pressure {
            cpu_some: cpu.0,
            cpu_full: cpu.1,
            io_some: io.0,
            io_full: io.1,
            memory_some: memory.0,
            memory_full: memory.1,
        }
    }
}

/// `some avg10=… avg60=…` and `full avg10=…`.
fn parse(text: &str) -> (f64, f64) {
    let average = |kind: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(kind));
        let value = line.and_then(|line| line.split_ascii_whitespace().find_map(|item| item.strip_prefix("avg10=")));
        value.and_then(|value| value.parse().ok()).unwrap_or(0.0)
    };
    (average("some"), average("full"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ten_seconds_count() {
        let text = "some avg10=1.50 avg60=2.00 avg300=3 total=4\nfull avg10=0.25 avg60=0 avg300=0 total=0\n";
        assert_eq!(parse(text), (1.5, 0.25));
        assert_eq!(parse(""), (0.0, 0.0));
    }
}
