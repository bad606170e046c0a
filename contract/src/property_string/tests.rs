//! Reading and writing of property strings: real texts, the words of refusals, and round trips of every format.

use super::*;
use crate::format::property_string_formats;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::string::string_regex;
use proptest::test_runner::TestRunner;
use serde_json::json;

/// A text and what is written back for it.
#[test]
fn texts_are_written_in_canonical_order() {
    for (format, text, canonical) in [
        (
            "~pve-qm-net",
            "bridge=vmbr0,virtio=02:00:00:00:00:01,firewall=yes",
            "virtio=02:00:00:00:00:01,bridge=vmbr0,firewall=1",
        ),
        ("~pve-qm-net", "model=virtio,macaddr=02:00:00:00:00:01", "virtio=02:00:00:00:00:01"),
        ("~pve-qm-net", "bridge=vmbr0,virtio", "virtio,bridge=vmbr0"),
        ("~pve-qm-scsi", "size=32768M,local:vm-100-disk-0,ssd=on", "local:vm-100-disk-0,size=32G,ssd=1"),
        ("~pve-qm-scsi", "volume=local:1,bps_rd_length=5", "local:1,bps_rd_max_length=5"),
        ("~pve-ct-rootfs", "volume=local:8,size=8G", "local:8,size=8G"),
        ("pve-lxc-network", "name=eth0,bridge=vmbr0,ip=dhcp", "name=eth0,bridge=vmbr0,ip=dhcp"),
        ("pve-qm-boot", "order=scsi0;net0", "order=scsi0;net0"),
        ("~pve-qm-agent", "0,freeze-fs-on-backup=0", "0,freeze-fs=0"),
        ("prune-backups", "keep-last=3,keep-daily=7", "keep-daily=7,keep-last=3"),
        ("prune-backups", "keep-last=0", "keep-all=1"),
        ("pve-vm-cpu-conf", "host,flags=+aes;-pcid", "host,flags=+aes;-pcid"),
        ("pve-qm-ide", ",,file=none,media=cdrom,", "none,media=cdrom"),
    ] {
        let values = parse(format, text).unwrap_or_else(|errors| panic!("{format} {text}: {errors}"));
        assert_eq!(print(format, &values).as_deref(), Ok(canonical), "{format} {text}");
    }
}

#[test]
fn values_have_types() {
    let values = parse("~pve-qm-net", "virtio=02:00:00:00:00:01,bridge=vmbr0,firewall=on,mtu=1500,rate=1.5").unwrap();
    assert_eq!(
        Value::Object(values),
        json!({"model": "virtio", "macaddr": "02:00:00:00:00:01", "bridge": "vmbr0",
            "firewall": true, "mtu": 1500, "rate": 1.5})
    );
}

