//! Random valid edits of a running node's network with guests attached, in the lab: bonds, VLANs, bridges of both kinds,
//! VXLAN, addresses. After each the kernel has what the file says, the same file again changes nothing, and guests whose
//! bridge is not touched never miss answers for more than a second; the API answers throughout. Now and then the one who
//! applies is killed on the way: then the next start leads to the old state or the new one.
//!
//! `COMPAT_NETWORK_LAB_ROUNDS` is the number of edits; few in the ordinary suite.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::lab::{Machine, PASSWORD};
use compat_tests::network::{Dice, Network, QUESTIONS, differences, facts_of};
use compat_tests::wait_for;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const ROUNDS: u32 = 6;

fn picture(node: &Machine) -> BTreeSet<String> {
    facts_of(&node.sh(QUESTIONS))
}

#[test]
fn random_edits_leave_guests_and_the_api_alone() {
    let Some(node) = Machine::start("lab_network_edits::random", "net-edits") else { return };
    let rounds = compat_tests::setting("COMPAT_NETWORK_LAB_ROUNDS", ROUNDS);
    let (mut network, mut dice) = (Network::default(), Dice(u64::from(rounds)));
    propose(&node, &network);
    node.tool("pvenet apply");
    start_guests(&node);
    let client = node.client().login("root@pam", PASSWORD);
    let begin = std::time::Instant::now();
    let (ends, answers) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                assert_eq!(client.get("/version").status, 200);
                answers.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(300));
            }
        });
        let _end = End(&ends);
        for round in 0..rounds {
            let old = network.clone();
            for _ in 0..=dice.below(3) {
                network.edit(&mut dice);
            }
            if round % 4 == 3 && old != network {
                propose(&node, &network);
                let point = 8 + dice.below(24);
                let inject = format!("inject=sendto:signal=KILL:when={point}");
                node.run(&["strace", "-f", "-o", "/dev/null", "-e", &inject, "pvenet", "apply"]);
                node.tool("pvenet guard");
                let (seen, wanted) = (picture(&node), [old.facts(), network.facts()]);
                assert!(wanted.contains(&seen), "{round}, killed at {point}: {}", differences(&wanted[0], &seen));
            }
            let text = network.text();
            let report = node.sh(&format!(
                "cat > /etc/network/interfaces.new <<'END'\n{text}END\npvenet apply > /tmp/log 2>&1 || {{ cat /tmp/log; exit 1; }}; pvenet apply; echo ---; {QUESTIONS}"
            ));
            let (again, kernel) = report.split_once("---\n").unwrap();
            let (seen, wanted) = (facts_of(kernel), network.facts());
            let log = || node.sh("cat /tmp/log");
            assert!(seen == wanted, "{round}: {}\n{}\n{}", differences(&wanted, &seen), network.text(), log());
            assert_eq!(again, "no change\n", "{round}: {}\n{}", network.text(), log());
            println!("round {round} is done after {} s", begin.elapsed().as_secs());
        }
    });
    for guest in ["101", "103"] {
        let (sent, lost, longest) = end_pings(&node, guest);
        println!("guest {guest}: {sent} packets, {lost} lost, at most {longest} in a row ({rounds} rounds)");
        // Five in a second.
        assert!(longest <= 5, "guest {guest}: {longest} packets lost one after the other");
    }
    println!("the API answered {} times", answers.load(Ordering::Relaxed));
    bad_edits_are_refused(&node, &network);
    an_edit_that_cuts_the_node_off_comes_back(&node, &network);
}

