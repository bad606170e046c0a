//! Results on the terminal: tables, JSON, YAML, plain values, as the output switches say.
//! Owns pve-common PVE/CLIFormatter.pm's forms; knows no command. Everything is built as text first and written once.

pub mod json;
pub mod number;
mod render;
mod table;
mod terminal;
mod text;
mod yaml;

pub use table::{Column, TableStyle, table};
pub use terminal::Terminal;
pub use text::{cell, truthy};

use contract::{Kind, Schema};
use engine::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io::Write;

/// The values of `--output-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Tables and plain values.
    #[default]
    Text,
    /// JSON in one line.
    Json,
    /// JSON over several lines.
    JsonPretty,
    /// YAML.
    Yaml,
}

/// The output switches that many commands take.
#[derive(Debug, Clone, Copy)]
pub struct Switches {
    /// `--output-format`.
    pub format: Format,
    /// `--noheader`, if it was given.
    pub noheader: Option<bool>,
    /// `--noborder`, if it was given.
    pub noborder: Option<bool>,
    /// `--quiet`.
    pub quiet: bool,
    /// `--human-readable`; on unless switched off.
    pub human_readable: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Switches { format: Format::Text, noheader: None, noborder: None, quiet: false, human_readable: true }
    }
}

impl Switches {
    /// Reads verified values.
    pub fn read(values: &Map<String, Value>) -> Switches {
        let flag = |name: &str| values.get(name).and_then(Value::as_bool);
        let format = match values.get("output-format").and_then(Value::as_str) {
            Some("json") => Format::Json,
            Some("json-pretty") => Format::JsonPretty,
            Some("yaml") => Format::Yaml,
            _ => Format::Text,
        };
        Switches {
            format,
            noheader: flag("noheader"),
            noborder: flag("noborder"),
            quiet: flag("quiet").unwrap_or(false),
            human_readable: flag("human-readable").unwrap_or(true),
        }
    }
}

/// The output switches as options. (pve-common PVE/RESTHandler.pm, standard output options)
pub fn options() -> BTreeMap<String, Schema> {
    let option = |kind| Schema { kind: Some(kind), optional: true, ..Schema::default() };
    let formats = ["text", "json", "json-pretty", "yaml"].map(str::to_owned).to_vec();
    BTreeMap::from([
        ("human-readable".to_owned(), Schema { default: Some(Value::from(1)), ..option(Kind::Boolean) }),
        ("noborder".to_owned(), option(Kind::Boolean)),
        ("noheader".to_owned(), option(Kind::Boolean)),
        (
            "output-format".to_owned(),
            Schema { enumeration: Some(formats), default: Some(Value::from("text")), ..option(Kind::String) },
        ),
        ("quiet".to_owned(), option(Kind::Boolean)),
    ])
}

/// A result as text, its line breaks included.
///
/// `columns` are the members to print, in order; without them all declared members are, the required ones first.
pub fn result(data: &Value, schema: Option<&Schema>, columns: Option<&[&str]>, switches: &Switches) -> Result<String> {
    result_on(&Terminal::detect(), data, schema, columns, switches)
}

/// [`result`] for a given terminal.
pub fn result_on(
    terminal: &Terminal,
    data: &Value,
    schema: Option<&Schema>,
    columns: Option<&[&str]>,
    switches: &Switches,
) -> Result<String> {
    if switches.quiet {
        return Ok(String::new());
    }
    let guessed;
    let schema = match schema {
        Some(schema) if schema.kind.is_some() => {
            if schema.kind == Some(Kind::Null) || (schema.optional && data.is_null()) {
                return Ok(String::new());
            }
            schema
        }
        _ => {
            guessed = guess(data);
            &guessed
        }
    };
    match switches.format {
        Format::Json => Ok(json::compact(data) + "\n"),
        Format::JsonPretty => Ok(json::pretty(data)),
        Format::Yaml => yaml::document(data),
        Format::Text => as_text(terminal, data, schema, columns, switches),
    }
}

/// [`result_on`] for rows that are already in the order in which they are to be seen.
pub fn rows_as_given(
    terminal: &Terminal,
    data: &Value,
    schema: &Schema,
    columns: Option<&[&str]>,
    switches: &Switches,
) -> Result<String> {
    match (data, &schema.items) {
        (Value::Array(list), Some(items)) if switches.format == Format::Text && !switches.quiet && !list.is_empty() => {
            let style = TableStyle { sorted: false, ..TableStyle::of(switches) };
            rows(terminal, list, items, columns, &style)
        }
        _ => result_on(terminal, data, Some(schema), columns, switches),
    }
}

