//! `/nodes/{node}/network`. (PVE: pve-manager PVE/API2/Network.pm)

use super::interfaces::{Iface, Interfaces, describe};
use super::{edit, transaction};
use crate::registry::{Binding, delete, get, post, put};
use crate::{Call, Context, Error, Reply, Result, access, file};
use serde_json::{Map, Value, json};

/// The methods of this area.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/network", list),
    post("/nodes/{node}/network", create),
    put("/nodes/{node}/network", apply),
    delete("/nodes/{node}/network", revert),
    get("/nodes/{node}/network/{iface}", read),
    put("/nodes/{node}/network/{iface}", update),
    delete("/nodes/{node}/network/{iface}", remove),
];

fn list(call: &Call) -> Result<Reply> {
    if call.flag("plan") {
        return plan(call);
    }
    let filter = call.text("type");
    let config = edit::load(call.ctx)?;
    let rows = config
        .ifaces
        .iter()
        .filter(|(name, iface)| name.as_str() != "lo" && matches_filter(filter.as_deref(), iface))
        .filter(|(name, iface)| !is_bridge(iface) || access::sees_bridge(call.ctx, name));
    let rows: Vec<Value> = rows.map(|(name, iface)| Value::Object(row(call.ctx, &config, name, iface, true))).collect();
    let mut reply = Reply::from(Value::Array(rows));
    reply.changes = edit::changes(call.ctx)?;
    Ok(reply)
}

/// What applying would do. An addition of ours.
fn plan(call: &Call) -> Result<Reply> {
    access::check(call.ctx, &format!("/nodes/{}", call.ctx.node), &["Sys.Audit"])?;
    let plan = transaction::plan_now(call.ctx)?;
    let changes = plan.changes.iter().map(|change| json!({"change": change.to_string()}));
    let warnings = plan.warnings.iter().map(|warning| json!({"warning": warning}));
    let mut reply = Reply::from(Value::Array(warnings.chain(changes).collect()));
    reply.changes = edit::changes(call.ctx)?;
    Ok(reply)
}

fn create(call: &Call) -> Result<Reply> {
    let name: String = call.param("iface")?;
    edit::change(call.ctx, |config| edit::create(config, &name, &call.params))?;
    Ok(Reply::null())
}

fn read(call: &Call) -> Result<Reply> {
    let name: String = call.param("iface")?;
    let config = edit::load(call.ctx)?;
    let iface = config.ifaces.get(&name).ok_or_else(|| Error::parameter("iface", "interface does not exist"))?;
    Ok(Reply::from(Value::Object(row(call.ctx, &config, &name, iface, false))))
}

fn update(call: &Call) -> Result<Reply> {
    let name: String = call.param("iface")?;
    let deleted: Vec<String> = call.opt("delete")?.unwrap_or_default();
    edit::change(call.ctx, |config| edit::update(config, &name, &call.params, &deleted))?;
    Ok(Reply::null())
}

fn remove(call: &Call) -> Result<Reply> {
    let name: String = call.param("iface")?;
    edit::change(call.ctx, |config| edit::remove(config, &name))?;
    Ok(Reply::null())
}

fn apply(call: &Call) -> Result<Reply> {
    let confirm: Option<u64> = call.opt("confirm")?;
    if confirm == Some(0) {
        transaction::confirm(call.ctx)?;
        return Ok(Reply::from(json!("")));
    }
    call.task("srvreload", "networking", |task| {
        transaction::apply(task.ctx, confirm, &mut |line| match line.strip_prefix("warning: ") {
            Some(warning) => task.warn(warning),
            None => task.log(line),
        })
    })
}

fn revert(call: &Call) -> Result<Reply> {
    let _lock = file::lock_file(call.ctx, &edit::current_file(call.ctx))?;
    file::remove_if_there(&edit::pending_file(call.ctx))?;
    Ok(Reply::null())
}

fn row(ctx: &Context, config: &Interfaces, name: &str, iface: &Iface, with_name: bool) -> Map<String, Value> {
    let mut shown = describe(iface);
    if with_name {
        shown.insert("iface".into(), json!(name));
    }
    edit::add_leased_addresses(ctx, name, iface, &mut shown);
    if let Some(others) = config.altnames.get(name) {
        shown.insert("altnames".into(), json!(others));
    }
    shown
}

fn is_bridge(iface: &Iface) -> bool {
    matches!(iface.kind.as_str(), "bridge" | "OVSBridge")
}

fn matches_filter(filter: Option<&str>, iface: &Iface) -> bool {
    match filter {
        None | Some("include_sdn") => true,
        Some("any_bridge" | "any_local_bridge") => is_bridge(iface),
        Some(kind) => iface.kind == kind,
    }
}
