//! The life of real VMs under TCG: made, started, looked at, ended; and what is left when something goes wrong.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::{Bridge, MARKER, boot_args};
use compat_tests::{Node, Ran, process, skip, wait_for};
use serde_json::Value;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const VM: &str = "/nodes/pve1/qemu/7100";

/// Ends whatever VM of the node still runs, by the pid in its own file.
struct Vms<'a>(&'a Node);

impl Drop for Vms<'_> {
    fn drop(&mut self) {
        for vmid in ["7100", "7101", "7102"] {
            if let Some(pid) = pid(self.0, vmid) {
                // It may have ended by itself just now.
                let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
            }
        }
    }
}

/// The process of a VM, if it runs.
fn pid(node: &Node, vmid: &str) -> Option<u32> {
    let pid: u32 =
        std::fs::read_to_string(node.path(&format!("run/qemu-server/{vmid}.pid"))).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    String::from_utf8_lossy(&command).contains(node.root().to_str().unwrap()).then_some(pid)
}

fn files(node: &Node, directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(node.path(directory)).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn has_link(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).exists()
}

fn qm(node: &Node, arguments: &[&str]) -> Ran {
    node.run("qm", arguments)
}

#[test]
fn a_vm_is_made_started_stopped_and_leaves_nothing() {
    let node = Node::start();
    let _vms = Vms(&node);
    let client = node.admin();
    let bridge = Bridge::new("qlife0", None);
    let form = [
        ("vmid", "7100"),
        ("name", "web"),
        ("memory", "128"),
        ("kvm", "0"),
        ("serial0", "socket"),
        ("vga", "serial0"),
        ("scsihw", "virtio-scsi-single"),
        ("scsi0", "local:1,format=qcow2,iothread=1"),
        ("virtio0", "local:0.25"),
        ("ide2", "none"),
        ("net0", "virtio,bridge=qlife0"),
    ];
    node.finish(&client, &client.post("/nodes/pve1/qemu", &form).data());
    let config = client.get(&format!("{VM}/config")).data();
    assert_eq!(config["scsi0"], "local:7100/vm-7100-disk-0.qcow2,iothread=1,size=1G");
    assert_eq!(config["ide2"], "none,media=cdrom");
    assert_eq!(config["boot"], "order=scsi0;ide2;net0");
    assert!(config["net0"].as_str().unwrap().starts_with("virtio=BC:24:11:"), "{config}");
    assert_eq!(files(&node, "var/lib/vz/images/7100"), ["vm-7100-disk-0.qcow2", "vm-7100-disk-1.raw"]);

    let again = client.post("/nodes/pve1/qemu", &form);
    assert_eq!((again.status, again.reason.contains("VM 7100 already exists")), (500, true), "{}", again.reason);

    match boot_args() {
        Ok(args) => {
            qm(&node, &["set", "7100", "--args", &args]).ok();
        }
        Err(reason) => skip("a_vm_is_made_started_stopped_and_leaves_nothing: marker", &reason),
    }
    let booted = boot_args().is_ok();
    node.finish(&client, &client.post(&format!("{VM}/status/start"), &[]).data());
    let status = client.get(&format!("{VM}/status/current")).data();
    assert_eq!((&status["status"], &status["qmpstatus"]), (&"running".into(), &"running".into()));
    assert_eq!(u64::from(pid(&node, "7100").unwrap()), status["pid"].as_u64().unwrap());
    assert!(has_link("tap7100i0") && Path::new("/sys/class/net/qlife0/brif/tap7100i0").exists());
    if booted {
        let mut serial = UnixStream::connect(node.path("run/qemu-server/7100.serial0")).unwrap();
        serial.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
        let mut seen = String::new();
        let mut buffer = [0; 512];
        // What was printed before we came is lost, so the guest is reset once somebody listens.
        node.finish(&client, &client.post(&format!("{VM}/status/reset"), &[]).data());
        while !seen.contains(MARKER) {
            let count = serial.read(&mut buffer).unwrap_or_else(|error| panic!("{error}: {seen}"));
            seen += &String::from_utf8_lossy(&buffer[..count]);
        }
    }
    let second = client.post(&format!("{VM}/status/start"), &[]).data();
    assert_eq!(node.wait_task(&client, &second), "VM 7100 already running");
    // A backup that has started it standing still would be told so; nobody else is.
    node.run("qm", &["set", "7100", "--lock", "backup"]).ok();
    node.finish(&client, &client.post(&format!("{VM}/status/start"), &[]).data());
    let locked = client.post(&format!("{VM}/status/stop"), &[]).data();
    assert_eq!(node.wait_task(&client, &locked), "VM is locked (backup)");
    node.run("qm", &["unlock", "7100"]).ok();
    let busy = client.delete(VM);
    assert_eq!((busy.status, busy.reason.as_str()), (500, "VM 7100 is running - destroy failed"));

    client.put(&format!("{VM}/sendkey"), &[("key", "ctrl-alt-f1")]).data();
    let unknown = client.put(&format!("{VM}/sendkey"), &[("key", "nokey")]);
    assert_eq!(unknown.status, 500, "{}", unknown.reason);
    node.finish(&client, &client.post(&format!("{VM}/status/suspend"), &[]).data());
    assert_eq!(client.get(&format!("{VM}/status/current")).data()["qmpstatus"], "paused");
    let shutdown = client.post(&format!("{VM}/status/shutdown"), &[]);
    assert_eq!((shutdown.status, shutdown.reason.as_str()), (500, "VM is paused - cannot shutdown"));
    node.finish(&client, &client.post(&format!("{VM}/status/resume"), &[]).data());
    node.finish(&client, &client.put(&format!("{VM}/resize"), &[("disk", "scsi0"), ("size", "+1G")]).data());
    let config = client.get(&format!("{VM}/config")).data();
    assert_eq!(config["scsi0"], "local:7100/vm-7100-disk-0.qcow2,iothread=1,size=2G");

    node.finish(&client, &client.post(&format!("{VM}/status/stop"), &[]).data());
    assert_eq!(client.get(&format!("{VM}/status/current")).data()["status"], "stopped");
    let asked = client.post(&format!("{VM}/monitor"), &[("command", "info status")]).data();
    assert_eq!(asked, "ERROR: VM 7100 not running\n");
    assert_eq!(files(&node, "run/qemu-server"), [""; 0]);
    assert!(!has_link("tap7100i0"));

    client.put(&format!("{VM}/unlink"), &[("idlist", "virtio0")]).data();
    assert_eq!(client.get(&format!("{VM}/config")).data()["unused0"], "local:7100/vm-7100-disk-1.raw");
    client.put(&format!("{VM}/unlink"), &[("idlist", "unused0"), ("force", "1")]).data();
    assert_eq!(files(&node, "var/lib/vz/images/7100"), ["vm-7100-disk-0.qcow2"]);
    let nothing = client.put(&format!("{VM}/unlink"), &[("idlist", "scsi77")]);
    assert_eq!((nothing.status, nothing.json()["errors"]["delete"].as_str()), (400, Some("unknown option 'scsi77'")));
    node.finish(&client, &client.delete(VM).data());
    assert_eq!(files(&node, "var/lib/vz/images/7100"), [""; 0]);
    let gone = client.get(&format!("{VM}/status/current"));
    assert_eq!(gone.reason, "Configuration file 'nodes/pve1/qemu-server/7100.conf' does not exist");
    let missing = client.post(&format!("{VM}/status/start"), &[]).data();
    assert_eq!(node.wait_task(&client, &missing), gone.reason);
    let not_found = "unable to find configuration file for VM 7100 on node 'pve1'";
    let missing = client.post(&format!("{VM}/status/stop"), &[]).data();
    assert_eq!(node.wait_task(&client, &missing), not_found);
    assert_eq!(client.post(&format!("{VM}/status/reset"), &[]).reason, not_found);
    drop(bridge);
}

