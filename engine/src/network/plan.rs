//! From what is to what shall be: an ordered list of changes. Pure.
//!
//! Order: what goes, what is made, options, ports, VLANs, on, addresses, routes, commands. Lower links come before those that
//! stand on them. Links that no file names are left alone, and so are ports of guests.

use super::bond_options::bond_option;
use super::change::Change;
use super::netlink::PortVlans;
use super::open_vswitch;
use super::state::{Bond, Kind, Link, Net, PortFlags, Route, State};
use super::wanted::Wanted;
use std::collections::{BTreeMap, BTreeSet};

/// What has to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub changes: Vec<Change>,
    /// What cannot be done and is left out.
    pub warnings: Vec<String>,
}

/// The way from `actual` to `wanted`. `before` is what was in force: its links go if nobody wants them any more.
pub fn plan(before: &Wanted, wanted: &Wanted, actual: &State) -> Plan {
    let mut target = wanted.state.links.clone();
    for (name, link) in &mut target {
        if let Some(before) = before.state.links.get(name) {
            link.take_usual_values(before);
        }
    }
    let mut planner = Planner { before, wanted, target, actual, plan: Plan::default() };
    planner.plan.warnings.extend(wanted.ignored.iter().cloned());
    planner.leave_out_missing();
    planner.end_what_goes();
    planner.release();
    planner.leave_open_vswitch();
    planner.delete();
    planner.create();
    planner.open_vswitch();
    planner.options();
    planner.mtu();
    planner.commands(|commands| &commands.pre_up, "pre-up");
    planner.attach();
    planner.ports();
    planner.up();
    planner.addresses();
    planner.routes();
    planner.commands(|commands| &commands.up, "up");
    planner.dhcp();
    planner.plan
}

struct Planner<'a> {
    before: &'a Wanted,
    wanted: &'a Wanted,
    target: BTreeMap<String, Link>,
    actual: &'a State,
    plan: Plan,
}

