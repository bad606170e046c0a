//! Who is let through to which method, and the texts for those who are not.

use super::*;
use contract::Verb;
use serde_json::json;

const CONFIG: &str = "\
user:joe@pve:1\nuser:ann@pve:1\nuser:lead@pve:1\nuser:chief@pve:1\nuser:mod@pve:1\nuser:admin@pve:1\n\
token:joe@pve!full:0:0\ntoken:root@pam!full:0:0\n\
group:team:ann@pve\ngroup:other:\n\
acl:1:/access/groups/team:lead@pve:PVEUserAdmin\nacl:1:/access/realm/pve:lead@pve:PVEUserAdmin\n\
acl:1:/access:chief@pve:PVEUserAdmin\nacl:1:/vms/100:mod@pve:PVEVMAdmin\nacl:1:/:admin@pve:Administrator\n\
acl:1:/pool/p:mod@pve:PVEPoolAdmin\npool:p:::\n";

/// A node with the users above.
fn node() -> (tempfile::TempDir, Context) {
    let directory = tempfile::tempdir().unwrap();
    let ctx = Context::for_test(directory.path());
    std::fs::create_dir_all(directory.path().join("etc/pve")).unwrap();
    std::fs::write(ctx.root.etc_pve("user.cfg"), CONFIG).unwrap();
    (directory, ctx)
}

fn ask(ctx: &Context, caller: Option<&str>, verb: Verb, template: &str, params: Value) -> String {
    let method = contract::method(verb, template).unwrap_or_else(|| panic!("{verb} {template}"));
    match check_method(ctx, caller, method, params.as_object().unwrap()) {
        Ok(()) => "ok".into(),
        Err(error) => format!("{} {}", error.status(), error.message()),
    }
}

