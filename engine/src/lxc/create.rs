//! Making a container from a template: `vzcreate`.
//!
//! ```text
//! configuration with lock `create` ── volumes ── mount ── unpack ── set up ── configuration without lock
//! ```
//! Every step pushes how to undo it; mounts undo themselves (see [`super::mount`]). A worker that is killed leaves a
//! configuration with the lock `create`, which can be destroyed; see [`super::reconcile`].
//! (PVE: API2/LXC.pm, create_vm)

use super::idmap::IdMap;
use super::interface::Interface;
use super::recovery::{self, Kind};
use super::setup::{self, NewAccount};
use super::template::{self, Archive};
use super::volume::{self, MountPoint};
use super::{destroy, disk, mount, oci, relocate, restore, unpacked};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Task, Vmid, access, guest};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What is to be made.
#[derive(Debug, Clone)]
pub struct NewContainer {
    /// Its number.
    pub vmid: Vmid,
    /// The template or backup; none for what comes over standard input.
    pub template: Option<VolumeId>,
    /// Options as they shall stand in the configuration, without mounts.
    pub options: BTreeMap<String, String>,
    /// The description.
    pub description: Option<String>,
    /// Variables of its init's environment, separated by NUL.
    pub environment: Option<String>,
    /// `rootfs` and `mpN`.
    pub mounts: Vec<MountPoint>,
    /// Root's password and keys.
    pub account: NewAccount,
    /// The pool that it joins.
    pub pool: Option<String>,
    /// Keep going when tar could not unpack everything.
    pub ignore_unpack_errors: bool,
    /// KiB per second at most.
    pub limit: Option<u64>,
    /// What the archive is a backup of a container for.
    pub restore: Option<Restore>,
}

/// How a container comes back from a backup.
#[derive(Debug, Clone)]
pub struct Restore {
    /// Replace the container that has this number.
    pub overwrite: bool,
    /// Give it hardware addresses of its own.
    pub unique: bool,
    /// Where volumes go whose mounts the caller does not name.
    pub storage: String,
    /// Whether the caller has said what the container shall be.
    pub unprivileged: Option<bool>,
    /// Whether the firewall's rules of the backup are left out.
    pub without_firewall: bool,
}

/// The template's archive, if it is there.
pub fn archive(ctx: &Context, template: &VolumeId) -> Result<PathBuf> {
    let path = storage::path(ctx, template)?;
    if path.is_file() { Ok(path) } else { Err(Error::new(format!("volume '{template}' does not exist"))) }
}

impl NewContainer {
    fn archive(&self, ctx: &Context) -> Result<Archive> {
        self.template.as_ref().map_or(Ok(Archive::StandardInput), |id| archive(ctx, id).map(Archive::File))
    }

    /// How the archive is named in logs.
    fn name(&self) -> String {
        self.template.as_ref().map_or_else(|| "-".to_owned(), VolumeId::to_string)
    }

    /// Storages on which volumes will be made.
    fn storages(&self) -> Vec<&str> {
        let wanted = self.mounts.iter().filter_map(|point| Some(point.wants_new_volume()?.0));
        wanted.chain(self.restore.iter().map(|restore| restore.storage.as_str())).collect()
    }
}

