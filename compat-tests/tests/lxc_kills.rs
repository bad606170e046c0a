//! Containers in crowds, and tools that are killed at any moment: nobody fails on a lock, and nothing is left.
//!
//! `FERROVISOR_CROWD` (containers at once, by default 8) and `FERROVISOR_KILLS` (runs, by default 10) make it harder.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::busybox_template;
use compat_tests::loop_mount::LoopMount;
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
    tool.args(words.split(' ')).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn create(vmid: u32, size: &str) -> String {
    format!("create {vmid} local:vztmpl/busybox.tar.gz --ostype unmanaged --memory 32 --rootfs local:{size}")
}

#[test]
fn a_crowd_is_made_started_and_removed_at_once() {
    let node = Node::start();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let mounted = LoopMount::new("btrfs", 4 << 30, &node.path("btr"));
    let place = mounted.path().to_string_lossy().into_owned();
    node.run("pvesm", &["add", "btrfs", "btr", "--path", &place, "--content", "rootdir,images"]).ok();
    let memory = || process::memory(node.daemon_pid()) + process::memory(node.proxy_pid());
    let client = node.admin();
    client.get("/nodes/pve1/lxc").data();
    let before = memory();
    let vmids: Vec<u32> = (8700..8700 + setting("FERROVISOR_CROWD", 8)).collect();
    let all = |words: &dyn Fn(u32) -> String| -> Vec<String> {
        let children: Vec<Child> = vmids.iter().map(|vmid| spawn(&node, &words(*vmid))).collect();
        let ended = children.into_iter().map(|child| child.wait_with_output().unwrap());
        let said = ended.map(|output| {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        said.collect()
    };
    // Half of them in a directory where each unpacks for itself, half where they share blocks.
    let storage = |vmid: u32| if vmid.is_multiple_of(2) { "local" } else { "btr" };
    let create =
        |vmid: u32| format!("{} --start 1", create(vmid, "0").replace("local:0", &format!("{}:0", storage(vmid))));
    let said = all(&create);
    let unpacked = said.iter().filter(|text| text.contains("extracting archive")).count();
    assert_eq!(unpacked, vmids.len() / 2 + 1, "one for each that shares nothing, one for all others");
    let list = node.run("pct", &["list"]).ok();
    assert_eq!(list.lines().filter(|line| line.contains("running")).count(), vmids.len(), "{list}");
    let known = client.get("/nodes/pve1/lxc").data();
    assert_eq!(known.as_array().unwrap().iter().filter(|row| row["status"] == "running").count(), vmids.len());
    // What a thousand guests may add to both daemons.
    let grown = memory() - before;
    eprintln!("{} containers: both daemons have grown by {grown} KiB to {} KiB", vmids.len(), before + grown);
    assert!(grown < 24 << 10, "{grown} KiB");
    all(&|vmid| format!("exec {vmid} -- true"));
    // A template that has changed is another one.
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let entries = || fs::read_dir(node.path("btr/images/.unpacked")).unwrap().count();
    assert_eq!(entries(), 1);
    let again = node.run("pct", &create(8699).split(' ').collect::<Vec<_>>());
    assert!(again.stdout.contains("extracting archive") && again.code == 0, "{again:?}");
    assert_eq!(entries(), 1);
    assert_eq!(node.run("pct", &["destroy", "8699", "--force", "1"]).code, 0);
    all(&|vmid| format!("destroy {vmid} --force 1"));
    assert_eq!(node.run("pct", &["list"]).ok(), "");
    let own = |line: &String| line.contains(&format!("{place} ")) || line.contains("btr.btrfs");
    assert_eq!(left(&node).into_iter().filter(|line| !own(line)).collect::<Vec<_>>(), Vec::<String>::new());
}

/// What is left of any container of the node: mounts, loop devices, files.
fn left(node: &Node) -> Vec<String> {
    let root = node.root().to_string_lossy().into_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let loops = String::from_utf8(Command::new("losetup").arg("--all").output().unwrap().stdout).unwrap();
    let mut found: Vec<String> = mounts.lines().chain(loops.lines()).map(str::to_owned).collect();
    found.retain(|line| line.contains(&root));
    for place in
        ["var/lib/vz/images", "btr/images", "var/lib/lxc", "var/lib/ferrovisor/work-lxc", "etc/pve/nodes/pve1/lxc"]
    {
        let entries = fs::read_dir(node.path(place)).into_iter().flatten().flatten();
        // What templates share stays as long as they do.
        found.extend(entries.filter(|e| e.file_name() != ".unpacked").map(|e| format!("{:?}", e.path())));
    }
    found
}

/// A container's state as a word: gone, whole, or what is wrong with it.
fn state(node: &Node, vmid: u32) -> String {
    let Ok(text) = fs::read_to_string(node.path(&format!("etc/pve/nodes/pve1/lxc/{vmid}.conf"))) else {
        return "gone".into();
    };
    match text.lines().find(|line| line.starts_with("lock:") || line.starts_with("snapstate:")) {
        Some(line) => format!("{line} in:\n{text}"),
        None => "whole".into(),
    }
}

/// What is done to the container 8391, and whether it must be there before.
const WORK: [(&str, bool); 9] = [
    ("create 8391 local:vztmpl/busybox.tar.gz --ostype unmanaged --memory 32 --rootfs btr:SIZE", false),
    ("clone 8390 8391 --full 1", false),
    ("clone 8389 8391", false),
    ("start 8391", true),
    ("stop 8391", true),
    ("snapshot 8391 two", true),
    ("rollback 8391 one", true),
    ("delsnapshot 8391 one", true),
    ("destroy 8391", true),
];

#[test]
fn what_killed_tools_have_begun_is_settled() {
    let node = node();
    let run = |words: &str| node.run("pct", &words.split(' ').collect::<Vec<_>>());
    let mounted = LoopMount::new("btrfs", 4 << 30, &node.path("btr"));
    let place = mounted.path().to_string_lossy().into_owned();
    node.run("pvesm", &["add", "btrfs", "btr", "--path", &place, "--content", "rootdir,images"]).ok();
    let made = |vmid: u32, size: &str| create(vmid, size).replace("local:0", "btr:0");
    run(&made(8390, "0.05")).ok();
    run(&made(8389, "0")).ok();
    assert_eq!(run("template 8389").code, 0);
    let mut moment = 7_u64;
    for round in 0..setting("FERROVISOR_KILLS", WORK.len()) {
        // Directories and images in turn.
        let size = if (round / WORK.len()).is_multiple_of(2) { "0" } else { "0.05" };
        let (words, is_there) = WORK[round % WORK.len()];
        if is_there {
            run(&made(8391, size)).ok();
            run("snapshot 8391 one").ok();
            if !words.starts_with("start") && !words.starts_with("destroy") {
                run("start 8391").ok();
            }
        }
        let mut child = spawn(&node, &words.replace("SIZE", size));
        // Moments that are spread over what such a command takes.
        moment = moment * 37 % 211;
        std::thread::sleep(Duration::from_millis(moment));
        let _ = child.kill();
        child.wait().unwrap();
        // Whoever comes next finds no work under way, and nothing of what was begun.
        assert_eq!(run("list").code, 0);
        let found = state(&node, 8391);
        assert!(["gone", "whole"].contains(&found.as_str()), "round {round}, '{words}' after {moment} ms: {found}");
        if found == "whole" {
            // One that was being stopped may still be on its way down.
            wait_for("a container that works", 20, || {
                if !run("status 8391").stdout.contains("running") {
                    run("start 8391");
                }
                (run("exec 8391 -- echo alive").stdout == "alive\n").then_some(())
            });
            let destroyed = run("destroy 8391 --force 1");
            assert_eq!(destroyed.code, 0, "round {round}, '{words}' after {moment} ms: {destroyed:?}");
        }
        // The next who writes a configuration removes what a killed writer never moved to its name.
        run(&format!("set 8390 --description {round}")).ok();
        let mut now = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        wait_for("nothing to be left", 30, || {
            // A note that a killed process never moved to its name goes with the next one.
            let is_left = |line: &String| line.contains("8391") && !line.contains("/.8391.tmp.");
            now = left(&node).into_iter().filter(is_left).collect();
            assert!(now.is_empty() || Instant::now() < deadline, "round {round}, '{words}' after {moment} ms: {now:?}");
            now.is_empty().then_some(())
        });
    }
    for vmid in [8390, 8389] {
        assert_eq!(state(&node, vmid), "whole");
        assert_eq!(run(&format!("destroy {vmid}")).code, 0);
    }
    let own = place.as_str();
    let rest: Vec<String> = left(&node)
        .into_iter()
        .filter(|line| !line.contains(&format!("{own} ")) && !line.contains("btr.btrfs") && !line.contains(".tmp."))
        .collect();
    assert_eq!(rest, Vec::<String>::new());
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
