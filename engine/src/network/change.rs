//! One step of a plan, and how a person reads it.

use super::netlink::PortVlans;
use super::state::{Bond, Bridge, Kind, Net, PortFlags, Route};
use std::fmt;
use std::net::IpAddr;

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A command line of the administrator.
    Command {
        /// Its interface.
        name: String,
        /// `pre-up`, `up`, `down`, `post-down`.
        phase: &'static str,
        /// What the shell gets.
        line: String,
    },
    /// Ends the DHCP client of an interface.
    StopDhcp(String),
    /// Starts the DHCP client.
    StartDhcp {
        /// The interface.
        name: String,
        /// For IPv4.
        four: bool,
        /// For IPv6.
        six: bool,
    },
    /// Takes a port out of a bridge or bond.
    Release {
        /// The port.
        port: String,
        /// What it leaves.
        from: String,
    },
    /// Puts a port into a bridge or bond.
    Attach {
        /// The port.
        port: String,
        /// What it joins.
        to: String,
    },
    /// Makes a link.
    Create {
        /// Its name.
        name: String,
        /// What it is.
        kind: Kind,
        /// Its hardware address.
        mac: Option<String>,
    },
    /// Removes a link.
    Delete {
        /// Its name.
        name: String,
        /// What it is, for people.
        kind: String,
    },
    /// Changes options of a bridge or bond.
    SetOptions {
        /// Its name.
        name: String,
        /// What is wanted; of a bond, only what differs.
        kind: Kind,
    },
    /// Adds or removes an other end of a VXLAN.
    Remote {
        /// The VXLAN.
        name: String,
        /// The other end.
        remote: IpAddr,
        /// Whether it is added.
        add: bool,
    },
    /// Sets the MTU.
    SetMtu(String, u32),
    /// Sets the hardware address.
    SetMac(String, String),
    /// Sets the VLANs of a port, or of a bridge's own end.
    SetVlans {
        /// The link.
        name: String,
        /// What it has.
        old: PortVlans,
        /// What it gets.
        new: PortVlans,
        /// Whether it is the bridge itself.
        on_bridge: bool,
    },
    /// Sets flags of a bridge's port.
    SetPort {
        /// The port.
        name: String,
        /// What is wanted.
        flags: PortFlags,
    },
    /// Switches a link on.
    Up(String),
    /// Switches a link off.
    Down(String),
    /// Adds an address.
    AddAddress(String, Net),
    /// Removes an address.
    DeleteAddress(String, Net),
    /// Adds or replaces a route.
    AddRoute(Route),
    /// Removes a route.
    DeleteRoute(Route),
    /// Calls `ovs-vsctl`.
    OpenVSwitch(Vec<String>),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Command { name, phase, line } => write!(f, "{name}: run {phase} '{line}'"),
            Change::StopDhcp(name) => write!(f, "{name}: end the DHCP client"),
            Change::StartDhcp { name, four, six } => {
                let families = [(*four, " IPv4"), (*six, " IPv6")];
                let families: String = families.iter().filter(|(is, _)| *is).map(|(_, name)| *name).collect();
                write!(f, "{name}: ask DHCP for{families}")
            }
            Change::Release { port, from } => write!(f, "{port}: take out of '{from}'"),
            Change::Attach { port, to } => write!(f, "{port}: put into '{to}'"),
            Change::Create { name, kind, .. } => write!(f, "{name}: create {}{}", kind.word(), details(kind)),
            Change::Delete { name, kind } => write!(f, "{name}: delete {kind}"),
            Change::SetOptions { name, kind } => write!(f, "{name}: set{}", details(kind)),
            Change::Remote { name, remote, add } => {
                write!(f, "{name}: {} remote {remote}", if *add { "add" } else { "remove" })
            }
            Change::SetMtu(name, mtu) => write!(f, "{name}: set mtu {mtu}"),
            Change::SetMac(name, mac) => write!(f, "{name}: set address {mac}"),
            Change::SetVlans { name, new, .. } => write!(f, "{name}: set vlans {}", new.describe()),
            Change::SetPort { name, flags } => write!(f, "{name}: set port{}", port_flags(flags)),
            Change::Up(name) => write!(f, "{name}: switch on"),
            Change::Down(name) => write!(f, "{name}: switch off"),
            Change::AddAddress(name, net) => write!(f, "{name}: add address {net}"),
            Change::DeleteAddress(name, net) => write!(f, "{name}: remove address {net}"),
            Change::AddRoute(route) => write!(f, "{}: add route {route}", route.link),
            Change::DeleteRoute(route) => write!(f, "{}: remove route {route}", route.link),
            Change::OpenVSwitch(words) => write!(f, "ovs-vsctl {}", words.join(" ")),
        }
    }
}

