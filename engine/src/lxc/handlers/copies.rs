//! Clones, templates and volumes that move. (PVE: API2/LXC.pm)

use super::vmid;
use crate::config::guest::GuestKind;
use crate::lock::QueueLock;
use crate::lxc::clone::{self, Clone};
use crate::lxc::relocate::{self, Move, Reassign};
use crate::lxc::{recovery, snapshot};
use crate::registry::{Binding, get, post};
use crate::storage::Feature;
use crate::{Call, Error, Reply, Result, Task, Vmid, access, bail, guest};
use serde_json::json;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    post("/nodes/{node}/lxc/{vmid}/clone", clone_container),
    get("/nodes/{node}/lxc/{vmid}/feature", get_feature),
    post("/nodes/{node}/lxc/{vmid}/move_volume", move_volume),
    post("/nodes/{node}/lxc/{vmid}/template", make_template),
];

/// The locks of two guests, in an order that is the same for everybody.
fn both(task: &Task, one: Vmid, other: Vmid) -> Result<Vec<QueueLock>> {
    let mut vmids = vec![one, other];
    vmids.sort_unstable();
    vmids.dedup();
    vmids.into_iter().map(|vmid| recovery::NOTES.lock(task, vmid)).collect()
}

fn refuse_other_node(call: &Call) -> Result<()> {
    match call.opt::<String>("target")? {
        Some(target) if target != call.ctx.node && target != "localhost" => {
            Err(Error::NotImplemented("containers cannot be cloned to other nodes yet".into()))
        }
        _ => Ok(()),
    }
}

fn clone_container(call: &Call) -> Result<Reply> {
    let ctx = call.ctx;
    let wanted = Clone {
        source: vmid(call)?,
        target: call.param("newid")?,
        snapshot: call.opt("snapname")?,
        full: call.opt("full")?,
        storage: call.opt("storage")?,
        hostname: call.opt("hostname")?,
        description: call.opt("description")?,
        pool: call.opt("pool")?,
        limit: call.opt::<f64>("bwlimit")?.map(|limit| limit as u64),
    };
    refuse_other_node(call)?;
    let config = guest::load(ctx, GuestKind::Lxc, wanted.source)?;
    // The worker comes here, too: then the number may be taken by what it made before it was killed, but not by itself.
    if let Some(kind) = guest::find(ctx, wanted.target) {
        let (target, label) = (wanted.target, kind.label());
        bail!("unable to create CT {target} - {label} {target} already exists on node '{}'", ctx.node);
    }
    clone::check(ctx, &wanted, &config)?;
    let is_template = config.current.flag("template");
    call.task("vzclone", wanted.source, |task| {
        let _locks = if is_template {
            vec![recovery::NOTES.lock(task, wanted.target)?]
        } else {
            both(task, wanted.source, wanted.target)?
        };
        clone::clone(task, &wanted)
    })
}

fn make_template(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    relocate::check_template(call.ctx, vmid, &guest::load(call.ctx, GuestKind::Lxc, vmid)?)?;
    call.task("vztemplate", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        relocate::make_template(task, vmid)
    })
}

fn move_volume(call: &Call) -> Result<Reply> {
    let (ctx, vmid) = (call.ctx, vmid(call)?);
    let key: String = call.param("volume")?;
    match (call.opt::<String>("storage")?, call.opt::<Vmid>("target-vmid")?) {
        (Some(_), Some(_)) => {
            let text = "either set 'storage' or 'target-vmid', but not both";
            Err(parameters(text))
        }
        (None, None) => Err(parameters("both 'storage' and 'target-vmid' missing, either needs to be set")),
        (Some(storage), None) => {
            access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            let limit = call.opt::<f64>("bwlimit")?.map(|limit| limit as u64);
            let wanted = Move { key, storage, delete: call.flag("delete"), digest: call.opt("digest")?, limit };
            relocate::check_move(ctx, vmid, &guest::load(ctx, GuestKind::Lxc, vmid)?, &wanted)?;
            call.task("move_volume", vmid, |task| {
                let _lock = recovery::NOTES.lock(task, vmid)?;
                relocate::move_to_storage(task, vmid, &wanted)
            })
        }
        (None, Some(target)) => {
            access::check(ctx, &format!("/vms/{target}"), &["VM.Config.Disk"])?;
            let target_key = call.opt("target-volume")?.unwrap_or_else(|| key.clone());
            let digests = (call.opt("digest")?, call.opt("target-digest")?);
            let wanted = Reassign { source: vmid, key, target, target_key, digests };
            let id = relocate::check_reassign(ctx, &wanted)?;
            access::check(ctx, &format!("/storage/{}", id.storage), &["Datastore.AllocateSpace"])?;
            let what = format!("{vmid}-{}>{target}-{}", wanted.key, wanted.target_key);
            call.task("move_volume", what, |task| {
                let _locks = both(task, vmid, target)?;
                relocate::reassign(task, &wanted)
            })
        }
    }
}

fn parameters(text: &str) -> Error {
    let mut errors = contract::ParamErrors::default();
    errors.add("target-vmid", text);
    errors.add("storage", text);
    Error::Parameters(errors)
}

/// What the volumes allow. (PVE: LXC/Config.pm, has_feature)
fn get_feature(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let config = guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    let name: Option<String> = call.opt("snapname")?;
    let part = match &name {
        None => &config.current,
        Some(name) => {
            let part = config.snapshots.get(name);
            part.ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?
        }
    };
    let feature = match call.param::<String>("feature")?.as_str() {
        "snapshot" => Feature::Snapshot,
        "clone" => Feature::Clone,
        _ => Feature::Copy,
    };
    let able = snapshot::has_feature(call.ctx, feature, part, name.as_deref(), false)?;
    Ok(json!({"hasFeature": i32::from(able)}).into())
}
