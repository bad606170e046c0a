//! `GET /cluster/metrics/export`: what node, guests and storages use now, and lately, as a list of numbers.
//! (PVE: pve-manager PVE/API2/Cluster/MetricServer.pm, export; PVE/PullMetric.pm)
//!
//! The past has means of minutes and no counters: those are only comparable as they are read.

use crate::config::guest::GuestKind;
use crate::live::history::{self, Consolidation, Kind};
use crate::live::{self, Look, ResourceRow, node};
use crate::types::split_list;
use crate::{Call, Context, Reply, Result, bail};
use serde::Serialize;
use serde_json::{Value, json};

/// How far the past goes back, in seconds.
const PAST: i64 = 30 * 60;

/// Names of series and of the metrics that they are.
const NODE: &[(&str, &str)] = &[
    ("loadavg", "cpu_avg1"),
    ("maxcpu", "cpu_max"),
    ("cpu", "cpu_current"),
    ("iowait", "cpu_iowait"),
    ("memtotal", "mem_total"),
    ("memused", "mem_used"),
    ("swaptotal", "swap_total"),
    ("swapused", "swap_used"),
    ("roottotal", "disk_total"),
    ("rootused", "disk_used"),
];
const GUEST: &[(&str, &str)] = &[
    ("cpu", "cpu_current"),
    ("mem", "mem_used"),
    ("maxcpu", "cpu_max"),
    ("maxmem", "mem_total"),
    ("maxdisk", "disk_total"),
    ("disk", "disk_used"),
];
const STORAGE: &[(&str, &str)] = &[("total", "disk_total"), ("used", "disk_used")];

/// Members of a running guest's row.
const RUNNING: &[(&str, &str, &str)] = &[
    ("cpu", "cpu_current", GAUGE),
    ("mem", "mem_used", GAUGE),
    ("diskread", "disk_read", DERIVE),
    ("diskwrite", "disk_write", DERIVE),
    ("netin", "net_in", DERIVE),
    ("netout", "net_out", DERIVE),
];
/// Members of every guest's row.
const LIMITS: &[(&str, &str)] =
    &[("uptime", "uptime"), ("maxcpu", "cpu_max"), ("maxmem", "mem_total"), ("maxdisk", "disk_total")];

const GAUGE: &str = "gauge";
const DERIVE: &str = "derive";

/// One number.
#[derive(Debug, Serialize)]
struct Metric {
    id: String,
    metric: &'static str,
    timestamp: i64,
    #[serde(rename = "type")]
    kind: &'static str,
    value: Value,
}

/// Answers for this node; there is no other.
pub fn export(call: &Call) -> Result<Reply> {
    let nodes = split_list(&call.text("node-list").unwrap_or_default());
    let unknown: Vec<&str> = nodes.iter().map(String::as_str).filter(|node| !call.ctx.is_local_node(node)).collect();
    if !unknown.is_empty() {
        bail!("Requested node-list contains unknown nodes - {}", unknown.join(", "));
    }
    let start: Option<i64> = call.opt("start-time")?;
    let mut metrics = Vec::new();
    let now = call.ctx.clock.now();
    let guests = live::guests(call.ctx)?;
    if call.flag("history") {
        let mut add = |kind, name: String, id, table| past(call.ctx, (kind, name), id, now, table, &mut metrics);
        add(Kind::Node, call.ctx.node.clone(), format!("node/{}", call.ctx.node), NODE)?;
        for guest in &guests {
            // How full a VM's disks are is not known.
            let table = if guest.kind == GuestKind::Qemu { &GUEST[..GUEST.len() - 1] } else { GUEST };
            let id = format!("{}/{}", guest.kind.as_str(), guest.vmid);
            add(Kind::Guest, guest.vmid.to_string(), id, table)?;
        }
        for storage in live::storages(call.ctx).iter() {
            let id = format!("storage/{}/{}", call.ctx.node, storage.id);
            add(Kind::Storage, storage.id.clone(), id, STORAGE)?;
        }
    }
    let mut push = |id: &str, metric, kind, value| {
        metrics.push(Metric { id: id.to_owned(), metric, timestamp: now, kind, value });
    };
    of_node(call.ctx, &mut push);
    let look = Look::at(&guests);
    for guest in &guests {
        let row = json!(ResourceRow::new(&call.ctx.node, guest, &look));
        let id = row["id"].as_str().unwrap_or_default();
        let running = RUNNING.iter().filter(|_| guest.running.is_some());
        running.for_each(|(member, metric, kind)| push(id, *metric, *kind, row[*member].clone()));
        if guest.running.is_some() && guest.kind == GuestKind::Lxc {
            push(id, "disk_used", GAUGE, row["disk"].clone());
        }
        LIMITS.iter().for_each(|(member, metric)| push(id, *metric, GAUGE, row[*member].clone()));
    }
    for storage in live::storages(call.ctx).iter().filter(|storage| storage.active) {
        let id = format!("storage/{}/{}", call.ctx.node, storage.id);
        push(&id, "disk_total", GAUGE, json!(storage.total));
        push(&id, "disk_used", GAUGE, json!(storage.used));
    }
    metrics.retain(|metric| start.is_none_or(|start| metric.timestamp > start));
    metrics.sort_by_key(|metric| metric.timestamp);
    Ok(Reply::from(json!({ "data": metrics })))
}

