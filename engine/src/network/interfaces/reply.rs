//! How an interface is shown to clients.

use super::Iface;
use serde_json::{Map, Value, json};

/// The interface as `GET /nodes/{node}/network/{iface}` answers it.
pub fn describe(iface: &Iface) -> Map<String, Value> {
    let mut shown = Map::new();
    let kind = if iface.kind.is_empty() { "unknown" } else { &iface.kind };
    shown.insert("type".into(), json!(kind));
    for (key, value) in &iface.values {
        let value = match key.as_str() {
            "bridge_vlan_aware" | "autostart" => json!(i64::from(value == "1")),
            _ => json!(value),
        };
        shown.insert(key.clone(), value);
    }
    for (key, list) in [("options", &iface.options), ("options6", &iface.options6), ("vxlan-remoteip", &iface.remotes)]
    {
        if !list.is_empty() {
            shown.insert(key.into(), json!(list));
        }
    }
    if !iface.families.is_empty() {
        shown.insert("families".into(), json!(iface.families));
    }
    if let Some(priority) = iface.priority {
        shown.insert("priority".into(), json!(priority));
    }
    if kind == "bridge" && iface.get("bridge_stp") == Some("off") {
        // As a number, unlike one that the file names.
        shown.entry("bridge_fd").or_insert(json!(0));
    }
    if kind == "OVSBond" {
        shown.entry("bond_mode").or_insert(Value::Null);
    }
    for (key, is) in [("autostart", iface.autostart), ("active", iface.active)] {
        if is {
            shown.insert(key.into(), json!(1));
        }
    }
    // An alias or VLAN tells what the link below has, and that may be unknown.
    if iface.exists.is_some() || matches!(kind, "alias" | "vlan") {
        shown.insert("exists".into(), json!(iface.exists.map(i64::from)));
    }
    shown
}
