//! A guest's place on a bridge: which bridge, which VLANs, how fast.
//!
//! Plugging says how a port shall be: what is so already is not touched, so [`plug`] serves for a new port, for a change of
//! a running guest's, and for one that somebody has pulled. (PVE: pve-common PVE/Network.pm, tap_plug and tap_unplug)

use super::netlink::{self, Netlink, PortVlans};
use super::{bridge_exists, edit, is_link_name, link, link_exists, open_vswitch, rate, stanza, sub_bridge, vnet};
use crate::{Context, Error, Result, bail, command, error::ResultExt, file};
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

/// Highest VLAN of IEEE 802.1Q.
const LAST_VLAN: u16 = 4094;

/// How a guest's link shall be plugged in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Port {
    /// The host's end: `tap100i0`, `veth101i0`.
    pub name: String,
    /// The bridge as the guest's configuration names it.
    pub bridge: String,
    /// The VLAN of the guest's untagged frames.
    pub tag: Option<u16>,
    /// VLANs that the guest may use with tags; empty means none are listed.
    pub trunks: Vec<RangeInclusive<u16>>,
    /// Limit in MiB per second and direction.
    pub rate: Option<f64>,
    /// MTU of the host's end; otherwise the bridge's.
    pub mtu: Option<u32>,
    /// The guest's hardware address.
    pub mac: Option<String>,
    /// Whether the cable is pulled: the host's end is switched off. For VMs QEMU does that (`set_link`); leave it off there.
    pub link_down: bool,
}

impl Port {
    /// A port with nothing but a place.
    pub fn new(name: impl Into<String>, bridge: impl Into<String>) -> Self {
        Port { name: name.into(), bridge: bridge.into(), ..Port::default() }
    }

    /// Reads `trunks` of a guest's configuration: `2;4;100-200`.
    pub fn parse_trunks(text: &str) -> Result<Vec<RangeInclusive<u16>>> {
        let strange = |part: &str| Error::new(format!("got strange vlan tag '{part}'"));
        let parts = text.split([';', ',', ' ']).map(str::trim).filter(|part| !part.is_empty());
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u16 = first.trim().parse().map_err(|_| strange(part))?;
            let last: u16 = last.trim().parse().map_err(|_| strange(part))?;
            if first < 1 || last > LAST_VLAN || first > last { Err(strange(part)) } else { Ok(first..=last) }
        };
        parts.map(range).collect()
    }

    /// The VLANs of this port on a VLAN-aware bridge. Without tag and trunks a guest gets all of them, as PVE does.
    fn vlans(&self) -> PortVlans {
        let listed = self.trunks.iter().cloned().flatten();
        match (self.tag, self.trunks.is_empty()) {
            (None, true) => PortVlans::access(1, 2..=LAST_VLAN),
            (tag, _) => PortVlans::access(tag.unwrap_or(1), listed),
        }
    }
}

/// Fails when a port cannot be plugged in as it asks; changes nothing.
pub fn check(ctx: &Context, port: &Port) -> Result<()> {
    if !is_link_name(&port.name) {
        bail!("interface name '{}' is too long (max 15 character)", port.name);
    }
    if port.tag.is_some_and(|tag| !(1..=LAST_VLAN).contains(&tag)) {
        bail!("got strange vlan tag '{}'", port.tag.unwrap_or_default());
    }
    if open_vswitch::is_bridge(&port.bridge) {
        return Ok(());
    }
    super::check_bridge(&port.bridge)?;
    let is_vnet = vnet::of(ctx, &port.bridge)?.is_some();
    if is_vnet && !is_vlan_aware(&port.bridge) && (port.tag.is_some() || !port.trunks.is_empty()) {
        bail!("vm vlans are not allowed on vnet {}", port.bridge);
    }
    if !is_vlan_aware(&port.bridge) && !port.trunks.is_empty() {
        bail!("vlan aware feature need to be enabled to use trunks");
    }
    Ok(())
}

/// Whether a bridge tells VLANs apart itself.
pub fn is_vlan_aware(bridge: &str) -> bool {
    is_link_name(bridge) && read(&format!("/sys/class/net/{bridge}/bridge/vlan_filtering")).as_deref() == Some("1")
}

/// The bridge that a port is attached to: the one it names, or that one's bridge for the VLAN, which is made if it is
/// missing. For callers that let somebody else attach the link; [`plug`] does the rest afterwards.
pub fn prepare(ctx: &Context, port: &Port) -> Result<String> {
    check(ctx, port)?;
    match port.tag {
        Some(tag) if bridge_exists(&port.bridge) && !is_vlan_aware(&port.bridge) => {
            sub_bridge::ensure(ctx, &port.bridge, tag)
        }
        _ => Ok(port.bridge.clone()),
    }
}

/// Plugs a link in as asked and switches it on. What is so already is not touched.
pub fn plug(ctx: &Context, port: &Port) -> Result<()> {
    let place = || format!("unable to plug '{}' into '{}'", port.name, port.bridge);
    let mut bridge = prepare(ctx, port)?;
    // The guest speaks for itself; the host must not take part in its network. No IPv6 in the kernel is fine, too.
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", port.name), "1");
    if open_vswitch::is_bridge(&bridge) {
        open_vswitch::plug(port)?;
    } else {
        let old = bridge_of(&port.name);
        let mut attached = attach(ctx, port, &bridge);
        for _ in 0..10 {
            if attached.is_ok() || bridge_exists(&bridge) {
                break;
            }
            // Another guest was the last in this VLAN and has just left it.
            bridge = prepare(ctx, port)?;
            attached = attach(ctx, port, &bridge);
        }
        attached.and_then(|()| set_learning(ctx, port)).context(place)?;
        if let Some(old) = old.filter(|old| *old != bridge) {
            sub_bridge::remove_unused(ctx, &old)?;
        }
    }
    rate::set(&port.name, port.rate).context(place)?;
    if port.link_down { link::set_down(&port.name) } else { link::set_up(&port.name) }.context(place)
}

