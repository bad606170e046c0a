//! Snapshots, clones and moving disks of real VMs: a counter in the guest goes back, clones are VMs of their own, and a
//! guest goes on writing while its disk moves.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::boot_args;
use compat_tests::serial::Shell;
use compat_tests::{Client, Node, skip, wait_for};
use serde_json::Value;

const VM: &str = "/nodes/pve1/qemu/7120";

fn task(node: &Node, client: &Client, path: &str, form: &[(&str, &str)]) {
    node.finish(client, &client.post(path, form).data());
}

fn snapshots(client: &Client) -> Vec<Value> {
    client.get(&format!("{VM}/snapshot")).data().as_array().unwrap().clone()
}

fn images(node: &Node, vmid: &str) -> Vec<String> {
    let entries = std::fs::read_dir(node.path(&format!("var/lib/vz/images/{vmid}"))).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_guest_goes_back_in_time_and_its_disk_with_it() {
    let Ok(args) = boot_args().inspect_err(|reason| skip("snapshots", reason)) else { return };
    let node = Node::start();
    let client = node.admin();
    let options = [
        "create",
        "7120",
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
        "virtio-scsi-single",
        "--virtio0",
        "local:1,format=qcow2",
        "--agent",
        "1",
    ];
    node.run("qm", &options).ok();
    task(&node, &client, &format!("{VM}/snapshot"), &[("snapname", "empty"), ("description", "nothing yet")]);
    task(&node, &client, &format!("{VM}/status/start"), &[]);
    let mut shell = Shell::open(&node, "7120");
    shell.run("echo first > /dev/vda; sync");
    shell.run("n=0; (while :; do n=$((n+1)); echo $n > /tmp/.n; mv /tmp/.n /tmp/n; sleep 0.1; done) & echo on");
    let at_snapshot = shell.counter();
    task(&node, &client, &format!("{VM}/snapshot"), &[("snapname", "ram"), ("vmstate", "1")]);
    let listed = snapshots(&client);
    let ram = listed.iter().find(|row| row["name"] == "ram").unwrap();
    assert_eq!((&ram["vmstate"], &ram["parent"]), (&1.into(), &"empty".into()));
    assert_eq!(listed.last().unwrap()["parent"], "ram");
    assert!(images(&node, "7120").contains(&"vm-7120-state-ram.raw".into()), "{:?}", images(&node, "7120"));
    // The guest went on meanwhile.
    let later = at_snapshot + 60;
    wait_for("the counter", 60, || (shell.counter() > later).then_some(()));
    shell.run("echo second > /dev/vda; sync");
    task(&node, &client, &format!("{VM}/snapshot"), &[("snapname", "late")]);
    task(&node, &client, &format!("{VM}/snapshot/ram/rollback"), &[]);
    let mut shell = Shell::open(&node, "7120");
    assert!(shell.counter() < later, "the counter did not go back");
    let before = shell.counter();
    wait_for("the counter", 60, || (shell.counter() > before).then_some(()));
    assert_eq!(shell.run("echo 3 > /proc/sys/vm/drop_caches; head -c5 /dev/vda"), "first");

    // The one in the middle goes, also while the guest runs.
    let upid = client.delete(&format!("{VM}/snapshot/ram")).data();
    node.finish(&client, &upid);
    let listed = snapshots(&client);
    let names: Vec<&str> = listed.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["empty", "late", "current"]);
    assert_eq!((&listed[1]["parent"], &listed[2]["parent"]), (&"empty".into(), &"empty".into()));
    assert!(!images(&node, "7120").iter().any(|name| name.contains("state")));
    client.put(&format!("{VM}/snapshot/late/config"), &[("description", "tomorrow")]).data();
    assert_eq!(client.get(&format!("{VM}/snapshot/late/config")).data()["description"], "tomorrow");
    let tree = node.run("qm", &["listsnapshot", "7120"]).ok();
    assert!(tree.contains("`-> empty") && tree.contains(" `-> late") && tree.contains("You are here!"), "{tree}");

    // An agent that is not there is said to be so.
    let refused = client.post(&format!("{VM}/agent/ping"), &[]);
    assert_eq!((refused.status, refused.reason.as_str()), (500, "QEMU guest agent is not running"));

    task(&node, &client, &format!("{VM}/snapshot/empty/rollback"), &[]);
    assert_eq!(client.get(&format!("{VM}/status/current")).data()["status"], "stopped");
    let refused = client.post(&format!("{VM}/snapshot"), &[("snapname", "late")]).data();
    assert_eq!(node.wait_task(&client, &refused), "snapshot name 'late' already used");
    node.run("qm", &["delsnapshot", "7120", "late"]).ok();
    node.run("qm", &["delsnapshot", "7120", "empty"]).ok();
    assert_eq!(snapshots(&client).len(), 1);
    node.run("qm", &["destroy", "7120"]).ok();
    assert!(images(&node, "7120").is_empty());
}

