//! Containers in crowds, and tools that are killed at any moment: nobody fails on a lock, and nothing is left.
//!
//! `FERROVISOR_CROWD` (containers at once, by default 8) and `FERROVISOR_KILLS` (runs, by default 10) make it harder.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::busybox_template;
use compat_tests::{Node, wait_for};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn count(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

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
    let vmids: Vec<u32> = (8400..8400 + count("FERROVISOR_CROWD", 8)).collect();
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
    for round in 0..count("FERROVISOR_KILLS", 10) {
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
        wait_for("nothing to be left", 20, || {
            // A hidden file that was never moved to its name means nothing to anybody.
            let counts = |line: &String| !line.contains("8390") && !line.contains("/.8391.conf.tmp.");
            let left: Vec<String> = left(&node).into_iter().filter(counts).collect();
            left.is_empty().then_some(()).or_else(|| (Instant::now() > deadline).then(|| panic!("'{words}': {left:?}")))
        });
        assert!(!run("config 8390").ok().contains("lock:"));
    }
    run("start 8390").ok();
    assert_eq!(run("destroy 8390 --force 1").code, 0);
    assert_eq!(left(&node), Vec::<String>::new());
}
