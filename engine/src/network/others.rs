//! Addresses and routes that others have set on links of the file: command lines such as `post-up ip route add …`, or
//! people. They stay as long as their link does, and come back when a change makes the kernel forget them. Pure.
//!
//! An address of a link without command lines is nobody's, and goes: the kernel shall equal the file. So does a default
//! route beside one of the file, unless the file has command lines that may have set it.

use super::state::{Link, Net, Route, State};
use super::wanted::{Commands, Wanted};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What is wanted, with what others have set where that can stay. `before` is what was in force.
pub fn kept(before: &Wanted, wanted: &Wanted, actual: &State) -> Wanted {
    let mut all = wanted.clone();
    keep_addresses(before, wanted, actual, &mut all);
    let routes = actual.routes.iter().filter(|route| keeps(before, wanted, &all, route)).cloned();
    let routes: Vec<Route> = routes.collect();
    all.state.routes.extend(routes);
    all
}

fn keep_addresses(before: &Wanted, wanted: &Wanted, actual: &State, all: &mut Wanted) {
    let said: BTreeSet<IpAddr> = wanted.state.links.values().flat_map(nets).map(|net| net.address).collect();
    for (name, link) in &mut all.state.links {
        let (Some(was), Some(now)) = (before.state.links.get(name), actual.links.get(name)) else { continue };
        let is_port = link.controller.as_ref().is_some_and(|to| !to.is_empty());
        if is_port || before.dhcp.contains_key(name) || !wanted.commands.get(name).is_some_and(sets_something) {
            continue;
        }
        let ours: BTreeSet<Net> = nets(was).copied().collect();
        let kept = nets(now).filter(|net| !ours.contains(net) && !said.contains(&net.address) && !net.is_link_local());
        link.addresses.get_or_insert_default().extend(kept);
    }
}

fn keeps(before: &Wanted, wanted: &Wanted, all: &Wanted, route: &Route) -> bool {
    let Some(link) = all.state.links.get(&route.link) else { return false };
    let is_ours = |known: &Wanted| known.state.routes.iter().any(|known| known.is_met_by(route));
    if !before.state.links.contains_key(&route.link) || is_ours(before) || is_ours(wanted) {
        return false;
    }
    let is_default = |other: &&Route| other.is_default() && other.to.address.is_ipv6() == route.to.address.is_ipv6();
    if route.is_default() && wanted.state.routes.iter().any(|other| is_default(&other)) {
        let may_be_set = wanted.commands.values().any(sets_something);
        // One with the same metric takes the place of the other.
        let clashes = |other: &Route| other.metric.unwrap_or(0) == route.metric.unwrap_or(0);
        if !may_be_set || wanted.state.routes.iter().filter(is_default).any(clashes) {
            return false;
        }
    }
    route.via.is_none_or(|via| route.onlink || reaches(link, via) || wanted.dhcp.contains_key(&route.link))
}

/// Whether a next hop lies in a network of the link.
pub(super) fn reaches(link: &Link, via: IpAddr) -> bool {
    let is_link_local = matches!(via, IpAddr::V6(via) if via.segments()[0] & 0xffc0 == 0xfe80);
    is_link_local || nets(link).any(|net| net.contains(via) && net.address != via)
}

fn nets(link: &Link) -> impl Iterator<Item = &Net> {
    link.addresses.iter().flatten()
}

fn sets_something(commands: &Commands) -> bool {
    !commands.pre_up.is_empty() || !commands.up.is_empty()
}
