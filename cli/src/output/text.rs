//! A single value as text.

use super::{Switches, json, number, render};
use contract::{Kind, Schema};
use serde_json::Value;

/// A value in a table: rendered as its declaration says, unless the switches want it raw.
pub fn cell(value: &Value, schema: Option<&Schema>, switches: &Switches) -> String {
    if value.is_null() {
        return String::new();
    }
    if switches.human_readable
        && let Some(schema) = schema
    {
        if schema.kind == Some(Kind::Boolean) {
            return u8::from(truthy(value)).to_string();
        }
        if let Some(text) = schema.renderer.as_deref().and_then(|renderer| render::value(renderer, value)) {
            return text;
        }
    }
    plain(value)
}

/// A value as it is: text without quotes, containers as JSON, booleans as `1` and `0`.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Number(number) => number::text(number),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        containers => json::compact(containers),
    }
}

/// Whether the original's language takes a value for true.
pub fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Array(_) | Value::Object(_) => true,
    }
}
