//! What snapshots do to a configuration. No effects: volumes are somebody else's.
//! (PVE: pve-guest-common PVE/AbstractConfig.pm, __snapshot_copy_config and its callers)

use crate::config::guest::{GuestConfig, Part};
use crate::qemu::config::{Drive, Vm};
use crate::qemu::edit;
use crate::types::random_uuid;
use crate::{Error, Result, Vmid};
use serde_json::{Value, json};

/// Keys that belong to one snapshot and are not copied from part to part.
const OWN: [&str; 5] = ["snapstate", "snaptime", "vmstate", "lock", "digest"];
/// What a state with memory says about the machine that it came from.
pub const RUNNING: [&str; 3] = ["runningmachine", "runningcpu", "running-nets-host-mtu"];

fn is_copied(key: &str) -> bool {
    !OWN.contains(&key) && !key.starts_with("unused")
}

/// The options that go from one part to another.
fn copied(part: &Part) -> impl Iterator<Item = (String, String)> + '_ {
    part.options.iter().filter(|(key, _)| is_copied(key)).map(|(key, value)| (key.clone(), value.clone()))
}

/// Drives that snapshots are made of: disks, no discs.
pub fn disks(vmid: Vmid, part: &Part) -> Result<Vec<Drive>> {
    let drives = Vm::new(vmid, part).drives()?;
    Ok(drives.into_iter().map(|(_, drive)| drive).filter(|drive| !drive.is_cdrom()).collect())
}

/// Enters a snapshot that is about to be made; `state` has what a memory state brings along.
pub fn prepare(config: &mut GuestConfig, name: &str, description: Option<String>, now: i64, state: Part) -> Result<()> {
    if config.snapshots.contains_key(name) {
        return Err(Error::new(format!("snapshot name '{name}' already used")));
    }
    // A parent of the same name, removed long ago, would make a ring.
    for other in config.snapshots.values_mut().filter(|other| other.get("parent") == Some(name)) {
        other.options.remove("parent");
    }
    let mut snapshot = state;
    snapshot.options.extend(copied(&config.current));
    snapshot.set("snapstate", "prepare");
    snapshot.set("snaptime", now.to_string());
    snapshot.description = description.filter(|text| !text.is_empty());
    config.snapshots.insert(name.to_owned(), snapshot);
    config.current.set("lock", "snapshot");
    Ok(())
}

/// The snapshot has been made.
pub fn commit(config: &mut GuestConfig, name: &str) -> Result<()> {
    let snapshot = config.snapshots.get_mut(name);
    let snapshot = snapshot.ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?;
    snapshot.options.remove("snapstate");
    config.current.options.remove("lock");
    config.current.set("parent", name);
    Ok(())
}

/// Takes a snapshot out: its children become those of its parent.
pub fn remove(config: &mut GuestConfig, name: &str) {
    let Some(snapshot) = config.snapshots.remove(name) else { return };
    let parent = snapshot.get("parent").map(str::to_owned);
    for part in config.snapshots.values_mut().chain([&mut config.current]) {
        if part.get("parent") == Some(name) {
            match &parent {
                Some(parent) => part.set("parent", parent),
                None => drop(part.options.remove("parent")),
            }
        }
    }
}

/// The configuration as it was: unused volumes and the description stay, disks that the snapshot did not have become
/// unused. Changes that wait are dropped.
pub fn roll_back(vmid: Vmid, config: &mut GuestConfig, name: &str) -> Result<()> {
    let snapshot = config.snapshots.get(name).cloned().unwrap_or_default();
    let kept: Vec<String> = disks(vmid, &snapshot)?.into_iter().map(|drive| drive.file).collect();
    for drive in disks(vmid, &config.current)?.into_iter().filter(|drive| !kept.contains(&drive.file)) {
        edit::add_unused(&mut config.current, &drive.file);
    }
    let old = std::mem::take(&mut config.current);
    config.pending = Default::default();
    config.current.description = old.description;
    config.current.options = old.options.into_iter().filter(|(key, _)| key.starts_with("unused")).collect();
    config.current.options.extend(copied(&snapshot));
    for key in RUNNING {
        config.current.options.remove(key);
    }
    edit::drop_used(vmid, config)?;
    config.current.set("parent", name);
    if config.current.get("vmgenid").is_some() {
        // The guest can tell that it has been here before.
        config.current.set("vmgenid", random_uuid());
    }
    Ok(())
}

