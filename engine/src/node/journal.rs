//! `/nodes/{node}/syslog` and `/nodes/{node}/journal`: the system's journal, read by `journalctl`.
//! (PVE: pve-common PVE/Tools.pm, dump_journal; pve-manager PVE/API2/Nodes.pm, journal)

use crate::command::{self, Stream};
use crate::{Call, Error, Reply, Result};
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

/// The program that reads the journal.
const PROGRAM: &str = "journalctl";

/// Units that log under another name than the service's usual one.
fn unit_name(service: String) -> String {
    match service.as_str() {
        "postfix" => "postfix@-".into(),
        "sshd" => "ssh".into(),
        _ => service,
    }
}

/// `GET /nodes/{node}/syslog`: a page of lines.
pub fn syslog(call: &Call) -> Result<Reply> {
    let start: usize = call.opt("start")?.unwrap_or(0);
    let limit: usize = call.opt("limit")?.filter(|limit| *limit > 0).unwrap_or(50);
    let mut arguments: Vec<String> = ["-o", "short", "--no-pager"].map(str::to_owned).to_vec();
    for (name, option) in [("service", "--unit"), ("since", "--since"), ("until", "--until")] {
        if let Some(value) = call.text(name) {
            let value = if name == "service" { unit_name(value) } else { value };
            arguments.push(format!("{option}={value}"));
        }
    }
    let mut total = 0;
    let mut rows = Vec::new();
    read(&arguments, |line| {
        total += 1;
        if total > start && rows.len() < limit {
            rows.push(json!({ "n": total, "t": line }));
        }
    })?;
    if total == 0 {
        return Ok(Reply::from(json!([{ "n": 1, "t": "no content" }])).total(1));
    }
    Ok(Reply::from(Value::Array(rows)).total(total))
}

/// Hands over each line; a machine without journal has none.
fn read(arguments: &[String], mut line: impl FnMut(&str)) -> Result<()> {
    let outcome = command::run_lines(PROGRAM, arguments, |stream, text| {
        if stream == Stream::Output && !text.starts_with("-- ") {
            line(text);
        }
    });
    match outcome {
        Err(error) if error.message().starts_with(&format!("unable to start '{PROGRAM}'")) => Ok(()),
        other => other,
    }
}

/// `GET /nodes/{node}/journal`: the cursor of the first entry, the lines, the cursor of the last one.
pub fn journal(call: &Call) -> Result<Reply> {
    if call.flag("structured") {
        return Err(Error::NotImplemented("structured journal entries are not implemented".into()));
    }
    let end = call.text("endcursor");
    let mut cursors: Vec<String> = Vec::new();
    let mut lines = Vec::new();
    let mut ended = false;
    read(&arguments(call)?, |text| {
        let Ok(entry) = serde_json::from_str::<Value>(text) else { return };
        let cursor = entry["__CURSOR"].as_str().unwrap_or_default();
        ended |= end.as_deref() == Some(cursor);
        if !ended {
            cursors.push(cursor.to_owned());
            lines.push(Value::String(line_of(&entry)));
        }
    })?;
    // The newest entries before the end cursor: the program counts from the end of the journal.
    let wanted = call.opt::<usize>("lastentries")?.unwrap_or(usize::MAX);
    let skip = lines.len().saturating_sub(wanted);
    let mut answer: Vec<Value> = cursors.get(skip).map(|cursor| json!(cursor)).into_iter().collect();
    answer.extend(lines.into_iter().skip(skip));
    answer.extend(cursors.last().map(|cursor| json!(cursor)));
    Ok(Reply::from(Value::Array(answer)))
}

fn arguments(call: &Call) -> Result<Vec<String>> {
    let mut arguments: Vec<String> = ["-o", "json", "--no-pager"].map(str::to_owned).to_vec();
    for (name, option) in [("since", "--since=@"), ("until", "--until=@"), ("startcursor", "--after-cursor=")] {
        arguments.extend(call.text(name).map(|value| format!("{option}{value}")));
    }
    if let Some(count) = call.text("lastentries").filter(|_| !call.params.contains_key("endcursor")) {
        arguments.push(format!("--lines={count}"));
    }
    arguments.extend(call.text("priority").filter(|text| !text.is_empty()).map(|text| format!("--priority={text}")));
    arguments.extend(call.text("service").map(|name| format!("--identifier={name}")));
    arguments.extend(call.text("unit").map(|name| format!("--unit={}", unit_name(name))));
    if call.flag("kernel") {
        arguments.push("--dmesg".into());
    }
    Ok(arguments)
}

/// `Nov 22 20:01:02 host name[pid]: message`.
fn line_of(entry: &Value) -> String {
    let field = |name: &str| text_of(&entry[name]);
    let micros = field("__REALTIME_TIMESTAMP").parse().unwrap_or(0);
    let time = Timestamp::from_microsecond(micros).unwrap_or_default().to_zoned(TimeZone::system());
    let name = Some(field("SYSLOG_IDENTIFIER")).filter(|name| !name.is_empty()).unwrap_or_else(|| field("_COMM"));
    let pid = Some(field("_PID")).filter(|pid| !pid.is_empty()).map(|pid| format!("[{pid}]")).unwrap_or_default();
    format!("{} {} {name}{pid}: {}", time.strftime("%b %d %H:%M:%S"), field("_HOSTNAME"), field("MESSAGE"))
}

/// A field is text, or a list of bytes when it is not UTF-8.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_becomes_a_line() {
        let entry = json!({
            "__REALTIME_TIMESTAMP": "0", "_HOSTNAME": "h", "_COMM": "sh", "_PID": "7", "MESSAGE": [104, 105, 255],
        });
        let line = line_of(&entry);
        assert!(line.ends_with(" h sh[7]: hi\u{fffd}"), "{line}");
    }
}
