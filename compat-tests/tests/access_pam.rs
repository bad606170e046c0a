//! Users of the system log in by its own rules: PAM is asked, and the accounts of the machine decide.

use compat_tests::{Client, Node, Reply};

const NAME: &str = "ferrovisor-joe";
const USER: &str = "ferrovisor-joe@pam";

fn log_in(client: &Client, password: &str) -> Reply {
    client.post("/access/ticket", &[("username", USER), ("password", password)])
}

#[test]
fn the_accounts_of_the_machine_decide() {
    let node = Node::start_with_account(NAME, "first password");
    let anonymous = node.client();
    assert_eq!(log_in(&anonymous, "first password").status, 401, "nobody has named the user in user.cfg");
    node.run("pveum", &["user", "add", USER]).ok();
    node.run("pveum", &["acl", "modify", "/", "--users", USER, "--roles", "PVEAuditor"]).ok();
    let answer = log_in(&anonymous, "first password").data();
    assert_eq!((&answer["username"], &answer["cap"]["nodes"]["Sys.Audit"]), (&USER.into(), &1.into()), "{answer}");
    let refused = log_in(&anonymous, "another password");
    assert_eq!((refused.status, refused.reason.as_str()), (401, "authentication failure"));

    let client = anonymous.login(USER, "first password");
    assert_eq!(client.get("/version").status, 200);
    let unconfirmed = [("userid", USER), ("password", "second password")];
    assert_ne!(client.put("/access/password", &unconfirmed).status, 200);
    let mut confirmed = unconfirmed.to_vec();
    confirmed.push(("confirmation-password", "first password"));
    client.put("/access/password", &confirmed).data();
    assert_eq!(log_in(&anonymous, "first password").status, 401);
    assert_eq!(log_in(&anonymous, "second password").status, 200);
    let log = std::fs::read_to_string(node.path("pvedaemon.out")).unwrap();
    assert!(!log.contains("first password") && !log.contains("second password"), "{log}");
}