#[test]
fn changes_of_a_running_vm_wait_for_its_end() {
    let node = Node::start();
    let _vms = Vms(&node);
    let client = node.admin();
    let form = [("vmid", "7100"), ("memory", "64"), ("kvm", "0"), ("vga", "none"), ("scsi0", "local:1")];
    node.finish(&client, &client.post("/nodes/pve1/qemu", &form).data());
    node.finish(&client, &client.post(&format!("{VM}/status/start"), &[]).data());

    let config = format!("{VM}/config");
    assert_eq!(client.put(&config, &[("cores", "2"), ("name", "later"), ("delete", "vga")]).data(), Value::Null);
    let current = client.get(&format!("{config}?current=1")).data();
    assert_eq!((&current["name"], current.get("cores")), (&"later".into(), None));
    assert_eq!(client.get(&config).data()["cores"], 2);
    let pending = client.get(&format!("{VM}/pending")).data();
    let row = |key: &str| pending.as_array().unwrap().iter().find(|row| row["key"] == key).unwrap().clone();
    assert_eq!(row("cores"), serde_json::json!({"key": "cores", "pending": 2}));
    assert_eq!(row("vga"), serde_json::json!({"key": "vga", "value": "none", "delete": 1}));
    assert_eq!(row("memory"), serde_json::json!({"key": "memory", "value": "64"}));
    client.put(&config, &[("revert", "vga")]).data();

    let digest = client.get(&config).data()["digest"].as_str().unwrap().to_owned();
    client.put(&config, &[("digest", &digest), ("memory", "96")]).data();
    let stale = client.put(&config, &[("digest", &digest), ("memory", "128")]);
    assert_eq!((stale.status, stale.reason.as_str()), (500, "checksum mismatch (file change by other user?)"));

    node.finish(&client, &client.post(&format!("{VM}/status/stop"), &[]).data());
    let current = client.get(&format!("{config}?current=1")).data();
    assert_eq!((&current["cores"], &current["memory"], &current["vga"]), (&2.into(), &"96".into(), &"none".into()));

    client.put(&config, &[("delete", "scsi0")]).data();
    let current = client.get(&config).data();
    assert_eq!((&current["unused0"], current.get("scsi0")), (&"local:7100/vm-7100-disk-0.raw".into(), None));
    client.put(&config, &[("delete", "unused0")]).data();
    assert_eq!(files(&node, "var/lib/vz/images/7100"), [""; 0]);
    client.put(&config, &[("protection", "1")]).data();
    assert_eq!(client.delete(VM).reason, "can't remove VM 7100 - protection mode enabled");
}

