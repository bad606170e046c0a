//! A request on its way to a handler, and what the handler gives back.

use crate::{Context, Error, Result};
use contract::{Method, Verb};
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::ops::Deref;
use std::str::FromStr;

/// A request as it comes from HTTP: not yet routed, allowed or verified.
#[derive(Debug, Clone)]
pub struct Request {
    /// The HTTP verb.
    pub verb: Verb,
    /// The path below `/api2/FORMAT`, still percent-encoded.
    pub path: String,
    /// Parameters from query and body, as they came.
    pub params: Map<String, Value>,
}

/// A verified call. Handlers read parameters from it and nothing else.
pub struct Call<'a> {
    /// Node, caller and mode.
    pub ctx: &'a Context,
    /// The contract's row.
    pub method: &'static Method,
    /// What it was called with.
    pub params: Params,
}

/// A handler: reads parameters, calls the domain, shapes the reply.
pub type Handler = fn(&Call) -> Result<Reply>;

impl Deref for Call<'_> {
    type Target = Params;

    fn deref(&self) -> &Params {
        &self.params
    }
}

/// Verified and normalised parameters: integers, numbers and booleans have their JSON types.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Params(Map<String, Value>);

impl Params {
    /// Parameters that [`contract::verify`] has let pass.
    pub fn verified(params: Map<String, Value>) -> Self {
        Params(params)
    }

    /// A copy to change and to call another method with.
    pub fn to_map(&self) -> Map<String, Value> {
        self.0.clone()
    }

    /// A required parameter, or one that the handler cannot do without.
    pub fn param<T: FromParam>(&self, name: &str) -> Result<T> {
        self.opt(name)?.ok_or_else(|| Error::parameter(name, "property is missing and it is not optional"))
    }

    /// An optional parameter.
    pub fn opt<T: FromParam>(&self, name: &str) -> Result<Option<T>> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::from_param(value).map(Some).map_err(|text| Error::parameter(name, text)),
        }
    }

    /// A boolean parameter that is false when absent.
    pub fn flag(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Value::Bool(true)))
    }

    /// The value as it would stand in a configuration file, when it was given.
    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).map(config_text)
    }
}

impl Deref for Params {
    type Target = Map<String, Value>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// How a value stands in PVE's configuration files: booleans as `1` and `0`, the rest as text.
pub fn config_text(value: &Value) -> String {
    match value {
        Value::Bool(true) => "1".into(),
        Value::Bool(false) => "0".into(),
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A type that can be read from a verified parameter.
pub trait FromParam: Sized {
    /// The value, or why it cannot be one.
    fn from_param(value: &Value) -> Result<Self, String>;
}

impl FromParam for Value {
    fn from_param(value: &Value) -> Result<Self, String> {
        Ok(value.clone())
    }
}

impl FromParam for bool {
    fn from_param(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(value) => Ok(*value),
            other => Ok(matches!(config_text(other).as_str(), "1")),
        }
    }
}

impl FromParam for Vec<String> {
    /// An array's texts; a string is split as PVE splits `-list` values.
    fn from_param(value: &Value) -> Result<Self, String> {
        Ok(match value {
            Value::Array(items) => items.iter().map(config_text).collect(),
            other => crate::types::split_list(&config_text(other)),
        })
    }
}

/// Types whose `FromStr` reads a parameter's text.
#[macro_export]
macro_rules! param_from_str {
    ($($name:ty),*) => {$(
        impl $crate::call::FromParam for $name {
            fn from_param(value: &serde_json::Value) -> Result<Self, String> {
                $crate::call::config_text(value).parse().map_err(|error| format!("{error}"))
            }
        }
    )*};
}

param_from_str!(String, i64, u64, u32, u16, usize, f64, Verb);

/// What a handler answers.
#[derive(Debug, Default)]
pub struct Reply {
    /// The `data` of the envelope.
    pub data: Value,
    /// Instead of `data`: the same as JSON text, for lists so long that building values first would be noticed. Only
    /// [`registry::dispatch`](crate::registry::dispatch) and [`registry::answer`](crate::registry::answer) give it away;
    /// elsewhere it has become `data`.
    pub text: Option<Box<RawValue>>,
    /// Sibling of `data`: how many entries there are in all.
    pub total: Option<u64>,
    /// Sibling of `data`: a text difference (network configuration).
    pub changes: Option<String>,
    /// Instead of an envelope: a file to stream.
    pub download: Option<Download>,
    /// Instead of an envelope: a local endpoint that a web socket is joined with.
    pub socket: Option<SocketTarget>,
}

/// A file that the front server streams.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Download {
    /// The file to read.
    pub path: std::path::PathBuf,
    /// Content type.
    pub content_type: String,
    /// File name for Content-Disposition.
    pub file_name: Option<String>,
}

/// Where a web socket's bytes go.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum SocketTarget {
    /// A TCP port on 127.0.0.1.
    Port(u16),
    /// A Unix socket.
    Unix(std::path::PathBuf),
}

impl Reply {
    /// An answer without data.
    pub fn null() -> Self {
        Reply::default()
    }

    /// A long list, written as text at once.
    ///
    /// # Errors
    /// When a row cannot be written as JSON.
    pub fn list<T: Serialize>(rows: &[T]) -> Result<Self> {
        let text = serde_json::value::to_raw_value(rows).map_err(|error| Error::new(error.to_string()))?;
        Ok(Reply { text: Some(text), ..Reply::default() })
    }

    /// Makes values of the text, if there is one.
    #[must_use]
    pub fn with_data(mut self) -> Self {
        if let Some(text) = self.text.take() {
            self.data = serde_json::from_str(text.get()).expect("the text was written as JSON");
        }
        self
    }

    /// Adds the total number of entries.
    #[must_use]
    pub fn total(mut self, total: usize) -> Self {
        self.total = Some(total as u64);
        self
    }
}

impl From<Value> for Reply {
    fn from(data: Value) -> Self {
        Reply { data, ..Reply::default() }
    }
}

/// Reads a text as `T` or says which parameter is wrong.
pub fn parse_param<T: FromStr<Err: std::fmt::Display>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| Error::parameter(name, format!("{error}")))
}
