//! The texts of refused parameters, which clients match on, and the types of accepted ones.

use super::*;
use crate::{Verb, method, methods};
use proptest::prelude::*;
use serde_json::json;

fn schemas(value: Value) -> BTreeMap<String, Schema> {
    serde_json::from_value(value).unwrap()
}

fn map(value: Value) -> Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

/// Verifies parameters against declarations; the result is the typed values or the `errors` map.
fn outcome(parameters: Value, params: Value) -> Result<Value, Value> {
    let parameters = schemas(parameters);
    let set = ParameterSet { parameters: &parameters, additional_properties: false, schema: None };
    match verify_set(&set, map(params)) {
        Ok(values) => Ok(Value::Object(values)),
        Err(errors) => Err(json!(errors.into_map())),
    }
}

fn of_method(verb: Verb, template: &str, params: Value) -> Result<Value, Value> {
    match verify(method(verb, template).unwrap(), map(params)) {
        Ok(values) => Ok(Value::Object(values)),
        Err(errors) => Err(json!(errors.into_map())),
    }
}

#[test]
fn each_check_has_its_text() {
    for (schema, value, text) in [
        (json!({"type": "integer"}), json!("x"), "type check ('integer') failed - got 'x'"),
        (json!({"type": "integer"}), json!(1.5), "type check ('integer') failed - got '1.5'"),
        (json!({"type": "integer"}), json!([1]), "type check ('integer') failed - got ARRAY"),
        (json!({"type": "integer"}), json!({}), "type check ('integer') failed - got HASH"),
        (json!({"type": "integer"}), json!(true), "type check ('integer') failed - got JSON::PP::Boolean"),
        (json!({"type": "number"}), json!("1,5"), "type check ('number') failed - got '1,5'"),
        (json!({"type": "boolean"}), json!("yes"), "type check ('boolean') failed - got 'yes'"),
        (json!({"type": "boolean"}), json!(""), "type check ('boolean') failed - got ''"),
        (json!({"type": "string"}), json!(["a"]), "type check ('string') failed - got ARRAY"),
        (json!({"type": "array"}), json!(""), "type check ('array') failed"),
        (json!({"type": "object"}), json!("x"), "type check ('object') failed"),
        (json!({"type": "null"}), json!("x"), "type check ('null') failed - value is not null"),
        (json!({"type": "string", "pattern": "[a-z]+"}), json!("A"), "value does not match the regex pattern"),
        (json!({"type": "string", "maxLength": 2}), json!("äöü"), "value may only be 2 characters long"),
        (json!({"type": "string", "minLength": 4}), json!("äöü"), "value must be at least 4 characters long"),
        (json!({"type": "integer", "maximum": 5}), json!("6"), "value must have a maximum value of 5"),
        (json!({"type": "number", "minimum": 0.5}), json!(0.25), "value must have a minimum value of 0.5"),
        (json!({"type": "string", "minimum": 5}), json!("4"), "value must have a minimum value of 5"),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "value 'c' does not have a value in the enumeration 'a, b'",
        ),
        (
            json!({"type": "integer", "format": "pve-vmid", "minimum": 100}),
            json!("99"),
            "invalid format - value does not look like a valid VM ID\n",
        ),
        (json!({"type": "string", "format": "nope"}), json!("x"), "invalid format - undefined format 'nope'\n"),
        (json!({"type": "string"}), Value::Null, "property is missing and it is not optional"),
    ] {
        assert_eq!(outcome(json!({ "p": schema }), json!({"p": value})), Err(json!({"p": text})), "{schema} {value}");
    }
}

#[test]
fn the_first_failure_of_a_value_ends_its_checks_but_all_values_are_checked() {
    let parameters = json!({
        "a": {"type": "string", "pattern": "x", "maxLength": 1, "enum": ["y"]},
        "b": {"type": "integer"},
        "c": {"type": "string", "optional": true, "requires": "d"},
        "d": {"type": "string", "optional": true},
    });
    assert_eq!(
        outcome(parameters, json!({"a": "long", "c": "1", "e": 1})),
        Err(json!({
            "a": "value does not match the regex pattern",
            "b": "property is missing and it is not optional",
            "d": "missing property required by 'c'",
            "e": UNKNOWN_NAME,
        }))
    );
}

const UNKNOWN_NAME: &str = "property is not defined in schema and the schema does not allow additional properties";

#[test]
fn nested_values_have_paths() {
    let parameters = json!({
        "list": {"type": "array", "items": {"type": "integer"}},
        "object": {"properties": {"inner": {"type": "integer"}}, "additionalProperties": false},
    });
    assert_eq!(
        outcome(parameters, json!({"list": ["1", "x"], "object": {"other": 1}})),
        Err(json!({
            "list[1]": "type check ('integer') failed - got 'x'",
            "object.inner": "property is missing and it is not optional",
            "object.other": UNKNOWN_NAME,
        }))
    );
}

