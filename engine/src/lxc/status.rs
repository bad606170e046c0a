//! Whether a container runs and what it uses, for lists and for `status/current`.

use super::cgroup::{self, Hierarchies};
use super::monitor;
use crate::config::guest::GuestKind;
use crate::live::{self, GuestFacts, GuestRow, Look, Running, StatusRow, Usage};
use crate::process::ProcessId;
use crate::{Context, Result, Vmid, command, guest};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// The init process of a running container.
pub fn probe(ctx: &Context, vmid: Vmid) -> Option<ProcessId> {
    monitor::init(ctx, vmid)
}

/// Containers that may run now: all that do, perhaps some more.
pub fn candidates(ctx: &Context) -> Vec<Vmid> {
    // A host without control groups runs no containers.
    cgroup::present(ctx).map(|found| found.into_iter().collect()).unwrap_or_default()
}

/// What a running container has used.
pub fn usage(ctx: &Context, vmid: Vmid, init: ProcessId) -> Usage {
    let used = Hierarchies::of_host().map(|hierarchies| cgroup::usage(ctx, &hierarchies, vmid)).unwrap_or_default();
    let root = rustix::fs::statvfs(format!("/proc/{}/root/", init.pid)).ok();
    Usage {
        cpu_ticks: used.cpu_time * live::ticks_per_second() / 1_000_000,
        memory: used.memory,
        memory_inside: None,
        swap: used.swap,
        disk: root.as_ref().map_or(0, |root| (root.f_blocks - root.f_bfree) * root.f_frsize),
        disk_total: root.map(|root| root.f_blocks * root.f_frsize),
        disk_read: used.read,
        disk_written: used.written,
    }
}

/// What `status/current` answers: looked up now, because clients wait on it for the end of a start or stop.
pub fn current(ctx: &Context, vmid: Vmid) -> Result<Map<String, Value>> {
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    let init = probe(ctx, vmid);
    let mut running = init.and_then(|init| Running::begin(ctx, GuestKind::Lxc, vmid, init));
    if let Some(running) = &mut running {
        // The load between two looks is known to whoever looks regularly.
        let known = live::known(ctx, GuestKind::Lxc, vmid)?;
        running.busy = known.filter(|known| known.process == running.process).map_or(0.0, |known| known.busy);
    }
    let row = GuestRow { vmid, kind: GuestKind::Lxc, facts: Arc::new(GuestFacts::of(&config)), running };
    let look = Look::at(std::slice::from_ref(&row));
    let mut status = StatusRow::new(&row, &look).into_map();
    status.insert("ha".into(), json!({"managed": 0}));
    Ok(status)
}

/// The addresses of a running container's interfaces. (PVE: LXC.pm, get_interfaces)
pub fn interfaces(init: ProcessId) -> Result<Value> {
    let pid = init.pid.to_string();
    let output = command::run("nsenter", &["-t", &pid, "--net", "--", "ip", "--json", "address"])?;
    let links: Vec<Value> = serde_json::from_str(&output.stdout).unwrap_or_default();
    let interface = |link: &Value| {
        let mut row = Map::new();
        let mut addresses = Vec::new();
        for address in link["addr_info"].as_array().into_iter().flatten() {
            let (family, local) = (address["family"].as_str().unwrap_or_default(), &address["local"]);
            let prefix = crate::call::config_text(&address["prefixlen"]);
            row.insert(family.to_owned(), json!(format!("{}/{prefix}", local.as_str().unwrap_or_default())));
            addresses.push(json!({"ip-address-type": family, "ip-address": local, "prefix": prefix}));
        }
        row.insert("name".into(), link["ifname"].clone());
        row.insert("hwaddr".into(), link["address"].clone());
        row.insert("hardware-address".into(), link["address"].clone());
        row.insert("ip-addresses".into(), Value::Array(addresses));
        Value::Object(row)
    };
    Ok(links.iter().map(interface).collect())
}
