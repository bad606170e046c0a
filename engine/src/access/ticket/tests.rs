//! Tickets hold for their time, their key and their text.

use super::*;
use crate::Clock;

const NOW: i64 = 1_800_000_000;

struct Node {
    directory: tempfile::TempDir,
}

impl Node {
    /// A node whose keys were made at `NOW`, with users root@pam, joe@pve and off@pve, who is disabled.
    fn new() -> Self {
        let node = Node { directory: tempfile::tempdir().unwrap() };
        keys::ensure(&node.at(0)).unwrap();
        std::fs::write(node.at(0).root.etc_pve("user.cfg"), "user:joe@pve:1:0:\nuser:off@pve:0:0:\n").unwrap();
        node
    }

    /// The node so many seconds after `NOW`.
    fn at(&self, seconds: i64) -> Context {
        Context { clock: Clock::Fixed(NOW + seconds), ..Context::for_test(self.directory.path()) }
    }

    fn ticket(&self, seconds: i64, user: &str) -> String {
        assemble(&self.at(seconds), &user.parse().unwrap()).unwrap()
    }

    fn holds(&self, seconds: i64, ticket: &str) -> bool {
        match verify(&self.at(seconds), ticket) {
            Ok(_) => true,
            Err(error) => {
                assert_eq!((error.status(), error.message()), (401, "Authentication failed!"));
                false
            }
        }
    }
}

#[test]
fn the_text_has_the_known_shape() {
    let node = Node::new();
    let ticket = node.ticket(0, "joe@pve");
    assert!(ticket.starts_with("PVE:joe@pve:6B49D200::"), "{ticket}");
    assert_eq!(ticket.rsplit("::").next().unwrap().len(), 344);
    assert_eq!(verify(&node.at(0), &ticket).unwrap(), "joe@pve");
}

#[test]
fn holds_two_hours_and_no_more_than_the_skew_into_the_past() {
    let node = Node::new();
    let ticket = node.ticket(10_000, "joe@pve");
    for (age, good) in [(-300, false), (-299, true), (0, true), (7199, true), (7200, false)] {
        assert_eq!(node.holds(10_000 + age, &ticket), good, "{age}");
    }
}

#[test]
fn is_not_older_than_its_key() {
    let node = Node::new();
    // Whoever signs for a time before the key was born has a wrong clock, or bad intentions.
    let key = keys::private(&node.at(0)).unwrap();
    let early = signed::assemble(&key, PREFIX, Some("joe@pve"), None, NOW - 400).unwrap();
    assert!(!node.holds(100, &early));
}

#[test]
fn survives_the_replacement_of_the_key_and_no_second_one() {
    let node = Node::new();
    let day = keys::KEY_LIFETIME;
    let ticket = node.ticket(day - 60, "joe@pve");
    let newer = node.ticket(day, "joe@pve");
    assert!(node.holds(day + 60, &ticket) && node.holds(day + 60, &newer));
    assert!(node.holds(day - 60 + 7199, &ticket));
    assert!(!node.holds(day - 60 + 7200, &ticket));
    let again = node.ticket(2 * day, "joe@pve");
    assert!(node.holds(2 * day, &again));
    assert!(!node.holds(day + 60, &ticket), "its key is gone");
}

#[test]
fn any_change_breaks_it() {
    let node = Node::new();
    let ticket = node.ticket(0, "joe@pve");
    let (head, signature) = ticket.split_once("::").unwrap();
    for changed in [
        "",
        "PVE",
        "PVE:joe@pve:6B49D200::",
        &format!("{head}::{}", signature.replace('A', "B")),
        &ticket.replace("joe", "root"),
        &ticket.replace("6B49D200", "6B49D201"),
        &ticket.replace("PVE:", "PVEVNC:"),
        &format!("{ticket} "),
        &format!("{ticket}\n"),
        &format!("{ticket}::{signature}"),
        &ticket[..ticket.len() - 4],
    ] {
        assert!(!node.holds(0, changed), "{changed}");
    }
}

#[test]
fn stands_for_a_user_who_is_there_and_enabled() {
    let node = Node::new();
    for (user, good) in [("root@pam", true), ("joe@pve", true), ("off@pve", false), ("gone@pve", false)] {
        assert_eq!(node.holds(0, &node.ticket(0, user)), good, "{user}");
    }
}

#[test]
fn half_tickets_are_good_for_nothing() {
    let node = Node::new();
    let key = keys::private(&node.at(0)).unwrap();
    for data in ["!tfa!{\"totp\":true}", "!tfa!joe@pve", "tfa!joe@pve", "u2f!joe@pve!verified", "tfa!root@pam"] {
        let ticket = signed::assemble(&key, PREFIX, Some(data), None, NOW).unwrap();
        assert!(!node.holds(0, &ticket), "{data}");
        let bound = signed::assemble(&key, PREFIX, Some(data), Some("joe@pve"), NOW).unwrap();
        assert!(!node.holds(0, &bound), "{data}");
    }
}

#[test]
fn an_overdue_key_signs_nothing_that_is_too_new() {
    assert_eq!(valid_ages(0, false), Some(-300..300));
    assert_eq!(valid_ages(7200, false), Some(-300..7200));
    assert_eq!(valid_ages(24 * 3600 + 60, false), Some(60..7200));
    assert_eq!(valid_ages(26 * 3600 + 1, false), None);
    assert_eq!(valid_ages(0, true), Some(-300..7200));
    assert_eq!(valid_ages(600, true), Some(300..7200));
    assert_eq!(valid_ages(7501, true), None);
    assert_eq!(valid_ages(-1000, false), Some(-300..300));
}
