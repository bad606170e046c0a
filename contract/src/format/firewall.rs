//! Rules of the firewall (pve-firewall PVE/Firewall.pm). Names of services and protocols are those that Debian ships.

use super::ids::{alnum, made_of};
use super::net::prefix_length;
use super::{Checked, ensure, is_word, simple_format};
use crate::table;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::OnceLock;

#[derive(Deserialize)]
struct Names {
    services: BTreeSet<String>,
    protocols: BTreeMap<String, u16>,
}

fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| table::record(&table::SINGLE, "network-names").expect("the table is packed by build.rs"))
}

fn is_icmp_name(text: &str) -> bool {
    simple_format("pve-fw-icmp-type-spec")
        .is_some_and(|format| format.enum_icmp.iter().chain(&format.enum_icmpv6).any(|name| name == text))
}

fn is_name(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| alnum(c) || matches!(c, '-' | '_'))
}

fn without_scope<'a>(text: &'a str, scopes: &[&str]) -> &'a str {
    scopes.iter().find_map(|scope| text.strip_prefix(scope)).unwrap_or(text)
}

/// An address, or a network in which host bits may be set.
fn is_ip_or_cidr(text: &str) -> bool {
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix_length(prefix).is_some_and(|length| length <= most))
}

pub(super) fn ip_or_cidr(text: &str) -> Checked {
    ensure(is_ip_or_cidr(text), || "value does not look like a valid IP address or CIDR network".to_owned())
}

pub(super) fn ip_or_cidr_or_alias(text: &str) -> Checked {
    if is_name(without_scope(text, &["dc/", "guest/"])) { Ok(()) } else { ip_or_cidr(text) }
}

/// The bits of a network behind its prefix are zero.
fn has_clean_host_bits(address: IpAddr, length: u32) -> bool {
    match address {
        IpAddr::V4(ip) => length <= 32 && ip.to_bits().checked_shl(length).unwrap_or(0) == 0,
        IpAddr::V6(ip) => length <= 128 && ip.to_bits().checked_shl(length).unwrap_or(0) == 0,
    }
}

/// An address, a network or a range; says whether it is IPv6 and whether it is a range.
fn address_element(text: &str) -> Result<(bool, bool), String> {
    let invalid = || format!("invalid IP address: {text}");
    if let Some((first, last)) = text.split_once('-') {
        let (first, last): (IpAddr, IpAddr) =
            (first.parse().map_err(|_| invalid())?, last.parse().map_err(|_| invalid())?);
        ensure(first.is_ipv4() == last.is_ipv4() && first <= last, invalid)?;
        return Ok((first.is_ipv6(), true));
    }
    let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    if let Some(prefix) = prefix {
        ensure(prefix_length(prefix).is_some_and(|length| has_clean_host_bits(address, length)), invalid)?;
    }
    Ok((address.is_ipv6(), false))
}

/// Source or destination of a rule: a set, an alias, or a list of addresses of one family.
pub(super) fn addresses(text: &str) -> Checked {
    if let Some(set) = text.strip_prefix('+')
        && made_of(set, |c| !c.is_whitespace())
    {
        return ensure(set.chars().count() <= 64, || "ipset name too long".to_owned());
    }
    if is_name(without_scope(text, &["dc/", "guest/"])) {
        return ensure(text.len() <= 64, || "alias name too long".to_owned());
    }
    let elements = comma_list(text)?;
    let mut family = None;
    let mut has_range = false;
    for element in &elements {
        let (v6, range) = address_element(element)?;
        has_range |= range;
        ensure(family.is_none_or(|known| known == v6), || {
            format!("detected mixed ipv4/ipv6 addresses in address list '{text}'")
        })?;
        family = Some(v6);
    }
    ensure(!has_range || elements.len() == 1, || "you can't use a range in a list".to_owned())
}

/// Parts between commas; empty ones at the end are errors, the checks of the parts catch the others.
fn comma_list(text: &str) -> Result<Vec<&str>, String> {
    ensure(!text.ends_with(','), || "extraneous commas in list".to_owned())?;
    Ok(if text.is_empty() { Vec::new() } else { text.split(',').collect() })
}

/// Ports of a rule. A range counts as two of at most fifteen; a destination may be one ICMP type instead.
pub(super) fn ports(text: &str, destination: bool) -> Checked {
    let port = |text: &str| match text.parse::<u64>() {
        Ok(port) if port <= 65535 => Ok(port),
        _ => Err(format!("invalid port '{text}'")),
    };
    let number = |text: &str| made_of(text, |c| c.is_ascii_digit());
    let mut count = 0;
    let mut icmp = false;
    for item in comma_list(text)? {
        match item.split_once(':') {
            Some((first, last)) if number(first) && number(last) => {
                count += 2;
                let good = port(first)? <= port(last)?;
                ensure(good, || {
                    format!("backwards range '{first}:{last}' not allowed, did you mean '{last}:{first}'?")
                })?;
            }
            _ if number(item) => {
                count += 1;
                port(item)?;
            }
            _ if destination && is_icmp_name(item) => icmp = true,
            _ => ensure(names().services.contains(item), || format!("invalid port '{item}'"))?,
        }
    }
    ensure(!icmp || count == 0, || "ICMP ports not allowed in port range".to_owned())?;
    ensure(count <= 15, || "too many entries in port list (> 15 numbers)".to_owned())
}

pub(super) fn conntrack_helpers(text: &str) -> Checked {
    comma_list(text)?.into_iter().try_for_each(|helper| {
        ensure(is_word("pve-fw-conntrack-helper", helper), || format!("unknown helper {helper}"))
    })
}

pub(super) fn icmp_type(text: &str) -> Checked {
    ensure(text.is_empty() || is_icmp_name(text), || format!("invalid icmp-type value '{text}'"))
}

pub(super) fn protocol(text: &str) -> Checked {
    let protocols = &names().protocols;
    let known = || protocols.contains_key(text) || protocols.values().any(|number| number.to_string() == text);
    ensure(text.is_empty() || known(), || format!("unknown protocol '{text}'"))
}

pub(super) fn comment(text: &str) -> Checked {
    ensure(!text.contains(['\r', '\n']), || "comment must not contain line breaks".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_bits_count() {
        for (text, good) in
            [("10.0.0.0/8", true), ("10.0.0.1/8", false), ("0.0.0.0/0", true), ("::/0", true), ("::1/64", false)]
        {
            assert_eq!(addresses(text).is_ok(), good, "{text}");
        }
        assert!(is_ip_or_cidr("192.168.1.155/24"));
    }
}
