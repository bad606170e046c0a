//! Work on a VM that a killed process has left half-done, and taking it back.
//!
//! Taken back are copies and migrations in QEMU, pauses, volumes that were not there before and that nobody names, half-made
//! snapshots, the configuration of an unfinished clone, and the mark `lock`. A copy that the guest already writes to stays
//! and is entered. Going back to a snapshot and removing one are carried to their end, as some disks may be done already.

use super::config::{Drive, Slot, Vm};
use super::qmp::Monitor;
use super::{agent, block, clone, edit, files, snapshot, status, stop, suspend};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::guest::work::{Notes, Work, texts};
use crate::storage::{self, Content, VolumeId};
use crate::{Context, Result, Vmid, guest};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long QEMU may take to end its jobs.
const PATIENCE: Duration = Duration::from_secs(30);
/// Marks that go with the work that set them.
const MARKS: [&str; 3] = ["clone", "snapshot", "snapshot-delete"];

/// Notes of work on VMs.
pub const NOTES: Notes = Notes { label: "VM", place: "/var/lib/ferrovisor/work", settle: recover };

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
    /// The VM is being suspended to disk.
    pub suspends: bool,
    /// It goes on from there.
    pub resumes: bool,
}

/// Notes what is about to be done; the caller holds the VM's lock.
pub fn begin(ctx: &Context, vmid: Vmid, facts: &Facts) -> Result<Work> {
    let mut volumes = Vec::new();
    for id in facts.storages.iter().collect::<BTreeSet<_>>() {
        volumes.extend(images(ctx, id, vmid)?.iter().map(VolumeId::to_string));
    }
    let note = json!({
        "storages": facts.storages, "volumes": volumes, "snapshot": facts.snapshot,
        "source": facts.source.map(|source| source.to_string()),
        "rollback": facts.rollback, "removal": facts.removal, "suspends": facts.suspends,
        "resumes": facts.resumes,
        "goes": status::is_running(ctx, vmid) && !status::is_paused(ctx, vmid),
    });
    NOTES.begin(ctx, vmid, note)
}

fn mark(ctx: &Context, vmid: Vmid) -> Option<String> {
    guest::load(ctx, GuestKind::Qemu, vmid).ok()?.current.get("lock").map(str::to_owned)
}

/// The VM's images on a storage; backups and files are nobody's unfinished work.
fn images(ctx: &Context, storage: &str, vmid: Vmid) -> Result<Vec<VolumeId>> {
    let volumes = storage::list(ctx, storage, Some(vmid), &[Content::Images])?;
    Ok(volumes.into_iter().map(|volume| volume.id).collect())
}

fn recover(ctx: &Context, vmid: Vmid, note: &Value, log: &mut dyn FnMut(&str)) -> Result<()> {
    log("taking back what an interrupted process has left");
    if note["suspends"] == true && mark(ctx, vmid).as_deref() == Some("suspended") {
        // Its state is whole. If it went on, that would be of another time than its disks.
        return stop::kill(ctx, vmid);
    }
    if note["resumes"] == true {
        return suspend::settle(ctx, vmid);
    }
    let text = |key: &str| note[key].as_str().map(str::to_owned);
    let before: BTreeSet<String> = texts(note, "volumes").into_iter().collect();
    let mut new = Vec::new();
    for id in texts(note, "storages").into_iter().collect::<BTreeSet<_>>() {
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
        if config.current.get("lock") == Some("suspending") {
            suspend::forget_state(&mut config.current);
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
            std::mem::forget(begin(&ctx, vmid, &Facts::default()).unwrap());
            let note = std::fs::read_to_string(NOTES.path(&ctx, vmid)).unwrap();
            let mut note: Value = serde_json::from_str(&note).unwrap();
            NOTES.before(&ctx);
            assert!(NOTES.path(&ctx, vmid).exists(), "its process lives");
            note["process"]["start"] = 0.into();
            std::fs::write(NOTES.path(&ctx, vmid), note.to_string()).unwrap();
            NOTES.before(&ctx);
        }
        let going_back = "lock: rollback\ncores: 4\n\n[one]\ncores: 1\nsnaptime: 1\n";
        let (back, removing): (Vmid, Vmid) = ("102".parse().unwrap(), "103".parse().unwrap());
        guest::create(&ctx, back, &GuestConfig::parse(GuestKind::Qemu, going_back)).unwrap();
        let half_gone = "lock: snapshot-delete\n\n[one]\ncores: 1\nsnapstate: delete\n";
        guest::create(&ctx, removing, &GuestConfig::parse(GuestKind::Qemu, half_gone)).unwrap();
        for (vmid, rollback, removal) in [(back, Some("one"), None), (removing, None, Some("one"))] {
            std::mem::forget(begin(&ctx, vmid, &Facts { rollback, removal, ..Facts::default() }).unwrap());
            NOTES.recover(&ctx, vmid, &mut |_| {}).unwrap();
        }
        let text = |vmid| guest::load(&ctx, GuestKind::Qemu, vmid).unwrap().print();
        let (asleep, half_asleep): (Vmid, Vmid) = ("104".parse().unwrap(), "105".parse().unwrap());
        let not_awake: Vmid = "106".parse().unwrap();
        for (vmid, mark, resumes) in
            [(asleep, "suspended", false), (half_asleep, "suspending", false), (not_awake, "suspended", true)]
        {
            let config = format!("cores: 1\nlock: {mark}\nrunningcpu: host\nvmstate: local:1/vm-1-state-x.raw\n");
            guest::create(&ctx, vmid, &GuestConfig::parse(GuestKind::Qemu, &config)).unwrap();
            let facts = Facts { suspends: !resumes, resumes, ..Facts::default() };
            std::mem::forget(begin(&ctx, vmid, &facts).unwrap());
            NOTES.recover(&ctx, vmid, &mut |_| {}).unwrap();
        }
        assert!(text(asleep).contains("lock: suspended") && text(asleep).contains("vmstate"));
        assert_eq!(text(not_awake), text(asleep));
        assert_eq!(text(half_asleep), "cores: 1\n");
        assert_eq!(text(back), "cores: 1\nparent: one\n\n[one]\ncores: 1\nsnaptime: 1\n");
        assert_eq!(text(removing), "");
        assert_eq!(guest::find(&ctx, clone), None);
        let config = guest::load(&ctx, GuestKind::Qemu, other).unwrap();
        assert_eq!((config.current.get("lock"), config.current.get("cores")), (None, Some("2")));
        assert!(NOTES.guests(&ctx).is_empty());
    }
}
