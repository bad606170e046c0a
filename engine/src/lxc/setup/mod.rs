//! What the system in a container must know: its name, addresses, resolver, time zone, terminals, root's password.
//!
//! Written once at creation and again before each start, because the configuration may have changed. Only files beneath
//! the container's root are touched, by [`RootDirectory`]; nothing of the container is run. An `unmanaged` system is left
//! alone. A file with a neighbour `.pve-ignore.NAME` is the container's own.
//! (PVE: LXC/Setup.pm, LXC/Setup/Base.pm and the plugins)

mod account;
mod detect;
mod init;
mod interfaces;
mod section;

use super::interface::{self, Interface};
use super::rootfs::RootDirectory;
use crate::config::guest::Part;
use crate::{Context, Result, Vmid};
use section::Otherwise;

pub use account::NewAccount;
pub use detect::{Detected, detect};

/// One system that is being set up.
struct System<'a> {
    root: &'a RootDirectory,
    part: &'a Part,
    ostype: &'a str,
    warn: &'a dyn Fn(&str),
}

/// Sets a new system up: everything that [`before_start`] does, and what happens once only.
pub fn after_create(
    ctx: &Context,
    root: &RootDirectory,
    vmid: Vmid,
    part: &Part,
    account: &NewAccount,
    warn: impl Fn(&str),
) -> Result<()> {
    if part.get("ostype") != Some("unmanaged") {
        // A second container from the same template must not be the same machine.
        remove_unless_ignored(root, "/etc/machine-id")?;
        if root.read_link("/var/lib/dbus/machine-id").is_none() {
            remove_unless_ignored(root, "/var/lib/dbus/machine-id")?;
        }
        account::set_root(root, account)?;
        account::renew_host_keys(ctx, root, part.get("hostname").unwrap_or("localhost"), &warn)?;
        if part.get("ostype") == Some("alpine") {
            init::enable_alpine_services(root)?;
        }
    } else if account.is_given() {
        warn("password and SSH keys are not set: the system is unmanaged");
    }
    before_start(root, vmid, part, warn)
}

/// Writes the present configuration into the system.
pub fn before_start(root: &RootDirectory, vmid: Vmid, part: &Part, warn: impl Fn(&str)) -> Result<()> {
    let ostype = part.get("ostype").unwrap_or("unmanaged");
    if ostype == "unmanaged" {
        return Ok(());
    }
    if !root.is_directory("/etc") {
        warn("/etc not present in CT, is the rootfs mounted?");
        return Ok(());
    }
    let system = System { root, part, ostype, warn: &warn };
    init::setup(&system)?;
    system.network()?;
    system.name(vmid)?;
    system.resolver()?;
    system.time_zone()
}

