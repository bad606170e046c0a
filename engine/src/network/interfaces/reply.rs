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
    for (key, is) in [("autostart", iface.autostart), ("active", iface.active), ("exists", iface.exists == Some(true))]
    {
        if is {
            shown.insert(key.into(), json!(1));
        }
    }
    shown
}
