//! The methods as a client calls them: from the request through all checks to the answer.

use crate::{Clock, Context, Request, registry};
use contract::Verb;
use serde_json::{Value, json};

const NOW: i64 = 1_800_000_000;

struct Node {
    directory: tempfile::TempDir,
    ctx: Context,
}

impl Node {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context { clock: Clock::Fixed(NOW), ..Context::for_test(directory.path()) };
        super::super::keys::ensure_directories(&ctx).unwrap();
        Node { directory, ctx }
    }

    /// The answer's data, or `STATUS MESSAGE`, with refused parameters after it.
    fn call(&self, caller: &str, verb: Verb, path: &str, params: Value) -> Result<Value, String> {
        let params = params.as_object().unwrap().clone();
        let request = Request { verb, path: path.to_owned(), params };
        let caller = Some(caller).filter(|caller| !caller.is_empty());
        registry::dispatch(&self.ctx, caller, request).map(|reply| reply.data).map_err(|error| {
            let refused = error.parameter_errors().map(|errors| errors.to_string()).unwrap_or_default();
            let details: String = refused.lines().skip(1).map(|line| format!(" {line}")).collect();
            format!("{} {}{details}", error.status(), error.message())
        })
    }

    fn get(&self, caller: &str, path: &str, params: Value) -> Value {
        self.call(caller, Verb::Get, path, params).unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    /// Calls as root, who may do everything; the answer is null.
    fn root(&self, verb: Verb, path: &str, params: Value) {
        let answer = self.call("root@pam", verb, path, params).unwrap_or_else(|error| panic!("{verb} {path}: {error}"));
        assert_eq!(answer, Value::Null, "{verb} {path}");
    }

    fn fails(&self, caller: &str, verb: Verb, path: &str, params: Value) -> String {
        self.call(caller, verb, path, params).expect_err(path)
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join("etc/pve").join(name)).unwrap()
    }
}

use Verb::{Delete, Get, Post, Put};

#[test]
fn the_first_administrator_is_made_and_logs_in() {
    let node = Node::new();
    node.root(Post, "/access/users", json!({"userid": "admin@pve", "password": "first password"}));
    node.root(Put, "/access/acl", json!({"path": "/", "users": "admin@pve", "roles": "Administrator"}));
    let login = json!({"username": "admin@pve", "password": "first password"});
    let answer = node.call("", Post, "/access/ticket", login).unwrap();
    assert_eq!(answer["username"], "admin@pve");
    assert!(answer["ticket"].as_str().unwrap().starts_with("PVE:admin@pve:"));
    assert_eq!(answer["cap"]["vms"]["VM.Allocate"], 1);
    assert_eq!(answer["cap"]["dc"]["Sys.Audit"], 1);
    assert_eq!(answer["cap"]["access"]["Permissions.Modify"], 1);
    super::super::csrf::verify(&node.ctx, "admin@pve", answer["CSRFPreventionToken"].as_str().unwrap()).unwrap();
    // The ticket in place of the password; the realm apart.
    let renewal = json!({"username": "admin", "realm": "pve", "password": answer["ticket"]});
    assert_eq!(node.call("", Post, "/access/ticket", renewal).unwrap()["username"], "admin@pve");
    assert!(!node.file("priv/shadow.cfg").contains("first password"));
}

