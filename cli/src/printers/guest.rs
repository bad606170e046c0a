//! Lists, configurations, pending changes and snapshots of guests.

use super::{number, push_line, rows, sorted, sorted_by_text, text, text_of, text_or};
use crate::invocation::Invocation;
use engine::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// What is encoded in a description, so that it stays in its line: besides control and non-ASCII characters these two.
const DESCRIPTION: &AsciiSet = &CONTROLS.add(b'%').add(b':');

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// What `qm list` shows of a VM.
#[derive(Deserialize)]
struct Vm<'a> {
    vmid: u32,
    #[serde(borrow)]
    name: Cow<'a, str>,
    status: &'a str,
    qmpstatus: Option<&'a str>,
    maxmem: u64,
    maxdisk: u64,
    pid: Option<u32>,
}

/// `qm list`: ids right-aligned in ten columns. Nothing at all without a VM.
pub fn vm_list(text: &str) -> Result<String> {
    let mut rows: Vec<Vm> = rows(text)?;
    rows.sort_by_key(|row| row.vmid);
    let mut lines = String::new();
    if !rows.is_empty() {
        push_line(
            &mut lines,
            format_args!(
                "{:>10} {:<20} {:<10} {:<10} {:>12} {:<10}",
                "VMID", "NAME", "STATUS", "MEM(MB)", "BOOTDISK(GB)", "PID"
            ),
        );
    }
    for Vm { vmid, name, status, qmpstatus, maxmem, maxdisk, pid } in rows {
        let (status, pid) = (qmpstatus.unwrap_or(status), pid.unwrap_or(0));
        let memory = crate::output::number::general(maxmem as f64 / (1024.0 * 1024.0));
        let disk = maxdisk as f64 / GIB;
        push_line(&mut lines, format_args!("{vmid:>10} {name:<20} {status:<10} {memory:<10} {disk:>12.2} {pid:<10}"));
    }
    Ok(lines)
}

/// What `pct list` shows of a container.
#[derive(Deserialize)]
struct Container<'a> {
    vmid: u32,
    #[serde(borrow)]
    name: Cow<'a, str>,
    status: &'a str,
    lock: Option<Cow<'a, str>>,
}

/// `pct list`: ids at the start of the line. Nothing at all without a container.
pub fn container_list(text: &str) -> Result<String> {
    let mut rows: Vec<Container> = rows(text)?;
    rows.sort_by_key(|row| row.vmid);
    let mut lines = String::new();
    if !rows.is_empty() {
        push_line(&mut lines, format_args!("{:<10} {:<10} {:<12} {:<20}", "VMID", "Status", "Lock", "Name"));
    }
    for Container { vmid, name, status, lock } in rows {
        let lock = lock.unwrap_or_default();
        push_line(&mut lines, format_args!("{vmid:<10} {status:<10} {lock:<12} {name:<20}"));
    }
    Ok(lines)
}

/// `qm config`: `key: value`, sorted.
pub fn vm_config(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(config_lines(data, &["digest"]))
}

/// `pct config`: `key: value`, sorted; raw `lxc.*` entries follow in their own order.
pub fn container_config(data: &Value, _invocation: &Invocation) -> Result<String> {
    let mut lines = config_lines(data, &["digest", "lxc"]);
    for entry in data.get("lxc").and_then(Value::as_array).into_iter().flatten() {
        push_line(&mut lines, format_args!("{}: {}", text_of(entry.get(0)), text_of(entry.get(1))));
    }
    Ok(lines)
}

/// `key: value`, sorted.
pub fn key_values(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(config_lines(data, &[]))
}

pub(super) fn config_lines(data: &Value, skipped: &[&str]) -> String {
    let mut lines = String::new();
    for (name, value) in data.as_object().map(sorted).unwrap_or_default() {
        if !skipped.contains(&name) {
            push_line(&mut lines, format_args!("{name}: {}", in_one_line(name, text_of(Some(value)))));
        }
    }
    lines
}

fn in_one_line(name: &str, value: String) -> String {
    if name == "description" { utf8_percent_encode(&value, DESCRIPTION).to_string() } else { value }
}

/// `pending`: what is set (`cur`), what will be (`new`) and what will go (`del`).
pub fn pending(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(pending_lines(data))
}

pub(super) fn pending_lines(data: &Value) -> String {
    let mut lines = String::new();
    for row in sorted_by_text(data, "key") {
        let key = text(row, "key");
        let member = |name: &str| {
            let value = row.get(name).filter(|value| !value.is_null())?;
            Some(in_one_line(&key, text_of(Some(value))))
        };
        let deleted = row.get("delete").is_some_and(crate::output::truthy);
        match (member("value"), member("pending")) {
            _ if key == "digest" => {}
            (Some(value), _) if deleted => push_line(&mut lines, format_args!("del {key}: {value}")),
            (value, new) => {
                for (word, value) in [("cur", value), ("new", new)] {
                    if let Some(value) = value {
                        push_line(&mut lines, format_args!("{word} {key}: {value}"));
                    }
                }
            }
        }
    }
    lines
}

/// `listsnapshot`: the tree of snapshots, children below their parent.
pub fn snapshots(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(snapshot_tree(data, &TimeZone::system()))
}

pub(super) fn snapshot_tree(data: &Value, zone: &TimeZone) -> String {
    let rows: Vec<&Value> = data.as_array().into_iter().flatten().collect();
    let names: Vec<String> = rows.iter().map(|row| text(row, "name")).collect();
    let mut children: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for row in rows {
        let parent = text(row, "parent");
        // A snapshot whose parent is gone is a root.
        children.entry(if names.contains(&parent) { parent } else { String::new() }).or_default().push(row);
    }
    children.values_mut().for_each(|rows| rows.sort_by(|a, b| by_age(a, b)));
    let mut lines = String::new();
    push_snapshots(&mut lines, &children, "", "`->", zone);
    lines
}

/// Older ones first; `current` has no time and comes last.
fn by_age(a: &Value, b: &Value) -> Ordering {
    let time = |row: &Value| row.get("snaptime").filter(|time| !time.is_null()).map(|_| number(row, "snaptime"));
    match (time(a), time(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    }
}

fn push_snapshots(
    lines: &mut String,
    children: &BTreeMap<String, Vec<&Value>>,
    parent: &str,
    prefix: &str,
    zone: &TimeZone,
) {
    for row in children.get(parent).into_iter().flatten() {
        let name = text(row, "name");
        let width = 30_usize.saturating_sub(prefix.len());
        let description = text_or(row, "description", "no-description");
        let description = description.lines().next().unwrap_or_default();
        let taken = row.get("snaptime").filter(|time| !time.is_null());
        let time = taken.and_then(|_| Timestamp::from_second(number(row, "snaptime") as i64).ok());
        let time = time.map(|time| time.to_zoned(zone.clone()).strftime("%F %H:%M:%S").to_string()).unwrap_or_default();
        push_line(lines, format_args!("{prefix} {name:<width$} {time:<23} {description}"));
        if !name.is_empty() {
            push_snapshots(lines, children, &name, &format!(" {prefix}"), zone);
        }
    }
}
