//! What lists and status answers say about a guest: the one place where configuration and measurements become a row.
//!
//! Rows are written as JSON text without values in between, because lists are long and asked for all the time.
//! (PVE: qemu-server PVE/QemuServer.pm and pve-container PVE/LXC.pm, vmstatus; pve-manager PVE/API2Tools.pm,
//! extract_vm_stats)

use super::counters::{self, Counter};
use super::history::Sample;
use super::pressure::Pressure;
use super::{GuestRow, node};
use crate::config::guest::GuestKind;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What all rows of one answer have in common.
#[derive(Debug)]
pub struct Look {
    uptime: f64,
    cpus: f64,
    /// Bytes that guests received and sent, by number.
    traffic: BTreeMap<u32, (u64, u64)>,
}

impl Look {
    /// As of now; counters are looked up only if one of the guests runs.
    pub fn at(guests: &[GuestRow]) -> Self {
        let mut traffic = BTreeMap::new();
        if guests.iter().any(|guest| guest.running.is_some()) {
            for Counter { vmid, received, sent, .. } in counters::read() {
                let sum: &mut (u64, u64) = traffic.entry(vmid).or_default();
                *sum = (sum.0 + received, sum.1 + sent);
            }
        }
        Look { uptime: node::uptime().0, cpus: node::cpu_count() as f64, traffic }
    }
}

/// A guest in the list of its kind, and the base of its own status. Members that would say nothing are missing: clients
/// test for their presence.
#[derive(Debug, Serialize)]
pub struct StatusRow<'a> {
    vmid: u32,
    name: Cow<'a, str>,
    status: &'static str,
    #[serde(serialize_with = "plain_number")]
    cpus: f64,
    cpu: f64,
    mem: u64,
    maxmem: u64,
    disk: u64,
    maxdisk: u64,
    netin: u64,
    netout: u64,
    diskread: u64,
    diskwrite: u64,
    uptime: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memhost: Option<u64>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    maxswap: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    template: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balloon_min: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shares: Option<u64>,
    #[serde(flatten)]
    pressure: Option<Pressure>,
}

/// A guest among the cluster's resources. Missing or null numbers break clients: each row has all of them.
#[derive(Debug, Serialize)]
pub struct ResourceRow<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    vmid: u32,
    node: &'a str,
    name: Cow<'a, str>,
    status: &'static str,
    template: u8,
    /// Seconds.
    pub uptime: u64,
    /// Share of its processors that it keeps busy.
    pub cpu: f64,
    /// Processors.
    #[serde(serialize_with = "plain_number")]
    pub maxcpu: f64,
    /// Bytes in use.
    pub mem: u64,
    /// Bytes that it may use.
    pub maxmem: u64,
    disk: u64,
    maxdisk: u64,
    netin: u64,
    netout: u64,
    diskread: u64,
    diskwrite: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memhost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lock: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tags: Option<&'a str>,
    /// The pool that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<&'a str>,
}

impl<'a> StatusRow<'a> {
    /// The row of a guest.
    pub fn new(guest: &'a GuestRow, look: &Look) -> Self {
        let (facts, is_vm) = (&guest.facts, guest.kind == GuestKind::Qemu);
        let now = Now::of(guest, look);
        StatusRow {
            vmid: guest.vmid.number(),
            name: guest.name(),
            status: guest.status(),
            cpus: now.cpus,
            cpu: now.cpu,
            mem: now.mem,
            maxmem: facts.memory,
            disk: now.disk,
            maxdisk: now.maxdisk,
            netin: now.netin,
            netout: now.netout,
            diskread: now.diskread,
            diskwrite: now.diskwrite,
            uptime: now.uptime,
            memhost: is_vm.then_some(now.memhost),
            kind: (!is_vm).then_some("lxc"),
            swap: (!is_vm).then_some(now.swap),
            maxswap: (!is_vm).then_some(facts.swap),
            pid: guest.running.as_ref().map(|running| running.process.pid),
            template: facts.is_template.then_some(1),
            serial: facts.has_serial.then_some(1),
            lock: facts.lock.as_deref(),
            tags: facts.tags.as_deref(),
            balloon_min: facts.balloon_min,
            shares: facts.shares,
            pressure: guest.running.as_ref().map(|running| running.pressure),
        }
    }

    /// The row as values, to which a guest's own status adds more.
    pub fn into_map(self) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(map)) => map,
            _ => unreachable!("a row has plain members only"),
        }
    }
}

impl<'a> ResourceRow<'a> {
    /// The row of a guest of a node; not in a pool yet.
    pub fn new(node: &'a str, guest: &'a GuestRow, look: &Look) -> Self {
        let (facts, kind) = (&guest.facts, guest.kind.as_str());
        let now = Now::of(guest, look);
        ResourceRow {
            id: format!("{kind}/{}", guest.vmid),
            kind,
            vmid: guest.vmid.number(),
            node,
            name: guest.name(),
            status: guest.status(),
            template: u8::from(facts.is_template),
            uptime: now.uptime,
            cpu: now.cpu,
            maxcpu: now.cpus,
            mem: now.mem,
            maxmem: facts.memory,
            disk: now.disk,
            maxdisk: now.maxdisk,
            netin: now.netin,
            netout: now.netout,
            diskread: now.diskread,
            diskwrite: now.diskwrite,
            memhost: (guest.kind == GuestKind::Qemu).then_some(now.memhost),
            lock: facts.lock.as_deref(),
            tags: facts.tags.as_deref(),
            pool: None,
        }
    }
}

