//! A process that is killed in the middle of its work leaves no half volume, blocks no name and removes no foreign file.
//!
//! `FERROVISOR_KILLS` is how often each operation is killed; 3 without it.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, setting, wait_for};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SIZE: u64 = 64 << 20;

fn kills() -> u32 {
    setting("FERROVISOR_KILLS", 3)
}

/// Starts a tool, kills it after a time with all programs that it started, and says whether it had ended before.
fn killed(mut command: Command, after: Duration) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.process_group(0).spawn().unwrap();
    let until = Instant::now() + after;
    while Instant::now() < until {
        if child.try_wait().unwrap().is_some() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
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
        killed(allocate(0), point(round, allocating));
        killed(copy(round), point(round, copying));
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

/// The points of time at which the work of a round is cut off, everywhere in the time that it takes undisturbed.
fn point(round: u32, whole: Duration) -> Duration {
    whole.mul_f64(f64::from(round * 37 % 100) / 100.0)
}

/// A qcow2 image is sound, though clusters may have been lost, and has its data.
fn check_image(path: &str, pattern: u8) {
    let check = Command::new("qemu-img").args(["check", "-q", "-f", "qcow2", path]).status().unwrap();
    assert!(matches!(check.code(), Some(0 | 3)), "{path}: {check}");
    check_data(path, pattern);
}

/// A qcow2 image has its data, whatever else its tables say.
fn check_data(path: &str, pattern: u8) {
    let read = format!("read -P {pattern} 1M 1M");
    let text = wait_for("an image that nobody writes to", 60, || {
        let output = Command::new("qemu-io").args(["-f", "qcow2", "-r", "-c", &read, path]).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        // What the killed one had started ends a moment after it.
        (!text.contains("Failed to get")).then_some(text)
    });
    assert!(text.contains("read 1048576/1048576") && !text.contains("verification failed"), "{path}: {text}");
}

#[test]
fn killed_changes_of_an_image_keep_its_data() {
    let node = Node::without_daemons();
    let chains = node.path("chains");
    fs::create_dir(&chains).unwrap();
    let chains = chains.to_str().unwrap();
    let add = ["add", "dir", "chains", "--path", chains, "--content", "images", "--snapshot-as-volume-chain", "1"];
    node.run("pvesm", &add).ok();
    for (vmid, storage) in [("400", "local"), ("401", "chains")] {
        let disk = format!("{storage}:0.0625,format=qcow2");
        node.run("qm", &["create", vmid, "--memory", "64", "--scsi0", &disk]).ok();
        let volume = format!("{storage}:{vmid}/vm-{vmid}-disk-0.qcow2");
        let place = node.run("pvesm", &["path", &volume]).ok().trim().to_owned();
        let write = ["-f", "qcow2", "-c", "write -P 17 1M 1M", &place];
        assert!(Command::new("qemu-io").args(write).stdout(Stdio::null()).status().unwrap().success());
        let tool = |arguments: &[&str]| {
            let mut command = node.program("qm");
            command.args(arguments);
            command
        };
        let snapshot = time_of(tool(&["snapshot", vmid, "timed"]));
        let delete = time_of(tool(&["delsnapshot", vmid, "timed"]));
        let resize = time_of(tool(&["resize", vmid, "scsi0", "+1M"]));
        for round in 0..kills() {
            let name = format!("s{round}");
            for (work, time) in [
                (&["resize", vmid, "scsi0", "+1M"][..], resize),
                (&["snapshot", vmid, &name], snapshot),
                (&["rollback", vmid, &name], snapshot),
                (&["delsnapshot", vmid, &name], delete),
            ] {
                killed(tool(work), point(round, time));
                check_data(&place, 17);
                // What is left of the killed one is the administrator's to unlock, as ever.
                tool(&["unlock", vmid]).output().unwrap();
            }
            // Gone already, there, or half there: afterwards the name is free.
            tool(&["delsnapshot", vmid, &name, "--force", "1"]).output().unwrap();
            // Whoever works with the image next repairs what a kill has left in it.
            for work in ["snapshot", "delsnapshot"] {
                node.run("qm", &[work, vmid, "whole"]).ok();
                check_image(&place, 17);
            }
        }
        for work in ["snapshot", "rollback", "delsnapshot"] {
            node.run("qm", &[work, vmid, "s0"]).ok();
            check_image(&place, 17);
        }
        node.run("qm", &["resize", vmid, "scsi0", "1G"]).ok();
        node.run("qm", &["destroy", vmid]).ok();
        let left = fs::read_dir(std::path::Path::new(&place).parent().unwrap());
        let left: Vec<_> = left.into_iter().flatten().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn killed_downloads_are_no_files() {
    const LENGTH: usize = 24 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://127.0.0.1:{}/x.iso", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 2048];
            // Whoever is killed reads no more.
            let _ = stream.read(&mut request);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&vec![9; LENGTH]));
        }
    });
    let node = Node::without_daemons();
    let download = |name: &str| {
        let mut command = node.program("pvesh");
        let path = "/nodes/pve1/storage/local/download-url";
        command.args(["create", path, "--content", "iso", "--filename", name, "--url", &url]);
        command
    };
    let isos = node.path("var/lib/vz/template/iso");
    let time = time_of(download("timed.iso"));
    for round in 0..kills() {
        killed(download("x.iso"), point(round, time));
        let listed = node.run("pvesm", &["list", "local", "--content", "iso"]).ok();
        for line in listed.lines().skip(1).filter(|line| line.contains("x.iso")) {
            assert!(line.contains(&LENGTH.to_string()), "{line}");
            fs::remove_file(isos.join("x.iso")).unwrap();
        }
    }
    assert!(download("x.iso").output().unwrap().status.success());
    let mut names: Vec<_> = fs::read_dir(&isos).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["timed.iso", "x.iso"], "nothing hidden stays");
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
    // Linked clones of one template, and full copies that share nothing with them.
    node.run("qm", &["create", "500", "--memory", "64", "--scsi0", "local:0.0625,format=qcow2"]).ok();
    node.run("qm", &["template", "500"]).ok();
    let clones: Vec<_> = (0..20)
        .map(|number: u32| {
            let mut command = node.program("qm");
            command.args(["clone", "500", &(501 + number).to_string(), "--full", &(number % 2).to_string()]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in clones {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let listed = node.run("pvesm", &["list", "local"]).ok();
    assert_eq!(listed.matches("local:500/base-500-disk-0.qcow2/").count(), 10, "{listed}");
    assert_eq!((501..521).filter(|vmid| listed.contains(&format!("/vm-{vmid}-disk-0"))).count(), 20, "{listed}");
}
