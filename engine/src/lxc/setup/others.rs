//! Interfaces of openSUSE (wicked's `ifcfg-*`) and Gentoo (`/etc/conf.d/net`).
//! (PVE: LXC/Setup/SUSE.pm and Gentoo.pm, setup_network)

use super::super::interface::Interface;
use super::interfaces::is_reachable;
use super::section::Otherwise;
use super::system::System;
use crate::Result;

/// Writes `ifcfg-*` and `ifroute-*` of openSUSE.
pub fn suse(system: &System, nets: &[Interface]) -> Result<()> {
    let directory = "/etc/sysconfig/network";
    system.make_directories(directory)?;
    for net in nets {
        if let Some((text, routes)) = wicked(net) {
            system.write(&format!("{directory}/ifcfg-{}", net.name()), &text, 0o644)?;
            system.write_section(&format!("{directory}/ifroute-{}", net.name()), &routes, Otherwise::Prepend)?;
        }
    }
    Ok(())
}

fn wicked(net: &Interface) -> Option<(String, String)> {
    let name = net.name();
    let (mut routes, mut addresses) = (String::new(), Vec::new());
    let wanted = |key: &str| net.get(key).filter(|value| *value != "manual");
    let (ip, ip6) = (wanted("ip"), wanted("ip6"));
    if let Some(ip) = ip.filter(|ip| *ip != "dhcp") {
        addresses.push(ip);
        if let Some(gateway) = net.get("gw") {
            if !is_reachable(gateway, ip) {
                routes += &format!("{gateway} 0.0.0.0 255.255.255.255 {name}\n");
            }
            routes += &format!("default {gateway} 0.0.0.0 {name}\n");
        }
    }
    if let Some(ip) = ip6.filter(|ip| !matches!(*ip, "dhcp" | "auto")) {
        addresses.push(ip);
        if let Some(gateway) = net.get("gw6") {
            if !is_reachable(gateway, ip) {
                routes += &format!("{gateway}/128 - - {name}\n");
            }
            routes += &format!("default {gateway} - {name}\n");
        }
    }
    let protocol = match (ip == Some("dhcp"), ip6 == Some("dhcp")) {
        (false, false) => "static",
        (true, false) => "dhcp4",
        (false, true) => "dhcp6",
        (true, true) => "dhcp",
    };
    let is_configured = ip.is_some() || ip6.is_some();
    if addresses.is_empty() && is_configured && protocol == "static" {
        // Only SLAAC: systemd-networkd or the kernel does that.
        return None;
    }
    let mode = if is_configured { "onboot" } else { "manual" };
    let mut text = format!("STARTMODE={mode}\nBOOTPROTO={protocol}\n");
    match addresses[..] {
        [] => {}
        [address] => text += &format!("IPADDR={address}\n"),
        _ => {
            for (index, address) in addresses.iter().enumerate() {
                text += &format!("IPADDR_{}={address}\n", index + 1);
            }
        }
    }
    Some((text, routes))
}

/// Writes the interfaces of Gentoo and links their services.
pub fn gentoo(system: &System, nets: &[Interface]) -> Result<()> {
    let mut text = String::from("modules=\"$modules ifconfig\"\n");
    system.make_directories("/etc/conf.d")?;
    system.make_directories("/etc/init.d")?;
    let mut up = Vec::new();
    for net in nets {
        let name = net.name();
        let (mut config, mut routes) = (Vec::new(), Vec::new());
        match net.get("ip") {
            Some("manual") | None => {}
            Some(ip) => config.push(ip.to_owned()),
        }
        if let Some(gateway) = net.get("gw") {
            if net.fixed_address("ip").is_some_and(|ip| !is_reachable(gateway, ip)) {
                routes.push(format!("-host {gateway} dev {name}"));
            }
            routes.push(format!("default gw {gateway}"));
        }
        if let Some(ip) = net.fixed_address("ip6") {
            config.push(ip.to_owned());
        }
        if let Some(gateway) = net.get("gw6") {
            if net.fixed_address("ip6").is_some_and(|ip| !is_reachable(gateway, ip)) {
                routes.push(format!("-6 -host {gateway} dev {name}"));
            }
            routes.push(format!("-6 default gw {gateway}"));
        }
        if config.is_empty() && net.get("ip6") == Some("auto") {
            // Up without an address: the kernel takes what routers announce.
            config.push("null".to_owned());
        }
        if !config.is_empty() {
            text += &format!("config_{name}=\"{}\"\n", config.join("\n"));
        }
        if !routes.is_empty() {
            text += &format!("routes_{name}=\"{}\"\n", routes.join("\n"));
        }
        if !config.is_empty() || !routes.is_empty() {
            up.push(name);
        }
    }
    system.write_section("/etc/conf.d/net", &text, Otherwise::Replace)?;
    up.iter().try_for_each(|name| system.link("net.lo", &format!("/etc/init.d/net.{name}")))
}
