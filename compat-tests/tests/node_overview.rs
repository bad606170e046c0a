//! What a node says of itself and of its guests, with the types that clients decode.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;

/// Members that must be whole numbers.
#[track_caller]
fn integers(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value[name].is_u64(), "{name} is no whole number in {value}");
    }
}

/// Members that must be text.
#[track_caller]
fn texts(value: &Value, names: &[&str]) {
    for name in names {
        assert!(value[name].is_string(), "{name} is no text in {value}");
    }
}

/// The row of a list that has this value.
#[track_caller]
fn row(list: &Value, name: &str, value: Value) -> Value {
    let rows = list.as_array().unwrap_or_else(|| panic!("no list: {list}"));
    rows.iter().find(|row| row[name] == value).unwrap_or_else(|| panic!("no {name} {value} in {list}")).clone()
}

/// Writes a guest's file as an administrator does by hand.
fn guest(node: &Node, kind: &str, vmid: u32, text: &str) {
    fs::write(node.path(&format!("etc/pve/{kind}/{vmid}.conf")), text).unwrap();
}

fn errors(client: &Client, path: &str) -> (u16, Value) {
    let reply = client.get(path);
    (reply.status, reply.json()["errors"].clone())
}

#[test]
fn answers_have_the_types_that_clients_decode() {
    let node = Node::start();
    let client = node.admin();
    let get = |path: &str| client.get(path).data();
    for path in ["/version", "/nodes/pve1/version"] {
        let version = get(path);
        texts(&version, &["version", "release", "repoid"]);
        assert!(version["version"].as_str().unwrap().split('.').all(|part| part.parse::<u8>().is_ok()), "{version}");
    }
    let nodes = get("/nodes");
    let own = row(&nodes, "node", json!("pve1"));
    integers(&own, &["maxcpu", "mem", "maxmem", "disk", "maxdisk", "uptime"]);
    texts(&own, &["status", "level", "id", "type", "ssl_fingerprint"]);
    assert!(own["cpu"].is_number() && own["status"] == "online");
    let status = get("/nodes/localhost/status");
    integers(&status, &["uptime"]);
    integers(&status["cpuinfo"], &["cores", "cpus", "sockets", "user_hz"]);
    texts(&status["cpuinfo"], &["model", "flags", "hvm", "mhz"]);
    integers(&status["memory"], &["total", "used", "free"]);
    integers(&status["rootfs"], &["total", "used", "free", "avail"]);
    texts(&status, &["kversion", "pveversion"]);
    assert!(status["loadavg"].as_array().unwrap().iter().all(Value::is_string));
    let cluster = get("/cluster/status");
    let entry = row(&cluster, "type", json!("node"));
    integers(&entry, &["nodeid", "online", "local"]);
    texts(&entry, &["id", "name", "level", "ip"]);
    assert_eq!(get("/nodes/pve1/subscription")["status"], "notfound");
    assert_eq!(get("/cluster/config/qdevice"), json!({}));
    assert_eq!(get("/nodes/pve1/replication"), json!([]));
    assert_eq!(get("/cluster/backup-info/not-backed-up"), json!([]));
    integers(&get("/nodes/pve1/time"), &["time", "localtime"]);
    assert!(get("/nodes/pve1/dns").is_object());
    assert!(get("/nodes/pve1/report").as_str().unwrap().contains("pve-manager/9.2"));
    assert!(get("/cluster/log").is_array());
    let index = get("/cluster");
    for name in ["resources", "nextid", "ha", "sdn"] {
        row(&index, "name", json!(name));
    }
}

