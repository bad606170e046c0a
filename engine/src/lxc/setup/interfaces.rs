//! `/etc/network/interfaces` of Debian, Devuan, Alpine and old Ubuntu, and `.network` files of systemd-networkd.
//!
//! Pure functions from the old text and the wanted interfaces to the new text. Stanzas of interfaces that are not ours,
//! comments, and further options of ours stay. (PVE: LXC/Setup/Debian.pm setup_network, Base.pm setup_systemd_networkd)

use super::super::interface::Interface;
use super::redhat::netmask;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The two families as `interfaces` names them, with the option of `netN` for address and gateway.
const FAMILIES: [(&str, &str, &str); 2] = [("inet", "ip", "gw"), ("inet6", "ip6", "gw6")];

/// Options that we set ourselves.
const OWN_OPTIONS: [&str; 4] = ["address", "netmask", "gateway", "broadcast"];

/// A stanza `iface NAME FAMILY METHOD` that is being read.
struct Stanza<'a> {
    interface: &'a Interface,
    family: usize,
    options: Vec<String>,
}

/// The new text of `/etc/network/interfaces`. Old versions of ifupdown want addresses without a prefix.
pub fn interfaces(old: &str, wanted: &[Interface], with_prefix: bool) -> String {
    let mut wanted: Vec<&Interface> = wanted
        .iter()
        .filter(|net| FAMILIES.iter().any(|(_, address, gateway)| net.is_set(address) || net.is_set(gateway)))
        .collect();
    if wanted.is_empty() {
        return old.to_owned();
    }
    wanted.sort_by_key(|net| net.name());
    let mut text = String::new();
    let mut auto: BTreeSet<String> = BTreeSet::new();
    let mut done: BTreeSet<(u32, usize)> = BTreeSet::new();
    let mut open: Option<Stanza> = None;
    let mut generated = false;
    for line in old.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"#") && line.contains(" PVE ---") {
            generated = line.contains("BEGIN");
            continue;
        }
        if generated {
            continue;
        }
        let ends_stanza = words.first().is_none_or(|word| {
            matches!(*word, "iface" | "auto" | "mapping" | "source" | "source-directory") || word.starts_with("allow-")
        });
        if let ["auto", names @ ..] = &words[..] {
            auto.extend(names.iter().map(|name| (*name).to_owned()));
        }
        if ends_stanza && let Some(stanza) = open.take() {
            close(&mut text, &mut auto, &mut done, &stanza, with_prefix);
            if words.is_empty() {
                continue;
            }
        }
        match words[..] {
            ["iface", name, family, _] => {
                let net = wanted.iter().find(|net| net.name() == name);
                let family = FAMILIES.iter().position(|(known, ..)| *known == family);
                if let (Some(interface), Some(family)) = (net, family) {
                    open = Some(Stanza { interface, family, options: Vec::new() });
                    continue;
                }
            }
            [option, _, ..] if !line.starts_with('#') => {
                if let Some(stanza) = &mut open {
                    if !OWN_OPTIONS.contains(&option) {
                        stanza.options.push(line.trim().to_owned());
                    }
                    continue;
                }
            }
            _ => {}
        }
        text += line;
        text.push('\n');
    }
    if let Some(stanza) = open {
        close(&mut text, &mut auto, &mut done, &stanza, with_prefix);
    }
    let mut needs_separator = !text.is_empty() && !text.ends_with("\n\n");
    for interface in wanted {
        for (family, (_, address, _)) in FAMILIES.iter().enumerate() {
            if !done.contains(&(interface.index, family)) && interface.is_set(address) {
                if std::mem::take(&mut needs_separator) {
                    text.push('\n');
                }
                let stanza = Stanza { interface, family, options: Vec::new() };
                close(&mut text, &mut auto, &mut done, &stanza, with_prefix);
            }
        }
    }
    if !auto.contains("lo") {
        text.insert_str(0, "auto lo\niface lo inet loopback\niface lo inet6 loopback\n\n");
    }
    text
}

