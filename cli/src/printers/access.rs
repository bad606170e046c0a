//! Tickets and permissions.

use super::{push_line, sorted, text};
use crate::invocation::Invocation;
use crate::output::{self, Column, Format, TableStyle, Terminal, table, truthy};
use engine::Result;
use serde_json::{Map, Value};

/// `pveum ticket`: the ticket alone.
pub fn ticket(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(text(data, "ticket") + "\n")
}

/// `pveum user permissions`: a row for each path, one privilege a line, and what the star means.
pub fn permissions(data: &Value, invocation: &Invocation) -> Result<String> {
    let switches = invocation.switches();
    if switches.format != Format::Text {
        return output::result(data, None, None, &switches);
    }
    let rows: Vec<Map<String, Value>> = data
        .as_object()
        .map(sorted)
        .unwrap_or_default()
        .into_iter()
        .map(|(path, privileges)| {
            let marked =
                |(name, propagates): (&str, &Value)| format!("{name}{}", if truthy(propagates) { " (*)" } else { "" });
            let privileges: Vec<String> =
                privileges.as_object().map(sorted).unwrap_or_default().into_iter().map(marked).collect();
            let row = [("path", path.to_owned()), ("permissions", privileges.join("\n"))];
            row.into_iter().map(|(name, text)| (name.to_owned(), Value::from(text))).collect()
        })
        .collect();
    let columns = [Column::plain("path").titled("ACL path"), Column::plain("permissions").titled("Permissions")];
    let mut lines = String::new();
    if !switches.quiet && !rows.is_empty() {
        lines = table(&Terminal::detect(), &rows, &columns, &TableStyle::of(&switches));
    }
    push_line(&mut lines, "Permissions marked with '(*)' have the 'propagate' flag set.");
    Ok(lines)
}
