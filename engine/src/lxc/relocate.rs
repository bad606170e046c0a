//! Volumes that change: to another storage, to another container, into a template's image.
//! (PVE: API2/LXC.pm move_volume and template; LXC.pm template_create)

use super::idmap::IdMap;
use super::recovery::{self, Kind};
use super::snapshot::volume_id;
use super::volume::{self, MountPoint, Source};
use super::{disk, monitor, update};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::storage::{self, Feature, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, bail, file, guest};

/// A volume's way to another storage.
#[derive(Debug, Clone)]
pub struct Move {
    /// `rootfs` or `mpN`.
    pub key: String,
    /// Where it goes.
    pub storage: String,
    /// Whether the old volume goes away; otherwise it stays as an unused one.
    pub delete: bool,
    /// The state that the caller saw.
    pub digest: Option<String>,
    /// KiB per second at most.
    pub limit: Option<u64>,
}

/// Refuses what cannot be moved to another storage.
pub fn check_move(ctx: &Context, vmid: Vmid, config: &GuestConfig, wanted: &Move) -> Result<MountPoint> {
    guest::check_lock(config)?;
    if monitor::init(ctx, vmid).is_some() {
        bail!("cannot move volumes of a running container");
    }
    let key = &wanted.key;
    if volume::is_unused_key(key) {
        bail!("cannot move volume '{key}', only configured volumes can be moved to another storage");
    }
    let text = config.current.get(key).ok_or_else(|| Error::new(format!("volume '{key}' does not exist")))?;
    let point = MountPoint::parse(key, text)?;
    if point.source() != Source::Volume {
        bail!("can't move '{key}': it is no volume of a storage");
    }
    if wanted.delete && in_use_by_snapshots(config, point.volume()) {
        bail!("you can't move a volume with snapshots and delete the source");
    }
    file::assert_digest(&config.digest, wanted.digest.as_deref())?;
    storage::check_content(ctx, &wanted.storage, "rootdir")?;
    Ok(point)
}

fn in_use_by_snapshots(config: &GuestConfig, wanted: &str) -> bool {
    config.snapshots.values().any(|part| volume::volumes(part).iter().any(|volume| volume == wanted))
}

/// Moves a volume to another storage; the caller holds the guest's lock.
pub fn move_to_storage(task: &Task, vmid: Vmid, wanted: &Move) -> Result<()> {
    let ctx = task.ctx;
    check_move(ctx, vmid, &guest::load(ctx, GuestKind::Lxc, vmid)?, wanted)?;
    let _work = recovery::begin(ctx, vmid, Kind::Move(&wanted.storage))?;
    let (mut point, part) = guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        let point = check_move(ctx, vmid, config, wanted)?;
        config.current.set("lock", "disk");
        Ok((point, config.current.clone()))
    })?;
    let moved = (|| {
        let old = volume_id(&point)?;
        let limit = storage::bandwidth_limit(ctx, "move", &[&old.storage, &wanted.storage], wanted.limit)?;
        let mut new = disk::copy(task, &point, None, &wanted.storage, vmid, &IdMap::of(&part)?, limit)?;
        let entered = (|| {
            if part.flag("template") {
                new = storage::make_template(ctx, &new)?;
            }
            task.check_abort()?;
            point.set_volume(new.to_string(), None);
            guest::update(ctx, GuestKind::Lxc, vmid, |config| {
                config.current.set(point.key.clone(), point.print());
                if !wanted.delete {
                    volume::add_unused(&mut config.current, &old.to_string())?;
                }
                Ok(())
            })
        })();
        entered.map(|()| old).map_err(|error| error.with_cleanup_failures(&disk::free_all(ctx, &[new])))
    })();
    let unlocked = guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        config.current.options.remove("lock");
        Ok(())
    });
    let old = moved?;
    unlocked?;
    if wanted.delete
        && let Err(error) = storage::free(ctx, &old)
    {
        task.warn(error.message());
        guest::update(ctx, GuestKind::Lxc, vmid, |config| volume::add_unused(&mut config.current, &old.to_string()))?;
    }
    Ok(())
}

/// A volume's way to another container.
#[derive(Debug, Clone)]
pub struct Reassign {
    /// The container that has it.
    pub source: Vmid,
    /// Under which option.
    pub key: String,
    /// The container that gets it.
    pub target: Vmid,
    /// Under which option.
    pub target_key: String,
    /// The states that the caller saw.
    pub digests: (Option<String>, Option<String>),
}

