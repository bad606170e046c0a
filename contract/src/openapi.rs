//! The interface as an OpenAPI 3.1 document, for clients that generate code and for people who browse.
//! Owns the translation; the table stays the source.

use crate::format;
use crate::method::{self, Method, Verb};
use crate::permission::Permission;
use crate::property_string;
use crate::schema::{AdditionalProperties, Kind, Schema};
use crate::verify::{self, ParamErrors};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The document.
pub fn document() -> Value {
    let mut paths = Map::new();
    let mut tags = BTreeSet::new();
    let mut names = BTreeSet::new();
    for (verb, template) in method::methods() {
        let method = method::method(verb, template).expect("listed methods are found");
        tags.insert(tag(template));
        let entry = paths.entry(template).or_insert_with(|| Value::Object(Map::new()));
        entry[verb.name().to_lowercase()] = operation(method, &mut names);
    }
    let tags: Vec<Value> = tags.into_iter().map(|name| json!({ "name": name })).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ferrovisor, interface of Proxmox VE 9.2",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{
            "url": "https://{host}:8006/api2/json",
            "variables": {"host": {"default": "localhost"}},
        }],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": property_string_schemas(),
            "responses": responses(),
            "securitySchemes": {
                "ticket": {"type": "apiKey", "in": "cookie", "name": "PVEAuthCookie"},
                "csrf": {"type": "apiKey", "in": "header", "name": "CSRFPreventionToken"},
                "token": {"type": "apiKey", "in": "header", "name": "Authorization"},
            },
        },
    })
}

fn tag(template: &str) -> &str {
    template.split('/').nth(1).filter(|part| !part.is_empty()).unwrap_or("root")
}

/// Answers that all methods share.
fn responses() -> Value {
    let failure = |description: &str| {
        json!({
            "description": description,
            "content": {"application/json": {"schema": {
                "type": "object",
                "properties": {
                    "data": {"type": "null"},
                    "message": {"type": "string"},
                    "errors": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            }}},
        })
    };
    json!({
        "BadParameters": failure("A parameter is wrong; `errors` says which."),
        "Unauthorized": {"description": "No ticket or token, or one that is not valid."},
        "Forbidden": failure("The caller lacks a privilege."),
        "Failed": failure("Anything else went wrong; the reason phrase and `message` say what."),
        "NotImplemented": failure("Known to the interface, not built."),
    })
}

fn operation(method: &Method, names: &mut BTreeSet<String>) -> Value {
    let mut operation = json!({
        "operationId": operation_id(method, names),
        "tags": [tag(method.template)],
        "responses": {
            "200": {
                "description": "Done.",
                "content": {"application/json": {"schema": {
                    "type": "object",
                    "properties": {"data": schema(&method.returns)},
                    "required": ["data"],
                }}},
            },
            "400": {"$ref": "#/components/responses/BadParameters"},
            "401": {"$ref": "#/components/responses/Unauthorized"},
            "403": {"$ref": "#/components/responses/Forbidden"},
            "500": {"$ref": "#/components/responses/Failed"},
            "501": {"$ref": "#/components/responses/NotImplemented"},
        },
        "security": security(method),
        "x-permissions": method.permissions,
        "x-protected": method.protected,
    });
    if let Some(doc) = &method.doc {
        operation["summary"] = json!(doc);
    }
    if let Some(name) = &method.proxyto {
        operation["x-proxyto"] = json!(name);
    }
    let in_path: BTreeSet<&str> =
        method.template.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
    let in_query = matches!(method.verb, Verb::Get | Verb::Delete);
    let mut parameters: Vec<Value> = in_path.iter().map(|name| path_parameter(method, name)).collect();
    let others = || expanded(method).filter(|(name, _)| !in_path.contains(name.as_str()));
    if in_query {
        parameters.extend(others().map(|(name, value)| {
            json!({
                "name": name,
                "in": "query",
                "required": !value.optional,
                "schema": parameter_schema(method, &name, value),
            })
        }));
    } else if others().next().is_some() {
        operation["requestBody"] = request_body(method, others());
    }
    if !parameters.is_empty() {
        operation["parameters"] = Value::Array(parameters);
    }
    operation
}

/// The handler's name where it is unique, else with verb and path.
fn operation_id(method: &Method, names: &mut BTreeSet<String>) -> String {
    let path = method.template.replace(['{', '}'], "").replace('/', "_");
    let name = format!("{}{path}", method.verb.name().to_lowercase());
    debug_assert!(names.insert(name.clone()), "{name} is used twice");
    name
}

/// Parameters with indexed options written out.
fn expanded(method: &Method) -> impl Iterator<Item = (String, &Schema)> {
    method.parameters.iter().flat_map(|(name, schema)| -> Vec<(String, &Schema)> {
        match schema.index {
            Some(range) => {
                let stem = name.trim_end_matches("[n]");
                (range.min..=range.max).map(|number| (format!("{stem}{number}"), schema)).collect()
            }
            None => vec![(name.clone(), schema)],
        }
    })
}

fn path_parameter(method: &Method, name: &str) -> Value {
    let value = method.parameter(name).map_or(json!({"type": "string"}), |value| parameter_schema(method, name, value));
    json!({"name": name, "in": "path", "required": true, "schema": value})
}

fn parameter_schema(method: &Method, name: &str, value: &Schema) -> Value {
    let mut translated = schema(value);
    if let Some(doc) = method.parameter_doc(name) {
        translated["description"] = json!(doc);
    }
    translated
}

fn request_body<'a>(method: &'a Method, parameters: impl Iterator<Item = (String, &'a Schema)>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for (name, value) in parameters {
        if !value.optional && value.type_property.is_none() {
            required.push(json!(name));
        }
        properties.insert(name.clone(), parameter_schema(method, &name, value));
    }
    let mut body = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": method.additional_properties,
    });
    let any_required = !required.is_empty();
    if any_required {
        body["required"] = Value::Array(required);
    }
    json!({
        "required": any_required,
        "content": {
            "application/json": {"schema": body},
            "application/x-www-form-urlencoded": {"schema": body},
        },
    })
}