#[test]
fn guests_are_listed_with_all_numbers_and_nothing_too_much() {
    let node = Node::start();
    let client = node.admin();
    guest(
        &node,
        "qemu-server",
        100,
        "name: web\ncores: 2\nmemory: 1024\nscsi0: local:100/a.raw,size=4G\nboot: order=scsi0\n",
    );
    guest(&node, "lxc", 101, "hostname: db\ntemplate: 1\nlock: backup\ntags: a;b\nrootfs: local:101/a.raw,size=1G\n");
    let get = |path: &str| client.get(path).data();
    let counters = ["mem", "maxmem", "disk", "maxdisk", "diskread", "diskwrite", "netin", "netout", "uptime"];
    let vm = row(&get("/nodes/pve1/qemu"), "vmid", json!(100));
    integers(&vm, &counters);
    integers(&vm, &["cpus"]);
    assert_eq!((&vm["name"], &vm["status"], &vm["maxdisk"]), (&json!("web"), &json!("stopped"), &json!(4_u64 << 30)));
    assert!(["template", "pid", "lock", "tags"].iter().all(|name| vm.get(name).is_none()), "{vm}");
    let ct = row(&get("/nodes/pve1/lxc"), "vmid", json!(101));
    integers(&ct, &counters);
    integers(&ct, &["swap", "maxswap"]);
    assert_eq!((&ct["template"], &ct["lock"], &ct["tags"]), (&json!(1), &json!("backup"), &json!("a;b")));
    let resources = get("/cluster/resources");
    for (id, template) in [("qemu/100", 0), ("lxc/101", 1)] {
        let resource = row(&resources, "id", json!(id));
        integers(&resource, &counters);
        integers(&resource, &["vmid", "maxcpu"]);
        assert_eq!((&resource["template"], resource["cpu"].is_number()), (&json!(template), true));
        assert!(["hastate", "pool"].iter().all(|name| resource.get(name).is_none()), "{resource}");
    }
    let storage = row(&resources, "id", json!("storage/pve1/local"));
    integers(&storage, &["shared", "disk", "maxdisk"]);
    assert_eq!((&storage["status"], &storage["plugintype"]), (&json!("available"), &json!("dir")));
    row(&resources, "id", json!("node/pve1"));
    assert_eq!(get("/cluster/resources?type=vm").as_array().unwrap().len(), 2);
    let uncovered = get("/cluster/backup-info/not-backed-up");
    assert_eq!(row(&uncovered, "vmid", json!(101)), json!({ "vmid": 101, "name": "db", "type": "lxc" }));
    // Somebody without rights sees that there is a node, and nothing else.
    node.user("nobody@pve", "");
    let stranger = node.client().with_token(&node.token("nobody@pve"));
    let seen = stranger.get("/cluster/resources").data();
    let ids: Vec<&str> = seen.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["node/pve1"]);
    assert!(seen[0].get("mem").is_none());
    assert_eq!(stranger.get("/nodes/pve1/qemu").data(), json!([]));
}

#[test]
fn a_thousand_guests_a_hand_edit_and_a_damaged_file() {
    let node = Node::start();
    let client = node.admin();
    for vmid in 1000..2000 {
        guest(&node, "qemu-server", vmid, &format!("name: vm{vmid}\ncores: 2\nmemory: 2048\n"));
    }
    let names = || -> BTreeSet<String> {
        let list = client.get("/cluster/resources?type=vm").data();
        list.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names().len(), 1000);
    guest(&node, "qemu-server", 1500, "name: edited\n");
    fs::remove_file(node.path("etc/pve/qemu-server/1501.conf")).unwrap();
    let now = names();
    assert!(now.contains("edited") && !now.contains("vm1500") && !now.contains("vm1501") && now.len() == 999);
    guest(&node, "qemu-server", 1502, "name: vm1502\n\u{1}\u{2}\n");
    assert_eq!(names().len(), 999);
    let log = client.get("/cluster/log").data();
    row(&log, "msg", json!("VM 1502: unable to parse 'qemu-server/1502.conf', line 2"));
    // The tools see the same without a daemon.
    let list: Value =
        serde_json::from_str(&node.run("pvesh", &["get", "/nodes/pve1/qemu", "--output-format", "json"]).ok()).unwrap();
    assert_eq!(list.as_array().unwrap().len(), 999);
}

