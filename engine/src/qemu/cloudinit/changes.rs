//! What the disc of a running guest does not say yet: the section `[special:cloudinit]` of its configuration.
//!
//! The section holds the values that are on the disc, under the options that have changed since, and lists those that
//! were added under `added`. It goes when the disc is written, and with the drive.
//! (PVE: QemuServer.pm, vmconfig_hotplug_pending; API2/Qemu.pm, cloudinit_pending)

use crate::config::guest::{GuestConfig, number_of};
use crate::types::split_list;
use crate::{Result, Vmid};
use serde_json::{Value, json};
use std::collections::BTreeSet;

const SECTION: &str = "cloudinit";

/// Options that only the guest's cloud-init reads, without numbers.
const OPTIONS: [&str; 8] =
    ["cicustom", "cipassword", "citype", "ciuser", "ciupgrade", "nameserver", "searchdomain", "sshkeys"];

/// Whether only the guest's cloud-init reads an option.
pub fn is_option(key: &str) -> bool {
    OPTIONS.contains(&key) || number_of(key, "ipconfig").is_some()
}

/// Whether the disc tells of an option.
fn is_told(key: &str) -> bool {
    is_option(key) || key == "name" || number_of(key, "net").is_some()
}

/// Notes that an option of a running VM gets another value, or none.
pub fn record(config: &mut GuestConfig, key: &str, new: Option<&str>) {
    if !is_told(key) {
        return;
    }
    let old = config.current.get(key).map(str::to_owned);
    let section = config.special.entry(SECTION.to_owned()).or_default();
    let mut added: BTreeSet<String> =
        section.options.remove("added").map(|list| split_list(&list).into_iter().collect()).unwrap_or_default();
    let recorded = section.get(key).map(str::to_owned);
    match (old, new, recorded) {
        // Back to what the disc says.
        (_, Some(new), Some(recorded)) if new == recorded => {
            section.options.remove(key);
            added.remove(key);
        }
        (_, Some(_), Some(_)) | (None, None, _) | (Some(_), None, Some(_)) => {}
        (Some(old), Some(_), None) if !added.contains(key) => section.set(key, old),
        (None, Some(_), None) => drop(added.insert(key.to_owned())),
        (Some(old), None, None) => {
            if !added.remove(key) {
                section.set(key, old);
            }
        }
        (Some(_), Some(_), None) => {}
    }
    if !added.is_empty() {
        section.set("added", added.into_iter().collect::<Vec<_>>().join(","));
    }
    if section.options.is_empty() {
        config.special.remove(SECTION);
    }
}

/// Whether the disc is out of date.
pub fn exist(config: &GuestConfig) -> bool {
    config.special.get(SECTION).is_some_and(|section| !section.options.is_empty())
}

/// The disc has been written.
pub fn forget(config: &mut GuestConfig) {
    config.special.remove(SECTION);
}

/// A VM without the drive has nothing out of date.
pub fn tidy(vmid: Vmid, config: &mut GuestConfig) -> Result<()> {
    if config.special.contains_key(SECTION) && super::drive(vmid, &config.current)?.is_none() {
        forget(config);
    }
    Ok(())
}

/// What the disc says and what it will say, as `GET cloudinit` lists it. Passwords are not shown.
pub fn listing(config: &GuestConfig) -> Vec<Value> {
    let mut section = config.special.get(SECTION).cloned().unwrap_or_default();
    let added = split_list(&section.options.remove("added").unwrap_or_default());
    let shown = |key: &str, text: &str| match key {
        "cipassword" => "**********".into(),
        _ => crate::qemu::reply::typed(key, text),
    };
    let current = |key: &str| config.current.get(key).map(|text| shown(key, text));
    let mut rows: Vec<Value> = added.iter().map(|key| json!({"key": key, "pending": current(key)})).collect();
    for key in OPTIONS.into_iter().filter(|key| !added.iter().any(|found| found == key)) {
        let Some(value) = current(key) else { continue };
        rows.push(match section.get(key) {
            Some(on_disc) => json!({"key": key, "value": shown(key, on_disc), "pending": value}),
            None => json!({"key": key, "value": value}),
        });
    }
    let gone = section.options.keys().filter(|key| config.current.get(key).is_none());
    rows.extend(gone.map(|key| json!({"key": key, "delete": 1})));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestKind;

    fn set(config: &mut GuestConfig, key: &str, new: Option<&str>) {
        record(config, key, new);
        match new {
            Some(new) => config.current.set(key, new),
            None => drop(config.current.options.remove(key)),
        }
    }

    fn section(config: &GuestConfig) -> Vec<(&str, &str)> {
        let section = config.special.get(SECTION);
        section.into_iter().flat_map(|part| &part.options).map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }

    #[test]
    fn the_section_holds_what_the_disc_says() {
        let mut config = GuestConfig::parse(GuestKind::Qemu, "ciuser: ann\nname: web\n");
        set(&mut config, "ciuser", Some("bob"));
        set(&mut config, "ciuser", Some("cid"));
        set(&mut config, "nameserver", Some("192.0.2.1"));
        set(&mut config, "ipconfig0", Some("ip=dhcp"));
        set(&mut config, "name", None);
        set(&mut config, "memory", Some("512"));
        assert_eq!(section(&config), [("added", "ipconfig0,nameserver"), ("ciuser", "ann"), ("name", "web")]);
        let expected = json!([
            {"key": "ipconfig0", "pending": "ip=dhcp"},
            {"key": "nameserver", "pending": "192.0.2.1"},
            {"key": "ciuser", "value": "ann", "pending": "cid"},
            {"key": "name", "delete": 1},
        ]);
        assert_eq!(Value::Array(listing(&config)), expected);
        set(&mut config, "nameserver", None);
        set(&mut config, "ipconfig0", None);
        set(&mut config, "ciuser", Some("ann"));
        set(&mut config, "name", Some("web"));
        assert!(!exist(&config) && section(&config).is_empty());
    }

    #[test]
    fn passwords_are_not_listed() {
        let mut config = GuestConfig::parse(GuestKind::Qemu, "cipassword: $5$x$old\nciupgrade: 0\n");
        set(&mut config, "cipassword", Some("$5$x$new"));
        let expected = json!([
            {"key": "cipassword", "value": "**********", "pending": "**********"}, {"key": "ciupgrade", "value": 0}
        ]);
        assert_eq!(Value::Array(listing(&config)), expected);
    }

    #[test]
    fn without_its_drive_nothing_is_out_of_date() {
        let mut config = GuestConfig::parse(GuestKind::Qemu, "ciuser: ann\n");
        set(&mut config, "ciuser", Some("bob"));
        tidy("100".parse().unwrap(), &mut config).unwrap();
        assert!(!exist(&config));
    }
}
