//! What a guest is told at its first start: pure functions of its configuration and the host's name servers.
//! (PVE: qemu-server PVE/QemuServer/Cloudinit.pm)

use crate::config::guest::Part;
use crate::qemu::config::{NetDevice, Properties, Vm};
use crate::types::split_list;
use crate::{Error, Result};
use percent_encoding::percent_decode_str;
use sha1::{Digest, Sha1};
use std::net::Ipv4Addr;

/// How the guest is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `nocloud`.
    NoCloud,
    /// `configdrive2`.
    ConfigDrive,
    /// `opennebula`.
    OpenNebula,
}

/// Name servers and search domains of the host, for guests that are told none of their own.
#[derive(Debug, Clone, Default)]
pub struct Resolver {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains.
    pub search: Vec<String>,
}

impl Resolver {
    /// Reads `resolv.conf`.
    pub fn parse(text: &str) -> Self {
        let mut found = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().map(str::to_owned)),
                Some("search" | "domain") => found.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        found.servers.truncate(3);
        found
    }

    fn of(&self, vm: &Vm) -> Resolver {
        let list = |key: &str, own: &Vec<String>| vm.text(key).map_or_else(|| own.clone(), split_list);
        Resolver { servers: list("nameserver", &self.servers), search: list("searchdomain", &self.search) }
    }
}

/// The way that is configured; Windows knows one only.
pub fn kind(vm: &Vm) -> Kind {
    match vm.text("citype") {
        Some("configdrive2") => Kind::ConfigDrive,
        Some("opennebula") => Kind::OpenNebula,
        Some(_) => Kind::NoCloud,
        None if vm.windows() > 0 => Kind::ConfigDrive,
        None => Kind::NoCloud,
    }
}

fn host_name(vm: &Vm) -> (String, String) {
    let name = vm.text("name").map_or_else(|| format!("VM{}", vm.vmid), str::to_owned);
    match (name.split_once('.'), vm.text("searchdomain")) {
        (Some((host, _)), _) => (host.to_owned(), name),
        (None, Some(domain)) => (name.clone(), format!("{name}.{domain}")),
        (None, None) => (name.clone(), name),
    }
}

/// The keys as they were entered, blanks at their ends included: the instance depends on them.
fn keys(vm: &Vm) -> Vec<String> {
    let text = percent_decode_str(vm.text("sshkeys").unwrap_or_default()).decode_utf8_lossy().into_owned();
    text.split('\n').filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
}

/// The user's part; with `mask` the password stays a secret.
pub fn user(vm: &Vm, mask: bool) -> String {
    let (host, full) = host_name(vm);
    let mut text = format!("#cloud-config\nhostname: {host}\nmanage_etc_hosts: true\nfqdn: {full}\n");
    let user = vm.text("ciuser");
    if let Some(user) = user {
        text += &format!("user: {user}\n");
    }
    if user == Some("root") {
        text += "disable_root: False\n";
    }
    if let Some(password) = vm.text("cipassword") {
        text += &format!("password: {}\n", if mask { "**********" } else { password });
    }
    if vm.text("sshkeys").is_some() {
        text += "ssh_authorized_keys:\n";
        text.extend(keys(vm).iter().map(|key| format!("  - {key}\n")));
    }
    text += "chpasswd:\n  expire: False\n";
    if user != Some("root") {
        text += "users:\n  - default\n";
    }
    if vm.flag("ciupgrade").unwrap_or(true) {
        text += "package_upgrade: true\n";
    }
    text
}

/// One card's addresses.
struct Addresses {
    number: u32,
    net: NetDevice,
    ip: Properties,
}

fn addresses(part: &Part, vm: &Vm) -> Result<Vec<Addresses>> {
    let mut found = Vec::new();
    for (number, net) in vm.nets()? {
        let key = format!("ipconfig{number}");
        let Some(text) = part.get(&key).filter(|text| !text.is_empty()) else { continue };
        let mut ip = Properties::parse("pve-qm-ipconfig", &key, text)?;
        if ip.text("ip").is_none() && ip.text("ip6").is_none() {
            ip.set("ip", "dhcp");
            ip.set("ip6", "dhcp");
        }
        found.push(Addresses { number, net, ip });
    }
    // PVE sorts by name: net10 stands before net2.
    found.sort_by_key(|card| format!("net{}", card.number));
    Ok(found)
}

