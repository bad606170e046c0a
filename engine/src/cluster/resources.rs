//! `/cluster/resources`: everything there is, in one list. Monitors and user interfaces read it every few seconds, so it
//! comes from memory. Missing or null numbers break clients: each row has all of its type's members.
//! (PVE: pve-manager PVE/API2/Cluster.pm, resources; PVE/API2Tools.pm, extract_*_stats)

use crate::config::guest::GuestKind;
use crate::live::counters::{self, Counter};
use crate::live::{self, GuestRow};
use crate::node::overview;
use crate::storage::StorageStatus;
use crate::{Call, Context, Reply, Result, access};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// `GET /cluster/resources`, only what the caller may see.
pub fn get(call: &Call) -> Result<Reply> {
    let ctx = call.ctx;
    let wanted = call.text("type");
    let wants = |kind: &str| wanted.as_deref().is_none_or(|wanted| wanted == kind);
    let config = access::config(ctx)?;
    let is_pool_visible = |pool: &str| access::has(ctx, &format!("/pool/{pool}"), &["Pool.Audit"]);
    let mut pools: BTreeMap<&str, Option<Value>> = BTreeMap::new();
    for pool in config.pools.keys() {
        let row = json!({ "id": format!("/pool/{pool}"), "pool": pool, "type": "pool" });
        pools.insert(pool, is_pool_visible(pool).then_some(row));
    }
    let mut rows = Vec::new();
    if wants("vm") {
        let guests = live::guests(ctx)?;
        let traffic = traffic(&guests);
        let uptime = live::node::uptime().0;
        for guest in guests {
            let pool = config.pool_of(guest.vmid);
            let mut row = guest_row(ctx, &guest, uptime, &traffic);
            // A pool sums up all its guests, also those that the caller does not see one by one.
            if let Some(Some(sum)) = pool.and_then(|pool| pools.get_mut(pool)) {
                add_to_pool(sum, &row);
                row["pool"] = json!(pool);
            }
            if guest.is_visible_to(ctx) {
                rows.push(row);
            }
        }
    }
    if wants("pool") {
        rows.splice(0..0, pools.into_values().flatten());
    }
    if wants("node") {
        rows.push(Value::Object(overview::row(ctx)));
    }
    if wants("storage") {
        rows.extend(storages(ctx));
    }
    if wants("network") && access::has(ctx, "/sdn/zones/localnetwork", &["SDN.Audit"]) {
        rows.push(local_network(ctx));
    }
    Ok(Reply::from(Value::Array(rows)))
}

/// The rows of the guests that `wanted` picks.
pub fn guests(ctx: &Context, wanted: impl Fn(&GuestRow) -> bool) -> Result<Vec<Value>> {
    let mut guests = live::guests(ctx)?;
    guests.retain(wanted);
    let traffic = traffic(&guests);
    let uptime = live::node::uptime().0;
    Ok(guests.iter().map(|guest| guest_row(ctx, guest, uptime, &traffic)).collect())
}

/// Running guests count with what they use and may use; the longest uptime is the pool's.
fn add_to_pool(pool: &mut Value, guest: &Value) {
    let number = |row: &Value, name: &str| row[name].as_f64().unwrap_or(0.0);
    if number(guest, "uptime") == 0.0 {
        return;
    }
    let (before, added) = (number(pool, "maxcpu"), number(guest, "maxcpu"));
    let busy = number(pool, "cpu") * before + number(guest, "cpu") * added;
    pool["cpu"] = json!(busy / (before + added));
    pool["maxcpu"] = plain_number(before + added);
    for name in ["mem", "maxmem"] {
        pool[name] = json!(number(pool, name) as u64 + number(guest, name) as u64);
    }
    pool["uptime"] = json!(number(pool, "uptime").max(number(guest, "uptime")) as u64);
}

fn storages(ctx: &Context) -> Vec<Value> {
    live::storages(ctx)
        .iter()
        .filter(|row| row.enabled && access::has(ctx, &format!("/storage/{}", row.id), &["Datastore.Audit"]))
        .map(|row| storage_row(ctx, row))
        .collect()
}

/// A storage as a row.
pub fn storage_row(ctx: &Context, storage: &StorageStatus) -> Value {
    let content: Vec<String> = storage.content.iter().map(ToString::to_string).collect();
    let mut row = json!({
        "id": format!("storage/{}/{}", ctx.node, storage.id),
        "type": "storage",
        "storage": storage.id,
        "node": ctx.node,
        "plugintype": storage.kind,
        "shared": u8::from(storage.shared),
        "content": content.join(","),
        "status": if storage.active { "available" } else { "unknown" },
    });
    if storage.active {
        row["disk"] = json!(storage.used);
        row["maxdisk"] = json!(storage.total);
    }
    row
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

fn guest_row(ctx: &Context, row: &GuestRow, node_uptime: f64, traffic: &BTreeMap<u32, (u64, u64)>) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestConfig;
    use crate::{guest, registry};
    use contract::Verb;

    fn resources(ctx: &Context, kind: Option<&str>) -> Vec<Value> {
        let params = kind.map(|kind| ("type".to_owned(), json!(kind))).into_iter().collect();
        let reply = registry::run(ctx, Verb::Get, "/cluster/resources", params).unwrap();
        reply.data.as_array().unwrap().clone()
    }

    #[test]
    fn every_type_has_its_rows() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        crate::node::setup::ensure(&ctx).unwrap();
        let mut config = GuestConfig::new(GuestKind::Lxc);
        config.current.set("template", "1");
        guest::create(&ctx, "100".parse().unwrap(), &config).unwrap();
        std::fs::write(ctx.root.etc_pve("user.cfg"), "user:root@pam:1:0:::::\npool:web::100::\n").unwrap();
        let types =
            |kind| resources(&ctx, kind).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let all = ["/pool/web", "lxc/100", "node/pve1", "storage/pve1/local", "network/pve1/zone/localnetwork"];
        assert_eq!(types(None), all);
        for (kind, ids) in [("vm", &all[1..2]), ("node", &all[2..3]), ("storage", &all[3..4]), ("sdn", &[])] {
            assert_eq!(types(Some(kind)), ids);
        }
        let guest = &resources(&ctx, Some("vm"))[0];
        assert_eq!((&guest["template"], &guest["pool"], &guest["name"]), (&json!(1), &json!("web"), &json!("CT100")));
        let numbers = ["cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "netin", "netout", "diskread", "diskwrite"];
        assert!(numbers.iter().all(|name| guest[name].is_number()), "{guest}");
        assert!(["lock", "hastate", "tags"].iter().all(|name| guest.get(name).is_none()), "{guest}");
    }

    #[test]
    fn a_pool_sums_up_its_running_guests() {
        let mut pool = json!({});
        add_to_pool(&mut pool, &json!({ "uptime": 0, "maxcpu": 8, "cpu": 0.0, "mem": 5, "maxmem": 5 }));
        assert_eq!(pool, json!({}));
        add_to_pool(&mut pool, &json!({ "uptime": 3, "maxcpu": 1, "cpu": 1.0, "mem": 5, "maxmem": 10 }));
        add_to_pool(&mut pool, &json!({ "uptime": 9, "maxcpu": 3, "cpu": 0.0, "mem": 1, "maxmem": 10 }));
        assert_eq!(pool, json!({ "uptime": 9, "maxcpu": 4, "cpu": 0.25, "mem": 6, "maxmem": 20 }));
    }
}
