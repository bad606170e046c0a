//! Many VMs at once: started in their order with its delays, put to sleep and woken, shut down the other way round.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node};
use serde_json::Value;

/// First, second, and whenever; the first wants a pause after it.
const VMS: [(&str, &str); 3] = [("7402", "order=1,up=2"), ("7401", "order=2"), ("7400", "")];

fn act(node: &Node, client: &Client, action: &str, form: &[(&str, &str)]) -> String {
    let upid = client.post(&format!("/nodes/pve1/{action}"), form).data();
    node.finish(client, &upid);
    client.get(&format!("/nodes/pve1/tasks/{}/log?limit=0", upid.as_str().unwrap())).text()
}

fn current(client: &Client, vmid: &str) -> Value {
    client.get(&format!("/nodes/pve1/qemu/{vmid}/status/current")).data()
}

fn all_are(client: &Client, status: &str) -> bool {
    VMS.iter().all(|(vmid, _)| current(client, vmid)["status"] == status)
}

/// When the last task of a kind began for each VM, in their order.
fn beginnings(client: &Client, kind: &str) -> [i64; 3] {
    let tasks = client.get(&format!("/nodes/pve1/tasks?typefilter={kind}&source=all")).data();
    VMS.map(|(vmid, _)| {
        let of_vm = tasks.as_array().unwrap().iter().filter(|task| task["id"] == vmid);
        of_vm.map(|task| task["starttime"].as_i64().unwrap()).max().unwrap()
    })
}

#[track_caller]
fn in_order(log: &str, texts: &[&str]) {
    let places: Vec<Option<usize>> = texts.iter().map(|text| log.find(text)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} of {texts:?} in {log}");
}

#[test]
fn all_vms_start_sleep_wake_and_end_in_their_order() {
    let node = Node::start();
    let client = node.admin();
    for (vmid, startup) in VMS {
        let options = ["create", vmid, "--memory", "16", "--kvm", "0", "--vga", "none"];
        node.run("qm", &options).ok();
        if !startup.is_empty() {
            node.run("qm", &["set", vmid, "--startup", startup]).ok();
        }
    }
    // None starts with the node, so there is nothing to do; one is asked for by name.
    assert!(!act(&node, &client, "startall", &[]).contains("Starting"));
    let log = act(&node, &client, "startall", &[("force", "1"), ("vms", "7401")]);
    assert!(log.contains("Starting VM 7401") && !log.contains("VM 7400") && !log.contains("VM 7402"), "{log}");
    act(&node, &client, "stopall", &[("timeout", "0"), ("force-stop", "1")]);
    assert!(all_are(&client, "stopped"));

    let log = act(&node, &client, "startall", &[("force", "1")]);
    let steps = ["Starting VM 7402", "Waiting for 2 seconds (startup delay)", "Starting VM 7401", "Starting VM 7400"];
    in_order(&log, &steps);
    assert!(all_are(&client, "running"));
    let [first, second, _] = beginnings(&client, "qmstart");
    assert!(second - first >= 2, "{first}, {second}");

    let log = act(&node, &client, "suspendall", &[]);
    in_order(&log, &["Suspending VM 7400", "Suspending VM 7401", "Suspending VM 7402"]);
    assert!(all_are(&client, "stopped"));
    for (vmid, _) in VMS {
        assert_eq!(current(&client, vmid)["lock"], "suspended");
        let config = client.get(&format!("/nodes/pve1/qemu/{vmid}/config")).data();
        assert!(config["vmstate"].as_str().unwrap().contains("state-suspend"), "{config}");
    }

    // They go on where they were: their states are used up.
    in_order(&act(&node, &client, "startall", &[("force", "1")]), &steps);
    assert!(all_are(&client, "running"));
    for (vmid, _) in VMS {
        let config = client.get(&format!("/nodes/pve1/qemu/{vmid}/config")).data();
        assert!(config.get("vmstate").is_none() && config.get("lock").is_none(), "{config}");
    }

    // Bulk actions skip what has nothing to do, and let go on what stands still.
    let bulk = |action: &str, form: &[(&str, &str)]| {
        let upid = client.post(&format!("/cluster/bulk-action/guest/{action}"), form).data();
        let status = node.wait_task(&client, &upid);
        (status, client.get(&format!("/nodes/pve1/tasks/{}/log?limit=0", upid.as_str().unwrap())).text())
    };
    let (status, log) = bulk("start", &[("vms", "7400"), ("vms", "7401")]);
    in_order(&log, &["Starting guests: 7400, 7401", "Skipping VM 7400, already running."]);
    assert_eq!(status, "WARNINGS: 2");
    node.finish(&client, &client.post("/nodes/pve1/qemu/7400/status/suspend", &[]).data());
    let (_, log) = bulk("shutdown", &[("vms", "7400")]);
    assert!(log.contains("Skipping VM 7400, resume paused VM before shutdown."), "{log}");
    let (status, _) = bulk("start", &[("vms", "7400")]);
    assert_eq!((status.as_str(), &current(&client, "7400")["qmpstatus"]), ("OK", &"running".into()));
    // A guest without a system hears no wish.
    let (status, log) = bulk("shutdown", &[("vms", "7400"), ("timeout", "0"), ("force-stop", "0")]);
    assert_eq!(status, "Some guests failed to shutdown 7400", "{log}");

    let log = act(&node, &client, "stopall", &[("timeout", "1"), ("force-stop", "1")]);
    in_order(&log, &["Stopping VM 7400 (timeout = 1 seconds)", "Stopping VM 7401", "Stopping VM 7402"]);
    assert!(all_are(&client, "stopped"));

    // Who may not turn all of them on and off has to name those that he may.
    node.user("joe@pve", "");
    let joe = node.client().login("joe@pve", "secret-password");
    let refused = joe.post("/nodes/pve1/suspendall", &[]);
    assert_eq!((refused.status, refused.reason.as_str()), (403, "Permission check failed (/, VM.PowerMgmt)"));
    for (vmid, _) in VMS {
        node.run("qm", &["destroy", vmid]).ok();
    }
}