/// An address and its mask in dots.
fn with_mask(cidr: &str) -> Result<(String, Ipv4Addr)> {
    let wrong = || Error::new(format!("not a CIDR: {cidr}"));
    let (address, bits) = cidr.split_once('/').ok_or_else(wrong)?;
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32).ok_or_else(wrong)?;
    let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
    Ok((address.to_owned(), Ipv4Addr::from(mask)))
}

/// The network's part in cloud-init's own words.
pub fn network_v1(part: &Part, vm: &Vm, host: &Resolver) -> Result<String> {
    let mut text = "version: 1\nconfig:\n".to_owned();
    for card in addresses(part, vm)? {
        let missing = || Error::new(format!("network interface 'net{}' has no mac address", card.number));
        let mac = card.net.mac().ok_or_else(missing)?.to_lowercase();
        let head = "    - type: physical\n      name: eth";
        text += &format!("{head}{}\n      mac_address: '{mac}'\n      subnets:\n", card.number);
        match card.ip.text("ip").as_deref() {
            None => {}
            Some("dhcp") => text += "      - type: dhcp4\n",
            Some(cidr) => {
                let (address, mask) = with_mask(cidr)?;
                text += &format!("      - type: static\n        address: '{address}'\n        netmask: '{mask}'\n");
                text.extend(card.ip.text("gw").map(|gateway| format!("        gateway: '{gateway}'\n")));
            }
        }
        match card.ip.text("ip6").as_deref() {
            None => {}
            Some("dhcp") => text += "      - type: dhcp6\n",
            Some("auto") => text += "      - type: ipv6_slaac\n",
            Some(cidr) => {
                text += &format!("      - type: static6\n        address: '{cidr}'\n");
                text.extend(card.ip.text("gw6").map(|gateway| format!("        gateway: '{gateway}'\n")));
            }
        }
    }
    let resolver = host.of(vm);
    text += "    - type: nameserver\n";
    for (key, list) in [("address", &resolver.servers), ("search", &resolver.search)] {
        if !list.is_empty() {
            text += &format!("      {key}:\n");
            text.extend(list.iter().map(|entry| format!("      - '{entry}'\n")));
        }
    }
    Ok(text)
}

/// The network's part as Debian's `interfaces`; for Windows name servers stand with each card.
pub fn network_interfaces(part: &Part, vm: &Vm, host: &Resolver) -> Result<String> {
    let windows = vm.windows() > 0;
    let resolver = host.of(vm);
    let servers = resolver.servers.join(" ");
    let mut text = String::new();
    if !windows {
        text += "auto lo\niface lo inet loopback\n\n";
        if !servers.is_empty() {
            text += &format!("        dns_nameservers {servers}\n");
        }
        if !resolver.search.is_empty() {
            text += &format!("        dns_search {}\n", resolver.search.join(" "));
        }
    }
    let own_servers =
        if windows && !servers.is_empty() { format!("        dns-nameservers {servers}\n") } else { String::new() };
    for card in addresses(part, vm)? {
        let name = format!("eth{}", card.number);
        text += &format!("auto {name}\n");
        match card.ip.text("ip").as_deref() {
            None => {}
            Some("dhcp") => text += &format!("iface {name} inet dhcp\n"),
            Some(cidr) => {
                let (address, mask) = with_mask(cidr)?;
                text += &format!("iface {name} inet static\n        address {address}\n        netmask {mask}\n");
                text.extend(card.ip.text("gw").map(|gateway| format!("        gateway {gateway}\n")));
                text += &own_servers;
            }
        }
        match card.ip.text("ip6").as_deref() {
            None => {}
            Some(how @ ("dhcp" | "auto")) => text += &format!("iface {name} inet6 {how}\n"),
            Some(cidr) => {
                let (address, bits) = cidr.split_once('/').ok_or_else(|| Error::new(format!("not a CIDR: {cidr}")))?;
                text += &format!("iface {name} inet6 static\n        address {address}\n        netmask {bits}\n");
                text.extend(card.ip.text("gw6").map(|gateway| format!("        gateway {gateway}\n")));
                text += &own_servers;
            }
        }
    }
    Ok(text)
}

