//! The configuration in a container's backup, and how it joins with what the caller gives.
//!
//! A backup is an archive of the files with the configuration in `./etc/vzdump/pct.conf`.
//! (PVE: LXC/Create.pm recover_config_from_tar, restore_configuration, sanitize_and_merge_config)

use super::interface::Interface;
use super::volume::{self, MountPoint, Source};
use super::{rootfs::RootDirectory, template};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::{Context, Error, Result, Task, access, bail, command};
use std::path::Path;

/// Where backups carry their configuration.
const CONFIG: &str = "./etc/vzdump/pct.conf";
/// Options of the old container that are not restored: they are of its time and place.
const NOT_RESTORED: [&str; 5] = ["digest", "rootfs", "unprivileged", "parent", "template"];

/// Reads the configuration of a backup without unpacking the rest.
pub fn config(archive: &Path) -> Result<Part> {
    let mut arguments = vec!["-x", "-O", "--occurrence=1"];
    arguments.extend(template::compression(&archive.to_string_lossy())?);
    let path = archive.to_string_lossy();
    arguments.extend(["-f", &path, CONFIG]);
    let output = command::run("tar", &arguments)
        .map_err(|error| Error::new(format!("ERROR: archive contains no configuration file: {}", error.message())))?;
    Ok(GuestConfig::parse(GuestKind::Lxc, &output.stdout).current)
}

/// The configuration among unpacked files, for a backup that could be read once only.
pub fn config_within(root: &RootDirectory) -> Result<Option<Part>> {
    let text = root.read(CONFIG.trim_start_matches('.'))?;
    Ok(text.map(|text| GuestConfig::parse(GuestKind::Lxc, &text).current))
}

/// The mounts of the old container: new volumes of the same sizes, and what comes back only after unpacking.
pub fn mounts(ctx: &Context, old: &Part, storage: &str) -> Result<(Vec<MountPoint>, Vec<MountPoint>)> {
    let (mut now, mut later) = (Vec::new(), Vec::new());
    for mut point in volume::mounts(old)? {
        let key = point.key.clone();
        if point.source() == Source::Volume {
            let size = point.size();
            let size =
                size.ok_or_else(|| Error::new(format!("unable to detect disk size - please specify {key} (size)")))?;
            point.set_volume(format!("{storage}:{}", size as f64 / (1u64 << 30) as f64), None);
            now.push(point);
            continue;
        }
        let kind = if point.source() == Source::Bind { "bind" } else { "device" };
        if key == "rootfs" {
            bail!("restoring rootfs to {kind} mount is only possible by specifying -rootfs manually!");
        }
        if !ctx.caller.is_root() {
            bail!("restoring '{key}' to {kind} mount is only possible for root");
        }
        later.push(point);
    }
    if now.is_empty() {
        bail!("rootfs configuration could not be recovered, please check and specify manually!");
    }
    Ok((now, later))
}

/// Completes a new configuration by that of the backup. Only root gets raw lines back.
pub fn merge(task: &Task, new: &mut Part, old: &Part, unique: bool) -> Result<()> {
    let ctx = task.ctx;
    let restricted = !ctx.caller.is_root();
    for (key, value) in &old.options {
        let skipped = NOT_RESTORED.contains(&key.as_str()) || volume::is_mount_key(key) || volume::is_unused_key(key);
        if skipped || key == "lock" || key.starts_with("snap") {
            continue;
        }
        if restricted && key == "features" && !new.flag("unprivileged") && old.flag("unprivileged") {
            task.warn("changing from unprivileged to privileged, skipping features");
            continue;
        }
        let Some(index) = key.strip_prefix("net").and_then(|index| index.parse().ok()) else {
            new.options.entry(key.clone()).or_insert_with(|| value.clone());
            continue;
        };
        let mut net = Interface::parse(index, value)?;
        if new.get(key).is_none()
            && let Some(bridge) = net.get("bridge")
        {
            let tag = net.number("tag").map(|tag| tag.to_string());
            access::check_bridge(ctx, bridge, tag.as_deref(), net.get("trunks"))?;
        }
        if unique {
            net.renew_address(ctx)?;
            new.set(key.clone(), net.print());
        } else {
            new.options.entry(key.clone()).or_insert_with(|| net.print());
        }
    }
    if new.description.is_none() {
        new.description.clone_from(&old.description);
    }
    let (variables, raw): (Vec<_>, Vec<_>) =
        old.raw.iter().cloned().partition(|(key, _)| key == "lxc.environment.runtime");
    if !new.raw.iter().any(|(key, _)| key == "lxc.environment.runtime") {
        new.raw.extend(variables);
    }
    if restricted && !raw.is_empty() {
        task.warn("skipping custom lxc options, restore manually as root:");
        raw.iter().for_each(|(key, value)| task.log(format!("{key}: {value}")));
    }
    Ok(())
}

/// The raw lines that count for unpacking: maps of ids belong to the owners of the files.
pub fn raw_lines(ctx: &Context, old: &Part) -> Vec<(String, String)> {
    let mut raw = old.raw.clone();
    raw.retain(|(key, _)| key != "lxc.environment.runtime");
    if ctx.caller.is_root() { raw } else { Vec::new() }
}

/// Takes the configuration out of the unpacked files, and gives back the firewall's rules if there are some.
pub fn take_files(root: &RootDirectory) -> Result<Option<String>> {
    let rules = root.read("/etc/vzdump/pct.fw")?.filter(|text| !text.is_empty());
    for file in ["pct.conf", "pct.fw"] {
        root.remove(&format!("/etc/vzdump/{file}"))?;
    }
    Ok(rules)
}
