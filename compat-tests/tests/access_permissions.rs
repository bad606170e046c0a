//! The table, walked over HTTP: who has no rights is refused by every method that asks for some, before anything else
//! is looked at.

use compat_tests::Node;
use contract::{Check, Permission};

/// A value for each placeholder of a path. Nothing of it has to exist: rights are asked for first.
fn fill(template: &str) -> String {
    let mut path = template.to_owned();
    while let (Some(start), Some(end)) = (path.find('{'), path.find('}')) {
        let value = match &path[start + 1..end] {
            "node" => "pve1",
            "vmid" => "100",
            "userid" => "ann@pve",
            _ => "some",
        };
        path.replace_range(start..=end, value);
    }
    path
}

/// Whether the check's outcome can be said for somebody without rights who sends no parameters.
fn names_a_path(check: &Check) -> bool {
    match check {
        Check::And(parts) | Check::Or(parts) => parts.iter().any(names_a_path),
        Check::Perm { .. } | Check::PermModify { .. } | Check::UseridGroup { .. } => true,
        Check::UseridParam(_) => false,
    }
}

#[test]
fn every_method_with_a_permission_refuses_who_has_none() {
    let node = Node::start();
    node.user("ann@pve", "");
    node.user("joe@pve", "");
    let client = node.client().login("joe@pve", "secret-password");
    let mut asked = 0;
    for (verb, template) in contract::methods() {
        let method = contract::method(verb, template).expect("the table is whole");
        let detail = match &method.permissions {
            None => "user != root@pam",
            Some(Permission::Check(check)) if names_a_path(check) => "/",
            Some(Permission::Check(_)) => "",
            Some(_) => continue,
        };
        // `userid` may also be a parameter without a place in the path. Nonsense parameters come second to rights.
        let mut path = format!("{}?no-such-parameter=1", fill(template));
        if !template.contains("{userid}") && method.parameters.contains_key("userid") {
            path.push_str("&userid=ann@pve");
        }
        let reply = client.send(verb.name(), &format!("/api2/json{path}"), &[], b"");
        let expected = format!("Permission check failed ({detail}");
        assert_eq!(reply.status, 403, "{verb} {template}: {}", reply.reason);
        assert!(reply.reason.starts_with(&expected), "{verb} {template}: {}", reply.reason);
        asked += 1;
    }
    assert!(asked > 400, "{asked}");
}
