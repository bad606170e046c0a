//! Random valid edits of a running node's network with guests attached, in the lab: bonds, VLANs, bridges of both kinds,
//! VXLAN, addresses. After each the kernel has what the file says, the same file again changes nothing, and guests whose
//! bridge is not touched never miss answers for more than a second; the API answers throughout. Now and then the one who
//! applies is killed on the way: then the next start leads to the old state or the new one.
//!
//! `COMPAT_NETWORK_LAB_ROUNDS` is the number of edits; few in the ordinary suite.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::lab::{Machine, PASSWORD};
use compat_tests::wait_for;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

const ROUNDS: u32 = 6;

/// The management port and the bridges of guests, which no edit touches.
const KEPT: &str = "auto lo\niface lo inet loopback\n\nauto mgmt\niface mgmt inet static\n\taddress 10.0.2.15/24\n\
    \tgateway 10.0.2.2\n\nauto keep\niface keep inet static\n\taddress 10.99.0.1/24\n\tbridge-ports none\n\
    \tbridge-stp off\n\tbridge-fd 0\n\nauto keepv\niface keepv inet manual\n\tbridge-ports none\n\tbridge-stp off\n\
    \tbridge-fd 0\n\tbridge-vlan-aware yes\n\nauto keepv.10\niface keepv.10 inet static\n\taddress 10.98.0.1/24\n\n";

const MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
const CARDS: [&str; 4] = ["en01", "en02", "en03", "en04"];
/// VLANs by name: the link below and the number.
const VLANS: [(&str, &str, u16); 3] = [("bond0.11", "bond0", 11), ("en04.12", "en04", 12), ("office", "en04", 13)];

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % count
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }
}

#[derive(Clone, Default, PartialEq)]
struct Bridge {
    ports: BTreeSet<String>,
    addresses: BTreeSet<String>,
    aware: bool,
    stp: bool,
    small: bool,
    comment: u64,
}

/// What the file says besides [`KEPT`].
#[derive(Clone, Default, PartialEq)]
struct Network {
    /// Ports and mode; a bond needs a port.
    bond: Option<(BTreeSet<String>, usize, u64)>,
    vlans: BTreeMap<String, BTreeSet<String>>,
    bridges: BTreeMap<String, Bridge>,
    vxlan: Option<(u64, BTreeSet<String>)>,
}

impl Network {
    fn edit(&mut self, dice: &mut Dice) {
        match dice.below(8) {
            0 => {
                let used: BTreeSet<&String> = self.bridges.values().flat_map(|bridge| &bridge.ports).collect();
                let is_free = |card: &&&str| !used.contains(&card.to_string());
                let free: Vec<&&str> = CARDS[..3].iter().filter(is_free).collect();
                let ports = free.into_iter().filter(|_| dice.coin()).map(|card| card.to_string()).collect();
                self.bond = Some((ports, dice.below(7) as usize, 50 + 50 * dice.below(2)));
            }
            1 if dice.coin() => self.bond = None,
            1 | 2 => {
                let at = dice.below(3) as usize;
                let (name, ..) = VLANS[at];
                if self.vlans.remove(name).is_none() || dice.coin() {
                    self.vlans.insert(name.to_owned(), addresses(&format!("10.6{at}"), dice));
                }
            }
            3 => {
                let remotes = (0..dice.below(3)).map(|_| format!("10.99.0.{}", 50 + dice.below(5))).collect();
                self.vxlan = dice.coin().then(|| (100 + dice.below(2), remotes));
            }
            _ => {
                let at = dice.below(3);
                let name = format!("lan{at}");
                if self.bridges.remove(&name).is_none() || dice.coin() {
                    let taken: BTreeSet<String> =
                        self.bridges.values().flat_map(|bridge| bridge.ports.clone()).collect();
                    let mut ports: BTreeSet<String> = CARDS.iter().map(|card| card.to_string()).collect();
                    ports.extend(self.vlans.iter().filter(|(_, nets)| nets.is_empty()).map(|(name, _)| name.clone()));
                    ports.extend(["bond0", "vx0"].map(str::to_owned));
                    ports.retain(|port| !taken.contains(port) && dice.below(3) == 0);
                    let (aware, stp, small) = (dice.coin(), dice.below(4) == 0, dice.coin());
                    let addresses = addresses(&format!("10.7{at}"), dice);
                    let bridge = Bridge { ports, addresses, aware, stp, small, comment: dice.below(9) };
                    self.bridges.insert(name, bridge);
                }
            }
        }
        self.repair();
    }

