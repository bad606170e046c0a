//! Property strings: several named values in one text, such as `virtio=02:00:00:00:00:01,bridge=vmbr0`
//! (pve-common PVE/JSONSchema.pm `parse_property_string`, `print_property_string`).
//! Owns reading, the canonical order of writing, and the rules that some formats have beyond their schema.

mod rules;

use crate::format::size;
use crate::schema::{Kind, Schema};
use crate::table::{self, PROPERTY_STRINGS};
use crate::verify::{self, ParamErrors, parse_boolean, text_of};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// A property string format.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PropertyStringFormat {
    /// The format has this name in the interface; otherwise it is written inline there and named by us.
    pub registered: bool,
    /// The key that may be left out.
    #[serde(default)]
    pub default_key: Option<String>,
    /// Other names of keys.
    #[serde(default)]
    pub aliases: BTreeMap<String, String>,
    /// Keys that are values themselves, as in `virtio=MAC`.
    #[serde(default)]
    pub key_alias_groups: BTreeMap<String, KeyAliasGroup>,
    /// The keys.
    pub keys: BTreeMap<String, Schema>,
    /// What is checked beyond the schema, in words.
    #[serde(default)]
    pub extra_rule: Option<String>,
    /// Properties that use it.
    #[serde(default)]
    pub property_names: Vec<String>,
    /// Number of methods that use it.
    pub used_in_methods: u32,
}

/// Keys that stand for a pair: the key itself is one value, what it is set to another.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyAliasGroup {
    /// The key that takes the name.
    pub key_stored_in: String,
    /// The key that takes the value.
    pub value_stored_in: String,
    /// The names.
    pub keys: Vec<String>,
}

/// Looks up a format by name.
pub fn format(name: &str) -> Option<&'static PropertyStringFormat> {
    static CACHE: [OnceLock<PropertyStringFormat>; PROPERTY_STRINGS.len()] =
        [const { OnceLock::new() }; PROPERTY_STRINGS.len()];
    let row = table::position(&PROPERTY_STRINGS, name)?;
    Some(CACHE[row].get_or_init(|| {
        let (name, start, end) = PROPERTY_STRINGS[row];
        table::decode(name, start, end)
    }))
}

/// Why a text is no property string of a format.
enum Failure {
    /// The text as a whole cannot be read.
    Text(String),
    /// Keys are wrong.
    Keys(ParamErrors),
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure::Text(text)
    }
}

impl From<Failure> for ParamErrors {
    fn from(failure: Failure) -> ParamErrors {
        match failure {
            Failure::Text(text) => ParamErrors::one("", text),
            Failure::Keys(errors) => errors,
        }
    }
}

/// Reads a property string into typed values; aliases are resolved, sizes stay text.
pub fn parse(format_id: &str, text: &str) -> Result<Map<String, Value>, ParamErrors> {
    let format = format(format_id).ok_or_else(|| ParamErrors::one("", format!("unknown format: {format_id}")))?;
    Ok(verify::typed(&format.keys, read(format, format_id, text, "")?))
}

/// As [`parse`], but values stay the texts that they are, so that a number is printed as it was written.
pub fn texts(format_id: &str, text: &str) -> Result<Map<String, Value>, ParamErrors> {
    let format = format(format_id).ok_or_else(|| ParamErrors::one("", format!("unknown format: {format_id}")))?;
    Ok(read(format, format_id, text, "")?)
}

/// Checks a property string at a path; the reason ends with a line break.
pub(crate) fn check_at(format: &PropertyStringFormat, format_id: &str, text: &str, path: &str) -> Result<(), String> {
    match read(format, format_id, text, path) {
        Ok(_) => Ok(()),
        Err(Failure::Text(text)) => Err(format!("{text}\n")),
        Err(Failure::Keys(errors)) => Err(errors.as_format_error()),
    }
}

/// Reads and checks; values are still texts, booleans apart.
fn read(format: &PropertyStringFormat, format_id: &str, text: &str, path: &str) -> Result<Map<String, Value>, Failure> {
    let values = split(format, text)?;
    let mut errors = ParamErrors::new();
    let additional = crate::schema::AdditionalProperties::Allowed(false);
    verify::check_object(&values, &format.keys, Some(&additional), path, &mut errors, None);
    if !errors.is_empty() {
        return Err(Failure::Keys(errors));
    }
    Ok(rules::apply(format_id, format, values)?)
}

