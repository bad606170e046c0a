//! What a command line may write that HTTP may not (pve-common PVE/JSONSchema.pm `get_options`).

use super::errors::ParamErrors;
use super::types::{parse_boolean, text_of};
use crate::schema::{self, Kind, Schema};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Turns command line values into those that HTTP would send.
pub(super) fn loosen(
    properties: &BTreeMap<String, Schema>,
    params: Map<String, Value>,
) -> Result<Map<String, Value>, ParamErrors> {
    params
        .into_iter()
        .map(|(name, value)| {
            let value = match schema::lookup(properties, &name) {
                Some(schema) => loosen_value(schema, value)?,
                None => value,
            };
            Ok((name, value))
        })
        .collect()
}

fn loosen_value(schema: &Schema, value: Value) -> Result<Value, ParamErrors> {
    if schema.kind == Some(Kind::Boolean) {
        let text = match &value {
            Value::Bool(_) => return Ok(value),
            other => text_of(other).unwrap_or_default(),
        };
        return match parse_boolean(&text) {
            _ if text.is_empty() => Ok(Value::Bool(true)),
            Some(flag) => Ok(Value::Bool(flag)),
            None => Err(ParamErrors::with_headline("unable to parse boolean option")),
        };
    }
    match value {
        // An option that another alternative of the same name allows to repeat.
        Value::Array(mut list) if list.len() == 1 && schema.kind != Some(Kind::Array) => Ok(list.remove(0)),
        other => Ok(other),
    }
}
