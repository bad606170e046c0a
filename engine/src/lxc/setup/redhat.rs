//! Interfaces of CentOS and its relatives: keyfiles of NetworkManager since version 10, `ifcfg-*` before.
//! (PVE: LXC/Setup/CentOS.pm, setup_network_with_networkmanager and the one with network scripts)

use super::super::interface::Interface;
use super::interfaces::is_reachable;
use super::naming::with_variable;
use super::section::Otherwise;
use super::system::System;
use crate::Result;

/// A stable identity of a connection, so that the same configuration gives the same file.
fn uuid(net: &Interface) -> String {
    let hash = crate::file::digest(&format!("{} {}", net.name(), net.get("hwaddr").unwrap_or_default()));
    let variant = ["8", "9", "a", "b"][usize::from(hash.as_bytes()[16] & 3)];
    format!("{}-{}-5{}-{variant}{}-{}", &hash[..8], &hash[8..12], &hash[13..16], &hash[17..20], &hash[20..32])
}

/// Writes one keyfile per interface.
pub fn network_manager(system: &System, nets: &[Interface]) -> Result<()> {
    let directory = "/etc/NetworkManager/system-connections";
    system.make_directories(directory)?;
    let (domains, servers) = system.resolver_values();
    for net in nets {
        let text = keyfile(net, &domains, &servers);
        system.write(&format!("{directory}/{}.nmconnection", net.name()), &text, 0o600)?;
    }
    Ok(())
}

fn keyfile(net: &Interface, domains: &[String], servers: &[String]) -> String {
    let name = net.name();
    let mut text =
        format!("[connection]\nid={name}\nuuid={}\ntype=ethernet\ninterface-name={name}\n[ipv4]\n", uuid(net));
    let resolver = |text: &mut String, wanted_v6: bool| {
        let servers: Vec<&str> =
            servers.iter().filter(|server| server.contains(':') == wanted_v6).map(String::as_str).collect();
        if servers.is_empty() {
            return;
        }
        *text += &format!("dns={}\n", servers.join(";"));
        if !domains.is_empty() {
            *text += &format!("dns-search={}\n", domains.join(";"));
        }
    };
    match net.get("ip") {
        None | Some("manual") => text += "method=disabled\n",
        Some(ip) => {
            if ip == "dhcp" {
                text += "method=auto\n";
            } else {
                text += &format!("method=manual\naddresses={ip}\n");
                if let Some(gateway) = net.get("gw") {
                    text += &format!("gateway={gateway}\n");
                    if !is_reachable(gateway, ip) {
                        text += &format!("routes={gateway}\n");
                    }
                }
            }
            resolver(&mut text, false);
        }
    }
    text += "[ipv6]\n";
    match net.get("ip6") {
        None | Some("manual") => text += "method=disabled\n",
        Some(ip) => {
            if matches!(ip, "dhcp" | "auto") {
                text += "method=auto\n";
            } else {
                text += &format!("method=manual\naddress={ip}\n");
                match net.get("gw6") {
                    Some(gateway) if is_reachable(gateway, ip) => text += &format!("gateway={gateway}\n"),
                    Some(gateway) => text += &format!("routes={gateway}\n"),
                    None => {}
                }
            }
            resolver(&mut text, true);
        }
    }
    text
}

/// Writes `ifcfg-*`, `route-*` and `route6-*`.
pub fn scripts(system: &System, nets: &[Interface]) -> Result<()> {
    let directory = "/etc/sysconfig/network-scripts";
    system.make_directories(directory)?;
    let (domains, servers) = system.resolver_values();
    for net in nets {
        let name = net.name();
        let script = ifcfg(net, &domains, &servers);
        if let Some(text) = script.text {
            system.write(&format!("{directory}/ifcfg-{name}"), &text, 0o644)?;
            system.write_section(&format!("{directory}/route-{name}"), &script.routes, Otherwise::Prepend)?;
            system.write_section(&format!("{directory}/route6-{name}"), &script.routes6, Otherwise::Prepend)?;
        }
    }
    for (option, key) in [("ip", "NETWORKING"), ("ip6", "NETWORKING_IPV6")] {
        if nets.iter().any(|net| net.is_set(option)) {
            system.edit("/etc/sysconfig/network", |old| with_variable(old, key, "yes"))?;
        }
    }
    Ok(())
}

struct Script {
    text: Option<String>,
    routes: String,
    routes6: String,
}

fn ifcfg(net: &Interface, domains: &[String], servers: &[String]) -> Script {
    let name = net.name();
    let (mut data, mut protocol, mut routes, mut routes6) = (String::new(), "", String::new(), String::new());
    match net.get("ip") {
        None | Some("manual") => {}
        Some("dhcp") => protocol = "dhcp",
        Some(ip) => {
            protocol = "none";
            let (address, length) = ip.split_once('/').unwrap_or((ip, "32"));
            data += &format!("IPADDR={address}\nNETMASK={}\n", netmask(length));
            if let Some(gateway) = net.get("gw") {
                data += &format!("GATEWAY={gateway}\n");
                if !is_reachable(gateway, ip) {
                    routes += &format!("{gateway} dev {name}\ndefault via {gateway} dev {name}\n");
                }
            }
        }
    }
    if let Some(ip) = net.get("ip6").filter(|ip| *ip != "manual") {
        if protocol.is_empty() {
            protocol = "none";
        }
        data += "IPV6INIT=yes\n";
        match ip {
            "auto" => data += "IPV6_AUTOCONF=yes\n",
            "dhcp" => data += "DHCPV6C=yes\n",
            _ => {
                data += &format!("IPV6ADDR={ip}\nIPV6_AUTOCONF=no\n");
                match net.get("gw6") {
                    Some(gateway) if is_reachable(gateway, ip) => data += &format!("IPV6_DEFAULTGW={gateway}\n"),
                    Some(gateway) => {
                        routes6 += &format!("{gateway} dev {name}\ndefault via {gateway} dev {name}\n");
                    }
                    None => {}
                }
            }
        }
    }
    for (index, server) in servers.iter().enumerate() {
        data += &format!("DNS{}={server}\n", index + 1);
    }
    if !domains.is_empty() {
        data += &format!("DOMAIN={}\n", domains.join(" "));
    }
    let is_empty = data.is_empty() && protocol.is_empty();
    let head = format!("DEVICE={name}\nONBOOT=yes\nUUID={}\nBOOTPROTO={protocol}\n", uuid(net));
    Script { text: (!is_empty).then(|| head + &data), routes, routes6 }
}

/// `255.255.255.0` for `24`.
pub fn netmask(length: &str) -> std::net::Ipv4Addr {
    let length = length.parse::<u32>().unwrap_or(32).min(32);
    u32::MAX.checked_shl(32 - length).unwrap_or(0).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_identities_are_stable() {
        assert_eq!(["24", "32", "0"].map(|l| netmask(l).to_string()), ["255.255.255.0", "255.255.255.255", "0.0.0.0"]);
        let net = Interface::parse(0, "name=eth0,hwaddr=BC:24:11:00:00:01").unwrap();
        assert_eq!((uuid(&net).len(), uuid(&net)), (36, uuid(&net)));
    }
}
