//! Checks of whole values: sequence per value, members of objects, typed alternatives
//! (pve-common PVE/JSONSchema.pm `check_prop`, `check_object`, `check_all_of`, `check_one_of`).

use super::errors::ParamErrors;
use super::types::{check_type, is_number, text_of};
use crate::format;
use crate::pattern;
use crate::schema::{self, AdditionalProperties, Schema};
use serde_json::{Map, Number, Value};
use std::collections::{BTreeMap, BTreeSet};

const UNKNOWN: &str = "property is not defined in schema and the schema does not allow additional properties";

/// Names that one part of a schema does not know while another part may.
type Unknown = BTreeSet<String>;

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// Renames aliases to their targets; both given is an error.
pub(crate) fn rename_aliases(
    values: &mut Map<String, Value>,
    properties: &BTreeMap<String, Schema>,
    path: &str,
    errors: &mut ParamErrors,
) {
    let aliases: Vec<(String, String)> =
        values.keys().filter_map(|name| Some((name.clone(), properties.get(name)?.alias.clone()?))).collect();
    for (name, target) in aliases {
        if values.get(&target).is_some_and(|value| !value.is_null()) {
            errors.add(&join(path, &name), format!("cannot set both '{name}' and its alias target '{target}'"));
        } else if let Some(value) = values.remove(&name) {
            values.insert(target, value);
        }
    }
}

/// Checks the members of an object. Names nobody declared are errors, unless `collect` takes them.
pub(crate) fn check_object(
    values: &Map<String, Value>,
    properties: &BTreeMap<String, Schema>,
    additional: Option<&AdditionalProperties>,
    path: &str,
    errors: &mut ParamErrors,
    mut collect: Option<&mut Unknown>,
) {
    for (name, schema) in properties {
        if schema.index.is_none() {
            let instance = instance_type(schema, values);
            check_value(values.get(name), schema, &join(path, name), errors, instance.as_deref(), None);
        }
    }
    for (name, value) in values {
        let own_path = join(path, name);
        if let Some(schema) = schema::lookup(properties, name) {
            let instance = instance_type(schema, values);
            if schema.index.is_some() {
                check_value(Some(value), schema, &own_path, errors, instance.as_deref(), None);
            }
            if let Some(required) = &schema.requires
                && values.get(required).is_none_or(Value::is_null)
            {
                errors.add(&join(path, required), format!("missing property required by '{own_path}'"));
            }
            if has_alternative(schema, instance.as_deref()) {
                continue;
            }
        }
        match additional {
            Some(AdditionalProperties::Allowed(false)) => match collect.as_deref_mut() {
                Some(unknown) => {
                    unknown.insert(name.clone());
                }
                None => errors.add(&own_path, UNKNOWN),
            },
            Some(AdditionalProperties::Checked(schema)) => {
                check_value(Some(value), schema, &own_path, errors, None, None);
            }
            Some(AdditionalProperties::Allowed(true)) | None => {}
        }
    }
}

/// The value of the property that selects among the alternatives of this one.
fn instance_type(schema: &Schema, values: &Map<String, Value>) -> Option<String> {
    values.get(schema.type_property.as_ref()?).and_then(text_of).filter(|text| !text.is_empty() && text != "0")
}

/// A property with alternatives counts as known only if one of them is for this type.
fn has_alternative(schema: &Schema, instance: Option<&str>) -> bool {
    let Some(alternatives) = &schema.one_of else {
        return true;
    };
    alternatives.iter().any(|alternative| match &alternative.instance_types {
        Some(types) => types.iter().any(|name| Some(name.as_str()) == instance),
        None => true,
    })
}

