//! A system's name, its `/etc/hosts`, its resolver and its time zone.
//! (PVE: LXC/Setup/Base.pm set_hostname, update_etc_hosts, set_dns, set_timezone; CentOS.pm and Gentoo.pm set_hostname)

use super::super::interface;
use super::section::{self, Otherwise};
use super::system::{System, is_ignored};
use crate::Result;

/// Writes name and `/etc/hosts`.
pub fn set_name(system: &System) -> Result<()> {
    let name = system.hostname();
    let short = name.split('.').next().unwrap_or(&name).to_owned();
    set_hosts(system, &name, &short)?;
    match system.ostype {
        "gentoo" => {
            system.make_directories("/etc/conf.d")?;
            system.write("/etc/conf.d/hostname", &format!("hostname=\"{short}\"\n"), 0o644)
        }
        "centos" | "fedora" | "openeuler" => {
            system.write("/etc/hostname", &format!("{name}\n"), 0o644)?;
            system.edit("/etc/sysconfig/network", |old| with_variable(old, "HOSTNAME", &name))
        }
        _ => system.write("/etc/hostname", &format!("{short}\n"), 0o644),
    }
}

/// A text of `KEY=value` lines with one of them changed or added.
pub fn with_variable(old: &str, key: &str, value: &str) -> String {
    let mut found = false;
    let mut text = String::new();
    for line in old.lines() {
        if line.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')) && !found {
            found = true;
            text += &format!("{key}={value}\n");
        } else {
            text += line;
            text.push('\n');
        }
    }
    if !found {
        text += &format!("{key}={value}\n");
    }
    text
}

fn set_hosts(system: &System, name: &str, short: &str) -> Result<()> {
    let old = section::without_section(&system.root.read("/etc/hosts")?.unwrap_or_default());
    let has = |address: &str| old.lines().any(|line| line.split_whitespace().next() == Some(address));
    let mut content = String::new();
    for address in ["127.0.0.1", "::1"] {
        if !has(address) {
            content += &format!("{address} localhost.localnet localhost\n");
        }
    }
    let names = if name.contains('.') {
        format!("{name} {short}")
    } else {
        let (domains, _) = system.resolver_values();
        let with_domain = domains.iter().map(|domain| format!("{name}.{domain}"));
        with_domain.chain([name.to_owned()]).collect::<Vec<_>>().join(" ")
    };
    match first_address(system)? {
        Some(address) => content += &format!("{address} {names}\n"),
        None if short == "localhost" => content += "127.0.1.1 localhost\n",
        None => content += &format!("127.0.1.1 {names}\n"),
    }
    system.write_section("/etc/hosts", &content, Otherwise::Append)
}

/// The first fixed IPv4 address, else the first fixed IPv6 address.
fn first_address(system: &System) -> Result<Option<String>> {
    let nets = interface::interfaces(system.part)?;
    let first = |key: &str| nets.iter().find_map(|net| net.fixed_address(key)).map(str::to_owned);
    let cidr = first("ip").or_else(|| first("ip6"));
    Ok(cidr.and_then(|cidr| cidr.split('/').next().map(str::to_owned)))
}

/// Writes `/etc/resolv.conf`.
pub fn set_resolver(system: &System) -> Result<()> {
    let (domains, servers) = system.resolver_values();
    let mut content = String::new();
    if !domains.is_empty() {
        content += &format!("search {}\n", domains.join(" "));
    }
    for server in servers {
        content += &format!("nameserver {server}\n");
    }
    system.write_section("/etc/resolv.conf", &content, Otherwise::Replace)
}

/// Points the system's clock to a zone. NixOS owns its zone by its own configuration.
pub fn set_time_zone(system: &System) -> Result<()> {
    let Some(zone) = system.part.get("timezone").filter(|_| system.ostype != "nixos") else { return Ok(()) };
    let zone = if zone == "host" { host_zone() } else { Some(zone.to_owned()) };
    let Some(zone) = zone else {
        (system.warn)("the host's time zone is unknown, timezone can not be modified");
        return Ok(());
    };
    let file = format!("/usr/share/zoneinfo/{zone}");
    if !system.root.is_file(&file) {
        (system.warn)(&format!("container does not have {file}, timezone can not be modified"));
        return Ok(());
    }
    if !is_ignored(system.root, "/etc/localtime") {
        system.link(&file, "/etc/localtime")?;
    }
    if system.root.is_file("/etc/timezone") {
        system.write("/etc/timezone", &format!("{zone}\n"), 0o644)?;
    }
    Ok(())
}

/// The name of the host's time zone, as its `/etc/localtime` points to it.
fn host_zone() -> Option<String> {
    let target = std::fs::canonicalize("/etc/localtime").ok()?;
    Some(target.to_str()?.strip_prefix("/usr/share/zoneinfo/")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_changed_in_place_or_added() {
        assert_eq!(with_variable("A=1\nHOSTNAME=x\n", "HOSTNAME", "web"), "A=1\nHOSTNAME=web\n");
        assert_eq!(with_variable("HOSTNAMES=1", "HOSTNAME", "web"), "HOSTNAMES=1\nHOSTNAME=web\n");
    }
}
