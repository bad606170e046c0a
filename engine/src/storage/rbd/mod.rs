//! Storages of type `rbd`: block devices of a Ceph pool, by librbd inside QEMU or by the kernel (`krbd`). Untested on
//! real hardware. (PVE: pve-storage PVE/Storage/RBDPlugin.pm)
//!
//! The kernel's devices are found where Ceph's own udev rule puts them, `/dev/rbd/POOL/IMAGE`.

#[cfg(test)]
mod tests;

use super::ceph::{self, Credentials, check_word};
use super::config::Entry;
use super::driver::{Described, Driver, Filter, Secrets, Source, Space, Storage};
use super::feature::{Capability, Feature, State, can};
use super::guest_volume::{GuestVolume, Prefix, check_owner, check_snapshot, next_name};
use super::pool;
use super::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::tool::{QUESTION, Tool};
use crate::{Context, Error, Result, Vmid, bail, error::ResultExt};
use serde_json::Value;
use std::path::PathBuf;

const RAW: &[Format] = &[Format::Raw];

/// The snapshot of a template that linked clones are made of.
const BASE_SNAPSHOT: &str = "__base__";

/// What volumes can do.
const CAPABILITIES: &[Capability] = &[
    can(Feature::Snapshot, State::Current, RAW),
    can(Feature::Snapshot, State::Snapshot, RAW),
    can(Feature::Clone, State::Base, RAW),
    can(Feature::Clone, State::Snapshot, RAW),
    can(Feature::Template, State::Current, RAW),
    can(Feature::Copy, State::Current, RAW),
    can(Feature::Copy, State::Base, RAW),
    can(Feature::Copy, State::Snapshot, RAW),
    can(Feature::SparseInit, State::Current, RAW),
    can(Feature::SparseInit, State::Base, RAW),
    can(Feature::Rename, State::Current, RAW),
];

/// The driver.
pub struct Rbd;

fn parse(name: &str) -> Result<GuestVolume> {
    let parsed = GuestVolume::parse(name, "rbd")?;
    if !matches!(parsed.prefix, Prefix::Vm | Prefix::Base) {
        bail!("unable to parse rbd volume name '{}'", name.escape_debug());
    }
    Ok(parsed)
}

fn pool_name<'s>(storage: &'s Storage) -> Result<&'s str> {
    check_word(storage.entry.get("pool").unwrap_or("rbd"), "pool")
}

fn namespace<'s>(storage: &'s Storage) -> Result<Option<&'s str>> {
    storage.entry.get("namespace").map(|name| check_word(name, "namespace")).transpose()
}

/// `POOL/[NAMESPACE/]IMAGE`.
fn image_path(storage: &Storage, image: &str) -> Result<String> {
    let namespace = namespace(storage)?.map(|name| format!("{name}/")).unwrap_or_default();
    Ok(format!("{}/{namespace}{image}", pool_name(storage)?))
}

/// `rbd` with the options that say where; the operation follows.
fn rbd(storage: &Storage) -> Result<Tool> {
    let mut tool = Tool::new("rbd").args(["-p", pool_name(storage)?]);
    if let Some(namespace) = namespace(storage)? {
        tool = tool.args(["--namespace", namespace]);
    }
    Ok(ceph::connection(storage)?.arguments(tool))
}

fn run(storage: &Storage, operation: &[&str], what: &str) -> Result<()> {
    rbd(storage)?.args(operation.to_vec()).run(storage.ctx).context(|| what.to_owned())
}

fn ask(storage: &Storage, operation: &[&str]) -> Result<Value> {
    let text = rbd(storage)?.args(operation.to_vec()).args(["--format", "json"]).within(QUESTION).read(storage.ctx);
    let text = text.context(|| "rbd error")?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).map_err(|_| Error::new(format!("got unexpected data from rbd {}", operation[0])))
}

