//! What init runs on the container's terminals, and which of its services make no sense in a container.
//! (PVE: LXC/Setup/Base.pm setup_container_getty_service, fixup_old_getty, setup_systemd_preset, setup_securetty; the
//! plugins' setup_init)

use super::system::{System, Version};
use crate::Result;

/// Services of systemd's first boot: those of hardware are off, the terminals of containers are on.
const PRESET: [(&str, bool); 4] = [
    ("container-getty@.service", true),
    ("getty@.service", false),
    ("sys-kernel-config.mount", false),
    ("sys-kernel-debug.mount", false),
];

/// Writes terminals and services into the system.
pub fn setup(system: &System) -> Result<()> {
    let (terminals, version) = (system.terminals(), system.version);
    match system.ostype {
        "alpine" => system.edit("/etc/inittab", |text| alpine_inittab(text, terminals)),
        "gentoo" => system.edit("/etc/inittab", |text| gentoo_inittab(text, terminals)),
        "debian" | "devuan" => {
            if system.boots_systemd() {
                terminal_services(system)?;
                if version >= Version(12, 0) {
                    // Debian's containers are configured by ifupdown.
                    preset(system, Some(("systemd-networkd.service", false)))?;
                }
            }
            system.edit("/etc/inittab", |text| debian_inittab(text, terminals, version < Version(7, 0)))
        }
        "ubuntu" => {
            if version >= Version(23, 4) {
                preset(system, Some(("systemd-networkd.service", true)))?;
            }
            if version >= Version(16, 10) {
                return terminal_services(system);
            }
            if matches!(version, Version(12 | 14, 4)) { upstart(system) } else { Ok(()) }
        }
        "archlinux" => {
            preset(system, Some(("systemd-networkd.service", true)))?;
            terminal_services(system)
        }
        "centos" => {
            old_getty(system)?;
            terminal_services(system)?;
            if version >= Version(8, 0) { preset(system, None) } else { Ok(()) }
        }
        "fedora" => {
            terminal_services(system)?;
            if version >= Version(37, 0) {
                return preset(system, Some(("systemd-networkd.service", true)));
            }
            Ok(())
        }
        "openeuler" => {
            terminal_services(system)?;
            preset(system, None)
        }
        "opensuse" => {
            old_getty(system)?;
            terminal_services(system)
        }
        _ => Ok(()),
    }
}

fn alpine_inittab(old: &str, terminals: u32) -> String {
    // A serial line (`ttyS0`) has a number only behind a letter and stays.
    let is_getty = |line: &&str| {
        let id = line.trim_start().split(':').next().unwrap_or_default();
        let digits = id.strip_prefix("tty").unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) && line.contains("getty")
    };
    let mut text: String = old.lines().filter(|line| !is_getty(line)).map(|line| format!("{line}\n")).collect();
    for number in (1..=terminals).filter(|number| *number != 7) {
        text += &format!("tty{number}::respawn:/sbin/getty 38400 tty{number}\n");
    }
    text
}

fn debian_inittab(old: &str, terminals: u32, ancient: bool) -> String {
    let is_ours = |line: &&str| {
        let id = line.trim_start().split(':').next().unwrap_or_default();
        let digits = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
        digits && line.contains("getty") || matches!(id, "pf" | "pn" | "po" | "p0")
    };
    let mut text: String = old.lines().filter(|line| !is_ours(line)).map(|line| format!("{line}\n")).collect();
    text += "p0::powerfail:/sbin/init 0\n";
    for number in (1..=terminals).filter(|number| *number != 7) {
        let levels = if number == 1 { "2345" } else { "23" };
        let option = if ancient { "-L" } else { "--noclear" };
        text += &format!("{number}:{levels}:respawn:/sbin/getty {option} 38400 tty{number}\n");
    }
    text
}

fn gentoo_inittab(old: &str, terminals: u32) -> String {
    let is_getty = |line: &&str| {
        let id = line.trim_start().split(':').next().unwrap_or_default();
        let number = id.strip_prefix('c').unwrap_or(id);
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) && line.contains("getty")
    };
    let mut text: String = old.lines().filter(|line| !is_getty(line)).map(|line| format!("{line}\n")).collect();
    for number in (1..=terminals).filter(|number| *number != 7) {
        text += &format!("{number}::respawn:/sbin/agetty 38400 tty{number}\n");
    }
    text
}

/// Terminals that the container has get a login. Without systemd there is nothing to do.
fn terminal_services(system: &System) -> Result<()> {
    let Some(units) = system.unit_directory() else { return Ok(()) };
    let path = format!("{units}/container-getty@.service");
    let (template, instance) = if system.root.is_file(&path) {
        (path, "container-getty@")
    } else if system.root.is_file(&format!("{units}/getty@.service")) {
        (format!("{units}/getty@.service"), "getty@tty")
    } else {
        return Ok(());
    };
    let name = format!("{}tty%I", system.terminal_directory());
    system.edit(&template, |text| with_terminal_name(text, &name))?;
    let wants = "/etc/systemd/system/getty.target.wants";
    system.make_directories(wants)?;
    for number in 1..7 {
        let link = format!("{wants}/{instance}{number}.service");
        let wanted = number <= system.terminals();
        for old in [format!("{wants}/getty@tty{number}.service"), format!("{wants}/container-getty@{number}.service")] {
            if !(wanted && old == link) {
                system.remove(&old)?;
            }
        }
        if wanted {
            system.link(&template, &link)?;
        }
    }
    // A masked target would start none of them.
    system.remove("/etc/systemd/system/getty.target")
}

