//! `/nodes/{node}/lxc/{vmid}/snapshot`. (PVE: API2/LXC/Snapshot.pm)

use super::{is_running, runtime, vmid};
use crate::config::guest::{GuestKind, Part};
use crate::lxc::start::{self, Start};
use crate::lxc::{recovery, snapshot, view};
use crate::registry::{Binding, delete, get, post, put};
use crate::{Call, Error, Reply, Result, bail, guest};
use serde_json::{Map, Value, json};

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/lxc/{vmid}/snapshot", list),
    post("/nodes/{node}/lxc/{vmid}/snapshot", take),
    delete("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}", drop_snapshot),
    get("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config", get_config),
    put("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config", put_config),
    post("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/rollback", rollback),
];

fn list(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let config = guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    let row = |(name, part): (&String, &Part)| {
        let time = part.get("snaptime").and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
        let description = part.description.as_deref().unwrap_or_default();
        let mut row = Map::from_iter([
            ("name".to_owned(), json!(name)),
            ("snaptime".to_owned(), json!(time)),
            ("description".to_owned(), json!(description)),
        ]);
        for key in ["parent", "snapstate"] {
            if let Some(value) = part.get(key) {
                row.insert(key.to_owned(), json!(value));
            }
        }
        Value::Object(row)
    };
    let mut rows: Vec<Value> = config.snapshots.iter().map(row).collect();
    let mut current = json!({
        "name": "current",
        "digest": config.digest,
        "running": i32::from(is_running(call, vmid)),
        "description": "You are here!",
    });
    if let Some(parent) = config.current.get("parent") {
        current["parent"] = json!(parent);
    }
    rows.push(current);
    Ok(Value::Array(rows).into())
}

fn name(call: &Call) -> Result<String> {
    call.param("snapname")
}

fn take(call: &Call) -> Result<Reply> {
    let (vmid, name) = (vmid(call)?, name(call)?);
    if matches!(name.as_str(), "current" | "vzdump") {
        bail!("unable to use snapshot name '{name}' (reserved name)");
    }
    let description: Option<String> = call.opt("description")?;
    guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    let runtime = runtime(call);
    call.task("vzsnapshot", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        snapshot::take(task, &runtime, vmid, &name, description.as_deref())
    })
}

fn drop_snapshot(call: &Call) -> Result<Reply> {
    let (vmid, name, force) = (vmid(call)?, name(call)?, call.flag("force"));
    guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    call.task("vzdelsnapshot", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        snapshot::drop(task, vmid, &name, force)
    })
}

fn rollback(call: &Call) -> Result<Reply> {
    let (vmid, name, start) = (vmid(call)?, name(call)?, call.flag("start"));
    guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    let runtime = runtime(call);
    call.task("vzrollback", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        snapshot::rollback(task, &runtime, vmid, &name)?;
        if start { start::start(task, &runtime, vmid, Start::default()) } else { Ok(()) }
    })
}

fn get_config(call: &Call) -> Result<Reply> {
    let (config, name) = (guest::load(call.ctx, GuestKind::Lxc, vmid(call)?)?, name(call)?);
    let part = config.snapshots.get(&name);
    let part = part.ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?;
    let mut reply = view::snapshot(part, "");
    if let Value::Object(fields) = &mut reply {
        fields.remove("digest");
    }
    Ok(reply.into())
}

fn put_config(call: &Call) -> Result<Reply> {
    let (vmid, name) = (vmid(call)?, name(call)?);
    let Some(description) = call.opt::<String>("description")? else { return Ok(Reply::null()) };
    guest::update(call.ctx, GuestKind::Lxc, vmid, |config| {
        guest::check_lock(config)?;
        let part = config.snapshots.get_mut(&name);
        let part = part.ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?;
        part.description = Some(description).filter(|text| !text.is_empty());
        Ok(())
    })?;
    Ok(Reply::null())
}
