//! What is remembered of tasks: their log files, the list of active ones, the index of finished ones.
//!
//! `/var/log/pve/tasks/X/UPID` is a log; `active` has `UPID SAVED [ENDTIME STATUS]` per line; `index` has
//! `UPID ENDTIME STATUS` (hexadecimal end time) and moves to `index.1` at 50 kB. (PVE: pve-common PVE/RESTEnvironment.pm)

use super::Upid;
use crate::{Context, Error, Result, error::ResultExt, file};
use std::cmp::Reverse;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Above this size `index` becomes `index.1`.
const INDEX_LIMIT: u64 = 50_000;
/// `active` keeps finished tasks until it has this many entries.
const ACTIVE_ENTRIES: usize = 25;

/// A task that we know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub upid: Upid,
    /// End time and status; `None` while it runs.
    pub end: Option<(i64, String)>,
}

/// The directory of all this.
pub fn directory(ctx: &Context) -> PathBuf {
    ctx.root.path("/var/log/pve/tasks")
}

/// The log file of a task.
pub fn log_path(ctx: &Context, upid: &Upid) -> PathBuf {
    directory(ctx).join(upid.log_directory()).join(upid.to_string())
}

/// Creates the log and enters the task into `active`.
pub fn begin(ctx: &Context, upid: &Upid) -> Result<File> {
    let path = log_path(ctx, upid);
    let place = || format!("unable to create task log '{}'", path.display());
    fs::create_dir_all(path.parent().expect("a log lies in a directory")).context(place)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o640).open(&path).context(place)?;
    update_active(ctx, |records| records.push(Record { upid: upid.clone(), end: None }))?;
    Ok(log)
}

/// Enters the end of a task into `active` and `index`.
pub fn finish(ctx: &Context, upid: &Upid, status: &str) -> Result<()> {
    let end = (ctx.clock.now(), status.to_owned());
    update_active(ctx, |records| {
        records.retain(|record| record.upid != *upid);
        records.push(Record { upid: upid.clone(), end: Some(end) });
    })
    .map(drop)
}

/// The running and the latest finished tasks, newest first. Tasks whose process is gone are given an end.
pub fn active(ctx: &Context) -> Result<Vec<Record>> {
    let text = file::read_or_empty(&directory(ctx).join("active"))?;
    let mut records = parse_active(&text);
    if records.iter().any(|(record, _)| record.end.is_none() && !record.upid.process.is_alive()) {
        records = update_active(ctx, |_| {}).map(|list| list.into_iter().map(|record| (record, true)).collect())?;
    }
    let mut list: Vec<Record> = records.into_iter().map(|(record, _)| record).collect();
    list.sort_by_key(|record| Reverse(record.upid.start_time));
    Ok(list)
}

