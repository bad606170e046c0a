//! Addresses and names of networks (pve-common PVE/JSONSchema.pm and PVE/ParseUtils.pm,
//! pve-container PVE/LXC/Config.pm, pve-cluster PVE/DataCenterConfig.pm, pve-manager PVE/NodeConfig.pm).

use super::ids::{alnum, is_label, made_of};
use super::{Checked, ensure};
use std::net::{Ipv4Addr, Ipv6Addr};

fn is_ipv4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

fn is_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

pub(super) fn is_ip(text: &str) -> bool {
    is_ipv4(text) || is_ipv6(text)
}

/// The number behind the slash.
pub(super) fn prefix_length(text: &str) -> Option<u32> {
    text.parse().ok().filter(|_| made_of(text, |c| c.is_ascii_digit()))
}

fn is_cidr(text: &str, address: fn(&str) -> bool, prefixes: std::ops::RangeInclusive<u32>) -> bool {
    text.split_once('/').is_some_and(|(ip, prefix)| {
        address(ip) && prefix_length(prefix).is_some_and(|length| prefixes.contains(&length))
    })
}

pub(super) fn is_cidr_v4(text: &str) -> bool {
    is_cidr(text, is_ipv4, 8..=32)
}

pub(super) fn is_cidr_v6(text: &str) -> bool {
    is_cidr(text, is_ipv6, 8..=128)
}

pub(super) fn cidr(text: &str) -> Checked {
    let good = is_cidr_v4(text) || is_cidr_v6(text);
    ensure(good, || "value does not look like a valid CIDR network".to_owned())
}

pub(super) fn cidr_v4(text: &str) -> Checked {
    ensure(is_cidr_v4(text), || "value does not look like a valid IPv4 CIDR network".to_owned())
}

pub(super) fn cidr_v6(text: &str) -> Checked {
    ensure(is_cidr_v6(text), || "value does not look like a valid IPv6 CIDR network".to_owned())
}

pub(super) fn full_range_cidr(text: &str) -> Checked {
    let good = is_cidr(text, is_ipv4, 0..=32) || is_cidr(text, is_ipv6, 0..=128);
    ensure(good, || "value does not look like a valid CIDR network".to_owned())
}

pub(super) fn full_range_cidr_v4(text: &str) -> Checked {
    let good = is_cidr(text, is_ipv4, 0..=32);
    ensure(good, || "value does not look like a valid IPv4 CIDR network".to_owned())
}

pub(super) fn full_range_cidr_v6(text: &str) -> Checked {
    let good = is_cidr(text, is_ipv6, 0..=128);
    ensure(good, || "value does not look like a valid IPv6 CIDR network".to_owned())
}

pub(super) fn ip(text: &str) -> Checked {
    ensure(is_ip(text), || "value does not look like a valid IP address".to_owned())
}

pub(super) fn ipv4(text: &str) -> Checked {
    ensure(is_ipv4(text), || "value does not look like a valid IPv4 address".to_owned())
}

pub(super) fn ipv6(text: &str) -> Checked {
    ensure(is_ipv6(text), || "value does not look like a valid IPv6 address".to_owned())
}

pub(super) fn ipv4_mask(text: &str) -> Checked {
    let good = text.parse::<Ipv4Addr>().is_ok_and(|mask| {
        let bits = mask.to_bits();
        bits.leading_ones() + bits.trailing_zeros() >= 32
    });
    ensure(good, || "value does not look like a valid IP netmask".to_owned())
}

pub(super) fn ipv4_config(text: &str) -> Checked {
    let good = matches!(text, "dhcp" | "manual") || is_cidr_v4(text);
    ensure(good, || "value does not look like a valid ipv4 network configuration".to_owned())
}

pub(super) fn ipv6_config(text: &str) -> Checked {
    let good = matches!(text, "auto" | "dhcp" | "manual") || is_cidr_v6(text);
    ensure(good, || "value does not look like a valid ipv6 network configuration".to_owned())
}

/// Link-local addresses may name their interface behind a percent sign.
pub(super) fn ip_with_link_local_interface(text: &str) -> Checked {
    match text.split_once('%') {
        Some((address, name)) if address.starts_with("fe80:") && is_interface(name) => ip(address),
        _ => ip(text),
    }
}

fn is_dns_name(text: &str) -> bool {
    text.split('.').all(is_label)
}

pub(super) fn dns_name(text: &str) -> Checked {
    ensure(is_dns_name(text), || "value does not look like a valid DNS name".to_owned())
}