/// Refuses what cannot be given away, and says which volume it is.
pub fn check_reassign(ctx: &Context, wanted: &Reassign) -> Result<VolumeId> {
    let Reassign { source, key, target, target_key, digests } = wanted;
    if key == "rootfs" || target_key == "rootfs" {
        bail!("Cannot move to/from 'rootfs'");
    }
    if volume::is_unused_key(key) && !volume::is_unused_key(target_key) {
        bail!("Moving an unused volume to a used one is not possible");
    }
    let load = |vmid: Vmid| {
        if guest::find(ctx, vmid) != Some(GuestKind::Lxc) {
            bail!("could not find CT {vmid}");
        }
        let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
        guest::check_lock(&config)?;
        Ok(config)
    };
    let (from, to) = (load(*source)?, load(*target)?);
    if from.current.flag("template") || to.current.flag("template") {
        bail!("Can't move volumes from or to template CT");
    }
    for (vmid, config, digest) in [(source, &from, &digests.0), (target, &to, &digests.1)] {
        file::assert_digest(&config.digest, digest.as_deref())
            .map_err(|error| Error::new(format!("Container {vmid}: {}", error.message())))?;
    }
    let Some(text) = from.current.get(key) else {
        bail!("volume '{key}' for container '{source}' does not exist");
    };
    if to.current.get(target_key).is_some() {
        bail!("Target volume key '{target_key}' is already in use for container '{target}'");
    }
    let volume = if volume::is_unused_key(key) {
        text.to_owned()
    } else {
        let point = MountPoint::parse(key, text)?;
        if point.source() != Source::Volume {
            bail!("Cannot move a bindmount or device mount to another container");
        }
        point.volume().to_owned()
    };
    if in_use_by_snapshots(&from, &volume) {
        bail!("Cannot move volume used by a snapshot to another container");
    }
    let id: VolumeId = volume.parse().map_err(Error::new)?;
    if !storage::has_feature(ctx, Feature::Rename, &id, None, false)? {
        bail!("Storage does not support moving of this disk to another container");
    }
    if monitor::init(ctx, *source).is_some() && !volume::is_unused_key(key) {
        bail!("Cannot move in-use volume while the source CT is running - detach or shutdown first");
    }
    Ok(id)
}

/// Gives a volume to another container; the caller holds the locks of both.
pub fn reassign(task: &Task, wanted: &Reassign) -> Result<()> {
    let ctx = task.ctx;
    let Reassign { source, key, target, target_key, .. } = wanted;
    let id = check_reassign(ctx, wanted)?;
    task.log(format!("moving volume '{key}' from container '{source}' to '{target}'"));
    let text = guest::load(ctx, GuestKind::Lxc, *source)?.current.get(key).unwrap_or_default().to_owned();
    let new = storage::reassign(ctx, &id, *target, None)?;
    task.log(format!("removing volume '{key}' from container '{source}' config"));
    guest::update(ctx, GuestKind::Lxc, *source, |config| {
        config.current.options.remove(key);
        Ok(())
    })?;
    let unused = volume::is_unused_key(target_key);
    let value = if unused || volume::is_unused_key(key) {
        new.to_string()
    } else {
        let mut point = MountPoint::parse(key, &text)?;
        point.set_volume(new.to_string(), None);
        point.print()
    };
    if unused {
        guest::update(ctx, GuestKind::Lxc, *target, |config| {
            config.current.set(target_key.clone(), value);
            Ok(())
        })?;
    } else {
        let set = [(target_key.clone(), value)].into();
        let change = update::Change { set, ..update::Change::default() };
        update::change(ctx, *target, &change, &|text| task.warn(text)).or_else(|error| {
            task.warn(error.message());
            Ok::<(), Error>(())
        })?;
    }
    task.log(format!("target container '{target}' updated with '{target_key}'"));
    Ok(())
}

/// Refuses to make a template of what can be none.
pub fn check_template(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<()> {
    guest::check_lock(config)?;
    if !config.snapshots.is_empty() {
        bail!("unable to create template, because CT contains snapshots");
    }
    if config.current.flag("template") {
        bail!("you can't convert a template to a template");
    }
    if monitor::init(ctx, vmid).is_some() {
        bail!("you can't convert a CT to template if the CT is running");
    }
    for point in volume::mounts(&config.current)?.iter().filter(|point| point.source() == Source::Volume) {
        let id = volume_id(point)?;
        if !storage::has_feature(ctx, Feature::Template, &id, None, false)? {
            bail!("Template feature is not available for '{id}'");
        }
    }
    Ok(())
}

/// Makes a template of a container; the caller holds the guest's lock.
pub fn make_template(task: &Task, vmid: Vmid) -> Result<()> {
    let ctx = task.ctx;
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    check_template(ctx, vmid, &config)?;
    for mut point in volume::mounts(&config.current)?.into_iter().filter(|point| point.source() == Source::Volume) {
        task.check_abort()?;
        let new = storage::make_template(ctx, &volume_id(&point)?)?;
        point.set_volume(new.to_string(), None);
        guest::update(ctx, GuestKind::Lxc, vmid, |config| {
            config.current.set(point.key.clone(), point.print());
            Ok(())
        })?;
    }
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        config.current.set("template", "1");
        Ok(())
    })
}
