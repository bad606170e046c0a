//! Small questions about links.

use super::Netlink;
use crate::{Result, error::ResultExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

/// The kernel's number of a link.
pub fn index_of(name: &str) -> Result<u32> {
    let missing = || format!("interface '{name}' does not exist");
    let name = std::ffi::CString::new(name).map_err(|_| crate::Error::new(missing()))?;
    // SAFETY: the name is a valid C string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(crate::Error::new(missing())),
        index => Ok(index),
    }
}

impl Netlink {
    /// All links with all their attributes.
    pub fn links(&self) -> Result<Vec<LinkMessage>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default())).context(|| "list of links")?;
        let link = |answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link),
            _ => None,
        };
        Ok(answers.into_iter().filter_map(link).collect())
    }
}

/// The name of a link.
pub fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

/// The kind of a link; hardware has none.
pub fn kind(link: &LinkMessage) -> Option<&InfoKind> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

/// Number of the bridge, bond, … that a link is a port of.
pub fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

/// Names of a bridge's ports that carry its traffic to the outside: hardware, bonds and VLANs.
/// (PVE: pve-common PVE/IPRoute2.pm, get_physical_bridge_ports)
pub fn uplinks(links: &[LinkMessage], bridge: u32) -> Vec<String> {
    let is_uplink = |link: &&LinkMessage| {
        controller(link) == Some(bridge) && matches!(kind(link), None | Some(InfoKind::Bond | InfoKind::Vlan))
    };
    links.iter().filter(is_uplink).filter_map(|link| name(link).map(str::to_owned)).collect()
}