#[test]
fn refusals_have_their_words() {
    for (format, text, path, words) in [
        ("~pve-qm-net", "virtio,bridge=a,bridge=b", "_root", "duplicate key in comma-separated list property: bridge"),
        ("~pve-qm-net", "virtio,e1000", "_root", "duplicate key in comma-separated list property: model"),
        ("~pve-qm-net", "model=virtio,virtio=02:00:00:00:00:01", "_root", "key alias 'model' is already defined"),
        (
            "~pve-qm-net",
            "macaddr=02:00:00:00:00:01,virtio=02:00:00:00:00:02",
            "_root",
            "key 'macaddr' is already defined (via alias)",
        ),
        ("~pve-qm-scsi", "file=a:b,volume=a:b", "_root", "key 'file' is already defined (via alias)"),
        (
            "~pve-qm-net",
            "virtio,x=1",
            "x",
            "property is not defined in schema and the schema does not allow additional properties",
        ),
        ("~pve-qm-net", "virtio,bridge=", "_root", "missing key in comma-separated list property"),
        ("pve-qm-smbios1", "plain", "_root", "value without key, but schema does not define a default key"),
        ("~pve-qm-net", "virtio,mtu=99999", "mtu", "value must have a maximum value of 65520"),
        ("prune-backups", "keep-all=1,keep-last=1", "_root", "keep-all cannot be set together with other options."),
        ("backup-fleecing", "1", "_root", "'storage' parameter is required when 'enabled' is set"),
        ("pve-cpu-conf", "hidden=1", "_root", "CPU is missing cputype"),
        ("pve-vm-cpu-conf", "nope", "_root", "Built-in cputype 'nope' is not defined (missing 'custom-' prefix?)"),
        (
            "pve-vm-cpu-conf",
            "host,reported-model=kvm64",
            "_root",
            "Property 'reported-model' not allowed in VM-specific CPU config.",
        ),
        ("nope", "", "_root", "unknown format: nope"),
    ] {
        let errors = parse(format, text).expect_err(text);
        assert_eq!(errors.get(path), Some(words), "{format} {text}: {errors}");
    }
    let flags = parse("pve-vm-cpu-conf", "host,flags=+x").unwrap_err();
    assert!(
        flags.get("_root").is_some_and(|text| text.starts_with("VM-specific CPU flags must be a subset of: aes, "))
    );
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let values = |value: Value| serde_json::from_value::<Map<String, Value>>(value).unwrap();
    assert_eq!(
        print("proxmox-remote", &values(json!({"host": "a,b", "apitoken": "x"}))),
        Err("illegal value with commas for host".to_owned())
    );
    assert_eq!(print("pve-qm-smbios1", &values(json!({"colour": "red"}))), Err("invalid key 'colour'".to_owned()));
    assert!(print("~pve-qm-net", &values(json!({"bridge": "vmbr0"}))).is_err(), "a required key is missing");
    assert_eq!(
        print("~pve-ct-rootfs", &values(json!({"volume": "a:b", "size": 1 << 30}))).as_deref(),
        Ok("a:b,size=1G")
    );
}

/// A text that passes each simple format which keys of property strings use.
fn sample_of(format: &str) -> &'static str {
    match format {
        "CIDR" | "CIDRv4" | "FullRangeCIDR" | "pve-ipv4-config" => "10.0.0.2/24",
        "CIDRv6" | "pve-ipv6-config" => "fd00::2/64",
        "address" | "ipv4" => "10.0.0.1",
        "ipv6" => "fd00::1",
        "disk-size" => "1536M",
        "mac-addr" => "02:00:00:00:00:0A",
        "pve-acme-alias" | "pve-acme-domain" => "a.example.org",
        "pve-acme-domain-list" => "a.example;b.example",
        "pve-bridge-id" => "vmbr0",
        "pve-configid" | "pve-sdn-route-map-id" => "name-1",
        "pve-iface" => "eth0",
        "pve-lxc-dev-string" => "/dev/ttyS0",
        "pve-lxc-mp-string" => "/srv/data",
        "pve-node" => "node1",
        "pve-phys-bits" => "host",
        "pve-qm-bootdev-list" => "scsi0;net0",
        "pve-sdn-wireguard-iface-name" => "wg0",
        "pve-storage-id" => "local-lvm",
        "pve-storage-path-in-property-string" => "/mnt/shared",
        "pve-volume-id" | "pve-volume-id-or-absolute-path" | "pve-volume-id-or-qm-path" => {
            "local:100/vm-100-disk-0.qcow2"
        }
        "urlencoded" => "a%20b",
        other => panic!("no sample for {other}"),
    }
}

/// Texts for a key.
fn value_strategy(format: &str, key: &str, schema: &Schema) -> BoxedStrategy<String> {
    if format.ends_with("cpu-conf") && key == "cputype" {
        return Just("host".to_owned()).boxed();
    }
    if let Some(words) = &schema.enumeration {
        return prop::sample::select(words.clone()).boxed();
    }
    if let Some(name) = &schema.format {
        return Just(sample_of(name).to_owned()).boxed();
    }
    let bound = |limit: &Option<serde_json::Number>, other: i64| {
        limit.as_ref().and_then(serde_json::Number::as_f64).map_or(other, |limit| limit as i64)
    };
    let lowest = bound(&schema.minimum, 0);
    let highest = bound(&schema.maximum, lowest + 100_000);
    match schema.kind {
        Some(Kind::Boolean) => {
            prop::sample::select(vec!["0", "1", "yes", "Off", "TRUE"]).prop_map(str::to_owned).boxed()
        }
        Some(Kind::Integer) => (lowest..=highest).prop_map(|number| number.to_string()).boxed(),
        Some(Kind::Number) => (lowest..highest.max(lowest + 1), 0..100u8)
            .prop_map(|(whole, part)| if whole >= 0 { format!("{whole}.{part:02}") } else { whole.to_string() })
            .boxed(),
        _ => text_strategy(schema),
    }
}

