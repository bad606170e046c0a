//! Cloud-init: the disc that a VM gets, read back as a guest would read it, in all three formats.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use std::process::Command;

const VM: &str = "/nodes/pve1/qemu/7160";

/// A file of the disc.
fn on_disc(node: &Node, name: &str) -> String {
    let (volume, raw) = (node.path("var/lib/vz/images/7160/vm-7160-cloudinit.qcow2"), node.path("disc.raw"));
    let convert = Command::new("qemu-img").args(["convert", "-U", "-O", "raw"]).arg(&volume).arg(&raw).status();
    assert!(convert.unwrap().success());
    let output = Command::new("isoinfo").arg("-R").arg("-i").arg(&raw).args(["-x", &format!("/{name}")]).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

fn label(node: &Node) -> String {
    let output = Command::new("isoinfo").arg("-d").arg("-i").arg(node.path("disc.raw")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("Volume id: ")).unwrap_or_default().to_owned()
}

#[test]
fn a_guest_is_told_who_it_is() {
    let node = Node::start();
    let client = node.admin();
    let keys = node.path("keys.pub");
    std::fs::write(&keys, "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBUJCf5ZqLGEmDTBEB6GG5Kvfb3p5vPZDgWF0pZ3h4Xo me@home\n")
        .unwrap();
    let keys = keys.to_str().unwrap();
    let options = [
        "create",
        "7160",
        "--name",
        "web",
        "--kvm",
        "0",
        "--memory",
        "64",
        "--ide2",
        "local:cloudinit",
        "--ciuser",
        "joe",
        "--cipassword",
        "secret-word",
        "--sshkeys",
        keys,
        "--ipconfig0",
        "ip=10.0.0.5/24,gw=10.0.0.1",
        "--net0",
        "virtio",
        "--nameserver",
        "10.0.0.2",
        "--searchdomain",
        "example.com",
    ];
    node.run("qm", &options).ok();
    let config = client.get(&format!("{VM}/config")).data();
    assert_eq!(config["ide2"], "local:7160/vm-7160-cloudinit.qcow2,media=cdrom");
    assert_eq!(config["cipassword"], "**********");
    let stored = std::fs::read_to_string(node.path("etc/pve/qemu-server/7160.conf")).unwrap();
    assert!(stored.contains("cipassword: $") && !stored.contains("secret-word"), "{stored}");

    node.finish(&client, &client.post(&format!("{VM}/status/start"), &[]).data());
    let user = on_disc(&node, "user-data");
    for line in ["hostname: web", "fqdn: web.example.com", "user: joe", "  - ssh-ed25519 AAAA"] {
        assert!(user.contains(line), "{line} in {user}");
    }
    assert_eq!(label(&node), "cidata");
    assert!(on_disc(&node, "network-config").contains("address: '10.0.0.5'\n        netmask: '255.255.255.0'"));
    let meta = on_disc(&node, "meta-data");
    assert_eq!(client.get(&format!("{VM}/cloudinit/dump?type=meta")).data().as_str().unwrap(), meta);
    assert_eq!(node.run("qm", &["cloudinit", "dump", "7160", "user"]).ok().trim(), user.trim());
    let mode = std::fs::read_dir(node.path("run/pve/cloudinit")).unwrap().count();
    assert_eq!(mode, 0, "passwords lie about");

    // Changed and written again under the running guest: another instance, so that it is all done again.
    node.run("qm", &["set", "7160", "--ciuser", "eve"]).ok();
    assert!(node.run("qm", &["cloudinit", "pending", "7160"]).ok().contains("ciuser: eve"));
    let stored = || std::fs::read_to_string(node.path("etc/pve/qemu-server/7160.conf")).unwrap();
    assert!(stored().contains("\n[special:cloudinit]\nciuser: joe\n"), "{}", stored());
    let rows = client.get(&format!("{VM}/cloudinit")).data();
    let row = rows.as_array().unwrap().iter().find(|row| row["key"] == "ciuser").unwrap().clone();
    assert_eq!((&row["value"], &row["pending"]), (&"joe".into(), &"eve".into()));
    let second = node.run("qm", &["set", "7160", "--scsi1", "local:cloudinit"]);
    assert!(second.stderr.contains("scsi1 - cloud-init drive is already attached at 'ide2'"), "{}", second.stderr);
    node.run("qm", &["cloudinit", "update", "7160"]).ok();
    assert!(!stored().contains("[special:cloudinit]"), "{}", stored());
    assert!(on_disc(&node, "user-data").contains("user: eve"));
    assert_ne!(on_disc(&node, "meta-data"), meta);

    std::fs::create_dir_all(node.path("var/lib/vz/snippets")).unwrap();
    std::fs::write(node.path("var/lib/vz/snippets/own.yaml"), "#cloud-config\n# own\n").unwrap();
    for (kind, volume, file) in
        [("configdrive2", "config-2", "openstack/content/0000"), ("opennebula", "CONTEXT", "context.sh")]
    {
        node.run("qm", &["set", "7160", "--citype", kind]).ok();
        node.run("qm", &["cloudinit", "update", "7160"]).ok();
        let text = on_disc(&node, file);
        assert!(text.contains("10.0.0.5") && text.contains("255.255.255.0"), "{kind}: {text}");
        assert_eq!(label(&node), volume);
    }
    node.run("qm", &["stop", "7160"]).ok();
    node.run("qm", &["destroy", "7160"]).ok();
    assert!(!node.path("var/lib/vz/images/7160/vm-7160-cloudinit.qcow2").exists());
}
