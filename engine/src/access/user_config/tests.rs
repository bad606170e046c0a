//! What `user.cfg` says is read, and written as PVE writes it.

use super::*;
use proptest::prelude::*;

const FILE: &str = "\
user:ann@pam:1:0:Ann:::likes%3A colons%25%C3%A4:x!y:
user:joe@pve:0:1893456000::Doe:joe@example.org:::
token:joe@pve!mon:0:1:read only:
token:joe@pve!root:1893456000:0::
user:root@pam:1:0::::::

group:empty:::
group:staff:ann@pam,gone@pve,joe@pve:The staff:

pool:a::::
pool:a/b:nested:100,1000,101:local,nfs-1:

role:Own:VM.Audit,VM.PowerMgmt:

acl:0:/:@staff:PVEAuditor:
acl:1:/:joe@pve:Own,PVEAuditor:
acl:1:/pool/a/b:@empty,ann@pam:PVEPoolUser:
acl:1:/vms/100:joe@pve!mon:PVEVMUser:
";

#[test]
fn a_file_of_pve_is_read_and_written_without_a_change() {
    let config = UserConfig::parse(FILE);
    assert_eq!(config.print(), FILE);
    let ann = &config.users["ann@pam"];
    assert_eq!((ann.comment.as_str(), ann.keys.as_str()), ("likes: colons%ä", "x!y"));
    let joe: UserId = "joe@pve".parse().unwrap();
    assert!(!config.users[&joe].enabled && config.users[&joe].tokens["mon"].separate);
    assert_eq!(config.groups_of(&joe).collect::<Vec<_>>(), ["staff"]);
    assert_eq!(config.pool_of("1000".parse().unwrap()), Some("a/b"));
    assert_eq!(config.pools_in("a").collect::<Vec<_>>(), ["a/b"]);
}

#[test]
fn what_people_write_is_taken_in_any_order_and_unknown_lines_stay() {
    let config = UserConfig::parse(
        "# made by hand\n  acl:1:vms//100/: @staff ; joe@pve :Own\nfuture:kind:of:line\nrole:Own:VM.Audit No.Such\n\
         group:staff:joe@pve\nuser:joe@pve:1\n  pool:x/y::100 200,100,abc:local,-bad\r\npool:z::100:\n",
    );
    assert_eq!(
        config.print(),
        "user:joe@pve:1:0::::::\nuser:root@pam:1:0::::::\n\ngroup:staff:joe@pve::\n\npool:x::::\n\
         pool:x/y::100,200:local:\npool:z::::\n\nrole:Own:VM.Audit:\n\n\
         acl:1:/vms/100:@staff,joe@pve:Own:\n\n# made by hand\nfuture:kind:of:line\n"
    );
}

#[test]
fn lines_that_make_no_sense_give_nobody_anything() {
    let config = UserConfig::parse(
        "user:bad name@pve:1:0\nuser:late@pve:1:soon\ntoken:none@pve!t1:0:0\ngroup:a b:x@pve\nrole:a/b:VM.Audit\n\
         role:PVEAuditor:Sys.Modify\npool:a/b/c/d::100:\nacl:1:/:root@pam!none:Administrator:\nacl:1:/a b:@x:PVEAdmin:\n\
         acl:1:/:@x:NoSuchRole:\nacl\nuser\n",
    );
    assert_eq!(config.print(), "user:root@pam:1:0::::::\n\n\n\n\n");
    assert_eq!(config.problems, [1, 2, 3, 4, 5, 6, 7, 9, 11, 12]);
    assert_eq!(UserConfig::parse("# comment\n\nfuture:kind\nuser:a@pve:1:0\n").problems, [3]);
    let auditor = config.role("PVEAuditor").unwrap();
    assert!(!auditor.contains("Sys.Modify".parse().unwrap()));
}

#[test]
fn root_is_always_there_and_can_be_disabled() {
    assert!(UserConfig::parse("").users["root@pam"].enabled);
    assert!(!UserConfig::parse("user:root@pam:0:0::::::\n").users["root@pam"].enabled);
}

