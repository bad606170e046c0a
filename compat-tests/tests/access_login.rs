//! Logging in over HTTP: tickets, their renewal, CSRF tokens, API tokens, and what all failures look like.

use compat_tests::{Client, Node};
use serde_json::Value;

fn log_in(client: &Client, user: &str, password: &str) -> Value {
    client.post("/access/ticket", &[("username", user), ("password", password)]).data()
}

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}"))
}

#[test]
fn a_ticket_opens_reads_and_a_csrf_token_writes() {
    let node = Node::start();
    node.user("joe@pve", "Administrator");
    let anonymous = node.client();
    let answer = log_in(&anonymous, "joe@pve", "secret-password");
    let (ticket, csrf) = (text(&answer, "ticket"), text(&answer, "CSRFPreventionToken"));
    let cookie = format!("PVEAuthCookie={ticket}");
    let encoded = cookie.replace(':', "%3A").replace('+', "%2B").replace('/', "%2F").replacen("=", "\0", 1);
    let encoded = encoded.replace('=', "%3D").replace('\0', "=");
    for header in [("Cookie", cookie.as_str()), ("Cookie", &encoded), ("Authorization", &cookie)] {
        let client = anonymous.clone().with_header(header.0, header.1);
        assert_eq!(client.get("/version").status, 200, "{header:?}");
        let refused = client.post("/access/groups", &[("groupid", "staff")]);
        assert_eq!((refused.status, refused.reason.as_str()), (401, "Permission denied - invalid csrf token"));
    }
    let client = anonymous.clone().with_header("Cookie", &cookie).with_header("CSRFPreventionToken", csrf);
    assert_eq!(client.post("/access/groups", &[("groupid", "staff")]).data(), Value::Null);
    // Renewal: the ticket in place of the password.
    let renewed = log_in(&anonymous, "joe@pve", ticket);
    assert_eq!(text(&renewed, "username"), "joe@pve");
    let changed = ticket.replace("joe", "ann");
    assert_eq!(
        anonymous.clone().with_header("Cookie", &format!("PVEAuthCookie={changed}")).get("/version").status,
        401
    );
}

#[test]
fn failures_are_told_apart_by_nobody() {
    let node = Node::start();
    node.user("joe@pve", "");
    let client = node.client();
    for (user, password) in
        [("joe@pve", "wrong"), ("gone@pve", "secret-password"), ("root@pam", "surely wrong"), ("x", "y")]
    {
        let reply = client.post("/access/ticket", &[("username", user), ("password", password)]);
        assert_eq!((reply.status, reply.reason.as_str()), (401, "authentication failure"), "{user}");
    }
    let nobody = client.get("/version");
    assert_eq!((nobody.status, nobody.reason.as_str()), (401, "No ticket"));
    // The reason stands in the daemon's log, in the form that fail2ban reads.
    let log = std::fs::read_to_string(node.path("pvedaemon.out")).unwrap();
    assert!(log.contains("authentication failure; rhost=127.0.0.1 user=joe@pve msg=invalid credentials"), "{log}");
    assert!(log.contains("rhost=127.0.0.1 user=root@pam msg="), "{log}");
    assert!(!log.contains("surely wrong") && !log.contains("secret-password"), "{log}");
}

#[test]
fn a_token_speaks_without_csrf_and_dies_with_its_user() {
    let node = Node::start();
    node.user("joe@pve", "PVEAdmin");
    let token = node.token("joe@pve");
    let client = node.client().with_token(&token);
    assert_eq!(client.post("/pools", &[("poolid", "mine")]).data(), Value::Null);
    let refused = client.put("/access/password", &[("userid", "joe@pve"), ("password", "another password")]);
    assert_eq!(refused.status, 403);
    assert!(refused.reason.contains("not available with API token"), "{}", refused.reason);
    let wrong = node.client().with_token(&format!("{token}x")).get("/version");
    assert_eq!((wrong.status, wrong.reason.as_str()), (401, "Authentication failed!"));
    node.run("pveum", &["user", "modify", "joe@pve", "--enable", "0"]).ok();
    assert_eq!(client.get("/version").status, 401);
    node.run("pveum", &["user", "modify", "joe@pve", "--enable", "1"]).ok();
    assert_eq!(client.get("/version").status, 200);
    node.run("pveum", &["user", "delete", "joe@pve"]).ok();
    assert_eq!(client.get("/version").status, 401);
}

#[test]
fn a_separate_token_has_what_both_have() {
    let node = Node::start();
    node.user("joe@pve", "PVEAuditor");
    let client = node.admin();
    let made = client.post("/access/users/joe@pve/token/small", &[]).data();
    let token = format!("joe@pve!small={}", text(&made, "value"));
    let small = node.client().with_token(&token);
    let refused = small.get("/pools/none");
    assert_eq!(refused.reason, "Permission check failed (/pool/none, Pool.Audit)");
    let grant = [("path", "/pool"), ("tokens", "joe@pve!small"), ("roles", "PVEPoolAdmin")];
    client.put("/access/acl", &grant).data();
    assert_eq!(small.get("/pools/none").reason, "pool 'none' does not exist");
    let refused = small.post("/pools", &[("poolid", "new")]);
    assert_eq!(refused.reason, "Permission check failed (/pool/new, Pool.Allocate)", "its user is only an auditor");
}
