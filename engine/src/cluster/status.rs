//! `/cluster/status` and what a cluster of one node can say of itself. (PVE: pve-manager PVE/API2/Cluster.pm, get_status)

use crate::{Call, Context, Reply, Result};
use serde_json::json;
use std::net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket};

/// `GET /cluster/status`. Without a cluster there is no entry of type `cluster`.
pub fn get(call: &Call) -> Result<Reply> {
    let node = &call.ctx.node;
    Ok(Reply::from(json!([{
        "type": "node",
        "id": format!("node/{node}"),
        "name": node,
        "ip": address(call.ctx).to_string(),
        "local": 1,
        "nodeid": 0,
        "online": 1,
        "level": "",
    }])))
}

/// The address under which other machines know this node: the one of its name, else the one that faces the network.
pub fn address(ctx: &Context) -> IpAddr {
    let is_usable = |address: &IpAddr| !address.is_loopback() && !address.is_unspecified();
    named_in_hosts(ctx)
        .into_iter()
        .chain((ctx.node.as_str(), 0).to_socket_addrs().into_iter().flatten().map(|address| address.ip()))
        .find(is_usable)
        .or_else(|| facing_network().filter(is_usable))
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn named_in_hosts(ctx: &Context) -> Vec<IpAddr> {
    let text = std::fs::read_to_string(ctx.root.path("/etc/hosts")).unwrap_or_default();
    let address_of = |line: &str| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name == ctx.node).then_some(address)
    };
    text.lines().filter_map(address_of).collect()
}

/// The source address that the routing table would choose; nothing is sent.
fn facing_network() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_names_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        std::fs::create_dir_all(ctx.root.path("/etc")).unwrap();
        let text = "127.0.1.1 pve1\n192.0.2.9 other\n198.51.100.7 pve1.example pve1 # this one\n";
        std::fs::write(ctx.root.path("/etc/hosts"), text).unwrap();
        assert_eq!(address(&ctx).to_string(), "198.51.100.7");
    }
}