    /// An edit that leaves a port without its link takes it out of its bridge, as a person would.
    fn repair(&mut self) {
        let slaves: BTreeSet<String> = self.bond.iter().flat_map(|(ports, ..)| ports.clone()).collect();
        if self.bond.is_none() {
            self.vlans.remove("bond0.11");
        }
        let vlans: BTreeMap<String, bool> =
            self.vlans.iter().map(|(name, nets)| (name.clone(), nets.is_empty())).collect();
        for bridge in self.bridges.values_mut() {
            bridge.ports.retain(|port| match port.as_str() {
                "bond0" => self.bond.is_some(),
                "vx0" => self.vxlan.is_some(),
                card if CARDS.contains(&card) => !slaves.contains(card),
                vlan => vlans.get(vlan).copied().unwrap_or(false),
            });
        }
    }

    fn bridge_of(&self, port: &str) -> Option<&str> {
        self.bridges.iter().find(|(_, bridge)| bridge.ports.contains(port)).map(|(name, _)| name.as_str())
    }

    fn text(&self) -> String {
        let mut text = KEPT.to_owned();
        for card in CARDS {
            text += &format!("auto {card}\niface {card} inet manual\n\n");
        }
        if let Some((ports, mode, miimon)) = &self.bond {
            let ports = if ports.is_empty() { "none".into() } else { join(ports) };
            let mode = MODES[*mode];
            text += &format!("auto bond0\niface bond0 inet manual\n\tbond-slaves {ports}\n\tbond-miimon {miimon}\n");
            text += &format!("\tbond-mode {mode}\n");
            if matches!(mode, "balance-xor" | "802.3ad") {
                text += "\tbond-xmit-hash-policy layer3+4\n";
            }
            text.push('\n');
        }
        for (name, raw, id) in VLANS {
            let Some(nets) = self.vlans.get(name) else { continue };
            text += &head(name, nets);
            if !name.contains('.') {
                text += &format!("\tvlan-id {id}\n\tvlan-raw-device {raw}\n");
            }
            text.push('\n');
        }
        if let Some((id, remotes)) = &self.vxlan {
            text += &format!("auto vx0\niface vx0 inet manual\n\tvxlan-id {id}\n");
            remotes.iter().for_each(|remote| text += &format!("\tvxlan-remoteip {remote}\n"));
            text.push('\n');
        }
        for (name, bridge) in &self.bridges {
            text += &head(name, &bridge.addresses);
            let ports = if bridge.ports.is_empty() { "none".into() } else { join(&bridge.ports) };
            let stp = if bridge.stp { "on\n\tbridge-fd 4" } else { "off\n\tbridge-fd 0" };
            text += &format!("\tbridge-ports {ports}\n\tbridge-stp {stp}\n");
            text += if bridge.aware { "\tbridge-vlan-aware yes\n\tbridge-vids 2-100\n" } else { "" };
            text += if bridge.small { "\tmtu 1400\n" } else { "" };
            text += &format!("\tx-unknown {}\n#comment {}\n\n", bridge.comment, bridge.comment);
        }
        text
    }

    /// One line for each fact of the kernel that follows from the file.
    fn facts(&self) -> BTreeSet<String> {
        let mut facts = BTreeSet::new();
        let place = |port: &str| match &self.bond {
            Some((ports, ..)) if ports.contains(port) => "bond0".to_owned(),
            _ => self.bridge_of(port).unwrap_or("-").to_owned(),
        };
        let mut link = |name: &str, what: String| {
            let to = place(name);
            facts.insert(format!("{name}: {what} in {to}"));
            let aware = self.bridges.get(&to).is_some_and(|bridge| bridge.aware);
            if aware {
                let others: Vec<String> = (2..=100).map(|vid| vid.to_string()).collect();
                facts.insert(format!("{name}: 1 pvid, {}", others.join(", ")));
            }
        };
        CARDS.iter().for_each(|card| link(card, "card".into()));
        if let Some((_, mode, miimon)) = &self.bond {
            link("bond0", format!("bond {} {miimon}", MODES[*mode]));
        }
        for (name, raw, id) in VLANS.iter().filter(|(name, ..)| self.vlans.contains_key(*name)) {
            link(name, format!("vlan {id} of {raw}"));
        }
        if let Some((id, remotes)) = &self.vxlan {
            link("vx0", format!("vxlan {id}"));
            facts.extend(remotes.iter().map(|remote| format!("vx0: to {remote}")));
        }
        for (name, bridge) in &self.bridges {
            facts.insert(format!("{name}: bridge stp {} aware {} in -", bridge.stp, bridge.aware));
            facts.extend(bridge.small.then(|| format!("{name}: mtu 1400")));
            facts.extend(bridge.addresses.iter().map(|net| format!("{name}: {net}")));
        }
        for (name, nets) in &self.vlans {
            facts.extend(nets.iter().map(|net| format!("{name}: {net}")));
        }
        facts
    }
}

