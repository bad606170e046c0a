//! Schemas of values as the interface declares them (pve-common PVE/JSONSchema.pm, "default schema").
//! Owns the type and its lossless reading and writing; checking values is `verify`'s work.

use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use std::collections::BTreeMap;

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// No value.
    Null,
    /// True or false; `1` or `0` on the wire.
    Boolean,
    /// A whole number.
    Integer,
    /// A decimal number.
    Number,
    /// Text.
    String,
    /// A list.
    Array,
    /// A map.
    Object,
    /// Anything.
    Any,
}

impl Kind {
    /// The name that error texts and the dump use.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Null => "null",
            Kind::Boolean => "boolean",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::String => "string",
            Kind::Array => "array",
            Kind::Object => "object",
            Kind::Any => "any",
        }
    }
}

/// What an object says about names that it does not declare.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AdditionalProperties {
    /// They are welcome, or errors.
    Allowed(bool),
    /// They are checked with this schema.
    Checked(Box<Schema>),
}

/// The numbers that `net[n]` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexRange {
    /// Smallest number.
    pub min: u32,
    /// Largest number.
    pub max: u32,
}

/// Where the children of an index are found in its rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Template, such as `{vmid}`.
    pub href: String,
    /// `child` for index rows.
    pub rel: String,
}

/// The declaration of a value. Every key that the interface uses has its field; what is absent is `None`, empty or
/// false.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Schema {
    /// Our own sentence about the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub doc: Option<String>,
    /// Type of the value; any if absent.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// A parameter that only Ferrovisor has. Clients that do not know it never send it; the dump leaves it out.
    #[serde(skip_serializing_if = "is_false")]
    pub addition: bool,
    /// Name of a format, see [`crate::format`] and [`crate::property_string`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// May be left out.
    #[serde(skip_serializing_if = "is_false")]
    pub optional: bool,
    /// What handlers assume when it is left out; verification does not fill it in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// Hint for a default that is computed.
    #[serde(rename = "default_dynamic", skip_serializing_if = "Option::is_none")]
    pub default_dynamic: Option<String>,
    /// Its key may be left out in a property string.
    #[serde(rename = "default_key", skip_serializing_if = "is_false")]
    pub default_key: bool,
    /// The allowed texts.
    #[serde(rename = "enum", skip_serializing_if = "Option::is_none")]
    pub enumeration: Option<Vec<String>>,
    /// Texts that only Ferrovisor allows besides those; the dump leaves them out.
    #[serde(rename = "added-enum", skip_serializing_if = "Vec::is_empty")]
    pub added_enumeration: Vec<String>,
    /// Pattern for the whole text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Smallest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minimum: Option<Number>,
    /// Largest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Number>,
    /// Written so in the interface by oversight; not enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<Number>,
    /// Written so in the interface by oversight; not enforced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<Number>,
    /// Written so in the interface by oversight; not enforced.
    #[serde(rename = "minValue", skip_serializing_if = "Option::is_none")]
    pub min_value: Option<Number>,
    /// Written so in the interface by oversight; not enforced.
    #[serde(rename = "maxValue", skip_serializing_if = "Option::is_none")]
    pub max_value: Option<Number>,
    /// Fewest characters.
    #[serde(rename = "minLength", skip_serializing_if = "Option::is_none")]
    pub min_length: Option<u64>,
    /// Most characters.
    #[serde(rename = "maxLength", skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u64>,
    /// Another property that must be given too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requires: Option<String>,
    /// This name stands for another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Schema of list elements.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<Schema>>,
    /// Schemas of an object's members.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub properties: Option<BTreeMap<String, Schema>>,
    /// Other members of an object.
    #[serde(rename = "additionalProperties", skip_serializing_if = "Option::is_none")]
    pub additional_properties: Option<AdditionalProperties>,
    /// Where children of an index are found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<Link>,
    /// How tools print the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renderer: Option<String>,
    /// Numbers that `[n]` in the name stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexRange>,
    /// Values of the type property for which this one exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_types: Option<Vec<String>>,
    /// Value of the type property for which this variant applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Name of the property that selects among alternatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_property: Option<String>,
    /// Schema of that property, where it is declared with the alternatives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_property_schema: Option<Box<Schema>>,
    /// Alternatives.
    #[serde(rename = "oneOf", skip_serializing_if = "Option::is_none")]
    pub one_of: Option<Vec<Schema>>,
    /// Parts that all apply.
    #[serde(rename = "allOf", skip_serializing_if = "Option::is_none")]
    pub all_of: Option<Vec<Schema>>,
    /// How usage texts describe the value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typetext: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Schema {
    /// The format is a list (`X-list`).
    pub fn is_list(&self) -> bool {
        self.format.as_deref().is_some_and(|format| format.ends_with("-list"))
    }

    /// The schema as the interface declares it, without our own sentences.
    pub fn dump(&self) -> Value {
        let mut value = serde_json::to_value(self).expect("schemas have text keys only");
        strip_docs(&mut value, false);
        value
    }
}

/// Removes `doc` and `added-enum` where they are ours and not the names of properties.
fn strip_docs(value: &mut Value, names: bool) {
    match value {
        Value::Object(map) => {
            if !names {
                map.remove("doc");
                map.remove("added-enum");
            }
            for (key, member) in map {
                if names || !matches!(key.as_str(), "default" | "enum") {
                    strip_docs(member, !names && key == "properties");
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|member| strip_docs(member, false)),
        _ => {}
    }
}

/// Finds the declaration of a name, resolving indexed options: `net7` is declared as `net[n]`.
pub fn lookup<'a>(properties: &'a BTreeMap<String, Schema>, name: &str) -> Option<&'a Schema> {
    if let Some(schema) = properties.get(name) {
        return schema.index.is_none().then_some(schema);
    }
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &name[stem.len()..];
    if digits.is_empty() || digits.len() > 4 || (digits.len() > 1 && digits.starts_with('0')) {
        return None;
    }
    let schema = properties.get(&format!("{stem}[n]"))?;
    let range = schema.index?;
    let number: u32 = digits.parse().ok()?;
    (range.min..=range.max).contains(&number).then_some(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexed_names_resolve_within_their_range() {
        let properties: BTreeMap<String, Schema> =
            serde_json::from_str(r#"{"net[n]":{"type":"string","index":{"min":0,"max":31}},"ide2":{"type":"string"}}"#)
                .unwrap();
        for (name, found) in
            [("net0", true), ("net31", true), ("net32", false), ("net07", false), ("net", false), ("net[n]", false)]
        {
            assert_eq!(lookup(&properties, name).is_some(), found, "{name}");
        }
        assert!(lookup(&properties, "ide2").is_some());
        assert!(lookup(&properties, "net99999999999").is_none());
    }
}
