//! How a configuration is answered: the types that clients count on.

use crate::config::guest::{GuestConfig, Part};
use contract::{Kind, Verb};
use serde_json::{Map, Value};

/// A value with the type that the interface declares: numbers for integers and switches, text for the rest, also for
/// what is declared as a number with fraction. (PVE: qemu-server QemuServer.pm, check_type)
pub fn typed(key: &str, value: &str) -> Value {
    let method = contract::method(Verb::Get, "/nodes/{node}/qemu/{vmid}/config");
    let schema = method.and_then(|method| method.returns.properties.as_ref()?.get(key));
    match schema.and_then(|schema| schema.kind) {
        Some(Kind::Integer) => value.parse::<i64>().map_or_else(|_| value.into(), Value::from),
        Some(Kind::Boolean) => match value.to_ascii_lowercase().as_str() {
            "1" | "on" | "yes" | "true" => 1.into(),
            "0" | "off" | "no" | "false" => 0.into(),
            _ => value.into(),
        },
        _ => value.into(),
    }
}

/// One part as an object.
fn part(part: &Part) -> Map<String, Value> {
    let mut map: Map<String, Value> =
        part.options.iter().map(|(key, value)| (key.clone(), typed(key, value))).collect();
    if let Some(description) = &part.description {
        map.insert("description".into(), description.clone().into());
    }
    if map.contains_key("cipassword") {
        map.insert("cipassword".into(), "**********".into());
    }
    map
}

/// The configuration as it is, or as it will be after the changes that wait.
pub fn config(config: &GuestConfig, with_pending: bool) -> Value {
    let mut map = part(&config.current);
    if with_pending {
        map.extend(part(&config.pending.part));
        for key in config.pending.delete.keys() {
            map.remove(key);
        }
    }
    map.insert("digest".into(), config.digest.clone().into());
    Value::Object(map)
}

/// The configuration that a snapshot keeps.
pub fn snapshot(config: &GuestConfig, name: &str) -> Option<Value> {
    let mut map = part(config.snapshots.get(name)?);
    map.insert("digest".into(), config.digest.clone().into());
    Some(Value::Object(map))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestKind;

    #[test]
    fn clients_find_the_types_that_they_count_on() {
        let text = "#hello\nagent: 1\ncores: 2\ncpulimit: 1.5\nmemory: 2048\nonboot: 1\nscsi0: local:100/a.raw\n";
        let config = config(&GuestConfig::parse(GuestKind::Qemu, text), false);
        assert_eq!((&config["cores"], &config["onboot"]), (&2.into(), &1.into()));
        assert_eq!(
            (&config["memory"], &config["agent"], &config["cpulimit"]),
            (&"2048".into(), &"1".into(), &"1.5".into())
        );
        assert_eq!(config["description"], "hello");
        assert_eq!(config["digest"].as_str().unwrap().len(), 40);
    }

    #[test]
    fn pending_changes_are_merged_unless_the_current_state_is_asked_for() {
        let text = "cores: 2\nonboot: 1\n\n[PENDING]\ndelete: onboot\ncores: 4\n";
        let parsed = GuestConfig::parse(GuestKind::Qemu, text);
        assert_eq!(config(&parsed, true)["cores"], 4);
        assert!(config(&parsed, true).get("onboot").is_none());
        assert_eq!(config(&parsed, false)["cores"], 2);
    }
}
