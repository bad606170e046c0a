//! Golden plans of the documented topologies, and a kernel of paper on which every plan must lead to its goal.

use super::*;
use crate::Context;
use crate::network::stanza;
use crate::network::state::Net;
use std::path::Path;

fn wanted(text: &str) -> Wanted {
    try_wanted(text).unwrap()
}

fn try_wanted(text: &str) -> crate::Result<Wanted> {
    let root = tempfile::tempdir().unwrap();
    let ctx = Context::for_test(root.path());
    Wanted::of(&stanza::read(&ctx, Path::new("interfaces"), text).unwrap())
}

/// A machine with cards and nothing else.
fn machine(cards: &[&str]) -> State {
    let card =
        Link { mtu: Some(1500), controller: Some(String::new()), addresses: Some(BTreeSet::new()), ..Link::default() };
    let mut state = State::default();
    for name in cards {
        state.links.insert((*name).to_owned(), card.clone());
    }
    state.links.insert("lo".into(), Link { kind: Kind::Loopback, up: true, ..card });
    state
}

fn lines(plan: &Plan) -> String {
    plan.changes.iter().map(|change| format!("{change}\n")).collect()
}

/// The section of a page between the topology's heading and the next.
fn documented(heading: &str) -> String {
    let page = include_str!("../../../../docs/network.md");
    let section = page.split(&format!("## {heading}\n")).nth(1).unwrap();
    let file = section.split("```\n").find(|block| block.starts_with("auto lo"));
    file.unwrap_or_else(|| panic!("{heading}: no file in the page")).to_owned()
}

/// What the kernel would have after a change.
fn carry_out(state: &mut State, change: &Change) {
    let fresh = || Link {
        mtu: Some(1500),
        controller: Some(String::new()),
        addresses: Some(BTreeSet::new()),
        ..Link::default()
    };
    match change {
        Change::Create { name, kind, .. } => {
            assert!(!state.links.contains_key(name), "{change}: it is there");
            let mut kind = kind.clone();
            if let Kind::Vxlan(vxlan) = &mut kind {
                vxlan.remotes.clear();
            }
            if let Kind::Vlan { raw, .. } = &kind {
                assert!(state.links.contains_key(raw), "{change}: nothing below");
            }
            if let Kind::Bond(bond) = &mut kind {
                bond.more = Bond::fresh().more.into_iter().chain(std::mem::take(&mut bond.more)).collect();
            }
            if let Kind::Bridge(bridge) = &mut kind {
                bridge.vlan_aware.get_or_insert(false);
            }
            let vlans =
                matches!(&kind, Kind::Bridge(b) if b.vlan_aware == Some(true)).then(|| PortVlans::access(1, []));
            state.links.insert(name.clone(), Link { kind, vlans, ..fresh() });
        }
        Change::Delete { name, .. } => {
            state.links.remove(name).unwrap();
            for link in state.links.values_mut().filter(|link| link.controller.as_deref() == Some(name)) {
                link.controller = Some(String::new());
            }
            let above: Vec<String> = state
                .links
                .iter()
                .filter(|(_, link)| matches!(&link.kind, Kind::Vlan { raw, .. } if raw == name))
                .map(|(above, _)| above.clone())
                .collect();
            above.iter().for_each(|above| drop(state.links.remove(above)));
            state.routes.retain(|route| route.link != *name);
        }
        Change::SetOptions { name, kind } => {
            let link = state.links.get_mut(name).unwrap();
            match (&mut link.kind, kind) {
                (Kind::Bond(now), Kind::Bond(new)) => {
                    assert!(new.mode.is_none() && new.lacp_fast.is_none() || !link.up, "{change}: it is up");
                    now.mode = new.mode.or(now.mode);
                    now.miimon = new.miimon.or(now.miimon);
                    now.updelay = new.updelay.or(now.updelay);
                    now.downdelay = new.downdelay.or(now.downdelay);
                    now.primary = new.primary.clone().or(now.primary.take());
                    now.hash_policy = new.hash_policy.or(now.hash_policy);
                    now.lacp_fast = new.lacp_fast.or(now.lacp_fast);
                    now.min_links = new.min_links.or(now.min_links);
                    now.more.extend(new.more.clone());
                }
                (now, new) => *now = new.clone(),
            }
        }
        Change::Remote { name, remote, add } => {
            let Kind::Vxlan(vxlan) = &mut state.links.get_mut(name).unwrap().kind else { panic!("{change}") };
            assert!(if *add { vxlan.remotes.insert(*remote) } else { vxlan.remotes.remove(remote) });
        }
        Change::Attach { port, to } => {
            assert!(state.links.contains_key(to), "{change}: it is not there");
            let is_bond = matches!(state.links[to].kind, Kind::Bond(_));
            let aware = matches!(&state.links[to].kind, Kind::Bridge(bridge) if bridge.vlan_aware == Some(true));
            let link = state.links.get_mut(port).unwrap();
            assert!(!is_bond || !link.up, "{change}: the port is up");
            link.up |= is_bond;
            link.controller = Some(to.clone());
            link.vlans = aware.then(|| PortVlans::access(1, []));
        }
        Change::Release { port, from } => {
            let link = state.links.get_mut(port).unwrap();
            assert_eq!(link.controller.as_ref(), Some(from), "{change}");
            link.controller = Some(String::new());
            link.vlans = None;
        }
        Change::SetMtu(name, mtu) => state.links.get_mut(name).unwrap().mtu = Some(*mtu),
        Change::SetMac(name, mac) => state.links.get_mut(name).unwrap().mac = Some(mac.clone()),
        Change::SetVlans { name, new, .. } => state.links.get_mut(name).unwrap().vlans = Some(new.clone()),
        Change::SetPort { name, flags } => state.links.get_mut(name).unwrap().port = flags.clone(),
        Change::Up(name) => state.links.get_mut(name).unwrap().up = true,
        Change::Down(name) => state.links.get_mut(name).unwrap().up = false,
        Change::AddAddress(name, net) => drop(addresses(state, name).insert(*net)),
        Change::DeleteAddress(name, net) => assert!(addresses(state, name).remove(net), "{change}"),
        Change::AddRoute(route) => drop(state.routes.insert(route.clone())),
        Change::DeleteRoute(route) => assert!(state.routes.remove(route), "{change}"),
        Change::Command { .. } | Change::StartDhcp { .. } | Change::StopDhcp(_) | Change::OpenVSwitch(_) => {}
    }
}