#[test]
fn property_strings_fail_in_one_text() {
    let parameters = json!({"net0": {"type": "string", "format": "~pve-qm-net"}});
    assert_eq!(
        outcome(parameters.clone(), json!({"net0": "bridge=vmbr0,mtu=x"})),
        Err(json!({"net0": "invalid format - format error\n\
            net0.model: property is missing and it is not optional\n\
            net0.mtu: type check ('integer') failed - got 'x'\n"}))
    );
    assert_eq!(
        outcome(parameters.clone(), json!({"net0": "virtio=nope"})),
        Err(json!({"net0": "invalid format - format error\n\
            net0.macaddr: invalid format - value does not look like a valid unicast MAC address\n\n"}))
    );
    assert_eq!(
        outcome(parameters, json!({"net0": "virtio,colour=red"})),
        Err(json!({"net0": "invalid format - format error\n\
            net0.colour: property is not defined in schema and the schema does not allow additional properties\n"}))
    );
}

#[test]
fn aliases_are_renamed_and_both_names_are_an_error() {
    let parameters = json!({"new": {"type": "integer"}, "old": {"alias": "new"}});
    assert_eq!(outcome(parameters.clone(), json!({"old": "5"})), Ok(json!({"new": 5})));
    assert_eq!(
        outcome(parameters, json!({"old": "5", "new": "6"})),
        Err(json!({"old": "cannot set both 'old' and its alias target 'new'"}))
    );
}

#[test]
fn old_input_forms_are_straightened() {
    let parameters = json!({
        "list": {"type": "string", "format": "pve-vmid-list", "optional": true},
        "array": {"type": "array", "items": {"type": "integer"}, "optional": true},
    });
    for (params, expected) in [
        (json!({"list": ["100", 101]}), Ok(json!({"list": "100,101"}))),
        (json!({"list": "100 101;102"}), Ok(json!({"list": "100 101;102"}))),
        (json!({"array": "5"}), Ok(json!({"array": [5]}))),
        (json!({"array": "0"}), Err(json!({"array": "type check ('array') failed"}))),
        (json!({"list": null}), Ok(json!({}))),
    ] {
        assert_eq!(outcome(parameters.clone(), params.clone()), expected, "{params}");
    }
}

#[test]
fn accepted_values_have_their_types() {
    let parameters = json!({
        "i": {"type": "integer"}, "n": {"type": "number"}, "b": {"type": "boolean"}, "s": {"type": "string"},
        "net[n]": {"type": "string", "optional": true, "index": {"min": 0, "max": 3}},
    });
    for (params, expected) in [
        (
            json!({"i": "+5", "n": "1.50", "b": "1", "s": 100, "net3": "x"}),
            json!({"i": 5, "n": 1.5, "b": true, "s": "100", "net3": "x"}),
        ),
        (json!({"i": -7, "n": "2.0", "b": false, "s": ""}), json!({"i": -7, "n": 2, "b": false, "s": ""})),
        (
            json!({"i": "99999999999999999999", "n": "1e3", "b": 0, "s": "x"}),
            json!({"i": "99999999999999999999", "n": 1000, "b": false, "s": "x"}),
        ),
    ] {
        assert_eq!(outcome(parameters.clone(), params), Ok(expected));
    }
    let base = json!({"i": 1, "n": 1, "b": 1, "s": "", "net4": "x"});
    assert_eq!(outcome(parameters, base), Err(json!({"net4": UNKNOWN_NAME})));
}

#[test]
fn command_lines_may_be_looser() {
    let parameters = schemas(
        json!({"b": {"type": "boolean"}, "l": {"type": "string", "format": "pve-vmid-list", "optional": true}}),
    );
    let set = ParameterSet { parameters: &parameters, additional_properties: false, schema: None };
    for (params, expected) in [
        (json!({"b": "yes"}), json!({"b": true})),
        (json!({"b": ""}), json!({"b": true})),
        (json!({"b": "Off", "l": ["100", "101"]}), json!({"b": false, "l": "100,101"})),
        (json!({"b": ["on"]}), json!({"b": true})),
    ] {
        let found = verify_set_cli(&set, map(params.clone())).map(Value::Object);
        assert_eq!(found, Ok(expected), "{params}");
    }
    let error = verify_set_cli(&set, map(json!({"b": "perhaps"}))).unwrap_err();
    assert_eq!(error.to_string(), "400 unable to parse boolean option\n");
    let error = verify_set_cli(&set, Map::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "400 Parameter verification failed.\nb: property is missing and it is not optional\n"
    );
}

