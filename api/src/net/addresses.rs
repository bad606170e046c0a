//! Sets of addresses and the rule who may connect.
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`check_host_access`, `check_allowed_proxy`).

use std::net::IpAddr;

/// A list of networks: `10.0.0.0/8`, `fe80::1`, `10.0.0.1-10.0.0.9`, `all`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    ranges: Vec<(IpAddr, IpAddr)>,
}

/// ALLOW_FROM, DENY_FROM and POLICY.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessRule {
    /// Clients that may connect.
    pub allow: AddressSet,
    /// Clients that may not.
    pub deny: AddressSet,
    /// POLICY=allow: what holds when both lists or none of them name the client.
    pub allow_by_default: bool,
}

impl AccessRule {
    /// Whether a client may connect.
    pub fn admits(&self, client: IpAddr) -> bool {
        let client = client.to_canonical();
        match (self.allow.contains(client), self.deny.contains(client)) {
            (true, false) => true,
            (false, true) => false,
            _ => self.allow_by_default || (self.allow.is_empty() && self.deny.is_empty()),
        }
    }
}

impl AddressSet {
    /// Whether the list names nobody.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether an address (no IPv4 in IPv6 clothes) is in the list.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges
            .iter()
            .any(|(first, last)| first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last)
    }
}

impl std::str::FromStr for AddressSet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut ranges = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if part == "all" {
                ranges.push(network("0.0.0.0/0")?);
                ranges.push(network("::/0")?);
            } else if let Some((first, last)) = part.split_once('-') {
                ranges.push((address(first)?, address(last)?));
            } else {
                ranges.push(network(part)?);
            }
        }
        Ok(AddressSet { ranges })
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.trim().parse::<IpAddr>().map(|ip| ip.to_canonical()).map_err(|_| format!("'{text}' is no address"))
}

fn network(text: &str) -> Result<(IpAddr, IpAddr), String> {
    let (base, length) = match text.split_once('/') {
        Some((base, length)) => (base, Some(length)),
        None => (text, None),
    };
    // `10/8` is short for `10.0.0.0/8`.
    let padded = match base.bytes().filter(|byte| *byte == b'.').count() {
        dots if length.is_some() && !base.contains(':') && dots < 3 => format!("{base}{}", ".0".repeat(3 - dots)),
        _ => base.to_owned(),
    };
    let base = address(&padded)?;
    let bits: u32 = if base.is_ipv4() { 32 } else { 128 };
    let length = match length {
        None => bits,
        Some(length) => {
            length.parse().ok().filter(|length| *length <= bits).ok_or(format!("'{text}' is no network"))?
        }
    };
    Ok(match base {
        IpAddr::V4(base) => {
            let host = u32::MAX.checked_shr(length).unwrap_or(0);
            (IpAddr::V4((base.to_bits() & !host).into()), IpAddr::V4((base.to_bits() | host).into()))
        }
        IpAddr::V6(base) => {
            let host = u128::MAX.checked_shr(length).unwrap_or(0);
            (IpAddr::V6((base.to_bits() & !host).into()), IpAddr::V6((base.to_bits() | host).into()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: &str, deny: &str, allow_by_default: bool) -> AccessRule {
        AccessRule { allow: allow.parse().unwrap(), deny: deny.parse().unwrap(), allow_by_default }
    }

    #[test]
    fn sets() {
        let set: AddressSet = "10.0.0.0/8, 192.168.1.5, fe80::/16, 172.16.0.1-172.16.0.9, 11/8".parse().unwrap();
        for (text, inside) in [
            ("10.1.2.3", true),
            ("11.1.2.3", true),
            ("12.0.0.1", false),
            ("192.168.1.5", true),
            ("192.168.1.6", false),
            ("fe80::1", true),
            ("::1", false),
            ("172.16.0.9", true),
            ("172.16.0.10", false),
        ] {
            assert_eq!(set.contains(text.parse().unwrap()), inside, "{text}");
        }
        let all: AddressSet = "all".parse().unwrap();
        assert!(all.contains("1.2.3.4".parse().unwrap()) && all.contains("::1".parse().unwrap()));
        for text in ["x", "10.0.0.0/33", "1.2.3", "::/129"] {
            assert!(text.parse::<AddressSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn rules() {
        let client = "10.0.0.1".parse().unwrap();
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        assert!(rule("", "", false).admits(client));
        assert!(rule("10.0.0.0/8", "all", true).admits(client));
        assert!(!rule("10.0.0.0/8", "all", false).admits(client));
        assert!(rule("10.0.0.0/8", "", false).admits(mapped));
        assert!(!rule("", "10.0.0.0/8", true).admits(mapped));
        assert!(!rule("11.0.0.0/8", "", false).admits(client));
        assert!(rule("11.0.0.0/8", "", true).admits(client));
    }
}
