//! Changing a container's configuration: `pct set`, and what waits for a start or stop.
//!
//! ```text
//! request ── checked ──> pending section ── stopped: all of it ────────────> current section
//!                                        └─ running: what can be hot-plugged ┘
//! ```
//! A change that needs work (a new volume, a limit of a running container) is carried out before the configuration says
//! so, without holding the file's lock; if the wish has changed meanwhile, the work is undone.
//! (PVE: LXC/Config.pm, update_pct_config, vmconfig_hotplug_pending, vmconfig_apply_pending)

use super::cgroup::{self, Hierarchies};
use super::idmap::IdMap;
use super::interface::Interface;
use super::volume::{self, MountPoint, Source};
use super::{disk, facts, hotplug, monitor, plan};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, Content, VolumeId};
use crate::{Context, Error, Result, Vmid, bail, file, guest};
use contract::ParamErrors;
use std::collections::BTreeMap;
use std::os::unix::fs::FileTypeExt;

/// Options that take effect without touching the running container.
const IMMEDIATE: [&str; 9] =
    ["description", "onboot", "startup", "protection", "hostname", "hookscript", "cores", "tags", "lock"];

/// A request to change options.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// New values as the file holds them.
    pub set: BTreeMap<String, String>,
    /// Options to delete.
    pub delete: Vec<String>,
    /// Options whose pending change is dropped.
    pub revert: Vec<String>,
    /// The state that the caller saw.
    pub digest: Option<String>,
}

impl Change {
    fn keys(&self) -> Vec<String> {
        self.set.keys().chain(&self.delete).cloned().collect()
    }
}

/// Carries a change out as far as the container's state allows.
///
/// # Errors
/// What could not be applied, by option (400); such options are unchanged if the container is stopped, and pending if it
/// runs.
pub fn change(ctx: &Context, vmid: Vmid, change: &Change, warn: &dyn Fn(&str)) -> Result<()> {
    let mut change = change.clone();
    normalize(ctx, &mut change.set)?;
    guest::update(ctx, GuestKind::Lxc, vmid, |config| {
        guest::check_lock(config)?;
        file::assert_digest(&config.digest, change.digest.as_deref())?;
        enter(vmid, config, &change, warn)
    })?;
    let running = monitor::init(ctx, vmid).is_some();
    let errors = apply(ctx, vmid, running, Some(&change.keys()))?;
    if errors.is_empty() {
        return Ok(());
    }
    if !running {
        let refused: Vec<String> = errors.iter().map(|(key, _)| key.to_owned()).collect();
        guest::update(ctx, GuestKind::Lxc, vmid, |config| {
            refused.iter().for_each(|key| drop_pending(config, key));
            Ok(())
        })?;
    }
    Err(Error::Parameters(errors))
}

/// Applies everything that waits; used while the container is stopped. What cannot be applied stays and is told.
pub fn apply_all_pending(ctx: &Context, vmid: Vmid, warn: impl Fn(&str)) -> Result<GuestConfig> {
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    if config.pending.is_empty() {
        return Ok(config);
    }
    for (_, text) in apply(ctx, vmid, false, None)?.iter() {
        warn(text);
    }
    guest::load(ctx, GuestKind::Lxc, vmid)
}

/// Checks values and writes them in their canonical form. (PVE: LXC/Config.pm, update_pct_config)
pub fn normalize(ctx: &Context, options: &mut BTreeMap<String, String>) -> Result<()> {
    let hierarchies = Hierarchies::of_host()?;
    for (key, value) in options {
        if let Some(index) = key.strip_prefix("net").and_then(|index| index.parse().ok()) {
            let mut net = Interface::parse(index, value)?;
            net.complete(ctx)?;
            check_mtu(ctx, &net)?;
            if !net.flag("link_down") && net.flag("host-managed") && net.get("ip6") == Some("auto") {
                bail!("{key}: SLAAC is not supported for host-managed network configuration.");
            }
            *value = net.print();
        } else if volume::is_mount_key(key) {
            let mount = MountPoint::parse(key, value)?;
            if mount.source() == Source::Volume {
                let storage = mount.volume().split(':').next().unwrap_or_default();
                if !storage::find(ctx, storage)?.entry.has_content(Content::Rootdir) {
                    bail!("storage '{storage}' does not allow content type 'rootdir' (Container)");
                }
            }
            *value = mount.print();
        } else if index_of(key, "dev").is_some() {
            let mut wanted = Part::default();
            wanted.set(key.clone(), value.clone());
            plan::passed_devices(&wanted)?.iter().try_for_each(|device| check_device(&device.path))?;
        } else if matches!(key.as_str(), "nameserver" | "searchdomain") {
            *value = crate::types::split_list(value).join(" ");
        } else if key == "hookscript" {
            guest::input::check_hookscript(ctx, value)?;
        } else if key == "tags" {
            *value = guest::tags::unique(ctx, value)?;
        } else if key == "cpuunits" {
            *value = cgroup::clamp_cpu_units(&hierarchies, value.parse().ok()).to_string();
        } else if key == "unprivileged" {
            bail!("unable to modify read-only option: 'unprivileged'");
        }
    }
    Ok(())
}