fn instance(user: &[u8], network: &[u8]) -> String {
    crate::types::hex(&Sha1::digest([user, network].concat()))
}

/// The instance: it changes when what the guest is told changes, and then the guest does it all again.
pub fn meta(vm: &Vm, user: &[u8], network: &[u8]) -> String {
    let id = instance(user, network);
    match kind(vm) {
        Kind::ConfigDrive if vm.windows() > 0 => {
            let mut meta = serde_json::json!({"uuid": id, "network_config": {"content_path": "/content/0000"}});
            if let Some(password) = vm.text("cipassword") {
                meta["admin_pass"] = password.into();
            }
            for (number, key) in keys(vm).iter().enumerate() {
                meta["public_keys"][format!("key-{number}")] = key.trim_end().into();
            }
            meta.to_string()
        }
        Kind::ConfigDrive => {
            format!(
                "{{\n     \"uuid\": \"{id}\",\n     \"network_config\": {{ \"content_path\": \"/content/0000\" }}\n}}\n"
            )
        }
        Kind::NoCloud | Kind::OpenNebula => format!("instance-id: {id}\n"),
    }
}

/// A word between quotes of a shell: the guest runs this file.
fn quoted(text: &str) -> String {
    text.replace(['"', '$', '`', '\\'], "")
}