impl System<'_> {
    /// Replaces a file unless the container keeps it for itself or it says the same already.
    fn write(&self, path: &str, text: &str, mode: u32) -> Result<()> {
        if is_ignored(self.root, path) || self.root.read(path)?.as_deref() == Some(text) {
            return Ok(());
        }
        self.root.write(path, text, mode)
    }

    fn write_section(&self, path: &str, content: &str, otherwise: Otherwise) -> Result<()> {
        let old = self.root.read(path)?;
        match section::with_section(old.as_deref(), content, otherwise) {
            Some(text) => self.write(path, &text, 0o644),
            None => Ok(()),
        }
    }

    fn network(&self) -> Result<()> {
        let interfaces = interface::interfaces(self.part)?;
        // What the host sets needs no file inside.
        let inside: Vec<Interface> = interfaces.into_iter().filter(|net| !net.flag("host-managed")).collect();
        match self.ostype {
            "debian" | "devuan" => self.ifupdown(&inside),
            "ubuntu" if detect::ubuntu_has_networkd(self.root)? => self.networkd(&inside),
            "ubuntu" => self.ifupdown(&inside),
            "alpine" => self.ifupdown(&alpine_interfaces(&inside)?),
            "archlinux" | "fedora" | "nixos" => self.networkd(&inside),
            _ if inside.is_empty() => Ok(()),
            other => {
                (self.warn)(&format!("the network of ostype '{other}' is not configured by this version"));
                Ok(())
            }
        }
    }

    fn ifupdown(&self, nets: &[Interface]) -> Result<()> {
        let path = "/etc/network/interfaces";
        let old = self.root.read(path)?.unwrap_or_default();
        let new = interfaces::interfaces(&old, nets);
        if new == old {
            return Ok(());
        }
        self.root.make_directories("/etc/network")?;
        self.write(path, &new, 0o644)
    }

    fn networkd(&self, nets: &[Interface]) -> Result<()> {
        for net in nets.iter().filter(|net| !net.name().is_empty()) {
            self.root.make_directories("/etc/systemd/network")?;
            self.write(&format!("/etc/systemd/network/{}.network", net.name()), &interfaces::networkd(net), 0o644)?;
        }
        Ok(())
    }

    fn name(&self, vmid: Vmid) -> Result<()> {
        let name = self.part.get("hostname").map_or_else(|| format!("CT{vmid}"), str::to_owned);
        let short = name.split('.').next().unwrap_or(&name).to_owned();
        let old = section::without_section(&self.root.read("/etc/hosts")?.unwrap_or_default());
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
            let (domains, _) = self.resolver_values();
            let with_domain = domains.iter().map(|domain| format!("{name}.{domain}"));
            with_domain.chain([name.clone()]).collect::<Vec<_>>().join(" ")
        };
        let address = self.first_address()?.unwrap_or_else(|| "127.0.1.1".into());
        content += &format!("{address} {names}\n");
        self.write_section("/etc/hosts", &content, Otherwise::Append)?;
        self.write("/etc/hostname", &format!("{short}\n"), 0o644)
    }

    /// The first fixed IPv4 address, else the first fixed IPv6 address.
    fn first_address(&self) -> Result<Option<String>> {
        let nets = interface::interfaces(self.part)?;
        let first = |key: &str| nets.iter().find_map(|net| net.fixed_address(key)).map(str::to_owned);
        let cidr = first("ip").or_else(|| first("ip6"));
        Ok(cidr.and_then(|cidr| cidr.split('/').next().map(str::to_owned)))
    }

    fn resolver(&self) -> Result<()> {
        let (domains, servers) = self.resolver_values();
        let mut content = String::new();
        if !domains.is_empty() {
            content += &format!("search {}\n", domains.join(" "));
        }
        for server in servers {
            content += &format!("nameserver {server}\n");
        }
        self.write_section("/etc/resolv.conf", &content, Otherwise::Replace)
    }

    /// Search domains and name servers: the container's own, or the host's.
    fn resolver_values(&self) -> (Vec<String>, Vec<String>) {
        let host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let of_host = |key: &str| -> Vec<String> {
            let lines = host.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix([' ', '\t']));
            lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
        };
        let own = |key: &str| self.part.get(key).map(crate::types::split_list);
        let domains = own("searchdomain").unwrap_or_else(|| of_host("search"));
        let servers = own("nameserver").unwrap_or_else(|| of_host("nameserver").into_iter().take(3).collect());
        (domains, servers)
    }

    fn time_zone(&self) -> Result<()> {
        let Some(zone) = self.part.get("timezone") else { return Ok(()) };
        let zone = if zone == "host" { host_zone() } else { Some(zone.to_owned()) };
        let Some(zone) = zone else {
            (self.warn)("the host's time zone is unknown, timezone can not be modified");
            return Ok(());
        };
        let file = format!("/usr/share/zoneinfo/{zone}");
        if !self.root.is_file(&file) {
            (self.warn)(&format!("container does not have {file}, timezone can not be modified"));
            return Ok(());
        }
        if !is_ignored(self.root, "/etc/localtime") && self.root.read_link("/etc/localtime").as_deref() != Some(&file) {
            self.root.symlink(&file, "/etc/localtime")?;
        }
        if self.root.is_file("/etc/timezone") {
            self.write("/etc/timezone", &format!("{zone}\n"), 0o644)?;
        }
        Ok(())
    }
}

/// BusyBox's ifupdown knows neither SLAAC nor a working DHCPv6; such interfaces are brought up without.
fn alpine_interfaces(nets: &[Interface]) -> Result<Vec<Interface>> {
    let manual = |net: &Interface| match net.get("ip6") {
        Some("dhcp" | "auto") => {
            let text = net.print().replace("ip6=dhcp", "ip6=manual").replace("ip6=auto", "ip6=manual");
            Interface::parse(net.index, &text)
        }
        _ => Ok(net.clone()),
    };
    nets.iter().map(manual).collect()
}

/// The name of the host's time zone, as its `/etc/localtime` points to it.
fn host_zone() -> Option<String> {
    let target = std::fs::canonicalize("/etc/localtime").ok()?;
    Some(target.to_str()?.strip_prefix("/usr/share/zoneinfo/")?.to_owned())
}

fn is_ignored(root: &RootDirectory, path: &str) -> bool {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    root.is_file(&format!("{directory}/.pve-ignore.{name}"))
}

fn remove_unless_ignored(root: &RootDirectory, path: &str) -> Result<()> {
    if is_ignored(root, path) { Ok(()) } else { root.remove(path) }
}