/// Refuses what is no device of this node. (PVE: LXC/Tools.pm, get_device_mode_and_rdev)
fn check_device(path: &str) -> Result<()> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!("Device {path} does not exist"),
        Err(_) => bail!("Error accessing device {path}"),
        Ok(found) if !found.file_type().is_block_device() && !found.file_type().is_char_device() => {
            bail!("{path} is not a device")
        }
        Ok(_) => Ok(()),
    }
}

fn check_mtu(ctx: &Context, net: &Interface) -> Result<()> {
    let (Some(mtu), Some(bridge)) = (net.number("mtu"), net.get("bridge")) else { return Ok(()) };
    let known = facts::bridges(ctx);
    let limit = known.get(bridge).ok_or_else(|| Error::new(format!("bridge '{bridge}' does not exist")))?.mtu;
    if mtu > limit {
        bail!("net{}: MTU size '{mtu}' is bigger than bridge MTU '{limit}'", net.index);
    }
    Ok(())
}

/// Puts a change into the pending section.
fn enter(vmid: Vmid, config: &mut GuestConfig, change: &Change, warn: &dyn Fn(&str)) -> Result<()> {
    change.revert.iter().for_each(|key| drop_pending(config, key));
    let protected = config.current.flag("protection");
    for key in &change.delete {
        if value_of(&config.current, key).is_none() && value_of(&config.pending.part, key).is_none() {
            warn(&format!("cannot delete '{key}' - not set in current configuration!"));
            config.pending.delete.remove(key);
            continue;
        }
        let is_drive = volume::is_mount_key(key) || volume::is_unused_key(key);
        if matches!(key.as_str(), "memory" | "rootfs" | "ostype") {
            bail!("unable to delete required option '{key}'");
        } else if key == "unprivileged" {
            bail!("unable to delete read-only option: 'unprivileged'");
        } else if is_drive && protected {
            bail!("can't remove CT {vmid} drive '{key}' - protection mode enabled");
        }
        remove_value(&mut config.pending.part, key);
        if value_of(&config.current, key).is_some() {
            config.pending.delete.insert(key.clone(), false);
        }
    }
    for (key, value) in &change.set {
        if volume::is_mount_key(key) && protected {
            bail!("can't update CT {vmid} drive '{key}' - protection mode enabled");
        }
        config.pending.delete.remove(key);
        if value_of(&config.current, key).as_deref() == Some(value) {
            remove_value(&mut config.pending.part, key);
        } else {
            set_value(&mut config.pending.part, key, value);
        }
    }
    Ok(())
}

fn drop_pending(config: &mut GuestConfig, key: &str) {
    remove_value(&mut config.pending.part, key);
    config.pending.delete.remove(key);
}

/// The raw lines that are the option `env`.
const VARIABLE: &str = "lxc.environment.runtime";

fn value_of(part: &Part, key: &str) -> Option<String> {
    match key {
        "description" => part.description.clone(),
        "env" => {
            let variables = part.raw.iter().filter(|(key, _)| key == VARIABLE).map(|(_, value)| value.as_str());
            Some(variables.collect::<Vec<_>>().join("\0")).filter(|text| !text.is_empty())
        }
        _ => part.get(key).map(str::to_owned),
    }
}

fn set_value(part: &mut Part, key: &str, value: &str) {
    match key {
        "description" => part.description = Some(value.to_owned()),
        "env" => {
            remove_value(part, key);
            let variables = value.split('\0').filter(|variable| !variable.is_empty());
            part.raw.extend(variables.map(|variable| (VARIABLE.to_owned(), variable.to_owned())));
        }
        _ => part.set(key, value),
    }
}

