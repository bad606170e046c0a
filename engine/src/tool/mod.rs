//! The border to the host's storage tools (`lvs`, `zfs`, `rbd`, `iscsiadm`, `mount`, …): which command, with which
//! arguments, for how long, and what it printed.
//!
//! A [`Tool`] is data until it runs through the [`Tools`] of its context: the machine in production, a script of canned
//! answers in unit tests, where golden texts show the exact sequence. Secrets go to standard input or into a file, never
//! into an argument. Every program is named in [`package`], so that a missing one is reported with the Debian package
//! that has it.

mod machine;
#[cfg(test)]
pub mod script;

use crate::command::Stream;
use crate::{Context, Error, Result};
use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

/// How long a question may take whose answer does not depend on the amount of data.
pub const QUESTION: Duration = Duration::from_secs(30);

/// One command of the host, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// The program's name, looked up in `PATH`.
    pub program: &'static str,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What it reads from standard input; nothing if absent.
    pub input: Option<String>,
    /// Variables that it sees besides ours.
    pub environment: Vec<(&'static str, String)>,
    /// After this time it is killed with all that it started; without one it may take as long as the task lives.
    pub deadline: Option<Duration>,
}

/// How a tool ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Data that a tool reads and writes as they are: a volume as a stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Data<'a> {
    /// What it reads from standard input, instead of a text.
    pub from: Option<&'a File>,
    /// Where its standard output goes, instead of to lines.
    pub to: Option<&'a File>,
}

/// Who runs tools.
pub trait Border: Send + Sync {
    /// Runs a tool to its end. A line is handed to `line` as it comes.
    ///
    /// # Errors
    /// When it cannot be started, misses its deadline, is killed, or the task is stopped.
    fn run(&self, tool: &Tool, data: Data, line: &mut dyn FnMut(Stream, &str)) -> Result<i32>;
}

/// The tools of a context.
#[derive(Clone)]
pub struct Tools(Arc<dyn Border>);

impl Tools {
    /// The machine's own tools.
    pub fn of_machine() -> Self {
        Tools(Arc::new(machine::Machine))
    }

    /// Tools of somebody else.
    #[cfg(test)]
    pub fn of(border: Arc<dyn Border>) -> Self {
        Tools(border)
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tools")
    }
}

impl Tool {
    /// A command without arguments.
    pub fn new(program: &'static str) -> Self {
        Tool { program, arguments: Vec::new(), input: None, environment: Vec::new(), deadline: None }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// What it reads from standard input; the place for secrets.
    #[must_use]
    pub fn input(mut self, text: impl Into<String>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// One more variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// The time that it may take.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Runs it and answers how it ended, whatever its exit code.
    pub fn end(&self, ctx: &Context) -> Result<Ended> {
        let mut ended = Ended::default();
        ended.code = ctx.tools.0.run(self, Data::default(), &mut |stream, line| {
            let text = if stream == Stream::Error { &mut ended.stderr } else { &mut ended.stdout };
            text.push_str(line);
            text.push('\n');
        })?;
        Ok(ended)
    }

    /// Runs it and answers its standard output.
    ///
    /// # Errors
    /// `command 'NAME' failed: ` and the last line of its standard error.
    pub fn read(&self, ctx: &Context) -> Result<String> {
        let ended = self.end(ctx)?;
        self.check(ended.code, last_line(&ended.stderr))?;
        Ok(ended.stdout)
    }

    /// Runs it for its effect.
    pub fn run(&self, ctx: &Context) -> Result<()> {
        self.read(ctx).map(drop)
    }

    /// Runs it and hands on what it prints, line by line, as the log of the task that it works for.
    pub fn run_logged(&self, ctx: &Context, line: &mut dyn FnMut(&str)) -> Result<()> {
        self.run_with(ctx, Data::default(), line)
    }

    /// As [`Tool::run_logged`], with data from or to a file, pipe or socket.
    pub fn run_with(&self, ctx: &Context, data: Data, line: &mut dyn FnMut(&str)) -> Result<()> {
        let mut last = String::new();
        let code = ctx.tools.0.run(self, data, &mut |stream, text| {
            line(text);
            if stream == Stream::Error {
                last = text.to_owned();
            }
        })?;
        self.check(code, last_line(&last))
    }

    fn check(&self, code: i32, reason: &str) -> Result<()> {
        match (code, reason) {
            (0, _) => Ok(()),
            (code, "") => Err(Error::new(format!("command '{}' failed: exit code {code}", self.program))),
            (_, reason) => Err(Error::new(format!("command '{}' failed: {reason}", self.program))),
        }
    }
}

/// The command as people would write it, for logs. Has no secrets, as those are no arguments.
impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program)?;
        for argument in &self.arguments {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%[]~".contains(c);
            if !argument.is_empty() && argument.chars().all(plain) {
                write!(f, " {argument}")?;
            } else {
                write!(f, " '{}'", argument.escape_debug())?;
            }
        }
        Ok(())
    }
}