fn addresses<'a>(state: &'a mut State, name: &str) -> &'a mut BTreeSet<Net> {
    state.links.get_mut(name).unwrap().addresses.get_or_insert_default()
}

/// Carries out the way to a file; asks again as the real one does. Answers the first round's changes.
fn apply(before: &Wanted, wanted: &Wanted, state: &mut State) -> String {
    let first = plan(before, wanted, state);
    first.changes.iter().for_each(|change| carry_out(state, change));
    for _ in 0..2 {
        plan(wanted, wanted, state).changes.iter().for_each(|change| carry_out(state, change));
    }
    assert_eq!(lines(&plan(wanted, wanted, state)), "", "nothing is left after\n{}", lines(&first));
    lines(&first)
}

#[test]
fn a_bond_and_one_bridge_per_vlan() {
    let wanted = wanted(&documented("Bond and one bridge per VLAN"));
    let mut state = machine(&["en01", "en02"]);
    insta::assert_snapshot!(apply(&Wanted::default(), &wanted, &mut state));
}

#[test]
fn a_bond_and_one_vlan_aware_bridge() {
    let wanted = wanted(&documented("Bond and one VLAN-aware bridge"));
    let mut state = machine(&["en01", "en02"]);
    insta::assert_snapshot!(apply(&Wanted::default(), &wanted, &mut state));
}

#[test]
fn one_nic_nat_and_inner_networks() {
    let wanted = wanted(&documented("One NIC, NAT and inner networks"));
    let mut state = machine(&["en01"]);
    insta::assert_snapshot!(apply(&Wanted::default(), &wanted, &mut state));
}

#[test]
fn a_bond_changes_its_mode_without_its_ports() {
    let text = "auto bond0\niface bond0 inet manual\n\tbond-slaves en01 en02\n\tbond-mode active-backup\n";
    let (old, new) = (wanted(text), wanted(&text.replace("active-backup", "802.3ad")));
    let mut state = machine(&["en01", "en02"]);
    apply(&Wanted::default(), &old, &mut state);
    insta::assert_snapshot!(apply(&old, &new, &mut state));
}