/// Writes a stanza; an interface without an address of the family has none.
fn close(
    text: &mut String,
    auto: &mut BTreeSet<String>,
    done: &mut BTreeSet<(u32, usize)>,
    stanza: &Stanza,
    with_prefix: bool,
) {
    let (family, address, gateway) = FAMILIES[stanza.family];
    let name = stanza.interface.name();
    if !done.insert((stanza.interface.index, stanza.family)) {
        return;
    }
    if auto.insert(name.to_owned()) {
        *text += &format!("auto {name}\n");
    }
    let Some(value) = stanza.interface.get(address) else { return };
    if matches!(value, "dhcp" | "manual" | "auto") {
        *text += &format!("iface {name} {family} {value}\n\n");
        return;
    }
    *text += &format!("iface {name} {family} static\n");
    match value.split_once('/') {
        Some((address, length)) if !with_prefix => {
            let mask = if family == "inet" { netmask(length).to_string() } else { length.to_owned() };
            *text += &format!("\taddress {address}\n\tnetmask {mask}\n");
        }
        _ => *text += &format!("\taddress {value}\n"),
    }
    if let Some(gateway) = stanza.interface.get(gateway) {
        if is_reachable(gateway, value) {
            *text += &format!("\tgateway {gateway}\n");
        } else {
            *text += &format!(
                "# --- BEGIN PVE ---\n\tpost-up ip route add {gateway} dev {name}\n\
                 \tpost-up ip route add default via {gateway} dev {name}\n\
                 \tpre-down ip route del default via {gateway} dev {name}\n\
                 \tpre-down ip route del {gateway} dev {name}\n# --- END PVE ---\n"
            );
        }
    }
    for option in without_old_routes(&stanza.options) {
        *text += &format!("\t{option}\n");
    }
    text.push('\n');
}

/// The options without the four lines that made a route to the gateway before they were marked.
/// (PVE: LXC/Setup/Debian.pm, remove_gateway_scripts)
fn without_old_routes(options: &[String]) -> Vec<&str> {
    let mut rest: Vec<&str> = options.iter().map(String::as_str).collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut place = 0;
    while place + 4 <= rest.len() {
        let first = words(rest[place]);
        let is_route = match &first.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["post-up", "ip", "route", "add", gateway, "dev", name] => {
                let others = [
                    format!("post-up ip route add default via {gateway} dev {name}"),
                    format!("pre-down ip route del default via {gateway} dev {name}"),
                    format!("pre-down ip route del {gateway} dev {name}"),
                ];
                others.iter().zip(&rest[place + 1..]).all(|(wanted, found)| words(wanted) == words(found))
            }
            _ => false,
        };
        if is_route { drop(rest.drain(place..place + 4)) } else { place += 1 }
    }
    rest
}

/// Whether a gateway lies in the network of an address, or is link-local.
pub fn is_reachable(gateway: &str, cidr: &str) -> bool {
    let Some((address, length)) = cidr.split_once('/') else { return false };
    let Ok(length) = length.parse::<u32>() else { return false };
    match (gateway.parse(), address.parse()) {
        (Ok(IpAddr::V4(gateway)), Ok(IpAddr::V4(address))) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length)).unwrap_or(0);
            u32::from(gateway) & mask == u32::from(address) & mask
        }
        (Ok(IpAddr::V6(gateway)), Ok(IpAddr::V6(address))) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length)).unwrap_or(0);
            gateway.segments()[0] & 0xffc0 == 0xfe80 || u128::from(gateway) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

