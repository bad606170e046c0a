//! Work on a container that a killed process has left half-done, and what becomes of it.
//!
//! ```text
//! begin: note what is there ── work ── note removed            killed: the note stays, its process does not
//!                                                               └── the next call that touches containers or storages looks
//! ```
//! A note is made under the guest's queue lock, so one of a dead process is nobody's any more. A container that was being
//! made is gone, one that was being replaced is as it was, a half-made snapshot and half-copied volumes are gone. Going back
//! to a snapshot, removing one, and destroying a container are carried to their end, as some volumes may be gone already.
//! Mounts need no care: they end with their namespace. (PVE leaves all of this to the administrator: `pct unlock`)

use super::liblxc::Liblxc;
use super::{destroy, freeze, monitor, snapshot, volume};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::process::ProcessId;
use crate::storage::{self, Content, VolumeId};
use crate::{Context, Result, Task, Vmid, error::ResultExt, file, guest, lock};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Where notes lie, below the node's root.
const PLACE: &str = "/var/lib/ferrovisor/work-lxc";

/// The note of work under way. It goes when this is dropped: a process that lives takes back by itself.
pub struct Work(PathBuf);

/// What is being done.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// A container is made on these storages, in place of another one if there is one.
    Create(&'a [&'a str], Option<&'a GuestConfig>),
    /// A volume is copied to a storage.
    Move(&'a str),
    /// A snapshot is taken.
    Snapshot(&'a str),
    /// A snapshot is removed.
    DropSnapshot(&'a str),
    /// The container goes back to a snapshot.
    Rollback(&'a str),
    /// The container is destroyed.
    Destroy(destroy::Destroy),
}

fn path(ctx: &Context, vmid: Vmid) -> PathBuf {
    ctx.root.path(&format!("{PLACE}/{vmid}"))
}

impl Work {
    /// Notes what is about to be done; the caller holds the container's lock.
    pub fn begin(ctx: &Context, vmid: Vmid, kind: Kind) -> Result<Self> {
        let mut volumes: Vec<String> = Vec::new();
        let storages = match kind {
            Kind::Create(storages, _) => storages.to_vec(),
            Kind::Move(storage) => vec![storage],
            _ => Vec::new(),
        };
        for id in storages.iter().collect::<BTreeSet<_>>() {
            volumes.extend(owned(ctx, id, vmid)?.iter().map(VolumeId::to_string));
        }
        let process = ProcessId::current();
        let mut note = json!({
            "process": {"pid": process.pid, "start": process.start},
            "storages": storages,
            "volumes": volumes,
        });
        match kind {
            Kind::Create(_, replaced) => {
                note["work"] = json!("create");
                note["replaced"] = json!(replaced.map(GuestConfig::print));
            }
            Kind::Move(_) => note["work"] = json!("move"),
            Kind::Snapshot(name) => note["snapshot"] = json!(name),
            Kind::DropSnapshot(name) => note["drop"] = json!(name),
            Kind::Rollback(name) => note["rollback"] = json!(name),
            Kind::Destroy(options) => {
                note["work"] = json!("destroy");
                note["unreferenced"] = json!(options.unreferenced);
                note["purge"] = json!(options.purge);
            }
        }
        let path = path(ctx, vmid);
        let directory = path.parent().expect("a note lies in a directory");
        std::fs::create_dir_all(directory).context(|| format!("unable to create '{}'", directory.display()))?;
        file::replace_volatile(&path, note.to_string().as_bytes(), 0o600)?;
        Ok(Work(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // One that stays is taken for that of a dead process and finds nothing to take back.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The container's volumes on a storage; templates and backups are nobody's unfinished work.
fn owned(ctx: &Context, storage: &str, vmid: Vmid) -> Result<Vec<VolumeId>> {
    let volumes = storage::list(ctx, storage, Some(vmid), &[Content::Images, Content::Rootdir])?;
    Ok(volumes.into_iter().map(|volume| volume.id).collect())
}

/// Waits for a container's lock; what the last holder may have left undone is settled first.
pub fn lock(task: &Task, vmid: Vmid) -> Result<lock::QueueLock> {
    let lock = task.lock(&lock::guest(vmid))?;
    recover(task.ctx, vmid, &mut |line| task.log(line))?;
    Ok(lock)
}

/// Settles what dead processes have left of containers, so that no handler meets what is nobody's any more. There is rarely
/// a note to read. Failures are for the log: the caller wants something else.
pub fn before(ctx: &Context) {
    for vmid in noted(ctx) {
        let Ok(Some(note)) = read(ctx, vmid) else { continue };
        let number = |key: &str| note["process"][key].as_u64().unwrap_or(0);
        let process = ProcessId { pid: u32::try_from(number("pid")).unwrap_or(0), start: number("start") };
        if process.is_alive() {
            continue;
        }
        let mut say = |line: &str| eprintln!("CT {vmid}: {line}");
        let lock = lock::acquire(ctx, &lock::guest(vmid), "recovery", |_| {});
        if let Err(error) = lock.and_then(|_lock| recover(ctx, vmid, &mut say)) {
            say(&format!("unfinished work could not be settled: {error}"));
        }
    }
}

fn noted(ctx: &Context) -> Vec<Vmid> {
    let entries = std::fs::read_dir(ctx.root.path(PLACE)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn read(ctx: &Context, vmid: Vmid) -> Result<Option<Value>> {
    let path = path(ctx, vmid);
    if !path.exists() {
        return Ok(None);
    }
    // One that cannot be read names nothing that could be settled.
    Ok(Some(serde_json::from_str(&file::read_or_empty(&path)?).unwrap_or_default()))
}

fn recover(ctx: &Context, vmid: Vmid, log: &mut dyn FnMut(&str)) -> Result<()> {
    let Some(note) = read(ctx, vmid)? else { return Ok(()) };
    log("settling what an interrupted process has left");
    if guest::find(ctx, vmid) == Some(GuestKind::Lxc) {
        settle(ctx, vmid, &note, log)?;
    } else if note["work"] == "destroy" || note["work"] == "create" {
        destroy::remove_directory(ctx, vmid)?;
    }
    let named: Vec<String> = match guest::find(ctx, vmid) {
        Some(GuestKind::Lxc) => parts(&guest::load(ctx, GuestKind::Lxc, vmid)?),
        _ => Vec::new(),
    };
    let before = list(&note, "volumes");
    for storage in list(&note, "storages").into_iter().collect::<BTreeSet<_>>() {
        for id in owned(ctx, &storage, vmid)? {
            let text = id.to_string();
            if !before.contains(&text) && !named.contains(&text) {
                storage::free(ctx, &id)?;
                log(&format!("removed volume '{id}'"));
            }
        }
    }
    // The container that was replaced is not needed any more, or has its volumes still.
    let replaced = note["replaced"].as_str().map(|text| parts(&GuestConfig::parse(GuestKind::Lxc, text)));
    let gone = replaced.into_iter().flatten().filter(|text| !named.contains(text));
    for id in gone.filter_map(|text| text.parse::<VolumeId>().ok()) {
        if storage::describe(ctx, &id).is_ok_and(|described| described.vmid == Some(vmid)) {
            storage::free(ctx, &id)?;
        }
    }
    storage::remove_abandoned(ctx, vmid)?;
    drop(Work(path(ctx, vmid)));
    Ok(())
}

fn list(note: &Value, key: &str) -> Vec<String> {
    note[key].as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// All volumes that a configuration names.
fn parts(config: &GuestConfig) -> Vec<String> {
    let parts = [&config.current, &config.pending.part].into_iter().chain(config.snapshots.values());
    parts.flat_map(volume::volumes).collect()
}

/// Brings the configuration into a state in which no work is under way.
fn settle(ctx: &Context, vmid: Vmid, note: &Value, log: &mut dyn FnMut(&str)) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    let runs = monitor::init(ctx, vmid).is_some();
    match note["work"].as_str() {
        Some("create") if config.current.get("lock") == Some("create") => return take_back(ctx, vmid, note, &config),
        // It was not even stopped.
        Some("destroy") if !runs => {
            let flag = |key: &str| note[key] == true;
            let options = destroy::Destroy { force: false, purge: flag("purge"), unreferenced: flag("unreferenced") };
            return destroy::remove(ctx, vmid, options, log);
        }
        _ => {}
    }
    if let Some(name) = note["snapshot"].as_str() {
        if runs {
            freeze::resume(ctx, &Liblxc::new(monitor::containers(ctx)), vmid)?;
        }
        snapshot::take_back(ctx, vmid, name)?;
    }
    if let Some(name) = note["drop"].as_str() {
        snapshot::finish_drop(ctx, vmid, name, log)?;
    }
    if let Some(name) = note["rollback"].as_str().filter(|_| config.current.get("lock") == Some("rollback")) {
        snapshot::go_back(ctx, vmid, name)?;
    }
    if note["work"] == "move" {
        guest::update(ctx, GuestKind::Lxc, vmid, |config| {
            if config.current.get("lock") == Some("disk") {
                config.current.options.remove("lock");
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What was being made goes, what was being replaced comes back. Volumes are looked at afterwards.
fn take_back(ctx: &Context, vmid: Vmid, note: &Value, now: &GuestConfig) -> Result<()> {
    if let Some(text) = note["replaced"].as_str() {
        let old = GuestConfig::parse(GuestKind::Lxc, text);
        return guest::update(ctx, GuestKind::Lxc, vmid, |config| {
            let digest = std::mem::take(&mut config.digest);
            *config = GuestConfig { digest, ..old };
            Ok(())
        });
    }
    // A configuration that names what is not its own (mounts of the host) must not take it along.
    for id in volume::volumes(&now.current).iter().filter_map(|text| text.parse::<VolumeId>().ok()) {
        if storage::describe(ctx, &id).is_ok_and(|described| described.vmid == Some(vmid)) {
            storage::free(ctx, &id)?;
        }
    }
    destroy::remove_directory(ctx, vmid)?;
    guest::firewall::remove(ctx, vmid)?;
    guest::remove(ctx, GuestKind::Lxc, vmid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A note of a process that is gone: no process starts before the machine.
    fn forget(ctx: &Context, vmid: Vmid, kind: Kind) {
        std::mem::forget(Work::begin(ctx, vmid, kind).unwrap());
        before(ctx);
        assert!(path(ctx, vmid).exists(), "its process lives");
        let mut note: Value = serde_json::from_str(&std::fs::read_to_string(path(ctx, vmid)).unwrap()).unwrap();
        note["process"]["start"] = 0.into();
        std::fs::write(path(ctx, vmid), note.to_string()).unwrap();
        before(ctx);
        assert!(noted(ctx).is_empty());
    }

    #[test]
    fn unfinished_work_is_settled_when_its_process_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let vmid: Vmid = "100".parse().unwrap();
        let put = |text: &str| {
            if guest::find(&ctx, vmid).is_some() {
                guest::remove(&ctx, GuestKind::Lxc, vmid).unwrap();
            }
            guest::create(&ctx, vmid, &GuestConfig::parse(GuestKind::Lxc, text)).unwrap();
        };
        let text = || guest::load(&ctx, GuestKind::Lxc, vmid).unwrap().print();
        put("lock: create\n");
        forget(&ctx, vmid, Kind::Create(&[], None));
        assert_eq!(guest::find(&ctx, vmid), None);
        let old = GuestConfig::parse(GuestKind::Lxc, "memory: 100\n");
        put("lock: create\nmemory: 200\n");
        forget(&ctx, vmid, Kind::Create(&[], Some(&old)));
        assert_eq!(text(), "memory: 100\n");
        put("lock: snapshot\nmemory: 100\n\n[one]\nmemory: 100\nsnapstate: prepare\nsnaptime: 1\n");
        forget(&ctx, vmid, Kind::Snapshot("one"));
        assert_eq!(text(), "memory: 100\n");
        put("lock: snapshot-delete\nmemory: 100\nparent: one\n\n[one]\nmemory: 100\nsnapstate: delete\nsnaptime: 1\n");
        forget(&ctx, vmid, Kind::DropSnapshot("one"));
        assert_eq!(text(), "memory: 100\n");
        put("lock: rollback\nmemory: 100\n\n[one]\nmemory: 50\nsnaptime: 1\n");
        forget(&ctx, vmid, Kind::Rollback("one"));
        assert_eq!(text(), "memory: 50\nparent: one\n\n[one]\nmemory: 50\nsnaptime: 1\n");
        put("lock: disk\nmemory: 100\n");
        forget(&ctx, vmid, Kind::Move("local"));
        assert_eq!(text(), "memory: 100\n");
        forget(&ctx, vmid, Kind::Destroy(destroy::Destroy::default()));
        assert_eq!(guest::find(&ctx, vmid), None);
    }
}
