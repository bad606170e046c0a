//! Sections of the interfaces file that Open vSwitch carries out: from options to calls of `ovs-vsctl`. Pure.
//!
//! Each call leads to what is wanted whatever was there, and is one transaction of Open vSwitch's database.
//! (Debian: openvswitch-switch, README.Debian, which names the options)

use super::open_vswitch::CONTROLLER;
use super::state::Link;
use super::wanted::{Interface, OvsPart, Wanted};
use crate::Result;

impl Interface<'_> {
    /// Adds a bridge or port of Open vSwitch; answers the links it stands on, with the place that mentions them.
    pub(super) fn add_open_vswitch(&self, kind: &str, wanted: &mut Wanted) -> Result<Vec<(String, String)>> {
        let bridge = self.get("ovs-bridge").unwrap_or_default();
        let mut below = Vec::new();
        if kind == "OVSBridge" {
            for port in self.list("ovs-ports") {
                // A port with a section of its own says more about itself.
                let part = OvsPart { bridge: self.name.to_owned(), call: add_port(self.name, port) };
                wanted.open_vswitch.entry(port.to_owned()).or_insert(part);
                below.push((port.to_owned(), self.place()));
            }
        } else if bridge.is_empty() {
            return Err(self.wrong(&format!("'{}' has no ovs_bridge", self.name)));
        }
        for port in self.list("ovs-bonds") {
            let link =
                wanted.state.links.entry(port.to_owned()).or_insert_with(|| Link { up: true, ..Link::default() });
            link.controller = Some(CONTROLLER.into());
            below.push((port.to_owned(), self.place()));
        }
        let mut call = match kind {
            "OVSBridge" => ["--may-exist", "add-br", self.name].map(str::to_owned).to_vec(),
            "OVSBond" => {
                let words = ["--if-exists", "del-port", self.name, "--", "add-bond", bridge, self.name];
                words.into_iter().chain(self.list("ovs-bonds")).map(str::to_owned).collect()
            }
            "OVSPort" | "OVSIntPort" => add_port(bridge, self.name),
            _ => return Err(self.wrong(&format!("unknown ovs_type '{kind}'"))),
        };
        let words = |key: &str| self.get(key).unwrap_or_default().split_whitespace().map(str::to_owned);
        call.extend(words("ovs-options"));
        let mut settings: Vec<String> = Vec::new();
        settings.extend((kind == "OVSIntPort").then(|| "type=internal".to_owned()));
        let mtu: Option<u32> = self.number("mtu")?.filter(|_| kind != "OVSBond");
        settings.extend(mtu.map(|mtu| format!("mtu_request={mtu}")));
        if kind == "OVSBridge" && mtu.is_none() {
            // A bridge stays, so a size that was asked for before is forgotten.
            call.extend(["--", "clear", "Interface", self.name, "mtu_request"].map(str::to_owned));
        }
        if !settings.is_empty() {
            call.extend(["--", "set", "Interface", self.name].map(str::to_owned));
            call.extend(settings);
        }
        if self.get("ovs-extra").is_some() {
            call.push("--".into());
            call.extend(words("ovs-extra"));
        }
        let bridge = if kind == "OVSBridge" { "" } else { bridge };
        wanted.open_vswitch.insert(self.name.to_owned(), OvsPart { bridge: bridge.to_owned(), call });
        Ok(below)
    }
}

fn add_port(bridge: &str, name: &str) -> Vec<String> {
    ["--if-exists", "del-port", name, "--", "add-port", bridge, name].map(str::to_owned).to_vec()
}