impl Planner<'_> {
    /// Hardware that is not there cannot be set up, nor what stands on it.
    fn leave_out_missing(&mut self) {
        loop {
            let is_missing = |name: &String, link: &Link| match &link.kind {
                Kind::Vlan { raw, .. } => {
                    (!self.target.contains_key(raw) && !self.actual.links.contains_key(raw)).then(|| raw.clone())
                }
                kind if kind.is_made() || *kind == Kind::OpenVSwitch => None,
                _ => (!self.actual.links.contains_key(name)).then(|| name.clone()),
            };
            let found = self.target.iter().find_map(|(name, link)| Some((name.clone(), is_missing(name, link)?)));
            let Some((name, missing)) = found else { return };
            self.plan.warnings.push(if name == missing {
                format!("interface '{name}' does not exist")
            } else {
                format!("interface '{name}' is left out, because '{missing}' does not exist")
            });
            self.target.remove(&name);
        }
    }

    fn push(&mut self, change: Change) {
        self.plan.changes.push(change);
    }

    fn is_up(&self, name: &str) -> bool {
        self.actual.links.get(name).is_some_and(|link| link.up)
    }

    /// Whether a link has to be made anew.
    fn is_remade(&self, name: &str) -> bool {
        match (self.target.get(name), self.actual.links.get(name)) {
            (Some(Link { kind: Kind::OpenVSwitch, .. }), Some(actual)) => actual.kind.is_made(),
            (Some(wanted), Some(actual)) => wanted.kind.is_made() && must_remake(&wanted.kind, &actual.kind),
            _ => false,
        }
    }

    /// Links that were ours and are in no file any more.
    fn gone(&self) -> Vec<String> {
        let is_gone = |name: &&String| !self.target.contains_key(*name) && !self.wanted.state.links.contains_key(*name);
        self.before
            .state
            .links
            .keys()
            .filter(is_gone)
            .filter(|name| self.actual.links.contains_key(*name))
            .cloned()
            .collect()
    }

    fn end_what_goes(&mut self) {
        for (name, families) in &self.before.dhcp {
            if self.wanted.dhcp.get(name) != Some(families) || self.is_remade(name) {
                self.push(Change::StopDhcp(name.clone()));
            }
        }
        let gone = self.gone();
        for (name, commands) in &self.before.commands {
            let ends = gone.contains(name) || self.is_remade(name);
            for line in commands.down.iter().filter(|_| ends) {
                self.push(Change::Command { name: name.clone(), phase: "down", line: line.clone() });
            }
        }
    }

    /// Takes ports out of what they no longer belong to. Guests' ports are in no file, so they stay.
    fn release(&mut self) {
        for (name, actual) in &self.actual.links {
            let is_ours_to_release = |from: &&String| !from.is_empty() && *from != open_vswitch::CONTROLLER;
            let Some(from) = actual.controller.as_ref().filter(is_ours_to_release) else { continue };
            let wanted = match self.target.get(name) {
                Some(link) => link.controller.clone(),
                None if self.before.state.links.contains_key(name) => Some(String::new()),
                None => None,
            };
            let moves = wanted.is_some_and(|wanted| wanted != *from);
            if moves || self.is_remade(from) || self.changes_mode(from) {
                self.push(Change::Release { port: name.clone(), from: from.clone() });
            }
        }
    }

    /// A bond changes its mode, and whose address it has, only without ports.
    fn changes_mode(&self, name: &str) -> bool {
        match (self.target.get(name).map(|link| &link.kind), self.actual.links.get(name).map(|link| &link.kind)) {
            (Some(Kind::Bond(wanted)), Some(Kind::Bond(actual))) => {
                let new = wanted.without_same(actual);
                new.mode.is_some() || new.more.keys().filter_map(|name| bond_option(name)).any(|option| option.is_empty)
            }
            _ => false,
        }
    }

    fn delete(&mut self) {
        let mut gone: Vec<String> = self.gone();
        gone.extend(self.target.keys().filter(|name| self.is_remade(name)).cloned());
        // What stands on others goes first.
        let actual = &self.actual.links;
        gone.sort_by_key(|name| std::cmp::Reverse(depth(actual, name, 0)));
        for name in gone {
            let Some(link) = self.actual.links.get(&name) else { continue };
            if link.kind.is_made() {
                self.push(Change::Delete { name: name.clone(), kind: link.kind.word().to_owned() });
            } else if !matches!(link.kind, Kind::Loopback | Kind::OpenVSwitch) {
                for net in link.addresses.iter().flatten().filter(|net| !net.is_link_local()) {
                    self.plan.changes.push(Change::DeleteAddress(name.clone(), *net));
                }
                if link.up {
                    self.push(Change::Down(name.clone()));
                }
            }
            let after = self.before.commands.get(&name).map(|commands| commands.post_down.clone());
            for line in after.unwrap_or_default() {
                self.push(Change::Command { name: name.clone(), phase: "post-down", line });
            }
        }
    }

    /// Bridges and ports that Open vSwitch has to give up, ports first.
    fn leave_open_vswitch(&mut self) {
        let mut gone: Vec<(&String, &String)> = Vec::new();
        for (name, bridge) in &self.actual.open_vswitch {
            let was_ours = self.before.open_vswitch.contains_key(name) && !self.wanted.open_vswitch.contains_key(name);
            let other = |link: &Link| link.kind.is_made() || link.controller.as_ref().is_some_and(|to| !to.is_empty());
            let is_taken = self
                .target
                .get(name)
                .is_some_and(|link| link.controller.as_deref() != Some(open_vswitch::CONTROLLER) && other(link));
            if was_ours || is_taken {
                gone.push((name, bridge));
            }
        }
        gone.sort_by_key(|(_, bridge)| bridge.is_empty());
        for (name, bridge) in gone {
            let word = if bridge.is_empty() { "del-br" } else { "del-port" };
            self.plan.changes.push(Change::OpenVSwitch(["--if-exists", word, name].map(str::to_owned).to_vec()));
        }
    }

    /// Names of the target, lower links first.
    fn order(&self) -> Vec<String> {
        let mut names: Vec<String> = self.target.keys().cloned().collect();
        names.sort_by_key(|name| depth(&self.target, name, 0));
        names
    }

    fn is_new(&self, name: &str) -> bool {
        !self.actual.links.contains_key(name) || self.is_remade(name)
    }

    fn create(&mut self) {
        for name in self.order() {
            let link = &self.target[&name];
            if link.kind.is_made() && self.is_new(&name) {
                let kind = match without_usual(&link.kind, &Kind::default()) {
                    Kind::Bond(bond) => {
                        // The first mode is zero, and a bond is made with its mode. What is usual need not be said, and
                        // in some modes must not.
                        Kind::Bond(Bond { mode: bond.mode, ..bond.without_same(&Bond::fresh()) })
                    }
                    kind => kind,
                };
                let mac = self.address_below(&name, 0);
                self.push(Change::Create { name, kind, mac });
            }
        }
    }

    /// The hardware address that a new link is made with: the one written for it, else for bridges and bonds that of their
    /// first card. The kernel would take it over, too, unless the device manager has been faster and set one that no
    /// switch outside knows.
    fn address_below(&self, name: &str, seen: usize) -> Option<String> {
        let link = self.target.get(name);
        if let Some(mac) = link.and_then(|link| link.mac.clone()) {
            return Some(mac);
        }
        match link.map(|link| &link.kind) {
            Some(Kind::Bridge(_) | Kind::Bond(_)) if seen < 8 => {
                let is_port = |link: &Link| link.controller.as_deref() == Some(name);
                let mut ports = self.target.iter().filter(|(_, link)| is_port(link));
                ports.find_map(|(port, _)| self.address_below(port, seen + 1))
            }
            // By itself it always has the address of the link below.
            Some(Kind::Vlan { .. }) if seen == 0 => None,
            Some(Kind::Vlan { raw, .. }) if seen < 8 => self.address_below(raw, seen + 1),
            Some(Kind::Hardware) | None => self.actual.links.get(name)?.mac.clone(),
            _ => None,
        }
    }

    fn options(&mut self) {
        for name in self.order() {
            let link = self.target[&name].clone();
            let actual = self.actual.links.get(&name).filter(|_| !self.is_remade(&name)).cloned().unwrap_or_default();
            match (&link.kind, &actual.kind) {
                (Kind::Bridge(wanted), Kind::Bridge(now)) => {
                    let differs = [
                        differs(&wanted.stp, &now.stp),
                        differs(&wanted.forward_delay, &now.forward_delay),
                        differs(&wanted.hello_time, &now.hello_time),
                        differs(&wanted.max_age, &now.max_age),
                        differs(&wanted.ageing_time, &now.ageing_time),
                        differs(&wanted.priority, &now.priority),
                        differs(&wanted.vlan_aware, &now.vlan_aware),
                        differs(&wanted.multicast_snooping, &now.multicast_snooping),
                        differs(&wanted.multicast_querier, &now.multicast_querier),
                    ];
                    if now.stp == Some(true) && wanted.stp == Some(false) {
                        // The kernel takes a short delay only when the spanning tree is off already.
                        let off = Kind::Bridge(super::state::Bridge { stp: Some(false), ..Default::default() });
                        self.push(Change::SetOptions { name: name.clone(), kind: off });
                    }
                    if differs.contains(&true) {
                        let kind = without_usual(&link.kind, &actual.kind);
                        self.push(Change::SetOptions { name: name.clone(), kind });
                    }
                }
                (Kind::Bond(wanted), Kind::Bond(now)) => {
                    let new = wanted.without_same(now);
                    let mut more = new.more.keys().filter_map(|name| bond_option(name));
                    if (new.mode.is_some() || new.lacp_fast.is_some() || more.any(|option| option.is_off)) && actual.up
                    {
                        self.push(Change::Down(name.clone()));
                    }
                    if new != Bond::default() {
                        self.push(Change::SetOptions { name: name.clone(), kind: Kind::Bond(new) });
                    }
                }
                (Kind::Vxlan(wanted), Kind::Vxlan(now)) => self.remotes(&name, &wanted.remotes, &now.remotes),
                (Kind::Vxlan(wanted), _) => self.remotes(&name, &wanted.remotes, &BTreeSet::new()),
                _ => {}
            }
            if differs(&link.mac, &actual.mac) && !(link.kind.is_made() && self.is_new(&name)) {
                self.push(Change::SetMac(name.clone(), link.mac.clone().unwrap_or_default()));
            }
        }
    }

    fn remotes(&mut self, name: &str, wanted: &BTreeSet<std::net::IpAddr>, now: &BTreeSet<std::net::IpAddr>) {
        for remote in now.difference(wanted) {
            self.push(Change::Remote { name: name.to_owned(), remote: *remote, add: false });
        }
        for remote in wanted.difference(now) {
            self.push(Change::Remote { name: name.to_owned(), remote: *remote, add: true });
        }
    }

    /// Larger sizes from below, smaller ones from above: nothing is ever larger than what carries it.
    fn mtu(&mut self) {
        let order = self.order();
        let change = |name: &String| -> Option<(u32, u32)> {
            let wanted = self.wanted_mtu(name)?;
            let now = if self.is_new(name) { None } else { self.actual.links.get(name)?.mtu };
            (now != Some(wanted)).then_some((now.unwrap_or(1500), wanted))
        };
        let all: Vec<(String, u32, u32)> =
            order.iter().filter_map(|name| change(name).map(|(now, wanted)| (name.clone(), now, wanted))).collect();
        for (name, _, wanted) in all.iter().rev().filter(|(_, now, wanted)| wanted < now) {
            self.push(Change::SetMtu(name.clone(), *wanted));
        }
        for (name, now, wanted) in &all {
            if wanted > now || (wanted == now && self.is_new(name) && *wanted != 1500) {
                self.push(Change::SetMtu(name.clone(), *wanted));
            }
        }
    }

    /// What a file says, or the usual size when the file before said another.
    fn wanted_mtu(&self, name: &str) -> Option<u32> {
        let link = self.target.get(name)?;
        let said_before = || self.before.state.links.get(name).and_then(|link| link.mtu).is_some();
        link.mtu.or_else(|| said_before().then_some(1500))
    }

    fn commands(&mut self, lines: fn(&super::wanted::Commands) -> &Vec<String>, phase: &'static str) {
        for (name, commands) in &self.wanted.commands {
            let Some(link) = self.target.get(name) else { continue };
            // A link that is switched off on the way has lost what its commands had set.
            let was_downed = self.plan.changes.contains(&Change::Down(name.clone()));
            let starts = link.up && (self.is_new(name) || !self.is_up(name) || was_downed);
            let is_changed = self.before.commands.get(name) != Some(commands);
            for line in lines(commands).iter().filter(|_| starts || is_changed) {
                self.plan.changes.push(Change::Command { name: name.clone(), phase, line: line.clone() });
            }
        }
    }

    fn attach(&mut self) {
        // Bonds first: a bridge takes the bond's address then.
        let rank = |name: &String| {
            let to = self.target[name].controller.as_ref().and_then(|to| self.target.get(to));
            u8::from(!to.is_some_and(|to| matches!(to.kind, Kind::Bond(_))))
        };
        let mut names = self.order();
        names.sort_by_key(rank);
        for name in names {
            let Some(to) = self.target[&name].controller.clone().filter(|to| !to.is_empty()) else { continue };
            let now =
                self.actual.links.get(&name).filter(|_| !self.is_new(&name)).and_then(|link| link.controller.clone());
            let loses = self.is_remade(&to) || self.changes_mode(&to);
            if now.as_deref() == Some(&to) && !loses {
                continue;
            }
            let Some(controller) = self.target.get(&to) else { continue };
            if matches!(controller.kind, Kind::Bond(_)) && self.is_up(&name) {
                // The kernel takes only ports that are off into a bond, and switches them on itself.
                self.push(Change::Down(name.clone()));
            }
            self.push(Change::Attach { port: name, to });
        }
        // Ports of guests on a bridge that is made anew.
        for (name, link) in &self.actual.links {
            let Some(to) = link.controller.clone().filter(|to| self.is_remade(to)) else { continue };
            if !self.target.contains_key(name) && !self.before.state.links.contains_key(name) {
                self.push(Change::Attach { port: name.clone(), to });
            }
        }
    }

    fn open_vswitch(&mut self) {
        let mut parts: Vec<_> = self.wanted.open_vswitch.iter().collect();
        parts.sort_by_key(|(_, part)| !part.bridge.is_empty());
        for (name, part) in parts {
            let is_changed = self.before.open_vswitch.get(name).is_some_and(|before| before != part);
            if is_changed || self.actual.open_vswitch.get(name) != Some(&part.bridge) {
                self.plan.changes.push(Change::OpenVSwitch(part.call.clone()));
            }
        }
    }

    fn ports(&mut self) {
        for name in self.order() {
            let link = self.target[&name].clone();
            let now = self.actual.links.get(&name).filter(|_| !self.is_new(&name)).cloned().unwrap_or_default();
            let stays =
                now.controller == link.controller && !link.controller.as_ref().is_some_and(|to| self.is_remade(to));
            if let Some(vlans) = &link.vlans {
                let on_bridge = matches!(link.kind, Kind::Bridge(_));
                let old = now.vlans.clone().filter(|_| stays || on_bridge);
                // A port that joins a VLAN-aware bridge is in its first VLAN.
                let old = old.unwrap_or_else(|| PortVlans::access(1, []));
                if old != *vlans {
                    self.push(Change::SetVlans { name: name.clone(), old, new: vlans.clone(), on_bridge });
                }
            }
            let flags = if stays { now.port.clone() } else { PortFlags::default() };
            let (wanted, default_on) = (&link.port, Some(true));
            let differs = [
                differs(&wanted.learning, &flags.learning.or(default_on)),
                differs(&wanted.unicast_flood, &flags.unicast_flood.or(default_on)),
                differs(&wanted.multicast_flood, &flags.multicast_flood.or(default_on)),
                differs(&wanted.neighbour_suppression, &flags.neighbour_suppression),
                differs(&wanted.isolated, &flags.isolated),
                differs(&wanted.cost, &flags.cost),
                differs(&wanted.priority, &flags.priority),
            ];
            if differs.contains(&true) {
                self.push(Change::SetPort { name: name.clone(), flags: link.port.clone() });
            }
        }
    }

    fn up(&mut self) {
        for name in self.order() {
            let link = &self.target[&name];
            let was_downed = self.plan.changes.contains(&Change::Down(name.clone()));
            let in_bond = link
                .controller
                .as_ref()
                .and_then(|to| self.target.get(to))
                .is_some_and(|to| matches!(to.kind, Kind::Bond(_)));
            let is_up = !self.is_new(&name) && self.is_up(&name) && (in_bond || !was_downed);
            match link.up {
                true if !is_up => self.push(Change::Up(name)),
                false if is_up => self.push(Change::Down(name)),
                _ => {}
            }
        }
    }

    /// New addresses come before old ones go, so that a node stays reachable.
    fn addresses(&mut self) {
        let mut old: Vec<Change> = Vec::new();
        for name in self.order() {
            let Some(wanted) = self.target[&name].addresses.clone() else { continue };
            let now = self.actual.links.get(&name).filter(|_| !self.is_new(&name));
            let now = now.and_then(|link| link.addresses.clone()).unwrap_or_default();
            let is_leased = self.wanted.dhcp.contains_key(&name);
            let is_loopback = self.target[&name].kind == Kind::Loopback;
            for net in wanted.difference(&now) {
                self.push(Change::AddAddress(name.clone(), *net));
            }
            let was_said = |net: &Net| {
                let before = self.before.state.links.get(&name).and_then(|link| link.addresses.as_ref());
                before.is_some_and(|before| before.contains(net)) && !net.address.is_loopback()
            };
            let goes = |net: &&Net| if is_loopback { was_said(net) } else { !is_leased && !net.is_link_local() };
            let gone = now.difference(&wanted).filter(goes);
            let gone: Vec<&Net> = gone.collect();
            old.extend(gone.iter().map(|net| Change::DeleteAddress(name.clone(), **net)));
            // The first address of a network takes the others of it along, and with them what routes need.
            let falls = |net: &&Net| gone.iter().any(|gone| gone.prefix == net.prefix && gone.contains(net.address));
            let falling = wanted.iter().filter(|net| net.address.is_ipv4()).filter(falls);
            old.extend(falling.map(|net| Change::AddAddress(name.clone(), *net)));
        }
        self.plan.changes.extend(old);
    }

    fn routes(&mut self) {
        let exists = |route: &&Route| self.target.contains_key(&route.link);
        let wanted: Vec<Route> = self.wanted.state.routes.iter().filter(exists).cloned().collect();
        let ours = |route: &&Route| {
            let is_ours = self.target.contains_key(&route.link) || self.before.state.links.contains_key(&route.link);
            let was_said = || self.before.state.routes.iter().any(|before| before.is_met_by(route));
            is_ours && !self.wanted.dhcp.contains_key(&route.link) && (route.is_default() || was_said())
        };
        let mut changes = Vec::new();
        for route in self.actual.routes.iter().filter(ours) {
            if !wanted.iter().any(|wanted| wanted.is_met_by(route))
                && self.actual.links.contains_key(&route.link)
                && !self.gone().contains(&route.link)
            {
                changes.push(Change::DeleteRoute(route.clone()));
            }
        }
        for route in &wanted {
            let stays = self.actual.routes.iter().any(|now| route.is_met_by(now)) && !self.is_new(&route.link);
            if !stays || self.plan.changes.contains(&Change::Down(route.link.clone())) {
                changes.push(Change::AddRoute(route.clone()));
            }
        }
        self.plan.changes.extend(changes);
    }

    fn dhcp(&mut self) {
        for (name, (four, six)) in &self.wanted.dhcp {
            let is_known = self.before.dhcp.get(name) == Some(&(*four, *six));
            if self.target.contains_key(name) && (!is_known || self.is_new(name)) {
                self.plan.changes.push(Change::StartDhcp { name: name.clone(), four: *four, six: *six });
            }
        }
    }
}

