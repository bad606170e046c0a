//! What each interface is, and what follows from that.

use super::{Iface, Interfaces, KernelView};
use std::sync::OnceLock;

impl Interfaces {
    /// Finds the kinds and completes what PVE shows without being told.
    pub(super) fn complete(&mut self, kernel: &KernelView) {
        let names: Vec<String> = self.ifaces.keys().cloned().collect();
        for name in &names {
            let mut iface = self.ifaces.remove(name).unwrap_or_default();
            self.classify(name, &mut iface, kernel);
            complete_addresses(&mut iface);
            for method in ["method", "method6"] {
                iface.values.entry(method.to_owned()).or_insert_with(|| "manual".into());
            }
            if let Some(six) = iface.values.remove("comments6") {
                iface.values.entry("comments".into()).or_default().push_str(&six);
            }
            if iface.families.is_empty() {
                iface.families.push(Some("inet"));
            }
            self.ifaces.insert(name.clone(), iface);
        }
    }

    fn classify(&mut self, name: &str, iface: &mut Iface, kernel: &KernelView) {
        let ovs = iface.get("ovs_type").map(str::to_owned);
        let ovs = ovs.as_deref();
        iface.kind = "unknown".into();
        if iface.values.contains_key("bridge_ports") {
            iface.kind = "bridge".into();
            iface.values.entry("bridge_stp".into()).or_insert_with(|| "off".into());
        } else if ovs == Some("OVSBridge") {
            iface.kind = "OVSBridge".into();
        } else if is_numbered(name, "bond") {
            match ovs {
                None => iface.kind = "bond".into(),
                Some("OVSBond") => ovs_bond(iface),
                Some(_) => {}
            }
        } else if let Some((root, _)) =
            name.rsplit_once(':').filter(|(root, number)| !root.is_empty() && is_number(number))
        {
            iface.kind = "alias".into();
            iface.exists = self.raw_exists(root);
        } else if let Some((raw, id)) = name.rsplit_once('.').filter(|(raw, id)| !raw.is_empty() && is_number(id)) {
            iface.kind = "vlan".into();
            if iface.get("vlan-raw-device").is_none() {
                iface.set("vlan-raw-device", raw);
            }
            if !id.trim_start_matches('0').is_empty() {
                iface.set("vlan-id", id);
            }
            let raw = iface.get("vlan-raw-device").unwrap_or(raw).to_owned();
            iface.exists = self.raw_exists(&raw);
        } else if let Some(raw) = iface.get("vlan-raw-device").map(str::to_owned) {
            iface.kind = "vlan".into();
            if is_numbered(name, "vlan") && !name[4..].trim_start_matches('0').is_empty() {
                iface.set("vlan-id", &name[4..]);
            }
            iface.exists = self.raw_exists(&raw);
        } else if kernel.is_physical(name) || looks_physical(name) {
            match ovs {
                None => iface.kind = "eth".into(),
                Some("OVSPort") => ovs_port(iface, "OVSPort"),
                Some(_) => {}
            }
        } else if name == "lo" {
            iface.kind = "loopback".into();
        } else if iface.get("vxlan-id").is_some() {
            iface.kind = "vxlan".into();
        } else if ovs == Some("OVSIntPort") {
            ovs_port(iface, "OVSIntPort");
        } else if ovs.is_none() && iface.get("link-type") == Some("dummy") {
            iface.kind = "dummy".into();
        }
    }

    /// Whether the link below exists, if that is known; one that is only mentioned becomes known.
    fn raw_exists(&mut self, raw: &str) -> Option<bool> {
        self.ifaces.entry(raw.to_owned()).or_insert_with(|| Iface { exists: Some(false), ..Iface::default() }).exists
    }
}

