//! Real containers from a busybox template: made, started, used, stopped and destroyed, with nothing left.

use compat_tests::guest::{Bridge, busybox_template};
use compat_tests::{Node, wait_for};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

const TEMPLATE: &str = "local:vztmpl/busybox.tar.gz";

fn node() -> Node {
    let node = Node::without_daemons();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    node
}

/// What containers of a node may leave on the machine: mounts, loop devices, control groups, links.
fn leftovers(node: &Node, vmid: &str) -> Vec<String> {
    let root = node.root().to_string_lossy().into_owned();
    let mut found = Vec::new();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("a machine that runs containers");
    found.extend(mounts.lines().filter(|line| line.contains(&root)).map(|line| format!("mount {line}")));
    let loops = Command::new("losetup").arg("--all").output().expect("a machine that runs containers");
    let loops = String::from_utf8_lossy(&loops.stdout).into_owned();
    found.extend(loops.lines().filter(|line| line.contains(&root)).map(|line| format!("loop {line}")));
    let ends = format!("-{vmid}");
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("a machine that runs containers").flatten() {
        for parent in ["lxc", "lxc.monitor"] {
            let groups = fs::read_dir(hierarchy.path().join(parent)).into_iter().flatten().flatten();
            found.extend(
                groups.filter(|g| g.file_name().to_string_lossy().ends_with(&ends)).map(|g| format!("group {g:?}")),
            );
        }
    }
    let links = fs::read_dir("/sys/class/net").expect("a machine that runs containers").flatten();
    let prefix = format!("veth{vmid}i");
    found.extend(links.filter(|l| l.file_name().to_string_lossy().starts_with(&prefix)).map(|l| format!("link {l:?}")));
    found
}

/// Files of a container below the node's root.
fn files_of(node: &Node, vmid: &str) -> BTreeSet<String> {
    ["var/lib/vz/images", "var/lib/lxc", "etc/pve/nodes/pve1/lxc"]
        .iter()
        .flat_map(|directory| fs::read_dir(node.path(directory)).into_iter().flatten().flatten())
        .map(|entry| entry.path().to_string_lossy().into_owned())
        .filter(|path| path.contains(vmid))
        .collect()
}

#[track_caller]
fn assert_nothing_left(node: &Node, vmid: &str) {
    // The kernel takes loop devices and links away by itself, a moment after the last process.
    wait_for("nothing to be left", 10, || leftovers(node, vmid).is_empty().then_some(()));
}