fn of_node(ctx: &Context, push: &mut impl FnMut(&str, &'static str, &'static str, Value)) {
    let id = format!("node/{}", ctx.node);
    push(&id, "uptime", GAUGE, json!(node::uptime().0 as u64));
    let sample = node::sample(live::cpu_load(ctx));
    for (name, value) in &sample {
        match (*name, NODE.iter().find(|(series, _)| series == name)) {
            ("netin", _) => push(&id, "net_in", DERIVE, json!(value)),
            ("netout", _) => push(&id, "net_out", DERIVE, json!(value)),
            (_, Some((_, metric))) => push(&id, metric, GAUGE, json!(value)),
            (_, None) => {}
        }
    }
    for (load, metric) in node::load().iter().skip(1).zip(["cpu_avg5", "cpu_avg15"]) {
        push(&id, metric, GAUGE, json!(load.parse::<f64>().unwrap_or(0.0)));
    }
}

/// The last minutes of a series.
fn past(
    ctx: &Context,
    subject: history::Subject,
    id: String,
    now: i64,
    table: &[(&str, &'static str)],
    metrics: &mut Vec<Metric>,
) -> Result<()> {
    let names = subject.0.names();
    for row in history::read(ctx, &subject, "hour", Consolidation::Average)? {
        if row.time <= now - PAST {
            continue;
        }
        for (name, value) in names.iter().zip(&row.values).filter(|(_, value)| !value.is_nan()) {
            if let Some((_, metric)) = table.iter().find(|(series, _)| series == name) {
                metrics.push(Metric { id: id.clone(), metric, timestamp: row.time, kind: GAUGE, value: json!(value) });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestConfig;
    use crate::{guest, registry};
    use contract::Verb;

    fn export(ctx: &Context, params: Value) -> Result<Vec<Value>> {
        let Value::Object(params) = params else { panic!("parameters are an object") };
        let answer = registry::run(ctx, Verb::Get, "/cluster/metrics/export", params)?.data;
        Ok(answer["data"].as_array().unwrap().clone())
    }

    #[test]
    fn everything_is_a_number_with_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        crate::node::setup::ensure(&ctx).unwrap();
        guest::create(&ctx, "100".parse().unwrap(), &GuestConfig::new(GuestKind::Qemu)).unwrap();
        let metrics = export(&ctx, json!({"history": true})).unwrap();
        assert!(
            metrics.iter().all(|metric| metric["value"].is_number() && metric["timestamp"].is_i64()),
            "{metrics:?}"
        );
        let of = |id: &str| {
            let mut names: Vec<&str> =
                metrics.iter().filter(|row| row["id"] == id).filter_map(|row| row["metric"].as_str()).collect();
            names.sort_unstable();
            names.join(" ")
        };
        let node = "cpu_avg1 cpu_avg15 cpu_avg5 cpu_current cpu_iowait cpu_max disk_total disk_used mem_total mem_used \
            net_in net_out swap_total swap_used uptime";
        assert_eq!(of("node/pve1"), node);
        assert_eq!(of("qemu/100"), "cpu_max disk_total mem_total uptime");
        assert_eq!(of("storage/pve1/local"), "disk_total disk_used");
        assert!(export(&ctx, json!({"start-time": 9_000_000_000_i64})).unwrap().is_empty());
        let unknown = export(&ctx, json!({"node-list": "pve1,far"})).unwrap_err();
        assert_eq!(unknown.message(), "Requested node-list contains unknown nodes - far");
    }
}