#[test]
fn a_killed_vm_is_stopped_and_leaves_nothing() {
    let mut node = Node::start();
    let client = node.admin();
    let bridge = Bridge::new("qlife1", None);
    let snippets = node.path("var/lib/vz/snippets");
    std::fs::create_dir_all(&snippets).unwrap();
    let script = format!("#!/bin/sh\necho $2 >> {}/phases\n", snippets.display());
    std::fs::write(snippets.join("hook"), script).unwrap();
    std::fs::set_permissions(snippets.join("hook"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    node.run("pvesm", &["set", "local", "--content", "images,snippets"]).ok();
    let create = ["create", "7101", "--memory", "64", "--kvm", "0", "--vga", "none", "--net0", "virtio,bridge=qlife1"];
    qm(&node, &[create.as_slice(), &["--hookscript", "local:snippets/hook", "--scsi0", "local:1"]].concat()).ok();
    let vm = "/nodes/pve1/qemu/7101";
    let ended = |pid: u32| {
        process::kill(pid);
        wait_for("the kernel", 10, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (stat.is_empty() || stat.contains(") Z ")).then(std::time::Instant::now)
        })
    };
    let is_clean = || (files(&node, "run/qemu-server").is_empty() && !has_link("tap7101i0")).then_some(());

    node.finish(&client, &client.post(&format!("{vm}/status/start"), &[]).data());
    client.get("/nodes/pve1/qemu").data();
    let moment = ended(pid(&node, "7101").unwrap());
    // The first look is right, whoever looks.
    assert_eq!(client.get("/nodes/pve1/qemu").data()[0]["status"], "stopped");
    eprintln!("seen in the list {} ms after the end", moment.elapsed().as_millis());
    let all = client.get("/cluster/resources?type=vm").data();
    assert_eq!(all[0]["status"], "stopped", "{all}");
    assert_eq!(client.get(&format!("{vm}/status/current")).data()["status"], "stopped");
    wait_for("leftovers are removed", 30, is_clean);
    let reason = "QEMU was killed by signal 9 (KILL)";
    wait_for("the reason in the log", 30, || {
        let log = client.get("/cluster/log").data();
        log.as_array()?.iter().find(|line| line["msg"].as_str().is_some_and(|text| text.ends_with(reason))).map(drop)
    });
    let tasks = client.get("/nodes/pve1/tasks?typefilter=qmcleanup").data();
    assert_eq!((&tasks[0]["status"], &tasks[0]["id"]), (&reason.into(), &"7101".into()), "{tasks}");

    // Nobody needs a daemon for that; a machine that is told to end has not crashed.
    node.finish(&client, &client.post(&format!("{vm}/status/start"), &[]).data());
    let qemu = pid(&node, "7101").unwrap();
    node.kill_daemon();
    std::process::Command::new("kill").args(["-TERM", &qemu.to_string()]).status().unwrap();
    wait_for("leftovers are removed without a daemon", 30, || {
        (files(&node, "run/qemu-server").is_empty() && !has_link("tap7101i0")).then_some(())
    });
    let phases = "pre-start\npost-start\npost-stop\n".repeat(2);
    wait_for("the hook script of each phase", 30, || {
        (std::fs::read_to_string(snippets.join("phases")).unwrap() == phases).then_some(())
    });
    node.start_daemon();
    let tasks = client.get("/nodes/pve1/tasks?typefilter=qmcleanup").data();
    assert_eq!(tasks.as_array().unwrap().len(), 1);

    // Where the keeper is gone too, the next daemon cleans up.
    node.finish(&client, &client.post(&format!("{vm}/status/start"), &[]).data());
    let qemu = pid(&node, "7101").unwrap();
    process::kill(process::keeper(qemu).unwrap());
    process::kill(qemu);
    wait_for("the end", 10, || (!has_link("tap7101i0")).then_some(()));
    assert!(!files(&node, "run/qemu-server").is_empty());
    node.kill_daemon();
    node.start_daemon();
    wait_for("leftovers are removed", 10, || files(&node, "run/qemu-server").is_empty().then_some(()));
    node.finish(&client, &client.post(&format!("{vm}/status/start"), &[]).data());
    node.finish(&client, &client.post(&format!("{vm}/status/stop"), &[]).data());
    drop(bridge);
}

#[test]
fn a_start_that_fails_says_why_and_leaves_nothing() {
    let node = Node::without_daemons();
    let _vms = Vms(&node);
    let error = |arguments: &[&str]| {
        let ran = qm(&node, arguments);
        assert_eq!(ran.code, 255, "{ran:?}");
        ran.stderr.trim_end().to_owned()
    };
    let create = ["create", "7102", "--memory", "64", "--kvm", "0", "--vga", "none", "--scsi0", "local:1"];
    qm(&node, &create).ok();
    qm(&node, &["set", "7102", "--net0", "virtio,bridge=nobridge7"]).ok();
    assert_eq!(error(&["start", "7102"]), "bridge 'nobridge7' does not exist");
    qm(&node, &["set", "7102", "--net0", "e1000,bridge=nobridge7"]).ok();
    assert_eq!(error(&["start", "7102"]), "bridge 'nobridge7' does not exist");
    qm(&node, &["set", "7102", "--delete", "net0"]).ok();
    qm(&node, &["set", "7102", "--args", "-device no-such-device"]).ok();
    assert!(error(&["start", "7102"]).contains("'no-such-device' is not a valid device model name"));
    qm(&node, &["set", "7102", "--delete", "args"]).ok();
    std::fs::remove_file(node.path("var/lib/vz/images/7102/vm-7102-disk-0.raw")).unwrap();
    assert!(error(&["start", "7102"]).contains("volume 'local:7102/vm-7102-disk-0.raw' does not exist"));
    assert_eq!(files(&node, "run/qemu-server"), [""; 0]);
    assert_eq!(qm(&node, &["status", "7102"]).ok(), "status: stopped\n");

    let failed = error(&["create", "7101", "--scsi0", "local:1", "--scsi1", "local:7101/missing.raw"]);
    assert!(failed.contains("unable to create VM 7101 - volume 'local:7101/missing.raw' does not exist"), "{failed}");
    assert_eq!(files(&node, "var/lib/vz/images/7101"), [""; 0]);
    assert!(!node.path("etc/pve/nodes/pve1/qemu-server/7101.conf").exists());
}

#[test]
fn tools_need_no_daemon() {
    let node = Node::without_daemons();
    let _vms = Vms(&node);
    qm(&node, &["create", "7102", "--name", "alone", "--memory", "64", "--kvm", "0", "--serial0", "socket"]).ok();
    qm(&node, &["start", "7102"]).ok();
    assert_eq!(qm(&node, &["status", "7102"]).ok(), "status: running\n");
    let list = qm(&node, &["list"]).ok();
    assert!(list.lines().nth(1).is_some_and(|line| line.contains("alone") && line.contains("running")), "{list}");
    let shown = qm(&node, &["showcmd", "7102"]).ok();
    assert!(
        shown.starts_with("/usr/bin/kvm -id 7102 -name 'alone,debug-threads=on' -no-shutdown -chardev "),
        "{shown}"
    );
    qm(&node, &["stop", "7102"]).ok();
    assert_eq!(qm(&node, &["wait", "7102"]).ok(), "");
    qm(&node, &["destroy", "7102"]).ok();
    assert_eq!(qm(&node, &["list"]).ok(), "");
    assert_eq!(files(&node, "run/qemu-server"), [""; 0]);
}

#[test]
fn a_worker_that_is_killed_during_a_start_blocks_nobody() {
    let node = Node::start();
    let _vms = Vms(&node);
    let client = node.admin();
    let vm = "/nodes/pve1/qemu/7101";
    let form = [("vmid", "7101"), ("memory", "64"), ("kvm", "0"), ("vga", "none")];
    node.finish(&client, &client.post("/nodes/pve1/qemu", &form).data());
    let upid = client.post(&format!("{vm}/status/start"), &[]).data();
    let worker = u32::from_str_radix(upid.as_str().unwrap().split(':').nth(2).unwrap(), 16).unwrap();
    // It may have finished already; then this is a start like any other.
    let _ = std::process::Command::new("kill").args(["-9", &worker.to_string()]).status();
    node.wait_task(&client, &upid);
    // QEMU runs or does not; either way the next requests find a clear state.
    node.finish(&client, &client.post(&format!("{vm}/status/stop"), &[]).data());
    node.finish(&client, &client.post(&format!("{vm}/status/start"), &[]).data());
    node.finish(&client, &client.post(&format!("{vm}/status/stop"), &[]).data());
    node.finish(&client, &client.delete(vm).data());
    assert_eq!(files(&node, "run/qemu-server"), [""; 0]);
}
