//! What the system in a container must know: its name, addresses, resolver, time zone, terminals, root's password.
//!
//! Written once at creation and again before each start, because the configuration may have changed. Only files beneath
//! the container's root are touched, by [`RootDirectory`]; nothing of the container is run. An `unmanaged` system is left
//! alone. A file with a neighbour `.pve-ignore.NAME` is the container's own.
//! (PVE: LXC/Setup.pm, LXC/Setup/Base.pm and the plugins)

mod account;
mod detect;
mod fixup;
mod init;
mod interfaces;
mod naming;
mod others;
mod redhat;
mod section;
mod system;

use super::interface::Interface;
use super::rootfs::RootDirectory;
use crate::config::guest::Part;
use crate::{Context, Error, Result};
use system::{System, Version};

pub use account::NewAccount;
pub use detect::{Detected, detect, systemd_version};
pub use system::has_plain_terminals;

/// The youngest systemd that boots well without the feature `nesting`.
const LAST_WITHOUT_NESTING: u32 = 241;

/// Looks at a system and lets `work` set it up. Unmanaged and empty ones are left alone.
fn with_system(
    root: &RootDirectory,
    part: &Part,
    warn: &dyn Fn(&str),
    work: impl FnOnce(&System) -> Result<()>,
) -> Result<()> {
    let ostype = part.get("ostype").unwrap_or("unmanaged");
    if ostype == "unmanaged" {
        return Ok(());
    }
    if !root.is_directory("/etc") {
        warn("/etc not present in CT, is the rootfs mounted?");
        return Ok(());
    }
    let (version, _) = detect::version(root, ostype)?;
    let host_resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    work(&System { root, part, ostype, version, warn, host_resolver })
}

/// Sets a new system up: everything that [`before_start`] does, and what happens once only.
pub fn after_create(
    ctx: &Context,
    root: &RootDirectory,
    part: &Part,
    account: &NewAccount,
    warn: impl Fn(&str),
) -> Result<()> {
    if part.get("ostype") == Some("unmanaged") && account.is_given() {
        warn("password and SSH keys are not set: the system is unmanaged");
    }
    with_system(root, part, &warn, |system| {
        if let (_, Some(text)) = detect::version(root, system.ostype)? {
            warn(&text);
        }
        fresh(system, account, &mut random_minute)?;
        account::renew_host_keys(ctx, root, part.get("hostname").unwrap_or("localhost"), &warn)?;
        check_nesting(system)
    })
}

/// What a new system gets once, host keys excepted.
fn fresh(system: &System, account: &NewAccount, minute: &mut dyn FnMut() -> u32) -> Result<()> {
    fixup::clear_machine_id(system, false)?;
    fixup::template(system)?;
    fixup::spread_crontabs(system, minute)?;
    account::set_root(system.root, account)?;
    present(system)
}

fn random_minute() -> u32 {
    let mut byte = [0];
    // Without random numbers all get the same minute, as in the template.
    let _ = openssl::rand::rand_bytes(&mut byte);
    u32::from(byte[0]) % 59
}

/// Writes the present configuration into the system.
pub fn before_start(root: &RootDirectory, part: &Part, warn: impl Fn(&str)) -> Result<()> {
    with_system(root, part, &warn, |system| {
        // Old inits check no file systems then.
        system.write("/fastboot", "", 0o644)?;
        present(system)?;
        check_nesting(system)
    })
}

/// Repairs a system that comes back from a backup.
pub fn after_restore(root: &RootDirectory, part: &Part, warn: impl Fn(&str)) -> Result<()> {
    with_system(root, part, &warn, fixup::template)
}

/// Makes a clone another machine than its source.
pub fn after_clone(root: &RootDirectory, part: &Part, warn: impl Fn(&str)) -> Result<()> {
    with_system(root, part, &warn, |system| fixup::clear_machine_id(system, true))
}

/// Writes the interfaces of a running container, whose configuration has changed.
pub fn network_while_running(root: &RootDirectory, part: &Part, warn: impl Fn(&str)) -> Result<()> {
    with_system(root, part, &warn, network)
}

fn present(system: &System) -> Result<()> {
    init::setup(system)?;
    network(system)?;
    naming::set_name(system)?;
    naming::set_resolver(system)?;
    naming::set_time_zone(system)
}

/// Newer versions of systemd want to mount for their services.
fn check_nesting(system: &System) -> Result<()> {
    if super::plan::features(system.part)?.flag("nesting") {
        return Ok(());
    }
    if let Some(version) = detect::systemd_version(system.root)?.filter(|version| *version > LAST_WITHOUT_NESTING) {
        (system.warn)(&format!("Systemd {version} detected. You may need to enable nesting."));
    }
    Ok(())
}

fn network(system: &System) -> Result<()> {
    let nets = system.interfaces()?;
    let version = system.version;
    match system.ostype {
        "debian" => ifupdown(system, &nets, version >= Version(10, 0)),
        "devuan" => ifupdown(system, &nets, false),
        "ubuntu" if version >= Version(17, 10) => networkd(system, &nets),
        "ubuntu" => ifupdown(system, &nets, false),
        "alpine" => ifupdown(system, &alpine_interfaces(&nets)?, version >= Version(3, 13)),
        "archlinux" | "nixos" => networkd(system, &nets),
        "gentoo" => others::gentoo(system, &nets),
        "centos" if version >= Version(10, 0) => redhat::network_manager(system, &nets),
        "centos" => redhat::scripts(system, &nets),
        "openeuler" => {
            // The plugin of NetworkManager for scripts is gone in some versions. A template that has scripts must not keep
            // them with other values than the keyfile, which has the same identity.
            if system.root.is_directory("/etc/sysconfig/network-scripts") {
                redhat::scripts(system, &nets)?;
            }
            redhat::network_manager(system, &nets)
        }
        "fedora" => {
            let legacy = system.root.is_file("/etc/sysconfig/network");
            if version <= Version(24, 0) || (version < Version(28, 0) && legacy) {
                redhat::scripts(system, &nets)?;
            }
            if version >= Version(25, 0) { networkd(system, &nets) } else { Ok(()) }
        }
        "opensuse" => {
            others::suse(system, &nets)?;
            let has_networkd = system.root.is_file("/usr/lib/systemd/systemd-networkd");
            if has_networkd { networkd(system, &nets) } else { Ok(()) }
        }
        other => Err(Error::new(format!("no such OS type '{other}'"))),
    }
}

fn ifupdown(system: &System, nets: &[Interface], with_prefix: bool) -> Result<()> {
    let path = "/etc/network/interfaces";
    let old = system.root.read(path)?.unwrap_or_default();
    let new = interfaces::interfaces(&old, nets, with_prefix);
    if new == old {
        return Ok(());
    }
    system.make_directories("/etc/network")?;
    system.write(path, &new, 0o644)
}

fn networkd(system: &System, nets: &[Interface]) -> Result<()> {
    for net in nets {
        system.make_directories("/etc/systemd/network")?;
        system.write(&format!("/etc/systemd/network/{}.network", net.name()), &interfaces::networkd(net), 0o644)?;
    }
    Ok(())
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

#[cfg(test)]
mod tests;
