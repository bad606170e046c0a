//! Changes of the interfaces file through the interface: create, update, remove; all go to `interfaces.new`.
//! (PVE: pve-manager PVE/API2/Network.pm)

use super::interfaces::{Iface, Interfaces, KernelLink, KernelView, split_list};
use super::netlink::{self, Netlink};
use super::state::Net;
use super::{is_link_name, open_vswitch};
use crate::{Context, Error, Result, bail, call::config_text, file};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, Prop};
use serde_json::{Map, Value};
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// The file in force.
pub fn current_file(ctx: &Context) -> PathBuf {
    ctx.root.path("/etc/network/interfaces")
}

/// The file that waits to be applied.
pub fn pending_file(ctx: &Context) -> PathBuf {
    ctx.root.path("/etc/network/interfaces.new")
}

/// The text that edits begin with: the waiting file, if there is one.
pub fn text(ctx: &Context) -> Result<String> {
    let pending = pending_file(ctx);
    file::read_or_empty(&if pending.exists() { pending } else { current_file(ctx) })
}

/// The configuration with what the kernel knows of it.
pub fn load(ctx: &Context) -> Result<Interfaces> {
    Ok(Interfaces::parse(&text(ctx)?, &kernel_view(ctx)?))
}

/// The waiting changes as a unified difference.
pub fn changes(ctx: &Context) -> Result<Option<String>> {
    let pending = pending_file(ctx);
    if !pending.exists() {
        return Ok(None);
    }
    let output =
        std::process::Command::new("diff").args(["-b", "-N", "-u"]).arg(current_file(ctx)).arg(pending).output();
    let output = output.map_err(|error| Error::new(format!("unable to start 'diff': {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((!text.is_empty()).then_some(text))
}

/// Changes the configuration under the file's lock.
pub fn change(ctx: &Context, edit: impl FnOnce(&mut Interfaces) -> Result<()>) -> Result<()> {
    let _lock = file::lock_file(ctx, &current_file(ctx))?;
    let mut config = load(ctx)?;
    edit(&mut config)?;
    let text = config.print(has_ifupdown2(ctx))?;
    if let Some(directory) = pending_file(ctx).parent() {
        std::fs::create_dir_all(directory)?;
    }
    file::replace(&pending_file(ctx), text.as_bytes(), 0o644)
}

/// Adds an interface with the parameters of a request.
pub fn create(config: &mut Interfaces, name: &str, params: &Map<String, Value>) -> Result<()> {
    if !is_link_name(name.split(':').next().unwrap_or_default()) {
        return Err(Error::parameter("iface", "interface name is too long (max 15 character)"));
    }
    if config.ifaces.contains_key(name) {
        return Err(Error::parameter("iface", "interface already exists"));
    }
    let mut given = Given::read(config, name, params)?;
    let kind = given.take("type").unwrap_or_default();
    if kind.starts_with("OVS") && !open_vswitch::is_installed() {
        bail!("Open VSwitch is not installed (need package 'openvswitch-switch')");
    }
    if kind == "OVSIntPort" || kind == "OVSBond" {
        join_ovs_bridge(config, name, given.get("ovs_bridge"))?;
    }
    let mut iface = Iface { kind, ..Iface::default() };
    given.store(&mut iface);
    config.ifaces.insert(name.to_owned(), iface);
    Ok(())
}

/// Changes an interface; `delete` names values that go.
pub fn update(config: &mut Interfaces, name: &str, params: &Map<String, Value>, delete: &[String]) -> Result<()> {
    let Some(mut iface) = config.ifaces.get(name).cloned() else {
        return Err(Error::parameter("iface", "interface does not exist"));
    };
    for key in delete {
        match key.as_str() {
            "cidr" => ["address", "netmask", "cidr"].iter().for_each(|key| drop(iface.values.remove(*key))),
            "cidr6" => ["address6", "netmask6", "cidr6"].iter().for_each(|key| drop(iface.values.remove(*key))),
            "address" | "address6" => {
                iface.values.remove(&key.replace("address", "cidr"));
                iface.values.remove(key);
            }
            "autostart" => iface.autostart = false,
            "options" => iface.options.clear(),
            "options6" => iface.options6.clear(),
            "vxlan-remoteip" => iface.remotes.clear(),
            "priority" => iface.priority = None,
            key => drop(iface.values.remove(key)),
        }
    }
    let mut given = Given::read(config, name, params)?;
    if let Some(kind) = given.take("type") {
        iface.kind = kind;
    }
    given.store(&mut iface);
    config.ifaces.insert(name.to_owned(), iface);
    Ok(())
}

/// Removes an interface, also from its Open vSwitch bridge.
pub fn remove(config: &mut Interfaces, name: &str) -> Result<()> {
    let Some(iface) = config.ifaces.remove(name) else {
        return Err(Error::parameter("iface", "interface does not exist"));
    };
    if matches!(iface.kind.as_str(), "OVSIntPort" | "OVSBond")
        && let Some(bridge) = iface.get("ovs_bridge").and_then(|bridge| config.ifaces.get_mut(bridge))
    {
        let left = bridge.list("ovs_ports").into_iter().filter(|port| *port != name).collect::<Vec<_>>().join(" ");
        bridge.set("ovs_ports", left);
    }
    Ok(())
}

/// What the kernel knows, or the facts that replace it.
pub fn kernel_view(ctx: &Context) -> Result<KernelView> {
    let mut view = KernelView::default();
    if let Some(Value::Object(links)) = ctx.host.replaced("ip_links") {
        view.links = links.iter().map(|(name, link)| (name.clone(), replaced_link(link))).collect();
    } else {
        for link in Netlink::open()?.links()? {
            let Some(name) = netlink::name(&link) else { continue };
            if link.header.flags.contains(LinkFlags::Up) {
                view.active.insert(name.to_owned());
            }
            let physical = link.header.link_layer_type == LinkLayerType::Ether && netlink::kind(&link).is_none();
            let props = link.attributes.iter().filter_map(|attribute| match attribute {
                LinkAttribute::PropList(props) => Some(props),
                _ => None,
            });
            let other = |prop: &Prop| if let Prop::AltIfName(name) = prop { Some(name.clone()) } else { None };
            let altnames = props.flatten().filter_map(other).collect();
            view.links.insert(name.to_owned(), KernelLink { physical, altnames });
        }
    }
    if let Some(Value::Array(active)) = ctx.host.replaced("active_interfaces") {
        view.active = active.iter().map(config_text).collect();
    }
    Ok(view)
}

/// One link as `ip -details -json link` prints it.
fn replaced_link(link: &Value) -> KernelLink {
    let altnames = link["altnames"].as_array().map(|names| names.iter().map(config_text).collect());
    let is_made = link["linkinfo"].get("info_kind").is_some();
    KernelLink { physical: link["link_type"] == "ether" && !is_made, altnames: altnames.unwrap_or_default() }
}

/// An interface that got its address from a server or a router shows what the kernel has, as others look for a node's
/// address here.
pub fn add_leased_addresses(ctx: &Context, name: &str, iface: &Iface, shown: &mut Map<String, Value>) {
    let asks = |method: &str| matches!(iface.get(method), Some("dhcp" | "auto"));
    if ctx.host.replaced("ip_links").is_some() || !(asks("method") || asks("method6")) {
        return;
    }
    // Without an answer of the kernel the file's own words stand alone.
    let Ok(nets) = Netlink::open().and_then(|netlink| netlink.addresses_of(name)) else { return };
    for (suffix, six) in [("", false), ("6", true)] {
        let is_global = |net: &&Net| net.address.is_ipv6() == six && !net.is_link_local();
        if !asks(&format!("method{suffix}")) || shown.contains_key(&format!("cidr{suffix}")) {
            continue;
        }
        if let Some(net) = nets.iter().find(is_global) {
            shown.insert(format!("address{suffix}"), net.address.to_string().into());
            shown.insert(format!("netmask{suffix}"), net.prefix.to_string().into());
            shown.insert(format!("cidr{suffix}"), net.to_string().into());
        }
    }
}

/// Custom names of VLANs need rules that our own engine knows; a fact can say otherwise.
pub fn has_ifupdown2(ctx: &Context) -> bool {
    ctx.host.replaced("ifupdown2").is_none_or(|value| config_text(value) != "false" && config_text(value) != "0")
}

fn join_ovs_bridge(config: &mut Interfaces, name: &str, bridge: Option<&str>) -> Result<()> {
    let wrong = |text: String| Error::parameter("ovs_bridge", text);
    let bridge = bridge.ok_or_else(|| wrong("parameter is required".into()))?;
    let found = config.ifaces.get_mut(bridge).ok_or_else(|| wrong(format!("bridge '{bridge}' does not exist")))?;
    if found.kind != "OVSBridge" {
        return Err(wrong(format!("interface '{bridge}' is no OVS bridge")));
    }
    let mut ports: Vec<String> = found.list("ovs_ports").into_iter().map(str::to_owned).collect();
    if !ports.iter().any(|port| port == name) {
        ports.push(name.to_owned());
    }
    found.set("ovs_ports", ports.join(" "));
    Ok(())
}

/// The parameters of a request as values of the file.
struct Given {
    values: Map<String, Value>,
}

impl Given {
    fn read(config: &Interfaces, name: &str, params: &Map<String, Value>) -> Result<Self> {
        let mut given = Given { values: params.clone() };
        for key in ["node", "iface", "delete", "digest"] {
            given.values.remove(key);
        }
        given.check_lines()?;
        given.straighten_comments();
        given.check_gateways(config, name)?;
        given.check_ports(config, name)?;
        given.split_addresses()?;
        if let (Some(address), mask) = (given.get("address6"), given.text("netmask6").unwrap_or_default()) {
            check_ipv6(address, &mask)?;
        }
        if let Some(vids) = given.text("bridge_vids").filter(|vids| !vids.is_empty()) {
            let list = split_list(&vids);
            if list.is_empty() {
                return Err(Error::parameter("bridge_vids", "VLAN list items are empty"));
            }
            let list = list.join(" ");
            given.values.insert("bridge_vids".into(), Value::String(list));
        }
        Ok(given)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    fn text(&self, key: &str) -> Option<String> {
        self.values.get(key).map(config_text)
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(key).map(|value| config_text(&value))
    }

    /// A value is one line of the file, or it could bring lines of its own, such as commands.
    fn check_lines(&self) -> Result<()> {
        const WRITTEN_ANEW: [&str; 5] = ["comments", "comments6", "bridge_ports", "bridge_vids", "slaves"];
        let breaks = |(key, value): &(&String, &Value)| {
            !WRITTEN_ANEW.contains(&key.as_str()) && value.as_str().is_some_and(|text| text.contains(['\n', '\r']))
        };
        match self.values.iter().find(breaks) {
            Some((key, _)) => Err(Error::parameter(key, "value must not contain a line break")),
            None => Ok(()),
        }
    }

    /// Some readers of the file take a carriage return for the end of a line, and so of a comment.
    fn straighten_comments(&mut self) {
        for key in ["comments", "comments6"] {
            if let Some(Value::String(text)) = self.values.get_mut(key) {
                *text = text.replace("\r\n", "\n").replace('\r', "\n");
            }
        }
    }

    fn check_gateways(&self, config: &Interfaces, name: &str) -> Result<()> {
        for (key, what) in [("gateway", "Default gateway"), ("gateway6", "Default ipv6 gateway")] {
            let other = |(other, iface): &(&String, &Iface)| *other != name && iface.get(key).is_some();
            if self.get(key).is_some()
                && let Some((other, _)) = config.ifaces.iter().find(other)
            {
                return Err(Error::parameter(key, format!("{what} already exists on interface '{other}'.")));
            }
        }
        Ok(())
    }

    fn check_ports(&self, config: &Interfaces, name: &str) -> Result<()> {
        const LISTS: [&str; 4] = ["bridge_ports", "ovs_ports", "slaves", "ovs_bonds"];
        let Some(key) = LISTS.into_iter().find(|key| self.get(key).is_some()) else { return Ok(()) };
        let ports: Vec<&str> = LISTS.iter().filter_map(|key| self.get(key)).flat_map(split_list).collect();
        for (other, iface) in config.ifaces.iter().filter(|(other, _)| *other != name) {
            let used = LISTS.iter().flat_map(|key| iface.list(key)).find(|port| ports.contains(port));
            if let Some(port) = used {
                return Err(Error::parameter(key, format!("{port} is already used on interface '{other}'.")));
            }
        }
        Ok(())
    }

    fn split_addresses(&mut self) -> Result<()> {
        for suffix in ["", "6"] {
            let Some(cidr) = self.take(&format!("cidr{suffix}")).filter(|cidr| !cidr.is_empty()) else { continue };
            for part in ["address", "netmask"] {
                let key = format!("{part}{suffix}");
                if self.values.contains_key(&key) {
                    return Err(Error::parameter(&key, format!("{key} conflicts with cidr{suffix}")));
                }
            }
            let (address, mask) = cidr.rsplit_once('/').unwrap_or((&cidr, ""));
            self.values.insert(format!("address{suffix}"), address.into());
            self.values.insert(format!("netmask{suffix}"), mask.into());
        }
        Ok(())
    }

    fn store(self, iface: &mut Iface) {
        let has = |key: &str| self.get(key).is_some();
        iface.families = [("inet", has("address")), ("inet6", has("address6"))]
            .into_iter()
            .filter_map(|(family, is)| is.then_some(Some(family)))
            .collect();
        if iface.families.is_empty() {
            iface.families.push(Some("inet"));
        }
        for (method, address) in [("method", "address"), ("method6", "address6")] {
            iface.set(method, if has(address) { "static" } else { "manual" });
        }
        for suffix in ["", "6"] {
            if has(&format!("address{suffix}")) {
                iface.values.remove(&format!("cidr{suffix}"));
            }
        }
        for (key, value) in &self.values {
            match (key.as_str(), value) {
                ("autostart", value) => iface.autostart = config_text(value) == "1",
                ("bridge_vlan_aware", value) if config_text(value) != "1" => drop(iface.values.remove(key)),
                _ => iface.set(key, config_text(value)),
            }
        }
    }
}

/// Only addresses that a host can have. (PVE: Net::IP's list of kinds)
fn check_ipv6(address: &str, mask: &str) -> Result<()> {
    let Ok(parsed) = address.parse::<Ipv6Addr>() else {
        return Err(Error::parameter("address", format!("{address} is not a valid host IPv6 address.")));
    };
    let length: u32 = mask
        .parse()
        .ok()
        .filter(|length| *length <= 128)
        .ok_or_else(|| Error::parameter("netmask", format!("{mask} is not a valid subnet length for ipv6")))?;
    let bits = u128::from(parsed);
    let kind = if bits == u128::MAX.checked_shl(128 - length).unwrap_or(0) { "ANYCAST" } else { ipv6_kind(parsed) };
    if matches!(kind, "GLOBAL-UNICAST" | "UNIQUE-LOCAL-UNICAST" | "LINK-LOCAL-UNICAST") {
        return Ok(());
    }
    let text = format!("{address} with type '{kind}', cannot be used as host IPv6 address.");
    Err(Error::parameter("address", text))
}

fn ipv6_kind(address: Ipv6Addr) -> &'static str {
    let segments = address.segments();
    match segments {
        [0, 0, 0, 0, 0, 0, 0, 0] => "UNSPECIFIED",
        [0, 0, 0, 0, 0, 0, 0, 1] => "LOOPBACK",
        [0, 0, 0, 0, 0, 0xffff, _, _] => "IPV4MAP",
        [0x2001, 0, ..] => "TEREDO",
        [0x2001, 2, 0, ..] => "BMWG",
        [0x2001, 0xdb8, ..] => "DOCUMENTATION",
        [0x2001, second, ..] if second & 0xfff0 == 0x10 => "ORCHID",
        [0x2002, ..] => "6TO4",
        [0x100, 0, 0, 0, ..] => "DISCARD",
        [first, ..] if first & 0xe000 == 0x2000 => "GLOBAL-UNICAST",
        [first, ..] if first & 0xfe00 == 0xfc00 => "UNIQUE-LOCAL-UNICAST",
        [first, ..] if first & 0xffc0 == 0xfe80 => "LINK-LOCAL-UNICAST",
        [first, ..] if first & 0xff00 == 0xff00 => "MULTICAST",
        _ => "RESERVED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config() -> Interfaces {
        let text =
            "auto lan\niface lan inet static\n\taddress 10.0.0.1/24\n\tgateway 10.0.0.254\n\tbridge-ports eth0\n";
        let link = KernelLink { physical: true, ..KernelLink::default() };
        let links = ["eth0", "eth1"].map(|name| (name.to_owned(), link.clone())).into();
        Interfaces::parse(text, &KernelView { links, ..KernelView::default() })
    }

    fn params(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_new_bridge_is_written_with_its_address() {
        let mut config = config();
        let given = json!({"type": "bridge", "cidr": "10.1.0.1/24", "cidr6": "fd00::1/64", "bridge_ports": "eth1",
            "autostart": true, "bridge_vlan_aware": true, "bridge_vids": "2,4;6-9", "comments": "inner\n", "comments6": "six\rpost-up evil\r\n"});
        create(&mut config, "vibr1", &params(given)).unwrap();
        let text = config.print(true).unwrap();
        let expected = "auto vibr1\niface vibr1 inet static\n\taddress 10.1.0.1/24\n\tbridge-ports eth1\n\tbridge-stp off\n\
            \tbridge-fd 0\n\tbridge-vlan-aware yes\n\tbridge-vids 2 4 6-9\n#inner\n\n\
            iface vibr1 inet6 static\n\taddress fd00::1/64\n#six\n#post-up evil\n\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn refusals_name_the_parameter() {
        let cases = [
            (
                json!({"type": "bridge", "bridge_ports": "eth0"}),
                "bridge_ports",
                "eth0 is already used on interface 'lan'.",
            ),
            (
                json!({"type": "bridge", "gateway": "10.0.0.1"}),
                "gateway",
                "Default gateway already exists on interface 'lan'.",
            ),
            (
                json!({"type": "bridge", "cidr": "10.0.0.1/8", "address": "10.0.0.1"}),
                "address",
                "address conflicts with cidr",
            ),
            (
                json!({"type": "bridge", "cidr6": "ff02::1/64"}),
                "address",
                "ff02::1 with type 'MULTICAST', cannot be used as host IPv6 address.",
            ),
            (
                json!({"type": "bridge", "ovs_options": "x\n\tpost-up evil"}),
                "ovs_options",
                "value must not contain a line break",
            ),
            (json!({"type": "OVSIntPort", "ovs_bridge": "lan"}), "ovs_bridge", "interface 'lan' is no OVS bridge"),
        ];
        for (given, parameter, text) in cases {
            if parameter == "ovs_bridge" && !open_vswitch::is_installed() {
                continue;
            }
            let error = create(&mut config(), "new0", &params(given)).unwrap_err();
            assert!(format!("{error:?}").contains(parameter) && format!("{error:?}").contains(text), "{error:?}");
        }
    }

    #[test]
    fn what_is_only_kept_can_be_deleted() {
        let text = "iface lan inet manual\n\tbridge-ports eth0\n\tmetric 5\n\tpost-up true\n\niface eth1 inet manual\n";
        let mut config = Interfaces::parse(text, &KernelView::default());
        update(&mut config, "eth1", &params(json!({"type": "eth"})), &["priority".to_owned()]).unwrap();
        assert_eq!(config.ifaces["eth1"].priority, None);
        update(&mut config, "lan", &params(json!({"type": "bridge"})), &["options".to_owned()]).unwrap();
        assert!(config.ifaces["lan"].options.is_empty());
    }

    #[test]
    fn deleting_an_address_leaves_a_manual_interface() {
        let mut config = config();
        let delete = ["cidr".to_owned(), "gateway".to_owned()];
        update(&mut config, "lan", &params(json!({"type": "bridge", "bridge_ports": "eth0"})), &delete).unwrap();
        let text = config.print(true).unwrap();
        assert!(text.contains("auto lan\niface lan inet manual\n\tbridge-ports eth0\n"), "{text}");
        assert!(remove(&mut config, "lan").is_ok() && remove(&mut config, "lan").is_err());
    }
}
