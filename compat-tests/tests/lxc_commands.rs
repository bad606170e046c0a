//! Every command of `pct` that works on one node, by its real effect: privileged and unprivileged, in directories and
//! images, on a plain directory and on BTRFS.
//!
//! `FERROVISOR_CONTAINERS=1` adds the other half of these combinations, and all of them with a Debian that boots systemd
//! (built once by `pveam build`, and kept beside the built programs).

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::{Bridge, busybox_template, debian_template};
use compat_tests::loop_mount::LoopMount;
use compat_tests::terminal::dialogue;
use compat_tests::{Node, Ran, setting, wait_for};
use std::fs;
use std::process::Command;

/// One container: what it is made of and where it lies.
struct Case {
    debian: bool,
    unprivileged: bool,
    storage: &'static str,
    /// GiB of its root; 0 is a directory.
    size: &'static str,
    vmid: u32,
}

impl Case {
    fn template(&self) -> &'static str {
        if self.debian { "debian.tar.zst" } else { "busybox.tar.gz" }
    }

    fn name(&self, vmid: u32) -> String {
        format!("local:vztmpl/{}, {}, {}:{}, CT {vmid}", self.template(), self.unprivileged, self.storage, self.size)
    }

    fn is_directory(&self) -> bool {
        self.size == "0"
    }

    /// Whether its storage can take snapshots.
    fn has_snapshots(&self) -> bool {
        self.storage == "btr"
    }

    fn create(&self) -> String {
        let Case { unprivileged, storage, size, vmid, .. } = self;
        let kind = match self.debian {
            true => "--memory 256 --features nesting=1 --password container-password",
            false => "--ostype unmanaged --memory 64",
        };
        let (unprivileged, data) = (u8::from(*unprivileged), if self.is_directory() { "0" } else { "0.0625" });
        format!(
            "create {vmid} local:vztmpl/{} {kind} --unprivileged {unprivileged} --swap 0 --hostname one --cores 1 \
             --rootfs {storage}:{size} --mp0 {storage}:{data},mp=/data",
            self.template()
        )
    }
}

fn pct(node: &Node, words: &str) -> Ran {
    node.run("pct", &words.split_whitespace().collect::<Vec<_>>())
}

/// A command that must succeed; warnings may be said.
#[track_caller]
fn must(node: &Node, words: &str) -> String {
    let ran = pct(node, words);
    assert_eq!(ran.code, 0, "pct {words}: {ran:?}");
    ran.stdout
}

#[track_caller]
fn inside(node: &Node, vmid: u32, script: &str) -> String {
    let ran = node.run("pct", &["exec", &vmid.to_string(), "--", "sh", "-c", script]);
    assert_eq!(ran.code, 0, "{script}: {ran:?}");
    ran.stdout
}

/// Waits until the system inside has come up.
fn booted(node: &Node, case: &Case, vmid: u32) {
    if !case.debian {
        return;
    }
    let ask = |words: &[&str]| {
        node.run("pct", &[&["exec", &vmid.to_string(), "--", "systemctl"], words].concat()).stdout.trim().to_owned()
    };
    let state = wait_for("systemd", 180, || {
        Some(ask(&["is-system-running"])).filter(|state| matches!(state.as_str(), "running" | "degraded"))
    });
    // What the host's kernel has not mounted for itself cannot be bound into a container.
    let failed = ask(&["--failed", "--no-legend", "--plain"]);
    let is_of_host = |line: &str| line.starts_with("sys-kernel-") && line.contains(".mount ");
    assert!(failed.lines().all(is_of_host), "{}: {state}\n{failed}", case.name(vmid));
}

fn every_command(node: &Node, case: &Case) {
    let vmid = case.vmid;
    must(node, &case.create());
    assert!(
        must(node, "list").contains(&format!("{vmid}       stopped                 one")),
        "{}",
        must(node, "list")
    );
    let config = must(node, &format!("config {vmid}"));
    assert!(config.contains("hostname: one\n") && config.contains("swap: 0\n"), "{config}");
    must(node, &format!("start {vmid}"));
    assert_eq!(must(node, &format!("status {vmid}")), "status: running\n");
    booted(node, case, vmid);
    used(node, case);
    changed(node, case);
    snapshots(node, case);
    stopped(node, case);
    copies(node, case);
}

