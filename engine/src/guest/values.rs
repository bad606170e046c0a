//! What the values in a guest's configuration file must be, when it is read and when it is written.
//!
//! Owns the checks by the contract's schema of `GET config`; the grammar of the file is [`crate::config::guest_text`].
//! (PVE: qemu-server QemuServer.pm and pve-container LXC/Config.pm, check_type; write_vm_config, write_pct_config)

use crate::config::guest::{GuestConfig, GuestKind, Part, number_of};
use crate::config::guest_text::Section;
use crate::lxc::volume::MountPoint;
use crate::qemu::config::{Drive, Slot};
use crate::{Error, Result};
use contract::{Kind, Schema, Verb};
use std::collections::BTreeSet;

/// The key and the value that hold when a file says this, or what is wrong with it.
pub fn stored(
    kind: GuestKind,
    section: &Section,
    key: &str,
    value: &str,
) -> std::result::Result<(String, String), String> {
    let plain = |value: &str| Ok((key.to_owned(), value.to_owned()));
    match (kind, section) {
        // It only tells what the guest was told.
        (GuestKind::Qemu, Section::Special(name)) if name == "cloudinit" => return plain(value),
        (GuestKind::Qemu, _) if key == "args" => return plain(value),
        // These only a snapshot has, and the interface does not tell of.
        (GuestKind::Lxc, _) if key == "parent" => {
            return contract::format::check("pve-configid", value).and_then(|()| plain(value));
        }
        (GuestKind::Lxc, _) if key == "snaptime" => return whole_number(value).and_then(|value| plain(&value)),
        (GuestKind::Qemu, Section::Special(_)) => {
            return match key {
                "fleecing-images" => contract::format::check("pve-volume-id-list", value).and_then(|()| plain(value)),
                _ => Err(format!("unknown setting '{key}'")),
            };
        }
        _ => {}
    }
    // The drive's name of long ago.
    let key = if kind == GuestKind::Qemu && key == "cdrom" { "ide2" } else { key };
    let plain = |value: &str| Ok((key.to_owned(), value.to_owned()));
    // All that is left of a line that ends with its key and a carriage return.
    if value.contains('\r') {
        return Err("property contains a line feed".into());
    }
    let schema = schema(kind, key).ok_or_else(|| format!("unknown setting '{key}'"))?;
    let value = typed(schema, value)?;
    // Quotes mean nothing around what has no format of its own.
    match value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if kind == GuestKind::Qemu && schema.format.is_none() => plain(inner),
        _ => plain(&value),
    }
}

fn schema(kind: GuestKind, key: &str) -> Option<&'static Schema> {
    let path = match kind {
        GuestKind::Qemu => "/nodes/{node}/qemu/{vmid}/config",
        GuestKind::Lxc => "/nodes/{node}/lxc/{vmid}/config",
    };
    // The answer tells these as well.
    contract::method(Verb::Get, path)?.returned(key).filter(|_| !matches!(key, "digest" | "lxc"))
}

