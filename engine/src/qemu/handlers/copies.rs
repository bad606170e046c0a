//! Clones, templates and disks on the move.

use crate::config::guest::GuestKind;
use crate::qemu::clone::{self, Clone};
use crate::qemu::move_disk::{self, Move, Reassign};
use crate::qemu::{config::Slot, snapshot, status, template as templates};
use crate::registry::{Binding, get, post};
use crate::storage::{self, Feature, Format};
use crate::{Call, Error, Reply, Result, Vmid, access, guest};
use serde_json::json;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    post("/nodes/{node}/qemu/{vmid}/clone", copy),
    get("/nodes/{node}/qemu/{vmid}/feature", feature),
    post("/nodes/{node}/qemu/{vmid}/move_disk", relocate),
    post("/nodes/{node}/qemu/{vmid}/template", template),
];

fn format(call: &Call) -> Result<Option<Format>> {
    call.text("format").map(|name| name.parse().map_err(Error::new)).transpose()
}

/// `POST clone`.
fn copy(call: &Call) -> Result<Reply> {
    if call.text("target").is_some_and(|node| !call.ctx.is_local_node(&node)) {
        return Err(Error::NotImplemented("clones on another node are not supported yet".into()));
    }
    let wish = Clone {
        source: call.param("vmid")?,
        target: call.param("newid")?,
        snapshot: call.text("snapname"),
        full: call.opt("full")?,
        name: call.text("name"),
        description: call.text("description"),
        pool: call.text("pool"),
        storage: call.text("storage"),
        format: format(call)?,
        limit: call.opt("bwlimit")?,
    };
    if let Some(pool) = &wish.pool
        && !access::config(call.ctx)?.pools.contains_key(pool)
    {
        return Err(Error::Forbidden(format!("Permission check failed (pool '{pool}' does not exist)")));
    }
    if !matches!(call.ctx.mode, crate::Mode::Worker(_)) {
        clone::check(call.ctx, &wish)?;
    }
    call.task("qmclone", wish.source, |task| clone::clone(task, &wish))
}

/// `GET feature`: whether a snapshot, clone or copy is possible.
fn feature(call: &Call) -> Result<Reply> {
    let (vmid, name): (Vmid, String) = (call.param("vmid")?, call.param("feature")?);
    let running = status::checked_running(call.ctx, vmid)?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    let snapshot_name = call.text("snapname");
    let part = match &snapshot_name {
        None => &config.current,
        Some(name) => {
            config.snapshots.get(name).ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?
        }
    };
    let wanted = match name.as_str() {
        "snapshot" => Feature::Snapshot,
        "clone" => Feature::Clone,
        _ => Feature::Copy,
    };
    let mut possible = true;
    for drive in snapshot::plan::disks(vmid, part)? {
        possible &= match drive.volume() {
            Some(volume) => storage::has_feature(call.ctx, wanted, &volume, snapshot_name.as_deref(), running)?,
            None => false,
        };
    }
    Ok(Reply::from(json!({"hasFeature": i32::from(possible), "nodes": [call.ctx.node]})))
}

/// `POST template`.
fn template(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let disk: Option<Slot> = call.text("disk").map(|disk| disk.parse().map_err(Error::new)).transpose()?;
    if !matches!(call.ctx.mode, crate::Mode::Worker(_)) {
        templates::check(call.ctx, vmid, disk)?;
    }
    call.task("qmtemplate", vmid, |task| templates::create(task, vmid, disk))
}

/// `POST move_disk`: to a storage, or to another VM.
fn relocate(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let slot: Slot = call.param::<String>("disk")?.parse().map_err(Error::new)?;
    let target: Option<Vmid> = call.opt("target-vmid")?;
    let refuse = |text: &str| {
        let mut errors = contract::ParamErrors::default();
        errors.add("target-vmid", text);
        errors.add("storage", text);
        Err(Error::Parameters(errors))
    };
    match (call.text("storage"), target) {
        (Some(_), Some(_)) => refuse("either set 'storage' or 'target-vmid', but not both"),
        (None, None) => refuse("both 'storage' and 'target-vmid' missing, either needs to be set"),
        (Some(storage), None) => {
            access::check(call.ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
            let wish = Move {
                slot,
                storage,
                format: format(call)?,
                delete: call.flag("delete"),
                limit: call.opt("bwlimit")?,
                digest: call.text("digest"),
            };
            if !matches!(call.ctx.mode, crate::Mode::Worker(_)) {
                move_disk::check(call.ctx, vmid, &wish)?;
            }
            call.task("qmmove", vmid, |task| move_disk::to_storage(task, vmid, &wish))
        }
        (None, Some(target)) => {
            access::check(call.ctx, &format!("/vms/{target}"), &["VM.Config.Disk"])?;
            if target == vmid {
                return Err(Error::parameter("target-vmid", "must be different than source VMID to reassign disk"));
            }
            let target_slot = call.text("target-disk").map(|disk| disk.parse().map_err(Error::new)).transpose()?;
            let wish = Reassign {
                slot,
                target,
                target_slot: target_slot.unwrap_or(slot),
                digest: call.text("digest"),
                target_digest: call.text("target-digest"),
            };
            if !matches!(call.ctx.mode, crate::Mode::Worker(_)) {
                let (_, volume) = move_disk::check_reassign(call.ctx, vmid, &wish)?;
                access::check(call.ctx, &format!("/storage/{}", volume.storage), &["Datastore.AllocateSpace"])?;
            }
            let id = format!("{vmid}-{slot}>{target}-{}", wish.target_slot);
            call.task("qmmove", id, |task| move_disk::to_vm(task, vmid, &wish))
        }
    }
}