/// Changes the port of a running guest: bridge, VLANs, rate and link state, in place.
pub fn change(ctx: &Context, port: &Port) -> Result<()> {
    if !link_exists(&port.name) {
        bail!("interface '{}' does not exist", port.name);
    }
    plug(ctx, port)
}

/// Pulls a link out of its bridge. A link that is gone or plugged nowhere is no error.
pub fn unplug(ctx: &Context, name: &str) -> Result<()> {
    open_vswitch::unplug(name)?;
    if !link_exists(name) {
        return Ok(());
    }
    let old = bridge_of(name);
    link::leave_bridge(name)?;
    old.map_or(Ok(()), |bridge| sub_bridge::remove_unused(ctx, &bridge))
}

/// The bridge that a link is a port of.
pub fn bridge_of(name: &str) -> Option<String> {
    let target = fs::read_link(Path::new("/sys/class/net").join(name).join("brport/bridge")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

fn attach(ctx: &Context, port: &Port, bridge: &str) -> Result<()> {
    let mtu = match port.mtu {
        Some(mtu) => Some(mtu),
        None => read(&format!("/sys/class/net/{bridge}/mtu")).and_then(|text| text.parse().ok()),
    };
    if let Some(mtu) = mtu
        && read(&format!("/sys/class/net/{}/mtu", port.name)) != Some(mtu.to_string())
    {
        link::set_mtu(&port.name, mtu as i32)?;
    }
    if bridge_of(&port.name).as_deref() != Some(bridge) {
        if bridge_of(&port.name).is_some() {
            link::leave_bridge(&port.name)?;
        }
        link::add_to_bridge(&port.name, bridge)?;
    }
    if is_vlan_aware(bridge) {
        let netlink = Netlink::open()?;
        let index = netlink::index_of(&port.name)?;
        let now = netlink.port_vlans()?.remove(&index).unwrap_or_default();
        netlink.set_port_vlans(index, &now, &port.vlans(), false)?;
    }
    let isolates = vnet::of(ctx, bridge)?.is_some_and(|vnet| vnet.isolates);
    let isolated = if isolates { "1" } else { "0" };
    let file = format!("/sys/class/net/{}/brport/isolated", port.name);
    if read(&file).is_some_and(|now| now != isolated) {
        fs::write(&file, isolated).context(|| file.clone())?;
    }
    Ok(())
}

/// On a bridge with `bridge-disable-mac-learning` a port knows its guest's address only, and floods nothing else to it.
/// (PVE: pve-common PVE/Network.pm, tap_plug and add_bridge_fdb)
fn set_learning(ctx: &Context, port: &Port) -> Result<()> {
    let learns = if learns(ctx, &port.bridge) { "1" } else { "0" };
    for flag in ["unicast_flood", "learning"] {
        let file = format!("/sys/class/net/{}/brport/{flag}", port.name);
        if read(&file).is_some_and(|now| now != learns) {
            fs::write(&file, learns).context(|| file.clone())?;
        }
    }
    if let (Some(mac), "0") = (&port.mac, learns) {
        command::run("bridge", &["fdb", "replace", mac, "dev", &port.name, "master", "static"])?;
    }
    Ok(())
}

/// What the file in force says; a file that makes no sense says nothing.
fn learns(ctx: &Context, bridge: &str) -> bool {
    if let Ok(Some(vnet)) = vnet::of(ctx, bridge) {
        return vnet.learns;
    }
    let file = edit::current_file(ctx);
    let sections = file::read_or_empty(&file).and_then(|text| stanza::read(ctx, &file, &text)).unwrap_or_default();
    let own = sections.stanzas.iter().filter(|stanza| stanza.name == bridge);
    let mut options = own.flat_map(|stanza| &stanza.options);
    !options.any(|(key, value)| key == "bridge-disable-mac-learning" && value != "0")
}

/// First line of a small file of the kernel.
pub(super) fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunks_are_lists_of_numbers_and_ranges() {
        assert_eq!(Port::parse_trunks("2;4;100-200").unwrap(), [2..=2, 4..=4, 100..=200]);
        assert_eq!(Port::parse_trunks("").unwrap(), []);
        for bad in ["0", "4095", "5-3", "x", "1;;b"] {
            assert!(Port::parse_trunks(bad).unwrap_err().message().starts_with("got strange vlan tag"), "{bad}");
        }
    }

    #[test]
    fn vlans_follow_tag_and_trunks() {
        let mut port = Port::new("tap100i0", "vmbr0");
        assert_eq!(port.vlans().describe(), "1 pvid untagged, 2-4094");
        port.tag = Some(10);
        assert_eq!(port.vlans().describe(), "10 pvid untagged");
        port.trunks = vec![20..=22];
        assert_eq!(port.vlans().describe(), "10 pvid untagged, 20-22");
        port.tag = None;
        assert_eq!(port.vlans().describe(), "1 pvid untagged, 20-22");
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_changes() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        let text = |port: &Port| check(&ctx, port).unwrap_err().message().to_owned();
        assert_eq!(text(&Port::new("tap1i0", "nobridge9")), "bridge 'nobridge9' does not exist");
        assert_eq!(text(&Port { tag: Some(4095), ..Port::new("tap1i0", "nobridge9") }), "got strange vlan tag '4095'");
        let long = text(&Port::new("tap999999999i31x", "nobridge9"));
        assert_eq!(long, "interface name 'tap999999999i31x' is too long (max 15 character)");
    }
}
