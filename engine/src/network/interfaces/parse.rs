//! From text to interfaces.

use super::kind::{prefix_length, split_prefix};
use super::{ALIASES, BOND_MODES, Family, Iface, Interfaces, KernelView};
use std::collections::BTreeSet;

/// Options that have one value of their own.
const SIMPLE: &[&str] = &[
    "mtu",
    "ovs_type",
    "ovs_options",
    "ovs_bridge",
    "ovs_bonds",
    "ovs_ports",
    "bridge_fd",
    "bridge_vids",
    "bridge-access",
    "bridge-learning",
    "bridge-arp-nd-suppress",
    "bridge-unicast-flood",
    "bridge-multicast-flood",
    "bridge-disable-mac-learning",
    "bond_miimon",
    "bond_xmit_hash_policy",
    "bond-primary",
    "link-type",
    "uplink-id",
    "vlan-protocol",
    "vlan-raw-device",
    "vlan-id",
    "vxlan-id",
    "vxlan-svcnodeip",
    "vxlan-physdev",
    "vxlan-local-tunnelip",
];

impl Interfaces {
    /// Reads a file. Never fails: what is not understood is kept.
    pub fn parse(text: &str, kernel: &KernelView) -> Self {
        let mut reader = Reader { config: Interfaces::default(), priority: 2, current: None };
        // A carriage return is a blank like others, and stays where whole lines are kept.
        for line in text.split('\n') {
            reader.line(line);
        }
        let mut config = reader.config;
        config.add_what_exists(kernel);
        config.complete(kernel);
        config.add_altnames(kernel);
        config.drop_generated_allow_lines();
        config
    }

    fn add_what_exists(&mut self, kernel: &KernelView) {
        for (name, link) in kernel.links.iter().filter(|(_, link)| link.physical) {
            let configured = link.altnames.iter().find(|other| self.ifaces.contains_key(*other));
            self.ifaces.entry(configured.unwrap_or(name).clone()).or_default().exists = Some(true);
        }
        for (name, iface) in &mut self.ifaces {
            iface.active = kernel.active.contains(kernel.own_name(name));
        }
        self.ifaces.entry("lo".into()).or_insert_with(|| {
            let mut lo = Iface { priority: Some(1), autostart: true, ..Iface::default() };
            lo.set("method", "loopback");
            lo
        });
    }

    fn add_altnames(&mut self, kernel: &KernelView) {
        for (own, link) in kernel.links.iter().filter(|(_, link)| !link.altnames.is_empty()) {
            let mut all: Vec<String> = link.altnames.iter().chain([own]).cloned().collect();
            all.sort();
            for name in all.iter().filter(|name| self.ifaces.contains_key(*name)) {
                self.altnames.insert(name.clone(), all.iter().filter(|other| *other != name).cloned().collect());
            }
        }
    }

    /// Lines `allow-BRIDGE PORT` are made from the bridges' ports when the file is written.
    fn drop_generated_allow_lines(&mut self) {
        let bridges = &self.ifaces;
        let keep = |(priority, line): (u32, String)| {
            let Some((bridge, ports)) =
                line.strip_prefix("allow-").and_then(|rest| rest.split_once(char::is_whitespace))
            else {
                return Some((priority, line));
            };
            let ports = ports.trim_start();
            if bridge.is_empty() {
                return Some((priority, line));
            }
            if bridge == "ovs" {
                return None;
            }
            let own: BTreeSet<&str> =
                bridges.get(bridge).map(|iface| iface.list("ovs_ports")).unwrap_or_default().into_iter().collect();
            let left: Vec<&str> = ports.split_whitespace().filter(|port| !own.contains(port)).collect();
            (!left.is_empty()).then(|| (priority, format!("allow-{bridge} {}", left.join(" "))))
        };
        let other = std::mem::take(&mut self.other);
        self.other = other.into_iter().filter_map(keep).collect();
    }
}

