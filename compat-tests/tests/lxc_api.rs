//! Containers over HTTP, as clients drive them, and their independence of the daemons.

use compat_tests::guest::busybox_template;
use compat_tests::{Node, wait_for};
use std::fs;

const CONTAINERS: &str = "/nodes/pve1/lxc";

#[test]
fn created_started_and_destroyed_over_http() {
    let node = Node::start();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let client = node.admin();
    let form = [
        ("vmid", "8331"),
        ("ostemplate", "local:vztmpl/busybox.tar.gz"),
        ("rootfs", "local:0.25"),
        ("memory", "64"),
        ("hostname", "web"),
        ("start", "1"),
        ("ostype", "unmanaged"),
        ("cpulimit", "0.5"),
        ("description", "a: b"),
    ];
    node.finish(&client, &client.post(CONTAINERS, &form).data());
    let path = format!("{CONTAINERS}/8331");
    let status = client.get(&format!("{path}/status/current")).data();
    assert_eq!((&status["status"], &status["vmid"], &status["name"]), (&"running".into(), &8331.into(), &"web".into()));
    assert_eq!(status["maxmem"], 64 << 20);
    assert_eq!(status["ha"]["managed"], 0);
    let list = client.get(CONTAINERS).data();
    assert_eq!((&list[0]["vmid"], &list[0]["status"]), (&8331.into(), &"running".into()));
    let config = client.get(&format!("{path}/config")).data();
    assert_eq!((&config["memory"], &config["unprivileged"]), (&64.into(), &1.into()));
    assert_eq!((&config["cpulimit"], &config["description"]), (&"0.5".into(), &"a: b\n".into()));
    let interfaces = client.get(&format!("{path}/interfaces")).data();
    assert_eq!(interfaces[0]["name"], "lo");

    let again = client.post(CONTAINERS, &form);
    assert_eq!((again.status, again.reason.as_str()), (500, "CT 8331 already exists on node 'pve1'"));
    let started = client.post(&format!("{path}/status/start"), &[]);
    assert_eq!((started.status, started.reason.as_str()), (500, "CT 8331 already running"));
    let refused = client.delete(&path);
    assert_eq!((refused.status, refused.reason.as_str()), (500, "unable to destroy CT 8331 - container is running"));
    let bind = client.put(&format!("{path}/config"), &[("mp0", "/etc,mp=/x")]);
    assert_eq!(bind.status, 403);
    assert_eq!(client.put(&format!("{path}/config"), &[]).reason, "no options specified");

    node.finish(&client, &client.post(&format!("{path}/status/stop"), &[]).data());
    node.finish(&client, &client.delete(&format!("{path}?purge=1&destroy-unreferenced-disks=1")).data());
    let gone = client.get(&format!("{path}/status/current"));
    assert_eq!(
        (gone.status, gone.reason.as_str()),
        (500, "Configuration file 'nodes/pve1/lxc/8331.conf' does not exist")
    );
}

#[test]
fn containers_outlive_the_daemons() {
    let mut node = Node::start();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let client = node.admin();
    let form =
        [("vmid", "8332"), ("ostemplate", "local:vztmpl/busybox.tar.gz"), ("rootfs", "local:0.25"), ("start", "1")];
    let ended = node.wait_task(&client, &client.post(CONTAINERS, &form).data());
    assert_eq!(ended, "OK");
    let before = client.get(&format!("{CONTAINERS}/8332/status/current")).data()["pid"].clone();
    node.kill_daemon();
    assert_eq!(node.run("pct", &["exec", "8332", "echo", "still here"]).ok(), "still here\n");
    node.start_daemon();
    let after = client.get(&format!("{CONTAINERS}/8332/status/current")).data();
    assert_eq!((&after["status"], &after["pid"]), (&"running".into(), &before));
    node.finish(&client, &client.post(&format!("{CONTAINERS}/8332/status/stop"), &[]).data());
    node.finish(&client, &client.delete(&format!("{CONTAINERS}/8332")).data());
}

#[test]
fn a_starting_daemon_cleans_up_after_dead_monitors() {
    let mut node = Node::start();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let client = node.admin();
    let form = [("vmid", "8334"), ("ostemplate", "local:vztmpl/busybox.tar.gz"), ("rootfs", "local:0"), ("start", "1")];
    assert_eq!(node.wait_task(&client, &client.post(CONTAINERS, &form).data()), "OK");
    let groups = || {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let places =
            hierarchies.flat_map(|entry| fs::read_dir(entry.path().join("lxc")).into_iter().flatten().flatten());
        places.filter(|group| group.file_name().to_string_lossy().ends_with("-8334")).count()
    };
    assert!(groups() > 0);
    node.kill_daemon();
    let init = init_of(&node);
    let status = fs::read_to_string(format!("/proc/{init}/status")).unwrap();
    let monitor: i32 = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok()).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(monitor).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    wait_for("the container's end", 10, || (!std::path::Path::new(&format!("/proc/{init}")).exists()).then_some(()));
    assert!(groups() > 0, "nobody has cleaned up yet");
    node.start_daemon();
    wait_for("control groups to be removed", 10, || (groups() == 0).then_some(()));
    node.finish(&client, &client.delete(&format!("{CONTAINERS}/8334")).data());
}

/// The init of the container 8334, asked of the tool.
fn init_of(node: &Node) -> u32 {
    let status = node.run("pct", &["status", "8334", "--verbose"]).ok();
    status.lines().find_map(|line| line.strip_prefix("pid: ")?.parse().ok()).expect("a running container has a pid")
}

#[test]
fn a_killed_worker_leaves_nothing() {
    let node = Node::start();
    let client = node.admin();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    // A compressed gigabyte of zeroes takes long enough to be killed in the middle.
    let big = node.path("var/lib/vz/template/cache/big.tar.gz");
    let mut tar = std::process::Command::new("tar");
    fs::File::create(node.path("zero")).unwrap().set_len(1 << 30).unwrap();
    assert!(tar.arg("-C").arg(node.root()).arg("-czf").arg(&big).arg("./zero").status().unwrap().success());
    let form = [("vmid", "8333"), ("ostemplate", "local:vztmpl/big.tar.gz"), ("rootfs", "local:4")];
    let upid = client.post(CONTAINERS, &form).data();
    let log = format!("/nodes/pve1/tasks/{}/log?limit=0", upid.as_str().unwrap());
    wait_for("the archive to be unpacked", 60, || client.get(&log).text().contains("extracting archive").then_some(()));
    let pid = i32::from_str_radix(upid.as_str().unwrap().split(':').nth(2).unwrap(), 16).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert_ne!(node.wait_task(&client, &upid), "OK");
    // Nobody has to unlock or remove it.
    assert_eq!(client.get(&format!("{CONTAINERS}/8333/config")).status, 500);
    assert!(!node.path("var/lib/vz/images/8333/vm-8333-disk-0.raw").exists());
    assert!(!node.path("var/lib/lxc/8333").exists());
}
