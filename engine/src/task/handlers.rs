//! `/nodes/{node}/tasks` and `/cluster/tasks`: lists, logs, states and the end of tasks.
//! Owns the shape of the answers and who may see a task; the records are the journal's.
//! (PVE: pve-manager PVE/API2/Tasks.pm; pve-common PVE/Tools.pm, dump_logfile)

use super::journal::{self, Record};
use super::{Upid, stop};
use crate::call::Download;
use crate::registry::{Binding, delete, get};
use crate::{Call, Caller, Error, Reply, Result, access};
use serde_json::{Map, Value, json};

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/nodes/{node}/tasks", list),
    delete("/nodes/{node}/tasks/{upid}", end),
    get("/nodes/{node}/tasks/{upid}/log", log),
    get("/nodes/{node}/tasks/{upid}/status", status),
    get("/cluster/tasks", recent),
];

/// What a list is reduced to.
struct Filter {
    user: Option<String>,
    kind: Option<String>,
    id: Option<String>,
    since: i64,
    until: i64,
    states: Vec<String>,
}

impl Filter {
    fn of(call: &Call) -> Result<Self> {
        let all = || ["ok", "warning", "error", "unknown"].map(str::to_owned).to_vec();
        let states = match call.opt::<Vec<String>>("statusfilter")? {
            _ if call.flag("errors") => all().split_off(1),
            Some(states) => states.iter().map(|state| state.to_lowercase()).collect(),
            None => all(),
        };
        Ok(Filter {
            user: call.text("userfilter").map(|text| text.to_lowercase()),
            kind: call.text("typefilter"),
            id: call.text("vmid"),
            since: call.opt("since")?.unwrap_or(i64::MIN),
            until: call.opt("until")?.unwrap_or(i64::MAX),
            states,
        })
    }

    fn lets_through(&self, record: &Record) -> bool {
        let upid = &record.upid;
        let user = upid.user_without_token().to_lowercase();
        let state = state_class(record.end.as_ref().map(|(_, status)| status.as_str()));
        self.user.as_ref().is_none_or(|part| user.contains(part))
            && self.kind.as_ref().is_none_or(|kind| upid.kind == *kind)
            && self.id.as_ref().is_none_or(|id| upid.id == *id)
            && (self.since..=self.until).contains(&upid.start_time)
            && self.states.iter().any(|wanted| wanted == state)
    }
}

/// The class of a final status; a task that runs is `unknown`. (PVE: pve-common PVE/UPID.pm)
fn state_class(status: Option<&str>) -> &'static str {
    match status {
        None | Some("" | "unexpected status") => "unknown",
        Some("OK") => "ok",
        Some(text)
            if text
                .strip_prefix("WARNINGS: ")
                .is_some_and(|count| !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit())) =>
        {
            "warning"
        }
        Some(_) => "error",
    }
}

/// A token sees what tokens of its name started; a user sees the own tasks and those of the own tokens.
fn is_own(caller: &Caller, upid: &Upid) -> bool {
    caller.id() == upid.user || caller.id() == upid.user_without_token()
}

fn list(call: &Call) -> Result<Reply> {
    let filter = Filter::of(call)?;
    let source = call.text("source").unwrap_or_else(|| "archive".into());
    let start: usize = call.opt("start")?.unwrap_or(0);
    let limit: usize = call.opt("limit")?.unwrap_or(50);
    // Looked at in any case: this gives an end to tasks whose process is gone.
    let mut records = journal::active(call.ctx)?;
    records.retain(|record| record.end.is_none() && source != "archive");
    if source != "active" {
        records.extend(journal::archive(call.ctx)?);
    }
    let is_auditor = access::has(call.ctx, &format!("/nodes/{}", call.ctx.node), &["Sys.Audit"]);
    let is_visible = |record: &Record| is_auditor || is_own(&call.ctx.caller, &record.upid);
    records.retain(|record| is_visible(record) && filter.lets_through(record));
    let total = records.len();
    let rows = records.iter().skip(start).take(limit).map(|record| row(record, "RUNNING")).collect();
    Ok(Reply::from(Value::Array(rows)).total(total))
}

/// The running and the latest finished tasks of all nodes.
fn recent(call: &Call) -> Result<Reply> {
    let is_auditor = access::has(call.ctx, "/", &["Sys.Audit"]);
    let rows = journal::active(call.ctx)?
        .iter()
        .filter(|record| is_auditor || record.upid.user_without_token() == call.ctx.caller.id())
        .map(|record| row(record, ""))
        .collect();
    Ok(Reply::from(Value::Array(rows)))
}

/// A list's row; `running` stands in `status` while there is no other, unless it is empty.
fn row(record: &Record, running: &str) -> Value {
    let mut row = members(&record.upid);
    match &record.end {
        Some((time, status)) => {
            row.insert("endtime".into(), json!(time));
            row.insert("status".into(), json!(status));
        }
        None if running.is_empty() => {}
        None => {
            row.insert("status".into(), json!(running));
        }
    }
    Value::Object(row)
}

