//! Work on a VM that a killed process has left half-done, and taking it back.
//!
//! ```text
//! begin: note what is there ── work ── note removed            killed: the note stays, its process does not
//!                                                               └── the next call that touches guests or storages takes back
//! ```
//! A note is made under the guest's queue lock, so one of a dead process is nobody's any more. Taken back are copies and
//! migrations in QEMU, pauses, volumes that were not there before and that nobody names, half-made snapshots, the
//! configuration of an unfinished clone, and the mark `lock`. A copy that the guest already writes to stays and is entered.
//! Going back to a snapshot is carried to its end, as some disks may be back already; a snapshot that was being removed
//! stays as one that can only be removed.

use super::config::{Drive, Slot, Vm};
use super::qmp::Monitor;
use super::{agent, block, clone, edit, files, snapshot, status};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::process::ProcessId;
use crate::storage::{self, Content, VolumeId};
use crate::{Context, Result, Task, Vmid, error::ResultExt, file, guest, lock};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long QEMU may take to end its jobs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Marks that go with the work that set them.
const MARKS: [&str; 3] = ["clone", "snapshot", "snapshot-delete"];

/// The note of work under way. It goes when this is dropped: a process that lives takes back by itself.
pub struct Work(PathBuf);

/// What a note says.
#[derive(Debug, Default, Clone)]
pub struct Facts<'a> {
    /// Storages on which volumes of the VM are made.
    pub storages: Vec<&'a str>,
    /// The snapshot that is made.
    pub snapshot: Option<&'a str>,
    /// The VM whose disks are copied.
    pub source: Option<Vmid>,
    /// The snapshot that the VM goes back to.
    pub rollback: Option<&'a str>,
    /// The snapshot that is removed.
    pub removal: Option<&'a str>,
}

fn path(ctx: &Context, vmid: Vmid) -> PathBuf {
    ctx.root.path(&format!("/var/lib/ferrovisor/work/{vmid}"))
}

impl Work {
    /// Notes what is about to be done; the caller holds the VM's lock.
    pub fn begin(ctx: &Context, vmid: Vmid, facts: &Facts) -> Result<Self> {
        let mut volumes = Vec::new();
        for id in facts.storages.iter().collect::<BTreeSet<_>>() {
            volumes.extend(images(ctx, id, vmid)?.iter().map(VolumeId::to_string));
        }
        let process = ProcessId::current();
        let note = json!({
            "process": {"pid": process.pid, "start": process.start},
            "storages": facts.storages, "volumes": volumes, "snapshot": facts.snapshot,
            "source": facts.source.map(|source| source.to_string()),
            "rollback": facts.rollback, "removal": facts.removal,
            "goes": status::is_running(ctx, vmid) && !status::is_paused(ctx, vmid),
        });
        let path = path(ctx, vmid);
        let directory = path.parent().expect("a note lies in a directory");
        std::fs::create_dir_all(directory).context(|| format!("unable to create '{}'", directory.display()))?;
        file::replace_volatile(&path, note.to_string().as_bytes(), 0o600)?;
        Ok(Work(path))
    }
}

/// The VM's images on a storage; backups and files are nobody's unfinished work.
fn images(ctx: &Context, storage: &str, vmid: Vmid) -> Result<Vec<VolumeId>> {
    let volumes = storage::list(ctx, storage, Some(vmid), &[Content::Images])?;
    Ok(volumes.into_iter().map(|volume| volume.id).collect())
}

