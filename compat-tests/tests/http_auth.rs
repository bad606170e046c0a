//! Who is believed: tickets, tokens, CSRF tokens, and how those who are not believed are answered.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node, Reply};
use std::thread;
use std::time::{Duration, Instant};

const VERSION: &str = "/api2/json/version";

/// Asks with headers; each refusal takes three seconds, so refusals run beside each other.
fn ask(
    client: Client,
    verb: &'static str,
    path: &str,
    headers: &[(&str, String)],
) -> thread::JoinHandle<(Reply, Duration)> {
    let headers: Vec<(String, String)> =
        headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    let path = path.to_owned();
    thread::spawn(move || {
        let began = Instant::now();
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        (client.send(verb, &path, &headers, b""), began.elapsed())
    })
}

#[test]
fn credentials() {
    let node = Node::start();
    node.seed_users();
    let (ticket, csrf) = (node.ticket("admin@pve", 10), node.csrf_token("admin@pve", 10));
    let cookie = |ticket: &str| ("Cookie", format!("PVEAuthCookie={ticket}"));
    let authorization = |text: String| ("Authorization", text);
    let encoded = ticket.replace(':', "%3A").replace('+', "%2B").replace('/', "%2F").replace('@', "%40");
    let token = node.seeded_token("admin@pve");
    for headers in [
        vec![cookie(&ticket)],
        vec![cookie(&encoded)],
        vec![("Cookie", format!("a=b; PVEAuthCookie={ticket}; c=d"))],
        vec![authorization(format!("PVEAuthCookie={ticket}"))],
        vec![authorization(format!("PVEAPIToken={token}"))],
        vec![authorization(format!("PVEAPIToken {token}"))],
        vec![cookie(&ticket), authorization("PVEAPIToken=nonsense".into())],
    ] {
        let (reply, _) = ask(node.client(), "GET", VERSION, &headers).join().unwrap();
        assert_eq!(reply.status, 200, "{headers:?} {}", reply.reason);
    }
    let refused = |verb, path, headers: Vec<(&str, String)>, reason: &'static str| {
        (ask(node.client(), verb, path, &headers), reason, format!("{headers:?}"))
    };
    let failed = "Authentication failed!";
    let no_csrf = "Permission denied - invalid csrf token";
    let config = "/api2/json/nodes/pve1/config";
    let mut other = ticket.clone();
    other.replace_range(4..5, "b");
    let asked = [
        refused("GET", VERSION, vec![], "No ticket"),
        refused("GET", "/api2/json/nope", vec![], "No ticket"),
        refused("GET", "/api2/extjs/version", vec![], "No ticket"),
        refused("GET", VERSION, vec![cookie(&other)], failed),
        refused("GET", VERSION, vec![cookie(&node.ticket("admin@pve", 2 * 3600 + 10))], failed),
        refused("GET", VERSION, vec![cookie(&node.ticket("gone@pve", 0))], failed),
        refused("GET", VERSION, vec![cookie(&node.ticket("unknown@pve", 0))], failed),
        refused("GET", VERSION, vec![cookie("x"), authorization(format!("PVEAPIToken={token}"))], failed),
        refused("GET", VERSION, vec![authorization(format!("PVEAPIToken={token}x"))], failed),
        refused("GET", VERSION, vec![authorization("PVEAPIToken=admin@pve!main".into())], failed),
        refused("PUT", config, vec![cookie(&ticket)], no_csrf),
        refused("PUT", config, vec![cookie(&ticket), ("CSRFPreventionToken", "x".into())], no_csrf),
        refused("PUT", config, vec![cookie(&ticket), ("CSRFPreventionToken", node.csrf_token("root@pam", 0))], no_csrf),
    ];
    for (asked, reason, what) in asked {
        let (reply, took) = asked.join().unwrap();
        assert_eq!((reply.status, reply.reason.as_str()), (401, reason), "{what}");
        assert_eq!((reply.text().as_str(), reply.header("connection")), ("", Some("close")), "{what}");
        assert!(took >= Duration::from_millis(2900), "{what} took {took:?}");
    }
    let headers = [cookie(&ticket), ("CSRFPreventionToken", csrf)];
    let (reply, _) = ask(node.client(), "PUT", &format!("{config}?nonsense=1"), &headers).join().unwrap();
    assert_eq!(reply.status, 400, "the right CSRF token is taken: {}", reply.reason);
    // Tokens need none.
    let reply = node.token_client("admin@pve").put("/nodes/pve1/config", &[("nonsense", "1")]);
    assert_eq!(reply.status, 400, "{}", reply.reason);
}

#[test]
fn a_user_who_is_locked_out_is_out_at_once() {
    let node = Node::start();
    node.seed_users();
    let token = node.token_client("auditor@pve");
    let ticket = node.ticket_client("auditor@pve");
    for _ in 0..3 {
        assert_eq!((token.get("/version").status, ticket.get("/version").status), (200, 200));
    }
    let file = node.path("etc/pve/user.cfg");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("user:auditor@pve:1:", "user:auditor@pve:0:")).unwrap();
    assert_eq!((token.get("/version").status, ticket.get("/version").status), (401, 401));
}

#[test]
fn the_access_log_names_users_and_hides_secrets() {
    let node = Node::start();
    node.seed_users();
    node.token_client("admin@pve").get("/version?password=geheim&x=1");
    let log = std::fs::read_to_string(node.path("var/log/pveproxy/access.log")).unwrap();
    let line = log.lines().last().unwrap();
    assert!(line.starts_with("127.0.0.1 - admin@pve!main ["), "{line}");
    assert!(line.contains("\"GET /api2/json/version?password=***&x=1 HTTP/1.1\" 400 "), "{line}");
}