fn text_strategy(schema: &Schema) -> BoxedStrategy<String> {
    let Some(pattern) = &schema.pattern else {
        return "[a-zA-Z0-9:/._-]{1,12}".boxed();
    };
    let unanchored = pattern.replace(['^', '$'], "").replace("[/\\.:]", "[^/\\.:]").replace("[,;]", "[^,;]");
    let unanchored =
        unanchored.replace("{,", "{0,").replace(r"\d", "[0-9]").replace(r"\s", " ").replace(r"\w", "[a-z]");
    string_regex(&unanchored).unwrap_or_else(|error| panic!("{pattern}: {error}")).boxed()
}

/// Key and text pairs of a format, required keys always.
fn parts_strategy(name: &'static str) -> BoxedStrategy<Vec<(String, String)>> {
    let found = format(name).expect("listed");
    let mut parts: BoxedStrategy<Vec<(String, String)>> = Just(Vec::new()).boxed();
    for (key, schema) in &found.keys {
        let always = !schema.optional || matches!(key.as_str(), "cputype");
        if name == "pve-vm-cpu-conf" && matches!(key.as_str(), "flags" | "reported-model") {
            continue;
        }
        let value = value_strategy(name, key, schema);
        let value = if always { value.prop_map(Some).boxed() } else { prop::option::weighted(0.3, value).boxed() };
        let key = key.clone();
        parts = (parts, value)
            .prop_map(move |(mut parts, value)| {
                parts.extend(value.map(|value| (key.clone(), value)));
                parts
            })
            .boxed();
    }
    parts.prop_shuffle().boxed()
}

/// Failing seeds are not kept: the strategies follow the tables.
fn config() -> ProptestConfig {
    ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() }
}

/// What is read, written and read again stays the same, for texts made from the schema of every format.
#[test]
fn every_format_round_trips() {
    let mut runner = TestRunner::new(config());
    for name in property_string_formats() {
        let mut accepted = 0;
        let strategy = parts_strategy(name);
        let result = runner.run(&strategy, |parts| {
            let clean = |value: &str| !value.is_empty() && !value.contains([',', '\n']) && value.trim() == value;
            prop_assume!(parts.iter().all(|(_, value)| clean(value)));
            let text = parts.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
            let values = match parse(name, &text) {
                Ok(values) => values,
                // Keys that need others, lengths and the rules of four formats refuse some of what the schema allows.
                Err(_) => return Ok(()),
            };
            let written =
                print(name, &values).map_err(|reason| TestCaseError::fail(format!("{name} {text}: {reason}")))?;
            let again = parse(name, &written).map_err(|e| TestCaseError::fail(format!("{name} {written}: {e}")))?;
            prop_assert_eq!(print(name, &again), Ok(written));
            let sizes_apart = |values: Map<String, Value>| -> Map<String, Value> {
                let keys = &format(name).expect("listed").keys;
                values.into_iter().filter(|(key, _)| keys[key].format.as_deref() != Some("disk-size")).collect()
            };
            prop_assert_eq!(sizes_apart(again), sizes_apart(values));
            Ok(())
        });
        if let Err(error) = result {
            panic!("{name}: {error}");
        }
        // Enough of the generated texts must be good ones, or the test above says nothing. Always the same texts, so
        // that this is a statement about the strategies and not about luck.
        let mut runner = TestRunner::deterministic();
        for _ in 0..40 {
            let parts = strategy.new_tree(&mut runner).expect("strategies make values").current();
            let text = parts.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
            accepted += usize::from(parse(name, &text).is_ok());
        }
        assert!(accepted >= 8, "{name}: only {accepted} of 40 generated texts are good");
    }
}

proptest! {
    #[test]
    fn no_text_brings_a_parser_down(text in "\\PC{0,30}|([a-z0-9]{1,8}(=[a-z0-9:;.-]{0,8})?,?){0,5}") {
        for name in property_string_formats() {
            if let Ok(values) = parse(name, &text) {
                let _ = print(name, &values);
            }
        }
    }
}