/// What is remembered of a running guest for graphs.
pub fn sample(guest: &GuestRow, look: &Look) -> Option<Sample> {
    let running = guest.running.as_ref()?;
    let now = Now::of(guest, look);
    let mut sample = vec![
        ("maxcpu", now.cpus),
        ("cpu", now.cpu),
        ("maxmem", guest.facts.memory as f64),
        ("mem", now.mem as f64),
        ("maxdisk", now.maxdisk as f64),
        ("disk", now.disk as f64),
        ("netin", now.netin as f64),
        ("netout", now.netout as f64),
        ("diskread", now.diskread as f64),
        ("diskwrite", now.diskwrite as f64),
        ("pressurecpusome", running.pressure.cpu_some),
        ("pressurecpufull", running.pressure.cpu_full),
        ("pressureiosome", running.pressure.io_some),
        ("pressureiofull", running.pressure.io_full),
        ("pressurememorysome", running.pressure.memory_some),
        ("pressurememoryfull", running.pressure.memory_full),
    ];
    if guest.kind == GuestKind::Qemu {
        sample.push(("memhost", now.memhost as f64));
    }
    Some(sample)
}

/// What a guest uses now; nothing if it is stopped.
#[derive(Default)]
struct Now {
    uptime: u64,
    cpus: f64,
    cpu: f64,
    mem: u64,
    memhost: u64,
    swap: u64,
    disk: u64,
    maxdisk: u64,
    netin: u64,
    netout: u64,
    diskread: u64,
    diskwrite: u64,
}

impl Now {
    fn of(guest: &GuestRow, look: &Look) -> Self {
        let stopped = Now { cpus: guest.cpus(look.cpus), maxdisk: guest.facts.disk, ..Now::default() };
        let Some(running) = &guest.running else { return stopped };
        let usage = running.usage;
        let (netin, netout) = look.traffic.get(&guest.vmid.number()).copied().unwrap_or_default();
        Now {
            uptime: running.uptime(look.uptime),
            cpu: running.busy / stopped.cpus,
            mem: usage.memory_inside.unwrap_or(usage.memory),
            memhost: usage.memory,
            swap: usage.swap,
            disk: usage.disk,
            maxdisk: usage.disk_total.unwrap_or(stopped.maxdisk),
            netin,
            netout,
            diskread: usage.disk_read,
            diskwrite: usage.disk_written,
            ..stopped
        }
    }
}

/// Whole numbers without a fraction: some clients read them as integers.
pub fn plain_number<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if number.fract() == 0.0 { serializer.serialize_i64(*number as i64) } else { serializer.serialize_f64(*number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestConfig;
    use crate::live::GuestFacts;
    use serde_json::json;
    use std::sync::Arc;

    fn row(kind: GuestKind, text: &str) -> Map<String, Value> {
        let facts = Arc::new(GuestFacts::of(&GuestConfig::parse(kind, text)));
        let guest = GuestRow { vmid: "100".parse().unwrap(), kind, facts, running: None };
        let look = Look { uptime: 1000.0, cpus: 2.0, traffic: BTreeMap::new() };
        StatusRow::new(&guest, &look).into_map()
    }

    #[test]
    fn stopped_guests_have_their_configured_numbers() {
        let text = "cores: 4\nballoon: 64\nserial0: socket\ntags: a;b\nlock: backup\nscsi0: local:1/a.raw,size=1G\n";
        assert_eq!(
            Value::Object(row(GuestKind::Qemu, text)),
            json!({
                "vmid": 100, "name": "VM 100", "status": "stopped", "cpus": 2, "cpu": 0.0, "mem": 0, "memhost": 0,
                "maxmem": 536870912, "disk": 0, "maxdisk": 1073741824, "netin": 0, "netout": 0, "diskread": 0,
                "diskwrite": 0, "uptime": 0, "serial": 1, "lock": "backup", "tags": "a;b", "balloon_min": 67108864,
                "shares": 1000,
            })
        );
        assert_eq!(
            Value::Object(row(GuestKind::Lxc, "cpulimit: 0.5\ntemplate: 1\n")),
            json!({
                "vmid": 100, "name": "CT100", "status": "stopped", "type": "lxc", "cpus": 0.5, "cpu": 0.0, "mem": 0,
                "maxmem": 536870912, "swap": 0, "maxswap": 0, "disk": 0, "maxdisk": 4294967296u64, "netin": 0,
                "netout": 0, "diskread": 0, "diskwrite": 0, "uptime": 0, "template": 1,
            })
        );
        assert_eq!(row(GuestKind::Qemu, "vcpus: 8\ncores: 16\n")["cpus"], 8);
    }
}
