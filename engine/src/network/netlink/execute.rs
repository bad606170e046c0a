//! Changes of links, addresses and routes, each as one request.

use super::{Netlink, Write, index_of};
use crate::network::change::Change;
use crate::network::state::{Bond, Bridge, Kind, Net, PortFlags, Route, Vxlan};
use crate::{Result, error::ResultExt};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BondLacpRate, BondMode, BondXmitHashPolicy, BridgeStpState, InfoBond, InfoBridge, InfoBridgePort, InfoData,
    InfoKind, InfoPortData, InfoPortKind, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    VlanProtocol,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

impl Netlink {
    /// Carries out a change of the kernel's state. Commands, DHCP and Open vSwitch are not its matter and answer false.
    pub fn execute(&self, change: &Change) -> Result<bool> {
        match change {
            Change::Create { name, kind, mac } => self.create(name, kind, mac.as_deref())?,
            Change::Delete { name, .. } => {
                self.write(RouteNetlinkMessage::DelLink(existing(name)?), Write::Existing)?;
            }
            Change::SetOptions { name, kind } => {
                let mut message = existing(name)?;
                message.attributes.push(LinkAttribute::LinkInfo(info(kind)?));
                self.write(RouteNetlinkMessage::NewLink(message), Write::Existing)?;
            }
            Change::Release { port, .. } => self.set(port, LinkAttribute::Controller(0))?,
            Change::Attach { port, to } => self.set(port, LinkAttribute::Controller(index_of(to)?))?,
            Change::SetMtu(name, mtu) => self.set(name, LinkAttribute::Mtu(*mtu))?,
            Change::SetMac(name, mac) => self.set(name, LinkAttribute::Address(mac_bytes(mac)?))?,
            Change::SetVlans { name, old, new, on_bridge } => {
                self.set_port_vlans(index_of(name)?, old, new, *on_bridge)?;
            }
            Change::SetPort { name, flags } => {
                let mut message = existing(name)?;
                let data = LinkInfo::PortData(InfoPortData::BridgePort(port_flags(flags)));
                message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bridge), data]));
                self.write(RouteNetlinkMessage::NewLink(message), Write::Existing)?;
            }
            Change::Up(name) | Change::Down(name) => {
                let mut message = existing(name)?;
                message.header.change_mask = LinkFlags::Up;
                if matches!(change, Change::Up(_)) {
                    message.header.flags = LinkFlags::Up;
                }
                self.write(RouteNetlinkMessage::NewLink(message), Write::Existing)?;
            }
            Change::AddAddress(name, net) => {
                self.write(RouteNetlinkMessage::NewAddress(address(name, net)?), Write::NewOrReplace)?;
            }
            Change::DeleteAddress(name, net) => {
                self.write(RouteNetlinkMessage::DelAddress(address(name, net)?), Write::Gone)?;
            }
            Change::AddRoute(wanted) => {
                self.write(RouteNetlinkMessage::NewRoute(route(wanted)?), Write::NewOrReplace)?;
            }
            Change::DeleteRoute(gone) => {
                self.write(RouteNetlinkMessage::DelRoute(route(gone)?), Write::Gone)?;
            }
            Change::Remote { name, remote: other, add } => self.remote(name, *other, *add)?,
            Change::Command { .. } | Change::StopDhcp(_) | Change::StartDhcp { .. } | Change::OpenVSwitch(_) => {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn create(&self, name: &str, kind: &Kind, mac: Option<&str>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::LinkInfo(info(kind)?));
        if let Kind::Vlan { raw, .. } = kind {
            message.attributes.push(LinkAttribute::Link(index_of(raw)?));
        }
        if let Some(mac) = mac {
            message.attributes.push(LinkAttribute::Address(mac_bytes(mac)?));
        }
        self.write(RouteNetlinkMessage::NewLink(message), Write::New)
    }

    fn set(&self, name: &str, attribute: LinkAttribute) -> Result<()> {
        let mut message = existing(name)?;
        message.attributes.push(attribute);
        self.write(RouteNetlinkMessage::NewLink(message), Write::Existing)
    }

    fn remote(&self, name: &str, remote: IpAddr, add: bool) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = index_of(name)?;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        let address = match remote {
            IpAddr::V4(address) => NeighbourAddress::Inet(address),
            IpAddr::V6(address) => NeighbourAddress::Inet6(address),
        };
        message.attributes =
            vec![NeighbourAttribute::LinkLayerAddress(vec![0; 6]), NeighbourAttribute::Destination(address)];
        match add {
            true => self.write(RouteNetlinkMessage::NewNeighbour(message), Write::Append),
            false => self.write(RouteNetlinkMessage::DelNeighbour(message), Write::Existing),
        }
    }
}

fn existing(name: &str) -> Result<LinkMessage> {
    let mut message = LinkMessage::default();
    message.header.index = index_of(name)?;
    Ok(message)
}

fn mac_bytes(text: &str) -> Result<Vec<u8>> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    bytes.map_err(|error| crate::Error::new(error.to_string())).context(|| format!("address '{text}'"))
}