/// Names of all images of the pool.
fn names(storage: &Storage) -> Result<Vec<String>> {
    match ask(storage, &["ls"]) {
        Err(error) if error.message().contains("doesn't contain rbd images") => Ok(Vec::new()),
        answer => Ok(strings(&answer?)),
    }
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// A snapshot is protected while clones may hang on it; Ceph writes the word, newer versions a boolean.
fn is_protected(snapshot: &Value) -> bool {
    snapshot["protected"] == Value::Bool(true) || snapshot["protected"] == "true"
}

/// Snapshots as `rbd snap ls` has them, oldest first.
fn snapshot_rows(storage: &Storage, image: &str) -> Result<Vec<Value>> {
    Ok(ask(storage, &["snap", "ls", image])?.as_array().cloned().unwrap_or_default())
}

fn protect(storage: &Storage, image: &str, snapshot: &str, wanted: bool) -> Result<()> {
    let found = snapshot_rows(storage, image)?.into_iter().find(|row| row["name"] == snapshot);
    let Some(found) = found else { bail!("snapshot '{snapshot}' does not exist on '{image}'") };
    if is_protected(&found) == wanted {
        return Ok(());
    }
    let operation = if wanted { "protect" } else { "unprotect" };
    run(
        storage,
        &["snap", operation, image, "--snap", snapshot],
        &format!("rbd {operation} {image} snap '{snapshot}' error"),
    )
}

fn uses_kernel(storage: &Storage) -> bool {
    storage.entry.flag("krbd").unwrap_or(false)
}

fn kernel_device(storage: &Storage, image: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/dev/rbd/{}", image_path(storage, image)?)))
}

/// The place as QEMU's rbd driver takes it: `rbd:POOL/IMAGE:key=value:…`, with `:` in values escaped.
fn librbd_path(storage: &Storage, image: &str) -> Result<String> {
    let connection = ceph::connection(storage)?;
    let mut path = format!("rbd:{}", image_path(storage, image)?);
    let mut add =
        |key: &str, value: &str| path += &format!(":{key}={}", value.replace('\\', "\\\\").replace(':', "\\:"));
    if let Some(config) = &connection.config {
        add("conf", config);
    }
    if let Some(monitors) = &connection.monitors {
        add("mon_host", &monitors.join(";"));
        add("auth_supported", connection.authentication());
    }
    if let Some(secret) = &connection.secret {
        add("id", &connection.user);
        add("keyring", secret);
    }
    Ok(path)
}

fn place(storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
    let image = with_snapshot(name, snapshot)?;
    if uses_kernel(storage) { kernel_device(storage, &image) } else { Ok(librbd_path(storage, &image)?.into()) }
}

fn with_snapshot(name: &str, snapshot: Option<&str>) -> Result<String> {
    let image = parse(name)?.name;
    Ok(match snapshot {
        Some(snapshot) => format!("{image}@{}", check_snapshot(snapshot)?),
        None => image,
    })
}

fn unmap(storage: &Storage, image: &str) -> Result<()> {
    let device = kernel_device(storage, image)?;
    if !device.exists() {
        return Ok(());
    }
    let device = device.to_string_lossy().into_owned();
    // Of all operations only this one does not know name spaces.
    let tool = ceph::connection(storage)?.arguments(Tool::new("rbd").args(["-p", pool_name(storage)?]));
    tool.args(["unmap", &device]).run(storage.ctx).context(|| format!("can't unmap rbd device {device}"))
}

fn data_pool<'s>(storage: &'s Storage) -> Result<Vec<&'s str>> {
    Ok(match storage.entry.get("data-pool") {
        Some(pool) => vec!["--data-pool", check_word(pool, "data pool")?],
        None => Vec::new(),
    })
}

fn free_name(storage: &Storage, vmid: Vmid) -> Result<String> {
    next_name(names(storage)?.iter().map(String::as_str), &storage.id, Prefix::Vm, vmid, "")
}

