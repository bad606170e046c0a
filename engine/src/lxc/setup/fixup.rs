//! What happens to a system once: at its creation from a template, or when a clone becomes a machine of its own.
//! (PVE: LXC/Setup/Base.pm post_create_hook, post_clone_hook, clear_machine_id; the plugins' template_fixup)

use super::init;
use super::system::{System, Version};
use crate::{Result, error::ResultExt};
use rustix::fs::{Dir, OFlags};

const MACHINE_ID: &str = "/etc/machine-id";

/// Files of `/etc/cron.d` that are looked at; a template with more is no honest one.
const MOST_CRONTABS: usize = 256;

/// A unit that makes the certificate of the package ssl-cert anew at the first boot.
const SNAKEOIL_UNIT: &str = "\
[Unit]
Description=\"Regenerate pre-generated snakeoil certificate and key-pair once\"
ConditionPathExists=/etc/ssl/certs/ssl-cert-snakeoil.pem
ConditionFirstBoot=yes
Wants=first-boot-complete.target
Before=first-boot-complete.target

[Service]
Type=oneshot
ExecStart=make-ssl-cert -f generate-default-snakeoil
";

/// A second container from the same template must not be the same machine. A clone keeps an empty identity, so that its
/// next boot is not taken for the first one.
pub fn clear_machine_id(system: &System, clone: bool) -> Result<()> {
    let systemd = system.unit_directory().is_some();
    let dbus = "/var/lib/dbus/machine-id";
    if systemd && system.root.is_file(dbus) && system.root.read_link(dbus).is_none() {
        system.remove(dbus)?;
    }
    if !system.root.is_file(MACHINE_ID) {
        return Ok(());
    }
    if !clone {
        return system.remove(MACHINE_ID);
    }
    let old = system.root.read(MACHINE_ID)?.unwrap_or_default();
    if systemd && old.lines().next() != Some("uninitialized") { system.write(MACHINE_ID, "\n", 0o444) } else { Ok(()) }
}

/// Repairs what templates of a distribution are known for.
pub fn template(system: &System) -> Result<()> {
    match system.ostype {
        "debian" | "devuan" => snakeoil(system)?,
        "ubuntu" => {
            snakeoil(system)?;
            ubuntu(system)?;
        }
        "alpine" => {
            for (level, service) in [
                ("boot", "networking"),
                ("boot", "bootmisc"),
                ("boot", "hostname"),
                ("shutdown", "killprocs"),
                ("shutdown", "savecache"),
            ] {
                let script = format!("/etc/init.d/{service}");
                system.link_missing(&script, &format!("/etc/runlevels/{level}/{service}"))?;
            }
        }
        "centos" => {
            if system.version < Version(7, 0) {
                init::old_redhat(system)?;
            }
            system.write_missing("/etc/locale.conf", "LANG=C.utf8")?;
            mask_static_units(system, &[])?;
        }
        "fedora" => system.remove("/etc/systemd/system/getty@.service")?,
        "openeuler" => mask_static_units(system, &["dev-mqueue.mount"])?,
        "opensuse" => {
            system.write_missing("/etc/locale.conf", "LANG=C.utf8")?;
            if !system.root.is_file("/etc/localtime") {
                system.link_missing("/usr/share/zoneinfo/UTC", "/etc/localtime")?;
            }
        }
        _ => {}
    }
    if matches!(system.ostype, "alpine" | "archlinux" | "centos" | "fedora" | "gentoo" | "opensuse") {
        init::allow_terminals(system, &[])?;
    }
    if !matches!(system.ostype, "debian" | "devuan" | "ubuntu" | "nixos") {
        // A left-over of templates that were built with liblxc's own scripts.
        let is_bogus = |line: &&str| line.split_whitespace().eq(["127.0.1.1", "LXC_NAME"]);
        system.edit("/etc/hosts", |old| {
            old.lines().filter(|line| !is_bogus(line)).map(|line| format!("{line}\n")).collect()
        })?;
    }
    Ok(())
}

