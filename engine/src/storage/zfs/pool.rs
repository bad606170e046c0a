//! Storages of type `zfspool`: volumes and file systems of a pool of this machine.
//! (PVE: pve-storage PVE/Storage/ZFSPoolPlugin.pm)

use super::dataset::{self, full_name, properties, snapshot_name};
use super::{BASE_SNAPSHOT, ask, check_dataset, parse, pool_name, run, stream};
use crate::mounts;
use crate::storage::config::Entry;
use crate::storage::driver::{Described, Driver, Filter, Secrets, Source, Space, Storage};
use crate::storage::feature::{Capability, Feature, State, can};
use crate::storage::pool;
use crate::storage::stream::{Export, Form, Import};
use crate::storage::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::tool::Tool;
use crate::{Context, Error, Result, Vmid, bail, error::ResultExt};
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

const BOTH: &[Format] = &[Format::Raw, Format::Subvol];

/// What volumes can do.
const CAPABILITIES: &[Capability] = &[
    can(Feature::Snapshot, State::Current, BOTH),
    can(Feature::Snapshot, State::Snapshot, BOTH),
    can(Feature::Clone, State::Base, BOTH),
    can(Feature::Template, State::Current, BOTH),
    can(Feature::Copy, State::Current, BOTH),
    can(Feature::Copy, State::Base, BOTH),
    can(Feature::SparseInit, State::Current, BOTH),
    can(Feature::SparseInit, State::Base, BOTH),
    can(Feature::Rename, State::Current, BOTH),
];

/// Where quotas of snapshots are remembered, as ZFS keeps none.
const QUOTA_PROPERTY: &str = "pve-storage:refquota";

/// How long udev may take to make a volume's device.
const DEVICE: Duration = Duration::from_secs(15);

/// How long an import of a pool may take.
const IMPORT: Duration = Duration::from_secs(60);

/// The driver.
pub struct ZfsPool;

fn place(storage: &Storage, name: &str) -> Result<PathBuf> {
    let (parsed, format) = parse(name)?;
    let pool = pool_name(storage)?;
    Ok(match format {
        Format::Subvol => match storage.entry.get("mountpoint") {
            Some(directory) if directory.starts_with('/') => PathBuf::from(directory).join(&parsed.name),
            _ => PathBuf::from(format!("/{pool}/{}", parsed.name)),
        },
        _ => PathBuf::from(format!("/dev/zvol/{pool}/{}", parsed.name)),
    })
}

/// Waits until a new volume's device is there.
fn wait_for_device(storage: &Storage, name: &str) -> Result<()> {
    let path = place(storage, name)?.to_string_lossy().into_owned();
    Tool::new("udevadm")
        .args(["settle", "--timeout=10", &format!("--exit-if-exists={path}")])
        .within(DEVICE)
        .run(storage.ctx)
        .context(|| format!("timeout: no zvol device link for '{name}' found"))
}

/// Whether the pool itself is imported.
fn is_imported(storage: &Storage, pool: &str) -> bool {
    let tool = Tool::new("zpool").args(["list", "-o", "name", "-H", pool]).within(super::QUESTION);
    tool.read(storage.ctx).is_ok_and(|text| text.lines().any(|line| line.trim() == pool))
}

impl Driver for ZfsPool {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn check_entry(&self, ctx: &Context, id: &str, entry: &mut Entry, _create: bool) -> Result<()> {
        let storage = Storage { ctx, id: id.to_owned(), entry: entry.clone() };
        pool_name(&storage).map(drop)
    }