#[test]
fn all_failed_logins_look_alike() {
    let node = Node::new();
    for (name, enable) in [("joe@pve", 1), ("off@pve", 0), ("two@pve", 1)] {
        let user = json!({"userid": name, "password": "good password", "enable": enable});
        node.root(Post, "/access/users", user);
    }
    std::fs::write(node.ctx.root.etc_pve("priv/tfa.cfg"), r#"{"users":{"two@pve":{"totp":[{"id":"1"}]}}}"#).unwrap();
    let log_in = |name: &str, password: &str| {
        node.call("", Post, "/access/ticket", json!({"username": name, "password": password}))
    };
    let ticket = log_in("joe@pve", "good password").unwrap()["ticket"].as_str().unwrap().to_owned();
    for (name, password) in [
        ("joe@pve", "bad password"),
        ("joe@pve", ""),
        ("off@pve", "good password"),
        ("two@pve", "good password"),
        ("gone@pve", "good password"),
        ("joe@nowhere", "good password"),
        ("joe", "good password"),
        ("", "good password"),
        ("two@pve", &ticket),
        ("root@pam", &ticket),
        ("joe@pve", &format!("{ticket}x")),
    ] {
        assert_eq!(log_in(name, password).unwrap_err(), "401 authentication failure", "{name} {password}");
    }
    // Clients that always send 'otp' or ask for no rights log in; an answer to a question that we did not ask is none.
    for (extra, is_good) in [
        (json!({"otp": "123456"}), true),
        (json!({"path": "/vms/100", "privs": ""}), true),
        (json!({"tfa-challenge": "123456"}), false),
    ] {
        let mut params = json!({"username": "joe@pve", "password": "good password"});
        params.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert_eq!(node.call("", Post, "/access/ticket", params).is_ok(), is_good, "{extra}");
    }
}

#[test]
fn root_gets_tickets_of_others_and_rights_can_be_asked_for() {
    let node = Node::new();
    node.root(Post, "/access/users", json!({"userid": "joe@pve", "password": "good password"}));
    node.root(Put, "/access/acl", json!({"path": "/vms/100", "users": "joe@pve", "roles": "PVEAuditor"}));
    let root = super::super::ticket::assemble(&node.ctx, &"root@pam".parse().unwrap()).unwrap();
    let answer = node.call("", Post, "/access/ticket", json!({"username": "joe@pve", "password": root})).unwrap();
    assert!(answer["ticket"].as_str().unwrap().starts_with("PVE:joe@pve:"));
    let ask = |path: &str, privileges: &str, password: &str| {
        let params = json!({"username": "joe@pve", "password": password, "path": path, "privs": privileges});
        node.call("", Post, "/access/ticket", params).map(|answer| answer["ticket"].clone())
    };
    assert_eq!(ask("/vms/100", "VM.Audit", "good password"), Ok(Value::Null));
    for (path, privileges, password) in [
        ("/vms/100", "VM.Audit,VM.PowerMgmt", "good password"),
        ("/vms/101", "VM.Audit", "good password"),
        ("/vms/100", "VM.Audit", "bad password"),
        ("/vms/100", "VM.Audit", &root),
        ("/a b", "VM.Audit", "good password"),
    ] {
        assert_eq!(ask(path, privileges, password), Err("401 authentication failure".into()), "{path} {privileges}");
    }
}

#[test]
fn a_console_ticket_needs_rights_on_its_path() {
    let node = Node::new();
    node.root(Post, "/access/users", json!({"userid": "joe@pve"}));
    node.root(Put, "/access/acl", json!({"path": "/vms/100", "users": "joe@pve", "roles": "PVEVMUser"}));
    super::super::keys::ensure(&node.ctx).unwrap();
    let ticket = super::super::vnc_ticket::assemble(&node.ctx, "joe@pve", "/vms/100", 5900).unwrap();
    let ask = |path: &str, privileges: &str, port: u16| {
        let params = json!({"authid": "joe@pve", "vncticket": ticket, "path": path, "privs": privileges, "port": port});
        node.call("", Post, "/access/vncticket", params)
    };
    assert_eq!(ask("/vms/100", "VM.Console", 5900), Ok(Value::Null));
    for (path, privileges, port) in
        [("/vms/100", "VM.Allocate", 5900), ("/vms/101", "VM.Console", 5900), ("/vms/100", "VM.Console", 5901)]
    {
        assert_eq!(ask(path, privileges, port), Err("401 authentication failure".into()), "{path} {privileges}");
    }
}

#[test]
fn users_live_and_leave_nothing_behind() {
    let node = Node::new();
    node.root(Post, "/access/groups", json!({"groupid": "staff", "comment": "The staff"}));
    node.root(
        Post,
        "/access/users",
        json!({"userid": "joe@pve", "password": "good password", "groups": "staff", "comment": "a:b", "expire": 5}),
    );
    let error = node.fails("root@pam", Post, "/access/users", json!({"userid": "joe@pve"}));
    assert_eq!(error, "500 create user failed: user 'joe@pve' already exists");
    let error = node.fails("root@pam", Post, "/access/users", json!({"userid": "new@pve", "groups": "none"}));
    assert_eq!(error, "500 create user failed: no such group 'none'");
    let error = node.fails("root@pam", Post, "/access/users", json!({"userid": "new@x1", "password": "12345678"}));
    assert_eq!(error, "500 create user failed: auth domain 'x1' does not exist");
    assert!(!node.file("user.cfg").contains("new@"));
    let shown = node.get("root@pam", "/access/users/joe@pve", json!({}));
    assert_eq!(shown, json!({"enable": 1, "expire": 5, "comment": "a:b", "groups": ["staff"], "tokens": null}));
    node.root(
        Put,
        "/access/users/joe@pve",
        json!({"enable": "0", "expire": 0, "email": "j@example.org", "groups": ""}),
    );
    let shown = node.get("root@pam", "/access/users/joe@pve", json!({}));
    assert_eq!((&shown["enable"], &shown["groups"], &shown["email"]), (&json!(0), &json!([]), &json!("j@example.org")));
    node.root(Put, "/access/users/joe@pve", json!({"groups": "staff", "append": 1}));
    let made = node.call("root@pam", Post, "/access/users/joe@pve/token/mon", json!({"comment": "x"})).unwrap();
    assert_eq!(made["full-tokenid"], "joe@pve!mon");
    assert_eq!(made["info"], json!({"privsep": 1, "comment": "x"}));
    node.root(
        Put,
        "/access/acl",
        json!({"path": "/", "users": "joe@pve", "tokens": "joe@pve!mon", "roles": "PVEAdmin"}),
    );
    let list = node.get("root@pam", "/access/users", json!({"full": 1, "enabled": 0}));
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(list[0]["groups"], "staff");
    assert_eq!(list[0]["realm-type"], "pve");
    assert_eq!(list[0]["tokens"], json!([{"tokenid": "mon", "expire": 0, "privsep": 1, "comment": "x"}]));
    node.root(Delete, "/access/users/joe@pve", json!({}));
    for name in ["user.cfg", "priv/shadow.cfg", "priv/token.cfg"] {
        assert!(!node.file(name).contains("joe"), "{name}");
    }
    assert_eq!(node.fails("root@pam", Get, "/access/users/joe@pve", json!({})), "500 no such user ('joe@pve')");
    node.root(Delete, "/access/users/joe@pve", json!({}));
}

#[test]
fn tokens_tell_their_secret_once_and_can_be_renewed() {
    let node = Node::new();
    node.root(Post, "/access/users", json!({"userid": "joe@pve"}));
    let path = "/access/users/joe@pve/token/mon";
    let made = node.call("joe@pve", Post, path, json!({"privsep": 0, "expire": 0})).unwrap();
    assert_eq!(made["info"], json!({"privsep": 0, "expire": 0}));
    let secret = made["value"].as_str().unwrap().to_owned();
    let verify = |secret: &str| super::super::token::verify(&node.ctx, &format!("joe@pve!mon={secret}"));
    assert_eq!(verify(&secret).unwrap(), "joe@pve!mon");
    let error = node.fails("joe@pve", Post, path, json!({}));
    assert_eq!(error, "400 Parameter verification failed. tokenid: Token already exists.");
    for (verb, path) in [(Get, path), (Get, "/access/users/joe@pve/token")] {
        let shown = node.call("joe@pve", verb, path, json!({})).unwrap().to_string();
        assert!(!shown.contains(&secret), "{path}");
    }
    let changed = node.call("joe@pve", Put, path, json!({"comment": "new", "privsep": 1, "regenerate": 1})).unwrap();
    assert_eq!((&changed["comment"], &changed["privsep"]), (&json!("new"), &json!(1)));
    assert!(verify(&secret).is_err());
    assert!(verify(changed["value"].as_str().unwrap()).is_ok());
    let changed = node.call("joe@pve", Put, path, json!({"delete": "comment"})).unwrap();
    assert_eq!(changed, json!({"expire": 0, "privsep": 1}));
    let error = node.fails("joe@pve", Put, path, json!({"delete": "expire"}));
    assert_eq!(error, "400 Parameter verification failed. delete: unknown option 'expire'");
    assert_eq!(node.call("joe@pve", Delete, path, json!({})), Ok(Value::Null));
    assert_eq!(node.fails("joe@pve", Get, path, json!({})), "500 no such token 'mon' for user 'joe@pve'");
}

#[test]
fn groups_and_roles_are_made_changed_and_removed_with_their_entries() {
    let node = Node::new();
    node.root(Post, "/access/groups", json!({"groupid": "staff"}));
    node.root(Post, "/access/roles", json!({"roleid": "Own", "privs": "VM.Audit"}));
    node.root(Put, "/access/roles/Own", json!({"privs": "VM.PowerMgmt", "append": 1}));
    assert_eq!(node.get("root@pam", "/access/roles/Own", json!({})), json!({"VM.Audit": 1, "VM.PowerMgmt": 1}));
    node.root(Put, "/access/acl", json!({"path": "/vms", "groups": "staff", "roles": "Own", "propagate": 0}));
    let entry = json!({"path": "/vms", "type": "group", "ugid": "staff", "roleid": "Own", "propagate": 0});
    assert_eq!(node.get("root@pam", "/access/acl", json!({})), json!([entry]));
    let roles = node.get("root@pam", "/access/roles", json!({}));
    let own = roles.as_array().unwrap().iter().find(|role| role["roleid"] == "Own").unwrap();
    assert_eq!(own, &json!({"roleid": "Own", "privs": "VM.Audit,VM.PowerMgmt", "special": 0}));
    assert_eq!(roles.as_array().unwrap().len(), 18);
    let texts = [
        (Post, "/access/groups", json!({"groupid": "staff"}), "create group failed: group 'staff' already exists"),
        (Get, "/access/groups/none", json!({}), "group 'none' does not exist"),
        (Put, "/access/groups/none", json!({}), "update group failed: group 'none' does not exist"),
        (Delete, "/access/groups/none", json!({}), "delete group failed: group 'none' does not exist"),
        (Post, "/access/roles", json!({"roleid": "Own"}), "create role failed: role 'Own' already exists"),
        (Post, "/access/roles", json!({"roleid": "NoAccess"}), "create role failed: role 'NoAccess' already exists"),
        (Get, "/access/roles/None", json!({}), "role 'None' does not exist"),
        (Put, "/access/roles/PVEAdmin", json!({}), "auto-generated role 'PVEAdmin' cannot be modified"),
        (Delete, "/access/roles/PVEAdmin", json!({}), "auto-generated role 'PVEAdmin' cannot be deleted"),
        (Delete, "/access/roles/None", json!({}), "delete role failed: role 'None' does not exist"),
        (
            Put,
            "/access/acl",
            json!({"path": "/", "groups": "none", "roles": "Own"}),
            "ACL update failed: group 'none' does not exist",
        ),
        (
            Put,
            "/access/acl",
            json!({"path": "/", "users": "none@pve", "roles": "Own"}),
            "ACL update failed: user 'none@pve' does not exist",
        ),
        (
            Put,
            "/access/acl",
            json!({"path": "/", "groups": "staff", "roles": "None"}),
            "ACL update failed: role 'None' does not exist",
        ),
    ];
    for (verb, path, params, text) in texts {
        assert_eq!(node.fails("root@pam", verb, path, params), format!("500 {text}"), "{verb} {path}");
    }
    let error = node.fails("root@pam", Post, "/access/roles", json!({"roleid": "pveMine"}));
    assert!(
        error.starts_with("400 Parameter verification failed. roleid: cannot use role ID starting with"),
        "{error}"
    );
    let error = node.fails("root@pam", Put, "/access/acl", json!({"path": "/x", "groups": "staff", "roles": "Own"}));
    assert_eq!(error, "400 Parameter verification failed. path: invalid ACL path '/x'");
    node.root(Delete, "/access/roles/Own", json!({}));
    assert_eq!(node.get("root@pam", "/access/acl", json!({})), json!([]));
    node.root(Delete, "/access/groups/staff", json!({}));
    assert_eq!(node.file("user.cfg"), "user:root@pam:1:0::::::\n\n\n\n\n");
}

#[test]
fn everybody_sees_what_is_theirs() {
    let node = Node::new();
    let config = "user:joe@pve:1:0:\nuser:ann@pve:1:0:\nuser:aud@pve:1:0:\ngroup:staff:ann@pve:\ngroup:other::\n\
                  pool:a::100:\npool:b:::\nacl:1:/access/groups/staff:joe@pve:PVEUserAdmin:\n\
                  acl:1:/vms/100:joe@pve:PVEVMAdmin:\nacl:1:/pool/a:joe@pve:PVEPoolUser:\nacl:1:/:aud@pve:PVEAuditor:\n";
    std::fs::write(node.ctx.root.etc_pve("user.cfg"), config).unwrap();
    let names = |caller: &str, path: &str, key: &str| -> Vec<String> {
        let list = node.get(caller, path, json!({}));
        list.as_array().unwrap().iter().map(|row| row[key].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("joe@pve", "/access/users", "userid"), ["ann@pve", "joe@pve"]);
    assert_eq!(names("ann@pve", "/access/users", "userid"), ["ann@pve"]);
    assert_eq!(names("aud@pve", "/access/users", "userid").len(), 4);
    assert_eq!(names("joe@pve", "/access/groups", "groupid"), ["staff"]);
    assert_eq!(names("joe@pve", "/pools", "poolid"), ["a"]);
    assert_eq!(names("joe@pve", "/access/acl", "path"), ["/vms/100"]);
    assert_eq!(names("aud@pve", "/access/acl", "path").len(), 4);
    let permissions = node.get("joe@pve", "/access/permissions", json!({}));
    assert_eq!(permissions["/pool/a"], json!({"Pool.Audit": 1}));
    assert_eq!(permissions["/vms/100"]["Pool.Audit"], 0, "by the pool, without propagation");
    assert!(permissions.get("/").is_none());
    assert_eq!(node.get("joe@pve", "/access/permissions", json!({"path": "/"})), json!({"/": {}}));
    let error = node.fails("joe@pve", Get, "/access/permissions", json!({"userid": "ann@pve"}));
    assert_eq!(error, "403 Permission check failed (/access, Sys.Audit)");
    assert!(node.get("aud@pve", "/access/permissions", json!({"userid": "joe@pve"})).get("/vms/100").is_some());
    assert_eq!(node.get("root@pam", "/access/permissions", json!({"path": "/"}))["/"].as_object().unwrap().len(), 47);
}

#[test]
fn who_hands_on_rights_hands_on_no_more_than_there_are() {
    let node = Node::new();
    let config = "user:joe@pve:1:0:\nuser:ann@pve:1:0:\nrole:Two:VM.Allocate,VM.Audit:\nrole:Sys:Sys.Audit:\n\
                  acl:1:/vms/100:joe@pve:Two:\nacl:0:/vms/101:joe@pve:Two:\n";
    std::fs::write(node.ctx.root.etc_pve("user.cfg"), config).unwrap();
    let give = |path: &str, role: &str, propagate: u8, delete: u8| {
        let params = json!({
            "path": path, "users": "ann@pve", "roles": role, "propagate": propagate, "delete": delete
        });
        node.call("joe@pve", Put, "/access/acl", params)
    };
    let refused = |text: &str| Err(format!("400 Parameter verification failed. role: {text}"));
    assert_eq!(give("/vms/100", "Two", 1, 0), Ok(Value::Null));
    assert_eq!(give("/vms/101", "Two", 0, 0), Ok(Value::Null));
    assert_eq!(
        give("/vms/101", "Two", 1, 0),
        refused(
            "Cannot add role 'Two' with propagation - requires 'Permissions.Modify' or propagated superset of privileges."
        )
    );
    assert_eq!(give("/vms/101", "Two", 1, 1), Ok(Value::Null));
    assert_eq!(
        give("/vms/100", "Sys", 0, 0),
        refused("Cannot add role 'Sys' - requires 'Permissions.Modify' or superset of privileges.")
    );
    assert_eq!(
        give("/vms/100", "NoAccess", 0, 1),
        refused("Cannot remove role 'NoAccess' - requires 'Permissions.Modify'")
    );
}

#[test]
fn passwords_are_changed_by_those_who_may() {
    let node = Node::new();
    for name in ["joe@pve", "ann@pve", "mod@pve"] {
        node.root(Post, "/access/users", json!({"userid": name, "password": "first password"}));
    }
    node.root(Put, "/access/acl", json!({"path": "/access", "users": "mod@pve", "roles": "PVEUserAdmin"}));
    let set = |caller: &str, user: &str, confirmation: Option<&str>| {
        let mut params = json!({"userid": user, "password": "second password"});
        if let Some(text) = confirmation {
            params["confirmation-password"] = json!(text);
        }
        node.call(caller, Put, "/access/password", params)
    };
    assert!(set("joe@pve", "joe@pve", None).unwrap_err().ends_with("password is required to modify user"));
    assert_eq!(set("joe@pve", "joe@pve", Some("wrong password")), Err("500 invalid credentials".into()));
    assert_eq!(set("joe@pve", "joe@pve", Some("first password")), Ok(Value::Null));
    assert_eq!(set("mod@pve", "ann@pve", Some("first password")), Ok(Value::Null));
    assert_eq!(set("root@pam", "mod@pve", None), Ok(Value::Null));
    assert_eq!(set("mod@pve", "root@pam", Some("second password")), Err("403 Permission check failed".into()));
    assert!(set("joe@pve", "ann@pve", Some("second password")).unwrap_err().starts_with("403 "));
    for name in ["joe@pve", "ann@pve", "mod@pve"] {
        let login = json!({"username": name, "password": "second password"});
        assert!(node.call("", Post, "/access/ticket", login).is_ok(), "{name}");
    }
}

#[test]
fn realms_are_listed_for_everybody_and_changed_by_administrators() {
    let node = Node::new();
    let list = node.call("", Get, "/access/domains", json!({})).unwrap();
    let names: Vec<&str> = list.as_array().unwrap().iter().map(|row| row["realm"].as_str().unwrap()).collect();
    assert_eq!(names, ["pam", "pve"]);
    node.root(Put, "/access/domains/pve", json!({"comment": "Ours", "default": 1}));
    let shown = node.get("root@pam", "/access/domains/pve", json!({}));
    assert_eq!((&shown["comment"], &shown["default"], &shown["type"]), (&json!("Ours"), &json!(1), &json!("pve")));
    let stale = json!({"comment": "x", "digest": "0".repeat(40)});
    let error = node.fails("root@pam", Put, "/access/domains/pve", stale);
    assert!(error.starts_with("500 update auth server failed: detected modified configuration"), "{error}");
    let error = node.fails("root@pam", Put, "/access/domains/pve", json!({}));
    assert_eq!(error, "500 update auth server failed: no options specified");
    let error = node.fails(
        "root@pam",
        Post,
        "/access/domains",
        json!({"realm": "corp", "type": "ldap", "server1": "h", "base_dn": "cn=x", "user_attr": "uid"}),
    );
    assert_eq!(error, "501 add auth server failed: realms of type 'ldap' are not supported");
    assert_eq!(node.fails("root@pam", Get, "/access/domains/corp", json!({})), "500 domain 'corp' does not exist");
    node.root(Delete, "/access/domains/pve", json!({}));
    assert_eq!(node.call("", Get, "/access/domains", json!({})).unwrap().as_array().unwrap().len(), 2);
}

#[test]
fn pools_hold_guests_and_storages() {
    let node = Node::new();
    let guests = node.directory.path().join("etc/pve/nodes/pve1/qemu-server");
    std::fs::create_dir_all(&guests).unwrap();
    std::fs::write(guests.join("100.conf"), "name: web\ncores: 1\nmemory: 512\n").unwrap();
    node.root(Post, "/pools", json!({"poolid": "prod", "comment": "P"}));
    node.root(Post, "/pools", json!({"poolid": "prod/web"}));
    node.root(Put, "/pools", json!({"poolid": "prod/web", "vms": "100,101", "storage": "local"}));
    let shown = node.get("root@pam", "/pools", json!({"poolid": "prod/web"}));
    assert_eq!(shown.as_array().unwrap().len(), 1);
    let members = shown[0]["members"].as_array().unwrap();
    let ids: Vec<&str> = members.iter().map(|member| member["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["qemu/100", "storage/pve1/local"]);
    assert_eq!((&members[0]["vmid"], &members[0]["name"]), (&json!(100), &json!("web")));
    let only = node.get("root@pam", "/pools", json!({"poolid": "prod/web", "type": "storage"}));
    assert_eq!(only[0]["members"].as_array().unwrap().len(), 1);
    assert_eq!(
        node.get("root@pam", "/pools/prod", json!({})),
        json!({"poolid": "prod", "comment": "P", "members": []})
    );
    let texts = [
        (Get, json!({"poolid": "none"}), "pool 'none' does not exist"),
        (Post, json!({"poolid": "prod"}), "create pool failed: pool 'prod' already exists"),
        (Post, json!({"poolid": "x/y"}), "create pool failed: parent 'x' of pool 'x/y' does not exist"),
        (Post, json!({"poolid": "1x"}), "create pool failed: pool name must start with a letter"),
        (Put, json!({"poolid": "none"}), "update pools failed: pool 'none' does not exist"),
        (
            Put,
            json!({"poolid": "prod", "vms": "100"}),
            "update pools failed: VM 100 belongs already to pool 'prod/web' and 'allow-move' is not set",
        ),
        (Put, json!({"poolid": "prod/web", "vms": "100"}), "update pools failed: VM 100 is already a pool member"),
        (Put, json!({"poolid": "prod", "vms": "100", "delete": 1}), "update pools failed: VM 100 is not a pool member"),
        (
            Put,
            json!({"poolid": "prod", "storage": "local", "delete": 1}),
            "update pools failed: Storage 'local' is not a pool member",
        ),
        (Delete, json!({"poolid": "none"}), "delete pool failed: pool 'none' does not exist"),
        (Delete, json!({"poolid": "prod"}), "delete pool failed: pool 'prod' is not empty (contains pool 'prod/web')"),
        (Delete, json!({"poolid": "prod/web"}), "delete pool failed: pool 'prod/web' is not empty (contains VM 100)"),
    ];
    for (verb, params, text) in texts {
        assert_eq!(node.fails("root@pam", verb, "/pools", params), format!("500 {text}"));
    }
    node.root(Put, "/pools/prod", json!({"vms": "100", "allow-move": 1}));
    node.root(Put, "/pools", json!({"poolid": "prod/web", "storage": "local", "delete": 1}));
    // 101 does not exist and keeps nobody from removing the pool.
    node.root(Delete, "/pools", json!({"poolid": "prod/web"}));
    node.root(Put, "/pools", json!({"poolid": "prod", "vms": "100", "delete": 1, "comment": ""}));
    node.root(Delete, "/pools/prod", json!({}));
    assert!(!node.file("user.cfg").contains("pool:"));
}

#[test]
fn members_of_pools_need_the_right_to_change_their_entries() {
    let node = Node::new();
    let config = "user:joe@pve:1:0:\npool:a::100:\npool:b:::\nacl:1:/pool/b:joe@pve:PVEPoolAdmin:\n\
                  acl:1:/vms/100:joe@pve:PVEVMAdmin:\n";
    std::fs::write(node.ctx.root.etc_pve("user.cfg"), config).unwrap();
    let change = |params: Value| node.call("joe@pve", Put, "/pools", params).unwrap_err();
    assert_eq!(
        change(json!({"poolid": "b", "vms": "101"})),
        "403 update pools failed: Permission check failed (/vms/101, Permissions.Modify|VM.Allocate)"
    );
    assert_eq!(
        change(json!({"poolid": "b", "vms": "100", "allow-move": 1})),
        "403 update pools failed: Permission check failed (/pool/a, Pool.Allocate)"
    );
    assert_eq!(
        change(json!({"poolid": "b", "storage": "local"})),
        "403 update pools failed: Permission check failed (/storage/local, Permissions.Modify|Datastore.Allocate)"
    );
    assert_eq!(
        node.fails("joe@pve", Get, "/pools", json!({"poolid": "a"})),
        "403 Permission check failed (/pool/a, Pool.Audit)"
    );
}
