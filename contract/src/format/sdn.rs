//! Names and ranges of software defined networks (pve-network PVE/Network/SDN).

use super::ids::{alnum, framed, made_of};
use super::{Checked, ensure, net};

fn is_number(text: &str) -> bool {
    made_of(text, |c| c.is_ascii_digit())
}

pub(super) fn route_target(text: &str) -> Checked {
    let half = |text: &str| is_number(text) && text.parse::<u32>().is_ok();
    let good = text.split_once(':').is_some_and(|(system, id)| half(system) && half(id));
    ensure(good, || "value does not look like a valid bgp route-target".to_owned())
}

/// Up to `longest` letters, digits and marks; the first and a last one beyond the limit of the middle are alphanumeric.
fn is_id(text: &str, longest: usize, mark: impl Fn(char) -> bool) -> bool {
    let inner = |c: char| alnum(c) || mark(c);
    text.len() <= longest
        && text.starts_with(alnum)
        && text.chars().all(&inner)
        && (text.len() < longest || framed(text, alnum, inner, alnum))
}

pub(super) fn fabric_id(text: &str) -> Checked {
    ensure(is_id(text, 8, |c| c == '-'), || format!("Fabric ID '{text}' contains illegal characters"))
}

pub(super) fn wireguard_interface(text: &str) -> Checked {
    ensure(is_id(text, 8, |c| c == '-'), || format!("WireGuard interface name '{text}' contains illegal characters"))
}

fn is_policy_id(text: &str) -> bool {
    is_id(text, 32, |c| matches!(c, '-' | '_'))
}

pub(super) fn prefix_list_id(text: &str) -> Checked {
    ensure(is_policy_id(text), || format!("Prefix List ID '{text}' contains illegal characters"))?;
    let reserved = matches!(text, "only_default" | "only_default_v6" | "loopbacks_ips");
    ensure(!reserved, || format!("Prefix List ID '{text}' is reserved"))
}

pub(super) fn route_map_id(text: &str) -> Checked {
    ensure(is_policy_id(text), || format!("Route Map ID '{text}' contains illegal characters"))?;
    let reserved = text.starts_with("pve_") || matches!(text, "MAP_VTEP_IN" | "MAP_VTEP_OUT" | "correct_src");
    ensure(!reserved, || format!("Route Map ID '{text}' is reserved"))
}

pub(super) fn isis_net(text: &str) -> Checked {
    let hex = |part: &str, length: usize| part.len() == length && part.chars().all(|c| c.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split('.').collect();
    let good = match &parts[..] {
        [first, middle @ .., last] => {
            hex(first, 2) && hex(last, 2) && (3..=9).contains(&middle.len()) && middle.iter().all(|part| hex(part, 4))
        }
        _ => false,
    };
    ensure(good, || "value does not look like a valid isis net".to_owned())
}

/// A network, or `ZONE-ADDRESS-LENGTH`.
pub(super) fn subnet_id(text: &str) -> Checked {
    if text.contains('/') {
        return net::cidr(text);
    }
    let mut parts = text.split('-').skip(1);
    net::cidr(&format!("{}/{}", parts.next().unwrap_or_default(), parts.next().unwrap_or_default()))
}

/// A comma list of tags and ranges of tags.
pub(super) fn tag_ranges(text: &str, largest: u64) -> Checked {
    ensure(!text.ends_with(','), || "extraneous commas in list".to_owned())?;
    let tag = |text: &str| match text.parse::<u64>() {
        Ok(tag) if is_number(text) && tag <= largest => Ok(tag),
        _ => Err(format!("invalid port '{text}'")),
    };
    text.split(',').filter(|_| !text.is_empty()).try_for_each(|item| match item.split_once('-') {
        Some((first, last)) if is_number(first) && is_number(last) => {
            let good = tag(first)? <= tag(last)?;
            ensure(good, || format!("backwards range '{first}:{last}' not allowed, did you mean '{last}:{first}'?"))
        }
        _ => tag(item).map(|_| ()),
    })
}
