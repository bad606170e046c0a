//! `help`, `--help`, and the list of commands below a line that names none.

use crate::arguments::Definition;
use crate::output;
use crate::usage;
use contract::command::{Command, Tool};
use engine::{Context, Error, Result};
use std::process::ExitCode;

/// Answers `help [--verbose] [WORDS]`.
pub fn serve(name: &str, tool: &'static Tool, line: &[String]) -> Result<ExitCode> {
    let mut verbose = None;
    let mut about = Vec::new();
    for word in line {
        match word.trim_start_matches('-') {
            _ if !word.starts_with('-') => about.push(word.clone()),
            switch if !switch.is_empty() && "verbose=1".starts_with(switch) => verbose = Some(true),
            "verbose=0" => verbose = Some(false),
            "help" | "h" => {}
            other => return Err(Error::BadRequest(format!("unable to parse option '{other}'"))),
        }
    }
    if about.is_empty() {
        return Ok(of_tool(name, tool, verbose.unwrap_or(false)));
    }
    match crate::tree::resolve(tool, &about) {
        crate::tree::Resolution::Command { words, command, .. } if verbose == Some(false) => {
            let definition = definition(command)?;
            output::write(&format!("USAGE: {}\n", usage::line(&usage::prefix(name, words), &definition)));
            Ok(ExitCode::SUCCESS)
        }
        crate::tree::Resolution::Command { words, command, .. } => Ok(of_command(name, words, command)),
        crate::tree::Resolution::Incomplete(group) => Ok(of_group(name, tool, &group)),
        crate::tree::Resolution::Help(_) => {
            output::write(&format!("USAGE: {}", help_line(name)));
            Ok(ExitCode::SUCCESS)
        }
        crate::tree::Resolution::Unknown(path) => {
            Ok(refuse(name, tool, &format!("unknown command '{name} {path}'"), ""))
        }
    }
}

/// All commands of a tool; verbosely with every option.
pub fn of_tool(name: &str, tool: &'static Tool, verbose: bool) -> ExitCode {
    if verbose {
        let texts: Vec<String> = tool.commands.iter().map(|(words, command)| full(name, words, command)).collect();
        output::write(&format!("{}{}\n", headline(name), texts.join("\n")));
    } else {
        output::write(&format!("{}{}", headline(name), commands(name, tool, "")));
    }
    ExitCode::SUCCESS
}

/// The commands below some words.
pub fn of_group(name: &str, tool: &'static Tool, group: &str) -> ExitCode {
    let list = commands(name, tool, group);
    output::write(&format!("USAGE: {}", list.trim_start()));
    ExitCode::SUCCESS
}

/// One command with every option.
pub fn of_command(name: &str, words: &str, command: &'static Command) -> ExitCode {
    output::write(&full(name, words, command));
    ExitCode::SUCCESS
}

/// Says why a command line leads nowhere, and which commands there are (below `group`).
pub fn refuse(name: &str, tool: &'static Tool, reason: &str, group: &str) -> ExitCode {
    eprint!("ERROR: {reason}\n{}{}", headline(name), commands(name, tool, group));
    ExitCode::from(crate::failure::FAILED)
}

fn headline(name: &str) -> String {
    format!("USAGE: {name} <COMMAND> [ARGS] [OPTIONS]\n\n")
}

fn help_line(name: &str) -> String {
    format!("{name} help [<extra-args>] [OPTIONS]\n")
}

/// Usage lines: groups of several words first, then commands with a method behind them, then the others, then `help`.
fn commands(name: &str, tool: &'static Tool, group: &str) -> String {
    let below = |words: &str| {
        group.is_empty() || words == group || words.strip_prefix(group).is_some_and(|rest| rest.starts_with(' '))
    };
    let mut rows: Vec<((u8, &str), String)> = tool
        .commands
        .iter()
        .filter(|(words, _)| below(words))
        .filter_map(|(words, command)| {
            let class = match words.split_once(' ') {
                Some((first, _)) if group.is_empty() => (0, first),
                _ if command.local => (2, ""),
                _ => (1, ""),
            };
            Some((class, usage::line(&usage::prefix(name, words), &definition(command).ok()?)))
        })
        .collect();
    if group.is_empty() {
        rows.push(((3, ""), help_line(name)));
    }
    rows.sort_by_key(|(class, _)| *class);
    let mut text = String::new();
    let mut before = None;
    for (class, line) in rows {
        if group.is_empty() && before.is_some_and(|before| before != class) {
            text.push('\n');
        }
        before = Some(class);
        text.push_str("       ");
        text.push_str(&line);
    }
    text
}

fn full(name: &str, words: &str, command: &'static Command) -> String {
    let Ok(definition) = definition(command) else { return String::new() };
    let method = command.method();
    let doc_of = |parameter: &str| method.and_then(|method| method.parameter_doc(parameter)).map(str::to_owned);
    let doc = command.doc.as_deref().or_else(|| method.and_then(|method| method.doc.as_deref()));
    usage::description(&usage::prefix(name, words), &definition, doc, &doc_of)
}

/// Usage texts show no preset value, so any node's name will do when this one's is unknown.
fn definition(command: &'static Command) -> Result<Definition> {
    let node = Context::for_tool().map(|ctx| ctx.node).unwrap_or_default();
    Definition::of(command, &node)
}
