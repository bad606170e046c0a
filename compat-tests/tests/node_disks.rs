//! Disks and scans of a node: what is there is listed, what is used is not touched, a volume group becomes a storage.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, skip};
use std::fs::File;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A loop device on a file of its own, gone with the test.
struct Loop {
    device: String,
    group: Option<String>,
    _file: tempfile::NamedTempFile,
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).env("LVM_SUPPRESS_FD_WARNINGS", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

impl Loop {
    /// `None` where there are no loop devices.
    fn new(size: u64) -> Option<Self> {
        let file = tempfile::NamedTempFile::new().unwrap();
        File::options().write(true).open(file.path()).unwrap().set_len(size).unwrap();
        let made = run("losetup", &["--find", "--show", &file.path().to_string_lossy()]);
        let device = made.status.success().then(|| text(&made.stdout))?;
        Some(Loop { device, group: None, _file: file })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            run("vgremove", &["-f", "-y", group]);
        }
        run("losetup", &["--detach", &self.device]);
    }
}

#[test]
fn disks_are_listed_and_wiped_only_when_nobody_uses_them() {
    let node = Node::start();
    let client = node.admin();
    let disks = client.get("/nodes/pve1/disks/list?skipsmart=1&include-partitions=1").data();
    for disk in disks.as_array().unwrap() {
        assert!(disk["devpath"].as_str().unwrap().starts_with("/dev/"), "{disk}");
        assert!(disk["size"].as_u64().is_some() && disk["osdid"] == -1, "{disk}");
    }
    for area in ["directory", "lvmthin"] {
        assert!(client.get(&format!("/nodes/pve1/disks/{area}")).data().is_array());
    }
    let none = client.get("/nodes/pve1/disks/smart?disk=/dev/null");
    assert_eq!(none.reason, "not a valid block device");
    let Some(disk) = Loop::new(64 << 20) else {
        return skip("disks_are_listed_and_wiped_only_when_nobody_uses_them", "no loop devices");
    };
    let smart = client.get(&format!("/nodes/pve1/disks/smart?disk={}&healthonly=1", disk.device)).data();
    assert_eq!(smart["health"], "UNKNOWN");
    // A loop device is none of the machine's disks, so nothing is made of it.
    let name = disk.device.strip_prefix("/dev/").unwrap();
    let init = client.post("/nodes/pve1/disks/initgpt", &[("disk", &disk.device)]);
    assert_eq!(init.reason, format!("'{name}' is not a valid local disk"));
    let group = client.post("/nodes/pve1/disks/lvm", &[("name", "grp"), ("device", &disk.device)]);
    assert_eq!(group.reason, format!("'{name}' is not a valid local disk"));

    assert!(run("mkfs.ext4", &["-q", &disk.device]).status.success());
    let place = node.path("mnt");
    std::fs::create_dir_all(&place).unwrap();
    let wipe = || node.run("pvesh", &["set", "/nodes/pve1/disks/wipedisk", "--disk", &disk.device]);
    if run("mount", &[&disk.device, &place.to_string_lossy()]).status.success() {
        let mounted = wipe();
        assert!(
            mounted.code != 0 && mounted.stderr.contains(&format!("'{}' is mounted", disk.device)),
            "{}",
            mounted.stderr
        );
        assert!(run("umount", &[&*place.to_string_lossy()]).status.success());
    }
    assert!(text(&run("blkid", &["-p", &disk.device]).stdout).contains("ext4"));
    let log = wipe().ok();
    assert!(log.contains(&format!("wiping block device {}", disk.device)), "{log}");
    assert_eq!(text(&run("blkid", &["-p", &disk.device]).stdout), "");
}

#[test]
fn a_volume_group_is_found_and_becomes_a_storage() {
    let node = Node::start();
    let client = node.admin();
    let begun = Instant::now();
    let nfs = client.get("/nodes/pve1/scan/nfs?server=127.0.0.1");
    assert_eq!(nfs.status, 500, "{}", nfs.reason);
    assert!(begun.elapsed() < Duration::from_secs(30));
    for bad in ["scan/nfs?server=-h", "scan/iscsi?portal=127.0.0.1:9", "scan/lvmthin?vg=-x"] {
        assert!(client.get(&format!("/nodes/pve1/{bad}")).status >= 400, "{bad}");
    }
    let Some(mut disk) = Loop::new(256 << 20) else {
        return skip("a_volume_group_is_found_and_becomes_a_storage", "no loop devices");
    };
    let name = format!("ferro{}", std::process::id());
    let made = run("vgcreate", &[&name, &disk.device]);
    if !made.status.success() {
        return skip("a_volume_group_is_found_and_becomes_a_storage", &text(&made.stderr));
    }
    disk.group = Some(name.clone());
    let groups = client.get("/nodes/pve1/scan/lvm").data();
    let group = groups.as_array().unwrap().iter().find(|group| group["vg"] == name.as_str()).unwrap().clone();
    assert_eq!((&group["lvcount"], &group["size"]), (&0.into(), &group["free"]));
    let tree = client.get("/nodes/pve1/disks/lvm").data();
    let shown = tree["children"].as_array().unwrap().iter().find(|group| group["name"] == name.as_str()).unwrap();
    assert_eq!(shown["children"][0]["name"], disk.device.as_str());
    assert!(client.get(&format!("/nodes/pve1/scan/lvmthin?vg={name}")).data().as_array().unwrap().is_empty());

    node.run("pvesm", &["add", "lvm", "fast", "--vgname", &name, "--content", "images"]).ok();
    let status = client.get("/nodes/pve1/storage/fast/status").data();
    assert_eq!((&status["active"], &status["total"], &status["used"]), (&1.into(), &group["size"], &0.into()));
    let wrong = node.run("pvesm", &["add", "lvm", "other", "--vgname", "ferro-none"]);
    assert!(wrong.stderr.contains("no such volume group 'ferro-none'"), "{}", wrong.stderr);
    let large = node.run("pvesm", &["alloc", "fast", "100", "", "1G"]);
    assert!(large.stderr.contains("not enough free space"), "{}", large.stderr);
    let path = node.run("pvesm", &["path", "fast:vm-100-disk-0"]).ok();
    assert_eq!(path.trim(), format!("/dev/{name}/vm-100-disk-0"));
    for bad in ["fast:../etc", "fast:vm-100-disk-0/../x", "fast:-f"] {
        assert!(node.run("pvesm", &["path", bad]).code != 0, "{bad}");
    }
    node.run("pvesm", &["remove", "fast"]).ok();
}
