//! Work on a container that a killed process has left half-done, and what becomes of it.
//!
//! A container that was being made is gone, one that was being replaced is as it was, a half-made snapshot and half-copied
//! volumes are gone. Going back to a snapshot, removing one, and destroying a container are carried to their end, as some
//! volumes may be gone already. Mounts need no care: they end with their namespace. (PVE leaves all of this to the
//! administrator: `pct unlock`)

use super::liblxc::Liblxc;
use super::{destroy, freeze, monitor, snapshot, volume};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::guest::work::{Notes, Work, texts};
use crate::storage::{self, Content, VolumeId};
use crate::{Context, Result, Vmid, guest};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Notes of work on containers.
pub const NOTES: Notes = Notes { label: "CT", place: "/var/lib/ferrovisor/work-lxc", settle: recover };

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

/// Notes what is about to be done; the caller holds the container's lock.
pub fn begin(ctx: &Context, vmid: Vmid, kind: Kind) -> Result<Work> {
    let mut volumes: Vec<String> = Vec::new();
    let storages = match kind {
        Kind::Create(storages, _) => storages.to_vec(),
        Kind::Move(storage) => vec![storage],
        _ => Vec::new(),
    };
    for id in storages.iter().collect::<BTreeSet<_>>() {
        volumes.extend(owned(ctx, id, vmid)?.iter().map(VolumeId::to_string));
    }
    let mut note = json!({"storages": storages, "volumes": volumes});
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
    NOTES.begin(ctx, vmid, note)
}

/// The container's volumes on a storage; templates and backups are nobody's unfinished work.
fn owned(ctx: &Context, storage: &str, vmid: Vmid) -> Result<Vec<VolumeId>> {
    let volumes = storage::list(ctx, storage, Some(vmid), &[Content::Images, Content::Rootdir])?;
    Ok(volumes.into_iter().map(|volume| volume.id).collect())
}

fn recover(ctx: &Context, vmid: Vmid, note: &Value, log: &mut dyn FnMut(&str)) -> Result<()> {
    log("settling what an interrupted process has left");
    if guest::find(ctx, vmid) == Some(GuestKind::Lxc) {
        settle(ctx, vmid, note, log)?;
    } else if note["work"] == "destroy" || note["work"] == "create" {
        destroy::remove_directory(ctx, vmid)?;
    }
    let named: Vec<String> = match guest::find(ctx, vmid) {
        Some(GuestKind::Lxc) => parts(&guest::load(ctx, GuestKind::Lxc, vmid)?),
        _ => Vec::new(),
    };
    let before = texts(note, "volumes");
    for storage in texts(note, "storages").into_iter().collect::<BTreeSet<_>>() {
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
    storage::remove_abandoned(ctx, vmid)
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
        std::mem::forget(begin(ctx, vmid, kind).unwrap());
        NOTES.before(ctx);
        assert!(NOTES.path(ctx, vmid).exists(), "its process lives");
        let mut note: Value = serde_json::from_str(&std::fs::read_to_string(NOTES.path(ctx, vmid)).unwrap()).unwrap();
        note["process"]["start"] = 0.into();
        std::fs::write(NOTES.path(ctx, vmid), note.to_string()).unwrap();
        NOTES.before(ctx);
        assert!(NOTES.guests(ctx).is_empty());
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
