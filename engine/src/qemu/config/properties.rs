//! One parsed property string: values by key, read by type.

use crate::call::config_text;
use crate::{Error, Result};
use serde_json::{Map, Value};

/// The values of a property string of one format.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    values: Map<String, Value>,
}

impl Properties {
    /// Reads a property string; `name` is the option that holds it, for the error.
    pub fn parse(format: &str, name: &str, text: &str) -> Result<Self> {
        match contract::property_string::texts(format, text) {
            Ok(values) => Ok(Properties { values }),
            Err(errors) => {
                let reasons: Vec<String> = errors.iter().map(|(key, text)| format!("{key}: {text}")).collect();
                Err(Error::new(format!("unable to parse '{name}': {}", reasons.join(", "))))
            }
        }
    }

    /// The text of this property string in canonical order.
    pub fn print(&self, format: &str) -> String {
        contract::property_string::print(format, &self.values).expect("values came through the same format")
    }

    /// A value as it stands in the file.
    pub fn text(&self, key: &str) -> Option<String> {
        self.values.get(key).map(config_text).filter(|text| !text.is_empty())
    }

    /// A switch; `None` when it is not set.
    pub fn flag(&self, key: &str) -> Option<bool> {
        self.text(key).map(|text| matches!(text.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true"))
    }

    /// Whether a switch is set and on.
    pub fn is_on(&self, key: &str) -> bool {
        self.flag(key) == Some(true)
    }

    /// A whole number.
    pub fn number(&self, key: &str) -> Option<u64> {
        self.text(key)?.parse().ok()
    }

    /// A number with fraction.
    pub fn fraction(&self, key: &str) -> Option<f64> {
        self.text(key)?.parse().ok()
    }

    /// Sets a text value.
    pub fn set(&mut self, key: &str, value: impl Into<String>) {
        self.values.insert(key.to_owned(), Value::String(value.into()));
    }

    /// Removes a value and gives its text.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        self.values.remove(key).map(|value| config_text(&value))
    }
}
