//! Programs of the host: started with an argument vector, never through a shell, stopped when the task is.

use crate::task::abort;
use crate::{Error, Result, error::ResultExt};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a program printed before it ended well.
#[derive(Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a program to its end and gives back what it printed.
///
/// # Errors
/// When it cannot be started, ends with another status than 0 (the text has its last line of standard error), or the
/// task is stopped.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<Output> {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    run_lines(program, arguments, |stream, line| {
        let text = if stream == Stream::Error { &mut stderr } else { &mut stdout };
        text.push_str(line);
        text.push('\n');
    })?;
    Ok(Output { stdout, stderr })
}

/// Which stream a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Error,
}

/// Runs a program to its end and hands each line to `line` as it comes. Carriage returns end a line, too (progress).
///
/// # Errors
/// As [`run`].
pub fn run_lines<S: AsRef<OsStr>>(program: &str, arguments: &[S], mut line: impl FnMut(Stream, &str)) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().context(|| format!("unable to start '{program}'"))?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let readers = [
        child.stdout.take().map(|pipe| spawn_reader(Stream::Output, pipe, sender.clone())),
        child.stderr.take().map(|pipe| spawn_reader(Stream::Error, pipe, sender)),
    ];
    let mut last_error = String::new();
    loop {
        match receiver.recv_timeout(Duration::from_millis(100)) {
            Ok((stream, text)) => {
                line(stream, &text);
                if stream == Stream::Error && !text.trim().is_empty() {
                    last_error = text;
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => stop_if_aborted(&mut child)?,
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
        }
    }
    for reader in readers.into_iter().flatten() {
        // A reader ends without a result; it cannot have panicked while sending.
        let _ = reader.join();
    }
    let status = child.wait().context(|| format!("waiting for '{program}'"))?;
    match (status.success(), status.code()) {
        (true, _) => Ok(()),
        (false, Some(code)) if last_error.is_empty() => {
            Err(Error::new(format!("command '{program}' failed: exit code {code}")))
        }
        (false, Some(_)) => Err(Error::new(format!("command '{program}' failed: {last_error}"))),
        (false, None) => Err(Error::new(format!("command '{program}' failed: {status}"))),
    }
}

fn stop_if_aborted(child: &mut Child) -> Result<()> {
    abort::check().inspect_err(|_| {
        // The child is ours and may have ended already.
        let _ = child.kill();
        let _ = child.wait();
    })
}

fn spawn_reader(
    stream: Stream,
    pipe: impl Read + Send + 'static,
    sender: std::sync::mpsc::Sender<(Stream, String)>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut bytes = Vec::new();
        while matches!(reader.read_until(b'\n', &mut bytes), Ok(count) if count > 0) {
            for part in bytes.split(|byte| *byte == b'\r' || *byte == b'\n').filter(|part| !part.is_empty()) {
                if sender.send((stream, String::from_utf8_lossy(part).into_owned())).is_err() {
                    return;
                }
            }
            bytes.clear();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_failure_are_told_apart() {
        let output = run("printf", &["a\\rb\\nc"]).unwrap();
        assert_eq!(output.stdout, "a\nb\nc\n");
        let error = run("ls", &["/does/not/exist"]).unwrap_err();
        assert!(error.message().starts_with("command 'ls' failed: ls: cannot access"), "{error}");
        let error = run("no-such-program", &["x"]).unwrap_err();
        assert!(error.message().starts_with("unable to start 'no-such-program': "), "{error}");
    }
}
