//! `/cluster/log`: what happened lately. PVE keeps a log of its own for this; here begin and end of tasks are what is
//! told, read from the journal, and what is wrong with configuration files, so that nothing is stored twice.
//! (PVE: pve-manager PVE/API2/Cluster.pm, log)

use crate::task::journal::{self, Record};
use crate::{Call, Context, Reply, Result, access, live};
use serde_json::{Value, json};

/// syslog's priority of a message that is no error.
const INFO: u8 = 6;
/// syslog's priority of something that is not as it should be.
const WARNING: u8 = 4;
/// syslog's priority of an error.
const ERROR: u8 = 3;

/// `GET /cluster/log`, newest first; without Sys.Syslog only what the caller did.
pub fn get(call: &Call) -> Result<Reply> {
    let max: usize = call.opt("max")?.unwrap_or(usize::MAX);
    let sees_all = access::has(call.ctx, "/", &["Sys.Syslog"]);
    let mut records = journal::active(call.ctx)?;
    records.retain(|record| record.end.is_none());
    records.extend(journal::archive(call.ctx)?);
    records.retain(|record| sees_all || record.upid.user_without_token() == call.ctx.caller.id());
    let mut entries: Vec<Value> = records.iter().flat_map(|record| of_task(call.ctx, record)).collect();
    if sees_all {
        entries.extend(live::problems(call.ctx)?.iter().map(|problem| {
            entry(call.ctx, problem.time, WARNING, std::process::id(), "root@pam", problem.text.clone())
        }));
    }
    entries.sort_by_key(|entry| std::cmp::Reverse(entry["time"].as_i64()));
    let total = entries.len();
    let rows = entries.into_iter().take(max).enumerate().map(|(index, mut entry)| {
        // Numbers grow with time, as in a log.
        let uid = total - index;
        entry["uid"] = json!(uid);
        entry["id"] = json!(format!("{uid}:{}", call.ctx.node));
        entry
    });
    Ok(Reply::from(Value::Array(rows.collect())))
}

/// The entries of a task, the end first.
fn of_task(ctx: &Context, record: &Record) -> Vec<Value> {
    let upid = &record.upid;
    let user = upid.user_without_token();
    let entry = |time, priority, text| entry(ctx, time, priority, upid.process.pid, &user, text);
    let begin = entry(upid.start_time, INFO, format!("starting task {upid}"));
    match &record.end {
        None => vec![begin],
        Some((time, status)) => {
            let is_good = status == "OK" || status.starts_with("WARNINGS: ");
            let priority = if is_good { INFO } else { ERROR };
            vec![entry(*time, priority, format!("end task {upid} {status}")), begin]
        }
    }
}

fn entry(ctx: &Context, time: i64, priority: u8, pid: u32, user: &str, text: String) -> Value {
    json!({ "time": time, "node": ctx.node, "pid": pid, "pri": priority, "tag": "pvedaemon", "user": user, "msg": text })
}
