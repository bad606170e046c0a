//! YAML with sorted keys.

use engine::{Error, Result};
use serde_json::Value;

/// A whole document with its marker.
pub fn document(value: &Value) -> Result<String> {
    let body = text(value)?;
    // Containers start on a line of their own, everything else stands behind the marker.
    let is_block = match value {
        Value::Object(members) => !members.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => false,
    };
    Ok(if is_block { format!("---\n{body}") } else { format!("--- {body}") })
}

/// A value without marker, as the `yaml` renderer shows it.
pub fn text(value: &Value) -> Result<String> {
    serde_norway::to_string(&sorted(value)).map_err(|error| Error::new(format!("unable to write YAML: {error}")))
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        Value::Object(members) => {
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            Value::Object(members.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect())
        }
        other => other.clone(),
    }
}