#[test]
fn everybody_gets_the_answer_that_is_due() {
    use Verb::{Delete, Get, Post, Put};
    let guest = "/nodes/{node}/qemu/{vmid}/status/current";
    let failed = |detail: &str| format!("403 Permission check failed ({detail})");
    let cases: Vec<(Option<&str>, Verb, &str, Value, String)> = vec![
        // Without login
        (None, Get, "/access/domains", json!({}), "ok".into()),
        (None, Get, "/version", json!({}), "401 No ticket".into()),
        (None, Get, guest, json!({"node": "n", "vmid": "100"}), "401 No ticket".into()),
        (Some(""), Get, "/version", json!({}), "401 No ticket".into()),
        // Everybody with a login
        (Some("joe@pve"), Get, "/version", json!({}), "ok".into()),
        // Root only
        (Some("admin@pve"), Post, "/cluster/config", json!({}), failed("user != root@pam")),
        (Some("root@pam"), Post, "/cluster/config", json!({}), "ok".into()),
        (Some("root@pam!full"), Post, "/cluster/config", json!({}), failed("user != root@pam")),
        // Privileges on a path
        (Some("joe@pve"), Get, guest, json!({"node": "n", "vmid": "100"}), failed("/vms/100, VM.Audit")),
        (Some("mod@pve"), Get, guest, json!({"node": "n", "vmid": "100"}), "ok".into()),
        (Some("mod@pve"), Get, guest, json!({"node": "n", "vmid": 101}), failed("/vms/101, VM.Audit")),
        (Some("mod@pve"), Get, guest, json!({"node": "n"}), failed("/vms/-, VM.Audit")),
        (Some("mod@pve"), Get, guest, json!({"node": "n", "vmid": "a b"}), failed(", VM.Audit")),
        (
            Some("joe@pve"),
            Get,
            "/access/groups/{groupid}",
            json!({"groupid": "team"}),
            failed("/access/groups, Sys.Audit|Group.Allocate"),
        ),
        // Tokens
        (
            Some("joe@pve!full"),
            Put,
            "/access/password",
            json!({"userid": "joe@pve"}),
            failed("URI '/access/password' not available with API token, need proper ticket.\n"),
        ),
        (Some("joe@pve!full"), Get, "/version", json!({}), "ok".into()),
        // Oneself
        (Some("joe@pve"), Put, "/access/password", json!({"userid": "joe@pve"}), "ok".into()),
        (
            Some("joe@pve"),
            Put,
            "/access/password",
            json!({"userid": "ann@pve"}),
            failed("/access/realm/pve, Realm.AllocateUser"),
        ),
        (Some("lead@pve"), Put, "/access/password", json!({"userid": "ann@pve"}), "ok".into()),
        (
            Some("lead@pve"),
            Put,
            "/access/password",
            json!({"userid": "joe@pve"}),
            failed("/access/groups, User.Modify"),
        ),
        (
            Some("lead@pve"),
            Put,
            "/access/password",
            json!({"userid": "gone@pve"}),
            "500 no such user ('gone@pve')".into(),
        ),
        (
            Some("joe@pve"),
            Get,
            "/access/users/{userid}/token",
            json!({"userid": "ann@pve"}),
            failed("/access/groups, User.Modify"),
        ),
        (Some("joe@pve"), Get, "/access/users/{userid}/token", json!({"userid": "joe@pve"}), "ok".into()),
        // Users by their groups
        (Some("lead@pve"), Get, "/access/users/{userid}", json!({"userid": "ann@pve"}), "ok".into()),
        (
            Some("lead@pve"),
            Get,
            "/access/users/{userid}",
            json!({"userid": "gone@pve"}),
            "500 no such user ('gone@pve')".into(),
        ),
        (
            Some("lead@pve"),
            Get,
            "/access/users/{userid}",
            json!({"userid": "x"}),
            "500 user name 'x' is too short".into(),
        ),
        (Some("lead@pve"), Post, "/access/users", json!({"userid": "new@pve"}), failed("/access/groups, User.Modify")),
        (Some("lead@pve"), Post, "/access/users", json!({"userid": "new@pve", "groups": "team"}), "ok".into()),
        (
            Some("lead@pve"),
            Post,
            "/access/users",
            json!({"userid": "new@pve", "groups": "team,other"}),
            failed("/access/groups/other, User.Modify"),
        ),
        (
            Some("lead@pve"),
            Post,
            "/access/users",
            json!({"userid": "new@pam", "groups": "team"}),
            failed("/access/realm/pam, Realm.AllocateUser"),
        ),
        (
            Some("lead@pve"),
            Put,
            "/access/users/{userid}",
            json!({"userid": "joe@pve", "groups": ["team"]}),
            failed("/access/groups, User.Modify"),
        ),
        (Some("chief@pve"), Delete, "/access/users/{userid}", json!({"userid": "joe@pve"}), "ok".into()),
        // The right to hand out rights
        (Some("mod@pve"), Put, "/access/acl", json!({"path": "/vms/100/"}), "ok".into()),
        (Some("mod@pve"), Put, "/access/acl", json!({"path": "/pool/p"}), "ok".into()),
        (
            Some("mod@pve"),
            Put,
            "/access/acl",
            json!({"path": "/vms/101"}),
            failed("/vms/101, Permissions.Modify|VM.Allocate"),
        ),
        (Some("mod@pve"), Put, "/access/acl", json!({"path": "/vms"}), failed("/vms, Permissions.Modify")),
        (Some("mod@pve"), Put, "/access/acl", json!({"path": "/a b"}), failed("/access, Permissions.Modify")),
        (Some("admin@pve"), Put, "/access/acl", json!({"path": "/a b"}), "ok".into()),
        // Alternatives: what is missing is named for each path
        (
            Some("joe@pve"),
            Get,
            "/cluster/mapping/pci/{id}",
            json!({"id": "gpu"}),
            failed("/mapping/pci/gpu, Mapping.Use|Mapping.Modify|Mapping.Audit"),
        ),
        (
            Some("joe@pve"),
            Get,
            "/nodes/{node}/disks/list",
            json!({"node": "n"}),
            failed("/, Sys.Audit or /nodes/n, Sys.Audit"),
        ),
        (
            Some("mod@pve"),
            Post,
            "/nodes/{node}/qemu/{vmid}/clone",
            json!({"node": "n", "vmid": "100", "newid": "101"}),
            failed("/vms/101, VM.Allocate"),
        ),
    ];
    let (_directory, ctx) = node();
    for (caller, verb, template, params, expected) in cases {
        let shown = format!("{caller:?} {verb} {template} {params}");
        assert_eq!(ask(&ctx, caller, verb, template, params), expected, "{shown}");
    }
}

/// Nobody without rights gets through to a method that asks for some, whatever it is called with.
#[test]
fn every_method_with_a_check_refuses_who_has_nothing() {
    let (_directory, ctx) = node();
    for (verb, template) in contract::methods() {
        let method = contract::method(verb, template).unwrap();
        let answer = ask(&ctx, Some("joe@pve"), verb, template, json!({"userid": "ann@pve", "groups": "team"}));
        let is_open = matches!(
            method.permissions,
            Some(Permission::World | Permission::AllUsers | Permission::AllUsersWithIdleCheck(_))
        );
        if is_open {
            assert_eq!(answer, "ok", "{verb} {template}");
        } else {
            assert!(answer.starts_with("403 Permission check failed ("), "{verb} {template}: {answer}");
        }
    }
}

#[test]
fn templates_are_filled_from_parameters() {
    let params = json!({"a": "x/y", "b": 0, "c": "", "d": null, "e": true});
    let filled = fill("/p/{a}/{b}/{c}/{d}/{e}/{f}/q", params.as_object().unwrap());
    assert_eq!(filled, "/p/x/y/-/-/-/1/-/q");
}