fn addresses(prefix: &str, dice: &mut Dice) -> BTreeSet<String> {
    let four = (0..dice.below(3)).map(|_| format!("{prefix}.{}.1/24", dice.below(4))).collect::<Vec<_>>();
    let six = dice.coin().then(|| format!("fd00:{}:{}::1/64", prefix.replace('.', ":"), 1 + dice.below(4)));
    four.into_iter().chain(six).collect()
}

fn head(name: &str, nets: &BTreeSet<String>) -> String {
    let mut text = format!("auto {name}\n");
    let (six, four): (Vec<_>, Vec<_>) = nets.iter().partition(|net| net.contains(':'));
    for net in &six {
        text += &format!("iface {name} inet6 static\n\taddress {net}\n\n");
    }
    text += &format!("iface {name} inet {}\n", if four.is_empty() { "manual" } else { "static" });
    four.iter().for_each(|net| text += &format!("\taddress {net}\n"));
    text
}

fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(" ")
}

/// The same facts, asked of the kernel without our programs. `report` is what [`QUESTIONS`] print.
fn facts_of(report: &str) -> BTreeSet<String> {
    let report = format!("{report}\n");
    let parts: Vec<&str> = report.split("---\n").collect();
    let json = |at: usize| -> Vec<Value> { serde_json::from_str(parts[at]).unwrap_or_default() };
    let managed = |name: &str| {
        CARDS.contains(&name)
            || VLANS.iter().any(|(vlan, ..)| *vlan == name)
            || name.starts_with("lan")
            || matches!(name, "bond0" | "vx0")
    };
    let mut facts = BTreeSet::new();
    let links: Vec<Value> = json(0).into_iter().filter(|link| managed(link["ifname"].as_str().unwrap())).collect();
    for link in &links {
        let name = link["ifname"].as_str().unwrap();
        let data = &link["linkinfo"]["info_data"];
        let up = link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP");
        let kind = match link["linkinfo"]["info_kind"].as_str() {
            None => "card".to_owned(),
            Some("bond") => format!("bond {} {}", data["mode"].as_str().unwrap(), data["miimon"]),
            Some("vlan") => format!("vlan {} of {}", data["id"], link["link"].as_str().unwrap()),
            Some("vxlan") => format!("vxlan {}", data["id"]),
            Some("bridge") => {
                format!("bridge stp {} aware {}", data["stp_state"] == 1, data["vlan_filtering"] == 1)
            }
            Some(other) => other.to_owned(),
        };
        let off = if up { "" } else { " (off)" };
        facts.insert(format!("{name}: {kind} in {}{off}", link["master"].as_str().unwrap_or("-")));
        if name.starts_with("lan") && link["mtu"] == 1400 {
            facts.insert(format!("{name}: mtu 1400"));
        }
    }
    for link in json(1).iter().filter(|link| managed(link["ifname"].as_str().unwrap_or_default())) {
        for net in link["addr_info"].as_array().unwrap().iter().filter(|net| net["scope"] == "global") {
            let name = link["ifname"].as_str().unwrap();
            facts.insert(format!("{name}: {}/{}", net["local"].as_str().unwrap(), net["prefixlen"]));
        }
    }
    let is_aware = |name: &str| {
        let bridge = links.iter().find(|link| link["ifname"] == name);
        bridge.is_some_and(|bridge| bridge["linkinfo"]["info_data"]["vlan_filtering"] == 1)
    };
    for port in json(2) {
        let name = port["ifname"].as_str().unwrap();
        let master = links.iter().find(|link| link["ifname"] == name).and_then(|link| link["master"].as_str());
        if !master.is_some_and(is_aware) {
            continue;
        }
        let runs = port["vlans"].as_array().unwrap().iter().flat_map(|vlan| {
            let pvid = vlan["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "PVID"));
            let first = vlan["vlan"].as_u64().unwrap();
            let last = vlan["vlanEnd"].as_u64().unwrap_or(first);
            (first..=last).map(move |vid| format!("{vid}{}", if pvid { " pvid" } else { "" }))
        });
        facts.insert(format!("{name}: {}", runs.collect::<Vec<_>>().join(", ")));
    }
    for line in parts[3].lines().filter(|line| line.starts_with("00:00:00:00:00:00 ")) {
        facts.insert(format!("vx0: to {}", line.split_whitespace().nth(2).unwrap()));
    }
    facts
}

const QUESTIONS: &str = "ip -d -j link; echo ---; ip -j addr; echo ---; bridge -j vlan; echo ---; \
                         ! ip link show vx0 >/dev/null 2>&1 || bridge fdb show dev vx0";

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

fn differences(wanted: &BTreeSet<String>, seen: &BTreeSet<String>) -> String {
    let missing: Vec<&String> = wanted.difference(seen).collect();
    let surplus: Vec<&String> = seen.difference(wanted).collect();
    format!("missing {missing:?}, surplus {surplus:?}")
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