/// Checks one value, or its absence. The first failure of a value ends its checks.
pub(super) fn check_value(
    value: Option<&Value>,
    schema: &Schema,
    path: &str,
    errors: &mut ParamErrors,
    instance: Option<&str>,
    collect: Option<&mut Unknown>,
) {
    let mut absent_is_fine = schema.optional;
    match &schema.one_of {
        Some(alternatives) if schema.type_property_schema.is_none() => {
            match check_alternatives(value, schema, alternatives, path, errors, instance) {
                Ok(optional) => absent_is_fine |= optional,
                Err(Abandoned) => return,
            }
        }
        _ => {
            if let Some(instance) = instance {
                let Some(types) = &schema.instance_types else {
                    errors.add(path, "missing 'instance-types'");
                    return;
                };
                absent_is_fine |= !types.iter().any(|name| name == instance);
            }
        }
    }
    if schema.alias.is_some() {
        return;
    }
    let Some(value) = value.filter(|value| !value.is_null()) else {
        if schema.kind != Some(crate::Kind::Null) && !absent_is_fine {
            errors.add(path, "property is missing and it is not optional");
        }
        return;
    };
    if !check_type(value, schema.kind, path, errors) {
        return;
    }
    match value {
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (at, element) in list.iter().enumerate() {
                    check_value(Some(element), items, &format!("{path}[{at}]"), errors, None, None);
                }
            }
        }
        Value::Object(map) => check_members(map, value, schema, path, errors, instance, collect),
        Value::Bool(_) => {}
        scalar => {
            if schema.all_of.is_some() || (schema.one_of.is_some() && schema.type_property_schema.is_some()) {
                errors.add(path, "value must be an object");
            } else if let Err(text) = check_text(&text_of(scalar).unwrap_or_default(), schema, path) {
                errors.add(path, text);
            }
        }
    }
}

fn check_members(
    map: &Map<String, Value>,
    value: &Value,
    schema: &Schema,
    path: &str,
    errors: &mut ParamErrors,
    instance: Option<&str>,
    collect: Option<&mut Unknown>,
) {
    let welcomes = !matches!(schema.additional_properties, None | Some(AdditionalProperties::Allowed(false)));
    if schema.properties.is_some() || welcomes {
        let none = BTreeMap::new();
        let properties = schema.properties.as_ref().unwrap_or(&none);
        check_object(map, properties, schema.additional_properties.as_ref(), path, errors, collect);
    } else if let Some(parts) = &schema.all_of {
        check_all_of(value, parts, path, errors, instance, collect);
    } else if let Some(variants) = &schema.one_of {
        check_one_of(map, value, schema, variants, path, errors, collect);
    }
}

/// The schema itself is incomplete; nothing more can be said about the value.
struct Abandoned;

/// Alternatives at property level. Says whether the property may be absent for this type.
fn check_alternatives(
    value: Option<&Value>,
    schema: &Schema,
    alternatives: &[Schema],
    path: &str,
    errors: &mut ParamErrors,
    instance: Option<&str>,
) -> Result<bool, Abandoned> {
    if schema.type_property.is_some() {
        let Some(instance) = instance else {
            return Ok(true);
        };
        let mut optional = true;
        for alternative in alternatives {
            let Some(types) = &alternative.instance_types else {
                errors.add(path, "missing 'instance-types' in oneOf alternative");
                return Err(Abandoned);
            };
            if types.iter().any(|name| name == instance) {
                optional = alternative.optional;
                check_value(value, alternative, path, errors, None, None);
            }
        }
        return Ok(optional);
    }
    let mut collected = Vec::new();
    for (at, alternative) in alternatives.iter().enumerate() {
        let mut inner = ParamErrors::new();
        check_value(value, alternative, &format!("{path}.oneOf[{at}]"), &mut inner, None, None);
        if inner.is_empty() {
            return Ok(false);
        }
        collected.extend(inner.into_map());
    }
    for (inner_path, text) in collected {
        errors.add(&inner_path, text);
    }
    Ok(false)
}

/// Passes names that nobody knew to whoever asks for them, or reports them.
fn report_unknown(path: &str, errors: &mut ParamErrors, collect: Option<&mut Unknown>, unknown: Unknown) {
    match collect {
        Some(names) => names.extend(unknown),
        None => unknown.iter().for_each(|name| errors.add(&join(path, name), UNKNOWN)),
    }
}

