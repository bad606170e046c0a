//! Bridges that are virtual networks of the software defined network: what its running configuration says of guests' ports.
//!
//! The bridges themselves come from the files that `/etc/network/interfaces` sources. Only reads.
//! (PVE: pve-network PVE/Network/SDN/Zones.pm and Zones/Plugin.pm, tap_plug)

use crate::{Context, Error, Result, bail, error::ResultExt, file};
use serde_json::Value;

const FILE: &str = "/etc/pve/sdn/.running-config";

/// A virtual network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Vnet {
    /// Whether guests' ports reach each other.
    pub isolates: bool,
    /// Whether its ports learn hardware addresses.
    pub learns: bool,
}

/// The virtual network whose bridge this is; `None` for an ordinary bridge.
///
/// # Errors
/// When it must not be used on this node, or when the configuration cannot be read.
pub fn of(ctx: &Context, bridge: &str) -> Result<Option<Vnet>> {
    let text = file::read_or_empty(&ctx.root.path(FILE))?;
    read(&text, bridge, &ctx.node).context(|| FILE)
}

fn read(text: &str, bridge: &str, node: &str) -> Result<Option<Vnet>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let all: Value = serde_json::from_str(text).map_err(|error| Error::new(error.to_string()))?;
    let vnet = &all["vnets"]["ids"][bridge];
    let Some(zone) = vnet["zone"].as_str() else { return Ok(None) };
    let zone = &all["zones"]["ids"][zone];
    let is_allowed = match &zone["nodes"] {
        Value::String(nodes) => nodes.split([',', ';', ' ']).any(|name| name == node),
        Value::Object(nodes) => nodes.contains_key(node),
        _ => true,
    };
    if !is_allowed {
        bail!("vnet {bridge} is not allowed on this node");
    }
    let (isolates, learns) = (is_set(&vnet["isolate-ports"]), !is_set(&zone["bridge-disable-mac-learning"]));
    Ok(Some(Vnet { isolates, learns }))
}

fn is_set(value: &Value) -> bool {
    matches!(value, Value::Bool(true)) || value.as_u64() == Some(1) || value.as_str() == Some("1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vnets_are_known_by_their_bridge() {
        let text = r#"{"zones": {"ids": {"z": {"type": "simple", "nodes": "n1,n2"},
            "still": {"type": "vlan", "bridge-disable-mac-learning": 1}}},
            "vnets": {"ids": {"v1": {"zone": "z", "isolate-ports": 1}, "v2": {"zone": "still", "isolate-ports": "0"}}}}"#;
        assert_eq!(read(text, "v1", "n2").unwrap(), Some(Vnet { isolates: true, learns: true }));
        assert_eq!(read(text, "v2", "n9").unwrap(), Some(Vnet::default()));
        assert_eq!(read(text, "v1", "n9").unwrap_err().message(), "vnet v1 is not allowed on this node");
        assert_eq!(read(text, "vmbr0", "n1").unwrap(), None);
        assert_eq!(read("", "v1", "n1").unwrap(), None);
        assert!(read("{", "v1", "n1").is_err());
    }
}