/// A part that nobody wants never differs; one that the kernel does not know counts as its zero.
fn differs<T: PartialEq + Default + Clone>(wanted: &Option<T>, now: &Option<T>) -> bool {
    wanted.as_ref().is_some_and(|wanted| *wanted != now.clone().unwrap_or_default())
}

/// A kernel that knows no VLANs on bridges does not even take the word that a bridge shall not tell them apart.
fn without_usual(wanted: &Kind, now: &Kind) -> Kind {
    let knows = matches!(now, Kind::Bridge(now) if now.vlan_aware.is_some());
    let mut kind = wanted.clone();
    if let Kind::Bridge(bridge) = &mut kind
        && !knows
    {
        bridge.vlan_aware = bridge.vlan_aware.filter(|is| *is);
    }
    kind
}

fn must_remake(wanted: &Kind, actual: &Kind) -> bool {
    match (wanted, actual) {
        (Kind::Bridge(_), Kind::Bridge(_)) | (Kind::Bond(_), Kind::Bond(_)) | (Kind::Dummy, Kind::Dummy) => false,
        (Kind::Vlan { .. }, Kind::Vlan { .. }) => wanted != actual,
        (Kind::Vxlan(wanted), Kind::Vxlan(now)) => {
            let ends =
                |vxlan: &super::state::Vxlan| (vxlan.id, vxlan.local, vxlan.group, vxlan.device.clone(), vxlan.port);
            ends(wanted) != ends(now)
        }
        _ => true,
    }
}

/// How many links a link stands on.
fn depth(links: &BTreeMap<String, Link>, name: &str, seen: usize) -> usize {
    // A circle is cut; the kernel refuses it.
    if seen > 8 {
        return seen;
    }
    let raw = match links.get(name).map(|link| &link.kind) {
        Some(Kind::Vlan { raw, .. }) => Some(raw),
        Some(Kind::Vxlan(vxlan)) => vxlan.device.as_ref(),
        _ => None,
    };
    let ports = links.iter().filter(|(_, link)| link.controller.as_deref() == Some(name)).map(|(port, _)| port);
    ports.chain(raw).map(|below| 1 + depth(links, below, seen + 1)).max().unwrap_or(0)
}

#[cfg(test)]
mod tests;
