//! Links, addresses and routes as plain values: what the file wants and what the kernel has are of the same type.
//!
//! A part that is `None` is not looked at: a file does not say everything, a snapshot of the kernel does.

use super::bond_options::{BOND_OPTIONS, bond_option};
use super::netlink::PortVlans;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Links by name.
    pub links: BTreeMap<String, Link>,
    /// Routes of the main table that somebody has set.
    pub routes: BTreeSet<Route>,
    /// Bridges and ports that Open vSwitch has, with the bridge of each port; empty for bridges themselves.
    #[serde(default)]
    pub open_vswitch: BTreeMap<String, String>,
}

/// One link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// What it is.
    pub kind: Kind,
    /// Whether it is switched on.
    pub up: bool,
    /// MTU.
    pub mtu: Option<u32>,
    /// Hardware address, lower case.
    pub mac: Option<String>,
    /// The bridge or bond it is a port of; `Some("")` is none.
    pub controller: Option<String>,
    /// Addresses, without those that the kernel or a router has given.
    pub addresses: Option<BTreeSet<Net>>,
    /// VLANs on a VLAN-aware bridge: of this port, or of the bridge itself.
    pub vlans: Option<PortVlans>,
    /// Flags of a bridge's port.
    pub port: PortFlags,
}

/// What a link is, with what only links of this kind have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Hardware, or something that is not ours to make.
    #[default]
    Hardware,
    /// The loopback device.
    Loopback,
    /// A bridge.
    Bridge(Bridge),
    /// A bond.
    Bond(Bond),
    /// A VLAN of another link.
    Vlan {
        /// The link below.
        raw: String,
        /// Its number.
        id: u16,
        /// `802.1ad` instead of `802.1q`.
        service: bool,
    },
    /// A VXLAN.
    Vxlan(Vxlan),
    /// A link that carries nothing.
    Dummy,
    /// Made by Open vSwitch.
    OpenVSwitch,
    /// One end of a cable in software, a tap, …: made by others.
    Other(String),
}

/// Options of a bridge. Times are in hundredths of a second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Spanning tree.
    pub stp: Option<bool>,
    /// Forward delay.
    pub forward_delay: Option<u32>,
    /// Hello time.
    pub hello_time: Option<u32>,
    /// Longest age.
    pub max_age: Option<u32>,
    /// How long an address is remembered.
    pub ageing_time: Option<u32>,
    /// Priority in the spanning tree.
    pub priority: Option<u16>,
    /// Whether it tells VLANs apart.
    pub vlan_aware: Option<bool>,
    /// Whether multicast goes only to who has asked for it.
    pub multicast_snooping: Option<bool>,
    /// Whether it asks who wants multicast.
    pub multicast_querier: Option<bool>,
}

/// Options of a bond.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bond {
    /// Number of the mode, as the kernel counts; none in a change that leaves it.
    pub mode: Option<u8>,
    /// Milliseconds between looks at the cables.
    pub miimon: Option<u32>,
    /// Milliseconds to wait before a port is used.
    pub updelay: Option<u32>,
    /// Milliseconds to wait before a port is given up.
    pub downdelay: Option<u32>,
    /// The port that is preferred (active-backup); empty means none.
    pub primary: Option<String>,
    /// Number of the hash policy, as the kernel counts.
    pub hash_policy: Option<u8>,
    /// LACP: one packet a second instead of one in thirty.
    pub lacp_fast: Option<bool>,
    /// Ports that must be up.
    pub min_links: Option<u32>,
    /// Options of [`super::bond_options`] by name.
    #[serde(default)]
    pub more: BTreeMap<String, u32>,
}

/// Options of a VXLAN.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vxlan {
    /// Its number.
    pub id: u32,
    /// Own end of the tunnel.
    pub local: Option<IpAddr>,
    /// Multicast group or service node.
    pub group: Option<IpAddr>,
    /// The link it goes through.
    pub device: Option<String>,
    /// UDP port.
    pub port: u16,
    /// Other ends, each with a default entry in the forwarding table.
    pub remotes: BTreeSet<IpAddr>,
}

/// Flags of a bridge's port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortFlags {
    /// Learns addresses.
    pub learning: Option<bool>,
    /// Sends frames to unknown addresses.
    pub unicast_flood: Option<bool>,
    /// Sends multicast nobody has asked for.
    pub multicast_flood: Option<bool>,
    /// Answers ARP and neighbour questions itself.
    pub neighbour_suppression: Option<bool>,
    /// Reaches no other isolated port.
    pub isolated: Option<bool>,
    /// Cost in the spanning tree.
    pub cost: Option<u32>,
    /// Priority in the spanning tree.
    pub priority: Option<u16>,
}

/// An address with the length of its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Net {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is not an address with prefix");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest { Err(wrong()) } else { Ok(Net { address, prefix }) }
    }
}

impl Serialize for Net {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Net {
    /// Whether it only holds on its link, as each IPv6 link has one by itself.
    pub fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfe80)
    }

    /// Whether an address lies in this network.
    pub fn contains(&self, other: IpAddr) -> bool {
        match (self.address, other) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                u32::from(own) & mask == u32::from(other) & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                u128::from(own) & mask == u128::from(other) & mask
            }
            _ => false,
        }
    }
}

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// Where to; `0.0.0.0/0` and `::/0` are the default routes.
    pub to: Net,
    /// Next hop.
    pub via: Option<IpAddr>,
    /// Through which link.
    pub link: String,
    /// Metric.
    pub metric: Option<u32>,
    /// The next hop is behind this link, although no network of the link has it.
    #[serde(default)]
    pub onlink: bool,
}