fn ovs_bond(iface: &mut Iface) {
    iface.kind = "OVSBond".into();
    let mode = take_ovs_option(iface, "bond_mode").unwrap_or_default();
    let lacp = take_ovs_option(iface, "lacp");
    let mode = match (mode.as_str(), lacp.as_deref()) {
        ("balance-slb", Some("active")) => "lacp-balance-slb".to_owned(),
        ("balance-tcp", _) => "lacp-balance-tcp".to_owned(),
        _ => mode,
    };
    if !mode.is_empty() {
        iface.set("bond_mode", mode);
    }
    take_ovs_tag(iface);
}

fn ovs_port(iface: &mut Iface, kind: &str) {
    iface.kind = kind.into();
    take_ovs_tag(iface);
}

fn take_ovs_tag(iface: &mut Iface) {
    if let Some(tag) = take_ovs_option(iface, "tag") {
        iface.set("ovs_tag", tag);
    }
}

/// Takes `name=value` out of `ovs_options`.
fn take_ovs_option(iface: &mut Iface, name: &str) -> Option<String> {
    let mut found = None;
    let options = iface.get("ovs_options").unwrap_or_default().to_owned();
    let left: Vec<&str> = options
        .split_whitespace()
        .filter(|option| match option.split_once('=') {
            Some((key, value)) if key == name => {
                found = Some(value.to_owned());
                false
            }
            pair => pair.is_some(),
        })
        .collect();
    set_or_remove(iface, left.join(" "));
    found
}

/// Puts `name=value` into `ovs_options`, or takes it out.
pub(super) fn set_ovs_option(iface: &mut Iface, name: &str, value: Option<&str>) {
    take_ovs_option(iface, name);
    if let Some(value) = value {
        let options = iface.get("ovs_options").unwrap_or_default();
        let separator = if options.is_empty() { "" } else { " " };
        let all = format!("{options}{separator}{name}={value}");
        iface.set("ovs_options", all);
    }
}

fn set_or_remove(iface: &mut Iface, options: String) {
    if options.is_empty() {
        iface.values.remove("ovs_options");
    } else {
        iface.set("ovs_options", options);
    }
}

fn complete_addresses(iface: &mut Iface) {
    for (suffix, host) in [("", "/32"), ("6", "/128")] {
        let Some(address) = iface.get(&format!("address{suffix}")).map(str::to_owned) else { continue };
        let mask = iface.get(&format!("netmask{suffix}")).map(str::to_owned);
        let cidr = match split_prefix(&address) {
            Some((base, prefix)) => {
                iface.set(&format!("address{suffix}"), base);
                iface.set(&format!("netmask{suffix}"), prefix);
                address.clone()
            }
            None => match mask.as_deref().and_then(prefix_length) {
                Some(prefix) => {
                    if suffix.is_empty() {
                        iface.set("netmask", prefix.clone());
                    }
                    format!("{address}/{prefix}")
                }
                None => format!("{address}{host}"),
            },
        };
        iface.set(&format!("cidr{suffix}"), cidr);
    }
}

/// `10.0.0.1/24` in two.
pub(super) fn split_prefix(address: &str) -> Option<(&str, &str)> {
    address.rsplit_once('/').filter(|(base, prefix)| !base.is_empty() && is_number(prefix))
}

/// A mask as number of bits: `24` or `255.255.255.0`.
pub(super) fn prefix_length(mask: &str) -> Option<String> {
    if is_number(mask) {
        return Some(mask.to_owned());
    }
    let bits = u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?);
    (bits.leading_ones() + bits.trailing_zeros() == 32 && bits != 0).then(|| bits.leading_ones().to_string())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix).is_some_and(is_number)
}

/// Names that PVE takes for hardware. (PVE: pve-common PVE/Network/Interfaces.pm, PHYSICAL_NIC_RE)
fn looks_physical(name: &str) -> bool {
    static PATTERN: OnceLock<regex::Regex> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        regex::Regex::new(r"^(?:eth\d+|en[^:.]+|ib[^:.]+|(?:nic|if)\d+)$").expect("the pattern is fixed")
    });
    pattern.is_match(name)
}