fn members(upid: &Upid) -> Map<String, Value> {
    let mut members = Map::new();
    let mut set = |name: &str, value: Value| members.insert(name.to_owned(), value);
    set("upid", json!(upid.to_string()));
    set("node", json!(upid.node));
    set("pid", json!(upid.process.pid));
    set("pstart", json!(upid.process.start));
    set("starttime", json!(upid.start_time));
    set("type", json!(upid.kind));
    set("id", json!(upid.id));
    set("user", json!(upid.user_without_token()));
    if let Some(token) = upid.token() {
        set("tokenid", json!(token));
    }
    members
}

/// The task of the call, if the caller started it or has `privilege` on the node.
fn readable(call: &Call, privilege: &str) -> Result<Upid> {
    let text: String = call.param("upid")?;
    let upid: Upid = text.parse().map_err(|_| Error::parameter("upid", "unable to parse worker upid"))?;
    if !is_own(&call.ctx.caller, &upid) {
        access::check(call.ctx, &format!("/nodes/{}", call.ctx.node), &[privilege])?;
    }
    Ok(upid)
}

fn assert_known(call: &Call, upid: &Upid) -> Result<()> {
    if journal::log_path(call.ctx, upid).is_file() {
        return Ok(());
    }
    Err(Error::parameter("upid", "no such task"))
}

fn status(call: &Call) -> Result<Reply> {
    let upid = readable(call, "Sys.Audit")?;
    assert_known(call, &upid)?;
    let mut status = members(&upid);
    if upid.process.is_alive() {
        status.insert("status".into(), json!("running"));
    } else {
        status.insert("status".into(), json!("stopped"));
        status.insert("exitstatus".into(), json!(journal::status_from_log(call.ctx, &upid)));
    }
    Ok(Reply::from(Value::Object(status)))
}

fn log(call: &Call) -> Result<Reply> {
    let upid = readable(call, "Sys.Audit")?;
    if call.flag("download") {
        if call.params.contains_key("start") || call.params.contains_key("limit") {
            return Err(Error::new("'download' cannot be used together with 'start' or 'limit' parameters"));
        }
        assert_known(call, &upid)?;
        return Ok(Reply { download: Some(download(call, &upid)), ..Reply::default() });
    }
    let start: usize = call.opt("start")?.unwrap_or(0);
    let limit: usize = call.opt("limit")?.unwrap_or(50);
    let line = |number: usize, text: &str| json!({ "n": number, "t": text });
    if !journal::log_path(call.ctx, &upid).is_file() {
        let rows = vec![line(1, "unable to open file - No such file or directory")];
        return Ok(Reply::from(Value::Array(rows)).total(1));
    }
    let (lines, total) = journal::read_log(call.ctx, &upid, start, limit)?;
    if total == 0 {
        return Ok(Reply::from(Value::Array(vec![line(1, "no content")])).total(1));
    }
    let rows = lines.iter().enumerate().map(|(index, text)| line(start + index + 1, text)).collect();
    Ok(Reply::from(Value::Array(rows)).total(total))
}

fn download(call: &Call, upid: &Upid) -> Download {
    let time = jiff::Timestamp::from_second(upid.start_time).map(|time| time.to_string()).unwrap_or_default();
    Download {
        path: journal::log_path(call.ctx, upid),
        content_type: "text/plain".into(),
        file_name: Some(format!("task-{}-{}-{time}.log", upid.node, upid.kind)),
    }
}