fn security(method: &Method) -> Value {
    if method.permissions == Some(Permission::World) {
        return json!([]);
    }
    let mut ways = vec![match method.verb {
        Verb::Get => json!({"ticket": []}),
        _ => json!({"ticket": [], "csrf": []}),
    }];
    if method.allowtoken {
        ways.push(json!({"token": []}));
    }
    Value::Array(ways)
}

/// Translates a schema. Patterns are written as ECMAScript has them; what it cannot say is left out.
fn schema(value: &Schema) -> Value {
    let mut out = Map::new();
    if let Some(kind) = value.kind.filter(|kind| *kind != Kind::Any) {
        out.insert("type".into(), json!(kind.name()));
    }
    let mut copy = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(key.into(), value);
        }
    };
    copy("description", value.doc.as_ref().map(|doc| json!(doc)));
    let (default, odd_default) = defaults(value);
    copy("default", default);
    copy("x-default", odd_default);
    let words = |words: &Vec<String>| words.iter().chain(&value.added_enumeration).map(|word| json!(word)).collect();
    copy("enum", value.enumeration.as_ref().map(words));
    copy("minimum", value.minimum.as_ref().map(|limit| json!(limit)));
    copy("maximum", value.maximum.as_ref().map(|limit| json!(limit)));
    copy("minLength", value.min_length.map(|limit| json!(limit)));
    copy("maxLength", value.max_length.map(|limit| json!(limit)));
    copy("pattern", value.pattern.as_ref().map(|pattern| json!(ecma_pattern(pattern))));
    copy("items", value.items.as_ref().map(|items| schema(items)));
    copy("format", value.format.as_ref().map(|name| json!(name.trim_start_matches('~'))));
    copy("x-property-string", value.format.as_deref().and_then(property_string_reference));
    copy("x-requires", value.requires.as_ref().map(|name| json!(name)));
    copy("x-instance-types", value.instance_types.as_ref().map(|types| json!(types)));
    if value.kind == Some(Kind::Array) && value.items.is_none() && value.one_of.is_none() {
        copy("items", Some(json!({})));
    }
    if let Some(properties) = &value.properties {
        let required: Vec<&String> =
            properties.iter().filter(|(_, member)| !member.optional).map(|(name, _)| name).collect();
        copy("required", (!required.is_empty()).then(|| json!(required)));
        let members: Map<String, Value> =
            properties.iter().map(|(name, member)| (name.clone(), schema(member))).collect();
        copy("properties", Some(Value::Object(members)));
    }
    copy("additionalProperties", value.additional_properties.as_ref().map(additional));
    copy("oneOf", value.one_of.as_ref().map(|parts| parts.iter().map(schema).collect()));
    copy("allOf", value.all_of.as_ref().map(|parts| parts.iter().map(schema).collect()));
    Value::Object(out)
}

/// The default in the type of the value, or as it is if the value could not be set to it.
fn defaults(value: &Schema) -> (Option<Value>, Option<Value>) {
    let Some(default) = &value.default else {
        return (None, None);
    };
    let mut errors = ParamErrors::new();
    verify::check(default, value, "", &mut errors);
    if errors.is_empty() {
        (Some(verify::typed_value(value, default.clone())), None)
    } else {
        (None, Some(default.clone()))
    }
}

fn additional(rule: &AdditionalProperties) -> Value {
    match rule {
        AdditionalProperties::Allowed(allowed) => json!(allowed),
        AdditionalProperties::Checked(inner) => schema(inner),
    }
}

/// Anchored at both ends; flag groups and possessive groups do not exist there.
fn ecma_pattern(pattern: &str) -> String {
    let pattern = pattern.replace("(?>", "(?:").replace("{,", "{0,").replace(r"\0", r"\x00").replace("(?i:", "(?:");
    format!("^(?:{})$", pattern.trim_start_matches("(?i)"))
}

fn property_string_reference(format: &str) -> Option<Value> {
    property_string::format(format)?;
    Some(json!({"$ref": format!("#/components/schemas/{}", component(format))}))
}

fn component(format: &str) -> String {
    format.trim_start_matches('~').to_owned()
}

/// What the keys of property strings hold, as objects.
fn property_string_schemas() -> Value {
    let mut all = Map::new();
    for name in format::property_string_formats() {
        let format = property_string::format(name).expect("listed formats are found");
        let properties: Map<String, Value> =
            format.keys.iter().map(|(key, value)| (key.clone(), schema(value))).collect();
        let required: Vec<&String> =
            format.keys.iter().filter(|(_, value)| !value.optional).map(|(key, _)| key).collect();
        let mut object = json!({"type": "object", "properties": properties, "additionalProperties": false});
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        if let Some(key) = &format.default_key {
            object["x-default-key"] = json!(key);
        }
        let before = all.insert(component(name), object);
        debug_assert!(before.is_none(), "{name}: two formats share a component name");
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_is_an_operation() {
        let document = document();
        let paths = document["paths"].as_object().expect("an object");
        assert_eq!(paths.values().filter_map(Value::as_object).map(Map::len).sum::<usize>(), 681);
        let create = &paths["/nodes/{node}/qemu"]["post"];
        let body = &create["requestBody"]["content"]["application/json"]["schema"]["properties"];
        assert!(body["net31"].is_object() && body["net32"].is_null(), "indexed options are written out");
        assert_eq!(paths["/access/ticket"]["post"]["security"], json!([]));
    }
}