impl Drop for Work {
    fn drop(&mut self) {
        // One that stays is taken for that of a dead process and finds nothing to take back.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Waits for a VM's lock; what the last holder may have left undone is taken back first.
pub fn lock(task: &Task, vmid: Vmid) -> Result<lock::QueueLock> {
    let lock = task.lock(&lock::guest(vmid))?;
    recover(task.ctx, vmid, &mut |line| task.log(line))?;
    Ok(lock)
}

/// Takes back what a dead process has left of a VM, if it has. Failures are for the log: the caller wants something else.
fn look(ctx: &Context, vmid: Vmid) {
    let Ok(Some(note)) = read(ctx, vmid) else { return };
    let number = |key: &str| note["process"][key].as_u64().unwrap_or(0);
    let process = ProcessId { pid: u32::try_from(number("pid")).unwrap_or(0), start: number("start") };
    if process.is_alive() {
        return;
    }
    let mut say = |line: &str| eprintln!("VM {vmid}: {line}");
    let outcome =
        lock::acquire(ctx, &lock::guest(vmid), "recovery", |_| {}).and_then(|_lock| recover(ctx, vmid, &mut say));
    if let Err(error) = outcome {
        say(&format!("unfinished work could not be taken back: {error}"));
    }
}

/// As [`look`], for all VMs: no handler meets what is nobody's any more. There is rarely a note to read.
pub fn before(ctx: &Context) {
    for vmid in noted(ctx) {
        look(ctx, vmid);
    }
}

/// VMs with notes.
fn noted(ctx: &Context) -> Vec<Vmid> {
    let entries = std::fs::read_dir(ctx.root.path("/var/lib/ferrovisor/work")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn read(ctx: &Context, vmid: Vmid) -> Result<Option<Value>> {
    let path = path(ctx, vmid);
    if !path.exists() {
        return Ok(None);
    }
    // One that cannot be read names nothing that could be taken back.
    Ok(Some(serde_json::from_str(&file::read_or_empty(&path)?).unwrap_or_default()))
}

fn recover(ctx: &Context, vmid: Vmid, log: &mut dyn FnMut(&str)) -> Result<()> {
    let Some(note) = read(ctx, vmid)? else { return Ok(()) };
    log("taking back what an interrupted process has left");
    let text = |key: &str| note[key].as_str().map(str::to_owned);
    let list = |key: &str| -> Vec<String> {
        note[key].as_array().into_iter().flatten().filter_map(|item| item.as_str().map(str::to_owned)).collect()
    };
    let before: BTreeSet<String> = list("volumes").into_iter().collect();
    let mut new = Vec::new();
    for id in list("storages").into_iter().collect::<BTreeSet<_>>() {
        let volumes = images(ctx, &id, vmid)?;
        new.extend(volumes.into_iter().filter(|volume| !before.contains(&volume.to_string())));
    }
    let source: Option<Vmid> = text("source").and_then(|source| source.parse().ok());
    for machine in source.into_iter().chain([vmid]).filter(|machine| status::is_running(ctx, *machine)) {
        end_jobs(ctx, machine, &new)?;
    }
    if status::is_running(ctx, vmid) && note["goes"] == true {
        agent::thaw_if_frozen(ctx, vmid);
        super::qmp::execute(ctx, vmid, "cont", json!({}))?;
    }
    if guest::find(ctx, vmid) == Some(GuestKind::Qemu) {
        if let Some(name) = text("snapshot") {
            snapshot::take_back(ctx, vmid, &name)?;
        }
        if let Some(name) = text("rollback") {
            snapshot::finish_roll_back(ctx, vmid, &name)?;
        }
        if let Some(name) = text("removal") {
            snapshot::finish_removal(ctx, vmid, &name)?;
        }
        adopt(ctx, vmid, &new)?;
        settle_config(ctx, vmid)?;
    }
    let named = match guest::find(ctx, vmid) {
        Some(_) => super::rescan::named(vmid, &guest::load(ctx, GuestKind::Qemu, vmid)?)?,
        None => Vec::new(),
    };
    for volume in new.iter().filter(|volume| !named.contains(&volume.to_string())) {
        storage::free(ctx, volume)?;
        log(&format!("removed volume '{volume}'"));
    }
    storage::remove_abandoned(ctx, vmid)?;
    if !status::is_running(ctx, vmid) {
        files::remove_leftovers(ctx, vmid)?;
    }
    drop(Work(path(ctx, vmid)));
    Ok(())
}

/// Cancels what QEMU copies or saves, and lets go of the targets.
fn end_jobs(ctx: &Context, vmid: Vmid, targets: &[VolumeId]) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut monitor = Monitor::connect(ctx, vmid)?;
    loop {
        let state = monitor.execute("query-migrate", json!({}))?;
        let saving =
            matches!(state["status"].as_str(), Some("setup" | "active" | "pre-switchover" | "cancelling" | "device"));
        if saving && state["status"] != "cancelling" {
            monitor.execute("migrate_cancel", json!({}))?;
        }
        let jobs = monitor.execute("query-block-jobs", json!({}))?;
        let jobs = jobs.as_array().cloned().unwrap_or_default();
        for job in &jobs {
            // It may be ending at this moment.
            let _ = monitor.execute("block-job-cancel", json!({"device": job["device"], "force": true}));
        }
        if (jobs.is_empty() && !saving) || Instant::now() > until {
            break;
        }
        sleep(Duration::from_millis(50));
    }
    for volume in targets {
        // Only those that a copy has opened are there, and one that the guest writes to stays.
        let _ = monitor.execute("blockdev-del", json!({"node-name": block::target_node(volume)}));
    }
    Ok(())
}

/// Enters copies that a running guest has gone over to; what it had before becomes unused.
fn adopt(ctx: &Context, vmid: Vmid, new: &[VolumeId]) -> Result<()> {
    if !status::is_running(ctx, vmid) {
        return Ok(());
    }
    for volume in new {
        let Some(slot) = block::slot_of(ctx, vmid, volume)? else { continue };
        guest::update(ctx, GuestKind::Qemu, vmid, |config| {
            let key = slot.to_string();
            let Some(mut drive) = config.current.get(&key).and_then(|text| Drive::parse(slot, text).ok()) else {
                return Ok(());
            };
            let old = std::mem::take(&mut drive.file);
            clone::finish_drive(ctx, &mut drive, volume)?;
            config.current.set(&key, drive.to_string());
            edit::add_unused(&mut config.current, &old);
            Ok(())
        })?;
    }
    Ok(())
}

/// The configuration of a clone that was never finished goes; from others the mark goes, and sizes are as they are.
fn settle_config(ctx: &Context, vmid: Vmid) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    if config.current.get("lock") == Some("clone") && config.current.options.len() == 1 {
        return guest::remove(ctx, GuestKind::Qemu, vmid);
    }
    let changed = |config: &GuestConfig| -> Vec<(Slot, Drive)> {
        let drives = Vm::new(vmid, &config.current).drives().unwrap_or_default();
        let correct = |(slot, mut drive): (Slot, Drive)| {
            let size = storage::print_size(storage::info(ctx, &drive.volume()?).ok()?.size);
            let known = drive.options.text("size")?;
            drive.options.set("size", size.clone());
            (known != size && !drive.is_cdrom()).then_some((slot, drive))
        };
        drives.into_iter().filter_map(correct).collect()
    };
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        for (slot, drive) in changed(config) {
            config.current.set(slot.to_string(), drive.to_string());
        }
        if config.current.get("lock").is_some_and(|mark| MARKS.contains(&mark)) {
            config.current.options.remove("lock");
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_clone_is_gone_and_marks_go_with_their_work() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let (clone, other): (Vmid, Vmid) = ("100".parse().unwrap(), "101".parse().unwrap());
        let mut config = GuestConfig::new(GuestKind::Qemu);
        config.current.set("lock", "clone");
        guest::create(&ctx, clone, &config).unwrap();
        config.current.set("lock", "snapshot");
        config.current.set("cores", "2");
        guest::create(&ctx, other, &config).unwrap();
        for vmid in [clone, other] {
            // A process that is gone: no process starts before the machine.
            std::mem::forget(Work::begin(&ctx, vmid, &Facts::default()).unwrap());
            let note = std::fs::read_to_string(path(&ctx, vmid)).unwrap();
            let mut note: Value = serde_json::from_str(&note).unwrap();
            look(&ctx, vmid);
            assert!(path(&ctx, vmid).exists(), "its process lives");
            note["process"]["start"] = 0.into();
            std::fs::write(path(&ctx, vmid), note.to_string()).unwrap();
            look(&ctx, vmid);
        }
        let going_back = "lock: rollback\ncores: 4\n\n[one]\ncores: 1\nsnaptime: 1\n";
        let (back, removing): (Vmid, Vmid) = ("102".parse().unwrap(), "103".parse().unwrap());
        guest::create(&ctx, back, &GuestConfig::parse(GuestKind::Qemu, going_back)).unwrap();
        let half_gone = "lock: snapshot-delete\n\n[one]\ncores: 1\nsnapstate: delete\n";
        guest::create(&ctx, removing, &GuestConfig::parse(GuestKind::Qemu, half_gone)).unwrap();
        for (vmid, rollback, removal) in [(back, Some("one"), None), (removing, None, Some("one"))] {
            std::mem::forget(Work::begin(&ctx, vmid, &Facts { rollback, removal, ..Facts::default() }).unwrap());
            recover(&ctx, vmid, &mut |_| {}).unwrap();
        }
        let text = |vmid| guest::load(&ctx, GuestKind::Qemu, vmid).unwrap().print();
        assert_eq!(text(back), "cores: 1\nparent: one\n\n[one]\ncores: 1\nsnaptime: 1\n");
        assert_eq!(text(removing), "");
        assert_eq!(guest::find(&ctx, clone), None);
        let config = guest::load(&ctx, GuestKind::Qemu, other).unwrap();
        assert_eq!((config.current.get("lock"), config.current.get("cores")), (None, Some("2")));
        assert!(noted(&ctx).is_empty());
    }
}