/// The unit with another name for its terminal.
fn with_terminal_name(text: &str, name: &str) -> String {
    let marked = text.replace("pts/%I", "\0").replace("lxc/tty%I", "\0");
    // What was set plain by an earlier start may have to get its directory back.
    let marked = if name == "tty%I" { marked } else { marked.replace("tty%I", "\0") };
    marked.replace('\0', name)
}

/// systemd 205 and older have no terminals for containers; theirs wait for a device that containers lack.
fn old_getty(system: &System) -> Result<()> {
    let Some(units) = system.unit_directory() else { return Ok(()) };
    let modern = system.root.is_file(&format!("{units}/container-getty@.service"));
    let (from, to) = ("ConditionPathExists=/dev/tty0", "ConditionPathExists=/dev/tty");
    let (from, to) = if modern { (to, from) } else { (from, to) };
    system.edit(&format!("{units}/getty@.service"), |text| {
        text.lines().map(|line| format!("{}\n", if line == from { to } else { line })).collect()
    })
}

/// Writes the preset of the first boot, with one service more or otherwise.
fn preset(system: &System, more: Option<(&str, bool)>) -> Result<()> {
    let mut services: Vec<(&str, bool)> = PRESET.iter().copied().chain(more).collect();
    services.sort_unstable();
    let mut text = String::from("# Added by PVE at create-time for first-boot configuration.\n");
    for (service, on) in services {
        text += &format!("{} {service}\n", if on { "enable" } else { "disable" });
    }
    system.make_directories("/etc/systemd/system-preset")?;
    system.write("/etc/systemd/system-preset/00-pve.preset", &text, 0o644)
}

/// Lets root log in on the container's terminals where the system has a list of allowed ones.
pub fn allow_terminals(system: &System, names: &[&str]) -> Result<()> {
    let directory = system.terminal_directory();
    let own = ["console", "tty1", "tty2", "tty3", "tty4"].map(|name| format!("{directory}{name}"));
    let names: Vec<String> =
        if names.is_empty() { own.to_vec() } else { names.iter().map(|name| (*name).to_owned()).collect() };
    system.edit("/etc/securetty", |old| {
        let mut text = format!("{}\n", old.trim_end_matches('\n'));
        for name in names {
            if !text.lines().any(|line| line.trim_end() == name) {
                text += &format!("{name}\n");
            }
        }
        text
    })
}

/// Terminals of Ubuntu's upstart.
fn upstart(system: &System) -> Result<()> {
    system.make_directories("/etc/init")?;
    for number in 1..7 {
        let path = format!("/etc/init/tty{number}.conf");
        if number > system.terminals() {
            system.remove(&path)?;
            continue;
        }
        let text = format!(
            "# tty{number}: a login, from the start of the system until it is shut down\n\n\
             start on stopped rc RUNLEVEL=[2345] and (\n            not-container or\n            \
             container CONTAINER=lxc or\n            container CONTAINER=lxc-libvirt)\n\n\
             stop on runlevel [!2345]\n\nrespawn\nexec /sbin/getty -8 38400 tty{number}\n"
        );
        system.write(&path, &text, 0o644)?;
    }
    Ok(())
}

/// Files that templates of CentOS 5 and 6 leave out.
pub fn old_redhat(system: &System) -> Result<()> {
    system.make_directories("/etc/init")?;
    let tty = "stop on runlevel [S016]\n\nrespawn\ninstance $TTY\nexec /sbin/mingetty --nohangup $TTY\n\
               usage 'tty TTY=/dev/ttyX  - where X is console id'\n";
    system.write_missing("/etc/init/tty.conf", tty)?;
    system.edit("/etc/init/tty.conf", |old| {
        let line = |line: &str| match line.strip_prefix("exec /sbin/mingetty ") {
            Some(rest) if !rest.contains("--nohangup") => format!("exec /sbin/mingetty --nohangup {rest}\n"),
            _ => format!("{line}\n"),
        };
        old.lines().map(line).collect()
    })?;
    let start = "start on stopped rc RUNLEVEL=[2345]\n\nenv ACTIVE_CONSOLES=/dev/tty[1-6]\nenv X_TTY=/dev/tty1\ntask\n\
                 script\n        . /etc/sysconfig/init\n        for tty in $(echo $ACTIVE_CONSOLES) ; do\n                \
                 [ \"$RUNLEVEL\" = \"5\" -a \"$tty\" = \"$X_TTY\" ] && continue\n                \
                 initctl start tty TTY=$tty\n        done\nend script\n";
    system.write_missing("/etc/init/start-ttys.conf", start)?;
    let power = "start on power-status-changed\n\nexec /sbin/shutdown -h now \"SIGPWR received\"\n";
    system.write_missing("/etc/init/power-status-changed.conf", power)?;
    system.edit("/etc/rc.d/rc.sysinit", |old| {
        let is_udev = |line: &str| line.starts_with("/sbin/start_udev");
        old.lines().map(|line| if is_udev(line) { format!("#{line}\n") } else { format!("{line}\n") }).collect()
    })
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
        let serial = "ttyS0::respawn:/sbin/getty -L 0 ttyS0\n#tty1::respawn:/sbin/getty 38400 tty1\n";
        assert_eq!(alpine_inittab(serial, 0), serial);
        let debian =
            debian_inittab("id:2:initdefault:\n1:2345:respawn:/sbin/getty 38400 tty1\npf::powerwait:x\n", 2, false);
        assert_eq!(
            debian,
            "id:2:initdefault:\np0::powerfail:/sbin/init 0\n1:2345:respawn:/sbin/getty --noclear 38400 tty1\n\
             2:23:respawn:/sbin/getty --noclear 38400 tty2\n"
        );
    }
}
