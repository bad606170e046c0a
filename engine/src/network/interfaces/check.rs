//! The rules that hold before a file is written, with PVE's messages, and what writing changes by itself.

use super::{Iface, Interfaces};
use crate::{Result, bail};
use std::collections::BTreeMap;

/// Options that only make sense on a port of a bridge.
const PORT_OPTIONS: &[&str] =
    &["bridge-learning", "bridge-arp-nd-suppress", "bridge-unicast-flood", "bridge-multicast-flood", "bridge-access"];

impl Interfaces {
    /// Completes what follows from the configuration and checks the rest.
    pub(super) fn check(&mut self, ifupdown2: bool) -> Result<()> {
        let used = self.used_ports()?;
        self.release_ovs_ports(&used);
        self.claim_ovs_ports()?;
        self.check_ovs_bonds()?;
        self.check_bonds()?;
        self.check_vxlans()?;
        self.check_vlans(ifupdown2)?;
        self.check_uplinks()?;
        self.check_bridge_ports()
    }

    /// Which interface uses each port.
    fn used_ports(&mut self) -> Result<BTreeMap<String, String>> {
        let mut used: BTreeMap<String, String> = BTreeMap::new();
        for (name, iface) in &mut self.ifaces {
            for suffix in ["", "6"] {
                let cidr = iface.values.remove(&format!("cidr{suffix}"));
                if let Some(cidr) = cidr {
                    iface.values.entry(format!("address{suffix}")).or_insert(cidr);
                }
            }
            for key in ["bridge_ports", "ovs_ports", "slaves", "ovs_bonds"] {
                for port in iface.list(key) {
                    match used.get(port) {
                        Some(other) if other != name => {
                            bail!("port '{port}' is already used on interface '{other}'")
                        }
                        _ => used.insert(port.to_owned(), name.clone()),
                    };
                }
            }
        }
        Ok(used)
    }

    /// A port that no Open vSwitch bridge names any more is an ordinary interface again.
    fn release_ovs_ports(&mut self, used: &BTreeMap<String, String>) {
        let names: Vec<String> =
            self.ifaces.iter().filter(|(_, iface)| is_ovs_port(iface)).map(|(name, _)| name.clone()).collect();
        for name in names {
            match used.get(&name).and_then(|bridge| self.ifaces.get(bridge)).map(|bridge| bridge.kind.clone()) {
                None => {
                    let mut plain = Iface {
                        kind: "eth".into(),
                        exists: Some(true),
                        families: vec![Some("inet")],
                        ..Iface::default()
                    };
                    plain.set("method", "manual");
                    self.ifaces.insert(name, plain);
                }
                Some(kind) if kind != "OVSBridge" => drop(self.ifaces.remove(&name)),
                Some(_) => {}
            }
        }
    }

    fn claim_ovs_ports(&mut self) -> Result<()> {
        for (bridge, ports) in self.lists("OVSBridge", "ovs_ports") {
            for port in ports {
                let Some(iface) = self.ifaces.get_mut(&port) else {
                    bail!("OVS bridge '{bridge}' - unable to find port '{port}'");
                };
                iface.autostart = false;
                if iface.kind == "eth" {
                    iface.kind = "OVSPort".into();
                }
                if !is_ovs_port(iface) {
                    bail!("interface '{port}' is not defined as OVS port/bond");
                }
                iface.set("ovs_bridge", bridge.clone());
                self.check_mtu(&bridge, &port)?;
            }
        }
        Ok(())
    }

    fn check_ovs_bonds(&mut self) -> Result<()> {
        for (bond, ports) in self.lists("OVSBond", "ovs_bonds") {
            for port in ports {
                let Some(iface) = self.ifaces.get_mut(&port) else {
                    bail!("OVS bond '{bond}' - unable to find slave '{port}'");
                };
                iface.autostart = true;
                if iface.kind != "eth" {
                    let kind = &iface.kind;
                    bail!("OVS bond '{bond}' - wrong interface type on slave '{port}' ('{kind}' != 'eth')");
                }
                self.check_mtu(&bond, &port)?;
            }
        }
        Ok(())
    }

