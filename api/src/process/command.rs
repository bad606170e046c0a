//! The command line of the daemons: `start [--debug 1]`, `stop`, `restart`, `status`.
//!
//! Facts: pve-common PVE/Daemon.pm. What else a daemon understands stands behind the command as `--name value`.

use std::collections::BTreeMap;
use std::process::ExitCode;

/// What a daemon is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Begin to serve.
    Start,
    /// End.
    Stop,
    /// Let a running daemon take a new image and configuration; start it if it does not run.
    Restart,
    /// Print `running` or `stopped`.
    Status,
    /// Be a task (privileged daemon only).
    Worker,
    /// Be a conversation with PAM (privileged daemon only).
    Authenticate,
}

/// A command with its options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The command.
    pub command: Command,
    /// Stay in the foreground.
    pub foreground: bool,
    /// Other options, by name.
    pub options: BTreeMap<String, String>,
}

/// The whole of a daemon's `main`: reads the command line, hands it to `run`, and says what went wrong.
pub fn main(program: &str, options: &[&str], run: impl FnOnce(&Line) -> engine::Result<()>) -> ExitCode {
    let line = parse(program, options, std::env::args().skip(1)).map_err(engine::Error::new);
    match line.and_then(|line| run(&line)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(255)
        }
    }
}

/// Reads the arguments; `options` are the names that this daemon understands besides `debug`.
///
/// # Errors
/// A text for standard error, usage included.
pub fn parse(program: &str, options: &[&str], arguments: impl IntoIterator<Item = String>) -> Result<Line, String> {
    let usage = || {
        let more: String = options.iter().map(|name| format!(" [--{name} VALUE]")).collect();
        format!("USAGE: {program} <start|stop|restart|status> [--debug 0|1]{more}")
    };
    let mut arguments = arguments.into_iter();
    let command = match arguments.next().as_deref() {
        Some("start") => Command::Start,
        Some("stop") => Command::Stop,
        Some("restart") => Command::Restart,
        Some("status") => Command::Status,
        Some("worker") => Command::Worker,
        Some("authenticate") => Command::Authenticate,
        Some(other) => return Err(format!("ERROR: unknown command '{program} {other}'\n{}", usage())),
        None => return Err(format!("ERROR: no command specified\n{}", usage())),
    };
    let mut line = Line { command, foreground: false, options: BTreeMap::new() };
    while let Some(argument) = arguments.next() {
        let Some(name) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            return Err(format!("400 too many arguments\n{}", usage()));
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (name.to_owned(), None),
        };
        if name == "debug" {
            let value = value.or_else(|| arguments.next()).unwrap_or_else(|| "1".into());
            line.foreground = matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true");
        } else if options.contains(&name.as_str()) {
            let value = value.or_else(|| arguments.next()).ok_or_else(|| format!("option '{name}' needs a value"))?;
            line.options.insert(name, value);
        } else {
            return Err(format!("Unknown option: {name}\n400 unable to parse option\n{}", usage()));
        }
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Result<Line, String> {
        parse("pveproxy", &["port"], text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn lines_are_read() {
        assert_eq!(line("status").unwrap().command, Command::Status);
        assert!(line("start --debug 1").unwrap().foreground);
        assert!(line("start -debug=1").unwrap().foreground);
        assert!(line("start --debug").unwrap().foreground);
        assert!(!line("start --debug 0").unwrap().foreground);
        assert_eq!(line("start --port 8007").unwrap().options["port"], "8007");
        for text in ["", "begin", "start now", "start --colour red", "start --port"] {
            assert!(line(text).is_err(), "{text}");
        }
    }
}