fn remove_value(part: &mut Part, key: &str) -> bool {
    match key {
        "description" => part.description.take().is_some(),
        "env" => {
            let before = part.raw.len();
            part.raw.retain(|(key, _)| key != VARIABLE);
            part.raw.len() != before
        }
        _ => part.options.remove(key).is_some(),
    }
}

/// Something that was carried out and now may stand in the configuration.
enum Done {
    Deleted { key: String },
    Set { key: String, wish: String, value: String, made: Option<VolumeId> },
}

/// Carries pending changes out. With `selection` only those.
fn apply(ctx: &Context, vmid: Vmid, running: bool, selection: Option<&[String]>) -> Result<ParamErrors> {
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    let selected = |key: &str| selection.is_none_or(|keys| keys.iter().any(|selected| selected == key));
    let mut errors = ParamErrors::default();
    let mut done = Vec::new();
    for key in config.pending.delete.keys().filter(|key| selected(key)) {
        match carry_out_delete(ctx, vmid, &config, key, running) {
            Ok(true) => done.push(Done::Deleted { key: key.clone() }),
            Ok(false) => {}
            Err(error) => errors.add(key, failure(running, key, &error)),
        }
    }
    let wishes = config.pending.part.options.clone().into_iter();
    let special = ["description", "env"].into_iter();
    let special = special.filter_map(|key| Some((key.to_owned(), value_of(&config.pending.part, key)?)));
    let wishes = wishes.chain(special);
    let mut memory_done = false;
    for (key, wish) in wishes.filter(|(key, _)| selected(key)) {
        match carry_out_set(ctx, vmid, &config, (&key, &wish), running, &mut memory_done) {
            Ok(Some((value, made))) => done.push(Done::Set { key, wish, value, made }),
            Ok(None) => {}
            Err(error) => errors.add(&key, failure(running, &key, &error)),
        }
    }
    let unwanted = guest::update(ctx, GuestKind::Lxc, vmid, |config| enter_done(config, done))?;
    for error in disk::free_all(ctx, &unwanted) {
        errors.add("unused", error.message());
    }
    Ok(errors)
}

fn failure(running: bool, key: &str, error: &Error) -> String {
    if running {
        format!("unable to hotplug {key}: {}", error.message())
    } else {
        format!("unable to apply pending change {key} : {}", error.message())
    }
}

/// Moves what was done into the current section. Gives back volumes that nobody wants any more.
fn enter_done(config: &mut GuestConfig, done: Vec<Done>) -> Result<Vec<VolumeId>> {
    let mut unwanted = Vec::new();
    for done in done {
        match done {
            Done::Deleted { key } => {
                let old = value_of(&config.current, &key);
                remove_value(&mut config.current, &key);
                config.pending.delete.remove(&key);
                keep_as_unused(config, &key, old)?;
            }
            Done::Set { key, wish, value, made } => {
                if value_of(&config.pending.part, &key).as_deref() != Some(&wish) {
                    unwanted.extend(made);
                    continue;
                }
                let old = value_of(&config.current, &key);
                remove_value(&mut config.pending.part, &key);
                set_value(&mut config.current, &key, &value);
                keep_as_unused(config, &key, old)?;
            }
        }
    }
    // A volume that is mounted again is not unused.
    let mounted: Vec<String> = volume::mounts(&config.current)?.iter().map(|mount| mount.volume().to_owned()).collect();
    config.current.options.retain(|key, value| !volume::is_unused_key(key) || !mounted.contains(value));
    Ok(unwanted)
}

/// The volume of a mount that is gone stays in the configuration as an unused one.
fn keep_as_unused(config: &mut GuestConfig, key: &str, old: Option<String>) -> Result<()> {
    let Some(old) = old.filter(|_| volume::is_mount_key(key)) else { return Ok(()) };
    let mount = MountPoint::parse(key, &old)?;
    if mount.source() == Source::Volume && !is_in_use(config, mount.volume()) {
        volume::add_unused(&mut config.current, mount.volume())?;
    }
    Ok(())
}

