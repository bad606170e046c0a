//! `/nodes/{node}/qemu` and `/nodes/{node}/lxc`: the lists of guests.
//! (PVE: qemu-server PVE/QemuServer.pm, vmstatus; pve-container PVE/LXC.pm, vmstatus)

use crate::cluster::plain_number;
use crate::cluster::traffic;
use crate::config::guest::GuestKind;
use crate::live::{self, GuestRow};
use crate::{Call, Reply, Result};
use serde_json::{Map, Value, json};

/// `GET /nodes/{node}/qemu`.
pub fn virtual_machines(call: &Call) -> Result<Reply> {
    list(call, GuestKind::Qemu)
}

/// `GET /nodes/{node}/lxc`.
pub fn containers(call: &Call) -> Result<Reply> {
    list(call, GuestKind::Lxc)
}

fn list(call: &Call, kind: GuestKind) -> Result<Reply> {
    let mut guests = live::guests(call.ctx)?;
    guests.retain(|row| row.kind == kind && row.is_visible_to(call.ctx));
    let traffic = traffic(&guests);
    let uptime = live::node::uptime().0;
    let rows = guests
        .iter()
        .map(|guest| row(guest, uptime, traffic.get(&guest.vmid.number()).copied().unwrap_or_default()).into())
        .collect();
    Ok(Reply::from(Value::Array(rows)))
}

/// The row of one guest as of now, for the guest's own status.
pub fn row_now(guest: &GuestRow) -> Map<String, Value> {
    let traffic = traffic(std::slice::from_ref(guest));
    row(guest, live::node::uptime().0, traffic.get(&guest.vmid.number()).copied().unwrap_or_default())
}

/// `template` and `pid` are there only when they say something: clients test for their presence.
fn row(guest: &GuestRow, node_uptime: f64, (received, sent): (u64, u64)) -> Map<String, Value> {
    let running = guest.running.as_ref();
    let usage = running.map(|running| running.usage).unwrap_or_default();
    let is_vm = guest.kind == GuestKind::Qemu;
    let mut row = Map::new();
    let mut set = |name: &str, value: Value| drop(row.insert(name.to_owned(), value));
    set("vmid", json!(guest.vmid.number()));
    set("name", json!(guest.name()));
    set("status", json!(guest.status()));
    set("cpus", plain_number(guest.cpus()));
    set("cpu", json!(running.map_or(0.0, |running| running.busy / guest.cpus())));
    set("mem", json!(usage.memory));
    set("maxmem", json!(guest.facts.memory));
    set("disk", json!(usage.disk));
    set("maxdisk", json!(guest.facts.disk));
    set("netin", json!(if running.is_some() { received } else { 0 }));
    set("netout", json!(if running.is_some() { sent } else { 0 }));
    set("diskread", json!(usage.disk_read));
    set("diskwrite", json!(usage.disk_written));
    set("uptime", json!(running.map_or(0, |running| running.uptime(node_uptime))));
    if is_vm {
        set("memhost", json!(usage.memory));
    } else {
        set("type", json!("lxc"));
        set("swap", json!(usage.swap));
        set("maxswap", json!(guest.facts.swap));
    }
    if let Some(running) = running {
        set("pid", json!(running.process.pid));
    }
    if guest.facts.is_template {
        set("template", json!(1));
    }
    for (name, text) in [("lock", &guest.facts.lock), ("tags", &guest.facts.tags)] {
        if let Some(text) = text {
            set(name, json!(text));
        }
    }
    row
}