    fn check_bonds(&mut self) -> Result<()> {
        for (bond, ports) in self.lists("bond", "slaves") {
            for port in &ports {
                let Some(iface) = self.ifaces.get_mut(port) else {
                    bail!("bond '{bond}' - unable to find slave '{port}'");
                };
                iface.autostart = true;
                if iface.kind != "eth" && iface.kind != "bond" {
                    let kind = &iface.kind;
                    bail!("bond '{bond}' - wrong interface type on slave '{port}' ('{kind}' != 'eth or bond')");
                }
                self.check_mtu(&bond, port)?;
            }
            let primary = self.ifaces.get(&bond).and_then(|iface| iface.get("bond-primary"));
            if !ports.is_empty() && primary.is_some_and(|primary| !ports.iter().any(|port| port == primary)) {
                bail!("bond '{bond}' - bond-primary interface is not a slave");
            }
        }
        Ok(())
    }

    fn check_vxlans(&self) -> Result<()> {
        let mut ids: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, iface) in &self.ifaces {
            if iface.kind == "vxlan"
                && let Some(id) = iface.get("vxlan-id")
                && let Some(other) = ids.insert(id, name)
            {
                bail!("iface {name} - duplicate vxlan-id {id} already used in {other}");
            }
            let has = |key| iface.values.contains_key(key);
            let ends = [has("vxlan-svcnodeip"), !iface.remotes.is_empty(), has("vxlan-local-tunnelip")];
            // PVE refuses a local address beside the remote ones, too, as its message says.
            if ends.into_iter().filter(|end| *end).count() > 1 {
                bail!("iface {name} - vxlan-svcnodeip, vxlan-remoteip and vxlan-localtunnelip are mutually exclusive");
            }
            if has("vxlan-svcnodeip") != has("vxlan-physdev") {
                bail!("iface {name} - vxlan-svcnodeip and vxlan-physdev must be define together");
            }
        }
        Ok(())
    }

    fn check_vlans(&mut self, ifupdown2: bool) -> Result<()> {
        let names: Vec<String> = self.of_kind("vlan");
        for name in names {
            let iface = self.ifaces.get_mut(&name).expect("the name was just listed");
            let dotted =
                name.rsplit_once('.').filter(|(raw, id)| !raw.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
            let (raw, id) = if let Some((raw, id)) = dotted {
                iface.values.remove("vlan-raw-device");
                iface.values.remove("vlan-id");
                (raw.to_owned(), id.to_owned())
            } else {
                let Some(raw) = iface.get("vlan-raw-device").map(str::to_owned) else {
                    bail!("missing vlan-raw-device option");
                };
                let numbered = name.strip_prefix("vlan").filter(|id| id.parse::<u64>().is_ok());
                if numbered.is_some() {
                    iface.values.remove("vlan-id");
                } else if !ifupdown2 {
                    bail!("custom vlan interface name need ifupdown2");
                }
                let Some(id) = numbered.or(iface.get("vlan-id")).map(str::to_owned) else {
                    bail!("missing vlan-id option");
                };
                (raw, id)
            };
            if id.parse::<u64>().is_ok_and(|id| id > 4094) {
                bail!("vlan '{name}' - vlan-id {id} should be <= 4094");
            }
            let Some(parent) = self.ifaces.get(&raw) else {
                bail!("vlan '{name}' - unable to find parent '{raw}'");
            };
            if !matches!(parent.kind.as_str(), "eth" | "bridge" | "bond" | "vlan") {
                let kind = &parent.kind;
                bail!("vlan '{name}' - wrong interface type on parent '{raw}' ('{kind}' != 'eth|bond|bridge|vlan' )");
            }
            self.check_mtu(&raw, &name)?;
        }
        Ok(())
    }

    fn check_uplinks(&self) -> Result<()> {
        let mut uplinks: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, iface) in &self.ifaces {
            let Some(uplink) = iface.get("uplink-id") else { continue };
            if iface.kind != "eth" && iface.kind != "bond" {
                bail!("iface '{name}' - uplink-id {uplink} is only allowed on physical and linux bond interfaces");
            }
            if let Some(other) = uplinks.insert(uplink, name) {
                bail!("iface '{name}' - uplink-id {uplink} is already assigned on '{other}'");
            }
        }
        Ok(())
    }

    fn check_bridge_ports(&self) -> Result<()> {
        let mut bridge_of: BTreeMap<String, String> = BTreeMap::new();
        let mut all = self.clone();
        for (bridge, ports) in self.lists("bridge", "bridge_ports") {
            for port in ports {
                if let Some((raw, _)) = port.rsplit_once('.').filter(|(_, id)| id.parse::<u64>().is_ok())
                    && !all.ifaces.contains_key(&port)
                {
                    let mut vlan = Iface { kind: "vlan".into(), ..Iface::default() };
                    if let Some(mtu) = all.ifaces.get(raw).and_then(|raw| raw.get("mtu")) {
                        vlan.set("mtu", mtu);
                    }
                    all.ifaces.insert(port.clone(), vlan);
                }
                let Some(iface) = all.ifaces.get(&port) else {
                    bail!("bridge '{bridge}' - unable to find bridge port '{port}'");
                };
                let has_address = |method: &str, address: &str, any: &str| {
                    iface.get(method) == Some("static") && iface.get(address) != Some(any)
                };
                if has_address("method", "address", "0.0.0.0") || has_address("method6", "address6", "::") {
                    bail!("iface {port} - ip address can't be set on interface if bridged in {bridge}");
                }
                all.check_mtu(&port, &bridge)?;
                bridge_of.insert(port, bridge.clone());
            }
        }
        for (name, iface) in &self.ifaces {
            let bridge = bridge_of.get(name);
            if let Some(option) = PORT_OPTIONS.iter().find(|option| bridge.is_none() && iface.get(option).is_some()) {
                bail!(
                    "iface {name} - {option}: bridge port specific options can be used only on interfaces attached to a bridge"
                );
            }
            let aware = bridge
                .and_then(|bridge| self.ifaces.get(bridge))
                .is_some_and(|bridge| bridge.get("bridge_vlan_aware").is_some());
            if iface.get("bridge-access").is_some() && !aware {
                bail!("iface {name} - bridge-access option can be only used if interface is in a vlan aware bridge");
            }
        }
        Ok(())
    }

    fn check_mtu(&self, parent: &str, child: &str) -> Result<()> {
        let number = |name: &str| self.ifaces.get(name)?.get("mtu")?.parse::<u64>().ok();
        let Some(of_child) = number(child) else { return Ok(()) };
        let is_bond = self.ifaces.get(parent).is_some_and(|parent| parent.kind == "bond");
        let of_parent = number(parent).unwrap_or(if is_bond { of_child } else { 1500 });
        if of_parent < of_child {
            bail!("interface '{parent}' - mtu {of_parent} is lower than '{child}' - mtu {of_child}");
        }
        Ok(())
    }

    fn of_kind(&self, kind: &str) -> Vec<String> {
        self.ifaces.iter().filter(|(_, iface)| iface.kind == kind).map(|(name, _)| name.clone()).collect()
    }

    /// The lists under `key` of all interfaces of a kind.
    fn lists(&self, kind: &str, key: &str) -> Vec<(String, Vec<String>)> {
        // Blanks alone part names here, as in the file itself.
        let list = |iface: &Iface| iface.get(key).unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        self.ifaces
            .iter()
            .filter(|(_, iface)| iface.kind == kind)
            .map(|(name, iface)| (name.clone(), list(iface)))
            .collect()
    }
}

fn is_ovs_port(iface: &Iface) -> bool {
    matches!(iface.kind.as_str(), "OVSPort" | "OVSIntPort" | "OVSBond")
}