fn info(kind: &Kind) -> Result<Vec<LinkInfo>> {
    let (kind, data) = match kind {
        Kind::Bridge(options) => (InfoKind::Bridge, Some(InfoData::Bridge(bridge(options)))),
        Kind::Bond(options) => (InfoKind::Bond, Some(InfoData::Bond(bond(options)?))),
        Kind::Vlan { id, service, .. } => {
            let protocol = if *service { VlanProtocol::Ieee8021Ad } else { VlanProtocol::Ieee8021Q };
            (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(*id), InfoVlan::Protocol(protocol)])))
        }
        Kind::Vxlan(options) => (InfoKind::Vxlan, Some(InfoData::Vxlan(vxlan(options)?))),
        Kind::Dummy => (InfoKind::Dummy, None),
        other => return Err(crate::Error::new(format!("a link of kind '{}' cannot be made", other.word()))),
    };
    let mut infos = vec![LinkInfo::Kind(kind)];
    infos.extend(data.map(LinkInfo::Data));
    Ok(infos)
}

fn bridge(bridge: &Bridge) -> Vec<InfoBridge> {
    let stp = bridge.stp.map(|is| if is { BridgeStpState::KernelStp } else { BridgeStpState::Disabled });
    let options = [
        stp.map(InfoBridge::StpState),
        bridge.forward_delay.map(InfoBridge::ForwardDelay),
        bridge.hello_time.map(InfoBridge::HelloTime),
        bridge.max_age.map(InfoBridge::MaxAge),
        bridge.ageing_time.map(InfoBridge::AgeingTime),
        bridge.priority.map(InfoBridge::Priority),
        bridge.vlan_aware.map(InfoBridge::VlanFiltering),
        bridge.multicast_snooping.map(InfoBridge::MulticastSnooping),
        bridge.multicast_querier.map(InfoBridge::MulticastQuerier),
    ];
    options.into_iter().flatten().collect()
}

fn bond(bond: &Bond) -> Result<Vec<InfoBond>> {
    let primary =
        bond.primary.as_deref().map(|port| if port.is_empty() { Ok(0) } else { index_of(port) }).transpose()?;
    let lacp = bond.lacp_fast.map(|fast| if fast { BondLacpRate::Fast } else { BondLacpRate::Slow });
    let options = [
        bond.mode.map(|mode| InfoBond::Mode(BondMode::from(mode))),
        bond.miimon.map(InfoBond::MiiMon),
        bond.updelay.map(InfoBond::UpDelay),
        bond.downdelay.map(InfoBond::DownDelay),
        primary.map(InfoBond::Primary),
        bond.hash_policy.map(|policy| InfoBond::XmitHashPolicy(BondXmitHashPolicy::from(policy))),
        lacp.map(InfoBond::AdLacpRate),
        bond.min_links.map(InfoBond::MinLinks),
    ];
    let more = bond.more.iter().filter_map(|(name, value)| super::bond::option(name, *value));
    Ok(options.into_iter().flatten().chain(more).collect())
}

fn vxlan(vxlan: &Vxlan) -> Result<Vec<InfoVxlan>> {
    let mut options = vec![InfoVxlan::Id(vxlan.id), InfoVxlan::Port(vxlan.port)];
    options.extend(vxlan.local.map(|local| match local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    }));
    options.extend(vxlan.group.map(|group| match group {
        IpAddr::V4(group) => InfoVxlan::Group(group),
        IpAddr::V6(group) => InfoVxlan::Group6(group),
    }));
    if let Some(device) = &vxlan.device {
        options.push(InfoVxlan::Link(index_of(device)?));
    }
    Ok(options)
}

fn port_flags(flags: &PortFlags) -> Vec<InfoBridgePort> {
    let options = [
        flags.learning.map(InfoBridgePort::Learning),
        flags.unicast_flood.map(InfoBridgePort::UnicastFlood),
        flags.multicast_flood.map(InfoBridgePort::MulticastFlood),
        flags.neighbour_suppression.map(InfoBridgePort::NeighSupress),
        flags.isolated.map(InfoBridgePort::Isolated),
        flags.cost.map(InfoBridgePort::Cost),
        flags.priority.map(InfoBridgePort::Priority),
    ];
    options.into_iter().flatten().collect()
}

fn address(name: &str, net: &Net) -> Result<AddressMessage> {
    let mut message = AddressMessage::default();
    message.header.index = index_of(name)?;
    message.header.prefix_len = net.prefix;
    message.header.family = family(net.address);
    message.attributes = vec![AddressAttribute::Local(net.address), AddressAttribute::Address(net.address)];
    if let IpAddr::V4(address) = net.address
        && net.prefix < 31
    {
        let host = u32::MAX >> net.prefix;
        message.attributes.push(AddressAttribute::Broadcast((u32::from(address) | host).into()));
    }
    Ok(message)
}

fn route(route: &Route) -> Result<RouteMessage> {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.to.address);
    message.header.destination_prefix_length = route.to.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if route.via.is_some() { RouteScope::Universe } else { RouteScope::Link };
    if route.onlink {
        message.header.flags = RouteFlags::Onlink;
    }
    if !route.is_default() {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.to.address)));
    }
    message.attributes.extend(route.via.map(|via| RouteAttribute::Gateway(RouteAddress::from(via))));
    message.attributes.push(RouteAttribute::Oif(index_of(&route.link)?));
    message.attributes.extend(route.metric.map(RouteAttribute::Priority));
    Ok(message)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