pub(super) fn graphite_path(text: &str) -> Checked {
    ensure(is_dns_name(text), || "value does not look like a valid graphite path".to_owned())
}

/// An address or a name.
pub(super) fn is_host(text: &str) -> bool {
    is_ip(text) || is_dns_name(text)
}

pub(super) fn address(text: &str) -> Checked {
    ensure(is_host(text), || format!("value does not look like a valid address: {text}"))
}

/// At least two labels, each with a first character of its own class.
fn is_domain(text: &str, first: impl Fn(char) -> bool) -> bool {
    text.contains('.')
        && text
            .split('.')
            .all(|label| label.starts_with(&first) && made_of(label, |c| alnum(c) || matches!(c, '_' | '-')))
}

pub(super) fn acme_domain(text: &str) -> Checked {
    ensure(is_domain(text, alnum), || format!("value '{text}' does not look like a valid domain name!"))
}

pub(super) fn acme_alias(text: &str) -> Checked {
    let good = is_domain(text, |c| alnum(c) || c == '_');
    ensure(good, || format!("value '{text}' does not look like a valid alias name!"))
}

/// Pairs of hex digits; the first pair is even, so that the address is a unicast one.
fn is_unicast_pair(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 2 && bytes[0].is_ascii_hexdigit() && b"02468aceACE".contains(&bytes[1])
}

fn is_pair(text: &str) -> bool {
    text.len() == 2 && made_of(text, |c| c.is_ascii_hexdigit())
}

pub(super) fn mac_address(text: &str) -> Checked {
    let parts: Vec<&str> = text.split(':').collect();
    let good = parts.len() == 6 && is_unicast_pair(parts[0]) && parts[1..].iter().all(|part| is_pair(part));
    ensure(good, || "value does not look like a valid unicast MAC address".to_owned())
}

/// The first one to three pairs; after them a colon and one digit may follow.
pub(super) fn mac_prefix(text: &str) -> Checked {
    let parts: Vec<&str> = text.split(':').collect();
    let partial = |part: &str| part.len() <= 1 && part.chars().all(|c| c.is_ascii_hexdigit());
    let full = match parts.split_last() {
        Some((last, rest)) if !rest.is_empty() && partial(last) => rest,
        _ => &parts[..],
    };
    let good = full.len() <= 3 && is_unicast_pair(full[0]) && full[1..].iter().all(|part| is_pair(part));
    ensure(good, || "value is not a valid unicast MAC address prefix".to_owned())
}

fn is_interface(text: &str) -> bool {
    let (name, unit) = match text.split_once([':', '.']) {
        Some((name, unit)) => (name, Some(unit)),
        None => (text, None),
    };
    (2..=21).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| alnum(c) || c == '_')
        && unit.is_none_or(|unit| made_of(unit, |c| c.is_ascii_digit()))
}

pub(super) fn interface(text: &str) -> Checked {
    ensure(is_interface(text), || format!("invalid network interface name '{text}'"))
}

pub(super) fn vlan_or_range(text: &str) -> Checked {
    let number = |text: &str| made_of(text, |c| c.is_ascii_digit());
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (start, Some(end)),
        None => (text, None),
    };
    ensure(number(start) && end.is_none_or(number), || format!("invalid VLAN configuration '{text}'"))?;
    let tag = |text: &str| match text.parse::<u32>() {
        Ok(tag) if (2..=4094).contains(&tag) => Ok(tag),
        _ => Err(format!("invalid VLAN tag '{text}'")),
    };
    let start = tag(start)?;
    match end {
        // The original takes an end of zero for none.
        None | Some("0") => Ok(()),
        Some(end) => {
            let end = tag(end)?;
            ensure(start < end, || format!("VLAN range must go from lower to higher tag '{text}'"))
        }
    }
}

/// `HOST`, `HOST:PORT`, `[ADDRESS]:PORT`, `IPV6.PORT`, each with the port left out if wanted.
pub(super) fn is_host_and_port(text: &str) -> bool {
    let port = |text: &str| made_of(text, |c| c.is_ascii_digit());
    let plain = |text: &str| made_of(text, |c| alnum(c) || matches!(c, '-' | '.'));
    let with_port = |text: &str, host: &dyn Fn(&str) -> bool, mark: char| {
        host(text) || text.rsplit_once(mark).is_some_and(|(name, number)| host(name) && port(number))
    };
    let bracketed = |text: &str| {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| is_ip(inner) || plain(inner))
    };
    with_port(text, &plain, ':') || with_port(text, &bracketed, ':') || with_port(text, &is_ipv6, '.')
}