struct Reader {
    config: Interfaces,
    priority: u32,
    /// The section that lines belong to.
    current: Option<(String, Family)>,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some((name, family)) = self.current.clone() {
            let trimmed = line.trim_end();
            if !ends_section(trimmed) && self.option(&name, family, trimmed) {
                return;
            }
            self.current = None;
            // What ends a section has lost its blanks at the end.
            return self.top(trimmed);
        }
        self.top(line);
    }

    fn top(&mut self, line: &str) {
        let trimmed = line.trim_start();
        if trimmed.starts_with('#') {
            return;
        }
        let (word, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
        match word {
            "auto" | "allow-auto" | "allow-ovs" | "allow-hotplug" if trimmed.len() > word.len() => {
                for name in rest.split_whitespace() {
                    self.config.ifaces.entry(name.to_owned()).or_default().autostart = true;
                }
            }
            "iface" => match section(rest) {
                Some((name, family, method)) => self.begin(name, family, method),
                None => self.keep(line),
            },
            _ => self.keep(line),
        }
    }

    fn keep(&mut self, line: &str) {
        if line.contains(|c: char| c.is_alphanumeric() || c == '_') {
            self.config.other.push((self.priority, line.to_owned()));
            self.priority += 1;
        }
    }

    fn begin(&mut self, name: &str, family: Family, method: Option<&str>) {
        let iface = self.config.ifaces.entry(name.to_owned()).or_default();
        if iface.priority.is_none() {
            iface.priority = Some(self.priority);
            self.priority += 1;
        }
        if !iface.families.contains(&family) {
            iface.families.push(family);
        }
        if let (Some(family), Some(method)) = (family, method) {
            iface.set(&format!("method{}", suffix(Some(family))), method);
        }
        self.current = Some((name.to_owned(), family));
    }

    /// Takes a line of a section; false when it is none.
    fn option(&mut self, name: &str, family: Family, line: &str) -> bool {
        let Some(iface) = self.config.ifaces.get_mut(name) else { return false };
        let suffix = suffix(family);
        let text = line.trim_start();
        if let Some(comment) = text.strip_prefix('#') {
            let comments = iface.values.entry(format!("comments{suffix}")).or_default();
            comments.push_str(comment);
            comments.push('\n');
            return true;
        }
        let Some((id, value)) = text.split_once(char::is_whitespace) else { return false };
        let value = value.trim_start();
        let id = ALIASES.iter().find(|(alias, _)| *alias == id).map_or(id, |(_, own)| own);
        match id {
            "address" | "netmask" | "broadcast" | "gateway" => {
                let is_six = family.is_none() && id != "netmask" && value.contains(':');
                let key = format!("{id}{}", if is_six { "6" } else { suffix });
                if id == "netmask" {
                    iface.mask(family, &key, value);
                } else if iface.values.contains_key(&key) {
                    iface.kept(family).push(text.to_owned());
                } else {
                    iface.set(&key, value);
                }
            }
            "slaves" | "bridge_ports" => {
                let ports: BTreeSet<&str> = value.split_whitespace().filter(|port| *port != "none").collect();
                let list = iface.values.entry(id.to_owned()).or_default();
                for port in ports {
                    if !list.split(' ').any(|known| known == port) {
                        list.push_str(if list.is_empty() { "" } else { " " });
                        list.push_str(port);
                    }
                }
            }
            "bridge_stp" => {
                let on = matches!(value.to_ascii_lowercase().as_str(), "on" | "yes");
                iface.set(id, if on { "on" } else { "off" });
            }
            "bridge_vlan_aware" => iface.set(id, "1"),
            "bond_mode" => {
                let number = value.parse::<usize>().ok().and_then(|number| BOND_MODES.get(number));
                iface.set(id, *number.unwrap_or(&value));
            }
            "vxlan-remoteip" => iface.remotes.push(value.to_owned()),
            id if SIMPLE.contains(&id) => iface.set(id, value),
            _ => iface.kept(family).push(text.to_owned()),
        }
        true
    }
}

impl Iface {
    /// A mask belongs to the further address just before it, else to the first address; there the last mask counts.
    fn mask(&mut self, family: Family, key: &str, mask: &str) {
        let is_first = !self.values.contains_key(key);
        let further = self.kept(family).last_mut().filter(|line| {
            let address = line.strip_prefix("address").map(str::trim_start);
            !is_first && address.is_some_and(|address| split_prefix(address).is_none())
        });
        match (further, prefix_length(mask)) {
            (Some(line), Some(prefix)) => *line = format!("{}/{prefix}", line.trim_end()),
            _ => self.set(key, mask),
        }
    }

    fn kept(&mut self, family: Family) -> &mut Vec<String> {
        if family == Some("inet6") { &mut self.options6 } else { &mut self.options }
    }
}

/// What PVE appends to a family's keys.
pub(super) fn suffix(family: Family) -> &'static str {
    if family == Some("inet6") { "6" } else { "" }
}

fn ends_section(line: &str) -> bool {
    let line = line.trim_start();
    let word = line.split(char::is_whitespace).next().unwrap_or_default();
    line.starts_with("allow-")
        || (word.len() < line.len() && matches!(word, "iface" | "mapping" | "auto" | "source" | "source-directory"))
}

/// The head of a section: name, family, method.
fn section(rest: &str) -> Option<(&str, Family, Option<&str>)> {
    let mut words = rest.split_whitespace();
    let name = words.next()?;
    let family = match words.next() {
        None => return Some((name, None, None)),
        Some("inet") => "inet",
        Some("inet6") => "inet6",
        Some(_) => return None,
    };
    let method = words.next()?;
    words.next().is_none().then_some((name, Some(family), Some(method)))
}
