//! What the kernel has, as a [`State`].

use super::{Netlink, PortVlans, dump};
use crate::Result;
use crate::network::state::{Bond, Bridge, Kind, Link, Net, PortFlags, Route, State, Vxlan};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{
    BondLacpRate, BridgeStpState, InfoBond, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoVlan,
    InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, VlanProtocol,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

impl Netlink {
    /// Everything that a plan looks at, in five questions.
    pub fn state(&self) -> Result<State> {
        let links = self.links()?;
        let names: BTreeMap<u32, String> =
            links.iter().filter_map(|link| Some((link.header.index, dump::name(link)?.to_owned()))).collect();
        let mut state = State::default();
        for message in &links {
            if let Some(name) = names.get(&message.header.index) {
                state.links.insert(name.clone(), link(message, &names));
            }
        }
        let is_aware = |name: &str| matches!(&state.links.get(name).map(|link| &link.kind), Some(Kind::Bridge(bridge)) if bridge.vlan_aware == Some(true));
        let aware: BTreeSet<String> = state.links.keys().filter(|name| is_aware(name)).cloned().collect();
        if !aware.is_empty() {
            self.add_vlans(&mut state, &names, &aware)?;
        }
        self.add_addresses(&mut state, &names)?;
        self.add_routes(&mut state, &names)?;
        if state.links.values().any(|link| matches!(link.kind, Kind::Vxlan(_))) {
            self.add_remotes(&mut state, &names)?;
        }
        Ok(state)
    }

    /// All addresses of a link, leased ones included.
    pub fn addresses_of(&self, name: &str) -> Result<Vec<Net>> {
        let index = super::index_of(name)?;
        let mut found = Vec::new();
        for answer in self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(message) = answer
                && message.header.index == index
            {
                found.extend(address(&message, false));
            }
        }
        Ok(found)
    }

    fn add_vlans(&self, state: &mut State, names: &BTreeMap<u32, String>, aware: &BTreeSet<String>) -> Result<()> {
        let vlans = self.port_vlans()?;
        for (index, name) in names {
            let Some(link) = state.links.get_mut(name) else { continue };
            let is_port = link.controller.as_ref().is_some_and(|controller| aware.contains(controller));
            if is_port || aware.contains(name) {
                link.vlans = Some(vlans.get(index).cloned().unwrap_or_else(PortVlans::default));
            }
        }
        Ok(())
    }

    fn add_addresses(&self, state: &mut State, names: &BTreeMap<u32, String>) -> Result<()> {
        for answer in self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            let RouteNetlinkMessage::NewAddress(message) = answer else { continue };
            let Some(link) = names.get(&message.header.index).and_then(|name| state.links.get_mut(name)) else {
                continue;
            };
            if let Some(net) = address(&message, true) {
                link.addresses.get_or_insert_default().insert(net);
            }
        }
        Ok(())
    }

    fn add_routes(&self, state: &mut State, names: &BTreeMap<u32, String>) -> Result<()> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            for answer in self.dump(RouteNetlinkMessage::GetRoute(question))? {
                let RouteNetlinkMessage::NewRoute(message) = answer else { continue };
                state.routes.extend(route(&message, names));
            }
        }
        Ok(())
    }

    fn add_remotes(&self, state: &mut State, names: &BTreeMap<u32, String>) -> Result<()> {
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        for answer in self.dump(RouteNetlinkMessage::GetNeighbour(question))? {
            let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
            let link = names.get(&message.header.ifindex).and_then(|name| state.links.get_mut(name));
            let Some(Link { kind: Kind::Vxlan(vxlan), .. }) = link else { continue };
            let is_default = message.attributes.iter().any(
                |attribute| matches!(attribute, NeighbourAttribute::LinkLayerAddress(mac) if mac.iter().all(|byte| *byte == 0)),
            );
            let remote = message.attributes.iter().find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(address) => remote(address),
                _ => None,
            });
            if let Some(remote) = remote.filter(|remote| is_default && vxlan.group != Some(*remote)) {
                vxlan.remotes.insert(remote);
            }
        }
        Ok(())
    }
}

fn remote(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some((*address).into()),
        NeighbourAddress::Inet6(address) => Some((*address).into()),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(bytes.as_slice()).ok().map(IpAddr::from),
            _ => None,
        },
        _ => None,
    }
}

fn link(message: &LinkMessage, names: &BTreeMap<u32, String>) -> Link {
    let mut link = Link {
        kind: kind(message, names),
        up: message.header.flags.contains(LinkFlags::Up),
        controller: Some(String::new()),
        addresses: Some(BTreeSet::new()),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = Some(*mtu),
            LinkAttribute::Address(bytes) if bytes.len() == 6 => link.mac = Some(mac_text(bytes)),
            LinkAttribute::Controller(index) => link.controller = Some(names.get(index).cloned().unwrap_or_default()),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::PortData(InfoPortData::BridgePort(flags)) = info {
                        link.port = port_flags(flags);
                    }
                }
            }
            _ => {}
        }
    }
    link
}

/// A hardware address as text.
pub fn mac_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