/// Everything in OpenNebula's one file.
pub fn context(part: &Part, vm: &Vm, host: &Resolver) -> Result<String> {
    let mut text = format!("USERNAME={}\n", quoted(vm.text("ciuser").unwrap_or("root")));
    if let Some(password) = vm.text("cipassword") {
        text += &format!("CRYPTED_PASSWORD_BASE64={}\n\n", openssl::base64::encode_block(password.as_bytes()));
    }
    if vm.text("sshkeys").is_some() {
        text += &format!(
            "SSH_PUBLIC_KEY=\"{}\"\n",
            quoted(&keys(vm).iter().map(|key| key.trim()).collect::<Vec<_>>().join("\n"))
        );
    }
    text += &format!("SET_HOSTNAME={}\n", quoted(&host_name(vm).0));
    let resolver = host.of(vm);
    for (key, list) in [("DNS", &resolver.servers), ("SEARCH_DOMAIN", &resolver.search)] {
        if !list.is_empty() {
            text += &format!("{key}=\"{}\"\n", quoted(&list.join(" ")));
        }
    }
    let cards = addresses(part, vm)?;
    let mut enabled = false;
    for card in cards {
        let (name, mac) = (format!("ETH{}", card.number), card.net.mac().unwrap_or_default().to_lowercase());
        let mtu = card.net.mtu().map(|mtu| format!("{name}_MTU={mtu}\n")).unwrap_or_default();
        if let Some(ip) = card.ip.text("ip") {
            enabled = true;
            if ip == "dhcp" {
                text += &format!("{name}_DHCP=YES\n");
            } else {
                let (address, mask) = with_mask(&ip)?;
                text += &format!("{name}_IP={address}\n{name}_MASK={mask}\n{name}_MAC={mac}\n");
                text.extend(card.ip.text("gw").map(|gateway| format!("{name}_GATEWAY={gateway}\n")));
            }
            text += &mtu;
        }
        if let Some(ip) = card.ip.text("ip6") {
            enabled = true;
            match ip.split_once('/') {
                None if ip == "dhcp" => text += &format!("{name}_DHCP6=YES\n"),
                None => text += &format!("{name}_AUTO6=YES\n"),
                Some((address, bits)) => {
                    text += &format!("{name}_IP6={address}\n{name}_MASK6={bits}\n{name}_MAC6={mac}\n");
                    text.extend(card.ip.text("gw6").map(|gateway| format!("{name}_GATEWAY6={gateway}\n")));
                }
            }
            text += &mtu;
        }
    }
    if enabled {
        text += "NETWORK=YES\n";
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::{GuestConfig, GuestKind};

    const TEXT: &str = "cipassword: $5$salt$hash\nciuser: joe\nipconfig0: gw=10.0.0.1,ip=10.0.0.5/24,ip6=auto\n\
        ipconfig1: ip=dhcp,ip6=fd00::5/64,gw6=fd00::1\nname: web\nnameserver: 10.0.0.2 10.0.0.3\n\
        net0: virtio=BC:24:11:00:00:01,bridge=vmbr0\nnet1: virtio=BC:24:11:00:00:02,bridge=vmbr0\n\
        searchdomain: example.com\nsshkeys: ssh-ed25519%20AAAA%20me%40home%0Assh-rsa%20BBBB%0A\n";

    fn with<T>(text: &str, look: impl FnOnce(&Part, &Vm) -> T) -> T {
        let config = GuestConfig::parse(GuestKind::Qemu, text);
        look(&config.current, &Vm::new("100".parse().unwrap(), &config.current))
    }

    #[test]
    fn the_user_is_told_name_keys_and_password() {
        let text = with(TEXT, |_, vm| user(vm, false));
        let wanted = "#cloud-config\nhostname: web\nmanage_etc_hosts: true\nfqdn: web.example.com\nuser: joe\n\
            password: $5$salt$hash\nssh_authorized_keys:\n  - ssh-ed25519 AAAA me@home\n  - ssh-rsa BBBB\nchpasswd:\n  \
            expire: False\nusers:\n  - default\npackage_upgrade: true\n";
        assert_eq!(text, wanted);
        assert!(with(TEXT, |_, vm| user(vm, true)).contains("password: **********\n"));
    }

    #[test]
    fn addresses_are_told_in_three_ways() {
        let host = Resolver::default();
        let v1 = with(TEXT, |part, vm| network_v1(part, vm, &host)).unwrap();
        let first = "version: 1\nconfig:\n    - type: physical\n      name: eth0\n      mac_address: 'bc:24:11:00:00:01'\n      \
            subnets:\n      - type: static\n        address: '10.0.0.5'\n        netmask: '255.255.255.0'\n        \
            gateway: '10.0.0.1'\n      - type: ipv6_slaac\n";
        assert!(v1.starts_with(first), "{v1}");
        assert!(
            v1.ends_with(
                "      address:\n      - '10.0.0.2'\n      - '10.0.0.3'\n      search:\n      - 'example.com'\n"
            ),
            "{v1}"
        );
        let eni = with(TEXT, |part, vm| network_interfaces(part, vm, &host)).unwrap();
        assert!(
            eni.contains(
                "iface eth1 inet dhcp\niface eth1 inet6 static\n        address fd00::5\n        netmask 64\n"
            ),
            "{eni}"
        );
        let one = with(TEXT, |part, vm| context(part, vm, &host)).unwrap();
        assert!(one.contains("ETH0_MASK=255.255.255.0\nETH0_MAC=bc:24:11:00:00:01\nETH0_GATEWAY=10.0.0.1\n"), "{one}");
    }

    #[test]
    fn hosts_answer_for_guests_without_name_servers() {
        let host = Resolver::parse("# x\nsearch lan\nnameserver 9.9.9.9\n");
        let text = with("net0: virtio=BC:24:11:00:00:01\n", |part, vm| network_v1(part, vm, &host)).unwrap();
        assert!(text.contains("- '9.9.9.9'\n      search:\n      - 'lan'\n"), "{text}");
    }

    #[test]
    fn an_entry_without_addresses_means_dhcp_and_keys_stay_as_entered() {
        let text = "ipconfig0:  \nnet0: virtio=BC:24:11:00:00:01\nsshkeys: ssh-rsa%20AAAA%20%0D%0A\n";
        let v1 = with(text, |part, vm| network_v1(part, vm, &Resolver::default())).unwrap();
        assert!(v1.contains("      - type: dhcp4\n      - type: dhcp6\n"), "{v1}");
        assert!(with(text, |_, vm| user(vm, true)).contains("  - ssh-rsa AAAA \r\n"));
        let text = format!("ostype: win11\n{text}");
        assert!(with(&text, |_, vm| meta(vm, b"u", b"n")).contains(r#""key-0":"ssh-rsa AAAA""#));
    }

    #[test]
    fn windows_has_its_own_way() {
        assert_eq!(with("ostype: win11\n", |_, vm| kind(vm)), Kind::ConfigDrive);
        assert_eq!(with("ostype: l26\n", |_, vm| kind(vm)), Kind::NoCloud);
        let meta = with("ostype: win11\ncipassword: x\n", |_, vm| meta(vm, b"u", b"n"));
        assert!(meta.contains(r#""admin_pass":"x""#), "{meta}");
    }
}
