//! Forms of results that belong to one command: the lines and tables that scripts take apart.
//! Owns the table from command to printer. A printer builds text from the method's answer and nothing else.

mod access;
mod columns;
mod guest;
mod node;
mod storage;

use crate::invocation::Invocation;
use crate::output::{Switches, cell};
use engine::Result;
use serde_json::{Map, Value};
use std::fmt::Write;

/// Builds the text of a result, its line breaks included.
pub type Printer = fn(&Value, &Invocation) -> Result<String>;

const TABLE: &[(&str, &str, Printer)] = &[
    ("pct", "config", guest::container_config),
    ("pct", "list", guest::container_list),
    ("pct", "listsnapshot", guest::snapshots),
    ("pct", "pending", guest::pending),
    ("pveam", "list", storage::templates),
    ("pvenode", "acme account list", node::account_names),
    ("pvenode", "cert info", node::certificates),
    ("pvenode", "config get", node::config_file),
    ("pvenode", "task list", node::task_list),
    ("pvenode", "task log", node::task_log),
    ("pvenode", "wakeonlan", node::wake_on_lan),
    ("pvesm", "alloc", storage::allocated),
    ("pvesm", "import", storage::imported),
    ("pvesm", "list", storage::content),
    ("pvesm", "prune-backups", storage::prune),
    ("pvesm", "scan cifs", storage::scan_cifs),
    ("pvesm", "scan iscsi", storage::scan_iscsi),
    ("pvesm", "scan lvm", storage::scan_lvm),
    ("pvesm", "scan lvmthin", storage::scan_lvmthin),
    ("pvesm", "scan nfs", storage::scan_nfs),
    ("pvesm", "scan zfs", storage::scan_zfs),
    ("pvesm", "status", storage::status),
    ("pvesr", "list", node::replication_list),
    ("pvesr", "status", node::replication_status),
    ("pvesubscription", "get", guest::key_values),
    ("pveum", "ticket", access::ticket),
    ("pveum", "user permissions", access::permissions),
    ("pveum", "user token permissions", access::permissions),
    ("qm", "cloudinit pending", guest::pending),
    ("qm", "config", guest::vm_config),
    ("qm", "list", guest::vm_list),
    ("qm", "listsnapshot", guest::snapshots),
    ("qm", "pending", guest::pending),
    ("ha-manager", "config", node::ha_resources),
    ("ha-manager", "groupconfig", node::ha_groups),
];

/// The printer of a command, if it has a form of its own.
pub fn find(tool: &str, words: &str) -> Option<Printer> {
    TABLE
        .iter()
        .find(|(row_tool, row_words, _)| *row_tool == tool && *row_words == words)
        .map(|(_, _, printer)| *printer)
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
