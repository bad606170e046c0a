//! Snapshots over the interface.

use crate::config::guest::GuestKind;
use crate::qemu::config::Vm;
use crate::qemu::snapshot::{self, Create, plan};
use crate::qemu::{reply, state, status};
use crate::registry::{Binding, delete, get, post, put};
use crate::{Call, Error, Reply, Result, Vmid, access, guest};
use serde_json::{Value, json};

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/qemu/{vmid}/snapshot", list),
    post("/nodes/{node}/qemu/{vmid}/snapshot", create),
    get("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}", directory),
    delete("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}", remove),
    get("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config", show),
    put("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config", describe),
    post("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback", roll_back),
];

fn target(call: &Call) -> Result<(Vmid, String)> {
    Ok((call.param("vmid")?, call.param("snapname")?))
}

fn list(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    Ok(Reply::from(Value::Array(plan::listing(&config, status::is_running(call.ctx, vmid)))))
}

fn directory(_call: &Call) -> Result<Reply> {
    Ok(Reply::from(json!([{"cmd": "rollback"}, {"cmd": "config"}])))
}

fn create(call: &Call) -> Result<Reply> {
    let (vmid, name) = target(call)?;
    if name == "current" || name.eq_ignore_ascii_case("pending") {
        return Err(Error::new(format!("unable to use snapshot name '{}' (reserved name)", name.to_lowercase())));
    }
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    let with_state = call.flag("vmstate");
    if with_state {
        state::check_resources(&Vm::new(vmid, &config.current))?;
    }
    let wish = Create { name, with_state, description: call.text("description") };
    call.task("qmsnapshot", vmid, |task| snapshot::create(task, vmid, &wish))
}

fn remove(call: &Call) -> Result<Reply> {
    let (vmid, name) = target(call)?;
    let force = call.flag("force");
    call.task("qmdelsnapshot", vmid, |task| snapshot::delete(task, vmid, &name, force))
}

fn roll_back(call: &Call) -> Result<Reply> {
    let (vmid, name) = target(call)?;
    let start = call.flag("start");
    if start {
        access::check(call.ctx, &format!("/vms/{vmid}"), &["VM.PowerMgmt"])?;
    }
    call.task("qmrollback", vmid, |task| snapshot::roll_back(task, vmid, &name, start))
}

fn show(call: &Call) -> Result<Reply> {
    let (vmid, name) = target(call)?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    let mut shown = reply::snapshot(&config, &name).ok_or_else(|| missing(&name))?;
    if let Some(map) = shown.as_object_mut() {
        // The digest is that of the whole file; PVE leaves it out here.
        map.remove("digest");
    }
    Ok(Reply::from(shown))
}

fn describe(call: &Call) -> Result<Reply> {
    let (vmid, name) = target(call)?;
    if let Some(text) = call.text("description") {
        guest::update(call.ctx, GuestKind::Qemu, vmid, |config| {
            guest::check_lock(config)?;
            let snapshot = config.snapshots.get_mut(&name).ok_or_else(|| missing(&name))?;
            snapshot.description = Some(text).filter(|text| !text.is_empty());
            Ok(())
        })?;
    }
    Ok(Reply::null())
}

fn missing(name: &str) -> Error {
    Error::new(format!("snapshot '{name}' does not exist"))
}