/// Whether a volume is mounted by any part of a configuration.
pub fn is_in_use(config: &GuestConfig, volume: &str) -> bool {
    let parts = [&config.current, &config.pending.part].into_iter().chain(config.snapshots.values());
    let mut mounts = parts.flat_map(|part| volume::mounts(part).unwrap_or_default());
    mounts.any(|mount| mount.volume() == volume)
}

/// Whether an option may leave the configuration now; does what that needs.
fn carry_out_delete(ctx: &Context, vmid: Vmid, config: &GuestConfig, key: &str, running: bool) -> Result<bool> {
    if volume::is_unused_key(key) {
        let Some(volume) = config.current.get(key) else { return Ok(true) };
        let id: VolumeId = volume.parse().map_err(Error::new)?;
        if !is_in_use(config, volume) && storage::describe(ctx, &id)?.vmid == Some(vmid) {
            storage::free(ctx, &id)?;
        }
        return Ok(true);
    }
    if !running || IMMEDIATE.contains(&key) {
        return Ok(true);
    }
    match key {
        "swap" => cgroup::set_memory(ctx, vmid, number(&config.current, "memory", 512), 0)?,
        "cpulimit" => cgroup::set_cpu_limit(ctx, vmid, None)?,
        "cpuunits" => cgroup::set_cpu_weight(ctx, &Hierarchies::of_host()?, vmid, None)?,
        _ => match index_of(key, "net") {
            Some(index) => {
                let old = config.current.get(key).map(|text| Interface::parse(index, text)).transpose()?;
                hotplug::end_network(ctx, vmid, index, old.as_ref())?;
            }
            None => return Ok(false),
        },
    }
    Ok(true)
}

