//! The walk along the access tree, case by case.

use super::*;

/// The names of the privileges that somebody holds on a path, those that propagate marked with `*`.
fn walk(config: &str, caller: &str, path: &str) -> String {
    let rights = rights(&UserConfig::parse(config), caller, path);
    let mark = |privilege| if rights.propagated.contains(privilege) { "*" } else { "" };
    rights.held.iter().map(|privilege| format!("{privilege}{}", mark(privilege))).collect::<Vec<_>>().join(" ")
}

/// Users joe and ann, group staff with joe, group guests with joe and ann; roles of one privilege each; two tokens.
const PEOPLE: &str = "\
user:joe@pve:1\nuser:ann@pve:1\ngroup:staff:joe@pve\ngroup:guests:joe@pve,ann@pve\n\
token:joe@pve!sep:0:1\ntoken:joe@pve!full:0:0\ntoken:root@pam!sep:0:1\ntoken:root@pam!full:0:0\n\
role:R:VM.Audit\nrole:W:VM.PowerMgmt\nrole:C:VM.Clone\nrole:Empty:\n";

#[test]
fn scenarios() {
    let cases: &[(&str, &[&str], &str, &str, &str)] = &[
        ("nothing given", &[], "joe@pve", "/vms/100", ""),
        ("given here", &["1:/vms/100:joe@pve:R"], "joe@pve", "/vms/100", "VM.Audit*"),
        ("given to somebody else", &["1:/vms/100:ann@pve:R"], "joe@pve", "/vms/100", ""),
        ("given above", &["1:/:joe@pve:R"], "joe@pve", "/vms/100", "VM.Audit*"),
        ("given above without propagation", &["0:/:joe@pve:R"], "joe@pve", "/vms/100", ""),
        ("without propagation on the path itself", &["0:/vms/100:joe@pve:R"], "joe@pve", "/vms/100", "VM.Audit"),
        ("on the root itself", &["0:/:joe@pve:R"], "joe@pve", "/", "VM.Audit"),
        ("given below", &["1:/vms/100:joe@pve:R"], "joe@pve", "/vms", ""),
        ("given beside", &["1:/vms/1000:joe@pve:R"], "joe@pve", "/vms/100", ""),
        ("the lower level replaces", &["1:/:joe@pve:R", "1:/vms:joe@pve:W"], "joe@pve", "/vms/100", "VM.PowerMgmt*"),
        (
            "a lower level that does not count replaces nothing",
            &["1:/:joe@pve:R", "0:/vms:joe@pve:W"],
            "joe@pve",
            "/vms/100",
            "VM.Audit*",
        ),
        ("two roles on one level add up", &["1:/vms:joe@pve:R,W"], "joe@pve", "/vms/100", "VM.Audit* VM.PowerMgmt*"),
        (
            "propagation is a role's own",
            &["1:/vms:joe@pve:R", "0:/vms:joe@pve:W"],
            "joe@pve",
            "/vms",
            "VM.Audit* VM.PowerMgmt",
        ),
        ("by group", &["1:/vms:@staff:R"], "joe@pve", "/vms/100", "VM.Audit*"),
        ("by a group of others", &["1:/vms:@staff:R"], "ann@pve", "/vms/100", ""),
        (
            "groups on one level add up",
            &["1:/vms:@staff:R", "1:/vms:@guests:W"],
            "joe@pve",
            "/vms/100",
            "VM.Audit* VM.PowerMgmt*",
        ),
        ("the user comes before groups", &["1:/vms:@staff:R", "1:/vms:joe@pve:W"], "joe@pve", "/vms", "VM.PowerMgmt*"),
        (
            "but only if the user's entry counts",
            &["1:/vms:@staff:R", "0:/vms:joe@pve:W"],
            "joe@pve",
            "/vms/100",
            "VM.Audit*",
        ),
        (
            "a group below replaces the user above",
            &["1:/:joe@pve:W", "1:/vms:@staff:R"],
            "joe@pve",
            "/vms/100",
            "VM.Audit*",
        ),
        ("an empty role replaces, too", &["1:/:joe@pve:R", "1:/vms:joe@pve:Empty"], "joe@pve", "/vms/100", ""),
        ("no access takes all", &["1:/:joe@pve:R", "1:/vms:joe@pve:R,NoAccess"], "joe@pve", "/vms/100", ""),
        (
            "no access of one group takes what another gives",
            &["1:/vms:@staff:R", "1:/vms:@guests:NoAccess"],
            "joe@pve",
            "/vms/100",
            "",
        ),
        (
            "a level below no access starts anew",
            &["1:/:joe@pve:NoAccess", "1:/vms:joe@pve:R"],
            "joe@pve",
            "/vms/100",
            "VM.Audit*",
        ),
        ("no access above holds below", &["1:/vms:joe@pve:NoAccess"], "joe@pve", "/vms/100", ""),
        ("somebody unknown", &["1:/:gone@pve:R"], "gone@pve", "/", "VM.Audit*"),
        ("nonsense", &["1:/:joe@pve:R"], "joe", "/", ""),
        // Tokens
        ("a token without rights of its own", &["1:/vms:joe@pve:R"], "joe@pve!sep", "/vms/100", ""),
        ("a full token has its user's", &["1:/vms:joe@pve:R"], "joe@pve!full", "/vms/100", "VM.Audit*"),
        (
            "both must have it",
            &["1:/vms:joe@pve:R,W", "1:/vms:joe@pve!sep:W,C"],
            "joe@pve!sep",
            "/vms/100",
            "VM.PowerMgmt*",
        ),
        (
            "propagation is of both",
            &["0:/vms/100:joe@pve:R", "1:/vms:joe@pve!sep:R"],
            "joe@pve!sep",
            "/vms/100",
            "VM.Audit",
        ),
        ("a token's entry gives its user nothing", &["1:/vms:joe@pve!sep:R"], "joe@pve", "/vms/100", ""),
        ("a token is in no group", &["1:/vms:@staff:R", "1:/:joe@pve!sep:R"], "joe@pve!sep", "/vms/1", "VM.Audit*"),
        ("an unknown token", &["1:/:joe@pve:R"], "joe@pve!none", "/", ""),
        ("a separate token of root", &["1:/vms:root@pam!sep:R"], "root@pam!sep", "/vms/100", "VM.Audit*"),
        ("a separate token of root without entries", &[], "root@pam!sep", "/vms/100", ""),
        ("no access of a token", &["1:/:joe@pve:R", "1:/:joe@pve!sep:NoAccess,R"], "joe@pve!sep", "/", ""),
    ];
    for (name, entries, caller, path, expected) in cases {
        let entries: String = entries.iter().map(|entry| format!("acl:{entry}\n")).collect();
        assert_eq!(walk(&format!("{PEOPLE}{entries}"), caller, path), *expected, "{name}");
    }
}

