//! The unique id of a task.

use crate::context::{Caller, Context};
use crate::process::ProcessId;
use std::fmt;
use std::str::FromStr;

/// `UPID:NODE:PID:PSTART:STARTTIME:TYPE:ID:USER:`, numbers in upper-case hexadecimal of eight digits.
/// (PVE: pve-common PVE/UPID.pm; a start of more digits is read, too)
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Upid {
    /// The node on which it runs.
    pub node: String,
    /// Its process.
    pub process: ProcessId,
    /// Seconds since the epoch.
    pub start_time: i64,
    /// What it does, for example `qmstart`.
    pub kind: String,
    /// On what; may be empty.
    pub id: String,
    /// Who asked: user or token.
    pub user: String,
}

impl Upid {
    /// That of a task which runs in this process.
    pub(super) fn own(ctx: &Context, kind: &str, id: impl ToString) -> Self {
        Upid {
            node: ctx.node.clone(),
            process: ProcessId::current(),
            start_time: ctx.clock.now(),
            kind: kind.to_owned(),
            id: id.to_string(),
            user: ctx.caller.id().to_owned(),
        }
    }

    /// `user@realm` without the token's name.
    pub fn user_without_token(&self) -> String {
        Caller::verified(self.user.clone()).user().to_owned()
    }

    /// The token's name, if a token started the task.
    pub fn token(&self) -> Option<String> {
        Caller::verified(self.user.clone()).token().map(str::to_owned)
    }

    /// The sub-directory of the log file: the last digit of the start time.
    pub fn log_directory(&self) -> String {
        format!("{:X}", self.start_time & 0xf)
    }
}

impl fmt::Display for Upid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "UPID:{}:{:08X}:{:08X}:{:08X}:{}:{}:{}:",
            self.node, self.process.pid, self.process.start, self.start_time, self.kind, self.id, self.user
        )
    }
}

impl FromStr for Upid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| format!("unable to parse worker upid '{text}'"))
    }
}

/// Everything that reaches a path (the log file's name) is checked here: no `/`, no control characters.
fn parse(text: &str) -> Option<Upid> {
    let fields: Vec<&str> = text.split(':').collect();
    let [head, node, pid, start, time, kind, id, user, tail] = fields[..] else {
        return None;
    };
    let is_hex = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'))
    };
    let is_name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let is_plain = |text: &str| text.chars().all(|c| !c.is_control() && !c.is_whitespace() && c != '/');
    let valid = head == "UPID"
        && tail.is_empty()
        && !node.is_empty()
        && is_name(node)
        && is_hex(pid, 8..=8)
        && is_hex(start, 8..=9)
        && is_hex(time, 8..=8)
        && !kind.is_empty()
        && !user.is_empty()
        && [kind, id, user].into_iter().all(is_plain);
    valid.then_some(())?;
    Some(Upid {
        node: node.to_owned(),
        process: ProcessId { pid: u32::from_str_radix(pid, 16).ok()?, start: u64::from_str_radix(start, 16).ok()? },
        start_time: i64::from_str_radix(time, 16).ok()?,
        kind: kind.to_owned(),
        id: id.to_owned(),
        user: user.to_owned(),
    })
}

crate::param_from_str!(Upid);

#[cfg(test)]
mod tests {
    use super::Upid;
    use proptest::prelude::*;

    #[test]
    fn only_well_formed_ids_are_read() {
        let good = "UPID:pve1:0000AB12:00C0FFEE:69A2B3C4:qmstart:100:root@pam!ci:";
        let upid: Upid = good.parse().unwrap();
        assert_eq!(upid.to_string(), good);
        assert_eq!((upid.user_without_token().as_str(), upid.token().as_deref()), ("root@pam", Some("ci")));
        assert_eq!(upid.log_directory(), "4");
        for bad in [
            "",
            "UPID:pve1:0000AB12:00C0FFEE:69A2B3C4:qmstart:100:root@pam",
            "UPID:../x:0000AB12:00C0FFEE:69A2B3C4:qmstart:100:root@pam:",
            "UPID:pve1:0000AB12:00C0FFEE:69A2B3C4:qmstart:../../etc:root@pam:",
            "UPID:pve1:0000ab12:00C0FFEE:69A2B3C4:qmstart:100:root@pam:",
            "UPID:pve1:0000AB12:00C0FFEE:69A2B3C4::100:root@pam:",
            "UPID:pve1:0000AB12:00C0FFEE:69A2B3C4:a b:100:root@pam:",
        ] {
            assert!(bad.parse::<Upid>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics_and_inverts_printing(text in "UPID:[a-z0-9]{1,8}:[0-9A-F]{8}:[0-9A-F]{8}:[0-9A-F]{8}:[a-z]{1,9}:[^:\\s/\\p{Cc}]{0,9}:[a-z]{1,5}@pam:|.*") {
            if let Ok(upid) = text.parse::<Upid>() {
                prop_assert_eq!(upid.to_string(), text);
            }
        }
    }
}