#[test]
fn rules_are_checked_by_their_type() {
    const PATH: &str = "/cluster/ha/rules";
    let good = json!({"rule": "r1", "type": "node-affinity", "nodes": "a:1", "resources": "vm:100", "strict": "1"});
    assert_eq!(
        of_method(Verb::Post, PATH, good),
        Ok(json!({"rule": "r1", "type": "node-affinity", "nodes": "a:1", "resources": "vm:100", "strict": true}))
    );
    assert_eq!(
        of_method(Verb::Post, PATH, json!({"rule": "r1", "type": "resource-affinity", "nodes": "a"})),
        Err(json!({
            "oneOf[resource-affinity].affinity": "property is missing and it is not optional",
            "oneOf[resource-affinity].resources": "property is missing and it is not optional",
            "nodes": UNKNOWN_NAME,
        }))
    );
    assert_eq!(
        of_method(Verb::Post, PATH, json!({"rule": "r1", "type": "x", "nodes": "a"})),
        Err(json!({
            "type": "value 'x' does not have a value in the enumeration 'node-affinity, resource-affinity'",
            "nodes": UNKNOWN_NAME,
        }))
    );
    assert_eq!(
        of_method(Verb::Post, PATH, json!({"rule": "r1"})),
        Err(json!({"type": "property is missing and it is not optional"}))
    );
}

#[test]
fn properties_of_another_type_may_be_absent() {
    let parameters = json!({
        "type": {"type": "string"},
        "a": {"type": "string", "type-property": "type", "instance-types": ["x"]},
        "b": {"type": "string", "type-property": "type", "oneOf": [
            {"type": "string", "instance-types": ["x"], "enum": ["1"]},
            {"type": "string", "instance-types": ["y"], "optional": true},
        ]},
    });
    for (params, expected) in [
        (json!({"type": "y"}), Ok(json!({"type": "y"}))),
        (json!({"type": "z", "b": "1"}), Err(json!({"b": UNKNOWN_NAME}))),
        (
            json!({"type": "x", "b": "2"}),
            Err(json!({
                "a": "property is missing and it is not optional",
                "b": "value '2' does not have a value in the enumeration '1'",
            })),
        ),
    ] {
        assert_eq!(outcome(parameters.clone(), params.clone()), expected, "{params}");
    }
}

#[test]
fn real_methods_take_real_calls() {
    let create = json!({
        "node": "a", "vmid": "100", "memory": "512", "cores": 2, "net0": "virtio,bridge=vmbr0,firewall=1",
        "scsi0": "local:8", "scsihw": "virtio-scsi-pci", "onboot": 1, "cpulimit": "1.5",
        "tags": "a;b", "boot": "order=scsi0;net0",
        "agent": "1,fstrim_cloned_disks=1", "ipconfig0": "ip=dhcp", "startup": "order=1,up=5",
    });
    let values = of_method(Verb::Post, "/nodes/{node}/qemu", create).unwrap();
    assert_eq!((&values["vmid"], &values["onboot"], &values["cpulimit"]), (&json!(100), &json!(true), &json!(1.5)));
    assert_eq!(
        of_method(Verb::Get, "/nodes/{node}/qemu/{vmid}/config", json!({"node": "a", "vmid": "5", "currant": 1})),
        Err(json!({
            "currant": UNKNOWN_NAME,
            "vmid": "invalid format - value does not look like a valid VM ID\n",
        }))
    );
}

/// Arbitrary JSON, often with texts that come close to being valid.
fn arbitrary_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(Value::String),
        "[a-z0-9:/=,;.~%@+* -]{0,40}".prop_map(Value::String),
        "(virtio|local|a|100)[=:,](1|b|02:00:00:00:00:0a|[0-9]{1,30}[KMGT]?)(,[a-z]{1,6}=[0-9a-z]{1,3}){0,3}"
            .prop_map(Value::String),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map("[a-z]{1,8}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever arrives for whatever parameter, the answer is values or errors.
    #[test]
    fn no_value_brings_a_method_down(values in prop::collection::vec(arbitrary_json(), 16)) {
        for (verb, template) in methods() {
            let method = method(verb, template).expect("listed");
            let params: Map<String, Value> = method
                .parameters
                .keys()
                .zip(values.iter().cycle())
                .map(|(name, value)| (name.replace("[n]", "0"), value.clone()))
                .collect();
            let found = verify(method, params.clone());
            let cli = verify_cli(method, params);
            prop_assert!(found.is_ok() || !found.unwrap_err().is_empty());
            prop_assert!(cli.is_ok() || !cli.unwrap_err().headline().is_empty());
        }
    }
}

/// What is accepted is accepted again, and does not change any more.
#[test]
fn typed_values_verify_again() {
    let create = json!({
        "node": "a", "vmid": "100", "memory": "512", "onboot": "1", "cpulimit": "0.5", "description": "5",
        "delete": ["a1", "b2"], "revert": "x1",
    });
    let method = method(Verb::Put, "/nodes/{node}/qemu/{vmid}/config").unwrap();
    let once = verify(method, map(create)).unwrap();
    assert_eq!(verify(method, once.clone()), Ok(once));
}