#[test]
fn rarer_options_of_a_bond_come_and_go() {
    let plain = "auto bond0\niface bond0 inet manual\n\tbond-slaves en01 en02\n\tbond-mode active-backup\n";
    let more = format!("{plain}\tbond-num-unsol-na 3\n\tbond-primary_reselect better\n\tbond-use-carrier 1\n");
    let mut state = machine(&["en01", "en02"]);
    let first = wanted(&more);
    let made = apply(&Wanted::default(), &first, &mut state);
    assert!(made.contains(" num-grat-arp 3 primary-reselect 1") && !made.contains("use-carrier"), "{made}");
    let back = apply(&first, &wanted(plain), &mut state);
    assert_eq!(back, "bond0: set num-grat-arp 1 primary-reselect 0\n");
    // Whose address it has changes only while it is empty.
    let text = format!("{plain}\tbond-fail-over-mac active\n");
    let changed = apply(&wanted(plain), &wanted(&text), &mut state);
    assert!(changed.contains("en01: take out of 'bond0'") && changed.contains("en02: put into 'bond0'"), "{changed}");
    let odd = wanted(&format!("{plain}\tbond-arp-interval 100\n"));
    assert!(plan(&odd, &odd, &state).warnings[0].contains("option 'bond-arp-interval' is kept and has no effect"));
    assert!(
        try_wanted(&format!("{plain}\tbond-ad-select fast\n")).unwrap_err().message().contains("bond-ad-select 'fast'")
    );
}

#[test]
fn missing_hardware_leaves_the_rest() {
    let text = "auto vmbr0\niface vmbr0 inet manual\n\tbridge-ports en01 en09\nauto en09.5\niface en09.5 inet manual\n";
    let plan = plan(&Wanted::default(), &wanted(text), &machine(&["en01"]));
    assert_eq!(
        plan.warnings,
        ["interface 'en09' does not exist", "interface 'en09.5' is left out, because 'en09' does not exist"]
    );
    assert!(lines(&plan).contains("en01: put into 'vmbr0'") && !lines(&plan).contains("en09"));
}

#[test]
fn what_is_no_longer_in_the_file_is_no_longer_so() {
    let file = |card: &str, bridge: &str| {
        wanted(&format!(
            "iface en01 inet manual\n{card}\nauto lan\niface lan inet manual\n\tbridge-ports en01\n{bridge}"
        ))
    };
    let mut state = machine(&["en01"]);
    let named = file("\tbridge-isolated on\n\tbridge-learning off\n", "\tbridge-mcsnoop no\n\tbridge-mcquerier yes\n");
    apply(&Wanted::default(), &named, &mut state);
    let plain = file("", "");
    let changes = apply(&named, &plain, &mut state);
    assert!(changes.contains("en01: set port learning on isolated off\n"), "{changes}");
    assert!(changes.contains("multicast-snooping on multicast-querier off\n"), "{changes}");
    assert_eq!(apply(&plain, &plain, &mut state), "");
}

#[test]
fn ports_of_guests_stay_and_come_back_to_a_bridge_that_is_made_anew() {
    let bridge = wanted("auto lan\niface lan inet manual\n\tbridge-ports none\n");
    let mut state = machine(&[]);
    apply(&Wanted::default(), &bridge, &mut state);
    let tap = Link { kind: Kind::Other("tun".into()), up: true, controller: Some("lan".into()), ..Link::default() };
    state.links.insert("tap100i0".into(), tap);
    assert_eq!(lines(&plan(&bridge, &bridge, &state)), "");
    let aware = wanted("auto lan\niface lan inet manual\n\tbridge-ports none\n\tbridge-vlan-aware yes\n\tmtu 1400\n");
    let changes = lines(&plan(&bridge, &aware, &state));
    assert!(!changes.contains("tap100i0") && !changes.contains("delete"), "{changes}");
    let vlan = wanted("auto lan\niface lan inet manual\n\tvlan-raw-device lo\n\tvlan-id 5\n");
    assert!(lines(&plan(&bridge, &vlan, &state)).starts_with("tap100i0: take out of 'lan'\nlan: delete bridge\n"));
}
