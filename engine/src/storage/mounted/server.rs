//! Servers of shares: names that may stand in a command, and whether one answers.

use crate::{Error, Result, bail};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::Duration;

/// How long a server may take to accept a connection, looking up its name included.
const ANSWER: Duration = Duration::from_secs(2);

/// Refuses what is neither a host name nor an address.
pub fn check_server_name(server: &str) -> Result<&str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
    if server.is_empty()
        || server.len() > 253
        || server.starts_with(['-', '.', ':']) && server.parse::<IpAddr>().is_err()
    {
        bail!("invalid server name '{}'", server.escape_debug());
    }
    if !server.chars().all(allowed) {
        bail!("invalid server name '{}'", server.escape_debug());
    }
    Ok(server)
}

/// The server as it stands in a mount's source: IPv6 addresses in brackets.
pub fn source_host(server: &str) -> Result<String> {
    let server = check_server_name(server)?;
    Ok(if server.contains(':') { format!("[{server}]") } else { server.to_owned() })
}

/// Connects to a port of a server and hangs up again.
///
/// # Errors
/// When the name is unknown or nobody answers within two seconds.
pub fn ping(server: &str, port: u16) -> Result<()> {
    let server = check_server_name(server)?.to_owned();
    let (sender, answer) = mpsc::channel();
    // The resolver of the system knows no deadline, so it is asked aside; a late answer goes nowhere.
    std::thread::spawn(move || {
        let addresses = (server.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<SocketAddr>>);
        drop(sender.send(addresses.map_err(|_| format!("unable to resolve address for server '{server}'")).and_then(
            |list| {
                let reached = list.iter().any(|address| TcpStream::connect_timeout(address, ANSWER).is_ok());
                if reached { Ok(()) } else { Err(format!("server '{server}' does not answer on port {port}")) }
            },
        )));
    });
    match answer.recv_timeout(ANSWER) {
        Ok(result) => result.map_err(Error::new),
        Err(_) => Err(Error::new(format!("server does not answer on port {port}"))),
    }
}

/// The value of `name=` in a list of mount options.
pub fn option<'o>(options: &'o str, name: &str) -> Option<&'o str> {
    options.split(',').map(str::trim).find_map(|item| item.strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn names_are_hosts_or_addresses() {
        for good in ["nas", "nas.example.org", "10.0.0.1", "fe80::1", "::1", "nas_2"] {
            assert!(check_server_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-o", "a b", "a/b", "a,b", "a\n", "a;b", ".x", ":x"] {
            assert!(check_server_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(source_host("fe80::1").unwrap(), "[fe80::1]");
        assert_eq!(source_host("nas").unwrap(), "nas");
    }

    #[test]
    fn a_closed_port_is_an_error_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        ping("127.0.0.1", port).unwrap();
        drop(listener);
        assert!(ping("127.0.0.1", port).is_err());
        let begun = std::time::Instant::now();
        // TEST-NET-1: nobody lives there.
        assert!(ping("192.0.2.1", 9).is_err());
        assert!(begun.elapsed() < ANSWER * 2);
    }

    #[test]
    fn options_are_found_by_name() {
        assert_eq!(option("soft, vers=4.2,port=20049", "vers"), Some("4.2"));
        assert_eq!(option("soft,xport=1", "port"), None);
    }
}
