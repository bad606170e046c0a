//! The socket that a server listens on.

use super::settings::Settings;
use crate::process::command::Line;
use crate::process::control::inherited_listener;
use engine::{Error, Result, ResultExt};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};

/// Connections that wait to be accepted, also while a new image of the program starts.
const BACKLOG: i32 = 4096;

/// The socket of the image before this one, or a new one; `standard` is the port if nobody says another.
///
/// # Errors
/// An address or port that is none, or one that cannot be had.
pub fn listener(line: &Line, settings: &Settings, standard: &str) -> Result<TcpListener> {
    match inherited_listener() {
        Some(listener) => Ok(listener.into()),
        None => listen(address(line, settings, standard)?),
    }
}

/// Where to listen: arguments, then settings, then everywhere.
fn address(line: &Line, settings: &Settings, standard: &str) -> Result<SocketAddr> {
    let port = line.options.get("port").map_or(standard, String::as_str);
    let port: u16 = port.parse().map_err(|_| Error::new(format!("'{port}' is no port")))?;
    let ip = match line.options.get("listen").or(settings.listen_ip.as_ref()) {
        Some(text) => text.parse().map_err(|_| Error::new(format!("'{text}' is no address")))?,
        None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    Ok(SocketAddr::new(ip, port))
}

/// A listening socket. Everywhere means IPv6 and IPv4, or IPv4 alone on a machine without the other.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let bound = bind(address);
    let bound = match bound {
        Err(_) if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            bind(SocketAddr::new(IpAddr::from([0, 0, 0, 0]), address.port()))
        }
        bound => bound,
    };
    bound.context(|| format!("unable to listen on {address}"))
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // A second server may be started to take over before the first one ends.
    sockopt::set_socket_reuseport(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}
