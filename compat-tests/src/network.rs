//! A node's network as random valid edits change it: the interfaces file that says it, and the facts of the kernel that
//! follow from the file. Bonds, VLANs, bridges of both kinds, VXLAN, addresses.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The management port and the bridges of guests, which no edit touches.
const KEPT: &str = "auto lo\niface lo inet loopback\n\nauto mgmt\niface mgmt inet static\n\taddress 10.0.2.15/24\n\
    \tgateway 10.0.2.2\n\nauto keep\niface keep inet static\n\taddress 10.99.0.1/24\n\tbridge-ports none\n\
    \tbridge-stp off\n\tbridge-fd 0\n\nauto keepv\niface keepv inet manual\n\tbridge-ports none\n\tbridge-stp off\n\
    \tbridge-fd 0\n\tbridge-vlan-aware yes\n\nauto keepv.10\niface keepv.10 inet static\n\taddress 10.98.0.1/24\n\n";

const MODES: [&str; 7] =
    ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
/// The cards that edits may use.
pub const CARDS: [&str; 4] = ["en01", "en02", "en03", "en04"];
/// VLANs by name: the link below and the number.
const VLANS: [(&str, &str, u16); 3] = [("bond0.11", "bond0", 11), ("en04.12", "en04", 12), ("office", "en04", 13)];

/// Numbers that look random and are the same in each run.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `count`.
    pub fn below(&mut self, count: u64) -> u64 {
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
pub struct Network {
    /// Ports and mode; a bond needs a port.
    bond: Option<(BTreeSet<String>, usize, u64)>,
    vlans: BTreeMap<String, BTreeSet<String>>,
    bridges: BTreeMap<String, Bridge>,
    vxlan: Option<(u64, BTreeSet<String>)>,
}

impl Network {
    /// One change of the kind that administrators make.
    pub fn edit(&mut self, dice: &mut Dice) {
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

    /// The interfaces file.
    pub fn text(&self) -> String {
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
    pub fn facts(&self) -> BTreeSet<String> {
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

/// What is missing and what is too much.
pub fn differences(wanted: &BTreeSet<String>, seen: &BTreeSet<String>) -> String {
    let missing: Vec<&String> = wanted.difference(seen).collect();
    let surplus: Vec<&String> = seen.difference(wanted).collect();
    format!("missing {missing:?}, surplus {surplus:?}")
}

/// The same facts, asked of the kernel without our programs. `report` is what [`QUESTIONS`] print.
pub fn facts_of(report: &str) -> BTreeSet<String> {
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
    let links: Vec<Value> =
        json(0).into_iter().filter(|link| managed(link["ifname"].as_str().expect("text"))).collect();
    for link in &links {
        let name = link["ifname"].as_str().expect("text");
        let data = &link["linkinfo"]["info_data"];
        let up = link["flags"].as_array().expect("a list").iter().any(|flag| flag == "UP");
        let kind = match link["linkinfo"]["info_kind"].as_str() {
            None | Some("dummy") => "card".to_owned(),
            Some("bond") => format!("bond {} {}", data["mode"].as_str().expect("text"), data["miimon"]),
            Some("vlan") => format!("vlan {} of {}", data["id"], link["link"].as_str().expect("text")),
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
        for net in link["addr_info"].as_array().expect("a list").iter().filter(|net| net["scope"] == "global") {
            let name = link["ifname"].as_str().expect("text");
            facts.insert(format!("{name}: {}/{}", net["local"].as_str().expect("text"), net["prefixlen"]));
        }
    }
    let is_aware = |name: &str| {
        let bridge = links.iter().find(|link| link["ifname"] == name);
        bridge.is_some_and(|bridge| bridge["linkinfo"]["info_data"]["vlan_filtering"] == 1)
    };
    for port in json(2) {
        let name = port["ifname"].as_str().expect("text");
        let master = links.iter().find(|link| link["ifname"] == name).and_then(|link| link["master"].as_str());
        if !master.is_some_and(is_aware) {
            continue;
        }
        let runs = port["vlans"].as_array().expect("a list").iter().flat_map(|vlan| {
            let pvid = vlan["flags"].as_array().is_some_and(|flags| flags.iter().any(|flag| flag == "PVID"));
            let first = vlan["vlan"].as_u64().expect("a number");
            let last = vlan["vlanEnd"].as_u64().unwrap_or(first);
            (first..=last).map(move |vid| format!("{vid}{}", if pvid { " pvid" } else { "" }))
        });
        facts.insert(format!("{name}: {}", runs.collect::<Vec<_>>().join(", ")));
    }
    for line in parts[3].lines().filter(|line| line.starts_with("00:00:00:00:00:00 ")) {
        facts.insert(format!("vx0: to {}", line.split_whitespace().nth(2).expect("a third word")));
    }
    facts
}

/// A shell script that prints the kernel's network for [`facts_of`].
pub const QUESTIONS: &str = "ip -d -j link; echo ---; ip -j addr; echo ---; bridge -j vlan; echo ---; \
                         ! ip link show vx0 >/dev/null 2>&1 || bridge fdb show dev vx0";
