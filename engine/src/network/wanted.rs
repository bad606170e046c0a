//! From sections of the interfaces file to the state that they want. Pure.
//!
//! An interface takes part if it is brought up with the node (`auto`), or if one that does stands on it. Wrong values are
//! errors that name file and line.

use super::bond_options::{bond_option, is_known};
use super::interfaces::BOND_MODES;
use super::netlink::PortVlans;
use super::others::reaches;
use super::stanza::{Sections, Stanza};
use super::state::{Bond, Bridge, Kind, Link, Net, Route, State, Vxlan};
use super::{is_link_name, open_vswitch};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const HASH_POLICIES: [&str; 6] = ["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"];

/// What a file wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// Links, addresses and default routes.
    pub state: State,
    /// Command lines of each interface.
    pub commands: BTreeMap<String, Commands>,
    /// Interfaces whose addresses come from a DHCP server: for IPv4, for IPv6.
    pub dhcp: BTreeMap<String, (bool, bool)>,
    /// Bridges and ports of Open vSwitch.
    pub open_vswitch: BTreeMap<String, OvsPart>,
    /// What people should know of options that nobody carries out.
    #[serde(default)]
    pub ignored: Vec<String>,
}

/// A bridge or port of Open vSwitch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OvsPart {
    /// The bridge that a port is on; empty for bridges themselves.
    pub bridge: String,
    /// The call of `ovs-vsctl` that makes it so, whatever it was before.
    pub call: Vec<String>,
}

/// Command lines that the administrator wants to be run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commands {
    /// Before an interface comes up.
    pub pre_up: Vec<String>,
    /// When it is up.
    pub up: Vec<String>,
    /// Before it goes down.
    pub down: Vec<String>,
    /// When it is down.
    pub post_down: Vec<String>,
}

