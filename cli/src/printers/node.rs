//! The node: tasks, certificates, settings, replication, high availability.

use super::{number, push_line, sorted, sorted_by_number, sorted_by_text, text, text_of, text_or};
use crate::invocation::Invocation;
use crate::output::{self, Format, truthy};
use engine::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

/// `pvenode task log`: the lines themselves.
pub fn task_log(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(data.as_array().into_iter().flatten().map(|line| text(line, "t") + "\n").collect())
}

/// `pvenode task list`: any error is `ERROR`, no status is `UNKNOWN`.
pub fn task_list(data: &Value, invocation: &Invocation) -> Result<String> {
    let mut data = data.clone();
    for task in data.as_array_mut().into_iter().flatten() {
        let status = text(task, "status");
        let known = matches!(status.as_str(), "OK" | "RUNNING") || status.starts_with("WARNINGS");
        if !known {
            task["status"] = Value::from(if status.is_empty() { "UNKNOWN" } else { "ERROR" });
        }
    }
    let columns = ["upid", "type", "id", "user", "starttime", "endtime", "status"];
    let method = invocation.command.method();
    output::result(&data, method.map(|method| &method.returns), Some(&columns), &invocation.switches())
}

/// `pvenode cert info`: a table for each certificate.
pub fn certificates(data: &Value, invocation: &Invocation) -> Result<String> {
    let switches = invocation.switches();
    let returns = invocation.command.method().map(|method| &method.returns);
    if switches.format != Format::Text {
        return output::result(data, returns, None, &switches);
    }
    let columns = [
        "filename",
        "fingerprint",
        "subject",
        "issuer",
        "notbefore",
        "notafter",
        "public-key-type",
        "public-key-bits",
        "san",
    ];
    let item = returns.and_then(|schema| schema.items.as_deref());
    let tables = sorted_by_text(data, "filename");
    tables.into_iter().map(|certificate| output::result(certificate, item, Some(&columns), &switches)).collect()
}

/// `pvenode config get`: `key: value`, the description as a comment at the top.
pub fn config_file(data: &Value, _invocation: &Invocation) -> Result<String> {
    let mut lines = String::new();
    for line in text(data, "description").lines() {
        push_line(&mut lines, format_args!("#{line}"));
    }
    for (name, value) in data.as_object().map(sorted).unwrap_or_default() {
        if !matches!(name, "description" | "digest") {
            push_line(&mut lines, format_args!("{name}: {}", text_of(Some(value))));
        }
    }
    Ok(lines)
}

/// `pvenode acme account list`.
pub fn account_names(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(data.as_array().into_iter().flatten().map(|account| text(account, "name") + "\n").collect())
}

/// `pvenode wakeonlan`.
pub fn wake_on_lan(data: &Value, _invocation: &Invocation) -> Result<String> {
    Ok(format!("Wake on LAN packet send for '{}'\n", text_of(Some(data))))
}

/// `pvesr list`.
pub fn replication_list(data: &Value, _invocation: &Invocation) -> Result<String> {
    let mut lines = String::new();
    let mut line = |[id, target, schedule, rate, enabled]: [&str; 5]| {
        push_line(&mut lines, format_args!("{id:<20} {target:<20} {schedule:>10} {rate:>5} {enabled:>8}"));
    };
    line(["JobID", "Target", "Schedule", "Rate", "Enabled"]);
    for job in sorted_by_number(data, "guest") {
        let enabled = if is_disabled(job) { "no" } else { "yes" };
        let (schedule, rate) = (text_or(job, "schedule", "*/15"), text_or(job, "rate", "-"));
        line([&text(job, "id"), &target(job), &schedule, &rate, enabled]);
    }
    Ok(lines)
}

/// `pvesr status`.
pub fn replication_status(data: &Value, invocation: &Invocation) -> Result<String> {
    let now = invocation.ctx.clock.now() as f64;
    let mut lines = String::new();
    let mut line = |[id, enabled, target, last, next, duration, failures, state]: [&str; 8]| {
        push_line(
            &mut lines,
            format_args!(
                "{id:<10} {enabled:<10} {target:<20} {last:>20} {next:>20} {duration:>10} {failures:>10} {state}"
            ),
        );
    };
    line(["JobID", "Enabled", "Target", "LastSync", "NextSync", "Duration", "FailCount", "State"]);
    for job in sorted_by_number(data, "guest") {
        let enabled = if is_disabled(job) { "No" } else { "Yes" };
        let next = number(job, "next_sync");
        let next = if next != 0.0 && next <= now { "pending".to_owned() } else { time(next) };
        let state = if job.get("pid").is_some_and(truthy) { "SYNCING".to_owned() } else { text_or(job, "error", "OK") };
        let duration = if job.get("duration").is_some() { text(job, "duration") } else { "-".to_owned() };
        let (last, failures) = (time(number(job, "last_sync")), text(job, "fail_count"));
        line([&text(job, "id"), enabled, &target(job), &last, &next, &duration, &failures, &state]);
    }
    Ok(lines)
}

fn is_disabled(job: &Value) -> bool {
    job.get("disable").is_some_and(truthy)
}

fn target(job: &Value) -> String {
    format!("local/{}", text(job, "target"))
}

fn time(seconds: f64) -> String {
    let time = Timestamp::from_second(seconds as i64).ok().filter(|_| seconds != 0.0);
    time.map_or_else(|| "-".to_owned(), |time| time.to_zoned(TimeZone::system()).strftime("%F_%H:%M:%S").to_string())
}

/// `ha-manager config`: a block for each resource.
pub fn ha_resources(data: &Value, _invocation: &Invocation) -> Result<String> {
    let mut lines = String::new();
    for row in sorted_by_text(data, "sid") {
        let sid = text(row, "sid");
        let title = if sid.contains(':') { sid } else { format!("{}:{sid}", text(row, "type")) };
        block(&mut lines, &title, row, &["digest", "sid", "type", "errors"]);
    }
    Ok(lines)
}

/// `ha-manager groupconfig`: a block for each group.
pub fn ha_groups(data: &Value, _invocation: &Invocation) -> Result<String> {
    let mut lines = String::new();
    for row in sorted_by_text(data, "group") {
        block(&mut lines, &format!("group: {}", text(row, "group")), row, &["digest", "group", "type"]);
    }
    Ok(lines)
}

fn block(lines: &mut String, title: &str, row: &Value, skipped: &[&str]) {
    push_line(lines, title);
    for (name, value) in row.as_object().map(sorted).unwrap_or_default() {
        if !skipped.contains(&name) {
            push_line(lines, format_args!("\t{name} {}", text_of(Some(value))));
        }
    }
    lines.push('\n');
}