#[test]
fn fifty_clients_never_get_the_same_number() {
    let node = Node::start();
    let client = Arc::new(node.admin());
    guest(&node, "lxc", 100, "");
    let threads: Vec<_> = (0..50)
        .map(|_| {
            let client = client.clone();
            std::thread::spawn(move || client.get("/cluster/nextid").data().as_str().unwrap().to_owned())
        })
        .collect();
    let numbers: BTreeSet<String> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(numbers.len(), 50);
    assert!(!numbers.contains("100"));
    let (status, errors) = errors(&client, "/cluster/nextid?vmid=100");
    assert_eq!((status, &errors["vmid"]), (400, &json!("VM 100 already exists")));
    assert_eq!(client.get("/cluster/nextid?vmid=777").data(), "777");
    // Daemon and tools share what was given out.
    let number = node.run("pvesh", &["get", "/cluster/nextid"]).ok().trim().to_owned();
    assert!(number.parse::<u32>().is_ok() && !numbers.contains(&number), "{number}");
}

#[test]
fn options_are_changed_and_read_back() {
    let node = Node::start();
    let client = node.admin();
    let set = client.put("/cluster/options", &[("keyboard", "de"), ("next-id", "lower=500,upper=600")]);
    assert_eq!((set.status, set.data()), (200, Value::Null));
    let options = client.get("/cluster/options").data();
    assert_eq!((&options["keyboard"], &options["next-id"]["lower"]), (&json!("de"), &json!(500)));
    assert_eq!(client.get("/cluster/nextid").data(), "500");
    let set = client.put("/nodes/pve1/config", &[("description", "rack 3")]);
    assert_eq!(set.status, 200);
    assert_eq!(client.get("/nodes/pve1/config").data()["description"], "rack 3\n");
    let set = client.put("/nodes/pve1/dns", &[("search", "example"), ("dns1", "192.0.2.1")]);
    assert_eq!(set.status, 200);
    assert_eq!(client.get("/nodes/pve1/dns").data(), json!({ "search": "example", "dns1": "192.0.2.1" }));
    let hosts = client.get("/nodes/pve1/hosts").data();
    let stale = client.post("/nodes/pve1/hosts", &[("data", "x"), ("digest", &"0".repeat(40))]);
    assert_eq!(stale.status, 500);
    let digest = hosts["digest"].as_str().unwrap();
    assert_eq!(client.post("/nodes/pve1/hosts", &[("data", "127.0.0.1 localhost\n"), ("digest", digest)]).status, 200);
    assert_eq!(fs::read_to_string(node.path("etc/hosts")).unwrap(), "127.0.0.1 localhost\n");
    let refused = client.put("/nodes/pve1/time", &[("timezone", "../../etc/passwd")]);
    assert_eq!((refused.status, &refused.json()["errors"]["timezone"]), (400, &json!("No such timezone")));
    let reboot = client.post("/nodes/pve1/status", &[("command", "reboot")]);
    assert_eq!(reboot.status, 500);
}

#[test]
fn graphs_have_a_row_for_each_step_and_no_null() {
    let node = Node::start();
    let client = node.admin();
    guest(&node, "qemu-server", 100, "name: a\n");
    for (path, frame, step, most) in [
        ("/nodes/pve1/rrddata", "hour", 60, 60),
        ("/nodes/pve1/rrddata", "decade", 7 * 86400, 570),
        ("/nodes/pve1/qemu/100/rrddata", "day", 60, 1440),
        ("/nodes/pve1/storage/local/rrddata", "week", 1800, 336),
    ] {
        for cf in ["", "&cf=MAX"] {
            let list = client.get(&format!("{path}?timeframe={frame}{cf}")).data();
            let times: Vec<i64> = list.as_array().unwrap().iter().map(|row| row["time"].as_i64().unwrap()).collect();
            assert!((most - 1..=most).contains(&times.len()), "{path} {frame}: {} rows", times.len());
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] == step) && times[0] % step == 0, "{path} {frame}");
            assert!(!list.to_string().contains("null"), "{list}");
        }
    }
    assert_eq!(errors(&client, "/nodes/pve1/rrddata").1["timeframe"], "property is missing and it is not optional");
    assert_eq!(client.get("/nodes/pve1/qemu/101/rrddata?timeframe=hour").status, 500);
    assert_eq!(client.get("/nodes/pve1/lxc/100/rrddata?timeframe=hour").status, 500);
    assert_eq!(client.get("/nodes/pve1/storage/none/rrddata?timeframe=hour").reason, "storage 'none' does not exist");
}
