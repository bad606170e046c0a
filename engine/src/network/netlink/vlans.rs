//! VLANs of bridge ports.

use super::{Netlink, Write};
use crate::{Result, error::ResultExt};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeVlanInfo, BridgeVlanInfoFlags, LinkAttribute, LinkExtentMask, LinkHeader, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Which VLANs pass a port of a VLAN-aware bridge.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortVlans {
    /// All VLANs that pass.
    pub members: BTreeSet<u16>,
    /// The VLAN of frames that come without a tag.
    pub pvid: Option<u16>,
    /// VLANs whose frames leave without a tag.
    pub untagged: BTreeSet<u16>,
}

impl PortVlans {
    /// A port for untagged frames of one VLAN, with tagged frames of others.
    pub fn access(tag: u16, tagged: impl IntoIterator<Item = u16>) -> Self {
        let mut members: BTreeSet<u16> = tagged.into_iter().collect();
        members.insert(tag);
        PortVlans { members, pvid: Some(tag), untagged: BTreeSet::from([tag]) }
    }

    /// `1 pvid untagged, 2-4094`, for people.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (first, last, pvid, untagged) in self.runs() {
            let range = if first == last { first.to_string() } else { format!("{first}-{last}") };
            parts.push(format!(
                "{range}{}{}",
                if pvid { " pvid" } else { "" },
                if untagged { " untagged" } else { "" }
            ));
        }
        if parts.is_empty() { "none".into() } else { parts.join(", ") }
    }

    /// Neighbouring VLANs with the same flags: first, last, is pvid, is untagged.
    fn runs(&self) -> Vec<(u16, u16, bool, bool)> {
        let mut runs: Vec<(u16, u16, bool, bool)> = Vec::new();
        for vid in &self.members {
            let (pvid, untagged) = (self.pvid == Some(*vid), self.untagged.contains(vid));
            match runs.last_mut() {
                Some((_, last, false, flag)) if *last + 1 == *vid && !pvid && *flag == untagged => *last = *vid,
                _ => runs.push((*vid, *vid, pvid, untagged)),
            }
        }
        runs
    }

    fn entries(&self) -> Vec<BridgeVlanInfo> {
        let mut entries = Vec::new();
        for (first, last, pvid, untagged) in self.runs() {
            let mut flags = BridgeVlanInfoFlags::empty();
            flags.set(BridgeVlanInfoFlags::Pvid, pvid);
            flags.set(BridgeVlanInfoFlags::Untagged, untagged);
            if first == last {
                entries.push(BridgeVlanInfo { flags, vid: first });
            } else {
                entries.push(BridgeVlanInfo { flags: flags | BridgeVlanInfoFlags::RangeBegin, vid: first });
                entries.push(BridgeVlanInfo { flags: flags | BridgeVlanInfoFlags::RangeEnd, vid: last });
            }
        }
        entries
    }
}

impl Netlink {
    /// The VLANs of all ports, and of bridges themselves, by the link's number.
    pub fn port_vlans(&self) -> Result<BTreeMap<u32, PortVlans>> {
        let mut question = LinkMessage::default();
        question.header.interface_family = AddressFamily::Bridge;
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::BrvlanCompressed]));
        let answers = self.dump(RouteNetlinkMessage::GetLink(question)).context(|| "list of VLANs")?;
        let mut found = BTreeMap::new();
        for answer in answers {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found.insert(link.header.index, vlans_of(&link));
            }
        }
        Ok(found)
    }

    /// Gives a port exactly these VLANs; writes only what differs. `on_bridge` means the bridge's own end.
    pub fn set_port_vlans(&self, index: u32, old: &PortVlans, new: &PortVlans, on_bridge: bool) -> Result<()> {
        let gone =
            PortVlans { members: old.members.difference(&new.members).copied().collect(), ..PortVlans::default() };
        let differs = |vid: &u16| {
            !old.members.contains(vid)
                || (old.pvid == Some(*vid)) != (new.pvid == Some(*vid))
                || old.untagged.contains(vid) != new.untagged.contains(vid)
        };
        let set = PortVlans { members: new.members.iter().copied().filter(differs).collect(), ..new.clone() };
        if !gone.members.is_empty() {
            let message = RouteNetlinkMessage::DelLink(vlan_message(index, &gone, on_bridge));
            self.write(message, Write::Existing)?;
        }
        if !set.members.is_empty() {
            let message = RouteNetlinkMessage::SetLink(vlan_message(index, &set, on_bridge));
            self.write(message, Write::Existing)?;
        }
        Ok(())
    }
}

fn vlan_message(index: u32, vlans: &PortVlans, on_bridge: bool) -> LinkMessage {
    let mut entries = Vec::new();
    if on_bridge {
        entries.push(AfSpecBridge::Flags(netlink_packet_route::link::BridgeFlag::LowerDev));
    }
    entries.extend(vlans.entries().into_iter().map(AfSpecBridge::VlanInfo));
    let mut message = LinkMessage::default();
    message.header = LinkHeader { interface_family: AddressFamily::Bridge, index, ..LinkHeader::default() };
    message.attributes.push(LinkAttribute::AfSpecBridge(entries));
    message
}

fn vlans_of(link: &LinkMessage) -> PortVlans {
    let mut vlans = PortVlans::default();
    let mut begin = None;
    let specs = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::AfSpecBridge(entries) => Some(entries),
        _ => None,
    });
    for entry in specs.flatten() {
        let AfSpecBridge::VlanInfo(info) = entry else { continue };
        if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            begin = Some(info.vid);
            continue;
        }
        let first = if info.flags.contains(BridgeVlanInfoFlags::RangeEnd) { begin.take() } else { None };
        for vid in first.unwrap_or(info.vid)..=info.vid {
            vlans.members.insert(vid);
            if info.flags.contains(BridgeVlanInfoFlags::Pvid) {
                vlans.pvid = Some(vid);
            }
            if info.flags.contains(BridgeVlanInfoFlags::Untagged) {
                vlans.untagged.insert(vid);
            }
        }
    }
    vlans
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_sent_as_ranges() {
        let vlans = PortVlans::access(1, 2..=4094);
        assert_eq!(vlans.describe(), "1 pvid untagged, 2-4094");
        assert_eq!(vlans.entries().len(), 3);
        let trunk = PortVlans::access(5, [4, 6, 7]);
        assert_eq!(trunk.describe(), "4, 5 pvid untagged, 6-7");
        assert_eq!(PortVlans::default().describe(), "none");
    }

    #[test]
    fn what_is_sent_reads_back() {
        for vlans in [PortVlans::access(1, 2..=4094), PortVlans::access(20, []), PortVlans::access(1, [7, 9, 10, 11])] {
            assert_eq!(vlans_of(&vlan_message(3, &vlans, false)), vlans);
        }
    }
}