#[test]
fn clones_are_vms_of_their_own() {
    let node = Node::start();
    let client = node.admin();
    let options = ["create", "7130", "--name", "base", "--scsi0", "local:1,format=qcow2", "--net0", "virtio"];
    node.run("qm", &options).ok();
    let path = "/nodes/pve1/qemu/7130";
    assert_eq!(client.get(&format!("{path}/feature?feature=clone")).data()["hasFeature"], 0);
    task(&node, &client, &format!("{path}/template"), &[]);
    let config = client.get(&format!("{path}/config")).data();
    assert_eq!(
        (config["template"].clone(), config["scsi0"].clone()),
        (1.into(), "local:7130/base-7130-disk-0.qcow2,size=1G".into())
    );
    assert_eq!(client.get(&format!("{path}/feature?feature=clone")).data()["hasFeature"], 1);
    let refused = client.post(&format!("{path}/status/start"), &[]).data();
    assert_eq!(node.wait_task(&client, &refused), "you can't start a vm if it's a template");

    task(&node, &client, &format!("{path}/clone"), &[("newid", "7131"), ("name", "linked")]);
    let linked = client.get("/nodes/pve1/qemu/7131/config").data();
    assert_eq!(linked["name"], "linked");
    assert_eq!(linked["scsi0"], "local:7130/base-7130-disk-0.qcow2/7131/vm-7131-disk-0.qcow2,size=1G");
    assert!(linked.get("template").is_none());
    for key in ["net0", "smbios1", "vmgenid"] {
        assert!(linked[key].is_string() && linked[key] != config[key], "{key}: {linked}");
    }
    // What others stand on cannot go.
    let refused = client.delete(path);
    assert!(refused.reason.ends_with("is still in use by linked cloned"), "{}", refused.reason);
    assert!(images(&node, "7130").contains(&"base-7130-disk-0.qcow2".into()));

    let full = [("newid", "7132"), ("full", "1"), ("format", "raw"), ("storage", "local")];
    task(&node, &client, &format!("{path}/clone"), &full);
    assert_eq!(client.get("/nodes/pve1/qemu/7132/config").data()["scsi0"], "local:7132/vm-7132-disk-0.raw,size=1G");
    let refused = client.post(&format!("{path}/clone"), &[("newid", "7132")]);
    assert!(refused.reason.contains("unable to create VM 7132: config file already exists"), "{}", refused.reason);
    let refused = client.post(&format!("{path}/clone"), &[("newid", "7139"), ("storage", "local")]);
    assert_eq!(refused.reason, "parameter 'storage' not allowed for linked clones");

    // A disk goes to another VM and to another format, an image comes in, a lost volume is found again.
    let clone = "/nodes/pve1/qemu/7132";
    let moved = [("disk", "scsi0"), ("storage", "local"), ("format", "qcow2"), ("delete", "1")];
    task(&node, &client, &format!("{clone}/move_disk"), &moved);
    assert_eq!(images(&node, "7132"), ["vm-7132-disk-1.qcow2"]);
    let same = client.post(&format!("{clone}/move_disk"), &[("disk", "scsi0"), ("storage", "local")]);
    assert_eq!(same.reason, "you can't move to the same storage with same format");
    let given = [("disk", "scsi0"), ("target-vmid", "7131"), ("target-disk", "virtio3")];
    task(&node, &client, &format!("{clone}/move_disk"), &given);
    assert!(client.get(&format!("{clone}/config")).data().get("scsi0").is_none());
    let taken = client.get("/nodes/pve1/qemu/7131/config").data()["virtio3"].as_str().unwrap().to_owned();
    assert!(taken.starts_with("local:7131/vm-7131-disk-") && taken.contains(".qcow2"), "{taken}");

    // A template's disk is a base wherever it goes; the old one stays for those that stand on it. What cloud-init is told
    // is made anew at its new place.
    task(&node, &client, &format!("{path}/move_disk"), &[("disk", "scsi0"), ("storage", "local"), ("format", "raw")]);
    let template = client.get(&format!("{path}/config")).data();
    let base = template["scsi0"].as_str().unwrap();
    assert!(base.starts_with("local:7130/base-7130-disk-") && base.ends_with(".raw,size=1G"), "{template}");
    assert_eq!(template["unused0"], "local:7130/base-7130-disk-0.qcow2");
    let second = node.path("second");
    node.run("pvesm", &["add", "dir", "second", "--path", second.to_str().unwrap(), "--content", "images"]).ok();
    node.run("qm", &["set", "7132", "--ide2", "local:cloudinit"]).ok();
    let said = node.run("qm", &["disk", "move", "7132", "ide2", "second"]).ok();
    assert!(said.contains("found unused cloudinit disk 'local:7132/vm-7132-cloudinit.qcow2', removing it"), "{said}");
    let moved = client.get(&format!("{clone}/config")).data();
    assert_eq!(moved["ide2"], "second:7132/vm-7132-cloudinit.qcow2,media=cdrom,size=4M", "{moved}");
    assert_eq!((moved.get("unused0"), images(&node, "7132").len()), (None, 0), "{moved}");

    let image = node.path("image.raw");
    std::fs::write(&image, vec![7_u8; 1 << 20]).unwrap();
    let said = node.run("qm", &["importdisk", "7132", image.to_str().unwrap(), "local"]).ok();
    let last = said.lines().last().unwrap();
    assert!(last.starts_with("unused0: successfully imported disk 'local:7132/vm-7132-disk-"), "{said}");
    node.run("qm", &["set", "7132", "--sata0", &format!("local:0,import-from={}", image.display())]).ok();
    let sata = client.get(&format!("{clone}/config")).data()["sata0"].as_str().unwrap().to_owned();
    assert!(sata.ends_with(",size=1M"), "{sata}");
    assert!(!node.run("qm", &["set", "7132", "--delete", "unused0"]).stdout.contains("Could not"));
    std::fs::copy(&image, node.path("var/lib/vz/images/7132/vm-7132-disk-9.raw")).unwrap();
    node.run("qm", &["rescan", "--vmid", "7132"]).ok();
    assert_eq!(client.get(&format!("{clone}/config")).data()["unused0"], "local:7132/vm-7132-disk-9.raw");
    for vmid in ["7131", "7132", "7130"] {
        node.run("qm", &["destroy", vmid]).ok();
        assert!(images(&node, vmid).is_empty(), "{vmid}: {:?}", images(&node, vmid));
    }
}