/// Waits for a task's end, at most for a time; gives back its final status if it has ended.
pub fn wait(ctx: &Context, upid: &Upid, patience: Duration) -> Result<Option<String>> {
    let until = Instant::now() + patience;
    loop {
        let records = active(ctx)?;
        // An end that has fallen out of the list already is in the log.
        match records.into_iter().find(|record| record.upid == *upid) {
            None => return Ok(Some(status_from_log(ctx, upid))),
            Some(Record { end: Some((_, status)), .. }) => return Ok(Some(status)),
            Some(_) if Instant::now() >= until => return Ok(None),
            Some(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Changes `active` under its lock; the dead are given an end, new ends go to `index`, old entries fall out.
fn update_active(ctx: &Context, change: impl FnOnce(&mut Vec<Record>)) -> Result<Vec<Record>> {
    let path = directory(ctx).join("active");
    fs::create_dir_all(directory(ctx)).context(|| "unable to create the task directory")?;
    let _lock = file::lock_file(ctx, &path)?;
    let old = parse_active(&file::read_or_empty(&path)?);
    let saved: Vec<Upid> = old.iter().filter(|(_, saved)| *saved).map(|(record, _)| record.upid.clone()).collect();
    let mut records: Vec<Record> = old.into_iter().map(|(record, _)| record).collect();
    change(&mut records);
    for record in &mut records {
        if record.end.is_none() && !record.upid.process.is_alive() {
            record.end = Some(end_of_dead(ctx, &record.upid));
        }
    }
    let fresh: Vec<&Record> =
        records.iter().filter(|record| record.end.is_some() && !saved.contains(&record.upid)).collect();
    append_index(ctx, &fresh)?;
    let running = records.iter().filter(|record| record.end.is_none()).count();
    let mut room = ACTIVE_ENTRIES.saturating_sub(running);
    records.sort_by_key(|record| Reverse(record.upid.start_time));
    records.retain(|record| {
        record.end.is_none() || {
            let keep = room > 0;
            room = room.saturating_sub(1);
            keep
        }
    });
    let text: String = records.iter().map(|record| active_line(record) + "\n").collect();
    // Lost at a power cut is what ran before it; no need to wait for the disk.
    file::replace_volatile(&path, text.as_bytes(), 0o644)?;
    Ok(records)
}

/// The end of a process that left no entry: its log may still tell.
fn end_of_dead(ctx: &Context, upid: &Upid) -> (i64, String) {
    let path = log_path(ctx, upid);
    let time = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
    let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let end_time = time.map_or(upid.start_time, |elapsed| elapsed.as_secs().cast_signed());
    (end_time, status_from_log(ctx, upid))
}

/// The status that the last line of a log tells: `OK`, `WARNINGS: N`, the error, or `unexpected status`.
pub fn status_from_log(ctx: &Context, upid: &Upid) -> String {
    let read = || -> std::io::Result<String> {
        let mut log = File::open(log_path(ctx, upid))?;
        let length = log.metadata()?.len();
        log.seek(SeekFrom::Start(length.saturating_sub(4096)))?;
        let mut tail = Vec::new();
        log.read_to_end(&mut tail)?;
        Ok(String::from_utf8_lossy(&tail).lines().next_back().unwrap_or_default().to_owned())
    };
    let last = match read() {
        Ok(last) => last,
        Err(error) => return format!("unable to read task log: {}", Error::from(error)),
    };
    match last.strip_prefix("TASK ") {
        Some("OK") => "OK".into(),
        Some(rest) if rest.starts_with("WARNINGS: ") => rest.into(),
        Some(rest) if rest.starts_with("ERROR: ") => rest["ERROR: ".len()..].into(),
        _ => "unexpected status".into(),
    }
}

fn append_index(ctx: &Context, records: &[&Record]) -> Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let path = directory(ctx).join("index");
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > INDEX_LIMIT) {
        fs::rename(&path, path.with_extension("1")).context(|| path.display().to_string())?;
    }
    let lines: String = records
        .iter()
        .filter_map(|record| record.end.as_ref().map(|(time, status)| format!("{} {time:08X} {status}\n", record.upid)))
        .collect();
    let mut index = OpenOptions::new().create(true).append(true).mode(0o640).open(&path)?;
    index.write_all(lines.as_bytes()).context(|| path.display().to_string())
}

fn active_line(record: &Record) -> String {
    match &record.end {
        None => format!("{} 0", record.upid),
        Some((time, status)) => format!("{} 1 {time:08X} {status}", record.upid),
    }
}

fn parse_active(text: &str) -> Vec<(Record, bool)> {
    let parse = |line: &str| {
        let mut fields = line.splitn(3, ' ');
        let upid = fields.next()?.parse().ok()?;
        let saved = fields.next()? == "1";
        let end = fields.next().and_then(parse_end);
        Some((Record { upid, end }, saved))
    };
    text.lines().filter_map(parse).collect()
}

fn parse_end(text: &str) -> Option<(i64, String)> {
    let (time, status) = text.split_once(' ')?;
    Some((i64::from_str_radix(time, 16).ok()?, status.to_owned()))
}

/// Finished tasks, newest first, from `index` and `index.1`.
pub fn archive(ctx: &Context) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for name in ["index.1", "index"] {
        let Ok(file) = File::open(directory(ctx).join(name)) else {
            continue;
        };
        for line in BufReader::new(file).lines() {
            let line = line?;
            let Some((upid, end)) = line.split_once(' ') else {
                continue;
            };
            if let (Ok(upid), Some(end)) = (upid.parse(), parse_end(end)) {
                records.push(Record { upid, end: Some(end) });
            }
        }
    }
    records.reverse();
    Ok(records)
}

/// A page of a log: lines from `start` (0 is the first), at most `limit` (0 means all), and how many there are in all.
pub fn read_log(ctx: &Context, upid: &Upid, start: usize, limit: usize) -> Result<(Vec<String>, usize)> {
    let path = log_path(ctx, upid);
    let file = File::open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::new(format!("no such task '{upid}'")),
        _ => Error::from(error),
    })?;
    let mut lines = Vec::new();
    let mut total = 0;
    for line in BufReader::new(file).split(b'\n') {
        let line = line?;
        if total >= start && (limit == 0 || lines.len() < limit) {
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
        total += 1;
    }
    Ok((lines, total))
}
