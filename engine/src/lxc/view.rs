//! A container's configuration as clients read it. Integers and booleans are numbers, the rest is text.
//! (PVE: API2/LXC/Config.pm, LXC/Config.pm check_type; pve-guest-common GuestHelpers.pm, config_with_pending_array)

use crate::config::guest::{GuestConfig, Part};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Options whose values are numbers.
const NUMBERS: [&str; 12] = [
    "console",
    "cores",
    "cpuunits",
    "debug",
    "memory",
    "onboot",
    "protection",
    "snaptime",
    "swap",
    "template",
    "tty",
    "unprivileged",
];

fn value(key: &str, text: &str) -> Value {
    let number = match text.to_ascii_lowercase().as_str() {
        "on" | "yes" | "true" => Some(1),
        "off" | "no" | "false" => Some(0),
        text => text.parse::<i64>().ok(),
    };
    match number {
        Some(number) if NUMBERS.contains(&key) => json!(number),
        _ => json!(text),
    }
}

/// All options of a part, with the raw lines that are an option of their own.
fn options(part: &Part) -> Map<String, Value> {
    let mut found: Map<String, Value> =
        part.options.iter().map(|(key, text)| (key.clone(), value(key, text))).collect();
    if let Some(description) = &part.description {
        found.insert("description".into(), json!(description));
    }
    let variables: Vec<&str> =
        part.raw.iter().filter(|(key, _)| key == "lxc.environment.runtime").map(|(_, value)| value.as_str()).collect();
    if !variables.is_empty() {
        found.insert("env".into(), json!(variables.join("\0")));
    }
    found
}

/// What `GET config` answers. Without `current`, pending changes are merged in.
pub fn config(config: &GuestConfig, current: bool) -> Value {
    let mut found = options(&config.current);
    if !current {
        for key in config.pending.delete.keys() {
            found.remove(key);
        }
        found.extend(options(&config.pending.part));
    }
    finish(found, &config.current, &config.digest)
}

/// What `GET config` answers for a snapshot.
pub fn snapshot(part: &Part, digest: &str) -> Value {
    finish(options(part), part, digest)
}

fn finish(mut found: Map<String, Value>, part: &Part, digest: &str) -> Value {
    let raw: Vec<Value> = part
        .raw
        .iter()
        .filter(|(key, _)| key != "lxc.environment.runtime")
        .map(|(key, value)| json!([key, value]))
        .collect();
    if !raw.is_empty() {
        found.insert("lxc".into(), Value::Array(raw));
    }
    found.insert("digest".into(), json!(digest));
    Value::Object(found)
}

/// What `GET pending` answers. An unchanged option has `key` and `value` only: clients take anything more for a change.
pub fn pending(config: &GuestConfig) -> Value {
    let (mut current, pending) = (options(&config.current), options(&config.pending.part));
    current.insert("digest".into(), json!(config.digest));
    let keys: BTreeSet<&String> = current.keys().chain(pending.keys()).chain(config.pending.delete.keys()).collect();
    let row = |key: &String| {
        let mut row = Map::from_iter([("key".to_owned(), json!(key))]);
        if let Some(value) = current.get(key) {
            row.insert("value".into(), value.clone());
        }
        if let Some(value) = pending.get(key) {
            row.insert("pending".into(), value.clone());
        }
        if let Some(forced) = config.pending.delete.get(key) {
            row.insert("delete".into(), json!(if *forced { 2 } else { 1 }));
        }
        Value::Object(row)
    };
    Value::Array(keys.into_iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestKind;

    #[test]
    fn kinds_of_values_are_what_clients_want() {
        let text = "#hello\ncores: 2\ncpulimit: 1.5\nhostname: 100\nonboot: 1\nlxc.prlimit.nofile: 10\n\
                    lxc.environment.runtime: A=b\n\n[pve:pending]\ndelete: cores\nmemory: 1024\n";
        let parsed = GuestConfig::parse(GuestKind::Lxc, text);
        let merged = config(&parsed, false);
        assert_eq!(merged["cpulimit"], "1.5");
        assert_eq!(merged["hostname"], "100");
        assert_eq!(merged["onboot"], 1);
        assert_eq!(merged["memory"], 1024);
        assert_eq!(merged["cores"], Value::Null);
        assert_eq!(merged["description"], "hello\n");
        assert_eq!(merged["lxc"], json!([["lxc.prlimit.nofile", "10"]]));
        assert_eq!(merged["env"], "A=b");
        assert_eq!(config(&parsed, true)["cores"], 2);
        let rows = pending(&parsed);
        let find = |key: &str| rows.as_array().unwrap().iter().find(|row| row["key"] == key).unwrap().clone();
        assert_eq!(find("onboot"), json!({"key": "onboot", "value": 1}));
        assert_eq!(find("cores"), json!({"key": "cores", "value": 2, "delete": 1}));
        assert_eq!(find("memory"), json!({"key": "memory", "pending": 1024}));
    }
}