fn check_all_of(
    value: &Value,
    parts: &[Schema],
    path: &str,
    errors: &mut ParamErrors,
    instance: Option<&str>,
    collect: Option<&mut Unknown>,
) {
    let mut unknown_everywhere: Option<Unknown> = None;
    for part in parts {
        let mut unknown = Unknown::new();
        check_value(Some(value), part, path, errors, instance, Some(&mut unknown));
        unknown_everywhere = Some(match unknown_everywhere {
            None => unknown,
            Some(before) => before.intersection(&unknown).cloned().collect(),
        });
    }
    report_unknown(path, errors, collect, unknown_everywhere.unwrap_or_default());
}

fn check_one_of(
    map: &Map<String, Value>,
    value: &Value,
    schema: &Schema,
    variants: &[Schema],
    path: &str,
    errors: &mut ParamErrors,
    collect: Option<&mut Unknown>,
) {
    let (Some(type_schema), Some(type_property)) = (&schema.type_property_schema, &schema.type_property) else {
        return;
    };
    let type_path = join(path, type_property);
    let given = map.get(type_property).filter(|given| !given.is_null());
    let mut type_errors = ParamErrors::new();
    if given.is_some() || !schema.optional {
        check_value(given, type_schema, &type_path, &mut type_errors, None, None);
    }
    let name = match given.and_then(text_of) {
        Some(name) if type_errors.is_empty() => name,
        _ => {
            // Without a known type every other name is unknown.
            for text in type_errors.into_map().into_values() {
                errors.add(&type_path, text);
            }
            let unknown = map.keys().filter(|name| *name != type_property).cloned().collect();
            report_unknown(path, errors, collect, unknown);
            return;
        }
    };
    match variants.iter().find(|variant| variant.instance_type.as_deref() == Some(name.as_str())) {
        Some(variant) => {
            let variant_path = join(path, &format!("oneOf[{name}]"));
            let mut unknown = Unknown::new();
            check_value(Some(value), variant, &variant_path, errors, None, Some(&mut unknown));
            // The selecting property belongs to the alternatives as a whole.
            unknown.remove(type_property);
            report_unknown(&variant_path, errors, collect, unknown);
        }
        None => errors.add(path, format!("'{name}' is not a valid oneOf variant")),
    }
}

/// The checks of a text, in the original's order.
fn check_text(text: &str, schema: &Schema, path: &str) -> Result<(), String> {
    if let Some(name) = &schema.format {
        format::check_at(name, text, path).map_err(|reason| format!("invalid format - {reason}"))?;
    }
    if let Some(expression) = &schema.pattern
        && !pattern::matches(expression, text)
    {
        return Err("value does not match the regex pattern".to_owned());
    }
    let length = text.chars().count() as u64;
    if let Some(most) = schema.max_length.filter(|most| length > *most) {
        return Err(format!("value may only be {most} characters long"));
    }
    if let Some(fewest) = schema.min_length.filter(|fewest| length < *fewest) {
        return Err(format!("value must be at least {fewest} characters long"));
    }
    check_bounds(text, schema)?;
    match &schema.enumeration {
        Some(words) if !words.iter().chain(&schema.added_enumeration).any(|word| word == text) => {
            Err(format!("value '{text}' does not have a value in the enumeration '{}'", words.join(", ")))
        }
        _ => Ok(()),
    }
}

/// Limits count for whatever looks like a number, text included.
fn check_bounds(text: &str, schema: &Schema) -> Result<(), String> {
    if (schema.maximum.is_none() && schema.minimum.is_none()) || !is_number(text) {
        return Ok(());
    }
    let Ok(number) = text.parse::<f64>() else {
        return Ok(());
    };
    let bound = |limit: &Option<Number>| limit.as_ref().and_then(Number::as_f64);
    if let (Some(limit), Some(bound)) = (&schema.maximum, bound(&schema.maximum))
        && number > bound
    {
        return Err(format!("value must have a maximum value of {limit}"));
    }
    if let (Some(limit), Some(bound)) = (&schema.minimum, bound(&schema.minimum))
        && number < bound
    {
        return Err(format!("value must have a minimum value of {limit}"));
    }
    Ok(())
}
