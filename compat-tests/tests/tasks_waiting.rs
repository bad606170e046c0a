//! Tasks that wait for a guest which somebody else works on: what they say, what they outlive, in which order they go on,
//! and how they are given up.
//!
//! The one who works on the guest is a process of the test: its line stands in front in the queue of the guest's lock.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node, process, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command};

const VM: &str = "/nodes/pve1/qemu/7700";
const LABEL: &str = "UPID:pve1:00000001:00000001:69A2B3C4:qmmove:7700:root@pam:";

/// A process that works on the guest as long as it lives or until it gives the lock back.
struct Holder {
    process: Child,
    queue: PathBuf,
}

impl Holder {
    fn new(node: &Node) -> Self {
        let process = Command::new("sleep").arg("600").spawn().unwrap();
        let queue = node.path("run/lock/ferrovisor/guest-7700");
        fs::create_dir_all(queue.parent().unwrap()).unwrap();
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.id())).unwrap();
        // The name in parentheses is one word here, so fields can be counted from the front.
        let start = stat.split(' ').nth(21).unwrap();
        fs::write(&queue, format!("{} {start} 1 {LABEL}\n", process.id())).unwrap();
        Holder { process, queue }
    }

    /// Who stands in the queue: process numbers, the holder first.
    fn queue(&self) -> Vec<u32> {
        let text = fs::read_to_string(&self.queue).unwrap();
        text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    /// Takes the line out, as the one who holds a lock does when the work is done.
    fn give_back(&self) {
        let file = fs::OpenOptions::new().read(true).write(true).open(&self.queue).unwrap();
        rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let text = fs::read_to_string(&self.queue).unwrap();
        let own = format!("{} ", self.process.id());
        let rest: String = text.split_inclusive('\n').filter(|line| !line.starts_with(&own)).collect();
        assert_ne!(rest, text);
        fs::write(&self.queue, rest).unwrap();
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn node() -> (Node, Client) {
    let node = Node::start();
    let client = node.admin();
    fs::write(node.path("etc/pve/qemu-server/7700.conf"), "cores: 1\nmemory: 64\nname: before\n").unwrap();
    (node, client)
}

fn config(client: &Client) -> Value {
    client.get(&format!("{VM}/config")).data()
}

fn log(client: &Client, upid: &Value) -> String {
    client.get(&format!("/nodes/pve1/tasks/{}/log?limit=0", upid.as_str().unwrap())).text()
}

fn status(client: &Client, upid: &Value) -> Value {
    client.get(&format!("/nodes/pve1/tasks/{}/status", upid.as_str().unwrap())).data()
}

/// Waits until a task has told that it waits.
fn wait_for_waiting(client: &Client, upid: &Value) {
    wait_for("a task that waits", 20, || log(client, upid).contains("waiting for lock").then_some(()));
}

fn pid(upid: &Value) -> u32 {
    u32::from_str_radix(upid.as_str().unwrap().split(':').nth(2).unwrap(), 16).unwrap()
}

#[test]
fn a_waiting_task_tells_behind_whom_and_outlives_the_daemons() {
    let (mut node, client) = node();
    let holder = Holder::new(&node);
    let upid = client.post(&format!("{VM}/config"), &[("name", "after")]).data();
    wait_for_waiting(&client, &upid);
    let told = log(&client, &upid);
    assert!(told.contains(&format!("waiting for lock 'guest-7700', held by {LABEL}")), "{told}");
    assert_eq!(holder.queue(), [holder.process.id(), pid(&upid)]);
    // Nobody who only looks has to wait.
    assert_eq!(config(&client)["name"], "before");
    assert_eq!(client.get(&format!("{VM}/status/current")).data()["status"], "stopped");

    node.kill_daemon();
    node.kill_proxy();
    node.start_daemon();
    node.start_proxy();
    assert_eq!(status(&client, &upid)["status"], "running");
    assert!(process::is_alive(pid(&upid)));
    assert_eq!(client.get("/nodes/pve1/tasks?source=active").data()[0]["upid"], upid);
    assert_eq!(holder.queue(), [holder.process.id(), pid(&upid)]);
    assert_eq!(config(&client)["name"], "before");

    holder.give_back();
    node.finish(&client, &upid);
    assert_eq!(config(&client)["name"], "after");
    assert_eq!(holder.queue(), [0; 0]);
}

#[test]
fn the_end_of_a_holder_is_enough() {
    let (node, client) = node();
    let holder = Holder::new(&node);
    let upid = client.post(&format!("{VM}/config"), &[("name", "after")]).data();
    wait_for_waiting(&client, &upid);
    drop(holder);
    node.finish(&client, &upid);
    assert_eq!(config(&client)["name"], "after");
}

#[test]
fn tasks_are_served_in_the_order_of_arrival() {
    let (node, client) = node();
    // What each of them does first is noted by a script of the guest's, which then lets it fail.
    let script = node.path("var/lib/vz/snippets/note.sh");
    let noted = node.path("noted");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    let text = format!("#!/bin/sh\n[ \"$2\" = pre-start ] && echo $PPID >> {}\nexit 1\n", noted.display());
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let lines = "kvm: 0\nmemory: 64\nhookscript: local:snippets/note.sh\n";
    fs::write(node.path("etc/pve/qemu-server/7700.conf"), lines).unwrap();

    let holder = Holder::new(&node);
    let tasks: [Value; 5] = std::array::from_fn(|_| {
        let upid = client.post(&format!("{VM}/status/start"), &[]).data();
        wait_for_waiting(&client, &upid);
        upid
    });
    let arrival = tasks.each_ref().map(pid);
    assert_eq!(holder.queue()[1..], arrival);
    holder.give_back();
    for upid in &tasks {
        let end = node.wait_task(&client, upid);
        assert!(end.contains("hook"), "{end}");
    }
    let order = fs::read_to_string(noted).unwrap();
    assert_eq!(order.lines().map(|line| line.parse().unwrap()).collect::<Vec<u32>>(), arrival);
    // Those who waited told each change at the front, the oldest first.
    let last = log(&client, &tasks[4]);
    let mut places: Vec<usize> = tasks[..4].iter().filter_map(|upid| last.find(upid.as_str().unwrap())).collect();
    assert!(places.is_sorted(), "{last}");
    places.retain(|place| *place < last.find(LABEL).unwrap());
    assert_eq!(places, [0; 0], "{last}");
}

#[test]
fn twenty_clients_at_one_vm_are_served_in_turn() {
    let (node, client) = node();
    let lines = "kvm: 0\nmemory: 16\nvga: none\nfreeze: 1\n";
    fs::write(node.path("etc/pve/qemu-server/7700.conf"), lines).unwrap();
    node.run("qm", &["set", "7700", "--scsi0", "local:0.01,format=qcow2"]).ok();
    let holder = Holder::new(&node);
    let tasks: Vec<Value> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..20)
            .map(|number| {
                let (node, client) = (&node, &client);
                scope.spawn(move || {
                    // Each has a session of its own.
                    let own = if number == 0 { None } else { Some(node.admin()) };
                    let client = own.as_ref().unwrap_or(client);
                    let upid = match number % 4 {
                        0 => client.post(&format!("{VM}/clone"), &[("newid", &(7750 + number).to_string())]),
                        1 => client.post(&format!("{VM}/status/start"), &[]),
                        2 => client.post(&format!("{VM}/status/stop"), &[]),
                        _ => client.put(&format!("{VM}/resize"), &[("disk", "scsi0"), ("size", "+1M")]),
                    };
                    let upid = upid.data();
                    wait_for_waiting(client, &upid);
                    upid
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let queue = holder.queue();
    assert_eq!(queue.len(), 21);
    holder.give_back();
    // Whom each of them saw at the front, one after the other, are those who came before it.
    for upid in &tasks {
        let end = node.wait_task(&client, upid);
        assert!(end == "OK" || end == "VM 7700 already running", "{upid}: {end}");
        let told = client.get(&format!("/nodes/pve1/tasks/{}/log?limit=0", upid.as_str().unwrap())).data();
        let lines = told.as_array().unwrap().iter().filter_map(|line| line["t"].as_str());
        let seen: Vec<u32> = lines
            .filter_map(|line| Some(line.split_once("waiting for lock 'guest-7700', held by ")?.1))
            .map(|holder| if holder.starts_with(LABEL) { queue[0] } else { pid(&holder.into()) })
            .collect();
        let places: Vec<usize> =
            seen.iter().map(|seen| queue.iter().position(|pid| pid == seen).expect("it came before")).collect();
        let own = queue.iter().position(|other| *other == pid(upid)).unwrap();
        assert!(places.first() == Some(&0) && places.is_sorted() && *places.last().unwrap() < own, "{own}: {places:?}");
    }
    assert_eq!(holder.queue(), [0; 0]);
}

#[test]
fn a_waiting_task_can_be_given_up() {
    let (node, client) = node();
    let holder = Holder::new(&node);
    let [first, second] = ["first", "second"].map(|name| {
        let upid = client.post(&format!("{VM}/config"), &[("name", name)]).data();
        wait_for_waiting(&client, &upid);
        upid
    });
    assert_eq!(client.delete(&format!("/nodes/pve1/tasks/{}", second.as_str().unwrap())).data(), Value::Null);
    assert_eq!(node.wait_task(&client, &second), "received interrupt");
    wait_for("the place that is given up", 10, || (holder.queue() == [holder.process.id(), pid(&first)]).then_some(()));
    assert_eq!(status(&client, &first)["status"], json!("running"));
    holder.give_back();
    node.finish(&client, &first);
    assert_eq!(config(&client)["name"], "first");
}
