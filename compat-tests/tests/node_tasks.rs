//! Tasks as clients follow them: lists, logs, states, the end by hand, and daemons that die meanwhile.
//!
//! The long task here starts guests one after the other with a pause of minutes in between.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node, wait_for};
use serde_json::{Value, json};
use std::fs;

/// A node with a guest whose start is followed by a long pause. The guest itself cannot start.
fn node() -> Node {
    let node = Node::start();
    fs::write(node.path("etc/pve/lxc/100.conf"), "lock: mounted\nonboot: 1\nstartup: order=1,up=600\n").unwrap();
    node
}

/// Begins the long task and waits until it pauses.
fn begin(client: &Client) -> String {
    let upid = client.post("/nodes/pve1/startall", &[]).data().as_str().unwrap().to_owned();
    wait_for("the pause", 20, || {
        let log = client.get(&format!("/nodes/pve1/tasks/{upid}/log")).text();
        log.contains("Waiting for 600 seconds").then_some(())
    });
    upid
}

fn status(client: &Client, upid: &str) -> Value {
    client.get(&format!("/nodes/pve1/tasks/{upid}/status")).data()
}

fn wait_for_end(client: &Client, upid: &str) -> String {
    wait_for("the end of the task", 20, || status(client, upid)["exitstatus"].as_str().map(str::to_owned))
}

fn pid(upid: &str) -> u32 {
    u32::from_str_radix(upid.split(':').nth(2).unwrap(), 16).unwrap()
}

#[test]
fn a_task_is_listed_followed_and_stopped() {
    let node = node();
    let client = node.admin();
    let upid = begin(&client);
    assert_eq!(upid.split(':').count(), 9);
    let running = status(&client, &upid);
    assert_eq!(
        (&running["status"], &running["type"], &running["id"]),
        (&json!("running"), &json!("startall"), &json!(""))
    );
    assert_eq!((&running["user"], running["tokenid"].is_string()), (&json!("admin@pve"), true));
    for name in ["pid", "pstart", "starttime"] {
        assert!(running[name].is_u64(), "{running}");
    }
    assert!(running.get("exitstatus").is_none());
    let list = |query: &str| client.get(&format!("/nodes/pve1/tasks?{query}")).json();
    assert_eq!(list("source=active")["data"][0]["upid"], json!(upid));
    assert_eq!(list("source=active")["data"][0]["status"], "RUNNING");
    assert_eq!(list("typefilter=startall")["data"], json!([]));
    let log = client.get(&format!("/nodes/pve1/tasks/{upid}/log?start=0&limit=1")).json();
    assert_eq!(log["data"][0], json!({ "n": 1, "t": "Starting CT 100" }));
    assert!(log["total"].as_u64().unwrap() > 1);
    assert_eq!(client.get("/cluster/tasks").data()[0]["upid"], json!(upid));

    // Somebody else neither reads nor stops it.
    node.user("nobody@pve", "");
    let stranger = node.client().with_token(&node.token("nobody@pve"));
    assert_eq!(stranger.get("/nodes/pve1/tasks?source=all").data(), json!([]));
    for path in ["status", "log"] {
        let refused = stranger.get(&format!("/nodes/pve1/tasks/{upid}/{path}"));
        assert_eq!(refused.status, 403, "{path}");
    }
    assert_eq!(stranger.delete(&format!("/nodes/pve1/tasks/{upid}")).status, 403);

    assert_eq!(client.delete(&format!("/nodes/pve1/tasks/{upid}")).data(), Value::Null);
    assert_eq!(wait_for_end(&client, &upid), "received interrupt");
    let errors = list("errors=1&typefilter=startall");
    assert_eq!((&errors["total"], &errors["data"][0]["upid"]), (&json!(1), &json!(upid)));
    assert!(errors["data"][0]["endtime"].is_u64());
    assert_eq!(list("statusfilter=ok&typefilter=startall")["data"], json!([]));
    assert_eq!(list("source=active")["data"], json!([]));
}

#[test]
fn daemons_that_are_killed_lose_no_task() {
    let mut node = node();
    let client = node.admin();
    let upid = begin(&client);
    node.kill_daemon();
    node.kill_proxy();
    node.start_daemon();
    node.start_proxy();
    let client = node.admin();
    assert_eq!(status(&client, &upid)["status"], "running");
    assert_eq!(client.get("/nodes/pve1/tasks?source=active").data()[0]["upid"], json!(upid));
    client.delete(&format!("/nodes/pve1/tasks/{upid}"));
    assert_eq!(wait_for_end(&client, &upid), "received interrupt");
}

#[test]
fn a_worker_that_is_killed_is_found() {
    let node = node();
    let client = node.admin();
    let upid = begin(&client);
    let killed = std::process::Command::new("kill").args(["-9", &pid(&upid).to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(wait_for_end(&client, &upid), "unexpected status");
    let row = client.get("/nodes/pve1/tasks?statusfilter=unknown").data()[0].clone();
    assert_eq!((&row["upid"], &row["status"]), (&json!(upid), &json!("unexpected status")));
}

#[test]
fn unknown_tasks_are_parameter_errors() {
    let node = Node::start();
    let client = node.admin();
    for (upid, text) in [
        ("nonsense", "unable to parse worker upid"),
        ("UPID:pve1:0000AB12:00C0FFEE:69A2B3C4:qmstart:100:admin@pve:", "no such task"),
    ] {
        let reply = client.get(&format!("/nodes/pve1/tasks/{upid}/status"));
        assert_eq!((reply.status, &reply.json()["errors"]["upid"]), (400, &json!(text)));
    }
}