/// Makes the container; the caller holds the guest's lock.
pub fn create(task: &Task, new: &NewContainer) -> Result<()> {
    let (ctx, vmid) = (task.ctx, new.vmid);
    let verb = if new.restore.is_some() { "restore" } else { "create" };
    let prefix = || format!("unable to {verb} CT {vmid} -");
    let fail =
        |error: Error| Error::new(format!("{} {}", prefix(), error.message().trim_start_matches(&prefix()).trim()));
    let overwrite = new.restore.as_ref().is_some_and(|restore| restore.overwrite);
    let old = (overwrite && guest::find(ctx, vmid) == Some(GuestKind::Lxc))
        .then(|| guest::load(ctx, GuestKind::Lxc, vmid))
        .transpose()?;
    let _work = recovery::begin(ctx, vmid, Kind::Create(&new.storages(), old.as_ref())).map_err(fail)?;
    let replaced = reserve(ctx, new).map_err(fail)?;
    let mut made = Vec::new();
    let filled = fill(task, new, replaced.as_ref(), &mut made).map_err(fail);
    let Err(error) = filled else {
        return replaced.map_or(Ok(()), |old| remove_replaced(task, vmid, &old));
    };
    let mut failures = disk::free_all(ctx, &made);
    failures.extend(destroy::remove_directory(ctx, vmid).err());
    failures.extend(match replaced {
        None => guest::remove(ctx, GuestKind::Lxc, vmid).err(),
        Some(old) => guest::update(ctx, GuestKind::Lxc, vmid, |stored| {
            *stored = old;
            Ok(())
        })
        .err(),
    });
    Err(error.with_cleanup_failures(&failures))
}

/// Takes the number with the lock `create`; gives back the container that will be replaced.
fn reserve(ctx: &Context, new: &NewContainer) -> Result<Option<GuestConfig>> {
    let vmid = new.vmid;
    let overwrite = new.restore.as_ref().is_some_and(|restore| restore.overwrite);
    if !overwrite || guest::find(ctx, vmid) != Some(GuestKind::Lxc) {
        let mut config = GuestConfig::new(GuestKind::Lxc);
        config.current.set("lock", "create");
        guest::create(ctx, vmid, &config)?;
        return Ok(None);
    }
    guest::update(ctx, GuestKind::Lxc, vmid, |stored| {
        check_replaceable(ctx, vmid, stored)?;
        let old = stored.clone();
        stored.current.set("lock", "create");
        Ok(Some(old))
    })
}

