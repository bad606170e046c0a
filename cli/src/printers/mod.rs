//! Forms of results that belong to one command: the lines and tables that scripts take apart.
//! Owns the table from command to printer. A printer builds text from the method's answer and nothing else.

mod access;
mod columns;
mod guest;
mod node;
mod storage;

use crate::invocation::Invocation;
use crate::output::{Switches, cell};
use engine::{Error, Result};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::fmt::Write;

/// Builds the text of a result, its line breaks included.
#[derive(Clone, Copy)]
pub enum Printer {
    /// From values.
    Values(fn(&Value, &Invocation) -> Result<String>),
    /// From the JSON text of a list that may be long: making values of all that it does not show would be noticed.
    Long(fn(&str) -> Result<String>),
}

use Printer::{Long, Values};

const TABLE: &[(&str, &str, Printer)] = &[
    ("pct", "config", Values(guest::container_config)),
    ("pct", "list", Long(guest::container_list)),
    ("pct", "listsnapshot", Values(guest::snapshots)),
    ("pct", "pending", Values(guest::pending)),
    ("pveam", "list", Values(storage::templates)),
    ("pvenode", "acme account list", Values(node::account_names)),
    ("pvenode", "cert info", Values(node::certificates)),
    ("pvenode", "config get", Values(node::config_file)),
    ("pvenode", "task list", Values(node::task_list)),
    ("pvenode", "task log", Values(node::task_log)),
    ("pvenode", "wakeonlan", Values(node::wake_on_lan)),
    ("pvesm", "alloc", Values(storage::allocated)),
    ("pvesm", "import", Values(storage::imported)),
    ("pvesm", "list", Long(storage::content)),
    ("pvesm", "prune-backups", Values(storage::prune)),
    ("pvesm", "scan cifs", Values(storage::scan_cifs)),
    ("pvesm", "scan iscsi", Values(storage::scan_iscsi)),
    ("pvesm", "scan lvm", Values(storage::scan_lvm)),
    ("pvesm", "scan lvmthin", Values(storage::scan_lvmthin)),
    ("pvesm", "scan nfs", Values(storage::scan_nfs)),
    ("pvesm", "scan zfs", Values(storage::scan_zfs)),
    ("pvesm", "status", Values(storage::status)),
    ("pvesr", "list", Values(node::replication_list)),
    ("pvesr", "status", Values(node::replication_status)),
    ("pvesubscription", "get", Values(guest::key_values)),
    ("pveum", "ticket", Values(access::ticket)),
    ("pveum", "user permissions", Values(access::permissions)),
    ("pveum", "user token permissions", Values(access::permissions)),
    ("qm", "cloudinit pending", Values(guest::pending)),
    ("qm", "config", Values(guest::vm_config)),
    ("qm", "list", Long(guest::vm_list)),
    ("qm", "listsnapshot", Values(guest::snapshots)),
    ("qm", "pending", Values(guest::pending)),
    ("ha-manager", "config", Values(node::ha_resources)),
    ("ha-manager", "groupconfig", Values(node::ha_groups)),
];

/// The printer of a command, if it has a form of its own.
pub fn find(tool: &str, words: &str) -> Option<Printer> {
    TABLE
        .iter()
        .find(|(row_tool, row_words, _)| *row_tool == tool && *row_words == words)
        .map(|(_, _, printer)| *printer)
}

/// The rows of a list, of which a printer names the members that it shows.
fn rows<'a, T: Deserialize<'a>>(text: &'a str) -> Result<Vec<T>> {
    serde_json::from_str(text).map_err(|error| Error::new(format!("unable to read the list - {error}")))
}

/// The value as it is: text as a line, lists line by line, nothing for null.
pub fn plain(data: &Value) -> String {
    match data {
        Value::Null => String::new(),
        Value::Array(list) => list.iter().map(|value| text_of(Some(value)) + "\n").collect(),
        Value::Object(_) => crate::output::json::pretty(data),
        scalar => text_of(Some(scalar)) + "\n",
    }
}

/// A member as text; nothing if it is missing.
fn text(row: &Value, name: &str) -> String {
    text_of(row.get(name))
}

fn text_of(value: Option<&Value>) -> String {
    value.map(|value| cell(value, None, &Switches::default())).unwrap_or_default()
}

/// A member as text, or another text if it is missing, empty or zero.
fn text_or(row: &Value, name: &str, otherwise: &str) -> String {
    match row.get(name) {
        Some(value) if crate::output::truthy(value) => text_of(Some(value)),
        _ => otherwise.to_owned(),
    }
}

fn number(row: &Value, name: &str) -> f64 {
    text(row, name).parse().unwrap_or(0.0)
}

/// The elements of a list, in the order of a numeric member.
fn sorted_by_number<'a>(data: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut rows: Vec<&Value> = data.as_array().into_iter().flatten().collect();
    rows.sort_by(|a, b| number(a, name).total_cmp(&number(b, name)));
    rows
}

/// The elements of a list, in the order of a member that is text.
fn sorted_by_text<'a>(data: &'a Value, name: &str) -> Vec<&'a Value> {
    let mut rows: Vec<&Value> = data.as_array().into_iter().flatten().collect();
    rows.sort_by_key(|row| text(row, name));
    rows
}

/// Members in the order of their names.
fn sorted(members: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut members: Vec<(&str, &Value)> = members.iter().map(|(name, value)| (name.as_str(), value)).collect();
    members.sort_by_key(|(name, _)| *name);
    members
}

/// Adds a line; writing into memory cannot fail.
fn push_line(text: &mut String, line: impl std::fmt::Display) {
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests;
