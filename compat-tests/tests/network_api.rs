//! `/nodes/{node}/network` over HTTP and with `pvesh`: edits wait beside the file in force, with PVE's texts. Nothing is
//! applied here: the machine's own network stays as it is.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node};
use serde_json::{Value, json};
use std::fs;

const NETWORK: &str = "/nodes/pve1/network";
const IN_FORCE: &str = "auto lo\niface lo inet loopback\n\nauto vmbr0\niface vmbr0 inet static\n\taddress 192.0.2.10/24\n\
                        \tgateway 192.0.2.1\n\tbridge-ports none\n\tbridge-stp off\n\tbridge-fd 0\n#first bridge\n\n\
                        source /etc/network/interfaces.d/*\n";

fn row(list: &Value, iface: &str) -> Value {
    let rows = list["data"].as_array().unwrap();
    rows.iter().find(|row| row["iface"] == iface).unwrap_or_else(|| panic!("no {iface} in {list}")).clone()
}

#[track_caller]
fn refused(client: &Client, form: &[(&str, &str)], parameter: &str, text: &str) {
    let reply = client.post(NETWORK, form);
    assert_eq!((reply.status, &reply.json()["errors"]), (400, &json!({ parameter: text })), "{form:?}");
}

#[test]
fn edits_wait_until_they_are_applied_or_dropped() {
    let node = Node::start();
    let client = node.admin();
    let (file, waiting) = (node.path("etc/network/interfaces"), node.path("etc/network/interfaces.new"));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, IN_FORCE).unwrap();

    let list = client.get(NETWORK).json();
    assert!(list.get("changes").is_none(), "{list}");
    let bridge = row(&list, "vmbr0");
    for (key, value) in [
        ("type", json!("bridge")),
        ("cidr", json!("192.0.2.10/24")),
        ("netmask", json!("24")),
        ("autostart", json!(1)),
        ("method", json!("static")),
        ("method6", json!("manual")),
        ("families", json!(["inet"])),
        ("comments", json!("first bridge\n")),
        ("bridge_ports", json!("")),
    ] {
        assert_eq!(bridge[key], value, "{key} of {bridge}");
    }
    assert!(bridge.get("active").is_none(), "the kernel has no such bridge: {bridge}");
    assert!(!list.to_string().contains("\"iface\":\"lo\""));

    let lan =
        [("iface", "lan"), ("type", "bridge"), ("cidr", "198.51.100.1/24"), ("autostart", "1"), ("comments", "inner")];
    assert_eq!(client.post(NETWORK, &lan).status, 200);
    assert_eq!(fs::read_to_string(&file).unwrap(), IN_FORCE);
    let text = fs::read_to_string(&waiting).unwrap();
    let expected = "auto lan\niface lan inet static\n\taddress 198.51.100.1/24\n\tbridge-ports none\n\tbridge-stp off\n\
                    \tbridge-fd 0\n#inner\n\n";
    assert!(text.contains(expected) && text.ends_with("source /etc/network/interfaces.d/*\n"), "{text}");
    let list = client.get(&format!("{NETWORK}?type=any_bridge")).json();
    assert!(list["changes"].as_str().unwrap().contains("\n+auto lan\n"), "{list}");
    assert_eq!(list["data"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(client.get(&format!("{NETWORK}?type=bond")).data(), json!([]));
    let plan = client.get(&format!("{NETWORK}?plan=1")).data().to_string();
    assert!(plan.contains("lan: create bridge") && plan.contains("lan: add address 198.51.100.1/24"), "{plan}");

    refused(&client, &[("iface", "lan"), ("type", "bridge")], "iface", "interface already exists");
    refused(
        &client,
        &[("iface", "x1"), ("type", "bridge"), ("cidr", "203.0.113.5/24"), ("gateway", "203.0.113.1")],
        "gateway",
        "Default gateway already exists on interface 'vmbr0'.",
    );
    let reply = client.post(NETWORK, &[("iface", "bond7"), ("type", "bond"), ("slaves", "none9")]);
    assert_eq!(reply.status, 500);
    assert!(reply.text().contains("bond 'bond7' - unable to find slave 'none9'"), "{}", reply.text());

    let change = [("type", "bridge"), ("mtu", "1400"), ("cidr", "198.51.100.1/25"), ("delete", "comments")];
    assert_eq!(client.put(&format!("{NETWORK}/lan"), &change).status, 200);
    let shown = client.get(&format!("{NETWORK}/lan")).data();
    assert_eq!((&shown["mtu"], &shown["cidr"]), (&json!("1400"), &json!("198.51.100.1/25")), "{shown}");
    assert!(shown.get("comments").is_none() && shown.get("iface").is_none(), "{shown}");

    let printed = node.run("pvesh", &["get", NETWORK, "--type", "bridge", "--output-format", "json"]).ok();
    assert!(printed.contains("\"lan\""), "{printed}");
    node.run("pvesh", &["delete", &format!("{NETWORK}/lan")]).ok();
    assert_eq!(client.get(&format!("{NETWORK}/lan")).status, 400);
    assert_eq!(client.delete(NETWORK).status, 200);
    assert!(!waiting.exists());
    assert!(client.get(NETWORK).json().get("changes").is_none());
}

#[test]
fn bridges_are_seen_by_those_who_may_use_them() {
    let node = Node::start();
    let file = node.path("etc/network/interfaces");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, IN_FORCE).unwrap();
    node.user("joe@pve", "PVEAuditor");
    let token = node.token("joe@pve");
    let client = node.client().with_token(&token);
    assert!(client.get(NETWORK).text().contains("vmbr0"));
    node.run("pveum", &["acl", "delete", "/", "--users", "joe@pve", "--roles", "PVEAuditor"]).ok();
    assert!(!client.get(NETWORK).text().contains("vmbr0"));
    assert_eq!(client.post(NETWORK, &[("iface", "lan"), ("type", "bridge")]).status, 403);
    assert_eq!(client.get(&format!("{NETWORK}?plan=1")).status, 403);
}
