//! Ports of guests on Open vSwitch bridges, through `ovs-vsctl`. (PVE: pve-common PVE/Network.pm, ovs_bridge_add_port)

use super::port::Port;
use crate::{Error, Result, command, error::ResultExt, host};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const TOOL: &str = "ovs-vsctl";
/// The link that the kernel shows above each port.
pub const CONTROLLER: &str = "ovs-system";
/// Where its database listens. Without it the tool would wait.
const DATABASE: &str = "/run/openvswitch/db.sock";
/// Seconds that a call may take.
const PATIENCE: &str = "--timeout=60";

/// Whether Open vSwitch is installed.
pub fn is_installed() -> bool {
    host::program_path(TOOL).is_some()
}

/// Whether a bridge of this name is one of Open vSwitch's.
pub fn is_bridge(name: &str) -> bool {
    !super::bridge_exists(name) && check().is_ok() && command::run(TOOL, &[PATIENCE, "br-exists", name]).is_ok()
}

/// Adds a port, or changes its VLANs.
pub fn plug(port: &Port) -> Result<()> {
    let arguments = arguments(port, super::port::read(&format!("/sys/class/net/{}/mtu", port.bridge)).as_deref());
    let words: Vec<&str> = [PATIENCE].into_iter().chain(arguments.iter().map(String::as_str)).collect();
    command::run(TOOL, &words).map(drop).context(|| format!("can't add ovs port '{}'", port.name))
}

/// Removes a port if there is one.
pub fn unplug(name: &str) -> Result<()> {
    match check() {
        Ok(()) => command::run(TOOL, &[PATIENCE, "--if-exists", "del-port", name]).map(drop),
        Err(_) => Ok(()),
    }
}

/// Fails when Open vSwitch is not there to be asked.
pub fn check() -> Result<()> {
    if !is_installed() {
        crate::bail!("Open VSwitch is not installed (need package 'openvswitch-switch')");
    }
    if !Path::new(DATABASE).exists() {
        crate::bail!("Open VSwitch is installed, but does not run (start 'openvswitch-switch.service')");
    }
    Ok(())
}

/// Carries out a call of the plan. (PVE: ifupdown2's Open vSwitch part, likewise through this tool)
pub fn call(words: &[String]) -> Result<()> {
    check()?;
    let words: Vec<&str> = [PATIENCE].into_iter().chain(words.iter().map(String::as_str)).collect();
    command::run(TOOL, &words).map(drop)
}

/// Names of its bridges; none where it does not run.
pub fn bridges() -> Result<Vec<String>> {
    if check().is_err() {
        return Ok(Vec::new());
    }
    Ok(command::run(TOOL, &[PATIENCE, "list-br"])?.stdout.lines().map(str::to_owned).collect())
}

/// Bridges and ports that there are, with the bridge of each port. Nothing where Open vSwitch does not run.
pub fn parts() -> Result<BTreeMap<String, String>> {
    if check().is_err() {
        return Ok(BTreeMap::new());
    }
    let table = |columns: &str, table: &str| -> Result<Value> {
        let output = command::run(TOOL, &[PATIENCE, "--format=json", columns, "list", table])?;
        serde_json::from_str(&output.stdout).map_err(|error| Error::new(format!("{TOOL}: {error}")))
    };
    let (bridges, ports) = (table("--columns=name,ports", "Bridge")?, table("--columns=_uuid,name", "Port")?);
    Ok(read_parts(&bridges, &ports))
}

/// From the tables of the database. A set with one member is written as the member.
fn read_parts(bridges: &Value, ports: &Value) -> BTreeMap<String, String> {
    let rows = |table: &Value| table["data"].as_array().cloned().unwrap_or_default();
    let names: BTreeMap<String, String> = rows(ports)
        .iter()
        .filter_map(|row| Some((row[0][1].as_str()?.to_owned(), row[1].as_str()?.to_owned())))
        .collect();
    let mut parts = BTreeMap::new();
    for row in rows(bridges) {
        let Some(bridge) = row[0].as_str() else { continue };
        let set = match row[1][0].as_str() {
            Some("set") => row[1][1].as_array().cloned().unwrap_or_default(),
            _ => vec![row[1].clone()],
        };
        let of_set = set.iter().filter_map(|id| names.get(id[1].as_str()?)).map(|port| (port.clone(), bridge.into()));
        parts.extend(of_set);
        parts.insert(bridge.to_owned(), String::new());
    }
    parts
}

/// Takes out ports of guests whose links are gone; says which.
pub fn remove_left_ports() -> Result<Vec<String>> {
    let is_guests = |name: &str| {
        let numbers =
            name.strip_prefix("tap").or_else(|| name.strip_prefix("veth")).and_then(|rest| rest.split_once('i'));
        numbers.is_some_and(|(vmid, number)| vmid.parse::<u32>().is_ok() && number.parse::<u32>().is_ok())
    };
    let mut removed = Vec::new();
    for name in parts()?.into_keys().filter(|name| is_guests(name) && !super::link_exists(name)) {
        unplug(&name)?;
        removed.push(name);
    }
    Ok(removed)
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
    use serde_json::json;

    #[test]
    fn the_tables_of_the_database_are_read() {
        let bridges = json!({"data": [["vmbr1", ["set", [["uuid", "a"], ["uuid", "b"]]]], ["vmbr2", ["uuid", "c"]]]});
        let ports = json!({"data": [[["uuid", "a"], "vmbr1"], [["uuid", "b"], "tap1i0"], [["uuid", "c"], "vmbr2"]]});
        let parts = read_parts(&bridges, &ports);
        let shown: Vec<String> = parts.iter().map(|(name, bridge)| format!("{name}:{bridge}")).collect();
        assert_eq!(shown, ["tap1i0:vmbr1", "vmbr1:", "vmbr2:"]);
    }

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
