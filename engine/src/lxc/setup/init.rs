//! What init runs on the container's terminals, and which of its services make no sense in a container.
//! (PVE: LXC/Setup/Debian.pm setup_inittab, Alpine.pm, Base.pm setup_container_getty_service and setup_systemd_preset)

use super::super::rootfs::RootDirectory;
use super::System;
use crate::Result;

/// Writes terminals and services into the system.
pub fn setup(system: &System) -> Result<()> {
    let terminals = system.part.get("tty").and_then(|text| text.parse::<u32>().ok()).unwrap_or(2);
    match system.ostype {
        "alpine" => inittab(system, |text| alpine_inittab(text, terminals)),
        "debian" | "devuan" | "ubuntu" => {
            if system.root.read_link("/sbin/init").is_some_and(|target| target.ends_with("/systemd")) {
                systemd(system, terminals)?;
            }
            inittab(system, |text| debian_inittab(text, terminals))
        }
        _ if system.root.is_file("/lib/systemd/systemd") || system.root.is_file("/usr/lib/systemd/systemd") => {
            systemd(system, terminals)
        }
        _ => Ok(()),
    }
}

fn inittab(system: &System, change: impl Fn(&str) -> String) -> Result<()> {
    match system.root.read("/etc/inittab")? {
        Some(old) => system.write("/etc/inittab", &change(&old), 0o644),
        None => Ok(()),
    }
}

fn alpine_inittab(old: &str, terminals: u32) -> String {
    let is_getty = |line: &&str| line.trim_start().starts_with("tty") && line.contains("getty");
    let mut text: String = old.lines().filter(|line| !is_getty(line)).map(|line| format!("{line}\n")).collect();
    for number in (1..=terminals).filter(|number| *number != 7) {
        text += &format!("tty{number}::respawn:/sbin/getty 38400 tty{number}\n");
    }
    text
}

fn debian_inittab(old: &str, terminals: u32) -> String {
    let is_ours = |line: &&str| {
        let id = line.trim_start().split(':').next().unwrap_or_default();
        let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        digits && line.contains("getty") || matches!(id, "pf" | "pn" | "po" | "p0")
    };
    let mut text: String = old.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n")).collect();
    text += "p0::powerfail:/sbin/init 0\n";
    for number in (1..=terminals).filter(|number| *number != 7) {
        let levels = if number == 1 { "2345" } else { "23" };
        text += &format!("{number}:{levels}:respawn:/sbin/getty --noclear 38400 tty{number}\n");
    }
    text
}

/// Terminals that the container has get a login; units for hardware are switched off at the first boot.
fn systemd(system: &System, terminals: u32) -> Result<()> {
    let units =
        if system.root.is_file("/lib/systemd/systemd") { "/lib/systemd/system" } else { "/usr/lib/systemd/system" };
    let template = format!("{units}/container-getty@.service");
    if system.root.is_file(&template) {
        if let Some(text) = system.root.read(&template)? {
            // The terminals are tty1, tty2, …, not pseudo terminals.
            system.write(&template, &text.replace("pts/%I", "tty%I").replace("lxc/tty%I", "tty%I"), 0o644)?;
        }
        let wants = "/etc/systemd/system/getty.target.wants";
        system.root.make_directories(wants)?;
        for number in 1..7 {
            system.root.remove(&format!("{wants}/getty@tty{number}.service"))?;
            let link = format!("{wants}/container-getty@{number}.service");
            if number > terminals {
                system.root.remove(&link)?;
            } else if system.root.read_link(&link).as_deref() != Some(&template) {
                system.root.symlink(&template, &link)?;
            }
        }
    }
    if system.root.is_file("/etc/machine-id") {
        return Ok(());
    }
    let mut preset =
        String::from("disable sys-kernel-config.mount\ndisable sys-kernel-debug.mount\ndisable getty@.service\n");
    preset += "enable container-getty@.service\n";
    if matches!(system.ostype, "debian" | "devuan") {
        preset += "disable systemd-networkd.service\n";
    }
    system.root.make_directories("/etc/systemd/system-preset")?;
    system.write("/etc/systemd/system-preset/00-pve.preset", &preset, 0o644)
}

/// Alpine's own images of containers leave out what a booting one needs.
pub fn enable_alpine_services(root: &RootDirectory) -> Result<()> {
    for (level, service) in [
        ("boot", "networking"),
        ("boot", "bootmisc"),
        ("boot", "hostname"),
        ("shutdown", "killprocs"),
        ("shutdown", "savecache"),
    ] {
        let (script, link) = (format!("/etc/init.d/{service}"), format!("/etc/runlevels/{level}/{service}"));
        if root.is_file(&script) && root.read_link(&link).is_none() {
            root.make_directories(&format!("/etc/runlevels/{level}"))?;
            root.symlink(&script, &link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_replace_the_templates() {
        let old = "::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\ntty2::respawn:/sbin/getty 38400 tty2\n";
        let new = alpine_inittab(old, 1);
        assert_eq!(new, "::sysinit:/sbin/openrc sysinit\ntty1::respawn:/sbin/getty 38400 tty1\n");
        assert_eq!(alpine_inittab(&new, 1), new);
        let debian = debian_inittab("id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 tty1\npf::powerwait:x\n", 2);
        assert_eq!(
            debian,
            "id:2:initdefault:\np0::powerfail:/sbin/init 0\n1:2345:respawn:/sbin/getty --noclear 38400 tty1\n\
             2:23:respawn:/sbin/getty --noclear 38400 tty2\n"
        );
    }
}
