//! `/cluster/resources`: everything there is, in one list. Monitors and user interfaces read it every few seconds, so it
//! comes from memory. Missing or null numbers break clients: each row has all of its type's members.
//! (PVE: pve-manager PVE/API2/Cluster.pm, resources; PVE/API2Tools.pm, extract_*_stats)

use crate::config::guest::GuestKind;
use crate::live::counters::{self, Counter};
use crate::live::{self, GuestRow};
use crate::node::overview;
use crate::{Call, Context, Reply, Result, access};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// `GET /cluster/resources`, only what the caller may see.
pub fn get(call: &Call) -> Result<Reply> {
    let wanted = call.text("type");
    let wants = |kind: &str| wanted.as_deref().is_none_or(|wanted| wanted == kind);
    let mut rows = Vec::new();
    if wants("vm") {
        rows.extend(guests(call.ctx, |row| row.is_visible_to(call.ctx))?);
    }
    if wants("node") {
        rows.push(Value::Object(overview::row(call.ctx)));
    }
    if wants("network") && access::has(call.ctx, "/sdn/zones/localnetwork", &["SDN.Audit"]) {
        rows.push(local_network(call.ctx));
    }
    Ok(Reply::from(Value::Array(rows)))
}

/// The rows of the guests that `wanted` picks.
pub fn guests(ctx: &Context, wanted: impl Fn(&GuestRow) -> bool) -> Result<Vec<Value>> {
    let mut rows = live::guests(ctx)?;
    rows.retain(wanted);
    let traffic = traffic(&rows);
    let uptime = live::node::uptime().0;
    Ok(rows.iter().map(|row| guest(ctx, row, uptime, &traffic)).collect())
}

/// Bytes that guests received and sent, by number; looked up only if a guest runs.
pub fn traffic(rows: &[GuestRow]) -> BTreeMap<u32, (u64, u64)> {
    let mut traffic = BTreeMap::new();
    if rows.iter().any(|row| row.running.is_some()) {
        for Counter { vmid, received, sent, .. } in counters::read() {
            let sum: &mut (u64, u64) = traffic.entry(vmid).or_default();
            *sum = (sum.0 + received, sum.1 + sent);
        }
    }
    traffic
}

fn guest(ctx: &Context, row: &GuestRow, node_uptime: f64, traffic: &BTreeMap<u32, (u64, u64)>) -> Value {
    let kind = row.kind.as_str();
    let running = row.running.as_ref();
    let usage = running.map(|running| running.usage).unwrap_or_default();
    let (received, sent) = running.and_then(|_| traffic.get(&row.vmid.number()).copied()).unwrap_or_default();
    let mut members = Map::new();
    let mut set = |name: &str, value: Value| drop(members.insert(name.to_owned(), value));
    set("id", Value::String(format!("{kind}/{}", row.vmid)));
    set("type", kind.into());
    set("vmid", row.vmid.number().into());
    set("node", ctx.node.as_str().into());
    set("name", row.name().into());
    set("status", row.status().into());
    set("template", u8::from(row.facts.is_template).into());
    set("uptime", running.map_or(0, |running| running.uptime(node_uptime)).into());
    set("cpu", running.map_or(0.0, |running| running.busy / row.cpus()).into());
    set("maxcpu", plain_number(row.cpus()));
    set("mem", usage.memory.into());
    set("maxmem", row.facts.memory.into());
    set("disk", usage.disk.into());
    set("maxdisk", row.facts.disk.into());
    set("netin", received.into());
    set("netout", sent.into());
    set("diskread", usage.disk_read.into());
    set("diskwrite", usage.disk_written.into());
    if row.kind == GuestKind::Qemu {
        set("memhost", usage.memory.into());
    }
    if let Some(lock) = &row.facts.lock {
        set("lock", lock.as_str().into());
    }
    if let Some(tags) = &row.facts.tags {
        set("tags", tags.as_str().into());
    }
    Value::Object(members)
}

/// Whole numbers without a fraction: some clients read them as integers.
pub fn plain_number(number: f64) -> Value {
    if number.fract() == 0.0 { json!(number as i64) } else { json!(number) }
}

/// The zone that every node has without any configuration.
fn local_network(ctx: &Context) -> Value {
    json!({
        "id": format!("network/{}/zone/localnetwork", ctx.node),
        "type": "network",
        "network-type": "zone",
        "network": "localnetwork",
        "node": ctx.node,
        "status": "ok",
    })
}
