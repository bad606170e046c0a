//! Containers in crowds, and tools that are killed at any moment: nobody fails on a lock, and nothing is left.
//!
//! `FERROVISOR_CROWD` (containers at once, by default 8) and `FERROVISOR_KILLS` (runs, by default 10) make it harder.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::busybox_template;
use compat_tests::{Node, process, setting, wait_for};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn node() -> Node {
    let node = Node::without_daemons();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    node
}

fn spawn(node: &Node, words: &str) -> Child {
    let mut tool = node.program("pct");
    tool.args(words.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn create(vmid: u32, size: &str) -> String {
    format!("create {vmid} local:vztmpl/busybox.tar.gz --ostype unmanaged --memory 32 --rootfs local:{size}")
}

#[test]
fn a_crowd_is_made_started_and_removed_at_once() {
    let node = node();
    let vmids: Vec<u32> = (8400..8400 + setting("FERROVISOR_CROWD", 8)).collect();
    let all = |words: &dyn Fn(u32) -> String| {
        let children: Vec<Child> = vmids.iter().map(|vmid| spawn(&node, &words(*vmid))).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    };
    all(&|vmid| format!("{} --start 1", create(vmid, "0")));
    let list = node.run("pct", &["list"]).ok();
    assert_eq!(list.lines().filter(|line| line.contains("running")).count(), vmids.len(), "{list}");
    all(&|vmid| format!("exec {vmid} -- true"));
    all(&|vmid| format!("destroy {vmid} --force 1"));
    assert_eq!(node.run("pct", &["list"]).ok(), "");
    assert_eq!(left(&node), Vec::<String>::new());
}

/// What is left of any container of the node: mounts, loop devices, files.
fn left(node: &Node) -> Vec<String> {
    let root = node.root().to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let loops = String::from_utf8(Command::new("losetup").arg("--all").output().unwrap().stdout).unwrap();
    let mut found: Vec<String> = mounts.lines().chain(loops.lines()).map(str::to_owned).collect();
    found.retain(|line| line.contains(&root));
    for place in ["var/lib/vz/images", "var/lib/lxc", "etc/pve/nodes/pve1/lxc"] {
        found.extend(fs::read_dir(node.path(place)).into_iter().flatten().flatten().map(|e| format!("{:?}", e.path())));
    }
    found
}

#[test]
fn killed_tools_leave_what_can_be_removed() {
    let node = node();
    let run = |words: &str| node.run("pct", &words.split(' ').collect::<Vec<_>>());
    run(&create(8390, "0.05")).ok();
    let mut moment = 7_u64;
    for round in 0..setting("FERROVISOR_KILLS", 10) {
        let (vmid, words) = match round % 5 {
            0 => (8391, create(8391, "0.05")),
            1 => (8391, "clone 8390 8391".to_owned()),
            operation => {
                run(&create(8391, "0.05")).ok();
                if operation == 3 {
                    run("start 8391").ok();
                }
                (8391, ["start 8391", "stop 8391", "destroy 8391"][operation as usize - 2].to_owned())
            }
        };
        let mut child = spawn(&node, &words);
        // Moments that are spread over what such a command takes.
        moment = moment * 37 % 211;
        std::thread::sleep(Duration::from_millis(moment));
        let _ = child.kill();
        child.wait().unwrap();
        // What was being written when it was killed may still be on its way; then it ends by itself.
        let deadline = Instant::now() + Duration::from_secs(20);
        while node.path(&format!("etc/pve/nodes/pve1/lxc/{vmid}.conf")).exists() {
            let destroyed = run(&format!("destroy {vmid} --force 1 --destroy-unreferenced-disks 1"));
            assert!(destroyed.code == 0 || Instant::now() < deadline, "after '{words}': {destroyed:?}");
        }
        // The next who writes a configuration removes what a killed writer never moved to its name.
        run(&format!("set 8390 --description {round}")).ok();
        wait_for("nothing to be left", 20, || {
            let left: Vec<String> = left(&node).into_iter().filter(|line| !line.contains("8390")).collect();
            left.is_empty().then_some(()).or_else(|| (Instant::now() > deadline).then(|| panic!("'{words}': {left:?}")))
        });
        assert!(!run("config 8390").ok().contains("lock:"));
    }
    run("start 8390").ok();
    assert_eq!(run("destroy 8390 --force 1").code, 0);
    assert_eq!(left(&node), Vec::<String>::new());
}

/// Three ways in turn: the worker of a creation, the daemon that started it, the monitor of the container that it made.
#[test]
fn killed_workers_daemons_and_monitors_leave_what_can_be_removed() {
    let mut node = Node::start();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let client = node.admin();
    let mut moment = 7_u64;
    for round in 0..setting("FERROVISOR_KILLS", 3) {
        let template = [("ostemplate", "local:vztmpl/busybox.tar.gz"), ("ostype", "unmanaged"), ("memory", "32")];
        let create = [&template[..], &[("vmid", "8395"), ("rootfs", "local:0.05"), ("start", "1")]].concat();
        let upid = client.post("/nodes/pve1/lxc", &create).data();
        moment = moment * 37 % 211;
        std::thread::sleep(Duration::from_millis(moment));
        match round % 3 {
            0 => {
                let worker = upid.as_str().unwrap().split(':').nth(2).unwrap();
                process::kill(u32::from_str_radix(worker, 16).unwrap());
                node.wait_task(&client, &upid);
            }
            1 => {
                node.kill_daemon();
                node.start_daemon();
                node.finish(&client, &upid);
                assert_eq!(node.run("pct", &["status", "8395"]).ok(), "status: running\n");
            }
            _ => {
                node.finish(&client, &upid);
                process::kill(monitor(&node, 8395));
                wait_for("the end of the container", 20, || {
                    (node.run("pct", &["status", "8395"]).ok() == "status: stopped\n").then_some(())
                });
                node.run("pct", &["start", "8395"]).ok();
                assert_eq!(node.run("pct", &["exec", "8395", "--", "echo", "back"]).ok(), "back\n");
            }
        }
        let deadline = Instant::now() + Duration::from_secs(20);
        while node.path("etc/pve/nodes/pve1/lxc/8395.conf").exists() {
            let words = ["destroy", "8395", "--force", "1", "--destroy-unreferenced-disks", "1"];
            let destroyed = node.run("pct", &words);
            assert!(destroyed.code == 0 || Instant::now() < deadline, "round {round}: {destroyed:?}");
        }
        wait_for("nothing to be left", 20, || {
            let mut left = left(&node);
            // A writer that was killed before there was a configuration; the next one removes what it left.
            left.retain(|line| !line.contains("/.8395.conf.tmp."));
            assert!(left.is_empty() || Instant::now() < deadline, "round {round}: {left:?}");
            left.is_empty().then_some(())
        });
    }
}

/// The process of a container's monitor, by its title.
fn monitor(node: &Node, vmid: u32) -> u32 {
    let title = format!("[lxc monitor] {} {vmid}", node.path("var/lib/lxc").display());
    let is_it = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).trim_end_matches('\0').trim_end() == title
    };
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(is_it);
    found.unwrap_or_else(|| panic!("no '{title}'"))
}
