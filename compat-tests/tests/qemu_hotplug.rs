//! Changes of a running VM: disks, cards and cables that come and go, what waits and what is refused; and a VM that is
//! suspended to disk.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::{Bridge, boot_args};
use compat_tests::serial::Shell;
use compat_tests::{Node, skip, wait_for};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const VM: &str = "/nodes/pve1/qemu/7150";

#[test]
fn devices_come_and_go_while_the_guest_runs_and_it_sleeps_on_disk() {
    let Ok(args) = boot_args().inspect_err(|reason| skip("hot-plug", reason)) else { return };
    let node = Node::start();
    let client = node.admin();
    let (_one, _other) = (Bridge::new("vmlifeplug0", None), Bridge::new("vmlifeplug1", None));
    let options = [
        "create",
        "7150",
        "--memory",
        "128",
        "--kvm",
        "0",
        "--serial0",
        "socket",
        "--vga",
        "serial0",
        "--args",
        &args,
        "--scsihw",
        "virtio-scsi-pci",
        "--scsi0",
        "local:0.125,format=qcow2",
        "--ide2",
        "none,media=cdrom",
        "--net0",
        "virtio,bridge=vmlifeplug0",
    ];
    node.run("qm", &options).ok();
    node.finish(&client, &client.post(&format!("{VM}/status/start"), &[]).data());
    let mut shell = Shell::open(&node, "7150");
    let set = |form: &[(&str, &str)]| client.put(&format!("{VM}/config"), form);
    let waiting = || -> usize {
        let rows = client.get(&format!("{VM}/pending")).data();
        rows.as_array()
            .unwrap()
            .iter()
            .filter(|row| row.get("pending").is_some() || row.get("delete").is_some())
            .count()
    };

    // Who leaves in the middle of a conversation with QEMU spoils nobody else's.
    for _ in 0..30 {
        let mut stranger = UnixStream::connect(node.path("run/qemu-server/7150.qmp")).unwrap();
        stranger.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").unwrap();
        BufReader::new(&stranger).read_line(&mut String::new()).unwrap();
        drop(stranger);
        client.post(&format!("{VM}/monitor"), &[("command", "info status")]).data();
    }

    assert_eq!(set(&[("virtio1", "local:0.25,format=raw")]).data(), serde_json::Value::Null);
    assert_eq!(waiting(), 0);
    wait_for("the disk in the guest", 30, || shell.run("cat /sys/block/vda/size").contains("524288").then_some(()));
    set(&[("scsi3", "local:0.25,format=qcow2,discard=on,ssd=1")]).data();
    wait_for("the second disk", 30, || shell.run("ls /sys/block").contains("sdb").then_some(()));
    set(&[("net1", "virtio,bridge=vmlifeplug0")]).data();
    wait_for("the card in the guest", 30, || shell.run("ls /sys/class/net").contains("eth1").then_some(()));
    let on = |bridge: &str| Path::new("/sys/class/net").join(bridge).join("brif/tap7150i1").exists();
    assert!(on("vmlifeplug0"));
    // The same card on another bridge, and its cable pulled: the guest keeps it.
    let card = client.get(&format!("{VM}/config")).data()["net1"].as_str().unwrap().to_owned();
    set(&[("net1", &format!("{},link_down=1", card.replace("vmlifeplug0", "vmlifeplug1")))]).data();
    assert!(on("vmlifeplug1") && !on("vmlifeplug0"));
    shell.run("ip link set eth1 up");
    wait_for("the pulled cable", 30, || shell.run("cat /sys/class/net/eth1/carrier").contains('0').then_some(()));

    set(&[("delete", "virtio1,net1")]).data();
    assert_eq!(waiting(), 0);
    wait_for("the disk to go", 30, || (!shell.run("ls /sys/block").contains("vda")).then_some(()));
    wait_for("the card to go", 30, || (!shell.run("ls /sys/class/net").contains("eth1")).then_some(()));
    assert!(!Path::new("/sys/class/net/tap7150i1").exists());
    let config = client.get(&format!("{VM}/config")).data();
    assert!(config["unused0"].as_str().unwrap().contains("vm-7150-disk-1.raw"), "{config}");

    // Limits and remarks change in place: the guest keeps its disk. Weights and what may be plugged hold at once as well.
    let disk = client.get(&format!("{VM}/config")).data()["scsi3"].as_str().unwrap().to_owned();
    set(&[("scsi3", &format!("{disk},backup=0,mbps=5")), ("cpuunits", "200"), ("hotplug", "network,disk,usb")]).data();
    assert_eq!(waiting(), 0);
    assert!(shell.run("ls /sys/block").contains("sdb"));
    let blocks = client.post(&format!("{VM}/monitor"), &[("command", "info block")]).data();
    let limits = client.post(&format!("{VM}/monitor"), &[("command", "qom-get throttle-drive-scsi3 limits")]).data();
    let shown = format!("{blocks} {limits}");
    assert!(shown.contains("5242880"), "{shown}");
    set(&[("scsi3", &format!("{disk},backup=0,mbps=5,cache=writeback"))]).data();
    assert_eq!(waiting(), 1);
    set(&[("revert", "scsi3")]).data();

    // What cannot be plugged waits, and can be taken back.
    set(&[("sata0", "local:0.125"), ("cores", "2")]).data();
    assert_eq!(waiting(), 2);
    set(&[("revert", "cores,sata0")]).data();
    assert_eq!(waiting(), 0);
    // What could be plugged and fails is told by option, and waits.
    let refused = set(&[("net5", "virtio,bridge=vmlifenone")]);
    assert_eq!(refused.status, 400, "{}", refused.reason);
    assert!(refused.json()["errors"]["net5"].as_str().unwrap().starts_with("hotplug problem - "), "{}", refused.text());
    set(&[("revert", "net5")]).data();

    shell.run("echo kept > /tmp/note");
    node.finish(&client, &client.post(&format!("{VM}/status/suspend"), &[("todisk", "1")]).data());
    let status = client.get(&format!("{VM}/status/current")).data();
    assert_eq!((status["status"].as_str(), status["lock"].as_str()), (Some("stopped"), Some("suspended")));
    node.finish(&client, &client.post(&format!("{VM}/status/resume"), &[]).data());
    let mut shell = Shell::open(&node, "7150");
    assert!(shell.run("cat /tmp/note").contains("kept"));
    let config = client.get(&format!("{VM}/config")).data();
    for key in ["lock", "vmstate", "runningmachine"] {
        assert!(config.get(key).is_none(), "{key}: {config}");
    }
    let images = std::fs::read_dir(node.path("var/lib/vz/images/7150")).unwrap();
    assert!(!images.into_iter().any(|entry| entry.unwrap().file_name().to_string_lossy().contains("state")));
    node.run("qm", &["stop", "7150"]).ok();
}
