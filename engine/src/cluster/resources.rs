//! `/cluster/resources`: everything there is, in one list. Monitors and user interfaces read it every few seconds, so it
//! comes from memory. Missing or null numbers break clients: each row has all of its type's members.
//! (PVE: pve-manager PVE/API2/Cluster.pm, resources; PVE/API2Tools.pm, extract_*_stats)

use crate::access::View;
use crate::live::{self, GuestRow, Look, ResourceRow, plain_number};
use crate::node::overview;
use crate::storage::StorageStatus;
use crate::{Call, Context, Reply, Result};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A row of the list.
#[derive(Serialize)]
#[serde(untagged)]
enum Row<'a> {
    Pool(PoolRow<'a>),
    Guest(ResourceRow<'a>),
    Other(Value),
}

/// A pool with what its running guests use together; without any, that is left out.
#[derive(Debug, Serialize)]
struct PoolRow<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    pool: &'a str,
    #[serde(flatten)]
    sum: Option<PoolSum>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
struct PoolSum {
    cpu: f64,
    #[serde(serialize_with = "plain_number")]
    maxcpu: f64,
    mem: u64,
    maxmem: u64,
    uptime: u64,
}

/// `GET /cluster/resources`, only what the caller may see.
pub fn get(call: &Call) -> Result<Reply> {
    let ctx = call.ctx;
    let wanted = call.text("type");
    let wants = |kind: &str| wanted.as_deref().is_none_or(|wanted| wanted == kind);
    let view = View::of(ctx)?;
    let mut pools: BTreeMap<&str, PoolRow> = BTreeMap::new();
    for pool in view.config().pools.keys().filter(|pool| view.has(&format!("/pool/{pool}"), "Pool.Audit")) {
        pools.insert(pool, PoolRow { id: format!("/pool/{pool}"), kind: "pool", pool, sum: None });
    }
    let guests = if wants("vm") { live::guests(ctx)? } else { Vec::new() };
    let look = Look::at(&guests);
    let mut rows = Vec::with_capacity(guests.len() + pools.len());
    for guest in &guests {
        let mut row = ResourceRow::new(&ctx.node, guest, &look);
        let pool = view.config().pool_of(guest.vmid);
        // A pool sums up all its guests, also those that the caller does not see one by one.
        if let Some(sum) = pool.and_then(|pool| pools.get_mut(pool)) {
            sum.add(&row);
            row.pool = pool;
        }
        if guest.is_visible_to(&view) {
            rows.push(Row::Guest(row));
        }
    }
    if wants("pool") {
        rows.splice(0..0, pools.into_values().map(Row::Pool));
    }
    if wants("node") {
        let mut row = overview::row(ctx);
        row.insert("cgroup-mode".into(), json!(overview::cgroup_mode()));
        row.insert("host-arch".into(), json!(std::env::consts::ARCH));
        rows.push(Row::Other(Value::Object(row)));
    }
    if wants("storage") {
        rows.extend(storages(ctx, &view).into_iter().map(Row::Other));
    }
    if wants("network") && view.has("/sdn/zones/localnetwork", "SDN.Audit") {
        rows.push(Row::Other(local_network(ctx)));
    }
    Reply::list(&rows)
}

/// The rows of the guests that `wanted` picks.
pub fn guests(ctx: &Context, wanted: impl Fn(&GuestRow) -> bool) -> Result<Vec<Value>> {
    let mut guests = live::guests(ctx)?;
    guests.retain(wanted);
    let look = Look::at(&guests);
    Ok(guests.iter().map(|guest| json!(ResourceRow::new(&ctx.node, guest, &look))).collect())
}

impl PoolRow<'_> {
    /// Running guests count with what they use and may use; the longest uptime is the pool's.
    fn add(&mut self, guest: &ResourceRow) {
        if guest.uptime == 0 {
            return;
        }
        let sum = self.sum.unwrap_or_default();
        let maxcpu = sum.maxcpu + guest.maxcpu;
        self.sum = Some(PoolSum {
            cpu: (sum.cpu * sum.maxcpu + guest.cpu * guest.maxcpu) / maxcpu,
            maxcpu,
            mem: sum.mem + guest.mem,
            maxmem: sum.maxmem + guest.maxmem,
            uptime: sum.uptime.max(guest.uptime),
        });
    }
}

fn storages(ctx: &Context, view: &View) -> Vec<Value> {
    live::storages(ctx)
        .iter()
        .filter(|row| row.enabled && view.has(&format!("/storage/{}", row.id), "Datastore.Audit"))
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
    use crate::config::guest::{GuestConfig, GuestKind};
    use crate::{guest, registry};
    use contract::Verb;
    use std::sync::Arc;

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
        let node = &resources(&ctx, Some("node"))[0];
        assert!(node["cgroup-mode"] == 1 || node["cgroup-mode"] == 2, "{node}");
        let guest = &resources(&ctx, Some("vm"))[0];
        assert_eq!((&guest["template"], &guest["pool"], &guest["name"]), (&json!(1), &json!("web"), &json!("CT100")));
        let numbers = ["cpu", "maxcpu", "mem", "maxmem", "disk", "maxdisk", "netin", "netout", "diskread", "diskwrite"];
        assert!(numbers.iter().all(|name| guest[name].is_number()), "{guest}");
        assert!(["lock", "hastate", "tags"].iter().all(|name| guest.get(name).is_none()), "{guest}");
    }

    #[test]
    fn a_pool_sums_up_its_running_guests() {
        let guest =
            GuestRow { vmid: "100".parse().unwrap(), kind: GuestKind::Qemu, facts: Arc::default(), running: None };
        let look = Look::at(&[]);
        let row = |uptime, maxcpu, cpu, mem| {
            let mut row = ResourceRow::new("pve1", &guest, &look);
            (row.uptime, row.maxcpu, row.cpu, row.mem, row.maxmem) = (uptime, maxcpu, cpu, mem, 10);
            row
        };
        let mut pool = PoolRow { id: "/pool/web".into(), kind: "pool", pool: "web", sum: None };
        pool.add(&row(0, 8.0, 0.0, 5));
        assert_eq!(json!(pool), json!({ "id": "/pool/web", "type": "pool", "pool": "web" }));
        pool.add(&row(3, 1.0, 1.0, 5));
        pool.add(&row(9, 3.0, 0.0, 1));
        let sum = json!({ "uptime": 9, "maxcpu": 4, "cpu": 0.25, "mem": 6, "maxmem": 20 });
        assert_eq!(json!(pool.sum), sum);
    }
}