/// The text of a `.network` file for one interface.
pub fn networkd(net: &Interface) -> String {
    let name = net.name();
    let mut text =
        format!("[Match]\nName = {name}\n\n[Network]\nDescription = Interface {name} autoconfigured by PVE\n");
    let mut routes = String::new();
    for (_, address, gateway) in FAMILIES {
        let cidr = net.fixed_address(address);
        if let Some(cidr) = cidr {
            text += &format!("Address = {cidr}\n");
        }
        if let Some(gateway) = net.get(gateway) {
            text += &format!("Gateway = {gateway}\n");
            if cidr.is_some_and(|cidr| !is_reachable(gateway, cidr)) {
                let length = if gateway.contains(':') { 128 } else { 32 };
                routes += &format!("\n[Route]\nDestination = {gateway}/{length}\nScope = link\n");
            }
        }
    }
    let dhcp = match (net.get("ip") == Some("dhcp"), net.get("ip6") == Some("dhcp")) {
        (false, false) => "no",
        (true, false) => "ipv4",
        (false, true) => "ipv6",
        (true, true) => "yes",
    };
    let advertised = matches!(net.get("ip6"), Some("dhcp" | "auto")) && !net.is_set("gw6");
    text + &format!("DHCP = {dhcp}\nIPv6AcceptRA = {advertised}\n{routes}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(index: u32, text: &str) -> Interface {
        Interface::parse(index, text).unwrap()
    }

    #[test]
    fn a_new_file_gets_loopback_and_interfaces() {
        let text = interfaces(
            "",
            &[net(0, "name=eth0,ip=10.0.0.2/24,gw=10.0.0.1,ip6=auto"), net(1, "name=eth1,ip=dhcp")],
            true,
        );
        assert_eq!(
            text,
            "auto lo\niface lo inet loopback\niface lo inet6 loopback\n\n\
             auto eth0\niface eth0 inet static\n\taddress 10.0.0.2/24\n\tgateway 10.0.0.1\n\n\
             iface eth0 inet6 auto\n\nauto eth1\niface eth1 inet dhcp\n\n"
        );
        assert_eq!(
            interfaces(
                &text,
                &[net(0, "name=eth0,ip=10.0.0.2/24,gw=10.0.0.1,ip6=auto"), net(1, "name=eth1,ip=dhcp")],
                true
            ),
            text
        );
    }

    #[test]
    fn what_is_not_ours_stays() {
        let old = "# mine\nauto lo eth0\niface lo inet loopback\n\niface eth0 inet static\n\taddress 1.2.3.4/8\n\tmetric 5\n\
                   \niface eth9 inet dhcp\n\tmetric 1\nsource /etc/network/interfaces.d/*\n";
        let text = interfaces(old, &[net(0, "name=eth0,ip=10.0.0.2/32,gw=10.0.0.1")], true);
        let route = "\tpost-up ip route add 10.0.0.1 dev eth0\n";
        assert!(text.starts_with(
            "# mine\nauto lo eth0\niface lo inet loopback\n\niface eth0 inet static\n\taddress 10.0.0.2/32\n"
        ));
        assert!(
            text.contains(route) && text.contains("\tmetric 5\n\niface eth9 inet dhcp\n\tmetric 1\nsource "),
            "{text}"
        );
        let again = interfaces(&text, &[net(0, "name=eth0,ip=10.0.0.2/32,gw=10.0.0.1")], true);
        assert_eq!(again.matches(route).count(), 1, "{again}");
        assert_eq!(interfaces(old, &[net(0, "name=eth0")], true), old);
        let unmarked = again.replace("# --- BEGIN PVE ---\n", "").replace("# --- END PVE ---\n", "");
        assert_eq!(interfaces(&unmarked, &[net(0, "name=eth0,ip=10.0.0.2/32,gw=10.0.0.1")], true), again);
        let sorted = interfaces("source /etc/x\n", &[net(0, "name=z,ip=dhcp"), net(1, "name=a,ip=dhcp")], true);
        assert!(sorted.ends_with("source /etc/x\n\nauto a\niface a inet dhcp\n\nauto z\niface z inet dhcp\n\n"));
        let finished = "auto lo z\niface z inet dhcp\n\nsource /etc/x\n";
        assert_eq!(interfaces(finished, &[net(0, "name=z,ip=dhcp")], true), finished);
    }

    #[test]
    fn networkd_files_name_unreachable_gateways() {
        let text = networkd(&net(0, "name=eth0,ip=10.0.0.2/32,gw=10.0.0.1,ip6=dhcp"));
        assert!(
            text.contains("Address = 10.0.0.2/32\nGateway = 10.0.0.1\nDHCP = ipv6\nIPv6AcceptRA = true\n"),
            "{text}"
        );
        assert!(text.ends_with("[Route]\nDestination = 10.0.0.1/32\nScope = link\n"));
        assert!(
            is_reachable("fe80::1", "fd00::2/64")
                && is_reachable("fd00::1", "fd00::2/64")
                && !is_reachable("fd01::1", "fd00::2/64")
        );
    }
}
