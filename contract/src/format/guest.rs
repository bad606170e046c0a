//! Options of guests and nodes (qemu-server PVE/QemuServer.pm, PVE/QemuServer/Drive.pm and CPUConfig.pm,
//! pve-container PVE/LXC/Config.pm, pve-common PVE/JSONSchema.pm and PVE/CpuSet.pm, pve-manager PVE/API2).

use super::ids::made_of;
use super::{Checked, ensure, split_list};
use serde_json::Value;

fn is_number(text: &str) -> bool {
    made_of(text, |c| c.is_ascii_digit())
}

/// `NAMEn` with n below a limit, written without leading zeros.
fn is_numbered(text: &str, name: &str, count: u32) -> bool {
    text.strip_prefix(name).is_some_and(|number| {
        is_number(number)
            && (number.len() == 1 || !number.starts_with('0'))
            && number.parse::<u32>().is_ok_and(|number| number < count)
    })
}

fn is_bus_drive(text: &str) -> bool {
    [("ide", 4), ("sata", 6), ("scsi", 31), ("virtio", 16)].iter().any(|(name, count)| is_numbered(text, name, *count))
}

pub(super) fn boot_device(text: &str) -> Checked {
    let other = [("net", 32), ("usb", 14), ("hostpci", 16)];
    let good = is_bus_drive(text) || other.iter().any(|(name, count)| is_numbered(text, name, *count));
    ensure(good, || format!("invalid boot device '{text}'"))
}

pub(super) fn boot_disk(text: &str) -> Checked {
    let good = is_bus_drive(text) || matches!(text, "efidisk0" | "tpmstate0");
    ensure(good, || format!("invalid boot disk '{text}'"))
}

/// `0` for none, `1` for the default set, or a list.
pub(super) fn hotplug_features(text: &str) -> Checked {
    const FEATURES: [&str; 6] = ["network", "disk", "cpu", "memory", "usb", "cloudinit"];
    if matches!(text, "0" | "1") {
        return Ok(());
    }
    split_list(text)
        .into_iter()
        .try_for_each(|feature| ensure(FEATURES.contains(&feature), || format!("invalid hotplug feature '{feature}'")))
}

pub(super) fn cpuset(text: &str) -> Checked {
    let good = text.trim_end_matches(',').split(',').filter(|_| !text.is_empty()).all(|part| {
        let part = part.trim();
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(from), Ok(to)) => is_number(first) && is_number(last) && from <= to,
            _ => false,
        }
    });
    ensure(good, || "unable to parse cpuset option".to_owned())
}

pub(super) fn phys_bits(text: &str) -> Checked {
    let bits = is_number(text) && text.len() <= 2 && text.parse::<u32>().is_ok_and(|bits| (8..=64).contains(&bits));
    ensure(bits || text == "host", || "value must be an integer between 8 and 64 or 'host'".to_owned())
}

/// `[order=]N`, `up=N`, `down=N`, separated by commas.
pub(super) fn startup_order(text: &str) -> Checked {
    let part = |part: &str| {
        let number = ["order=", "up=", "down="].iter().find_map(|key| part.strip_prefix(key)).unwrap_or(part);
        part.trim().is_empty() || is_number(number)
    };
    let good = !text.is_empty() && text != "0" && text.split(',').all(part);
    ensure(good, || "unable to parse startup options".to_owned())
}

pub(super) fn container_device(text: &str) -> Checked {
    let good = text.starts_with("/dev/") && !text.split('/').any(|part| matches!(part, "." | ".."));
    ensure(good, || format!("{text} is not a valid device path"))
}

/// No component is a dot or two; a first component of one dot passes.
pub(super) fn container_mount_point(text: &str) -> Checked {
    let mut parts = text.split('/');
    let first = parts.next().unwrap_or_default();
    let climbs = first == ".." && text.contains('/');
    let good = !climbs && !parts.any(|part| matches!(part, "." | ".."));
    ensure(good, || format!("{text} contains illegal character sequences"))
}

/// The shape of a zone's name; whether the host knows it is found out by who sets it.
pub(super) fn timezone(text: &str) -> Checked {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '+'))
    };
    let good = text == "UTC" || (text.contains('/') && text.split('/').all(part));
    ensure(good, || format!("invalid time zone '{text}'"))
}

pub(super) fn container_timezone(text: &str) -> Checked {
    if text == "host" { Ok(()) } else { timezone(text) }
}

pub(super) fn day_of_week(text: &str) -> Checked {
    let good = matches!(text, "mon" | "tue" | "wed" | "thu" | "fri" | "sat" | "sun");
    ensure(good, || format!("invalid day '{text}'"))
}

pub(super) fn task_status(text: &str) -> Checked {
    let good = ["ok", "error", "warning", "unknown"].iter().any(|word| word.eq_ignore_ascii_case(text));
    ensure(good, || format!("invalid status '{text}'"))
}

/// A JSON list of calls to make on a node.
pub(super) fn command_batch(text: &str) -> Checked {
    let call = |call: &Value| {
        let verb = call.get("method").and_then(Value::as_str);
        call.get("path").is_some_and(Value::is_string)
            && verb.is_some_and(|verb| verb.parse::<crate::Verb>().is_ok())
            && call.get("args").is_none_or(Value::is_object)
    };
    let calls: Option<Value> = serde_json::from_str(text).ok();
    let good = calls.as_ref().and_then(Value::as_array).is_some_and(|calls| calls.iter().all(call));
    ensure(good, || "commands must be a list of objects with path, method and optional args".to_owned())
}
