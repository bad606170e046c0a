//! Values between the wire and the engine: old input forms before the check, typed values after it.

use super::types::text_of;
use crate::schema::{self, Kind, Schema};
use serde_json::{Map, Number, Value};
use std::collections::BTreeMap;

/// Straightens what form data cannot express: repeated keys for a text list are joined with commas, a single text for
/// an array becomes a list of one. Empty text and `0` are left alone and fail the type check, as in the original.
pub(super) fn straighten(properties: &BTreeMap<String, Schema>, params: Map<String, Value>) -> Map<String, Value> {
    params
        .into_iter()
        .map(|(name, value)| {
            let value = match schema::lookup(properties, &name) {
                Some(schema) => straighten_value(schema, value),
                None => value,
            };
            (name, value)
        })
        .collect()
}

fn straighten_value(schema: &Schema, value: Value) -> Value {
    match value {
        Value::Array(list) if schema.kind == Some(Kind::String) && schema.is_list() => {
            let texts: Option<Vec<String>> = list.iter().map(text_of).collect();
            texts.map_or(Value::Array(list), |texts| Value::String(texts.join(",")))
        }
        Value::String(_) | Value::Number(_) if schema.kind == Some(Kind::Array) => {
            let text = text_of(&value).unwrap_or_default();
            if text.is_empty() || text == "0" { value } else { Value::Array(vec![value]) }
        }
        other => other,
    }
}

/// Turns checked values into the types they are declared with and drops nulls.
pub(crate) fn typed(properties: &BTreeMap<String, Schema>, values: Map<String, Value>) -> Map<String, Value> {
    values
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| {
            let value = match schema::lookup(properties, &name) {
                Some(schema) => typed_value(schema, value),
                None => value,
            };
            (name, value)
        })
        .collect()
}

/// Turns one checked value into its type.
pub(crate) fn typed_value(schema: &Schema, value: Value) -> Value {
    match (schema.kind, value) {
        (_, Value::Array(list)) => match &schema.items {
            Some(items) => Value::Array(list.into_iter().map(|element| typed_value(items, element)).collect()),
            None => Value::Array(list),
        },
        (_, Value::Object(map)) => match &schema.properties {
            Some(properties) => Value::Object(typed(properties, map)),
            None => Value::Object(map),
        },
        (Some(Kind::Boolean), value) => match text_of(&value) {
            Some(text) => Value::Bool(text == "1"),
            None => value,
        },
        (Some(kind @ (Kind::Integer | Kind::Number)), value) => {
            text_of(&value).and_then(|text| number(kind, &text)).map_or(value, Value::Number)
        }
        (Some(Kind::String), value) => text_of(&value).map_or(value, Value::String),
        (_, value) => value,
    }
}

/// The number that a checked text spells; `None` if no JSON number can hold it.
fn number(kind: Kind, text: &str) -> Option<Number> {
    let plain = text.strip_prefix('+').unwrap_or(text);
    if let Ok(whole) = plain.parse::<i64>() {
        return Some(whole.into());
    }
    if let Ok(whole) = plain.parse::<u64>() {
        return Some(whole.into());
    }
    if kind == Kind::Integer {
        return None;
    }
    let float: f64 = plain.parse().ok()?;
    if float.fract() == 0.0 && float.abs() < 1e15 {
        return Some((float as i64).into());
    }
    Number::from_f64(float)
}