impl Driver for Rbd {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn secret_options(&self) -> &'static [&'static str] {
        &["keyring"]
    }

    fn check_entry(&self, ctx: &Context, id: &str, entry: &mut Entry, _create: bool) -> Result<()> {
        let storage = Storage { ctx, id: id.to_owned(), entry: entry.clone() };
        image_path(&storage, "").and_then(|_| data_pool(&storage).map(drop))
    }

    fn configure(&self, storage: &mut Storage, secrets: &Secrets, create: bool) -> Result<()> {
        ceph::keep(storage, Credentials::Keyring, secrets, create)
    }

    fn unconfigure(&self, storage: &Storage) -> Result<()> {
        ceph::forget(storage, Credentials::Keyring)
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        ceph::check_monitors(storage)
    }

    fn space(&self, storage: &Storage) -> Result<Space> {
        let tool = ceph::connection(storage)?.arguments(Tool::new("ceph"));
        let text = tool.args(["df", "--format", "json"]).within(QUESTION).read(storage.ctx)?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        let pool = storage.entry.get("data-pool").map_or_else(|| pool_name(storage), Ok)?;
        let row = answer["pools"].as_array().into_iter().flatten().find(|row| row["name"] == pool);
        let Some(row) = row else { bail!("could not get usage stats for pool '{pool}'") };
        let figure = |key: &str| row["stats"][key].as_u64();
        let avail = figure("max_avail").unwrap_or(0);
        let used = figure("stored").or_else(|| figure("bytes_used")).unwrap_or(0);
        Ok(Space { total: used + avail, used, avail })
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        let answer = ask(storage, &["ls", "-l"])?;
        let rows = answer.as_array().into_iter().flatten().filter(|row| row["snapshot"].is_null()).filter_map(|row| {
            let image = row["image"].as_str()?;
            let vmid = parse(image).ok().filter(|volume| volume.base.is_none())?.vmid;
            let parent = row["parent"]["image"]
                .as_str()
                .map(|parent| format!("{parent}@{}", row["parent"]["snapshot"].as_str().unwrap_or_default()));
            let base = parent.as_deref().and_then(|parent| parent.strip_suffix(&format!("@{BASE_SNAPSHOT}")));
            let base = base.filter(|base| parse(base).is_ok_and(|volume| volume.prefix.is_base()));
            Some(pool::Row {
                name: base.map_or_else(|| image.to_owned(), |base| format!("{base}/{image}")),
                vmid,
                format: Format::Raw,
                size: row["size"].as_u64().unwrap_or(0),
                used: None,
                parent,
                ctime: None,
            })
        });
        Ok(pool::list(storage, filter, rows))
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        Ok(pool::describe(&parse(name)?, Format::Raw))
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        place(storage, name, None)
    }

    fn source(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<Source> {
        Ok(Source { path: place(storage, name, snapshot)?, internal: None })
    }

    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        let path = place(storage, name, snapshot)?;
        if uses_kernel(storage) && !path.exists() {
            let image = with_snapshot(name, snapshot)?;
            run(storage, &["map", &image], &format!("can't map rbd volume {image}"))?;
        }
        Ok(path)
    }

    fn deactivate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<()> {
        unmap(storage, &with_snapshot(name, snapshot)?)
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let image = parse(name)?.name;
        let answer = ask(storage, &["info", &image])?;
        let size = answer["size"].as_u64().ok_or_else(|| Error::new(format!("rbd volume info on '{image}' failed")))?;
        let usage = ask(storage, &["du", &image]).unwrap_or_default();
        let of_image = usage["images"].as_array().into_iter().flatten().find(|row| row["snapshot"].is_null());
        let used = of_image.and_then(|row| row["used_size"].as_u64()).unwrap_or(0);
        let parent = answer["parent"]["image"]
            .as_str()
            .map(|parent| format!("{parent}@{}", answer["parent"]["snapshot"].as_str().unwrap_or_default()));
        Ok(VolumeInfo { size, used, format: Format::Raw, parent })
    }

    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String> {
        let _lock = storage.lock()?;
        let name = match new.name.as_deref().filter(|name| !name.is_empty()) {
            Some(name) => {
                check_owner(&parse(name)?.name, Prefix::Vm, new.vmid)?;
                name.to_owned()
            }
            None => free_name(storage, new.vmid)?,
        };
        let size = new.size.div_ceil(1 << 20).to_string();
        let mut operation = vec!["create", "--image-format", "2", "--size", &size];
        operation.extend(data_pool(storage)?);
        operation.push(&name);
        run(storage, &operation, &format!("rbd create '{name}' error"))?;
        Ok(name)
    }

    fn free(&self, storage: &Storage, name: &str) -> Result<()> {
        let image = parse(name)?.name;
        let _lock = storage.lock()?;
        if !names(storage)?.contains(&image) {
            return Ok(());
        }
        for row in snapshot_rows(storage, &image)?.iter().filter(|row| is_protected(row)) {
            let snapshot = row["name"].as_str().unwrap_or_default();
            run(
                storage,
                &["snap", "unprotect", &image, "--snap", snapshot],
                &format!("rbd unprotect {image} snap '{snapshot}' error"),
            )?;
        }
        unmap(storage, &image)?;
        run(storage, &["snap", "purge", &image], &format!("rbd snap purge '{image}' error"))?;
        run(storage, &["rm", &image], &format!("rbd rm '{image}' error"))
    }

    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()> {
        let image = parse(name)?.name;
        let size = size.div_ceil(1 << 20).to_string();
        // Without --allow-shrink the tool refuses to make it smaller.
        run(storage, &["resize", "--size", &size, &image], &format!("rbd resize '{name}' error"))
    }

    fn snapshot(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let image = parse(name)?.name;
        let snapshot = check_snapshot(snapshot)?;
        run(storage, &["snap", "create", "--snap", snapshot, &image], &format!("rbd snapshot '{name}' error"))
    }

    fn snapshot_delete(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let image = parse(name)?.name;
        let snapshot = check_snapshot(snapshot)?;
        unmap(storage, &with_snapshot(name, Some(snapshot))?)?;
        protect(storage, &image, snapshot, false)?;
        run(storage, &["snap", "rm", "--snap", snapshot, &image], &format!("rbd snapshot '{name}' error"))
    }

    fn rollback_possible(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        if !self.snapshots(storage, name)?.iter().any(|other| other == snapshot) {
            bail!("can't rollback, snapshot '{snapshot}' does not exist on '{name}'");
        }
        Ok(())
    }

    fn rollback(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let image = parse(name)?.name;
        let snapshot = check_snapshot(snapshot)?;
        let what = format!("rbd snapshot {name} to '{snapshot}' error");
        run(storage, &["snap", "rollback", "--snap", snapshot, &image], &what)
    }

    fn snapshots(&self, storage: &Storage, name: &str) -> Result<Vec<String>> {
        let rows = snapshot_rows(storage, &parse(name)?.name)?;
        let names = rows.iter().filter_map(|row| row["name"].as_str()).filter(|name| *name != BASE_SNAPSHOT);
        Ok(names.map(str::to_owned).collect())
    }

    fn make_template(&self, storage: &Storage, name: &str) -> Result<String> {
        let parsed = parse(name)?;
        if parsed.prefix.is_base() {
            bail!("create_base not possible with base image");
        }
        let base = parsed.template_name();
        let _lock = storage.lock()?;
        unmap(storage, &parsed.name)?;
        let (from, to) = (image_path(storage, &parsed.name)?, image_path(storage, &base)?);
        run(storage, &["rename", &from, &to], &format!("rbd rename '{}' error", parsed.name))?;
        let made =
            run(storage, &["snap", "create", "--snap", BASE_SNAPSHOT, &base], &format!("rbd snapshot '{base}' error"))
                .and_then(|()| protect(storage, &base, BASE_SNAPSHOT, true));
        made.map_err(|error| {
            let back = run(storage, &["rename", &to, &from], "rbd rename error").err();
            error.with_cleanup_failures(&back.into_iter().collect::<Vec<_>>())
        })?;
        Ok(parsed.base.map_or_else(|| base.clone(), |under| format!("{under}/{base}")))
    }

    fn clone_linked(&self, storage: &Storage, name: &str, snapshot: Option<&str>, vmid: Vmid) -> Result<String> {
        let parsed = parse(name)?;
        if !parsed.prefix.is_base() && snapshot.is_none() {
            bail!("{name} is not a base image and snapname is not provided");
        }
        let from = snapshot.map_or(Ok(BASE_SNAPSHOT), check_snapshot)?;
        let _lock = storage.lock()?;
        if snapshot.is_some() {
            protect(storage, &parsed.name, from, true)?;
        }
        let clone = free_name(storage, vmid)?;
        let (source, target) = (image_path(storage, &parsed.name)?, image_path(storage, &clone)?);
        let mut operation = vec!["clone", &source, "--snap", from];
        operation.extend(data_pool(storage)?);
        operation.push(&target);
        run(storage, &operation, &format!("rbd clone '{}' error", parsed.name))?;
        Ok(if snapshot.is_some() { clone } else { format!("{}/{clone}", parsed.name) })
    }

    fn rename(&self, storage: &Storage, name: &str, vmid: Vmid, new_name: Option<&str>) -> Result<String> {
        let parsed = parse(name)?;
        let _lock = storage.lock()?;
        let target = match new_name {
            Some(target) => {
                let target = parse(target)?.name;
                check_owner(&target, parsed.prefix, vmid)?;
                target
            }
            None => free_name(storage, vmid)?,
        };
        if names(storage)?.contains(&target) {
            bail!("target volume '{target}' already exists");
        }
        unmap(storage, &parsed.name)?;
        run(
            storage,
            &["rename", &parsed.name, &target],
            &format!("could not rename image '{}' to '{target}'", parsed.name),
        )?;
        Ok(parsed.base.map_or_else(|| target.clone(), |base| format!("{base}/{target}")))
    }
}