#[test]
fn a_disk_moves_and_is_copied_while_its_guest_writes() {
    let Ok(args) = boot_args().inspect_err(|reason| skip("moving disks", reason)) else { return };
    let node = Node::start();
    let client = node.admin();
    let options = [
        "create",
        "7140",
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
        "--virtio0",
        "local:0.25,format=raw",
    ];
    node.run("qm", &options).ok();
    let path = "/nodes/pve1/qemu/7140";
    task(&node, &client, &format!("{path}/status/start"), &[]);
    let mut shell = Shell::open(&node, "7140");
    shell.run("dd if=/dev/urandom of=/dev/vda bs=1M count=64; sync");
    let sum = shell.run("dd if=/dev/vda bs=1M count=64 2>/dev/null | md5sum | cut -c1-32");
    shell.run("(while :; do dd if=/dev/urandom of=/dev/vda bs=64k seek=2048 count=64 conv=notrunc,fsync; done) 2>/dev/null & echo on");
    let moved = [("disk", "virtio0"), ("storage", "local"), ("format", "qcow2"), ("delete", "1")];
    task(&node, &client, &format!("{path}/move_disk"), &moved);
    assert_eq!(images(&node, "7140"), ["vm-7140-disk-1.qcow2"]);
    let full = [("newid", "7141"), ("full", "1")];
    task(&node, &client, &format!("{path}/clone"), &full);
    assert_eq!(images(&node, "7141"), ["vm-7141-disk-0.qcow2"]);
    let again = "kill %1; wait; echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count=64 2>/dev/null | md5sum | cut -c1-32";
    assert_eq!(shell.run(again).lines().last().unwrap().trim(), sum.lines().last().unwrap().trim());
    // A larger disk is noticed by the guest that runs on the new image.
    node.finish(&client, &client.put(&format!("{path}/resize"), &[("disk", "virtio0"), ("size", "+64M")]).data());
    wait_for("the new size", 30, || (shell.run("cat /sys/block/vda/size").contains("655360")).then_some(()));
    node.run("qm", &["stop", "7140"]).ok();
    task(&node, &client, "/nodes/pve1/qemu/7141/status/start", &[]);
    let mut clone = Shell::open(&node, "7141");
    let copied = clone.run("dd if=/dev/vda bs=1M count=64 2>/dev/null | md5sum | cut -c1-32");
    assert_eq!(copied.lines().last().unwrap().trim(), sum.lines().last().unwrap().trim());
    // It gets the disk of the other one while it runs.
    let given = [("disk", "virtio0"), ("target-vmid", "7141"), ("target-disk", "virtio1")];
    task(&node, &client, &format!("{path}/move_disk"), &given);
    wait_for("the disk of the other VM", 30, || clone.run("ls /sys/block").contains("vdb").then_some(()));
    node.run("qm", &["stop", "7141"]).ok();
}
