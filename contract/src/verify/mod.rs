//! Verification of parameters (pve-common PVE/JSONSchema.pm `validate`, PVE/RESTHandler.pm `handle`).
//! Owns the order: old input forms are straightened, aliases renamed, everything checked and all errors collected,
//! and only then values turned into the types that the engine reads. Declared defaults are not filled in.

mod cli;
mod coerce;
mod errors;
mod object;
mod types;

#[cfg(test)]
mod tests;

pub(crate) use coerce::{typed, typed_value};
pub(crate) use object::{check_object, rename_aliases};
pub(crate) use types::text_of;

pub use errors::{HEADLINE, ParamErrors};
pub use types::{is_integer, is_number, parse_boolean};

use crate::method::Method;
use crate::schema::{AdditionalProperties, Schema};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Checks the parameters of a call and turns them into typed values: integers and numbers become JSON numbers, booleans
/// `true` or `false`, lists that arrived as arrays one text, text for an array a list of one; `null` members are
/// dropped.
///
/// Numbers keep their value, not their spelling (`1.50` becomes `1.5`); an integer beyond 64 bits stays text.
pub fn verify(method: &Method, params: Map<String, Value>) -> Result<Map<String, Value>, ParamErrors> {
    verify_set(&ParameterSet::of(method), params)
}

/// As [`verify`], for values from a command line: booleans may be spelled out or empty, lists may be repeated.
pub fn verify_cli(method: &Method, params: Map<String, Value>) -> Result<Map<String, Value>, ParamErrors> {
    verify_set_cli(&ParameterSet::of(method), params)
}

/// What a call or a command takes.
pub struct ParameterSet<'a> {
    /// The declared parameters.
    pub parameters: &'a BTreeMap<String, Schema>,
    /// Other parameters are let through.
    pub additional_properties: bool,
    /// The nested schema that is checked in place of `parameters`.
    pub schema: Option<&'a Schema>,
}

impl<'a> ParameterSet<'a> {
    /// The parameters of a method.
    pub fn of(method: &'a Method) -> ParameterSet<'a> {
        ParameterSet {
            parameters: &method.parameters,
            additional_properties: method.additional_properties,
            schema: method.parameters_schema.as_ref(),
        }
    }
}

/// [`verify`] for parameters that belong to no method.
pub fn verify_set(set: &ParameterSet<'_>, params: Map<String, Value>) -> Result<Map<String, Value>, ParamErrors> {
    let mut params = coerce::straighten(set.parameters, params);
    let mut errors = ParamErrors::new();
    rename_aliases(&mut params, set.parameters, "", &mut errors);
    match set.schema {
        Some(schema) => {
            let whole = Value::Object(params);
            object::check_value(Some(&whole), schema, "", &mut errors, None, None);
            let Value::Object(back) = whole else { unreachable!("built as an object above") };
            params = back;
        }
        None => {
            let additional = AdditionalProperties::Allowed(set.additional_properties);
            check_object(&params, set.parameters, Some(&additional), "", &mut errors, None);
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(typed(set.parameters, params))
}

/// [`verify_cli`] for parameters that belong to no method.
pub fn verify_set_cli(set: &ParameterSet<'_>, params: Map<String, Value>) -> Result<Map<String, Value>, ParamErrors> {
    verify_set(set, cli::loosen(set.parameters, params)?)
}

/// Checks one value, such as an answer against `returns`; paths of errors start at `path`.
pub fn check(value: &Value, schema: &Schema, path: &str, errors: &mut ParamErrors) {
    object::check_value(Some(value), schema, path, errors, None, None);
}
