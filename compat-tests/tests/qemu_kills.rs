//! VMs in crowds, and QEMU, workers and the daemon killed at any moment: nobody fails on a lock, and nothing is left.
//!
//! `FERROVISOR_CROWD` (VMs at once, by default 6) and `FERROVISOR_KILLS` (rounds, by default 8) make it harder.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::Bridge;
use compat_tests::{Client, Node, process, setting, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const VM: &str = "/nodes/pve1/qemu/7310";
const BRIDGE: &str = "vmkills0";

fn names(node: &Node, directory: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(node.path(directory)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

#[test]
fn a_crowd_is_cloned_started_stopped_and_destroyed_from_many_clients() {
    let node = Node::start();
    let client = node.admin();
    let options =
        ["--memory", "16", "--kvm", "0", "--vga", "none", "--freeze", "1", "--scsi0", "local:0.01,format=qcow2"];
    node.run("qm", &[["create", "7300"].as_slice(), &options].concat()).ok();
    node.run("qm", &["template", "7300"]).ok();

    // What changes nothing writes nothing.
    let file = node.path("etc/pve/qemu-server/7300.conf");
    let before = fs::metadata(&file).unwrap().modified().unwrap();
    let digest = client.get("/nodes/pve1/qemu/7300/config").data()["digest"].clone();
    client.put("/nodes/pve1/qemu/7300/config", &[("memory", "16"), ("vga", "none"), ("description", "")]).data();
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
    assert_eq!(client.get("/nodes/pve1/qemu/7300/config").data()["digest"], digest);

    let crowd = setting("FERROVISOR_CROWD", 6);
    let next = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..crowd.min(20) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= crowd {
                        return;
                    }
                    let newid = (8500 + number).to_string();
                    let path = format!("/nodes/pve1/qemu/{newid}");
                    let clone = client.post("/nodes/pve1/qemu/7300/clone", &[("newid", &newid)]).data();
                    node.finish(&client, &clone);
                    // Three at once, one after the other.
                    let larger = [("disk", "scsi0"), ("size", "+1M")];
                    let tasks = [
                        client.post(&format!("{path}/status/start"), &[]),
                        client.put(&format!("{path}/resize"), &larger),
                        client.put(&format!("{path}/resize"), &larger),
                    ];
                    tasks.iter().for_each(|task| node.finish(&client, &task.data()));
                    assert_eq!(client.get(&format!("{path}/status/current")).data()["status"], "running");
                    node.finish(&client, &client.post(&format!("{path}/status/stop"), &[]).data());
                    node.finish(&client, &client.delete(&path).data());
                }
            });
        }
    });
    assert_eq!(client.get("/nodes/pve1/qemu").data().as_array().unwrap().len(), 1);
    nobody_is_overtaken(&client);
    let left: BTreeSet<String> = names(&node, "var/lib/vz/images").into_iter().filter(|name| name != "7300").collect();
    let left: Vec<&String> =
        left.iter().filter(|name| !names(&node, &format!("var/lib/vz/images/{name}")).is_empty()).collect();
    assert!(left.is_empty(), "{left:?}");
    let sockets = names(&node, "run/qemu-server");
    assert!(!sockets.iter().any(|name| name.starts_with("85")), "{sockets:?}");
}

/// Every task that waited has said for whom, and no two of them have waited for each other.
fn nobody_is_overtaken(client: &Client) {
    let tasks = client.get("/nodes/pve1/tasks?limit=5000&source=all").data();
    let mut waited = BTreeSet::new();
    for task in tasks.as_array().unwrap() {
        assert_eq!(task["status"], "OK", "{task}");
        let upid = task["upid"].as_str().unwrap().to_owned();
        let lines = client.get(&format!("/nodes/pve1/tasks/{upid}/log?limit=0")).data();
        for line in lines.as_array().unwrap().iter().filter_map(|line| line["t"].as_str()) {
            let Some((_, lock)) = line.split_once("waiting for lock '") else { continue };
            let holder = lock.split_once("', held by ").map(|(_, holder)| holder.trim_end_matches(" ..."));
            let holder = holder.unwrap_or_else(|| panic!("{upid} does not say for whom it waits: {line}"));
            waited.insert((upid.clone(), lock.split('\'').next().unwrap().to_owned(), holder.to_owned()));
        }
    }
    eprintln!("{} times a task has said for whom it waits", waited.len());
    for (task, lock, holder) in &waited {
        assert!(!waited.contains(&(holder.clone(), lock.clone(), task.clone())), "{task} and {holder} at {lock}");
    }
}

/// Start, snapshot with memory, clone, move, resize, snapshot, rollback, and the removal of a snapshot.
const OPERATIONS: usize = 8;

#[derive(Debug, Clone, Copy)]
enum Victim {
    Worker,
    Qemu,
    Daemon,
}

fn config(client: &Client) -> Value {
    client.get(&format!("{VM}/config")).data()
}

/// The images that a configuration and its snapshots name.
fn named(node: &Node) -> BTreeSet<String> {
    let text = fs::read_to_string(node.path("etc/pve/qemu-server/7310.conf")).unwrap();
    let part = |line: &str| Some(line.split_once("local:7310/")?.1.split(',').next()?.to_owned());
    text.lines().filter_map(part).collect()
}

/// What stands in the way of calling the VM whole, if anything does.
fn trouble(node: &Node, client: &Client) -> Option<String> {
    let config = config(client);
    if config.get("lock").is_some() {
        return Some(format!("locked: {config}"));
    }
    let (found, named) = (names(node, "var/lib/vz/images/7310"), named(node));
    if found != named {
        return Some(format!("volumes {found:?}, named {named:?}"));
    }
    let work = names(node, "var/lib/ferrovisor/work");
    (!work.is_empty()).then(|| format!("work: {work:?}"))
}