#[test]
fn pools_give_their_members_roles_without_propagation() {
    let pools = "pool:p::100:store\npool:p/q::101:store\npool:z::102:\n";
    let cases: &[(&str, &[&str], &str, &str, &str)] = &[
        ("guest in a pool", &["1:/pool/p:joe@pve:R"], "joe@pve", "/vms/100", "VM.Audit"),
        ("storage in a pool", &["1:/pool/p:joe@pve:R"], "joe@pve", "/storage/store", "VM.Audit"),
        ("all pools", &["1:/pool:joe@pve:R"], "joe@pve", "/vms/102", "VM.Audit"),
        ("nested pool", &["1:/pool/p:joe@pve:R"], "joe@pve", "/vms/101", "VM.Audit"),
        ("not of the inner pool upwards", &["1:/pool/p/q:joe@pve:R"], "joe@pve", "/vms/100", ""),
        ("not of the outer pool without propagation", &["0:/pool/p:joe@pve:R"], "joe@pve", "/vms/101", ""),
        ("a guest in no pool", &["1:/pool:joe@pve:R"], "joe@pve", "/vms/103", ""),
        ("not below the guest", &["1:/pool/p:joe@pve:R"], "joe@pve", "/vms/100/x", ""),
        (
            "pool and path add up",
            &["1:/pool/p:joe@pve:R", "1:/vms:joe@pve:W"],
            "joe@pve",
            "/vms/100",
            "VM.Audit VM.PowerMgmt*",
        ),
        (
            "the path's propagation stays",
            &["1:/pool/p:joe@pve:R", "1:/vms:joe@pve:R"],
            "joe@pve",
            "/vms/100",
            "VM.Audit*",
        ),
        ("no access on the path wins", &["1:/pool/p:joe@pve:R", "1:/vms:joe@pve:NoAccess"], "joe@pve", "/vms/100", ""),
        ("no access in the pool wins", &["1:/pool/p:joe@pve:NoAccess", "1:/vms:joe@pve:R"], "joe@pve", "/vms/100", ""),
        (
            "no access in one of a storage's pools wins",
            &["1:/pool/p:joe@pve:R", "1:/pool/p/q:joe@pve:NoAccess"],
            "joe@pve",
            "/storage/store",
            "",
        ),
        (
            "pools count for the user of a token and for the token",
            &["1:/pool/p:joe@pve:R", "1:/vms/100:joe@pve!sep:R"],
            "joe@pve!sep",
            "/vms/100",
            "VM.Audit",
        ),
        ("by group", &["1:/pool/p:@staff:R"], "joe@pve", "/vms/100", "VM.Audit"),
    ];
    for (name, entries, caller, path, expected) in cases {
        let entries: String = entries.iter().map(|entry| format!("acl:{entry}\n")).collect();
        assert_eq!(walk(&format!("{PEOPLE}{pools}{entries}"), caller, path), *expected, "{name}");
    }
}

#[test]
fn root_can_do_everything_whatever_the_tree_says() {
    let config = UserConfig::parse(&format!("{PEOPLE}acl:1:/:root@pam:NoAccess\n"));
    assert_eq!(rights(&config, "root@pam", "/vms/100").held, PrivilegeSet::all());
    assert_eq!(rights(&config, "root@pam!full", "/vms/100").held, PrivilegeSet::all());
    assert!(rights(&config, "root@pve", "/").held.is_empty());
}
