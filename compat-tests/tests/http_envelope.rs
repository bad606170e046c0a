//! What every answer looks like on the wire: envelopes, headers, formats, reason phrases.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node};
use serde_json::json;
use std::time::Instant;

fn start() -> (Node, Client) {
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    (node, admin)
}

#[test]
fn answers_have_the_form_that_clients_compare() {
    let (node, admin) = start();

    let version = admin.get("/version");
    assert_eq!((version.status, version.reason.as_str()), (200, "OK"));
    assert_eq!(version.header("content-type"), Some("application/json;charset=UTF-8"));
    assert_eq!(version.header("server"), Some("pve-api-daemon/3.0"));
    assert_eq!(version.header("cache-control"), Some("max-age=0"));
    assert_eq!(version.header("pragma"), Some("no-cache"));
    assert_eq!(version.header("expires"), version.header("date"));
    assert!(version.data()["version"].is_string() && version.data()["repoid"].is_string());

    // Slashes do not count, escapes are resolved.
    for path in ["/api2/json//version/", "/api2/json/vers%69on", "/api2//json/version"] {
        assert_eq!(admin.send("GET", path, &[], b"").data(), version.data(), "{path}");
    }

    let unknown = admin.get("/nope");
    assert_eq!((unknown.status, unknown.reason.as_str()), (501, "Method 'GET /nope' not implemented"));
    assert_eq!(unknown.header("connection"), Some("close"));
    assert_eq!(unknown.json(), json!({"data": null, "message": "Method 'GET /nope' not implemented"}));

    let wrong = admin.get("/nodes/pve1/tasks?limit=x&nonsense=1");
    assert_eq!((wrong.status, wrong.reason.as_str()), (400, "Parameter verification failed."));
    assert_eq!(wrong.json()["message"], "Parameter verification failed.\n");
    assert_eq!(wrong.json()["errors"]["limit"], "type check ('integer') failed - got 'x'");
    assert_eq!(
        wrong.json()["errors"]["nonsense"],
        "property is not defined in schema and the schema does not allow additional properties"
    );

    // A caller without rights is refused before his parameters are looked at.
    let forbidden = node.token_client("nobody@pve").put("/nodes/pve1/config", &[("nonsense", "1")]);
    assert_eq!(forbidden.status, 403, "{}", forbidden.text());
    assert_eq!(forbidden.reason, "Permission check failed (/, Sys.Modify)");
    assert_eq!(forbidden.json()["message"], format!("{}\n", forbidden.reason));
}

#[test]
fn formats() {
    let (node, admin) = start();

    let extjs = admin.send("GET", "/api2/extjs/version", &[], b"");
    assert_eq!(extjs.status, 200);
    assert_eq!(extjs.json()["success"], 1);
    let extjs = admin.send("GET", "/api2/extjs/nope", &[], b"");
    assert_eq!((extjs.status, extjs.reason.as_str()), (200, "OK"));
    assert_eq!(extjs.header("connection"), None, "the connection stays");
    assert_eq!(extjs.json()["success"], 0);
    assert_eq!(extjs.json()["status"], 501);

    let html = admin.send("GET", "/api2/htmljs/version", &[], b"");
    assert_eq!(html.header("content-type"), Some("text/html;charset=UTF-8"));
    assert!(html.text().starts_with("{&quot;data&quot;:"), "{}", html.text());

    let page = admin.send("GET", "/api2/html/", &[], b"");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("href=\"/api2/html/nodes\""), "{}", page.text());
    let form = node.client().send("GET", "/api2/html/access/ticket", &[], b"");
    assert!(form.text().contains("<form method=\"POST\" action=\"/api2/html/access/ticket\">"), "{}", form.text());

    let began = Instant::now();
    let login = node.client().send("GET", "/api2/html/nodes", &[], b"");
    assert_eq!((login.status, login.reason.as_str()), (301, "Moved"));
    assert_eq!(login.header("location"), Some("/api2/html/access/ticket"));
    assert!(began.elapsed().as_secs() >= 2);

    let unknown = admin.send("GET", "/api2/xml/version", &[], b"");
    assert_eq!((unknown.status, unknown.reason.as_str()), (501, "no formatter for uri /version, xml"));
    let missing = admin.send("GET", "/api2/", &[], b"");
    assert_eq!((missing.status, missing.reason.as_str()), (501, "no such uri"));
}

#[test]
fn pages_besides_the_api() {
    let (node, _) = start();
    let index = node.client().send("GET", "/", &[], b"");
    assert_eq!((index.status, index.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(index.text().contains("<title>pve1 - Ferrovisor</title>"), "{}", index.text());
    let missing = node.client().send("GET", "/pve2/js/nope.js", &[], b"");
    assert_eq!((missing.status, missing.reason.as_str()), (500, "no such file '/pve2/js/nope.js'"));
    let document = node.client().send("GET", "/api2/openapi.json", &[], b"");
    assert!(document.json()["paths"].as_object().unwrap().len() > 400);
}

#[test]
fn long_answers_are_compressed_for_who_asks() {
    let (node, admin) = start();
    let page = "/api2/html/nodes/pve1";
    let plain = admin.send("GET", page, &[], b"");
    assert!(plain.body.len() > 1024, "{}", plain.text());
    assert_eq!(plain.header("content-encoding"), None);
    let gzip = admin.send("GET", page, &[("Accept-Encoding", "gzip, deflate")], b"");
    assert_eq!(gzip.header("content-encoding"), Some("gzip"));
    assert!(gzip.body.len() < plain.body.len() && gzip.body.starts_with(&[0x1f, 0x8b]));
    let short = admin.send("GET", "/api2/json/version", &[("Accept-Encoding", "gzip")], b"");
    assert_eq!(short.header("content-encoding"), None);
    let document = node.client().send("GET", "/api2/openapi.json", &[("Accept-Encoding", "gzip")], b"");
    assert_eq!(document.header("content-encoding"), Some("gzip"));
}

/// Each error has a text of its own; none of them stays in memory.
#[test]
fn reason_phrases_do_not_leak() {
    let (node, admin) = start();
    let one = |number: u32| {
        let text = format!("n{number}{}", "x".repeat(3900));
        let reply = admin.get(&format!("/{text}"));
        assert_eq!(reply.reason, format!("Method 'GET /{text}' not implemented"));
    };
    (0..50).for_each(one);
    let before = memory(node.proxy_pid()) + memory(node.daemon_pid());
    (50..200).for_each(one);
    let grown = (memory(node.proxy_pid()) + memory(node.daemon_pid())).saturating_sub(before);
    // 150 texts of 3,900 bytes would be 600 KiB in each of the two.
    assert!(grown < 400, "grown by {grown} KiB");
}

/// Private memory of a process in KiB.
fn memory(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn reason_phrases_hold_one_line_of_any_alphabet() {
    let (_node, admin) = start();
    let reply = admin.get("/%C3%A4%0d%0aX-Evil:%201");
    assert_eq!((reply.status, reply.reason.as_str(), reply.text().as_str()), (400, "Bad Request", ""));
    assert_eq!(reply.header("x-evil"), None);
    let reply = admin.get("/%C3%A4%0ax");
    assert_eq!((reply.status, reply.reason.as_str()), (501, "Method 'GET /ä"));
    assert_eq!(reply.json()["message"], "Method 'GET /ä\nx' not implemented");
}