/// Refuses to replace a container that runs, is locked or is protected.
pub fn check_replaceable(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<()> {
    if super::monitor::init(ctx, vmid).is_some() {
        return Err(Error::new("can't overwrite running container"));
    }
    if config.current.flag("protection") {
        return Err(Error::new(format!("unable to restore CT {vmid} - protection mode enabled")));
    }
    guest::check_lock(config)
}

/// Removes the volumes of the container that was replaced.
fn remove_replaced(task: &Task, vmid: Vmid, old: &GuestConfig) -> Result<()> {
    let parts = [&old.current, &old.pending.part].into_iter().chain(old.snapshots.values());
    let mut volumes: Vec<VolumeId> = parts.flat_map(volume::volumes).filter_map(|text| text.parse().ok()).collect();
    volumes.dedup();
    volumes.retain(|id| storage::describe(task.ctx, id).is_ok_and(|described| described.vmid == Some(vmid)));
    for error in disk::free_all(task.ctx, &volumes) {
        task.warn(error.message());
    }
    Ok(())
}

/// Everything behind the reserved number. Volumes are entered into `made` as soon as they exist.
fn fill(task: &Task, new: &NewContainer, replaced: Option<&GuestConfig>, made: &mut Vec<VolumeId>) -> Result<()> {
    let (ctx, vmid) = (task.ctx, new.vmid);
    let archive = new.archive(ctx)?;
    let mut config = GuestConfig::new(GuestKind::Lxc);
    let part = &mut config.current;
    part.options.extend(new.options.clone());
    part.description.clone_from(&new.description);
    let variables = new.environment.iter().flat_map(|list| list.split('\0')).filter(|variable| !variable.is_empty());
    part.raw.extend(variables.map(|variable| ("lxc.environment.runtime".to_owned(), variable.to_owned())));
    let mut mounts = new.mounts.clone();
    let mut later = Vec::new();
    let backup = match &new.restore {
        None => None,
        Some(wanted) => {
            let backup = match &archive {
                Archive::File(path) => {
                    task.log(format!("recovering backed-up configuration from '{}'", new.name()));
                    restore::config(path)?
                }
                // It comes with the files; until then only the caller's wishes are known.
                Archive::StandardInput => Part::default(),
            };
            part.raw.extend(restore::raw_lines(ctx, &backup));
            if wanted.unprivileged.unwrap_or(backup.flag("unprivileged")) {
                part.set("unprivileged", "1");
            } else if replaced.is_none_or(|old| old.current.flag("unprivileged")) {
                access::check(ctx, "/", &["Sys.Modify"])?;
            }
            if mounts.is_empty() {
                (mounts, later) = restore::mounts(ctx, &backup, &wanted.storage)?;
            }
            Some(backup)
        }
    };
    let map = IdMap::of(part)?;
    let mut is_unpacked = false;
    if let Archive::File(path) = &archive
        && let Some(template) = new.template.as_ref().filter(|_| new.restore.is_none() && !new.ignore_unpack_errors)
        && let [root] = &mut mounts[..]
        && new.limit.is_none()
        && let Some(volume) = unpacked::root_volume(task, vmid, template, path, root, &map)?
    {
        made.push(volume);
        is_unpacked = true;
    }
    for point in &mut mounts {
        task.check_abort()?;
        made.extend(disk::allocate(ctx, vmid, point, &map, &|line| task.log(line))?);
        part.set(point.key.clone(), point.print());
    }
    for (index, text) in part.indexed("net").map(|(index, text)| (index, text.to_owned())).collect::<Vec<_>>() {
        let mut net = Interface::parse(index, &text)?;
        net.complete(ctx)?;
        part.set(format!("net{index}"), net.print());
    }
    // From now on a killed worker leaves a configuration that knows its volumes, and those of the replaced container.
    guest::update(ctx, GuestKind::Lxc, vmid, |stored| {
        stored.current = part.clone();
        stored.current.set("lock", "create");
        for volume in replaced.iter().flat_map(|old| volume::volumes(&old.current)) {
            volume::add_unused(&mut stored.current, &volume)?;
        }
        Ok(())
    })?;
    mount::in_own_namespace(|| {
        let mounted = mount::mount_all(ctx, vmid, &mounts, &map, true)?;
        match (&new.restore, backup.as_ref()) {
            (Some(wanted), Some(backup)) => {
                if new.template.is_some() {
                    task.log(format!("restoring '{}' now..", new.name()));
                }
                unpack(task, new, &archive, &mounted, &map)?;
                task.log("merging backed-up and given configuration..");
                let found = if new.template.is_some() { None } else { restore::config_within(&mounted.root)? };
                let backup = found.as_ref().unwrap_or(backup);
                restore::merge(task, &mut config.current, backup, wanted.unique)?;
                let rules = restore::take_files(&mounted.root)?;
                if let Some(rules) = rules.filter(|_| !wanted.without_firewall) {
                    guest::firewall::write(ctx, vmid, &rules)?;
                }
                setup::after_restore(&mounted.root, &config.current, |text| task.warn(text))
            }
            _ => {
                if is_unpacked {
                    task.log("the files are shared with other containers of this template until they are changed");
                } else if let Some(image) = oci_image(&archive)? {
                    task.log("Detected OCI archive");
                    let wishes = image.unpack(task, &mounted.root, &map)?;
                    oci::enter(task, &wishes, &mounted.root, &mut config.current)?;
                } else {
                    unpack(task, new, &archive, &mounted, &map)?;
                }
                detect(task, &mut config, &mounted)?;
                let part = &config.current;
                setup::after_create(ctx, &mounted.root, part, &new.account, |text| task.warn(text))
            }
        }?;
        task.check_abort()
    })?;
    for point in later {
        config.current.set(point.key.clone(), point.print());
    }
    let part = &mut config.current;
    for (key, value) in [("hostname", format!("CT{vmid}")), ("memory", "512".into()), ("swap", "512".into())] {
        part.options.entry(key.into()).or_insert(value);
    }
    guest::update(ctx, GuestKind::Lxc, vmid, |stored| {
        stored.current = config.current.clone();
        stored.snapshots.clear();
        stored.pending = Default::default();
        Ok(())
    })?;
    if backup.is_some_and(|backup| backup.flag("template")) {
        task.log("Convert restored container to template...");
        relocate::make_template(task, vmid)?;
    }
    if let Some(pool) = &new.pool {
        access::pool_add_guest(ctx, pool, vmid)?;
    }
    Ok(())
}

fn oci_image(archive: &Archive) -> Result<Option<oci::Archive>> {
    match archive {
        Archive::File(path) => oci::Archive::open(path),
        Archive::StandardInput => Ok(None),
    }
}

fn unpack(task: &Task, new: &NewContainer, archive: &Archive, mounted: &mount::Mounted, map: &IdMap) -> Result<()> {
    task.log(format!("extracting archive {archive}"));
    match template::unpack(archive, &mounted.path, map, new.limit, |line| task.log(line)) {
        Err(error) if new.ignore_unpack_errors => {
            task.warn(error.message());
            Ok(())
        }
        unpacked => unpacked,
    }
}

/// Completes `ostype` and `arch` by what the template holds.
fn detect(task: &Task, config: &mut GuestConfig, mounted: &mount::Mounted) -> Result<()> {
    let part = &mut config.current;
    let unmanaged = part.get("ostype") == Some("unmanaged");
    let found = if unmanaged {
        setup::Detected {
            ostype: "unmanaged".into(),
            arch: setup::detect(&mounted.root).ok().and_then(|found| found.arch),
            warning: None,
        }
    } else {
        setup::detect(&mounted.root)?
    };
    if let Some(warning) = &found.warning {
        task.log(warning);
    }
    match part.get("ostype") {
        Some(given) if given != found.ostype => {
            task.warn(format!("got unexpected ostype ({} != {given})", found.ostype));
        }
        _ => {}
    }
    part.set("ostype", found.ostype);
    if part.get("arch").is_none() {
        match found.arch {
            Some(arch) => task.log(format!("Detected container architecture: {arch}")),
            None => task.log("Falling back to amd64.\nUse `pct set VMID --arch ARCH` to change."),
        }
        part.set("arch", found.arch.unwrap_or("amd64"));
    }
    Ok(())
}

/// The mounts of a request: plain numbers mean the default storage, a missing root is 4 GiB on it.
pub fn wanted_mounts(options: &BTreeMap<String, String>, storage: &str) -> Result<Vec<MountPoint>> {
    let given: Vec<(&String, &String)> = options.iter().filter(|(key, _)| volume::is_mount_key(key)).collect();
    if given.is_empty() {
        return Ok(vec![MountPoint::parse("rootfs", &format!("{storage}:4"))?]);
    }
    if !options.contains_key("rootfs") {
        return Err(Error::new("mount points configured, but 'rootfs' not set - aborting"));
    }
    let parse = |(key, value): (&String, &String)| {
        let plain = !value.is_empty() && value.chars().all(|c| c.is_ascii_digit() || c == '.');
        MountPoint::parse(key, &if plain { format!("{storage}:{value}") } else { value.clone() })
    };
    let mut mounts: Vec<MountPoint> = given.into_iter().map(parse).collect::<Result<_>>()?;
    mounts.sort_by_key(|mount| {
        mount.key.strip_prefix("mp").and_then(|number| number.parse::<u32>().ok()).map_or(0, |n| n + 1)
    });
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(options: &[(&str, &str)]) -> Result<Vec<String>> {
        let options = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(wanted_mounts(&options, "local")?.iter().map(|mount| format!("{} {}", mount.key, mount.print())).collect())
    }

    #[test]
    fn mounts_have_defaults_and_an_order() {
        assert_eq!(wanted(&[("cores", "1")]).unwrap(), ["rootfs local:4"]);
        let all = wanted(&[("mp10", "/a,mp=/a"), ("mp2", "other:1,mp=/b"), ("rootfs", "8")]).unwrap();
        assert_eq!(all, ["rootfs local:8", "mp2 other:1,mp=/b", "mp10 /a,mp=/a"]);
        let error = wanted(&[("mp0", "local:1,mp=/a")]).unwrap_err();
        assert_eq!(error.message(), "mount points configured, but 'rootfs' not set - aborting");
    }
}