fn number(part: &Part, key: &str, default: u64) -> u64 {
    part.get(key).and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The value that may enter the current section now, after what that needs was done, with a volume that was made for it.
fn carry_out_set(
    ctx: &Context,
    vmid: Vmid,
    config: &GuestConfig,
    (key, wish): (&str, &str),
    running: bool,
    memory_done: &mut bool,
) -> Result<Option<(String, Option<VolumeId>)>> {
    let as_is = Ok(Some((wish.to_owned(), None)));
    if IMMEDIATE.contains(&key) {
        return as_is;
    }
    if running {
        match key {
            "memory" | "swap" => {
                if !*memory_done {
                    let wanted = |key: &str, default| {
                        let present = number(&config.current, key, default);
                        number(&config.pending.part, key, present)
                    };
                    cgroup::set_memory(ctx, vmid, wanted("memory", 512), wanted("swap", 0))?;
                    *memory_done = true;
                }
            }
            "cpulimit" => cgroup::set_cpu_limit(ctx, vmid, wish.parse().ok())?,
            "cpuunits" => cgroup::set_cpu_weight(ctx, &Hierarchies::of_host()?, vmid, wish.parse().ok())?,
            _ => return plug_in(ctx, vmid, &config.current, key, wish),
        }
        return as_is;
    }
    if volume::is_mount_key(key) {
        let (mount, made) = ready_volume(ctx, vmid, &config.current, key, wish)?;
        return Ok(Some((mount.print(), made)));
    }
    as_is
}

/// The mount point that a wish means, with a volume that exists.
fn ready_volume(
    ctx: &Context,
    vmid: Vmid,
    part: &Part,
    key: &str,
    wish: &str,
) -> Result<(MountPoint, Option<VolumeId>)> {
    let mut mount = MountPoint::parse(key, wish)?;
    let made = disk::allocate(ctx, vmid, &mut mount, &IdMap::of(part)?, &|_| {})?;
    if made.is_none() && mount.source() == Source::Volume {
        let id: VolumeId = mount.volume().parse().map_err(Error::new)?;
        mount.set_size(storage::info(ctx, &id)?.size);
    }
    Ok((mount, made))
}

/// Adds or changes a device of a running container; none when that has to wait.
fn plug_in(
    ctx: &Context,
    vmid: Vmid,
    part: &Part,
    key: &str,
    wish: &str,
) -> Result<Option<(String, Option<VolumeId>)>> {
    if let Some(index) = index_of(key, "net") {
        let new = Interface::parse(index, wish)?;
        let old = part.get(key).map(|text| Interface::parse(index, text)).transpose()?;
        hotplug::set_network(ctx, vmid, part, old.as_ref(), &new)?;
        return Ok(Some((wish.to_owned(), None)));
    }
    // What is there already is not changed under the feet of its users.
    if part.get(key).is_some() {
        return Ok(None);
    }
    if index_of(key, "mp").is_some() {
        let (mount, made) = ready_volume(ctx, vmid, part, key, wish)?;
        return match hotplug::add_mount(ctx, vmid, &mount) {
            Ok(()) => Ok(Some((mount.print(), made))),
            Err(error) => {
                let made: Vec<VolumeId> = made.into_iter().collect();
                Err(error.with_cleanup_failures(&disk::free_all(ctx, &made)))
            }
        };
    }
    if index_of(key, "dev").is_some() {
        let mut wanted = Part::default();
        wanted.set(key, wish);
        for device in plan::passed_devices(&wanted)? {
            hotplug::add_device(ctx, vmid, &device, &IdMap::of(part)?)?;
        }
        return Ok(Some((wish.to_owned(), None)));
    }
    Ok(None)
}

/// The number behind an option's prefix.
fn index_of(key: &str, prefix: &str) -> Option<u32> {
    key.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(text: &str) -> (tempfile::TempDir, Context, Vmid) {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let vmid: Vmid = "100".parse().unwrap();
        guest::create(&ctx, vmid, &GuestConfig::parse(GuestKind::Lxc, text)).unwrap();
        (directory, ctx, vmid)
    }

    fn set(pairs: &[(&str, &str)]) -> Change {
        Change { set: pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(), ..Change::default() }
    }

    fn delete(keys: &[&str]) -> Change {
        Change { delete: keys.iter().map(|key| (*key).to_owned()).collect(), ..Change::default() }
    }

    #[test]
    fn a_stopped_container_changes_at_once() {
        let (_directory, ctx, vmid) = node("hostname: a\nmemory: 512\n");
        change(
            &ctx,
            vmid,
            &set(&[("hostname", "b"), ("description", "text\n"), ("nameserver", "1.1.1.1,9.9.9.9")]),
            &|_| {},
        )
        .unwrap();
        let said = std::cell::RefCell::new(Vec::new());
        change(&ctx, vmid, &delete(&["nameserver", "swap"]), &|text| said.borrow_mut().push(text.to_owned())).unwrap();
        assert_eq!(said.into_inner(), ["cannot delete 'swap' - not set in current configuration!"]);
        let config = guest::load(&ctx, GuestKind::Lxc, vmid).unwrap();
        assert_eq!(config.print(), "#text\nhostname: b\nmemory: 512\n");
    }

    #[test]
    fn what_must_stay_is_refused() {
        let (_directory, ctx, vmid) = node("mp0: /a,mp=/a\nprotection: 1\nmemory: 512\n");
        let text = |change_: &Change| change(&ctx, vmid, change_, &|_| {}).unwrap_err().to_string();
        assert_eq!(text(&delete(&["memory"])), "unable to delete required option 'memory'");
        assert_eq!(text(&delete(&["mp0"])), "can't remove CT 100 drive 'mp0' - protection mode enabled");
        assert_eq!(text(&set(&[("unprivileged", "1")])), "unable to modify read-only option: 'unprivileged'");
        let stale = Change { digest: Some("0".repeat(40)), ..set(&[("hostname", "x")]) };
        assert!(text(&stale).starts_with("detected modified configuration"));
        assert!(guest::load(&ctx, GuestKind::Lxc, vmid).unwrap().pending.is_empty());
    }

    #[test]
    fn mounts_that_go_leave_their_volumes_as_unused() {
        let mut config = GuestConfig::parse(GuestKind::Lxc, "mp0: local:100/a.raw,mp=/a\nrootfs: local:100/r.raw\n");
        let done = vec![Done::Deleted { key: "mp0".into() }];
        assert!(enter_done(&mut config, done).unwrap().is_empty());
        assert_eq!(config.current.get("unused0"), Some("local:100/a.raw"));
        config.pending.part.set("mp1", "local:100/a.raw,mp=/b");
        let wish = "local:100/a.raw,mp=/b".to_owned();
        let done = vec![Done::Set { key: "mp1".into(), wish: wish.clone(), value: wish, made: None }];
        enter_done(&mut config, done).unwrap();
        assert_eq!(config.print(), "mp1: local:100/a.raw,mp=/b\nrootfs: local:100/r.raw\n");
    }
}