fn typed(schema: &Schema, value: &str) -> std::result::Result<String, String> {
    let failed = |kind: &str| Err(format!("type check ('{kind}') failed - got '{value}'"));
    match schema.kind {
        Some(Kind::Boolean) => match contract::parse_boolean(value) {
            Some(flag) => Ok(if flag { "1" } else { "0" }.to_owned()),
            None => failed("boolean"),
        },
        Some(Kind::Integer) => whole_number(value),
        Some(Kind::Number) => {
            let (whole, fraction) = value.split_once('.').unwrap_or((value, "0"));
            if is_number(whole) && is_number(fraction) { Ok(value.to_owned()) } else { failed("number") }
        }
        _ => match &schema.format {
            Some(format) => contract::format::check(format, value).map(|()| value.to_owned()),
            None => Ok(value.to_owned()),
        },
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn whole_number(value: &str) -> std::result::Result<String, String> {
    if !is_number(value) {
        return Err(format!("type check ('integer') failed - got '{value}'"));
    }
    let digits = value.trim_start_matches('0');
    Ok(if digits.is_empty() { "0" } else { digits }.to_owned())
}

/// Makes a configuration what is written: old words become new ones, volumes in use are not unused as well.
///
/// # Errors
/// A value that would be more than one line.
pub fn settle(config: &mut GuestConfig) -> Result<()> {
    let others = config.special.values().chain(config.snapshots.values());
    for part in [&config.current, &config.pending.part].into_iter().chain(others) {
        check_lines(config.kind, part)?;
    }
    let used: BTreeSet<String> = match config.kind {
        GuestKind::Qemu => {
            [&config.current, &config.pending.part].into_iter().flat_map(drives).map(|drive| drive.file).collect()
        }
        GuestKind::Lxc => mounted(&config.current).collect(),
    };
    config.current.options.retain(|key, value| !key.starts_with("unused") || !used.contains(value));
    if config.kind == GuestKind::Lxc {
        return Ok(());
    }
    forget_smp(&mut config.current);
    // Set to nothing is not set; but a boot order of no device is one.
    config.current.options.retain(|key, value| key == "boot" || !value.is_empty());
    if !drives(&config.current).any(|drive| drive.is_cloudinit()) {
        config.special.remove("cloudinit");
    }
    Ok(())
}

fn check_lines(kind: GuestKind, part: &Part) -> Result<()> {
    let raw = part.raw.iter().map(|(key, value)| (key, value));
    match part.options.iter().chain(raw).find(|(_, value)| value.contains(['\n', '\r'])) {
        None => Ok(()),
        Some((key, _)) => Err(Error::new(match kind {
            GuestKind::Qemu => format!("unable to parse value of '{key}' - property contains a line feed"),
            GuestKind::Lxc => format!("detected invalid newline inside property '{key}'"),
        })),
    }
}

/// `smp` was the number of processors before there were sockets and cores.
fn forget_smp(part: &mut Part) {
    let is_set = |text: Option<&str>| text.is_some_and(|text| text != "0");
    if let Some(count) = part.get("smp").map(str::to_owned).filter(|count| count != "0" || is_set(part.get("sockets")))
    {
        part.options.remove("smp");
        if !is_set(part.get("sockets")) {
            part.set("sockets", count);
            part.options.remove("cores");
        }
    }
}

fn drives(part: &Part) -> impl Iterator<Item = Drive> {
    part.options.iter().filter_map(|(key, value)| Drive::parse(Slot::of_key(key)?, value).ok())
}

/// Volumes that a container mounts.
fn mounted(part: &Part) -> impl Iterator<Item = String> {
    let points = part.options.iter().filter(|(key, _)| *key == "rootfs" || number_of(key, "mp").is_some());
    points.filter_map(|(key, value)| Some(MountPoint::parse(key, value).ok()?.volume().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: GuestKind, text: &str) -> GuestConfig {
        super::super::read(kind, "100".parse().unwrap(), text)
    }

    #[test]
    fn values_of_vms_must_be_what_their_option_allows() {
        let text = "agent: enabled=2\nballoon: 0512\ncpulimit: 1.\nkvm: Off\nname: \"a b\"\nnew: 1\nonboot: yes\n\
            ostype: beos\nsearchdomain: \"a\"\nshares: -1\n[special:fleecing]\nfleecing-images: a\nfleecing-images: aa:b\n";
        let config = read(GuestKind::Qemu, text);
        let expected = [("balloon", "512"), ("kvm", "0"), ("onboot", "1"), ("ostype", "beos"), ("searchdomain", "a")];
        let found: Vec<(&str, &str)> = config.current.options.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(found, expected);
        assert_eq!(config.special["fleecing"].get("fleecing-images"), Some("aa:b"));
        let texts: Vec<&str> = config.problems.iter().map(|problem| problem.text.as_str()).collect();
        assert_eq!(texts.len(), 6, "{texts:?}");
        assert_eq!(texts[1], "vm 100 - unable to parse value of 'cpulimit' - type check ('number') failed - got '1.'");
        assert_eq!(texts[3], "vm 100 - unable to parse value of 'new' - unknown setting 'new'");
    }

    #[test]
    fn the_cdrom_of_old_is_a_drive() {
        let config = read(GuestKind::Qemu, "ide2: none,media=cdrom\ncdrom: file=/dev/sr0,media=cdrom\ncdrom: a.iso\n");
        assert_eq!(config.current.get("ide2"), Some("file=/dev/sr0,media=cdrom"));
        assert_eq!((config.current.options.len(), config.problems.len()), (1, 1));
    }

    #[test]
    fn containers_keep_what_is_wrong() {
        let config = read(GuestKind::Lxc, "cores: many\nonboot: on\nown: 1\nswap: 0\n");
        assert_eq!(config.problems.len(), 2);
        assert_eq!(config.print(), "cores: many\nonboot: 1\nown: 1\nswap: 0\n");
    }

    #[test]
    fn what_is_written_has_no_old_words() {
        let text = "cores: 3\nsmp: 2\nunused0: aa:100/x.raw\nunused1: aa:100/y.raw\nunused2: aa:100/z.raw\nvirtio0: aa:100/x.raw\n\
            \n[PENDING]\nscsi0: aa:100/y.raw,size=1G\n\n[special:cloudinit]\nciuser: a\n";
        let mut config = read(GuestKind::Qemu, text);
        settle(&mut config).unwrap();
        let printed =
            "sockets: 2\nunused2: aa:100/z.raw\nvirtio0: aa:100/x.raw\n\n[PENDING]\nscsi0: aa:100/y.raw,size=1G\n";
        assert_eq!(config.print(), printed);
    }

    #[test]
    fn a_volume_that_a_container_mounts_is_not_unused() {
        let text = "mp0: aa:100/x.raw,mp=/x\nrootfs: volume=aa:100/r.raw\nunused0: aa:100/r.raw\nunused1: aa:100/y.raw\n\
            unused2: aa:100/x.raw\n\n[before]\nparent: first\nsnaptime: 12\n";
        let mut config = read(GuestKind::Lxc, text);
        settle(&mut config).unwrap();
        assert_eq!(config.current.indexed("unused").collect::<Vec<_>>(), [(1, "aa:100/y.raw")]);
        assert!(config.problems.is_empty());
    }

    #[test]
    fn no_value_makes_a_second_line() {
        for (kind, text) in [
            (GuestKind::Qemu, "unable to parse value of 'searchdomain' - property contains a line feed"),
            (GuestKind::Lxc, "detected invalid newline inside property 'searchdomain'"),
        ] {
            let mut config = GuestConfig::new(kind);
            config.pending.part.set("searchdomain", "a\nlock: backup");
            assert_eq!(settle(&mut config).unwrap_err().message(), text);
        }
    }
}
