//! `netN`: a network device of a container.
//!
//! Owns reading, the canonical printing and the host's names of the devices. It changes no link.
//! (PVE: pve-container PVE/LXC/Config.pm, parse_lxc_network and print_lxc_network)

use crate::config::guest::Part;
use crate::network::Port;
use crate::{Context, Error, Result, Vmid};
use contract::property_string;
use serde_json::{Map, Value};

const FORMAT: &str = "pve-lxc-network";

/// One `netN` value.
#[derive(Debug, Clone, PartialEq)]
pub struct Interface {
    /// N.
    pub index: u32,
    values: Map<String, Value>,
}

impl Interface {
    /// Reads the value of `netN`.
    pub fn parse(index: u32, text: &str) -> Result<Self> {
        let values = property_string::parse(FORMAT, text).map_err(|errors| {
            let reason = errors.to_string().trim().replace('\n', "; ");
            Error::new(format!("unable to parse 'net{index}': {reason}"))
        })?;
        Ok(Interface { index, values })
    }

    /// The canonical text.
    pub fn print(&self) -> String {
        // The values were read by the same format, so none of them can be unprintable.
        property_string::print(FORMAT, &self.values).unwrap_or_default()
    }

    /// A text of the value: `name`, `bridge`, `hwaddr`, `ip`, `gw`, `ip6`, `gw6`, `trunks`, …
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.as_str()
    }

    /// A number of the value: `mtu`, `tag`.
    pub fn number(&self, name: &str) -> Option<u64> {
        crate::call::config_text(self.values.get(name)?).parse().ok()
    }

    /// Whether the value has a key.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// A boolean of the value that is false when absent.
    pub fn flag(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| crate::call::config_text(value) == "1")
    }

    /// The device's name in the container.
    pub fn name(&self) -> &str {
        self.get("name").unwrap_or_default()
    }

    /// The host's end on its bridge; a device without a bridge has none.
    pub fn port(&self, vmid: Vmid) -> Result<Option<Port>> {
        let Some(bridge) = self.get("bridge") else { return Ok(None) };
        Ok(Some(Port {
            tag: self.number("tag").and_then(|tag| tag.try_into().ok()),
            trunks: Port::parse_trunks(self.get("trunks").unwrap_or_default())?,
            rate: self.values.get("rate").and_then(|rate| crate::call::config_text(rate).parse().ok()),
            mtu: self.number("mtu").and_then(|mtu| mtu.try_into().ok()),
            mac: self.get("hwaddr").map(str::to_owned),
            link_down: self.flag("link_down"),
            ..Port::new(host_name(vmid, self.index), bridge)
        }))
    }

    /// A fixed IPv4 or IPv6 address with prefix, from `ip` or `ip6`.
    pub fn fixed_address(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !matches!(*value, "dhcp" | "manual" | "auto"))
    }

    /// Gives the device a hardware address of its own, as a clone needs.
    pub fn renew_address(&mut self, ctx: &Context) -> Result<()> {
        self.values.insert("hwaddr".into(), Value::String(random_address(ctx)?));
        Ok(())
    }

    /// Completes what the user left out: the type and a hardware address of our own.
    pub fn complete(&mut self, ctx: &Context) -> Result<()> {
        self.values.entry("type").or_insert_with(|| Value::String("veth".into()));
        if self.get("hwaddr").is_none() {
            self.values.insert("hwaddr".into(), Value::String(random_address(ctx)?));
        }
        Ok(())
    }
}

/// The host's end of a device.
pub fn host_name(vmid: Vmid, index: u32) -> String {
    format!("veth{vmid}i{index}")
}

/// The guest and number of a host's end, if the name is one.
pub fn parse_host_name(name: &str) -> Option<(Vmid, u32)> {
    let (vmid, index) = name.strip_prefix("veth")?.split_once('i')?;
    Some((vmid.parse().ok()?, index.parse().ok()?))
}

/// All `netN` of a configuration by number.
pub fn interfaces(part: &Part) -> Result<Vec<Interface>> {
    part.indexed("net").map(|(index, text)| Interface::parse(index, text)).collect()
}

/// A random unicast address below the datacenter's prefix. (PVE: pve-common PVE/Tools.pm, random_ether_addr)
fn random_address(ctx: &Context) -> Result<String> {
    let text = crate::file::read_or_empty(&ctx.root.etc_pve("datacenter.cfg"))?;
    let config = crate::config::flat::FlatConfig::parse(&text);
    let prefix = config.values.get("mac_prefix").map_or("BC:24:11", String::as_str).to_ascii_uppercase();
    let mut random = [0; 6];
    openssl::rand::rand_bytes(&mut random).map_err(|_| Error::new("no random numbers available"))?;
    let mut parts: Vec<String> = prefix.split(':').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    while parts.len() < 6 {
        parts.push(format!("{:02X}", random[parts.len()]));
    }
    Ok(parts.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_print_as_they_are_stored() {
        let text = "name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.2/24,tag=5,type=veth";
        let net = Interface::parse(0, text).unwrap();
        assert_eq!(net.print(), text);
        assert_eq!(net.fixed_address("ip"), Some("10.0.0.2/24"));
        assert_eq!(net.number("tag"), Some(5));
        assert_eq!(Interface::parse(0, "name=eth0,ip=dhcp").unwrap().fixed_address("ip"), None);
    }

    #[test]
    fn missing_addresses_are_made_below_the_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let mut net = Interface::parse(0, "name=eth0,bridge=vmbr0").unwrap();
        net.complete(&ctx).unwrap();
        assert!(net.get("hwaddr").unwrap().starts_with("BC:24:11:"));
        assert_eq!(net.get("hwaddr").unwrap().len(), 17);
        assert!(net.print().ends_with(",type=veth"), "{}", net.print());
    }

    #[test]
    fn host_names_invert() {
        let vmid = "101".parse().unwrap();
        assert_eq!(parse_host_name(&host_name(vmid, 3)), Some((vmid, 3)));
        for other in ["veth1", "vethab", "tap100i0", "veth100", "veth99i0"] {
            assert_eq!(parse_host_name(other), None, "{other}");
        }
    }
}