impl Wanted {
    /// The state that sections want. What is written of no interface that comes up is left alone.
    pub fn of(sections: &Sections) -> Result<Self> {
        let mut wanted = Wanted::default();
        let mut by_name: BTreeMap<&str, Vec<&Stanza>> = BTreeMap::new();
        // An alias that is not brought up adds nothing to its link.
        let counts = |stanza: &&Stanza| !stanza.name.contains(':') || sections.auto.contains(&stanza.name);
        for stanza in sections.stanzas.iter().filter(counts) {
            by_name.entry(stanza.name.split(':').next().unwrap_or_default()).or_default().push(stanza);
        }
        let mut open: Vec<(String, String)> = sections
            .auto
            .iter()
            .map(|name| (name.split(':').next().unwrap_or_default().to_owned(), String::new()))
            .collect();
        let mut seen: BTreeSet<String> = BTreeSet::new();
        while let Some((name, place)) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            let stanzas = by_name.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            if stanzas.is_empty() && place.is_empty() {
                // 'auto' for a name without a section means nothing; ifupdown says so and goes on.
                continue;
            }
            let interface = Interface { name: &name, stanzas, place };
            interface.check_name()?;
            open.extend(interface.add(&mut wanted)?);
        }
        wanted.settle_controllers();
        wanted.complete_mtu();
        // The first section of a link that says such a thing.
        let place = |name: &str, option: &str| {
            let stanzas = by_name.get(name).map(Vec::as_slice).unwrap_or_default();
            let says = |stanza: &&&Stanza| stanza.options.iter().any(|(key, _)| key == option);
            stanzas.iter().find(says).or(stanzas.first()).map(|stanza| stanza.place.clone()).unwrap_or_default()
        };
        wanted.refuse_contradictions(&place)?;
        Ok(wanted)
    }

    /// Who is nobody's port says so, and bridges take part in the VLANs on top of them.
    fn settle_controllers(&mut self) {
        for link in
            self.state.links.values_mut().filter(|link| link.controller.is_none() && link.kind != Kind::Loopback)
        {
            if !matches!(link.kind, Kind::OpenVSwitch | Kind::Other(_)) {
                link.controller = Some(String::new());
            }
        }
        // A bridge takes part in a VLAN that has a link on top of it.
        let on_bridges: Vec<(String, u16)> = self
            .state
            .links
            .values()
            .filter_map(
                |link| if let Kind::Vlan { raw, id, .. } = &link.kind { Some((raw.clone(), *id)) } else { None },
            )
            .collect();
        for (raw, id) in on_bridges {
            if let Some(Link { kind: Kind::Bridge(_), vlans: Some(vlans), .. }) = self.state.links.get_mut(&raw) {
                vlans.members.insert(id);
            }
        }
    }

    /// A VLAN without an MTU has that of the link below.
    fn complete_mtu(&mut self) {
        let of: BTreeMap<String, Option<u32>> =
            self.state.links.iter().map(|(name, link)| (name.clone(), link.mtu)).collect();
        for link in self.state.links.values_mut() {
            if let (Kind::Vlan { raw, .. }, None) = (&link.kind, link.mtu) {
                link.mtu = of.get(raw).copied().flatten();
            }
        }
    }

    fn refuse_contradictions(&self, place: &dyn Fn(&str, &str) -> String) -> Result<()> {
        let mut owner: BTreeMap<IpAddr, &str> = BTreeMap::new();
        for (name, link) in &self.state.links {
            for net in link.addresses.iter().flatten() {
                if let Some(other) = owner.insert(net.address, name)
                    && other != name
                {
                    let what = format!("address {} is on '{other}' and on '{name}'", net.address);
                    return Err(Error::new(what).context(place(name, "address")));
                }
            }
        }
        for route in &self.state.routes {
            let Some(via) = route.via else { continue };
            let reachable = self.state.links.get(&route.link).is_some_and(|link| reaches(link, via));
            if !reachable && !route.onlink && !self.dhcp.contains_key(&route.link) {
                let what = format!("gateway {via} of '{}' is not in its network", route.link);
                return Err(Error::new(what).context(place(&route.link, "gateway")));
            }
        }
        let defaults = |six: bool| {
            self.state.routes.iter().filter(move |route| route.is_default() && route.to.address.is_ipv6() == six)
        };
        for six in [false, true] {
            let links: BTreeSet<&str> = defaults(six).map(|route| route.link.as_str()).collect();
            if links.len() > 1 {
                let links: Vec<&str> = links.into_iter().collect();
                let what = format!("there is more than one default gateway: on '{}'", links.join("' and '"));
                return Err(Error::new(what).context(place(links[1], "gateway")));
            }
        }
        Ok(())
    }
}

/// One interface with all its sections.
pub(super) struct Interface<'a> {
    pub(super) name: &'a str,
    stanzas: &'a [&'a Stanza],
    /// Where it was mentioned, when it has no section.
    place: String,
}