/// Commands of those who work in a running container.
fn used(node: &Node, case: &Case) {
    let vmid = case.vmid;
    assert_eq!(inside(node, vmid, "hostname; echo words > /data/note; cat /data/note"), "one\nwords\n");
    dialogue(node, &format!("pct enter {vmid}"), &[("# ", "echo in-$((1+1))\n"), ("in-2", "exit\n")]);
    if case.debian {
        let steps = [
            ("", "\n"),
            ("login: ", "root\n"),
            ("assword: ", "container-password\n"),
            ("# ", "echo at-$((2+3))\n"),
            ("at-5", "exit\n"),
            ("login: ", "\u{1}q"),
        ];
        dialogue(node, &format!("pct console {vmid}"), &steps);
    }
    let (file, back) = (node.path("sent"), node.path("back"));
    fs::write(&file, "sent\n").unwrap();
    must(node, &format!("push {vmid} {} /root/sent --perms 0600 --user 7 --group 8", file.display()));
    assert_eq!(inside(node, vmid, "stat -c '%a %u %g' /root/sent"), "600 7 8\n");
    must(node, &format!("pull {vmid} /root/sent {} --perms 0640", back.display()));
    assert_eq!(fs::read_to_string(&back).unwrap(), "sent\n");
    let df = must(node, &format!("df {vmid}"));
    assert!(df.contains("\nrootfs ") && df.contains(" /data\n"), "{df}");
    let sets = must(node, "cpusets");
    assert!(sets.lines().any(|line| line.contains(&vmid.to_string())), "{sets}");
    let trimmed = must(node, &format!("fstrim {vmid}"));
    assert!(trimmed.contains("/: ") && trimmed.contains("trimmed"), "{trimmed}");
    must(node, &format!("suspend {vmid}"));
    assert_eq!(must(node, &format!("status {vmid}")), "status: running\n");
    must(node, &format!("resume {vmid}"));
    assert_eq!(inside(node, vmid, "echo on"), "on\n");
}

/// Changes of a running container: some at once, some at its next start.
fn changed(node: &Node, case: &Case) {
    let vmid = case.vmid;
    must(node, &format!("set {vmid} --memory 300 --swap 10 --cpulimit 0.5 --cpuunits 200 --description words"));
    must(node, &format!("set {vmid} --hostname two --tty 1"));
    let pending = must(node, &format!("pending {vmid}"));
    assert!(pending.contains("cur memory: 300\n") && pending.contains("new tty: 1\n"), "{pending}");
    let name = "fvcmdbr0";
    let bridge = Bridge::new(name, Some("10.83.29.1/24"));
    must(node, &format!("set {vmid} --net0 name=eth0,bridge={name},ip=10.83.29.2/24"));
    wait_for("an answer over the new link", 20, || {
        Command::new("ping").args(["-c", "1", "-W", "1", "10.83.29.2"]).output().unwrap().status.success().then_some(())
    });
    // Within PVE's own time the system learns its new name by a new start.
    must(node, &format!("reboot {vmid} --timeout 120"));
    booted(node, case, vmid);
    assert_eq!(inside(node, vmid, "hostname"), "two\n");
    let ping = || Command::new("ping").args(["-c", "1", "-W", "1", "10.83.29.2"]).output().unwrap();
    wait_for("an answer after the start", 20, || ping().status.success().then_some(()));
    assert!(!must(node, &format!("pending {vmid}")).contains("new "));
    must(node, &format!("set {vmid} --delete net0"));
    if case.debian {
        // What the last interface was stays in the file, which is the system's from then on.
        inside(node, vmid, "printf 'auto lo\\niface lo inet loopback\\n' > /etc/network/interfaces");
    }
    drop(bridge);
}

fn snapshots(node: &Node, case: &Case) {
    let vmid = case.vmid;
    if !case.has_snapshots() {
        let refused = pct(node, &format!("snapshot {vmid} one"));
        assert_eq!(refused.stderr, "snapshot feature is not available\n");
        return;
    }
    inside(node, vmid, "echo before > /root/mark");
    must(node, &format!("snapshot {vmid} one --description first"));
    inside(node, vmid, "echo after > /root/mark");
    let list = must(node, &format!("listsnapshot {vmid}"));
    assert!(list.contains("one") && list.contains("first") && list.contains("You are here!"), "{list}");
    let clone = vmid + 1;
    must(node, &format!("clone {vmid} {clone} --snapname one --full 1 --hostname copy"));
    must(node, &format!("start {clone}"));
    booted(node, case, clone);
    assert_eq!(inside(node, clone, "cat /root/mark; hostname"), "before\ncopy\n");
    must(node, &format!("destroy {clone} --force 1"));
    must(node, &format!("rollback {vmid} one --start 1"));
    booted(node, case, vmid);
    assert_eq!(inside(node, vmid, "cat /root/mark /data/note"), "before\nwords\n");
    must(node, &format!("delsnapshot {vmid} one"));
    assert!(!must(node, &format!("listsnapshot {vmid}")).contains("one"));
}

