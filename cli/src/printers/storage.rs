//! Storages, their content, and what a scan of a server finds.

use super::columns::{longest, pairs};
use super::{number, push_line, rows, sorted_by_text, text, text_of, text_or};
use crate::invocation::Invocation;
use crate::output::truthy;
use engine::Result;
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;

/// `pvesm status`: sizes in KiB.
pub fn status(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(status_lines(data))
}

pub(super) fn status_lines(data: &Value) -> String {
    let rows = sorted_by_text(data, "storage");
    let names: Vec<String> = rows.iter().map(|row| text(row, "storage")).collect();
    let width = longest(names.iter().map(String::as_str)) + 1;
    let mut lines = String::new();
    push_line(
        &mut lines,
        format_args!(
            "{:<width$} {:>10} {:>10} {:>15} {:>15} {:>15} {:>8}",
            "Name", "Type", "Status", "Total (KiB)", "Used (KiB)", "Available (KiB)", "%"
        ),
    );
    for (row, name) in rows.iter().zip(names) {
        let is = |member: &str| row.get(member).is_some_and(truthy);
        let (state, share) = match (is("enabled"), is("active")) {
            (false, _) => ("disabled", "N/A".to_owned()),
            (true, active) => (if active { "active" } else { "inactive" }, share(row)),
        };
        let kib = |member: &str| (number(row, member) / 1024.0).trunc();
        let (total, used, available, kind) = (kib("total"), kib("used"), kib("avail"), text(row, "type"));
        push_line(
            &mut lines,
            format_args!("{name:<width$} {kind:>10} {state:>10} {total:>15} {used:>15} {available:>15} {share:>8}"),
        );
    }
    lines
}

/// How much of a storage is in use: seven columns and a per cent sign.
fn share(row: &Value) -> String {
    let total = number(row, "total");
    let share = if total > 0.0 { number(row, "used") * 100.0 / total } else { 0.0 };
    format!("{share:>7.2}%")
}

/// What `pvesm list` shows of a volume.
#[derive(Deserialize)]
struct Volume<'a> {
    #[serde(borrow)]
    volid: Cow<'a, str>,
    #[serde(borrow)]
    format: Cow<'a, str>,
    content: &'a str,
    size: u64,
    vmid: Option<u32>,
}

/// `pvesm list`: volumes of guests first.
pub fn content(text: &str) -> Result<String> {
    let rows: Vec<Volume> = rows(text)?;
    let digits = rows.iter().map(|row| row.size).max().unwrap_or(0).to_string().len();
    let width = longest(rows.iter().map(|row| &*row.volid));
    let mut lines = String::new();
    push_line(&mut lines, format_args!("{:<width$} {:<7} {:<9} {:>digits$} VMID", "Volid", "Format", "Type", "Size"));
    let line = |row: &Volume| {
        let Volume { volid, format, content, size, .. } = row;
        format!("{volid:<width$} {format:<7} {content:<9} {size:>digits$}")
    };
    let (owned, mut others): (Vec<Volume>, Vec<Volume>) = rows.into_iter().partition(|row| row.vmid.is_some());
    for row in owned {
        push_line(&mut lines, format_args!("{} {}", line(&row), row.vmid.unwrap_or_default()));
    }
    others.sort_by(|a, b| a.format.cmp(&b.format));
    others.iter().for_each(|row| push_line(&mut lines, line(row)));
    Ok(lines)
}

/// `pvesm alloc`.
pub fn allocated(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(format!("successfully created '{}'\n", text_of(Some(data))))
}

/// `pvesm import`.
pub fn imported(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(format!("successfully imported '{}'\n", text_of(Some(data))))
}

/// `pvesm prune-backups`: a preview is printed, work is not.
pub fn prune(data: &Value, _invocation: &Invocation) -> Result<String> {
    if !data.get("dryrun").is_some_and(truthy) {
        return Ok(String::new());
    }
    let mut rows: Vec<&Value> = data.get("list").and_then(Value::as_array).into_iter().flatten().collect();
    if rows.is_empty() {
        return Ok("No backups found\n".to_owned());
    }
    rows.sort_by(|a, b| {
        let key = |row: &Value| (number(row, "vmid"), number(row, "ctime"));
        key(a).0.total_cmp(&key(b).0).then(key(a).1.total_cmp(&key(b).1))
    });
    let ids: Vec<String> = rows.iter().map(|row| text(row, "volid")).collect();
    let width = longest(ids.iter().map(String::as_str)) + 1;
    let mut lines = "NOTE: this is only a preview and might not be what a subsequent\n\
                     prune call does if backups are removed/added in the meantime.\n\n"
        .to_owned();
    push_line(&mut lines, format_args!("{:<width$} {:>15} {:>10}", "Backup", "Backup-ID", "Prune-Mark"));
    for (row, volume) in rows.into_iter().zip(ids) {
        let (kind, vmid) = (text(row, "type"), text(row, "vmid"));
        let id = if vmid.is_empty() { kind } else { format!("{kind}/{vmid}") };
        push_line(&mut lines, format_args!("{volume:<width$} {id:>15} {:>10}", text(row, "mark")));
    }
    Ok(lines)
}

/// `pveam list`: sizes in MiB.
pub fn templates(data: &Value, _invocation: &Invocation) -> Result<String> {
    let mut lines = format!("{:<60} {:<6}\n", "NAME", "SIZE");
    for row in sorted_by_text(data, "volid") {
        let size = number(row, "size") / (1024.0 * 1024.0);
        push_line(&mut lines, format_args!("{:<60} {size:<4.2}MB", text(row, "volid")));
    }
    Ok(lines)
}

fn two_members(data: &Value, first: &str, second: &str) -> String {
    let rows = data.as_array().into_iter().flatten();
    let rows: Vec<(String, String)> = rows.map(|row| (text(row, first), text(row, second))).collect();
    pairs(&rows)
}

fn one_member(data: &Value, name: &str) -> String {
    data.as_array().into_iter().flatten().map(|row| text_or(row, name, "") + "\n").collect()
}

/// `pvesm scan nfs`.
pub fn scan_nfs(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(two_members(data, "path", "options"))
}

/// `pvesm scan cifs`.
pub fn scan_cifs(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(two_members(data, "share", "description"))
}

/// `pvesm scan iscsi`.
pub fn scan_iscsi(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(two_members(data, "target", "portal"))
}

/// `pvesm scan lvm`.
pub fn scan_lvm(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(one_member(data, "vg"))
}

/// `pvesm scan lvmthin`.
pub fn scan_lvmthin(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(one_member(data, "lv"))
}

/// `pvesm scan zfs`.
pub fn scan_zfs(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(one_member(data, "pool"))
}
