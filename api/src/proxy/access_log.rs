//! The access log: one line per request in the common format of web servers, with the user as third field.
//!
//! Facts: pve-http-server PVE/APIServer/AnyEvent.pm (`log_request`). Values that let somebody in are not written.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often is looked whether the file has been moved away.
const LOOK: Duration = Duration::from_secs(1);
/// Query parameters whose values are secrets.
const SECRETS: &[&str] = &["password", "ticket", "vncticket", "otp", "tfa-challenge", "confirmation-password"];

/// The log file.
pub struct AccessLog {
    path: PathBuf,
    open: Mutex<Open>,
}

struct Open {
    file: Option<File>,
    looked: Option<Instant>,
    /// The second of the last line, and how it is written.
    second: (i64, String),
}

/// What a line says.
pub struct Entry<'a> {
    /// The client.
    pub address: &'a str,
    /// The user, if there is one.
    pub user: Option<&'a str>,
    /// The verb.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Major and minor version as text.
    pub version: &'a str,
    /// The status.
    pub status: u16,
    /// Length of the body, if it was known.
    pub length: Option<u64>,
}

impl AccessLog {
    /// A log in a file that need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        AccessLog { path, open: Mutex::new(Open { file: None, looked: None, second: (0, String::new()) }) }
    }

    /// Writes a line. A log that cannot be written must not stop the server.
    pub fn write(&self, entry: &Entry<'_>) {
        let mut open = self.open.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let now = Timestamp::now();
        if now.as_second() != open.second.0 {
            open.second = (now.as_second(), clock(&now.to_zoned(TimeZone::system())));
        }
        let line = entry.line(&open.second.1);
        if open.looked.is_none_or(|looked| looked.elapsed() > LOOK) {
            open.looked = Some(Instant::now());
            if !self.is_current(open.file.as_ref()) {
                open.file = OpenOptions::new().create(true).append(true).mode(0o640).open(&self.path).ok();
            }
        }
        if let Some(file) = &mut open.file {
            let _ = file.write_all(line.as_bytes());
        }
    }

    /// Whether the open file is still the one with the name.
    fn is_current(&self, file: Option<&File>) -> bool {
        let same = |file: &File| Some((file.metadata().ok()?.ino(), std::fs::metadata(&self.path).ok()?.ino()));
        file.and_then(same).is_some_and(|(open, named)| open == named)
    }
}

impl Entry<'_> {
    fn line(&self, now: &str) -> String {
        format!(
            "{} - {} [{}] \"{} {} {}\" {} {}\n",
            self.address,
            self.user.map_or("-".into(), clean),
            now,
            clean(self.method),
            clean(&without_secrets(self.target)),
            self.version,
            self.status,
            self.length.map_or("-".into(), |length| length.to_string()),
        )
    }
}

/// A moment as it stands in the log.
fn clock(now: &Zoned) -> String {
    now.strftime("%d/%m/%Y:%H:%M:%S %z").to_string()
}

/// Quotes, blanks and control characters would tear the line apart.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '"' || c == ' ' { '?' } else { c }).collect()
}

fn without_secrets(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else {
        return target.to_owned();
    };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if SECRETS.contains(&name) => format!("{name}=***"),
        _ => pair.to_owned(),
    };
    let query: Vec<String> = query.split('&').map(hide).collect();
    format!("{path}?{}", query.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(target: &str) -> Entry<'_> {
        Entry {
            address: "10.0.0.1",
            user: Some("root@pam"),
            method: "GET",
            target,
            version: "HTTP/1.1",
            status: 200,
            length: Some(7),
        }
    }

    #[test]
    fn lines_have_the_common_format() {
        let now: jiff::Timestamp = "2026-03-04T05:06:07Z".parse().unwrap();
        let now = clock(&now.to_zoned(TimeZone::UTC));
        assert_eq!(
            entry("/api2/json/version").line(&now),
            "10.0.0.1 - root@pam [04/03/2026:05:06:07 +0000] \"GET /api2/json/version HTTP/1.1\" 200 7\n"
        );
        let nobody = Entry { user: None, length: None, ..entry("/?a=1&password=x&b=\"\n") };
        assert!(nobody.line(&now).ends_with("\"GET /?a=1&password=***&b=?? HTTP/1.1\" 200 -\n"));
        assert!(nobody.line(&now).starts_with("10.0.0.1 - - ["));
    }

    #[test]
    fn a_moved_file_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.log");
        let log = AccessLog::new(path.clone());
        log.write(&entry("/one"));
        std::fs::rename(&path, directory.path().join("access.log.1")).unwrap();
        log.open.lock().unwrap().looked = None;
        log.write(&entry("/two"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("/two") && !text.contains("/one"), "{text}");
    }
}