fn end(call: &Call) -> Result<Reply> {
    let upid = readable(call, "Sys.Modify")?;
    assert_known(call, &upid)?;
    stop::stop(call.ctx, &upid);
    Ok(Reply::null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, Mode, registry};
    use contract::Verb;

    /// Enters tasks of other, ended processes: `(kind, id, user, status)`, the start time counts up from 1000.
    fn history(ctx: &Context, tasks: &[(&str, &str, &str, &str)]) -> Vec<Upid> {
        let mut upids = Vec::new();
        for (start_time, (kind, id, user, status)) in (1000..).zip(tasks) {
            let text = format!("UPID:pve1:003FFFFF:00000001:{start_time:08X}:{kind}:{id}:{user}:");
            let upid: Upid = text.parse().unwrap();
            // The journal looks at the log of a process that has ended.
            let path = journal::log_path(ctx, &upid);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            let last = if *status == "OK" { "TASK OK".into() } else { format!("TASK ERROR: {status}") };
            std::fs::write(path, format!("line\n{last}\n")).unwrap();
            journal::begin(ctx, &upid).unwrap();
            upids.push(upid);
        }
        upids
    }

    fn call(ctx: &Context, verb: Verb, template: &str, params: Value) -> Result<Reply> {
        let Value::Object(mut params) = params else { panic!("parameters are an object") };
        if template.contains("{node}") {
            params.insert("node".into(), "pve1".into());
        }
        registry::run(ctx, verb, template, params)
    }

    #[test]
    fn lists_are_newest_first_and_filters_narrow_them() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let tasks = [
            ("qmstart", "100", "root@pam", "OK"),
            ("qmstart", "101", "root@pam!ci", "no such bridge"),
            ("vzdump", "", "joe@pve", "OK"),
        ];
        history(&ctx, &tasks);
        let list = |params: Value| {
            let reply = call(&ctx, Verb::Get, "/nodes/{node}/tasks", params).unwrap();
            let types: Vec<String> =
                reply.data.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
            (types, reply.total.unwrap())
        };
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(list(json!({})), (ids(&["", "101", "100"]), 3));
        assert_eq!(list(json!({ "start": 1, "limit": 1 })), (ids(&["101"]), 3));
        assert_eq!(list(json!({ "errors": 1 })), (ids(&["101"]), 1));
        assert_eq!(list(json!({ "statusfilter": "ok" })), (ids(&["", "100"]), 2));
        assert_eq!(list(json!({ "typefilter": "vzdump" })), (ids(&[""]), 1));
        assert_eq!(list(json!({ "userfilter": "ROOT" })), (ids(&["101", "100"]), 2));
        assert_eq!(list(json!({ "vmid": 100 })), (ids(&["100"]), 1));
        assert_eq!(list(json!({ "since": 1001, "until": 1001 })), (ids(&["101"]), 1));
        assert_eq!(list(json!({ "source": "active" })), (ids(&[]), 0));
    }

    #[test]
    fn a_token_is_told_apart_from_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let upid = history(&ctx, &[("qmstart", "100", "root@pam!ci", "failed badly")]).remove(0);
        let status =
            call(&ctx, Verb::Get, "/nodes/{node}/tasks/{upid}/status", json!({ "upid": upid.to_string() })).unwrap();
        assert_eq!(status.data["user"], "root@pam");
        assert_eq!(status.data["tokenid"], "ci");
        assert_eq!(status.data["status"], "stopped");
        assert_eq!(status.data["exitstatus"], "failed badly");
        assert!(is_own(&Caller::verified("root@pam"), &upid) && is_own(&Caller::verified("root@pam!ci"), &upid));
        assert!(!is_own(&Caller::verified("root@pam!other"), &upid));
    }

    #[test]
    fn logs_are_paged_and_never_empty() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let upid = history(&ctx, &[("qmstart", "100", "root@pam", "OK")]).remove(0);
        let log = |params: Value| {
            let mut params = params;
            params["upid"] = json!(upid.to_string());
            call(&ctx, Verb::Get, "/nodes/{node}/tasks/{upid}/log", params)
        };
        let reply = log(json!({ "start": 1 })).unwrap();
        assert_eq!(reply.data, json!([{ "n": 2, "t": "TASK OK" }]));
        assert_eq!(reply.total, Some(2));
        let download = log(json!({ "download": 1 })).unwrap().download.unwrap();
        assert_eq!(download.file_name.as_deref(), Some("task-pve1-qmstart-1970-01-01T00:16:40Z.log"));
        assert!(log(json!({ "download": 1, "limit": 0 })).is_err());
        std::fs::write(journal::log_path(&ctx, &upid), "").unwrap();
        let reply = log(json!({})).unwrap();
        assert_eq!((reply.data, reply.total), (json!([{ "n": 1, "t": "no content" }]), Some(1)));
    }

    #[test]
    fn a_stranger_to_the_journal_is_a_parameter_error() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context { mode: Mode::Foreground, ..Context::for_test(directory.path()) };
        for (upid, text) in [
            ("x", "unable to parse worker upid"),
            ("UPID:pve1:003FFFFF:00000001:00000001:qmstart:100:root@pam:", "no such task"),
        ] {
            for (verb, template) in
                [(Verb::Get, "/nodes/{node}/tasks/{upid}/status"), (Verb::Delete, "/nodes/{node}/tasks/{upid}")]
            {
                let error = call(&ctx, verb, template, json!({ "upid": upid })).unwrap_err();
                assert!(error.to_string().contains(text), "{error}");
                assert_eq!(error.status(), 400);
            }
        }
    }

    #[test]
    fn classes_of_a_status() {
        for (status, class) in [
            (None, "unknown"),
            (Some("OK"), "ok"),
            (Some("WARNINGS: 3"), "warning"),
            (Some("WARNINGS: x"), "error"),
            (Some("unexpected status"), "unknown"),
            (Some("got signal"), "error"),
        ] {
            assert_eq!(state_class(status), class);
        }
    }
}
