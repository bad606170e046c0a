//! A network device: `net0: virtio=BC:24:11:00:00:01,bridge=vmbr0`.

use super::Properties;
use crate::network::Port;
use crate::{Result, Vmid};
use std::fmt;

const FORMAT: &str = "~pve-qm-net";

/// One virtual network card.
#[derive(Debug, Clone, PartialEq)]
pub struct NetDevice {
    options: Properties,
}

impl NetDevice {
    /// Reads the option `name` (`net0`, …).
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        Ok(NetDevice { options: Properties::parse(FORMAT, name, text)? })
    }

    /// The card's model, `virtio` among them.
    pub fn model(&self) -> String {
        self.options.text("model").unwrap_or_else(|| "virtio".into())
    }

    /// The hardware address, upper case, when the configuration has one.
    pub fn mac(&self) -> Option<String> {
        self.options.text("macaddr")
    }

    /// Gives the card an address.
    pub fn set_mac(&mut self, mac: String) {
        self.options.set("macaddr", mac);
    }

    /// The bridge it is plugged into; without one the card has user-mode networking.
    pub fn bridge(&self) -> Option<String> {
        self.options.text("bridge")
    }

    /// Number of queues.
    pub fn queues(&self) -> Option<u64> {
        self.options.number("queues").filter(|queues| *queues > 0)
    }

    /// The MTU that the guest is told.
    pub fn mtu(&self) -> Option<u64> {
        self.options.number("mtu")
    }

    /// Whether the cable is pulled.
    pub fn is_link_down(&self) -> bool {
        self.options.is_on("link_down")
    }

    /// Offload of tunnelled packets, when it is configured.
    pub fn host_tunnel(&self) -> Option<bool> {
        self.options.flag("host-tunnel")
    }

    /// Whether a running guest can keep its card when this option becomes the other: the rest is the cable and where
    /// that leads. (PVE: QemuServer.pm, vmconfig_update_net)
    pub fn is_same_card(&self, other: &NetDevice) -> bool {
        ["model", "macaddr", "queues", "mtu"].iter().all(|key| self.options.text(key) == other.options.text(key))
    }

    /// The host's end on its bridge; a card without a bridge has none. QEMU pulls the cable itself.
    pub fn port(&self, vmid: Vmid, number: u32) -> Result<Option<Port>> {
        let Some(bridge) = self.bridge() else { return Ok(None) };
        let trunks = self.option("trunks").map(|text| Port::parse_trunks(&text)).transpose()?;
        Ok(Some(Port {
            tag: self.options.number("tag").and_then(|tag| tag.try_into().ok()),
            trunks: trunks.unwrap_or_default(),
            rate: self.option("rate").and_then(|rate| rate.parse().ok()),
            mac: self.mac(),
            ..Port::new(format!("tap{vmid}i{number}"), bridge)
        }))
    }

    /// Keys that need more than a plain bridge.
    pub fn option(&self, key: &str) -> Option<String> {
        self.options.text(key)
    }
}

impl fmt::Display for NetDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.options.print(FORMAT))
    }
}

/// A random unicast address with a prefix such as `BC:24:11`. (PVE: pve-common PVE/Tools.pm, random_ether_addr)
pub fn random_mac(prefix: Option<&str>) -> String {
    let mut bytes = [0; 6];
    openssl::rand::rand_bytes(&mut bytes).expect("the system's random source is always there");
    let mut octets: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
    for (octet, given) in octets.iter_mut().zip(prefix.unwrap_or("BC:24:11").split(':')) {
        *octet = format!("{given:0>2}").to_ascii_uppercase();
    }
    octets.join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_model_stands_before_its_address() {
        let net = NetDevice::parse("net0", "model=virtio,macaddr=BC:24:11:00:00:01,bridge=vmbr0,firewall=1").unwrap();
        assert_eq!(net.to_string(), "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1");
        assert_eq!(NetDevice::parse("net0", &net.to_string()).unwrap(), net);
        assert_eq!(NetDevice::parse("net0", "e1000,bridge=b").unwrap().model(), "e1000");
    }

    #[test]
    fn random_addresses_keep_the_prefix() {
        let mac = random_mac(None);
        assert!(mac.starts_with("BC:24:11:") && mac.len() == 17, "{mac}");
        assert!(random_mac(Some("2:a:B")).starts_with("02:0A:0B:"));
        assert_ne!(random_mac(None), random_mac(None));
    }
}