fn kind(message: &LinkMessage, names: &BTreeMap<u32, String>) -> Kind {
    if message.header.link_layer_type == LinkLayerType::Loopback {
        return Kind::Loopback;
    }
    let data = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => {
            infos.iter().find_map(|info| if let LinkInfo::Data(data) = info { Some(data) } else { None })
        }
        _ => None,
    });
    let below = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => names.get(index).cloned(),
        _ => None,
    });
    match (dump::kind(message), data) {
        (None, _) => Kind::Hardware,
        (Some(InfoKind::Bridge), Some(InfoData::Bridge(options))) => Kind::Bridge(bridge(options)),
        (Some(InfoKind::Bond), Some(InfoData::Bond(options))) => Kind::Bond(bond(options, names)),
        (Some(InfoKind::Vlan), Some(InfoData::Vlan(options))) => {
            let id = options.iter().find_map(|option| if let InfoVlan::Id(id) = option { Some(*id) } else { None });
            let service = options.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
            Kind::Vlan { raw: below.unwrap_or_default(), id: id.unwrap_or(0), service }
        }
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(options))) => Kind::Vxlan(vxlan(options, names)),
        (Some(InfoKind::Dummy), _) => Kind::Dummy,
        (Some(InfoKind::Other(kind)), _) if kind == "openvswitch" => Kind::OpenVSwitch,
        (Some(kind), _) => Kind::Other(kind.to_string()),
    }
}

fn bridge(options: &[InfoBridge]) -> Bridge {
    let mut bridge = Bridge::default();
    for option in options {
        match option {
            InfoBridge::StpState(state) => bridge.stp = Some(*state != BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(time) => bridge.forward_delay = Some(*time),
            InfoBridge::HelloTime(time) => bridge.hello_time = Some(*time),
            InfoBridge::MaxAge(time) => bridge.max_age = Some(*time),
            InfoBridge::AgeingTime(time) => bridge.ageing_time = Some(*time),
            InfoBridge::Priority(priority) => bridge.priority = Some(*priority),
            InfoBridge::VlanFiltering(is) => bridge.vlan_aware = Some(*is),
            InfoBridge::MulticastSnooping(is) => bridge.multicast_snooping = Some(*is),
            InfoBridge::MulticastQuerier(is) => bridge.multicast_querier = Some(*is),
            _ => {}
        }
    }
    bridge
}

fn bond(options: &[InfoBond], names: &BTreeMap<u32, String>) -> Bond {
    let mut bond = Bond::default();
    for option in options {
        match option {
            InfoBond::Mode(mode) => bond.mode = Some(u8::from(*mode)),
            InfoBond::MiiMon(time) => bond.miimon = Some(*time),
            InfoBond::UpDelay(time) => bond.updelay = Some(*time),
            InfoBond::DownDelay(time) => bond.downdelay = Some(*time),
            InfoBond::Primary(index) => bond.primary = names.get(index).cloned(),
            InfoBond::XmitHashPolicy(policy) => bond.hash_policy = Some(u8::from(*policy)),
            InfoBond::AdLacpRate(rate) => bond.lacp_fast = Some(*rate == BondLacpRate::Fast),
            InfoBond::MinLinks(count) => bond.min_links = Some(*count),
            other => bond.more.extend(super::bond::value(other).map(|(name, value)| (name.to_owned(), value))),
        }
    }
    bond
}

fn vxlan(options: &[InfoVxlan], names: &BTreeMap<u32, String>) -> Vxlan {
    let mut vxlan = Vxlan::default();
    for option in options {
        match option {
            InfoVxlan::Id(id) => vxlan.id = *id,
            InfoVxlan::Group(group) => vxlan.group = Some((*group).into()),
            InfoVxlan::Group6(group) => vxlan.group = Some((*group).into()),
            InfoVxlan::Local(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Local6(local) => vxlan.local = Some((*local).into()),
            InfoVxlan::Link(index) => vxlan.device = names.get(index).cloned(),
            InfoVxlan::Port(port) => vxlan.port = *port,
            _ => {}
        }
    }
    vxlan
}

fn port_flags(options: &[InfoBridgePort]) -> PortFlags {
    let mut flags = PortFlags::default();
    for option in options {
        match option {
            InfoBridgePort::Learning(is) => flags.learning = Some(*is),
            InfoBridgePort::UnicastFlood(is) => flags.unicast_flood = Some(*is),
            InfoBridgePort::MulticastFlood(is) => flags.multicast_flood = Some(*is),
            InfoBridgePort::NeighSupress(is) => flags.neighbour_suppression = Some(*is),
            InfoBridgePort::Isolated(is) => flags.isolated = Some(*is),
            InfoBridgePort::Cost(cost) => flags.cost = Some(*cost),
            InfoBridgePort::Priority(priority) => flags.priority = Some(*priority),
            _ => {}
        }
    }
    flags
}

/// An address; on wish only one that somebody has set: leased and advertised ones end by themselves.
fn address(message: &AddressMessage, only_set: bool) -> Option<Net> {
    let mut permanent = message.header.flags.contains(AddressHeaderFlags::Permanent);
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => peer = Some(*address),
            AddressAttribute::Flags(flags) => permanent = flags.contains(AddressFlags::Permanent),
            _ => {}
        }
    }
    (permanent || !only_set).then_some(Net { address: local.or(peer)?, prefix: message.header.prefix_len })
}

/// A route that somebody has set in the main table.
fn route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<Route> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN
        || header.kind != RouteType::Unicast
        || !matches!(header.protocol, RouteProtocol::Boot | RouteProtocol::Static)
    {
        return None;
    }
    let any =
        if header.address_family == AddressFamily::Inet { IpAddr::from([0u8; 4]) } else { IpAddr::from([0u16; 8]) };
    let (mut to, mut via, mut link, mut metric) = (any, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = ip(address)?,
            RouteAttribute::Gateway(address) => via = ip(address),
            RouteAttribute::Oif(index) => link = names.get(index).cloned(),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            _ => {}
        }
    }
    let to = Net { address: to, prefix: header.destination_prefix_length };
    Some(Route { to, via, link: link?, metric, onlink: header.flags.contains(RouteFlags::Onlink) })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
