//! `POST /nodes/{node}/wakeonlan`: a packet that wakes another node. (PVE: pve-manager PVE/API2/Nodes.pm, wakeonlan)

use crate::config::flat::FlatConfig;
use crate::{Call, Context, Error, Reply, Result, bail, error::ResultExt, file};
use serde_json::{Map, Value, json};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;

/// The port of `discard`, which such packets are sent to.
const DISCARD: u16 = 9;

/// Answers the address that was called.
pub fn wake(call: &Call) -> Result<Reply> {
    let node: String = call.param("node")?;
    if call.ctx.is_local_node(&node) {
        bail!("'{node}' is local node, cannot wake my self!");
    }
    if !call.ctx.root.etc_pve("nodes").join(&node).is_dir() {
        bail!("no such cluster node '{node}'");
    }
    let settings = settings(call.ctx, &node)?;
    let Some(mac) = settings.get("mac").and_then(Value::as_str) else {
        bail!("No wake on LAN MAC address defined for '{node}'!");
    };
    let own = self::settings(call.ctx, &call.ctx.node)?;
    let text = |key: &str| own.get(key).and_then(Value::as_str);
    let address = match text("broadcast-address") {
        Some(text) => text.parse().map_err(|_| Error::new(format!("invalid broadcast address '{text}'")))?,
        None => Ipv4Addr::BROADCAST,
    };
    send(&packet(mac)?, address, text("bind-interface"))?;
    Ok(Reply::from(json!(mac)))
}

/// A node's `wakeonlan` option.
fn settings(ctx: &Context, node: &str) -> Result<Map<String, Value>> {
    let text = file::read_or_empty(&ctx.root.etc_pve("nodes").join(node).join("config"))?;
    match FlatConfig::parse(&text).values.get("wakeonlan") {
        Some(text) => Ok(contract::property_string::parse("~node-wakeonlan", text)?),
        None => Ok(Map::new()),
    }
}

/// Six bytes of ones, then the address sixteen times.
fn packet(mac: &str) -> Result<Vec<u8>> {
    let parts: Option<Vec<u8>> = mac.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let Some(mac) = parts.filter(|parts| parts.len() == 6) else { bail!("invalid MAC address '{mac}'") };
    Ok([vec![0xff; 6], mac.repeat(16)].concat())
}

fn send(packet: &[u8], address: Ipv4Addr, interface: Option<&str>) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context(|| "Unable to open socket")?;
    socket.set_broadcast(true).context(|| "Unable to set socket option")?;
    if let Some(interface) = interface {
        bind_to(&socket, interface)
            .map_err(|error| Error::from(error).context(format!("Unable to bind socket to interface '{interface}'")))?;
    }
    socket.send_to(packet, (address, DISCARD)).context(|| "Unable to send packet")?;
    Ok(())
}

/// What leaves the socket leaves through this card.
fn bind_to(socket: &UdpSocket, interface: &str) -> std::io::Result<()> {
    let length = libc::socklen_t::try_from(interface.len()).map_err(std::io::Error::other)?;
    // SAFETY: the pointer and the length are those of a text that outlives the call, which only reads it.
    let code = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, interface.as_ptr().cast(), length)
    };
    if code == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use contract::Verb;

    #[test]
    fn other_nodes_are_called_by_their_address() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let wake = |node: &str| {
            let params = Map::from_iter([("node".to_owned(), json!(node))]);
            registry::run(&ctx, Verb::Post, "/nodes/{node}/wakeonlan", params).map(|reply| reply.data)
        };
        assert_eq!(wake("pve1").unwrap_err().message(), "'pve1' is local node, cannot wake my self!");
        assert_eq!(wake("pve2").unwrap_err().message(), "no such cluster node 'pve2'");
        for node in ["pve1", "pve2"] {
            std::fs::create_dir_all(ctx.root.etc_pve("nodes").join(node)).unwrap();
        }
        assert_eq!(wake("pve2").unwrap_err().message(), "No wake on LAN MAC address defined for 'pve2'!");
        std::fs::write(ctx.root.etc_pve("nodes/pve2/config"), "wakeonlan: 02:00:00:00:00:07\n").unwrap();
        // Loopback takes what nobody reads.
        std::fs::write(
            ctx.root.etc_pve("nodes/pve1/config"),
            "wakeonlan: mac=02:00:00:00:00:01,broadcast-address=127.255.255.255\n",
        )
        .unwrap();
        assert_eq!(wake("pve2").unwrap(), json!("02:00:00:00:00:07"));
        let packet = packet("02:00:00:00:00:07").unwrap();
        assert_eq!((packet.len(), &packet[..7], packet[11]), (102, &[255, 255, 255, 255, 255, 255, 2][..], 7));
    }
}