/// The list that clients get: snapshots, and `current` as the last. (PVE: API2/Qemu.pm, snapshot_list)
pub fn listing(config: &GuestConfig, running: bool) -> Vec<Value> {
    let mut rows: Vec<Value> = config
        .snapshots
        .iter()
        .map(|(name, part)| {
            let mut row = json!({
                "name": name,
                "snaptime": part.get("snaptime").and_then(|time| time.parse::<i64>().ok()).unwrap_or(0),
                "vmstate": i32::from(part.get("vmstate").is_some()),
                "description": part.description.clone().unwrap_or_default(),
            });
            for key in ["parent", "snapstate"] {
                if let Some(text) = part.get(key) {
                    row[key] = text.into();
                }
            }
            row
        })
        .collect();
    let mut current = json!({
        "name": "current", "digest": config.digest, "running": i32::from(running), "description": "You are here!",
    });
    if let Some(parent) = config.current.get("parent") {
        current["parent"] = parent.into();
    }
    rows.push(current);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestKind;

    fn vmid() -> Vmid {
        "100".parse().unwrap()
    }

    fn config(text: &str) -> GuestConfig {
        GuestConfig::parse(GuestKind::Qemu, text)
    }

    #[test]
    fn a_snapshot_keeps_what_was_and_becomes_the_parent() {
        let mut config = config("#hello\ncores: 2\nscsi0: local:100/a.qcow2\nunused0: local:100/b.raw\n");
        prepare(&mut config, "one", Some("before\n".into()), 1_700_000_000, Part::default()).unwrap();
        assert_eq!(config.current.get("lock"), Some("snapshot"));
        assert!(prepare(&mut config.clone(), "one", None, 0, Part::default()).is_err());
        commit(&mut config, "one").unwrap();
        let one = &config.snapshots["one"];
        assert_eq!((one.get("cores"), one.get("unused0"), one.get("snapstate")), (Some("2"), None, None));
        assert_eq!((one.get("lock"), one.description.as_deref()), (None, Some("before\n")));
        assert_eq!((config.current.get("parent"), config.current.get("lock")), (Some("one"), None));
    }

    #[test]
    fn removing_one_in_the_middle_joins_its_neighbours() {
        let text =
            "parent: cc\n\n[aa]\nsnaptime: 1\n\n[bb]\nparent: aa\nsnaptime: 2\n\n[cc]\nparent: bb\nsnaptime: 3\n";
        let mut config = config(text);
        remove(&mut config, "bb");
        assert_eq!(config.snapshots["cc"].get("parent"), Some("aa"));
        remove(&mut config, "cc");
        assert_eq!(config.current.get("parent"), Some("aa"));
        remove(&mut config, "aa");
        assert_eq!(config.current.get("parent"), None);
    }

    #[test]
    fn rolling_back_keeps_later_disks_as_unused() {
        let text = "#now\ncores: 4\nscsi0: local:100/a.qcow2\nscsi1: local:100/new.qcow2\nvmgenid: x\n\n[PENDING]\n\
                    cores: 8\n\n[one]\n#then\ncores: 2\nrunningmachine: pc-i440fx-7.2\nscsi0: local:100/a.qcow2\n\
                    snaptime: 1\nvmgenid: x\nvmstate: local:100/vm-100-state-one.raw\n";
        let mut config = config(text);
        roll_back(vmid(), &mut config, "one").unwrap();
        let current = &config.current;
        assert_eq!((current.get("cores"), current.get("unused0")), (Some("2"), Some("local:100/new.qcow2")));
        assert_eq!((current.get("vmstate"), current.get("runningmachine")), (None, None));
        assert_eq!((current.get("parent"), current.description.as_deref()), (Some("one"), Some("now")));
        assert_ne!(current.get("vmgenid"), Some("x"));
        assert!(config.pending.is_empty());
    }

    #[test]
    fn the_list_ends_with_the_present() {
        let rows = listing(&config("parent: one\n\n[one]\nsnaptime: 5\n"), true);
        assert_eq!((rows[0]["name"].as_str(), rows[0]["snaptime"].as_i64()), (Some("one"), Some(5)));
        assert_eq!(
            (&rows[1]["name"], &rows[1]["parent"], &rows[1]["running"]),
            (&"current".into(), &"one".into(), &1.into())
        );
    }
}
