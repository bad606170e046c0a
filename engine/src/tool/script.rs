//! Canned answers for unit tests: every command is noted down in order, and answered by the first answer that fits.

use super::{Border, Data, Tool, Tools};
use crate::command::Stream;
use crate::{Context, Error, Result};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// One answer: to commands that begin with `command`.
struct Answer {
    command: String,
    code: i32,
    text: String,
    /// It is given once, then the next answer to the same command has its turn.
    once: bool,
}

/// A machine that is only played.
#[derive(Default)]
pub struct Script {
    answers: Mutex<Vec<Answer>>,
    commands: Mutex<Vec<String>>,
}

impl Script {
    /// A script without answers: every command succeeds and prints nothing.
    pub fn new() -> Arc<Self> {
        Arc::new(Script::default())
    }

    /// Commands that begin with this text print that. The last answer that was added wins.
    pub fn answer(self: &Arc<Self>, command: &str, text: &str) -> Arc<Self> {
        self.add(command, 0, text, false)
    }

    /// The next command that begins with this text prints that, once.
    pub fn answer_once(self: &Arc<Self>, command: &str, text: &str) -> Arc<Self> {
        self.add(command, 0, text, true)
    }

    /// Commands that begin with this text fail with that on standard error.
    pub fn fail(self: &Arc<Self>, command: &str, text: &str) -> Arc<Self> {
        self.add(command, 5, text, false)
    }

    fn add(self: &Arc<Self>, command: &str, code: i32, text: &str, once: bool) -> Arc<Self> {
        let answer = Answer { command: command.into(), code, text: text.into(), once };
        let mut answers = self.answers.lock().unwrap();
        let place = if once { answers.iter().take_while(|other| other.once).count() } else { 0 };
        // Answers for once come first and in order; of the others the newest does.
        let place = if once { place } else { answers.iter().take_while(|other| other.once).count() };
        answers.insert(place, answer);
        drop(answers);
        self.clone()
    }

    /// A context of a test's node that uses this script.
    pub fn context(self: &Arc<Self>, root: &Path) -> Context {
        Context { tools: Tools::of(self.clone()), ..Context::for_test(root) }
    }

    /// The commands since the last look, one a line.
    pub fn take(&self) -> String {
        self.commands.lock().unwrap().drain(..).map(|line| line + "\n").collect()
    }

    /// As [`Script::take`], without those that only look.
    pub fn take_changes(&self) -> String {
        let looks = ["lvs ", "vgs ", "pvs ", "zfs get", "zfs list", "zpool list", "lsblk", "qemu-img info"];
        let commands = self.take();
        let changes = commands.lines().filter(|line| !looks.iter().any(|look| line.starts_with(look)));
        changes.map(|line| format!("{line}\n")).collect()
    }
}

impl Border for Script {
    fn run(&self, tool: &Tool, _data: Data, line: &mut dyn FnMut(Stream, &str)) -> Result<i32> {
        let mut command = tool.to_string();
        let plain = command.clone();
        for (name, value) in &tool.environment {
            command = format!("{name}={value} {command}");
        }
        if let Some(input) = &tool.input {
            command = format!("{command} < {input:?}");
        }
        self.commands.lock().unwrap().push(command);
        let mut answers = self.answers.lock().unwrap();
        let Some(index) = answers.iter().position(|answer| plain.starts_with(&answer.command)) else { return Ok(0) };
        let stream = if answers[index].code == 0 { Stream::Output } else { Stream::Error };
        let (code, text) = (answers[index].code, answers[index].text.clone());
        if answers[index].once {
            answers.remove(index);
        }
        drop(answers);
        if text == "TIMEOUT" {
            return Err(Error::new(format!("command '{}' failed: got timeout", tool.program)));
        }
        for text in text.lines() {
            line(stream, text);
        }
        Ok(code)
    }
}
