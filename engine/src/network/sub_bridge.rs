//! Bridges for one VLAN of a bridge that does not tell VLANs apart: `vmbr0v10` with the port `eth0.10`.
//!
//! They are made when a guest asks for the VLAN and removed with its last guest. Ours carry a mark (the link's alias), so
//! that a bridge of the administrator's with such a name is used but never removed.
//! (PVE: pve-common PVE/Network.pm, activate_bridge_vlan; it never removes them)

use super::netlink::{self, Netlink, Write};
use super::port::{bridge_of, read};
use super::{bridge_exists, is_link_name, link, link_exists};
use crate::{Context, Error, Result, bail, error::ResultExt, file};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVlan, LinkAttribute, LinkInfo, LinkMessage};
use std::fs;
use std::path::Path;

/// The alias of a link that was made here.
const MARK: &str = "made for guests in a VLAN";

/// What a new bridge takes over from the one it belongs to.
const COPIED: &[&str] = &[
    "ageing_time",
    "stp_state",
    "priority",
    "forward_delay",
    "hello_time",
    "max_age",
    "multicast_snooping",
    "multicast_querier",
];

/// The name of a bridge's bridge for a VLAN.
pub fn name(bridge: &str, tag: u16) -> String {
    format!("{bridge}v{tag}")
}

/// Makes the bridge for a VLAN, with a VLAN of each uplink as port; what is there already stays as it is.
pub fn ensure(ctx: &Context, bridge: &str, tag: u16) -> Result<String> {
    let name = name(bridge, tag);
    if !is_link_name(&name) {
        bail!("interface name '{name}' is too long (max 15 character)");
    }
    let _lock = lock(ctx)?;
    let netlink = Netlink::open()?;
    let uplinks = netlink::uplinks(&netlink.links()?, netlink::index_of(bridge)?);
    if uplinks.is_empty() {
        bail!("no physical interface on bridge '{bridge}'");
    }
    let is_new = !link_exists(&name);
    if is_new {
        netlink
            .write(RouteNetlinkMessage::NewLink(new_link(&name, InfoKind::Bridge, None)), Write::New)
            .context(|| format!("failed to create interface '{name}'"))?;
    } else if !bridge_exists(&name) {
        bail!("'{name}' is not a bridge");
    }
    let made = complete(&netlink, bridge, &name, tag, &uplinks, is_new);
    if let Err(error) = made {
        let undone = if is_new { remove_locked(&name) } else { Ok(()) };
        return Err(error.with_cleanup_failures(&undone.err().into_iter().collect::<Vec<Error>>()));
    }
    Ok(name)
}

fn complete(netlink: &Netlink, bridge: &str, name: &str, tag: u16, uplinks: &[String], is_new: bool) -> Result<()> {
    if is_new {
        let file = format!("/sys/class/net/{name}/ifalias");
        fs::write(&file, MARK).context(|| file.clone())?;
        for option in COPIED {
            copy_option(bridge, name, option)?;
        }
    }
    if let Some(mtu) = read(&format!("/sys/class/net/{bridge}/mtu")).and_then(|text| text.parse().ok()) {
        link::set_mtu(name, mtu)?;
    }
    for uplink in uplinks {
        add_uplink(netlink, name, uplink, tag)?;
    }
    silence(name);
    link::set_up(name)
}

fn add_uplink(netlink: &Netlink, bridge: &str, uplink: &str, tag: u16) -> Result<()> {
    let vlan = format!("{uplink}.{tag}");
    let place = || format!("can't add vlan tag {tag} to interface {uplink}");
    if !is_link_name(&vlan) {
        bail!("interface name '{vlan}' is too long (max 15 character)");
    }
    if !link_exists(&vlan) {
        let data = InfoData::Vlan(vec![InfoVlan::Id(tag)]);
        let mut message = new_link(&vlan, InfoKind::Vlan, Some(data));
        message.attributes.push(LinkAttribute::Link(netlink::index_of(uplink)?));
        netlink.write(RouteNetlinkMessage::NewLink(message), Write::New).context(place)?;
        silence(&vlan);
        fs::write(format!("/sys/class/net/{vlan}/ifalias"), MARK).context(place)?;
    }
    link::set_up(&vlan).context(place)?;
    match bridge_of(&vlan) {
        Some(present) if present == bridge => Ok(()),
        Some(present) => bail!("interface {vlan} already exist in bridge {present}"),
        None => link::add_to_bridge(&vlan, bridge).context(place),
    }
}

/// Removes a bridge that was made here once no guest is plugged into it.
pub fn remove_unused(ctx: &Context, bridge: &str) -> Result<()> {
    if !is_ours(bridge) {
        return Ok(());
    }
    let _lock = lock(ctx)?;
    if is_ours(bridge) && ports(bridge).iter().all(|port| is_ours(port)) { remove_locked(bridge) } else { Ok(()) }
}

/// Removes the bridges of all VLANs that no guest uses; says which.
pub fn remove_all_unused(ctx: &Context) -> Result<Vec<String>> {
    let entries = fs::read_dir("/sys/class/net").into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut removed = Vec::new();
    for bridge in names.filter(|name| bridge_exists(name) && is_ours(name)) {
        remove_unused(ctx, &bridge)?;
        if !link_exists(&bridge) {
            removed.push(bridge);
        }
    }
    Ok(removed)
}

/// Whether a link was made here.
pub fn is_ours(name: &str) -> bool {
    is_link_name(name) && read(&format!("/sys/class/net/{name}/ifalias")).as_deref() == Some(MARK)
}

fn remove_locked(bridge: &str) -> Result<()> {
    for port in ports(bridge).into_iter().filter(|port| is_ours(port)) {
        link::remove(&port)?;
    }
    link::remove(bridge)
}

fn ports(bridge: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new("/sys/class/net").join(bridge).join("brif")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

fn new_link(name: &str, kind: InfoKind, data: Option<InfoData>) -> LinkMessage {
    let mut infos = vec![LinkInfo::Kind(kind)];
    infos.extend(data.map(LinkInfo::Data));
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(infos)];
    message
}

fn copy_option(from: &str, to: &str, option: &str) -> Result<()> {
    let file = |bridge: &str| format!("/sys/class/net/{bridge}/bridge/{option}");
    match (read(&file(from)), read(&file(to))) {
        (Some(wanted), Some(present)) if wanted != present => fs::write(file(to), wanted).context(|| file(to)),
        _ => Ok(()),
    }
}

/// The host itself takes no part in a guest's network. A kernel without IPv6 has no such file.
fn silence(name: &str) {
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1");
}

/// One task at a time makes or removes shared links. (PVE: the same, under `/var/lock/pve-network.lck`)
fn lock(ctx: &Context) -> Result<std::os::fd::OwnedFd> {
    file::lock_file(ctx, Path::new("pve-network"))
}