fn as_text(
    terminal: &Terminal,
    data: &Value,
    schema: &Schema,
    columns: Option<&[&str]>,
    switches: &Switches,
) -> Result<String> {
    match (schema.kind, data) {
        (Some(Kind::Object), Value::Object(members)) => Ok(object(terminal, members, schema, columns, switches)),
        (Some(Kind::Array), Value::Array(list)) if list.is_empty() => Ok(String::new()),
        (Some(Kind::Array), Value::Array(list)) => {
            let items = schema.items.as_deref().cloned().unwrap_or_default();
            if items.kind == Some(Kind::Object) || (items.kind.is_none() && list[0].is_object()) {
                rows(terminal, list, &items, columns, &TableStyle::of(switches))
            } else {
                Ok(scalars(terminal, list, items, switches))
            }
        }
        (Some(Kind::Array), Value::Object(members)) if members.is_empty() => Ok(String::new()),
        (Some(Kind::Array), Value::Object(_)) => Err(Error::new("got hash object, but result schema specified array!")),
        (Some(Kind::Object | Kind::Array), Value::Null) => Ok(String::new()),
        _ => Ok(text::plain(data) + "\n"),
    }
}

/// Members of an object as a table of two columns.
fn object(
    terminal: &Terminal,
    members: &Map<String, Value>,
    schema: &Schema,
    columns: Option<&[&str]>,
    switches: &Switches,
) -> String {
    let none = BTreeMap::new();
    let declared = schema.properties.as_ref().unwrap_or(&none);
    let mut names: Vec<&str> = match columns {
        Some(columns) => columns.to_vec(),
        None => printed_members(declared),
    };
    if names.is_empty() {
        names = members.keys().map(String::as_str).collect();
    }
    let rows: Vec<Map<String, Value>> = names
        .into_iter()
        .filter_map(|name| {
            let value = members.get(name).filter(|value| !value.is_null())?;
            let text = cell(value, declared.get(name), switches);
            Some(Map::from_iter([("key".to_owned(), Value::from(name)), ("value".to_owned(), Value::from(text))]))
        })
        .collect();
    let style = TableStyle::of(switches);
    table(terminal, &rows, &[Column::plain("key"), Column::plain("value")], &style)
}

fn rows(
    terminal: &Terminal,
    list: &[Value],
    items: &Schema,
    columns: Option<&[&str]>,
    style: &TableStyle,
) -> Result<String> {
    let none = BTreeMap::new();
    let declared = items.properties.as_ref().unwrap_or(&none);
    let rows: Vec<Map<String, Value>> = list.iter().map(|row| row.as_object().cloned().unwrap_or_default()).collect();
    let mut names: Vec<&str> = match columns {
        Some(columns) => columns.to_vec(),
        None => printed_members(declared),
    };
    if names.is_empty() {
        let all: std::collections::BTreeSet<&str> = rows.iter().flat_map(Map::keys).map(String::as_str).collect();
        names = all.into_iter().collect();
    }
    if names.is_empty() {
        return Err(Error::new("unable to detect list properties"));
    }
    let columns: Vec<Column> = names.into_iter().map(|name| Column::new(name, declared.get(name))).collect();
    Ok(table(terminal, &rows, &columns, style))
}

fn scalars(terminal: &Terminal, list: &[Value], items: Schema, switches: &Switches) -> String {
    let rows: Vec<Map<String, Value>> =
        list.iter().map(|value| Map::from_iter([("value".to_owned(), value.clone())])).collect();
    let style = TableStyle { header: false, ..TableStyle::of(switches) };
    table(terminal, &rows, &[Column::new("value", Some(&items))], &style)
}

/// The declared members: the required ones sorted, then the optional ones sorted.
fn printed_members(declared: &BTreeMap<String, Schema>) -> Vec<&str> {
    let (required, optional): (Vec<_>, Vec<_>) = declared.iter().partition(|(_, schema)| !schema.optional);
    required.into_iter().chain(optional).map(|(name, _)| name.as_str()).collect()
}

/// A declaration for data that has none.
fn guess(data: &Value) -> Schema {
    let kind = |value: &Value| match value {
        Value::Null => Kind::Null,
        Value::Object(_) => Kind::Object,
        Value::Array(_) => Kind::Array,
        _ => Kind::String,
    };
    let items = data.as_array().map(|list| {
        let kind = kind(list.first().unwrap_or(&Value::Null));
        Box::new(Schema { kind: Some(kind), ..Schema::default() })
    });
    Schema { kind: Some(kind(data)), items, ..Schema::default() }
}

/// Writes to standard output. A reader that has gone away is no error: it has seen what it wanted.
pub fn write(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests;
