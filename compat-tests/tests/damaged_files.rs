//! Configuration files with lines that nobody can read: everything else in them stays in use, the place is told, and a
//! change by way of the API keeps what may be kept.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node};
use serde_json::{Value, json};
use std::fs;

/// The values of one key in a list, in its order.
fn column(rows: &Value, key: &str) -> Vec<String> {
    rows.as_array().unwrap().iter().map(|row| row[key].to_string().trim_matches('"').to_owned()).collect()
}

/// A problem is in the cluster's log and in the node's report, without the line itself.
#[track_caller]
fn assert_told(client: &Client, text: &str) {
    let entries = client.get("/cluster/log").data();
    let entry = entries.as_array().unwrap().iter().find(|entry| entry["msg"] == text);
    let entry = entry.unwrap_or_else(|| panic!("'{text}' is not in {entries}"));
    assert_eq!(entry["pri"], 4, "a warning");
    assert!(entry["time"].as_i64().unwrap() > 1_600_000_000, "{entry}");
    let report = client.get("/nodes/pve1/report").data();
    let (_, guests) = report.as_str().unwrap().split_once("==== guests ====").unwrap();
    assert!(guests.lines().any(|line| line == text), "{guests}");
    assert!(!entries.to_string().contains("scribble"));
}

#[test]
fn guests() {
    let node = Node::start();
    let client = node.admin();
    let file = node.path("etc/pve/qemu-server/7800.conf");
    let garbage = "name: first\n\u{1}scribble without a colon\nmemory: 64\nfuture-option: 17\n";
    fs::write(&file, garbage).unwrap();
    fs::write(node.path("etc/pve/qemu-server/7801.conf"), "name: second\nmemory: 64\n").unwrap();
    fs::write(node.path("etc/pve/lxc/7802.conf"), [b"hostname: third\n\xff\xfe scribble\n".as_slice()].concat())
        .unwrap();

    let vms = client.get("/nodes/pve1/qemu").data();
    assert_eq!(column(&vms, "name"), ["first", "second"]);
    assert_eq!(column(&client.get("/nodes/pve1/lxc").data(), "name"), ["third"]);
    assert_eq!(client.get("/cluster/resources?type=vm").data().as_array().unwrap().len(), 3);
    assert_told(&client, "VM 7800: unable to parse 'qemu-server/7800.conf', line 2");
    assert_told(&client, "CT 7802: unable to parse 'lxc/7802.conf', line 2");

    client.put("/nodes/pve1/qemu/7800/config", &[("memory", "128")]).data();
    let config = client.get("/nodes/pve1/qemu/7800/config").data();
    assert_eq!((&config["name"], &config["memory"]), (&json!("first"), &json!("128")));
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("memory: 128\n") && text.contains("\u{1}scribble without a colon\n"), "{text}");
    assert!(text.contains("future-option: 17\n"), "{text}");
}

#[test]
fn users() {
    let node = Node::start();
    let client = node.admin();
    node.user("ann@pve", "PVEAuditor");
    let file = node.path("etc/pve/user.cfg");
    let before = fs::read_to_string(&file).unwrap();
    let lines = before.lines().count();
    fs::write(&file, format!("{before}scribble\nuser:two words@pve:1:0::::::\nfuture:kind:of:line\n# a note\n"))
        .unwrap();

    let known = ["admin@pve", "ann@pve", "root@pam"];
    let mut users = column(&client.get("/access/users").data(), "userid");
    users.sort();
    assert_eq!(users, known);
    let told = format!("unable to parse 'user.cfg', line {}, {}, {}", lines + 1, lines + 2, lines + 3);
    assert_told(&client, &told);

    client.put("/access/users/ann@pve", &[("comment", "new")]).data();
    let text = fs::read_to_string(&file).unwrap();
    for kept in ["user:ann@pve:1:0:::", "scribble\n", "future:kind:of:line\n", "# a note\n", "acl:1:/:"] {
        assert!(text.contains(kept), "{kept} is not in {text}");
    }
    // A user without a proper name is nobody; the line must not wait for a day on which it means somebody.
    assert!(!text.contains("two words"), "{text}");
    // The admin's rights still hold, and ann's.
    let auditor = node.client().login("ann@pve", "secret-password");
    assert_eq!(auditor.get("/access/users").status, 200);
}

#[test]
fn storages() {
    let node = Node::start();
    let client = node.admin();
    let [one, two] = ["one", "two"].map(|name| {
        let path = node.path(name);
        fs::create_dir(&path).unwrap();
        path.to_str().unwrap().to_owned()
    });
    let file = node.path("etc/pve/storage.cfg");
    let text = format!(
        "# ours\ndir: one\n\tpath {one}\n\tcontent iso\n\tfuture thing\n\nscribble without a colon\n\tpath /nowhere\n\n\
         fancy: new\n\tsome value\n\ndir: two\n\tpath {two}\n\tcontent iso\n\n"
    );
    fs::write(&file, text).unwrap();

    let listed = column(&client.get("/storage").data(), "storage");
    for name in ["local", "one", "two"] {
        assert!(listed.contains(&name.to_owned()), "{listed:?}");
        assert_eq!(client.get(&format!("/nodes/pve1/storage/{name}/content")).data(), json!([]), "{name}");
    }
    let states = client.get("/nodes/pve1/storage").data();
    assert!(["one", "two"].iter().all(|name| column(&states, "storage").contains(&(*name).to_owned())), "{states}");
    assert_told(&client, "unable to parse 'storage.cfg', line 7");
    assert_told(&client, "unable to parse 'storage.cfg', line 8");

    client.put("/storage/two", &[("content", "iso,vztmpl")]).data();
    let text = fs::read_to_string(&file).unwrap();
    let kept =
        [format!("# ours\ndir: one\n\tpath {one}\n"), "\tfuture thing\n".into(), "fancy: new\n\tsome value\n".into()];
    for kept in kept {
        assert!(text.contains(&kept), "{kept} is not in {text}");
    }
    assert!(text.contains("content iso,vztmpl\n"), "{text}");
}
