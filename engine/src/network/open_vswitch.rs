//! Ports of guests on Open vSwitch bridges, through `ovs-vsctl`. (PVE: pve-common PVE/Network.pm, ovs_bridge_add_port)

use super::port::Port;
use crate::{Result, command, error::ResultExt, host};

const TOOL: &str = "ovs-vsctl";

/// Whether Open vSwitch is installed.
pub fn is_installed() -> bool {
    host::program_path(TOOL).is_some()
}

/// Whether a bridge of this name is one of Open vSwitch's.
pub fn is_bridge(name: &str) -> bool {
    !super::bridge_exists(name) && is_installed() && command::run(TOOL, &["br-exists", name]).is_ok()
}

/// Adds a port, or changes its VLANs.
pub fn plug(port: &Port) -> Result<()> {
    let arguments = arguments(port, super::port::read(&format!("/sys/class/net/{}/mtu", port.bridge)).as_deref());
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    command::run(TOOL, &words).map(drop).context(|| format!("can't add ovs port '{}'", port.name))
}

/// Removes a port if there is one.
pub fn unplug(name: &str) -> Result<()> {
    if is_installed() { command::run(TOOL, &["--if-exists", "del-port", name]).map(drop) } else { Ok(()) }
}

/// Carries out a call of the plan. (PVE: ifupdown2's Open vSwitch part, likewise through this tool)
pub fn call(words: &[String]) -> Result<()> {
    if !is_installed() {
        crate::bail!("Open VSwitch is not installed (need package 'openvswitch-switch')");
    }
    command::run(TOOL, words).map(drop)
}

fn arguments(port: &Port, mtu: Option<&str>) -> Vec<String> {
    let mut words: Vec<String> =
        ["--if-exists", "del-port", &port.name, "--", "add-port", &port.bridge, &port.name].map(str::to_owned).to_vec();
    words.extend(port.tag.map(|tag| format!("tag={tag}")));
    if !port.trunks.is_empty() {
        let all: Vec<String> = port.trunks.iter().cloned().flatten().map(|tag| tag.to_string()).collect();
        words.push(format!("trunks={}", all.join(",")));
        words.extend(port.tag.map(|_| "vlan_mode=native-untagged".to_owned()));
    }
    if let Some(mtu) = mtu {
        words.extend(["--", "set", "Interface", &port.name].map(str::to_owned));
        words.push(format!("mtu_request={mtu}"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_trunks_become_port_options() {
        let port = Port { tag: Some(5), trunks: vec![7..=8], ..Port::new("tap100i0", "vmbr1") };
        assert_eq!(
            arguments(&port, Some("1500")).join(" "),
            "--if-exists del-port tap100i0 -- add-port vmbr1 tap100i0 tag=5 trunks=7,8 vlan_mode=native-untagged -- \
             set Interface tap100i0 mtu_request=1500"
        );
    }
}