#[test]
fn what_is_killed_leaves_a_vm_that_works() {
    let mut node = Node::start();
    let _bridge = Bridge::new(BRIDGE, None);
    let client = node.admin();
    let net = format!("virtio,bridge={BRIDGE}");
    let options =
        ["--memory", "32", "--kvm", "0", "--vga", "none", "--scsi0", "local:0.03125,format=qcow2", "--net0", &net];
    node.run("qm", &[["create", "7310"].as_slice(), &options].concat()).ok();
    let run = |node: &Node, path: &str, form: &[(&str, &str)]| node.finish(&client, &client.post(path, form).data());
    let (start, stop) = (format!("{VM}/status/start"), format!("{VM}/status/stop"));
    let victims = [Victim::Worker, Victim::Qemu, Victim::Worker, Victim::Daemon];
    let mut moment = u64::from(std::process::id()) % 211 + 1;
    for round in 0..setting("FERROVISOR_KILLS", 8) as usize {
        let victim = victims[(round / OPERATIONS + round) % victims.len()];
        let operation = round % OPERATIONS;
        // Snapshots need an image that has them; going back and forgetting need a snapshot.
        let (takes_snapshots, goes_back) = (matches!(operation, 1 | 5..), operation >= 6);
        if takes_snapshots && config(&client)["scsi0"].as_str().unwrap().contains(".raw") {
            let moved = [("disk", "scsi0"), ("storage", "local"), ("format", "qcow2"), ("delete", "1")];
            run(&node, &format!("{VM}/move_disk"), &moved);
        }
        if operation != 0 {
            run(&node, &start, &[]);
        }
        if goes_back {
            let with_memory = if (round / OPERATIONS).is_multiple_of(2) { "1" } else { "0" };
            run(&node, &format!("{VM}/snapshot"), &[("snapname", "before"), ("vmstate", with_memory)]);
        }
        let format = if config(&client)["scsi0"].as_str().unwrap().contains(".qcow2") { "raw" } else { "qcow2" };
        let moved = [("disk", "scsi0"), ("storage", "local"), ("format", format), ("delete", "1")];
        let snapshot = [("snapname", "moment"), ("vmstate", "1")];
        let upid = match operation {
            0 => client.post(&start, &[]),
            1 => client.post(&format!("{VM}/snapshot"), &snapshot),
            2 => client.post(&format!("{VM}/clone"), &[("newid", "7311"), ("full", "1")]),
            3 => client.post(&format!("{VM}/move_disk"), &moved),
            4 => client.put(&format!("{VM}/resize"), &[("disk", "scsi0"), ("size", "+1M")]),
            5 => client.post(&format!("{VM}/snapshot"), &snapshot[..1]),
            6 => client.post(&format!("{VM}/snapshot/before/rollback"), &[("start", "1")]),
            _ => client.delete(&format!("{VM}/snapshot/before")),
        };
        let upid = upid.data();
        moment = moment * 37 % 211;
        std::thread::sleep(Duration::from_millis(moment * 3));
        match victim {
            Victim::Worker => {
                process::kill(u32::from_str_radix(upid.as_str().unwrap().split(':').nth(2).unwrap(), 16).unwrap())
            }
            Victim::Qemu => {
                let pid = fs::read_to_string(node.path("run/qemu-server/7310.pid")).unwrap_or_default();
                if let Ok(pid) = pid.trim().parse() {
                    process::kill(pid);
                }
            }
            Victim::Daemon => {
                node.kill_daemon();
                node.start_daemon();
            }
        }
        let what = format!("round {round}: operation {operation}, {victim:?} after {} ms", moment * 3);
        let status = node.wait_task(&client, &upid);
        eprintln!("{what}: {status}");
        client.get("/nodes/pve1/qemu/7311/config");
        let mut last = String::new();
        wait_for(&what, 60, || match trouble(&node, &client) {
            None => Some(()),
            Some(trouble) => {
                if trouble != last {
                    eprintln!("{what}: {trouble}");
                }
                last = trouble;
                None
            }
        });
        if operation == 2 {
            if client.get("/nodes/pve1/qemu/7311/config").status == 200 {
                node.finish(&client, &client.delete("/nodes/pve1/qemu/7311").data());
            }
            assert_eq!(names(&node, "var/lib/vz/images/7311"), BTreeSet::new(), "{what}");
        }
        let rows = client.get(&format!("{VM}/snapshot")).data();
        for row in rows.as_array().unwrap().iter().filter(|row| row["name"] != "current") {
            assert!(row.get("snapstate").is_none_or(Value::is_null), "{what}: {row}");
            let removed = client.delete(&format!("{VM}/snapshot/{}", row["name"].as_str().unwrap()));
            node.finish(&client, &removed.data());
        }
        // It goes on, or starts, and ends without a trace.
        let current = client.get(&format!("{VM}/status/current")).data();
        if current["status"] == "running" {
            assert_eq!(current["qmpstatus"], "running", "{what}");
            run(&node, &stop, &[]);
        }
        run(&node, &start, &[]);
        run(&node, &stop, &[]);
        let sockets = names(&node, "run/qemu-server");
        assert!(!sockets.iter().any(|name| name.starts_with("7310")), "{what}: {sockets:?}");
        assert!(!fs::exists("/sys/class/net/tap7310i0").unwrap(), "{what}");
        assert_eq!(trouble(&node, &client), None, "{what}");
    }
    node.finish(&client, &client.delete(VM).data());
    assert_eq!(names(&node, "var/lib/vz/images/7310"), BTreeSet::new());
}