fn ubuntu(system: &System) -> Result<()> {
    if system.version >= Version(17, 10) {
        if system.version < Version(23, 4) {
            for (wants, unit) in
                [("multi-user.target", "systemd-networkd.service"), ("socket.target", "systemd-networkd.socket")]
            {
                let directory = format!("/etc/systemd/system/{wants}.wants");
                system.make_directories(&directory)?;
                system.link_missing(&format!("/lib/systemd/system/{unit}"), &format!("{directory}/{unit}"))?;
            }
        }
        system.remove("/etc/netplan/10-lxc.yaml")?;
    }
    if matches!(system.version, Version(15, _) | Version(16, 4)) {
        init::allow_terminals(system, &["pts/0"])?;
    }
    if system.version == Version(12, 4) {
        system.edit("/etc/udev/udev.conf", |old| old.replacen("=\"err\"", "=0", 1))?;
    }
    Ok(())
}

/// A private key that every container of the template shares is no secret.
fn snakeoil(system: &System) -> Result<()> {
    let key = "/etc/ssl/private/ssl-cert-snakeoil.key";
    if !system.root.is_file(key) {
        return Ok(());
    }
    if system.boots_systemd() {
        let name = "proxmox-regenerate-snakeoil.service";
        let unit = format!("/etc/systemd/system/{name}");
        let wants = "/etc/systemd/system/first-boot-complete.target.wants";
        system.make_directories(wants)?;
        system.write(&unit, SNAKEOIL_UNIT, 0o644)?;
        system.link(&unit, &format!("{wants}/{name}"))?;
    } else {
        (system.warn)("Template contains pre-generated snakeoil certificate!");
        (system.warn)("Run `make-ssl-cert generate-default-snakeoil -f` to regenerate it!");
    }
    system.remove(key)
}

/// Units without an `[Install]` part cannot be switched off by a preset.
fn mask_static_units(system: &System, more: &[&str]) -> Result<()> {
    if !system.root.is_directory("/etc/systemd/system") {
        return Ok(());
    }
    let units = ["sys-kernel-config.mount", "sys-kernel-debug.mount"];
    let mut units = units.iter().chain(more);
    units.try_for_each(|unit| system.link_missing("/dev/null", &format!("/etc/systemd/system/{unit}")))
}

/// Gives root's jobs of each hour or day another minute than the neighbours of the same template have.
pub fn spread_crontabs(system: &System, minute: &mut dyn FnMut() -> u32) -> Result<()> {
    let mut files: Vec<String> = crontabs(system)?.into_iter().map(|name| format!("/etc/cron.d/{name}")).collect();
    files.sort();
    files.insert(0, "/etc/crontab".into());
    files.iter().try_for_each(|file| system.edit(file, |old| spread(old, minute)))
}

fn crontabs(system: &System) -> Result<Vec<String>> {
    let Ok(directory) = system.root.open_path("/etc/cron.d", OFlags::RDONLY | OFlags::DIRECTORY) else {
        return Ok(Vec::new());
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let mut names = Vec::new();
    for entry in Dir::read_from(directory).context(|| "/etc/cron.d of the container")?.take(MOST_CRONTABS) {
        let name = entry.context(|| "/etc/cron.d of the container")?.file_name().to_string_lossy().into_owned();
        if name.bytes().all(is_plain) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The lines `MINUTE HOUR DAY MONTH WEEKDAY root COMMAND` with other minutes.
fn spread(old: &str, minute: &mut dyn FnMut() -> u32) -> String {
    let mut line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().take(7).collect();
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let is_job = words.len() == 7 && words[5] == "root" && digits > 0 && words[0].len() == digits;
        if is_job { format!("{}{}\n", minute(), &line[digits..]) } else { format!("{line}\n") }
    };
    old.lines().map(&mut line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_minutes_of_roots_jobs_change() {
        let old = "SHELL=/bin/sh\n17 *\t* * *\troot\tcd / && run-parts\n5 4 * * * user x\n*/5 * * * * root y\n7 1 * * 1 root\n";
        let mut next = 40;
        let new = spread(old, &mut || {
            next += 1;
            next
        });
        assert_eq!(new, old.replace("17 *\t", "41 *\t"));
    }
}