/// Commands for a container that does not run.
fn stopped(node: &Node, case: &Case) {
    let (vmid, storage) = (case.vmid, case.storage);
    must(node, &format!("shutdown {vmid} --timeout 120"));
    assert_eq!(must(node, &format!("status {vmid}")), "status: stopped\n");
    let mounted = must(node, &format!("mount {vmid}"));
    let place = mounted.split('\'').nth(1).unwrap().to_owned();
    assert_eq!(fs::read_to_string(format!("{place}/data/note")).unwrap(), "words\n");
    // The backup that comes back later; whoever reads it here sees the owners that the container sees.
    let archive = node.path(&format!("var/lib/vz/dump/vzdump-lxc-{vmid}-2026_01_02-03_04_05.tar.zst"));
    fs::create_dir_all(format!("{place}/etc/vzdump")).unwrap();
    fs::copy(node.path(&format!("etc/pve/nodes/pve1/lxc/{vmid}.conf")), format!("{place}/etc/vzdump/pct.conf"))
        .unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--zstd", "--numeric-owner", "-C", &place, "--exclude=./dev/*", "-cf"]).arg(&archive).arg(".");
    if case.unprivileged {
        tar.env("TAR_OPTIONS", "--owner=0 --group=0");
    }
    assert!(tar.status().unwrap().success());
    fs::remove_dir_all(format!("{place}/etc/vzdump")).unwrap();
    must(node, &format!("unmount {vmid}"));
    assert!(fs::read_dir(&place).unwrap().next().is_none());
    if case.is_directory() {
        assert!(pct(node, &format!("fsck {vmid}")).stderr.contains("unable to run fsck for"));
    } else {
        // With `--force` the tool waits for eleven seconds whether another node has mounted it.
        let checked = must(node, &format!("fsck {vmid}"));
        assert!(checked.contains("clean"), "{checked}");
        must(node, &format!("resize {vmid} mp0 +32M"));
        assert!(must(node, &format!("config {vmid}")).contains("size=96M"));
    }
    must(node, &format!("set {vmid} --delete mp0"));
    assert!(must(node, &format!("config {vmid}")).contains("unused0: "));
    let unused = must(node, &format!("config {vmid}"));
    let unused = unused.lines().find_map(|line| line.strip_prefix("unused0: ")).unwrap().to_owned();
    // As after a configuration that came back from elsewhere: the volume is nobody's, until it is looked for.
    let file = node.path(&format!("etc/pve/nodes/pve1/lxc/{vmid}.conf"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace(&format!("unused0: {unused}\n"), "lock: backup\n")).unwrap();
    assert!(pct(node, &format!("rescan --vmid {vmid}")).stderr.contains("CT is locked (backup)"));
    must(node, &format!("unlock {vmid}"));
    must(node, &format!("rescan --vmid {vmid}"));
    assert!(must(node, &format!("config {vmid}")).contains(&format!("unused0: {unused}\n")));
    must(node, &format!("set {vmid} --mp1 {unused},mp=/again"));
    let _ = storage;
}

/// Copies, other places, other owners, and the end.
fn copies(node: &Node, case: &Case) {
    let (vmid, clone, restored) = (case.vmid, case.vmid + 1, case.vmid + 2);
    must(node, &format!("clone {vmid} {clone} --hostname copy"));
    let moved = pct(node, &format!("move-volume {clone} mp1 --target-vmid {vmid} --target-volume mp2"));
    if case.is_directory() {
        assert_eq!(moved.stderr, "Storage does not support moving of this disk to another container\n");
        must(node, &format!("set {clone} --delete mp1"));
    } else {
        assert_eq!(moved.code, 0, "{moved:?}");
        assert!(!must(node, &format!("config {clone}")).contains("mp1"));
    }
    let other = if case.storage == "btr" { "local" } else { "btr" };
    if !case.is_directory() {
        must(node, &format!("move-volume {clone} rootfs {other} --delete 1"));
        assert!(must(node, &format!("config {clone}")).contains(&format!("rootfs: {other}:")));
    }
    must(node, &format!("start {clone}"));
    booted(node, case, clone);
    assert_eq!(inside(node, clone, "hostname; test -e /again/note || echo moved"), "copy\nmoved\n");
    must(node, &format!("destroy {clone} --force 1"));
    must(node, &format!("template {vmid}"));
    assert!(pct(node, &format!("start {vmid}")).stderr.contains("you can't start a CT if it's a template"));
    if case.has_snapshots() {
        must(node, &format!("clone {vmid} {clone} --hostname linked"));
        must(node, &format!("start {clone}"));
        booted(node, case, clone);
        assert_eq!(inside(node, clone, "hostname; cat /again/note"), "linked\nwords\n");
        must(node, &format!("stop {clone}"));
        must(node, &format!("destroy {clone}"));
    }
    must(node, &format!("destroy {vmid}"));
    let archive = format!("local:backup/vzdump-lxc-{vmid}-2026_01_02-03_04_05.tar.zst");
    must(node, &format!("restore {restored} {archive} --storage {} --hostname back", case.storage));
    must(node, &format!("start {restored}"));
    booted(node, case, restored);
    assert_eq!(
        inside(node, restored, "hostname; cat /data/note; cat /proc/uid_map >/dev/null; id -u"),
        "back\nwords\n0\n"
    );
    must(node, &format!("destroy {restored} --force 1 --purge 1 --destroy-unreferenced-disks 1"));
    fs::remove_file(node.path(&format!("var/lib/vz/dump/vzdump-lxc-{vmid}-2026_01_02-03_04_05.tar.zst"))).unwrap();
}

/// A node with a directory and a BTRFS storage.
fn node(debian: bool) -> (Node, LoopMount) {
    let node = Node::without_daemons();
    let template = |name: &str| node.path(&format!("var/lib/vz/template/cache/{name}"));
    busybox_template(&template("busybox.tar.gz"));
    if debian {
        fs::copy(debian_template(&node).unwrap(), template("debian.tar.zst")).unwrap();
    }
    fs::create_dir_all(node.path("var/lib/vz/dump")).unwrap();
    node.run("pvesm", &["set", "local", "--content", "backup,vztmpl,rootdir,images"]).ok();
    let mounted = LoopMount::new("btrfs", 8 << 30, &node.path("btr"));
    let place = mounted.path().to_string_lossy().into_owned();
    node.run("pvesm", &["add", "btrfs", "btr", "--path", &place, "--content", "rootdir,images"]).ok();
    (node, mounted)
}

fn run(debian: bool, combinations: &[(bool, &'static str, &'static str)], first: u32) {
    let (node, _mounted) = node(debian);
    for (index, (unprivileged, storage, size)) in (0..).zip(combinations) {
        let case = Case { debian, unprivileged: *unprivileged, storage, size, vmid: first + 10 * index };
        eprintln!("{}", case.name(case.vmid));
        every_command(&node, &case);
    }
    assert_eq!(must(&node, "list"), "");
    // What templates share stays as long as they do.
    let left = fs::read_dir(node.path("btr/images")).unwrap().flatten().map(|entry| entry.path());
    let left = left.filter(|path| !path.ends_with(".unpacked"));
    assert_eq!(left.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn every_command_does_its_work() {
    assert!(pct(&Node::without_daemons(), "help").stdout.contains("pct create <vmid> <ostemplate>"));
    run(false, &[(true, "local", "0.25"), (false, "btr", "0")], 8500);
}

/// Images and directories, on both storages.
fn all_places(debian: bool, unprivileged: bool, first: u32) {
    if setting("FERROVISOR_CONTAINERS", 0) == 0 {
        return;
    }
    let size = if debian { "1" } else { "0.25" };
    let places = [("local", size), ("local", "0"), ("btr", size), ("btr", "0")];
    run(debian, &places.map(|(storage, size)| (unprivileged, storage, size)), first);
}

#[test]
fn every_command_does_its_work_everywhere() {
    all_places(false, true, 8540);
    all_places(false, false, 8580);
}

#[test]
fn every_command_does_its_work_with_an_unprivileged_system() {
    all_places(true, true, 8640);
}

#[test]
fn every_command_does_its_work_with_a_privileged_system() {
    all_places(true, false, 8680);
}
