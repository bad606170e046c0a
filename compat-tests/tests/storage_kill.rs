//! A process that is killed in the middle of its work leaves no half volume, blocks no name and removes no foreign file.
//!
//! `FERROVISOR_KILLS` is how often each operation is killed; 5 without it.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;

fn kills() -> u32 {
    std::env::var("FERROVISOR_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

/// Starts a tool, kills it after a time, and says whether it had ended before.
fn killed(mut command: Command, after: Duration) -> bool {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let until = Instant::now() + after;
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    false
}

/// How long a tool takes when nobody disturbs it.
fn time_of(mut command: Command) -> Duration {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}");
    start.elapsed()
}

/// Every listed volume has its whole size, and every qcow2 image is sound.
fn check_all(node: &Node, source: &[u8]) {
    let path = "/nodes/pve1/storage/local/content";
    let listed = node.run("pvesh", &["get", path, "--output-format", "json"]).ok();
    let rows: Vec<Value> = serde_json::from_str(&listed).unwrap();
    for row in rows.iter().filter(|row| row["content"] == "images") {
        let (volume, format) = (row["volid"].as_str().unwrap(), row["format"].as_str().unwrap());
        assert_eq!(row["size"], SIZE, "{row}");
        let place = node.run("pvesm", &["path", volume]).ok();
        let place = place.trim();
        if format == "qcow2" {
            let status = Command::new("qemu-img").args(["check", "-q", "-f", "qcow2", place]).status().unwrap();
            assert!(status.success(), "{volume}");
        } else if volume.contains("/vm-200-") {
            assert!(fs::read(place).unwrap() == source, "{volume} is half a copy");
        }
    }
}

#[test]
fn killed_allocations_and_copies_leave_only_whole_volumes() {
    let node = Node::without_daemons();
    node.run("pvesm", &["alloc", "local", "100", "vm-100-disk-0.raw", &(SIZE / 1024).to_string()]).ok();
    let place = node.path("var/lib/vz/images/100/vm-100-disk-0.raw");
    let bytes: Vec<u8> = (0..SIZE).map(|at| (at % 251 + 1) as u8).collect();
    fs::write(&place, &bytes).unwrap();
    let foreign = node.path("var/lib/vz/images/100/.making-other-1-1-0/keep");
    fs::create_dir_all(foreign.parent().unwrap()).unwrap();
    fs::write(&foreign, "foreign").unwrap();

    let allocate = |number: u32| {
        let mut command = node.program("pvesm");
        let name = format!("vm-300-disk-{number}.qcow2");
        command.args(["alloc", "local", "300", &name, &(SIZE / 1024).to_string(), "--format", "qcow2"]);
        command
    };
    let copy = |number: u32| {
        let mut command = node.program("pvesh");
        let target = format!("local:200/vm-200-disk-{number}.raw");
        command.args([
            "create",
            "/nodes/pve1/storage/local/content/local:100%2Fvm-100-disk-0.raw",
            "--target",
            &target,
        ]);
        command
    };
    let (allocating, copying) = (time_of(allocate(1000)), time_of(copy(1000)));
    for round in 0..kills() {
        // Points that lie everywhere in the time that the work takes.
        let part = f64::from(round * 37 % 100) / 100.0;
        killed(allocate(0), allocating.mul_f64(part));
        killed(copy(round), copying.mul_f64(part));
        check_all(&node, &bytes);
        if node.path("var/lib/vz/images/300/vm-300-disk-0.qcow2").exists() {
            node.run("pvesm", &["free", "local:300/vm-300-disk-0.qcow2"]).ok();
        }
    }
    // No name is blocked, and nothing hidden stays but what is not ours.
    assert!(allocate(0).output().unwrap().status.success());
    assert!(copy(2000).output().unwrap().status.success());
    check_all(&node, &bytes);
    for guest in ["200", "300"] {
        let entries = fs::read_dir(node.path(&format!("var/lib/vz/images/{guest}"))).unwrap();
        let hidden = entries.filter(|entry| entry.as_ref().unwrap().file_name().as_encoded_bytes()[0] == b'.').count();
        assert_eq!(hidden, 0, "guest {guest}");
    }
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "foreign");
}

#[test]
fn many_at_once_wait_in_order_and_all_succeed() {
    let node = Node::without_daemons();
    let children: Vec<_> = (0..100)
        .map(|_| {
            let mut command = node.program("pvesm");
            command.args(["alloc", "local", "100", "", "1024", "--format", "raw"]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let listed = node.run("pvesm", &["list", "local", "--vmid", "100"]).ok();
    assert_eq!(listed.lines().count(), 101, "{listed}");
}