/// The last line that says something; `mount.cifs` ends with where to read more.
fn last_line(text: &str) -> &str {
    let says = |line: &&str| !line.is_empty() && !line.starts_with("Refer to the ");
    text.lines().rev().map(str::trim).find(says).unwrap_or_default()
}

/// The Debian package that has a program.
fn package(program: &str) -> Option<&'static str> {
    Some(match program {
        "lvchange" | "lvconvert" | "lvcreate" | "lvextend" | "lvremove" | "lvrename" | "lvs" | "pvcreate" | "pvs"
        | "vgchange" | "vgcreate" | "vgremove" | "vgs" | "vgscan" => "lvm2",
        "zfs" | "zpool" => "zfsutils-linux",
        "rbd" | "ceph" => "ceph-common",
        "mount.ceph" => "ceph-common",
        "iscsiadm" => "open-iscsi",
        "iscsi-ls" => "libiscsi-bin",
        "showmount" | "mount.nfs" => "nfs-common",
        "rpcinfo" => "rpcbind",
        "mount.cifs" => "cifs-utils",
        "smbclient" => "smbclient",
        "smartctl" => "smartmontools",
        "sgdisk" => "gdisk",
        "mkfs.xfs" => "xfsprogs",
        "mkfs.ext4" => "e2fsprogs",
        "qemu-img" => "qemu-utils",
        "ssh" => "openssh-client",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_print_as_people_write_them() {
        let tool = Tool::new("lvs").args(["--config", "report/time_format=\"%s\""]).arg("").arg("a b");
        assert_eq!(tool.to_string(), "lvs --config 'report/time_format=\\\"%s\\\"' '' 'a b'");
    }

    #[test]
    fn failures_have_the_reason() {
        let ctx = Context::for_test(std::path::Path::new("/nowhere"));
        let error = Tool::new("ls").arg("/does/not/exist").run(&ctx).unwrap_err();
        assert!(error.message().starts_with("command 'ls' failed: ls: cannot access"), "{error}");
        assert_eq!(Tool::new("false").run(&ctx).unwrap_err().message(), "command 'false' failed: exit code 1");
        assert_eq!(Tool::new("false").end(&ctx).unwrap().code, 1);
        assert_eq!(Tool::new("cat").input("secret\n").read(&ctx).unwrap(), "secret\n");
        assert!(Tool::new("env").env("BLOCK", "x").read(&ctx).unwrap().lines().any(|line| line == "BLOCK=x"));
    }

    #[test]
    fn a_hanging_tool_is_stopped_with_its_children() {
        let ctx = Context::for_test(std::path::Path::new("/nowhere"));
        let begun = std::time::Instant::now();
        let tool = Tool::new("timeout").args(["--foreground", "30", "sleep", "30"]).within(Duration::from_millis(200));
        assert_eq!(tool.run(&ctx).unwrap_err().message(), "command 'timeout' failed: got timeout");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        if std::path::Path::new("/usr/sbin/zpool").exists() {
            return;
        }
        let ctx = Context::for_test(std::path::Path::new("/nowhere"));
        let error = Tool::new("zpool").run(&ctx).unwrap_err();
        assert_eq!(error.message(), "command 'zpool' not found - please install the package 'zfsutils-linux'");
    }
}