#[test]
fn a_guest_moves_from_pool_to_pool() {
    let mut config = UserConfig::parse("pool:a::100:\npool:b:::\n");
    let vmid = "100".parse().unwrap();
    config.set_pool(vmid, Some("b"));
    assert!(config.pools["a"].guests.is_empty() && config.pools["b"].guests.contains(&vmid));
    config.set_pool(vmid, Some("no such pool"));
    assert_eq!(config.pool_of(vmid), None);
    assert!(config.pools["b"].guests.is_empty());
}

#[test]
fn accounts_end_when_disabled_or_expired() {
    let config = UserConfig::parse("user:a@pve:1:100:\nuser:b@pve:0:0:\nuser:c@pve:1:0:\n");
    let check = |name: &str, now| config.check_enabled(&name.parse().unwrap(), now).map_err(|e| e.message().to_owned());
    assert_eq!(check("a@pve", 100), Ok(()));
    assert_eq!(check("a@pve", 101), Err("user 'a@pve' access expired".into()));
    assert_eq!(check("b@pve", 0), Err("user 'b@pve' is disabled".into()));
    assert_eq!(check("c@pve", i64::MAX), Ok(()));
    assert_eq!(check("d@pve", 0), Err("no such user ('d@pve')".into()));
}

fn user() -> impl Strategy<Value = UserId> {
    "[a-z!@.]{1,8}@(pve|pam|corp-1)".prop_filter_map("a name", |text| text.parse().ok())
}

/// Text that survives trimming: PVE takes blanks at the ends away.
fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}".prop_map(|text| text.trim().to_owned())
}

fn member() -> impl Strategy<Value = super::super::acl::Member> {
    use super::super::acl::Member;
    prop_oneof![user().prop_map(Member::User), "[a-z0-9]{1,4}".prop_map(Member::Group)]
}

prop_compose! {
    fn config()(
        users in proptest::collection::btree_map(user(), (any::<bool>(), 0..u64::MAX, text(), text()), 0..5),
        tokens in proptest::collection::btree_map("[a-z][a-z0-9]{1,3}", (0..9u64, any::<bool>(), text()), 0..3),
        groups in proptest::collection::btree_map("[a-z0-9._-]{1,4}", (proptest::collection::btree_set(user(), 0..3), text()), 0..4),
        pools in proptest::collection::btree_map("[a-z]{1,3}", (proptest::collection::btree_set(100..2000u32, 0..4), text()), 0..4),
        entries in proptest::collection::vec(("(/[a-z0-9]{1,3}){0,3}", member(), prop_oneof!["PVE(Admin|Auditor)", "NoAccess"], any::<bool>()), 0..8),
    ) -> UserConfig {
        let mut config = UserConfig::parse("");
        for (id, (enabled, expire, first_name, comment)) in users {
            let token = |(name, (expire, separate, comment)): (&String, &(u64, bool, String))| {
                (name.clone(), Token { expire: *expire, separate: *separate, comment: comment.clone() })
            };
            let tokens = tokens.iter().map(token).collect();
            config.users.insert(id, User { enabled, expire, first_name, comment, tokens, ..User::default() });
        }
        for (name, (users, comment)) in groups {
            config.groups.insert(name, Group { users, comment });
        }
        for (name, (guests, comment)) in pools {
            config.pools.insert(name.clone(), Pool { comment, ..Pool::default() });
            guests.iter().for_each(|number| config.set_pool(Vmid::try_from(*number).unwrap(), Some(&name)));
        }
        for (path, member, role, propagate) in entries {
            let is_root = matches!(&member, super::super::acl::Member::User(user) if user.is_root());
            if !is_root {
                config.acl.grant(&path, &member, &role, propagate);
            }
        }
        config
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(config in config()) {
        prop_assert_eq!(UserConfig::parse(&config.print()), config);
    }

    #[test]
    fn any_text_is_read_and_settles_after_one_writing(text in "((user|group|acl|pool|role|token|#)?[a-z@!/:,\\n 01]{0,30}\\n){0,8}") {
        let once = UserConfig::parse(&text).print();
        prop_assert_eq!(UserConfig::parse(&once).print(), once);
    }
}
