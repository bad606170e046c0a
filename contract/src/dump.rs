//! The table of methods as one JSON value, in the shape of the published facts, and a comparison with such a value.
//! Built from the typed records, so that what a type cannot hold shows up as a difference.

use crate::method::{self, Method};
use serde_json::{Map, Value, json};

/// All methods by path and verb, under `paths`, without what is an addition of ours.
pub fn dump() -> Value {
    let mut paths = Map::new();
    for (verb, template) in method::methods() {
        let method = method::method(verb, template).expect("listed methods are found");
        let entry = paths.entry(template).or_insert_with(|| Value::Object(Map::new()));
        entry[verb.name()] = dump_method(method);
    }
    json!({ "paths": paths })
}

fn dump_method(method: &Method) -> Value {
    let parameters: Map<String, Value> = method
        .parameters
        .iter()
        .filter(|(_, schema)| !schema.addition)
        .map(|(name, schema)| (name.clone(), schema.dump()))
        .collect();
    let mut value = json!({
        "name": if method.name.is_empty() { Value::Null } else { json!(method.name) },
        "protected": method.protected,
        "allowtoken": method.allowtoken,
        "permissions": method.permissions,
        "additionalProperties": method.additional_properties,
        "parameters": parameters,
        "returns": method.returns.dump(),
    });
    if let Some(name) = &method.proxyto {
        value["proxyto"] = json!(name);
    }
    if let Some(schema) = &method.parameters_schema {
        value["parameters_schema"] = schema.dump();
    }
    let flags = [
        ("proxyto_callback", method.proxyto_callback),
        ("download", method.download),
        ("expose_credentials", method.expose_credentials),
    ];
    for (name, _) in flags.into_iter().filter(|(_, set)| *set) {
        value[name] = json!(true);
    }
    value
}

/// The differences between two values, one line each, by path of members.
pub fn compare(expected: &Value, found: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    walk(expected, found, "", &mut differences);
    differences
}

fn walk(expected: &Value, found: &Value, at: &str, differences: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected {
                let at = format!("{at}.{key}");
                match found.get(key) {
                    Some(other) => walk(value, other, &at, differences),
                    None => differences.push(format!("{at}: missing")),
                }
            }
            for key in found.keys().filter(|key| !expected.contains_key(*key)) {
                differences.push(format!("{at}.{key}: not expected"));
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (index, (value, other)) in expected.iter().zip(found).enumerate() {
                walk(value, other, &format!("{at}[{index}]"), differences);
            }
        }
        _ if expected != found => differences.push(format!("{at}: {found} in place of {expected}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_in_both_directions() {
        let expected = json!({"a": 1, "b": [1, {"c": 2}], "d": 0});
        let found = json!({"a": 1, "b": [1, {"c": 3}], "e": 0});
        assert_eq!(compare(&expected, &found), [".b[1].c: 3 in place of 2", ".d: missing", ".e: not expected"]);
        assert!(compare(&expected, &expected).is_empty());
    }

    #[test]
    fn the_dump_reads_back_as_it_was_written() {
        let dump = dump();
        let paths = dump["paths"].as_object().expect("an object");
        assert_eq!(paths.len(), 450);
        assert_eq!(paths.values().filter_map(Value::as_object).map(Map::len).sum::<usize>(), 681);
        assert_eq!(paths["/version"]["GET"]["permissions"], json!({"user": "all"}));
    }
}
