//! Random valid edits of the interfaces file in a kernel of the test's own, with guests on bridges that they do not touch:
//! after each the kernel has what the file says, the same file again changes nothing, and the guests miss no answer. Now and
//! then the one who applies is killed on the way: then the next start leads to the old state or the new one.
//!
//! `COMPAT_NETWORK_ROUNDS` is the number of edits; few in the ordinary suite.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::network::{CARDS, Dice, Network, QUESTIONS, differences, facts_of};
use compat_tests::{Node, user_mode, wait_for};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};

const ROUNDS: u32 = 6;

#[test]
fn random_edits_reach_the_kernel_and_leave_other_guests_alone() {
    user_mode::within("network_edits::random", || {
        let rounds = compat_tests::setting("COMPAT_NETWORK_ROUNDS", ROUNDS);
        let node = Node::without_daemons();
        fs::create_dir_all(node.path("etc/network")).unwrap();
        for card in CARDS.iter().chain(&["mgmt"]) {
            sh(&format!("ip link add {card} type dummy"));
        }
        let (mut network, mut dice) = (Network::default(), Dice(u64::from(rounds)));
        apply(&node, &network.text());
        let pings = [plug_guest("one", "keep", "10.99.0", ""), plug_guest("two", "keepv", "10.98.0", "10")];
        for round in 0..rounds {
            let old = network.clone();
            for _ in 0..=dice.below(3) {
                network.edit(&mut dice);
            }
            if round % 4 == 3 && old != network {
                killed_on_the_way(&node, 8 + dice.below(24), &old, &network);
            }
            let text = network.text();
            apply(&node, &text);
            let (seen, wanted) = (picture(), network.facts());
            assert!(seen == wanted, "{round}: {}\n{text}", differences(&wanted, &seen));
            assert_eq!(apply(&node, &text), "no change\n", "{round}: {text}");
        }
        for pings in pings {
            let report = end_pings(pings);
            assert!(report.contains(" 0% packet loss") && !report.contains("errors"), "{report}");
        }
    });
}

/// The one who applies dies at one of its messages to the kernel, which leaves the old state or the new one.
fn killed_on_the_way(node: &Node, point: u64, old: &Network, new: &Network) {
    fs::write(node.path("etc/network/interfaces.new"), new.text()).unwrap();
    let pvenet = node.program("pvenet");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("inject=sendto:signal=KILL:when={point}")]);
    strace.arg(pvenet.get_program()).arg("apply");
    strace.envs(pvenet.get_envs().filter_map(|(key, value)| Some((key, value?))));
    strace.output().unwrap();
    node.run("pvenet", &["guard"]).ok();
    let (seen, wanted) = (picture(), [old.facts(), new.facts()]);
    assert!(wanted.contains(&seen), "killed at {point}: {}", differences(&wanted[0], &seen));
}

fn picture() -> BTreeSet<String> {
    facts_of(&sh(QUESTIONS))
}

/// Applies a file; what the tool says.
fn apply(node: &Node, text: &str) -> String {
    fs::write(node.path("etc/network/interfaces.new"), text).unwrap();
    node.run("pvenet", &["apply"]).ok()
}

/// Plugs a guest in as the engine does it; it asks the node again and again from now on.
fn plug_guest(name: &str, bridge: &str, net: &str, vlan: &str) -> Child {
    sh(&format!(
        "ip netns add {name}
         ip link add veth-{name} type veth peer name eth0 netns {name}
         ip link set veth-{name} master {bridge} up
         [ -z '{vlan}' ] || {{ bridge vlan del dev veth-{name} vid 1; bridge vlan add dev veth-{name} vid {vlan} pvid untagged; }}
         ip -n {name} link set eth0 up
         ip -n {name} addr add {net}.2/24 dev eth0"
    ));
    let ping = |count: &str| {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", name, "ping", "-i", "0.2", "-W", "60", "-c", count, &format!("{net}.1")]);
        ping
    };
    wait_for("the guest's first answer", 30, || ping("1").output().unwrap().status.success().then_some(()));
    ping("100000").stdout(Stdio::piped()).spawn().unwrap()
}

fn end_pings(pings: Child) -> String {
    sh(&format!("kill -INT {}", pings.id()));
    String::from_utf8(pings.wait_with_output().unwrap().stdout).unwrap().replace("% packet loss", "% packet loss\n")
}

fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script}: {out}{err}");
    out.into_owned()
}