/// Takes the text apart and resolves aliases.
fn split(format: &PropertyStringFormat, text: &str) -> Result<Map<String, Value>, String> {
    let mut values = Map::new();
    let mut bare_seen = false;
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        match part.split_once('=') {
            Some((key, value)) if !key.is_empty() && !value.is_empty() => put(format, &mut values, key, value)?,
            Some(_) => return Err("missing key in comma-separated list property".to_owned()),
            None => {
                let key =
                    format.default_key.as_ref().ok_or("value without key, but schema does not define a default key")?;
                let filled = values.get(key).is_some_and(|value| !matches!(value.as_str(), Some("" | "0")));
                if bare_seen || filled {
                    return Err(format!("duplicate key in comma-separated list property: {key}"));
                }
                bare_seen = true;
                values.insert(key.clone(), value_of(format.keys.get(key), part));
            }
        }
    }
    Ok(values)
}

fn put(format: &PropertyStringFormat, values: &mut Map<String, Value>, key: &str, value: &str) -> Result<(), String> {
    if values.contains_key(key) {
        return Err(format!("duplicate key in comma-separated list property: {key}"));
    }
    let mut target = key;
    if let Some(group) = format.key_alias_groups.values().find(|group| group.keys.iter().any(|name| name == key)) {
        if values.contains_key(&group.key_stored_in) {
            return Err(format!("key alias '{}' is already defined", group.key_stored_in));
        }
        values.insert(group.key_stored_in.clone(), Value::String(key.to_owned()));
        target = &group.value_stored_in;
    } else if let Some(alias) = format.aliases.get(key) {
        target = alias;
    }
    if target != key && values.contains_key(target) {
        return Err(format!("key '{target}' is already defined (via alias)"));
    }
    // What is not in the schema is found when the values are checked.
    values.insert(target.to_owned(), value_of(format.keys.get(target), value));
    Ok(())
}

/// The value of a key; the words for true and false are understood.
fn value_of(schema: Option<&Schema>, text: &str) -> Value {
    match parse_boolean(text) {
        Some(flag) if schema.is_some_and(|schema| schema.kind == Some(Kind::Boolean)) => {
            Value::String(if flag { "1" } else { "0" }.to_owned())
        }
        _ => Value::String(text.to_owned()),
    }
}

/// Writes values in the canonical order: default key, other required keys, optional keys.
pub fn print(format_id: &str, values: &Map<String, Value>) -> Result<String, String> {
    let format = format(format_id).ok_or_else(|| format!("not a valid format: {format_id}"))?;
    let mut errors = ParamErrors::new();
    let values: Map<String, Value> =
        values.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), plain(value))).collect();
    verify::check_object(&values, &format.keys, None, "", &mut errors, None);
    if !errors.is_empty() {
        return Err(errors.as_format_error());
    }
    let values = rules::apply(format_id, format, values)?;
    let required = |key: &String| format.keys.get(key).is_some_and(|schema| !schema.optional);
    let is_default = |key: &String| format.default_key.as_ref() == Some(key);
    let mut keys: Vec<&String> = values.keys().collect();
    keys.sort_by_key(|key| (!is_default(key), !required(key), *key));
    let mut parts = Vec::with_capacity(keys.len());
    let combined: Vec<&KeyAliasGroup> = format
        .key_alias_groups
        .values()
        .filter(|group| values.contains_key(&group.key_stored_in) && values.contains_key(&group.value_stored_in))
        .collect();
    for key in keys {
        let value = print_value(format, key, &values[key])?;
        if let Some(group) = combined.iter().find(|group| group.key_stored_in == *key) {
            let other = print_value(format, &group.value_stored_in, &values[&group.value_stored_in])?;
            parts.push(format!("{value}={other}"));
        } else if combined.iter().any(|group| group.value_stored_in == *key) {
            // Written together with the key that holds its name.
        } else if is_default(key) {
            parts.push(value);
        } else {
            parts.push(format!("{key}={value}"));
        }
    }
    Ok(parts.join(","))
}

/// Booleans as the text that they are written as.
fn plain(value: &Value) -> Value {
    match value {
        Value::Bool(flag) => Value::String(if *flag { "1" } else { "0" }.to_owned()),
        other => other.clone(),
    }
}

fn print_value(format: &PropertyStringFormat, key: &str, value: &Value) -> Result<String, String> {
    let schema = format.keys.get(key).ok_or_else(|| format!("invalid key '{key}'"))?;
    let text = text_of(value).ok_or_else(|| format!("invalid value for key '{key}'"))?;
    if schema.format.as_deref() == Some("disk-size") {
        return Ok(size::parse(&text).map_or(text, size::print));
    }
    if text.contains(',') {
        return Err(format!("illegal value with commas for {key}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