impl Route {
    /// Whether a route of the kernel's is this one. One without a metric is met by any.
    pub fn is_met_by(&self, other: &Route) -> bool {
        self.to == other.to
            && self.via == other.via
            && self.link == other.link
            && (self.metric.is_none() || self.metric == other.metric)
    }

    /// Whether everything goes this way that has no better one.
    pub fn is_default(&self) -> bool {
        self.to.prefix == 0
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let six = if self.to.address.is_ipv6() { "-6 " } else { "" };
        match self.is_default() {
            true => write!(f, "{six}default")?,
            false => write!(f, "{}", self.to)?,
        }
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        write!(f, " dev {}", self.link)?;
        if let Some(metric) = self.metric {
            write!(f, " metric {metric}")?;
        }
        if self.onlink { write!(f, " onlink") } else { Ok(()) }
    }
}

impl Bond {
    /// A bond of which nothing has been said.
    pub fn fresh() -> Self {
        let more = BOND_OPTIONS.iter().map(|option| (option.name().to_owned(), option.usual)).collect();
        Bond { more, ..Bond::default() }
    }

    /// The options that differ from those of another. The kernel takes some only from a bond without ports, even when they
    /// stay as they are.
    pub fn without_same(&self, now: &Bond) -> Bond {
        Bond {
            mode: new_value(&self.mode, &now.mode),
            miimon: new_value(&self.miimon, &now.miimon),
            updelay: new_value(&self.updelay, &now.updelay),
            downdelay: new_value(&self.downdelay, &now.downdelay),
            primary: new_value(&self.primary, &now.primary),
            hash_policy: new_value(&self.hash_policy, &now.hash_policy),
            lacp_fast: new_value(&self.lacp_fast, &now.lacp_fast),
            min_links: new_value(&self.min_links, &now.min_links),
            more: self
                .more
                .iter()
                .filter(|(name, value)| now.more.get(*name) != Some(value))
                .map(|(name, value)| (name.clone(), *value))
                .collect(),
        }
    }
}

impl Link {
    /// What was said before and is said no more goes back to the kernel's usual value. The usual cost of a port depends on
    /// its card; it stays as it is.
    pub fn take_usual_values(&mut self, before: &Link) {
        fn usual<T>(wanted: &mut Option<T>, before: &Option<T>, value: T) {
            if wanted.is_none() && before.is_some() {
                *wanted = Some(value);
            }
        }
        let (port, was) = (&mut self.port, &before.port);
        usual(&mut port.learning, &was.learning, true);
        usual(&mut port.unicast_flood, &was.unicast_flood, true);
        usual(&mut port.multicast_flood, &was.multicast_flood, true);
        usual(&mut port.neighbour_suppression, &was.neighbour_suppression, false);
        usual(&mut port.isolated, &was.isolated, false);
        usual(&mut port.priority, &was.priority, 32);
        if let (Kind::Bridge(bridge), Kind::Bridge(was)) = (&mut self.kind, &before.kind) {
            usual(&mut bridge.hello_time, &was.hello_time, 200);
            usual(&mut bridge.max_age, &was.max_age, 2_000);
            usual(&mut bridge.ageing_time, &was.ageing_time, 30_000);
            usual(&mut bridge.priority, &was.priority, 32_768);
            usual(&mut bridge.multicast_snooping, &was.multicast_snooping, true);
            usual(&mut bridge.multicast_querier, &was.multicast_querier, false);
        }
        if let (Kind::Bond(bond), Kind::Bond(was)) = (&mut self.kind, &before.kind) {
            for (name, option) in was.more.keys().filter_map(|name| Some((name, bond_option(name)?))) {
                bond.more.entry(name.clone()).or_insert(option.usual);
            }
        }
    }
}

/// What is wanted, if it differs. A part that nobody wants never does; one that the kernel does not know counts as zero.
fn new_value<T: PartialEq + Default + Clone>(wanted: &Option<T>, now: &Option<T>) -> Option<T> {
    wanted.clone().filter(|wanted| *wanted != now.clone().unwrap_or_default())
}

impl Kind {
    /// The word for people and for `ip`.
    pub fn word(&self) -> &str {
        match self {
            Kind::Hardware => "device",
            Kind::Loopback => "loopback",
            Kind::Bridge(_) => "bridge",
            Kind::Bond(_) => "bond",
            Kind::Vlan { .. } => "vlan",
            Kind::Vxlan(_) => "vxlan",
            Kind::Dummy => "dummy",
            Kind::OpenVSwitch => "openvswitch",
            Kind::Other(kind) => kind,
        }
    }

    /// Whether links of this kind are made and removed here.
    pub fn is_made(&self) -> bool {
        matches!(self, Kind::Bridge(_) | Kind::Bond(_) | Kind::Vlan { .. } | Kind::Vxlan(_) | Kind::Dummy)
    }
}