fn create(node: &Node, vmid: &str, options: &[&str]) {
    let ran =
        node.run("pct", &[&["create", vmid, TEMPLATE, "--ostype", "unmanaged", "--memory", "64"], options].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
}

fn exec(node: &Node, vmid: &str, words: &[&str]) -> compat_tests::Ran {
    node.run("pct", &[&["exec", vmid, "--"], words].concat())
}

fn whole_life(vmid: &str, options: &[&str], root_owner: u32) {
    let node = node();
    create(&node, vmid, options);
    let config = node.run("pct", &["config", vmid]).ok();
    assert!(config.contains("memory: 64\n") && config.contains("arch: "), "{config}");
    assert!(config.contains(&format!("hostname: CT{vmid}\n")), "{config}");
    node.run("pct", &["start", vmid]);
    assert_eq!(node.run("pct", &["status", vmid]).ok(), "status: running\n");
    let again = node.run("pct", &["start", vmid]);
    assert_eq!((again.code, again.stderr.as_str()), (255, format!("CT {vmid} already running\n").as_str()));

    // Streams and exit codes go through.
    assert_eq!(exec(&node, vmid, &["echo", "hello"]).ok(), "hello\n");
    let failed = exec(&node, vmid, &["sh", "-c", "echo oops >&2; exit 7"]);
    assert_eq!((failed.code, failed.stdout.as_str(), failed.stderr.as_str()), (7, "", "oops\n"));
    assert_eq!(exec(&node, vmid, &["no-such-program"]).code, 127);
    let mut cat = node
        .program("pct")
        .args(["exec", vmid, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a machine that runs containers");
    cat.stdin
        .take()
        .expect("a machine that runs containers")
        .write_all(b"from outside\n")
        .expect("a machine that runs containers");
    assert_eq!(cat.wait_with_output().expect("a machine that runs containers").stdout, b"from outside\n");
    assert_eq!(exec(&node, vmid, &["hostname"]).ok(), format!("CT{vmid}\n"));
    assert_eq!(exec(&node, vmid, &["id", "-u"]).ok(), "0\n");
    let map = exec(&node, vmid, &["cat", "/proc/self/uid_map"]).ok();
    assert_eq!(map.split_whitespace().nth(1), Some(root_owner.to_string().as_str()), "{map}");

    // Files.
    fs::write(node.path("note"), "text\n").expect("a machine that runs containers");
    let note = node.path("note").to_string_lossy().into_owned();
    node.run("pct", &["push", vmid, &note, "/root/note", "--perms", "0640", "--user", "1000"]).ok();
    assert_eq!(exec(&node, vmid, &["stat", "-c", "%a %u %g", "/root/note"]).ok(), "640 1000 0\n");
    let back = node.path("back").to_string_lossy().into_owned();
    node.run("pct", &["pull", vmid, "/root/note", &back]).ok();
    assert_eq!(fs::read_to_string(&back).expect("a machine that runs containers"), "text\n");
    // A link of the container leads to the container's file, never to the host's.
    exec(&node, vmid, &["ln", "-sf", "/etc/shadow", "/root/link"]).ok();
    assert_eq!(node.run("pct", &["pull", vmid, "/root/link", &back]).code, 255);
    assert_eq!(fs::read_to_string(&back).expect("a machine that runs containers"), "text\n");

    // Stop, start again: files stay.
    node.run("pct", &["stop", vmid]).ok();
    assert_eq!(node.run("pct", &["status", vmid]).ok(), "status: stopped\n");
    assert_nothing_left(&node, vmid);
    let stopped = node.run("pct", &["stop", vmid]);
    assert_eq!((stopped.code, stopped.stderr.as_str()), (255, format!("CT {vmid} not running\n").as_str()));
    node.run("pct", &["start", vmid]).ok();
    assert_eq!(exec(&node, vmid, &["cat", "/root/note"]).ok(), "text\n");
    let refused = node.run("pct", &["destroy", vmid]);
    assert_eq!(refused.stderr, format!("unable to destroy CT {vmid} - container is running\n"));
    node.run("pct", &["shutdown", vmid, "--timeout", "20"]).ok();
    assert_eq!(node.run("pct", &["status", vmid]).ok(), "status: stopped\n");
    node.run("pct", &["destroy", vmid]);
    assert_eq!(files_of(&node, vmid), BTreeSet::new());
    assert_nothing_left(&node, vmid);
    let gone = node.run("pct", &["status", vmid]);
    assert_eq!(gone.stderr, format!("Configuration file 'nodes/pve1/lxc/{vmid}.conf' does not exist\n"));
}

#[test]
fn privileged_in_a_directory() {
    whole_life("8311", &["--unprivileged", "0", "--rootfs", "local:0"], 0);
}

#[test]
fn unprivileged_in_a_directory() {
    whole_life("8312", &["--rootfs", "local:0"], 100_000);
}

#[test]
fn privileged_in_an_image() {
    whole_life("8313", &["--unprivileged", "0", "--rootfs", "local:0.25"], 0);
}

#[test]
fn unprivileged_in_an_image() {
    whole_life("8314", &["--rootfs", "local:0.25"], 100_000);
}

/// While the container runs and when it does not, and of its own file system alone.
#[test]
fn blocks_of_removed_files_are_given_back() {
    let node = node();
    create(&node, "8320", &["--rootfs", "local:0.25", "--unprivileged", "1"]);
    let image = node.path("var/lib/vz/images/8320/vm-8320-disk-0.raw");
    let used = || fs::metadata(&image).unwrap().blocks() * 512;
    for runs in [true, false] {
        node.run("pct", &["start", "8320"]).ok();
        let write = "dd if=/dev/urandom of=/root/big bs=1M count=64 2>/dev/null && sync && rm /root/big && sync";
        exec(&node, "8320", &["sh", "-c", write]).ok();
        assert!(used() > 64 << 20, "{}", used());
        if !runs {
            node.run("pct", &["stop", "8320"]).ok();
        }
        let said = node.run("pct", &["fstrim", "8320"]).ok();
        assert!(said.starts_with("/: ") && said.contains(" MiB (") && said.ends_with(" bytes) trimmed\n"), "{said}");
        assert!(used() < 32 << 20, "{} bytes are left, {said}", used());
        node.run("pct", &["stop", "8320"]);
    }
    let checked = node.run("pct", &["fsck", "8320"]);
    assert!(checked.code == 0 && checked.stdout.contains("clean"), "{checked:?}");
    node.run("pct", &["destroy", "8320"]).ok();
    assert_nothing_left(&node, "8320");
}

#[test]
fn limits_links_and_mounts_are_real() {
    let node = node();
    let _bridge = Bridge::new("fvlxcbr0", Some("10.83.15.1/24"));
    let shared = node.path("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("host"), "from the host\n").unwrap();
    let bind = format!("{},mp=/mnt/shared,ro=1", shared.display());
    create(
        &node,
        "8315",
        &[
            "--rootfs",
            "local:0.25",
            "--mp0",
            "local:0.25,mp=/data",
            "--mp1",
            &bind,
            "--swap",
            "0",
            "--cores",
            "1",
            "--net0",
            "name=eth0,bridge=fvlxcbr0,ip=10.83.15.2/24,gw=10.83.15.1",
            "--onboot",
            "1",
        ],
    );
    node.run("pct", &["start", "8315"]).ok();
    let group = fs::read_dir("/sys/fs/cgroup/memory/lxc")
        .ok()
        .and_then(|entries| entries.flatten().find(|entry| entry.file_name().to_string_lossy().ends_with("-8315")));
    match group {
        Some(group) => {
            assert_eq!(fs::read_to_string(group.path().join("memory.limit_in_bytes")).unwrap(), "67108864\n");
            node.run("pct", &["set", "8315", "--memory", "96"]).ok();
            assert_eq!(fs::read_to_string(group.path().join("memory.limit_in_bytes")).unwrap(), "100663296\n");
        }
        None => compat_tests::skip("limits_links_and_mounts_are_real", "memory is not in a legacy hierarchy"),
    }
    let ping = Command::new("ping").args(["-c", "1", "-W", "5", "10.83.15.2"]).output();
    match ping {
        Ok(ping) => assert!(ping.status.success(), "{ping:?}"),
        Err(_) => assert_eq!(exec(&node, "8315", &["ping", "-c", "1", "-W", "5", "10.83.15.1"]).code, 0),
    }
    assert_eq!(exec(&node, "8315", &["cat", "/mnt/shared/host"]).ok(), "from the host\n");
    assert_ne!(exec(&node, "8315", &["touch", "/mnt/shared/new"]).code, 0);
    assert_eq!(exec(&node, "8315", &["touch", "/data/new"]).code, 0);
    let df = node.run("pct", &["df", "8315"]).ok();
    assert!(df.starts_with("MP ") && df.contains("\nmp0 ") && df.contains(" /data\n"), "{df}");
    // A limit that needs a restart waits, one that does not is at work.
    node.run("pct", &["set", "8315", "--tty", "1", "--onboot", "0"]).ok();
    let config = fs::read_to_string(node.path("etc/pve/nodes/pve1/lxc/8315.conf")).unwrap();
    assert!(config.contains("onboot: 0\n") && config.ends_with("[pve:pending]\ntty: 1\n"), "{config}");
    node.run("pct", &["resize", "8315", "rootfs", "+64M"]);
    assert!(node.run("pct", &["config", "8315"]).ok().contains("size=320M"));
    node.run("pct", &["stop", "8315"]).ok();
    let config = fs::read_to_string(node.path("etc/pve/nodes/pve1/lxc/8315.conf")).unwrap();
    assert!(config.contains("\ntty: 1\n") && !config.contains("pending"), "{config}");
    node.run("pct", &["destroy", "8315"]);
    assert_eq!(files_of(&node, "8315"), BTreeSet::new());
    assert_nothing_left(&node, "8315");
    assert!(shared.join("host").exists(), "a bind mount's directory is the host's");
}

#[test]
fn a_killed_monitor_takes_everything_along() {
    let node = node();
    create(&node, "8316", &["--rootfs", "local:0.25"]);
    node.run("pct", &["start", "8316"]).ok();
    let title = format!("[lxc monitor] {} 8316", node.path("var/lib/lxc").display());
    let monitor = fs::read_dir("/proc").unwrap().flatten().find(|entry| {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).trim_end_matches('\0') == title
    });
    let pid: i32 = monitor.expect("a monitor").file_name().to_string_lossy().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    wait_for("the container to be stopped", 10, || {
        (node.run("pct", &["status", "8316"]).ok() == "status: stopped\n").then_some(())
    });
    // It starts again in spite of the control groups that were left.
    node.run("pct", &["start", "8316"]).ok();
    node.run("pct", &["stop", "8316"]).ok();
    node.run("pct", &["destroy", "8316"]);
    assert_nothing_left(&node, "8316");
}

#[test]
fn failures_are_clear_and_leave_nothing() {
    let node = node();
    let fails = |arguments: &[&str]| {
        let ran = node.run("pct", arguments);
        assert_eq!(ran.code, 255, "{ran:?}");
        ran.stderr
    };
    let missing = fails(&["create", "8317", "local:vztmpl/none.tar.gz", "--rootfs", "local:0"]);
    assert_eq!(missing, "volume 'local:vztmpl/none.tar.gz' does not exist\n");
    let cache = node.path("var/lib/vz/template/cache");
    fs::write(cache.join("broken.tar.gz"), "this is no archive").unwrap();
    for rootfs in ["local:0", "local:0.25"] {
        let broken = fails(&["create", "8317", "local:vztmpl/broken.tar.gz", "--rootfs", rootfs]);
        assert!(broken.starts_with("unable to create CT 8317 - unable to extract archive"), "{broken}");
        assert_eq!(files_of(&node, "8317"), BTreeSet::new());
    }
    // Too small for the template: the volume is full before everything is unpacked.
    fs::write(node.path("big"), vec![7; 8 << 20]).unwrap();
    let mut tar = Command::new("tar");
    assert!(
        tar.arg("-C").arg(node.root()).arg("-cf").arg(cache.join("big.tar")).arg("./big").status().unwrap().success()
    );
    let full = fails(&["create", "8317", "local:vztmpl/big.tar", "--rootfs", "local:0.005"]);
    assert!(full.contains("No space left on device"), "{full}");
    assert_eq!(files_of(&node, "8317"), BTreeSet::new());

    create(&node, "8317", &["--rootfs", "local:0.25", "--net0", "name=eth0,bridge=fvnobridge"]);
    let taken = fails(&["create", "8317", TEMPLATE, "--rootfs", "local:0"]);
    assert_eq!(taken, "CT 8317 already exists on node 'pve1'\n");
    assert_eq!(fails(&["start", "8317"]), "bridge 'fvnobridge' does not exist\n");
    assert_nothing_left(&node, "8317");
    node.run("pct", &["set", "8317", "--delete", "net0"]).ok();
    let image = node.path("var/lib/vz/images/8317/vm-8317-disk-0.raw");
    fs::rename(&image, node.path("away.raw")).unwrap();
    let gone = fails(&["start", "8317"]);
    assert!(gone.contains("does not exist"), "{gone}");
    assert_nothing_left(&node, "8317");
    fs::rename(node.path("away.raw"), &image).unwrap();
    node.run("pct", &["start", "8317"]).ok();
    node.run("pct", &["destroy", "8317", "--force", "1"]);
    // A start that liblxc gives up leaves at once what it has begun.
    node.run("pct", &["create", "8317", TEMPLATE, "--ostype", "unmanaged", "--rootfs", "local:0"]).ok();
    let tree = node.path("var/lib/vz/images/8317/subvol-8317-disk-0.subvol");
    fs::remove_file(tree.join("sbin/init")).unwrap();
    let failed = fails(&["start", "8317"]);
    assert!(failed.ends_with("startup for container '8317' failed\n"), "{failed}");
    assert_eq!(leftovers(&node, "8317"), Vec::<String>::new());
    node.run("pct", &["destroy", "8317"]).ok();
    assert_eq!(files_of(&node, "8317"), BTreeSet::new());
    assert_nothing_left(&node, "8317");
}

/// `FERROVISOR_EXEC_ROUNDS` asks for more than a few.
#[test]
fn commands_find_their_container_on_a_busy_machine() {
    let rounds = std::env::var("FERROVISOR_EXEC_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(25);
    let node = node();
    create(&node, "8319", &["--rootfs", "local:0"]);
    node.run("pct", &["start", "8319"]).ok();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let spin = || {
            while !is_over.load(Ordering::Relaxed) {
                std::hint::spin_loop()
            }
        };
        let busy: Vec<_> = (0..4).map(|_| scope.spawn(spin)).collect();
        let users: Vec<_> = (0..4)
            .map(|user| {
                let node = &node;
                scope.spawn(move || {
                    let ran = (0..rounds).map(|_| exec(node, "8319", &["echo", &user.to_string()]));
                    ran.filter(|ran| (ran.code, ran.stdout.trim()) != (0, &*user.to_string())).collect::<Vec<_>>()
                })
            })
            .collect();
        let failures: Vec<_> = users.into_iter().flat_map(|user| user.join().unwrap()).collect();
        is_over.store(true, Ordering::Relaxed);
        drop(busy);
        assert!(failures.is_empty(), "{} of {}: {:?}", failures.len(), 4 * rounds, failures[0]);
    });
    node.run("pct", &["destroy", "8319", "--force", "1"]);
    assert_nothing_left(&node, "8319");
}

#[test]
fn volumes_can_be_mounted_on_the_host() {
    let node = node();
    create(&node, "8318", &["--rootfs", "local:0.25"]);
    let said = node.run("pct", &["mount", "8318"]).ok();
    let place = node.path("var/lib/lxc/8318/rootfs");
    assert_eq!(said, format!("mounted CT 8318 in '{}'\n", place.display()));
    assert_eq!(fs::metadata(place.join("bin")).unwrap().uid(), 100_000);
    assert!(node.run("pct", &["config", "8318"]).ok().contains("lock: mounted\n"));
    node.run("pct", &["unmount", "8318"]).ok();
    assert!(!place.join("bin").exists());
    assert!(!node.run("pct", &["config", "8318"]).ok().contains("lock"));
    assert_nothing_left(&node, "8318");
    let df = node.run("pct", &["df", "8318"]).ok();
    assert!(df.lines().nth(1).is_some_and(|line| line.starts_with("rootfs local:8318/vm-8318-disk-0.raw ")), "{df}");
    assert!(node.run("pct", &["fsck", "8318"]).code == 0);
    node.run("pct", &["destroy", "8318"]);
    assert_nothing_left(&node, "8318");
    assert!(!Path::new(&node.path("var/lib/lxc/8318")).exists());
}