    fn configure(&self, storage: &mut Storage, _secrets: &Secrets, create: bool) -> Result<()> {
        if !create || storage.entry.get("mountpoint").is_some() {
            return Ok(());
        }
        // A pool that is not imported now is no reason to refuse the entry.
        let found = properties(storage, "mountpoint", pool_name(storage)?).unwrap_or_default();
        if let Some(directory) = found.first().filter(|directory| directory.starts_with('/')) {
            storage.entry.set("mountpoint", directory.clone());
        }
        Ok(())
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        let dataset = pool_name(storage)?;
        let below = format!("{dataset}/");
        let is_of_pool = |mount: &mounts::Mount| mount.source == dataset || mount.source.starts_with(&below);
        if mounts::all().iter().any(|mount| mount.kind == "zfs" && is_of_pool(mount)) {
            return Ok(());
        }
        let pool = dataset.split('/').next().unwrap_or(dataset);
        let failed = |error: Error| error.context(format!("could not activate storage '{}'", storage.id));
        if !is_imported(storage, pool) {
            let import = Tool::new("zpool").args(["import", "-d", "/dev/disk/by-id/", "-o", "cachefile=none", pool]);
            // Another task may have been faster.
            if let Err(error) = import.within(IMPORT).run(storage.ctx)
                && !is_imported(storage, pool)
            {
                return Err(failed(error));
            }
        }
        run(storage, &["mount", "-a"]).map_err(failed)
    }

    fn patience(&self) -> Duration {
        crate::storage::status::LOCAL_TOOLS
    }

    fn space(&self, storage: &Storage) -> Result<Space> {
        dataset::space(storage)
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        Ok(pool::list(storage, filter, dataset::list(storage)?.into_iter()))
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        let (parsed, format) = parse(name)?;
        Ok(pool::describe(&parsed, format))
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        place(storage, name)
    }

