//! Linked clones and full copies of containers: `vzclone`.
//!
//! ```text
//! configuration of the clone with lock `create` ── volumes ── another machine's identity ── configuration without lock
//! ```
//! A template does not change, so any number of its clones are made at once; another source keeps its lock meanwhile.
//! (PVE: API2/LXC.pm, clone_vm)

use super::idmap::IdMap;
use super::interface::Interface;
use super::recovery::{self, Kind};
use super::snapshot::{can_clone, volume_id};
use super::volume::{self, MountPoint, Source};
use super::{destroy, disk, monitor, mount, setup};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, access, bail, guest};

/// What is to be made.
#[derive(Debug, Clone)]
pub struct Clone {
    /// The container to clone.
    pub source: Vmid,
    /// The clone's number.
    pub target: Vmid,
    /// The source's snapshot; its current state if absent.
    pub snapshot: Option<String>,
    /// Whether all data is copied; by default of what is no template.
    pub full: Option<bool>,
    /// Where full copies go; the source's storages if absent.
    pub storage: Option<String>,
    /// The clone's name.
    pub hostname: Option<String>,
    /// The clone's description.
    pub description: Option<String>,
    /// The pool that it joins.
    pub pool: Option<String>,
    /// KiB per second at most.
    pub limit: Option<u64>,
}

/// A clone that may be carried out.
pub struct Plan {
    full: bool,
    part: Part,
    mounts: Vec<MountPoint>,
}

/// Refuses what cannot be cloned, and says what the clone will be.
pub fn check(ctx: &Context, wanted: &Clone, config: &GuestConfig) -> Result<Plan> {
    guest::check_lock(config)?;
    let full = wanted.full.unwrap_or(!config.current.flag("template"));
    if wanted.storage.is_some() && !full {
        bail!("parameter 'storage' not allowed for linked clones");
    }
    let source = match &wanted.snapshot {
        None => &config.current,
        Some(name) => {
            let part = config.snapshots.get(name);
            part.ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?
        }
    };
    let running = monitor::init(ctx, wanted.source).is_some();
    let snapshot = wanted.snapshot.as_deref();
    let mounts = volume::mounts(source)?;
    for point in &mounts {
        let kind = match point.source() {
            Source::Volume => None,
            Source::Bind => Some("bind"),
            Source::Device => Some("device"),
        };
        if let Some(kind) = kind {
            bail!("unable to clone mountpoint '{}' (type {kind})", point.key);
        }
        let id = volume_id(point)?;
        let storage = wanted.storage.as_deref().unwrap_or(&id.storage);
        access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
        if full && running && snapshot.is_none() {
            bail!("Full clone of a running container is only possible from a snapshot");
        }
        if full {
            storage::check_content(ctx, storage, "rootdir")?;
        } else if !can_clone(ctx, &id, snapshot, running)? {
            bail!("Linked clone feature for '{id}' is not available");
        }
    }
    let mut part = source.clone();
    let gone = ["lock", "parent", "snaptime", "snapstate", "template"];
    part.options.retain(|key, _| !gone.contains(&key.as_str()) && !volume::is_unused_key(key));
    for (index, text) in source.indexed("net") {
        let mut net = Interface::parse(index, text)?;
        net.renew_address(ctx)?;
        if let Some(bridge) = net.get("bridge") {
            let tag = net.number("tag").map(|tag| tag.to_string());
            access::check_bridge(ctx, bridge, tag.as_deref(), net.get("trunks"))?;
        }
        part.set(format!("net{index}"), net.print());
    }
    if let Some(name) = &wanted.hostname {
        part.set("hostname", name);
    }
    if let Some(text) = &wanted.description {
        part.description = Some(text.clone());
    }
    Ok(Plan { full, part, mounts })
}

/// Makes the clone; the caller holds the locks of the clone and of a source that is no template.
pub fn clone(task: &Task, wanted: &Clone) -> Result<()> {
    let ctx = task.ctx;
    let plan = check(ctx, wanted, &guest::load(ctx, GuestKind::Lxc, wanted.source)?)?;
    task.log(format!("creating a clone of container {} with ID {}", wanted.source, wanted.target));
    // No mount before its volume is the clone's own: a killed worker must not leave a clone that owns the source's.
    let mut config = GuestConfig::new(GuestKind::Lxc);
    config.current = plan.part.clone();
    config.current.options.retain(|key, _| !volume::is_mount_key(key));
    config.current.set("lock", "create");
    let ids = plan.mounts.iter().map(volume_id).collect::<Result<Vec<_>>>()?;
    let of = |id: &VolumeId| wanted.storage.clone().unwrap_or_else(|| id.storage.clone());
    let storages: Vec<String> = ids.iter().map(of).collect();
    let storages: Vec<&str> = storages.iter().map(String::as_str).collect();
    let _work = recovery::begin(ctx, wanted.target, Kind::Create(&storages, None))?;
    guest::create(ctx, wanted.target, &config)?;
    let mut made = Vec::new();
    let Err(error) = fill(task, wanted, &plan, &mut made) else { return Ok(()) };
    let mut failures = disk::free_all(ctx, &made);
    failures.extend(destroy::remove_directory(ctx, wanted.target).err());
    failures.extend(guest::remove(ctx, GuestKind::Lxc, wanted.target).err());
    Err(Error::new(format!("clone failed: {}", error.message())).with_cleanup_failures(&failures))
}

fn fill(task: &Task, wanted: &Clone, plan: &Plan, made: &mut Vec<VolumeId>) -> Result<()> {
    let (ctx, target, snapshot) = (task.ctx, wanted.target, wanted.snapshot.as_deref());
    let map = IdMap::of(&plan.part)?;
    let mut mounts = plan.mounts.clone();
    for point in &mut mounts {
        task.check_abort()?;
        let id = volume_id(point)?;
        let new = if plan.full {
            task.log(format!("create full clone of mountpoint {} ({id})", point.key));
            let storage = wanted.storage.as_deref().unwrap_or(&id.storage);
            let limit = storage::bandwidth_limit(ctx, "clone", &[&id.storage, storage], wanted.limit)?;
            disk::copy(task, point, snapshot, storage, target, &map, limit)?
        } else {
            task.log(format!("create linked clone of mount point {} ({id})", point.key));
            storage::clone_linked(ctx, &id, snapshot, target)?
        };
        made.push(new.clone());
        if snapshot.is_some() {
            disk::forget_user(ctx, &new)?;
        }
        point.set_volume(new.to_string(), None);
        guest::update(ctx, GuestKind::Lxc, target, |config| {
            config.current.set(point.key.clone(), point.print());
            Ok(())
        })?;
    }
    mount::in_own_namespace(|| {
        let mounted = mount::mount_all(ctx, target, &mounts, &map, true)?;
        setup::after_clone(&mounted.root, &plan.part, |text| task.warn(text))
    })?;
    guest::firewall::copy(ctx, wanted.source, target)?;
    if let Some(pool) = &wanted.pool {
        access::pool_add_guest(ctx, pool, target)?;
    }
    task.check_abort()?;
    guest::update(ctx, GuestKind::Lxc, target, |config| {
        config.current.options.remove("lock");
        Ok(())
    })
}