fn details(kind: &Kind) -> String {
    match kind {
        Kind::Bridge(bridge) => bridge_options(bridge),
        Kind::Bond(bond) => bond_options(bond),
        Kind::Vlan { raw, id, service } => format!(" {id} of '{raw}'{}", if *service { " (802.1ad)" } else { "" }),
        Kind::Vxlan(vxlan) => format!(" {}", vxlan.id),
        _ => String::new(),
    }
}

fn bridge_options(bridge: &Bridge) -> String {
    let seconds = |value: Option<u32>| value.map(|value| (f64::from(value) / 100.0).to_string());
    list(&[
        ("stp", bridge.stp.map(on_off)),
        ("forward-delay", seconds(bridge.forward_delay)),
        ("hello", seconds(bridge.hello_time)),
        ("max-age", seconds(bridge.max_age)),
        ("ageing", seconds(bridge.ageing_time)),
        ("priority", bridge.priority.map(|value| value.to_string())),
        ("vlan-aware", bridge.vlan_aware.map(on_off)),
        ("multicast-snooping", bridge.multicast_snooping.map(on_off)),
        ("multicast-querier", bridge.multicast_querier.map(on_off)),
    ])
}

fn bond_options(bond: &Bond) -> String {
    let more: String = bond.more.iter().map(|(name, value)| format!(" {name} {value}")).collect();
    let name = |mode: u8| super::interfaces::BOND_MODES.get(usize::from(mode)).map(|mode| (*mode).to_owned());
    let usual = list(&[
        ("mode", bond.mode.and_then(name)),
        ("miimon", bond.miimon.map(|value| value.to_string())),
        ("updelay", bond.updelay.map(|value| value.to_string())),
        ("downdelay", bond.downdelay.map(|value| value.to_string())),
        ("primary", bond.primary.clone().map(|port| if port.is_empty() { "none".into() } else { port })),
        ("hash-policy", bond.hash_policy.map(|value| value.to_string())),
        ("lacp-rate", bond.lacp_fast.map(|fast| if fast { "fast".into() } else { "slow".into() })),
        ("min-links", bond.min_links.map(|value| value.to_string())),
    ]);
    usual + &more
}

fn port_flags(flags: &PortFlags) -> String {
    list(&[
        ("learning", flags.learning.map(on_off)),
        ("unicast-flood", flags.unicast_flood.map(on_off)),
        ("multicast-flood", flags.multicast_flood.map(on_off)),
        ("arp-nd-suppress", flags.neighbour_suppression.map(on_off)),
        ("isolated", flags.isolated.map(on_off)),
        ("cost", flags.cost.map(|value| value.to_string())),
        ("priority", flags.priority.map(|value| value.to_string())),
    ])
}

fn list(parts: &[(&str, Option<String>)]) -> String {
    parts.iter().filter_map(|(name, value)| Some(format!(" {name} {}", value.as_ref()?))).collect()
}

fn on_off(is: bool) -> String {
    if is { "on" } else { "off" }.to_owned()
}