    fn source(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<Source> {
        let path = match snapshot {
            None => place(storage, name)?,
            // A file system shows its snapshots in a hidden directory of its own.
            Some(snapshot) if parse(name)?.1 == Format::Subvol => {
                snapshot_name(storage, name, snapshot)?;
                place(storage, name)?.join(".zfs/snapshot").join(snapshot)
            }
            Some(_) => return Err(storage.unsupported("reading a snapshot of a volume")),
        };
        Ok(Source { path, internal: None })
    }

    fn activate_volume(&self, storage: &Storage, name: &str, snapshot: Option<&str>) -> Result<PathBuf> {
        let path = self.source(storage, name, snapshot)?.path;
        if snapshot.is_some() {
            return Ok(path);
        }
        if parse(name)?.1 == Format::Subvol {
            let full = full_name(storage, name)?;
            if properties(storage, "mounted", &full)?.first().map(String::as_str) != Some("yes") {
                run(storage, &["mount", &full])?;
            }
        } else {
            wait_for_device(storage, name)?;
        }
        Ok(path)
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        dataset::info(storage, name)
    }

    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String> {
        let format = new.format.unwrap_or(Format::Raw);
        if !BOTH.contains(&format) {
            bail!("unsupported format '{format}'");
        }
        let name = {
            let _lock = storage.lock()?;
            let name = dataset::choose_name(storage, new.vmid, format, new.name.as_deref())?;
            if format == Format::Subvol {
                dataset::create_filesystem(storage, &name, new.size)?;
                return Ok(name);
            }
            dataset::create_volume(storage, &name, new.size)?;
            name
        };
        wait_for_device(storage, &name).map_err(|error| {
            let failures: Vec<Error> = dataset::destroy(storage, &name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
        Ok(name)
    }

    fn free(&self, storage: &Storage, name: &str) -> Result<()> {
        dataset::destroy(storage, name)
    }

    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()> {
        dataset::check_growth(storage, name, size)?;
        let value = match parse(name)?.1 {
            Format::Subvol => format!("refquota={}", dataset::quota(size)),
            _ => format!("volsize={}k", dataset::volume_kib(size)),
        };
        run(storage, &["set", &value, &full_name(storage, name)?])
    }

    fn snapshot(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let full = snapshot_name(storage, name, snapshot)?;
        run(storage, &["snapshot", &full])?;
        remember_quota(storage, name, &full)
    }

    fn snapshot_delete(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        run(storage, &["destroy", &snapshot_name(storage, name, snapshot)?])
    }

    fn rollback_possible(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        dataset::rollback_possible(storage, name, snapshot)
    }

    fn rollback(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        let kept = snapshot_name(storage, name, snapshot)?;
        run(storage, &["rollback", &kept])?;
        if parse(name)?.1 != Format::Subvol {
            return Ok(());
        }
        let full = full_name(storage, name)?;
        let remembered = properties(storage, QUOTA_PROPERTY, &kept)?;
        if let Some(size) = remembered.first().and_then(|value| value.parse::<u64>().ok()) {
            let value = if size == 0 { "none".to_owned() } else { size.to_string() };
            run(storage, &["set", &format!("refquota={value}"), &full])?;
        }
        // The kernel keeps pages of the old state until the file system is mounted anew, which activation does.
        match run(storage, &["unmount", &full]) {
            Err(error) if !error.message().contains("not currently mounted") => Err(error),
            _ => Ok(()),
        }
    }

    fn snapshots(&self, storage: &Storage, name: &str) -> Result<Vec<String>> {
        dataset::snapshots(storage, name)
    }

    fn make_template(&self, storage: &Storage, name: &str) -> Result<String> {
        let (bare, whole) = dataset::template_names(name)?;
        dataset::rename(storage, name, &bare)?;
        let kept = format!("{}@{BASE_SNAPSHOT}", full_name(storage, &bare)?);
        run(storage, &["snapshot", &kept]).and_then(|()| remember_quota(storage, &bare, &kept)).map_err(|error| {
            let failures: Vec<Error> = dataset::rename(storage, &bare, name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
        Ok(whole)
    }

    fn clone_linked(&self, storage: &Storage, name: &str, snapshot: Option<&str>, vmid: Vmid) -> Result<String> {
        if snapshot.is_some() {
            return Err(storage.unsupported("linked clone of a snapshot"));
        }
        let _lock = storage.lock()?;
        let clone = dataset::clone(storage, name, vmid)?;
        Ok(format!("{}/{clone}", parse(name)?.0.name))
    }

    fn rename(&self, storage: &Storage, name: &str, vmid: Vmid, new_name: Option<&str>) -> Result<String> {
        let _lock = storage.lock()?;
        dataset::reassign(storage, name, vmid, new_name).map(|(_, whole)| whole)
    }

    fn export_formats(&self, _storage: &Storage, _export: &Export) -> Result<Vec<Form>> {
        Ok(vec![Form::Zfs])
    }

    fn import_formats(&self, _storage: &Storage, _import: &Import) -> Result<Vec<Form>> {
        Ok(vec![Form::Zfs])
    }

    fn export(&self, storage: &Storage, export: &Export, form: Form, to: &File) -> Result<()> {
        stream::export(storage, export, form, to)
    }

    fn import(&self, storage: &Storage, import: &Import, form: Form, from: &File) -> Result<String> {
        stream::import(storage, import, form, from)
    }
}

/// A file system's quota is kept beside its snapshot.
fn remember_quota(storage: &Storage, name: &str, kept: &str) -> Result<()> {
    if parse(name)?.1 != Format::Subvol {
        return Ok(());
    }
    let values = properties(storage, "refquota", &full_name(storage, name)?)?;
    let quota = values.first().map(String::as_str).unwrap_or("0");
    run(storage, &["set", &format!("{QUOTA_PROPERTY}={}", check_dataset(quota)?), kept])
}

/// The pools and file systems of this machine that could become storages: name, size and free bytes.
/// (PVE: PVE/Storage.pm, scan_zfs)
pub fn scan(ctx: &Context) -> Result<Vec<(String, u64, u64)>> {
    let storage = Storage { ctx, id: "scan".into(), entry: Entry::new("zfspool") };
    let text = ask(&storage, &["list", "-t", "filesystem", "-Hp", "-o", "name,avail,used"])?;
    let rows = text.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (name, avail, used) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let last = name.rsplit('/').next().unwrap_or_default();
        let is_volume = name.contains('/') && parse(last).is_ok_and(|(_, format)| format == Format::Subvol);
        // PVE calls what is free the size, and the difference free; clients show the figures as they are.
        (!is_volume).then(|| (name.to_owned(), avail, u64::saturating_sub(avail, used)))
    });
    Ok(rows.collect())
}