impl Interface<'_> {
    /// Adds the interface; answers the links it stands on, with the place that mentions them.
    fn add(&self, wanted: &mut Wanted) -> Result<Vec<(String, String)>> {
        let mut below: Vec<(String, String)> = Vec::new();
        let kind = self.kind()?;
        if let Kind::Vlan { raw, .. } = &kind {
            below.push((raw.clone(), self.place()));
        }
        if let Some(kind) = self.get("ovs-type") {
            below.extend(self.add_open_vswitch(kind, wanted)?);
        }
        if self.get("ovs-type") == Some("OVSBond") {
            // It is no link of the kernel's.
            return Ok(below);
        }
        let aware = matches!(&kind, Kind::Bridge(bridge) if bridge.vlan_aware == Some(true));
        let mut link = Link { kind, up: true, ..wanted.state.links.remove(self.name).unwrap_or_default() };
        link.up = self.get("link-down").is_none_or(|value| !is_on(value));
        link.mtu = self.number("mtu")?;
        link.mac = self.mac()?;
        link.addresses = Some(self.addresses()?);
        link.port.learning = self.flag("bridge-learning");
        link.port.unicast_flood = self.flag("bridge-unicast-flood");
        link.port.multicast_flood = self.flag("bridge-multicast-flood");
        link.port.neighbour_suppression = self.flag("bridge-arp-nd-suppress");
        link.port.isolated = self.flag("bridge-isolated").or(self.flag("bridge-port-isolated"));
        if self.get("ovs-type") == Some("OVSPort") {
            link.controller = Some(open_vswitch::CONTROLLER.into());
        }
        if aware {
            link.vlans = Some(PortVlans::access(1, []));
        }
        let own_vlans = self.port_vlans()?;
        if let Some(vlans) = own_vlans.clone() {
            link.vlans = Some(vlans);
        }
        let is_bond = matches!(link.kind, Kind::Bond(_));
        wanted.state.links.insert(self.name.to_owned(), link);
        for list in ["bridge-ports", "bond-slaves", "slaves"] {
            for port in self.list(list).filter(|_| (list == "bridge-ports") != is_bond) {
                let entry =
                    wanted.state.links.entry(port.to_owned()).or_insert_with(|| Link { up: true, ..Link::default() });
                if let Some(other) = entry.controller.as_ref().filter(|other| !other.is_empty() && *other != self.name)
                {
                    return Err(self.wrong(&format!("port '{port}' is already used on interface '{other}'")));
                }
                entry.controller = Some(self.name.to_owned());
                below.push((port.to_owned(), self.place()));
            }
        }
        let ignored = self.options().filter(|(key, _)| key.strip_prefix("bond-").is_some_and(|name| !is_known(name)));
        let ignored = ignored.map(|(key, _)| format!("{}: option '{key}' is kept and has no effect", self.place()));
        wanted.ignored.extend(ignored);
        if aware {
            self.vlans_of_ports(wanted)?;
        }
        self.gateways(wanted)?;
        self.commands(wanted);
        self.dhcp(wanted);
        Ok(below)
    }

    fn kind(&self) -> Result<Kind> {
        let name = self.name;
        if name == "lo" {
            return Ok(Kind::Loopback);
        }
        if matches!(self.get("ovs-type"), Some("OVSBridge" | "OVSIntPort")) {
            return Ok(Kind::OpenVSwitch);
        }
        if self.get("bridge-ports").is_some() {
            return Ok(Kind::Bridge(self.bridge()?));
        }
        if self.get("bond-slaves").or(self.get("bond-mode")).is_some() || self.get("slaves").is_some() {
            return Ok(Kind::Bond(self.bond()?));
        }
        let dotted = name.rsplit_once('.').filter(|(raw, id)| !raw.is_empty() && id.parse::<u16>().is_ok());
        let raw = self.get("vlan-raw-device").or(dotted.map(|(raw, _)| raw));
        if let Some(raw) = raw {
            let numbered = name.strip_prefix("vlan").filter(|id| id.parse::<u16>().is_ok());
            let id = self.get("vlan-id").or(dotted.map(|(_, id)| id)).or(numbered);
            let id = id.ok_or_else(|| self.wrong("missing vlan-id option"))?;
            let number = id.parse().ok().filter(|id| (1..=4094).contains(id));
            let id = number.ok_or_else(|| self.wrong(&format!("vlan '{name}' - vlan-id {id} should be <= 4094")))?;
            let service = self.get("vlan-protocol").is_some_and(|protocol| protocol.eq_ignore_ascii_case("802.1ad"));
            return Ok(Kind::Vlan { raw: raw.to_owned(), id, service });
        }
        if let Some(id) = self.number("vxlan-id")? {
            return Ok(Kind::Vxlan(self.vxlan(id)?));
        }
        Ok(if self.get("link-type") == Some("dummy") { Kind::Dummy } else { Kind::Hardware })
    }

    fn bridge(&self) -> Result<Bridge> {
        let stp = self.get("bridge-stp").is_some_and(is_on);
        let seconds = |key: &str| -> Result<Option<u32>> {
            Ok(self.decimal(key)?.map(|seconds| (seconds * 100.0).round() as u32))
        };
        let delay = seconds("bridge-fd")?.unwrap_or(if stp { 1500 } else { 0 });
        if stp && !(200..=3000).contains(&delay) {
            return Err(self.wrong("bridge-fd must be between 2 and 30 seconds with bridge-stp"));
        }
        Ok(Bridge {
            stp: Some(stp),
            forward_delay: Some(delay),
            hello_time: seconds("bridge-hello")?,
            max_age: seconds("bridge-maxage")?,
            ageing_time: seconds("bridge-ageing")?,
            priority: self.number("bridge-bridgeprio")?,
            vlan_aware: Some(self.get("bridge-vlan-aware").is_some_and(is_on)),
            multicast_snooping: self.flag("bridge-mcsnoop").or(self.flag("bridge-multicast-snooping")),
            multicast_querier: self.flag("bridge-mcquerier").or(self.flag("bridge-multicast-querier")),
        })
    }

    fn bond(&self) -> Result<Bond> {
        let mode = self.get("bond-mode").unwrap_or("balance-rr");
        let number =
            BOND_MODES.iter().position(|name| *name == mode).or_else(|| mode.parse().ok().filter(|mode| *mode < 7));
        let mode = number.ok_or_else(|| self.wrong(&format!("unknown bond-mode '{mode}'")))?;
        let policy = match self.get("bond-xmit-hash-policy") {
            None => None,
            Some(policy) => {
                let number = HASH_POLICIES.iter().position(|name| *name == policy).or_else(|| policy.parse().ok());
                Some(number.ok_or_else(|| self.wrong(&format!("unknown bond-xmit-hash-policy '{policy}'")))? as u8)
            }
        };
        let lacp_fast = self.get("bond-lacp-rate").is_some_and(|rate| matches!(rate, "1" | "fast"));
        // What is not said is the kernel's usual value, so that an option which leaves the file goes back to it.
        let number = |key: &str| -> Result<Option<u32>> { Ok(Some(self.number(key)?.unwrap_or(0))) };
        let primary = self.get("bond-primary").unwrap_or_default().to_owned();
        Ok(Bond {
            mode: Some(mode as u8),
            miimon: Some(self.number("bond-miimon")?.unwrap_or(100)),
            updelay: number("bond-updelay")?,
            downdelay: number("bond-downdelay")?,
            primary: Some(primary).filter(|_| matches!(mode, 1 | 5 | 6)),
            hash_policy: Some(policy.unwrap_or(0)).filter(|_| matches!(mode, 2 | 4 | 5)),
            lacp_fast: Some(lacp_fast).filter(|_| mode == 4),
            min_links: number("bond-min-links")?,
            more: self.bond_options()?,
        })
    }

    fn bond_options(&self) -> Result<BTreeMap<String, u32>> {
        let mut more = BTreeMap::new();
        for (key, text) in self.options() {
            if let Some(option) = key.strip_prefix("bond-").and_then(bond_option) {
                let value = option.value(text).ok_or_else(|| self.wrong(&format!("unknown {key} '{text}'")))?;
                more.insert(option.name().to_owned(), value);
            }
        }
        Ok(more)
    }

    fn vxlan(&self, id: u32) -> Result<Vxlan> {
        let address = |key: &str| -> Result<Option<IpAddr>> {
            self.get(key)
                .map(|text| text.parse().map_err(|_| self.wrong(&format!("{key} '{text}' is no address"))))
                .transpose()
        };
        let remotes =
            self.options().filter(|(key, _)| *key == "vxlan-remoteip").flat_map(|(_, list)| list.split_whitespace());
        let remotes =
            remotes.map(|text| text.parse().map_err(|_| self.wrong(&format!("vxlan-remoteip '{text}' is no address"))));
        Ok(Vxlan {
            id,
            local: address("vxlan-local-tunnelip")?,
            group: address("vxlan-svcnodeip")?,
            device: self.get("vxlan-physdev").map(str::to_owned),
            port: self.number("vxlan-port")?.unwrap_or(4789),
            remotes: remotes.collect::<Result<_>>()?,
        })
    }

    /// On a VLAN-aware bridge all ports carry its VLANs, untagged in the first, unless they say otherwise.
    fn vlans_of_ports(&self, wanted: &mut Wanted) -> Result<()> {
        let vids = self.vids("bridge-vids")?.unwrap_or_else(|| (2..=4094).collect());
        let pvid = self.number("bridge-pvid")?.unwrap_or(1);
        for port in self.list("bridge-ports") {
            if let Some(link) = wanted.state.links.get_mut(port) {
                link.vlans.get_or_insert_with(|| PortVlans::access(pvid, vids.clone()));
            }
        }
        Ok(())
    }

    /// VLANs that a port states itself.
    fn port_vlans(&self) -> Result<Option<PortVlans>> {
        if self.get("bridge-ports").is_some() {
            return Ok(None);
        }
        if let Some(access) = self.number("bridge-access")? {
            return Ok(Some(PortVlans::access(access, [])));
        }
        let (vids, pvid) = (self.vids("bridge-vids")?, self.number("bridge-pvid")?);
        Ok((vids.is_some() || pvid.is_some()).then(|| PortVlans::access(pvid.unwrap_or(1), vids.unwrap_or_default())))
    }

    fn vids(&self, key: &str) -> Result<Option<BTreeSet<u16>>> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let ranges =
            super::Port::parse_trunks(text).map_err(|error| self.wrong(&format!("{key}: {}", error.message())))?;
        Ok(Some(ranges.into_iter().flatten().collect()))
    }

    fn addresses(&self) -> Result<BTreeSet<Net>> {
        let mut found = BTreeSet::new();
        for stanza in self.stanzas.iter().filter(|stanza| stanza.method != "dhcp") {
            let first_mask = stanza.options.iter().find(|(key, _)| key == "netmask").map(|(_, mask)| mask.as_str());
            for (at, (_, text)) in stanza.options.iter().enumerate().filter(|(_, (key, _))| key == "address") {
                // Its own mask stands behind it, before the next address.
                let own = stanza.options[at + 1..].iter().take_while(|(key, _)| key != "address");
                let own = own.filter(|(key, _)| key == "netmask").map(|(_, mask)| mask.as_str()).last();
                let mask = own.or(first_mask);
                let place = |what: String| Error::new(format!("{}: {what}", stanza.place));
                let net = parse_net(text, mask)
                    .ok_or_else(|| place(format!("address '{text}' of '{}' is none", self.name)))?;
                if stanza.family == "inet" && net.address.is_ipv6() || stanza.family == "inet6" && net.address.is_ipv4()
                {
                    return Err(place(format!("address '{text}' of '{}' is of another family", self.name)));
                }
                found.insert(net);
            }
            if stanza.method == "static" && stanza.options.iter().all(|(key, _)| key != "address") {
                return Err(Error::new(format!("{}: '{}' is static and has no address", stanza.place, self.name)));
            }
        }
        Ok(found)
    }

    /// Whether the link has addresses of this family, and each of them stands for itself. Then the gateway's address is of
    /// another network, as with many who rent out machines.
    fn is_alone(&self, wanted: &Wanted, via: IpAddr) -> bool {
        let nets = wanted.state.links.get(self.name).and_then(|link| link.addresses.as_ref());
        let mut nets = nets.into_iter().flatten().filter(|net| net.address.is_ipv4() == via.is_ipv4()).peekable();
        let longest = if via.is_ipv4() { 32 } else { 128 };
        nets.peek().is_some() && nets.all(|net| net.prefix == longest && net.address != via)
    }

    fn gateways(&self, wanted: &mut Wanted) -> Result<()> {
        let mut peers = Vec::new();
        for (key, text) in self.options().filter(|(key, _)| *key == "pointopoint") {
            let peer = text.split('/').next().and_then(|peer| peer.parse().ok());
            let peer: IpAddr = peer.ok_or_else(|| self.wrong(&format!("{key} '{text}' is no address")))?;
            let to = Net { address: peer, prefix: if peer.is_ipv4() { 32 } else { 128 } };
            let link = self.name.to_owned();
            wanted.state.routes.insert(Route { to, via: None, link, metric: None, onlink: false });
            peers.push(peer);
        }
        for (key, text) in self.options().filter(|(key, _)| *key == "gateway") {
            let via: IpAddr = text.parse().map_err(|_| self.wrong(&format!("{key} '{text}' is no address")))?;
            let any = if via.is_ipv4() { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u16; 8]) };
            let metric = self.number("metric")?;
            let to = Net { address: any, prefix: 0 };
            let onlink = self.is_alone(wanted, via) || peers.contains(&via);
            wanted.state.routes.insert(Route { to, via: Some(via), link: self.name.to_owned(), metric, onlink });
        }
        Ok(())
    }

    fn commands(&self, wanted: &mut Wanted) {
        let lines = |keys: &[&str]| -> Vec<String> {
            let mut lines: Vec<String> = Vec::new();
            for (_, line) in self.options().filter(|(key, _)| keys.contains(key)) {
                if !lines.iter().any(|known| known == line) {
                    lines.push(line.to_owned());
                }
            }
            lines
        };
        let commands = Commands {
            pre_up: lines(&["pre-up"]),
            up: lines(&["up", "post-up"]),
            down: lines(&["down", "pre-down"]),
            post_down: lines(&["post-down"]),
        };
        if commands != Commands::default() {
            wanted.commands.insert(self.name.to_owned(), commands);
        }
    }

    fn dhcp(&self, wanted: &mut Wanted) {
        let asks = |family: &str| self.stanzas.iter().any(|stanza| stanza.family == family && stanza.method == "dhcp");
        if asks("inet") || asks("inet6") {
            wanted.dhcp.insert(self.name.to_owned(), (asks("inet"), asks("inet6")));
        }
    }

    fn check_name(&self) -> Result<()> {
        if is_link_name(self.name) {
            Ok(())
        } else {
            Err(self.wrong(&format!("'{}' is no name for an interface", self.name)))
        }
    }

    fn mac(&self) -> Result<Option<String>> {
        let Some(text) = self.get("hwaddress") else { return Ok(None) };
        let text = text.strip_prefix("ether").unwrap_or(text).trim().to_ascii_lowercase();
        let octets: Vec<&str> = text.split(':').collect();
        let is_octet = |octet: &&str| octet.len() == 2 && u8::from_str_radix(octet, 16).is_ok();
        if octets.len() != 6 || !octets.iter().all(is_octet) {
            return Err(self.wrong(&format!("hwaddress '{text}' is none")));
        }
        Ok(Some(text))
    }

    fn options(&self) -> impl Iterator<Item = (&str, &str)> {
        self.stanzas
            .iter()
            .flat_map(|stanza| &stanza.options)
            .map(|(key, value)| (if key == "ovs-mtu" { "mtu" } else { key.as_str() }, value.as_str()))
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.options().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    pub(super) fn list<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let lists = self.options().filter(move |(name, _)| *name == key);
        lists.flat_map(|(_, list)| list.split_whitespace()).filter(|port| *port != "none")
    }

    fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(is_on)
    }

    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>> {
        self.get(key)
            .map(|text| text.parse().map_err(|_| self.wrong(&format!("{key} '{text}' is no number"))))
            .transpose()
    }

    fn decimal(&self, key: &str) -> Result<Option<f64>> {
        self.number(key)
    }

    pub(super) fn place(&self) -> String {
        self.stanzas.first().map_or_else(|| self.place.clone(), |stanza| stanza.place.clone())
    }

    pub(super) fn wrong(&self, what: &str) -> Error {
        Error::new(format!("{}: {what}", self.place()))
    }
}

fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "on" | "yes" | "1" | "true")
}

/// An address with its mask, which may stand apart; without one the address stands alone.
fn parse_net(text: &str, mask: Option<&str>) -> Option<Net> {
    if text.contains('/') {
        return text.parse().ok();
    }
    let address: IpAddr = text.parse().ok()?;
    let prefix = match mask {
        None => {
            if address.is_ipv4() {
                32
            } else {
                128
            }
        }
        Some(mask) => match mask.parse::<std::net::Ipv4Addr>() {
            Ok(mask) if u32::from(mask).leading_ones() + u32::from(mask).trailing_zeros() < 32 => return None,
            Ok(mask) => u32::from(mask).leading_ones() as u8,
            Err(_) => mask.parse().ok()?,
        },
    };
    format!("{address}/{prefix}").parse().ok()
}