/// With line and reason, and nothing is changed.
fn bad_edits_are_refused(node: &Machine, network: &Network) {
    let (before, text) = (picture(node), network.text());
    let twice = "auto d1\niface d1 inet static\n\taddress 10.99.0.1/24\n\tbridge-ports none\n";
    for (bad, reason) in [
        (text.replace("gateway 10.0.2.2", "gateway 10.9.9.9"), "gateway 10.9.9.9 of 'mgmt' is not in its network"),
        (text.replace("iface mgmt inet static", "iface mgmt inet sttic"), "interfaces:5: unable to read"),
        (format!("{text}{twice}"), "address 10.99.0.1 is on 'd1' and on 'keep'"),
        (format!("{text}auto bond9\niface bond9 inet manual\n\tbond-slaves en77\n"), "unable to find slave 'en77'"),
    ] {
        node.put_text(&bad, "/etc/network/interfaces.new");
        let refused = node.run(&["pvenet", "apply"]);
        assert!(refused.code != 0 && refused.stderr.contains(reason), "{reason}: {}", refused.stderr);
        assert!(picture(node) == before, "{reason}");
    }
    node.tool("pvesh delete /nodes/localhost/network");
}

/// The address of the management port moves to a bond that has no cable to the administrator.
fn an_edit_that_cuts_the_node_off_comes_back(node: &Machine, network: &Network) {
    let text = network.text();
    let old = "auto mgmt\niface mgmt inet static\n\taddress 10.0.2.15/24\n\tgateway 10.0.2.2\n";
    let new = "iface mgmt inet manual\n\nauto bond7\niface bond7 inet static\n\taddress 10.0.2.15/24\n\tgateway 10.0.2.2\n\
               \tbond-slaves none\n\tbond-mode active-backup\n";
    assert!(text.contains(old));
    node.put_text(&text.replace(old, new), "/etc/network/interfaces.new");
    // The one who applies loses his own connection.
    node.sh("(pvenet apply --confirm 10; ip -br addr) > /tmp/cut 2>&1 < /dev/null & sleep 0.2");
    wait_for("the way back", 120, || {
        let back = node.run(&["sh", "-c", "grep -q bond7.*10.0.2.15 /tmp/cut && ip -br addr show dev mgmt"]);
        (back.code == 0 && back.stdout.contains("10.0.2.15/24")).then_some(())
    });
    let client = node.client().login("root@pam", PASSWORD);
    assert_eq!(client.get("/version").status, 200);
    assert_eq!(node.sh("cat /etc/network/interfaces"), text.trim_end());
}

/// Ends the questions to the API also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn propose(node: &Machine, network: &Network) {
    node.put_text(&network.text(), "/etc/network/interfaces.new");
}

/// Two guests on the plain bridge, one in VLAN 10 of the VLAN-aware one; they ask all the time.
fn start_guests(node: &Machine) {
    node.bring_template();
    node.container(101, &["bridge=keep"], &["10.99.0.11/24"]);
    node.container(102, &["bridge=keep"], &["10.99.0.12/24"]);
    node.container(103, &["bridge=keepv,tag=10"], &["10.98.0.13/24"]);
    for (vmid, address) in [(101, "10.99.0.12"), (103, "10.98.0.1")] {
        node.sh(&format!(
            "ns=\"nsenter -n -t $(lxc-info -n {vmid} -p -H)\"; $ns ping -q -c1 -w30 {address}; \
             nohup $ns ping -i 0.2 -O {address} > /tmp/pings.{vmid} 2>&1 & echo $! > /tmp/pings.{vmid}.pid"
        ));
    }
}

/// Packets sent, lost, and lost one after the other.
fn end_pings(node: &Machine, guest: &str) -> (u32, u32, u32) {
    let report = node.sh(&format!(
        "kill -INT $(cat /tmp/pings.{guest}.pid); while kill -0 $(cat /tmp/pings.{guest}.pid) 2>/dev/null; do sleep 0.1; done; \
         grep -o 'bytes from.*icmp_seq=[0-9]*' /tmp/pings.{guest} | sed 's/.*=//'"
    ));
    let mut seen: Vec<u32> = report.lines().map(|line| line.parse().unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    let last = *seen.last().unwrap();
    let longest = seen.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0);
    (last, last - seen.len() as u32, longest)
}
