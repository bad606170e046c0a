//! The life of a tool: understand the command line, run the command, print, leave with a code.

use crate::arguments::{Arguments, Definition, Request};
use crate::invocation::Invocation;
use crate::tree::{self, Resolution};
use crate::{completion, failure, help, local, output};
use contract::command::{self, Command, MAIN, OutputKind, Tool, ToolKind};
use engine::{Context, Error, Params, Result};
use serde_json::Value;
use std::process::ExitCode;

/// Runs the tool `name` with the arguments of this process.
pub fn main(name: &str) -> ExitCode {
    let words: std::result::Result<Vec<String>, _> =
        std::env::args_os().skip(1).map(std::ffi::OsString::into_string).collect();
    let outcome = match words {
        Ok(words) => run(name, words),
        Err(word) => Err(Error::new(format!("argument is not UTF-8 text: {}", word.display()))),
    };
    outcome.unwrap_or_else(|error| failure::report(&error, None))
}

fn run(name: &str, words: Vec<String>) -> Result<ExitCode> {
    let (name, tool) = known(name)?;
    if let Some(code) = completion::serve(name, tool, &words)? {
        return Ok(code);
    }
    match tool.kind {
        ToolKind::SubCommands => run_sub_command(name, tool, words),
        ToolKind::Single | ToolKind::Script => {
            if words.first().is_some_and(|word| word == tree::HELP) && words.len() == 1 {
                return Ok(help::of_command(name, MAIN, &tool.commands[MAIN]));
            }
            run_command(name, MAIN, &tool.commands[MAIN], words)
        }
    }
}

/// The tool's name as the contract has it, so that it lives as long as the process.
fn known(name: &str) -> Result<(&'static str, &'static Tool)> {
    let known = command::tools().find(|known| *known == name).and_then(|name| Some((name, command::tool(name)?)));
    known.ok_or_else(|| Error::new(format!("no such tool '{name}'")))
}

fn run_sub_command(name: &'static str, tool: &'static Tool, words: Vec<String>) -> Result<ExitCode> {
    let words = local::without_leading_switches(name, words);
    let wants_help = |word: &String| matches!(word.as_str(), "--help" | "-help" | "-h" | "-?");
    match words.first() {
        None => return Ok(help::refuse(name, tool, "no command specified", "")),
        Some(word) if wants_help(word) => return Ok(help::of_tool(name, tool, false)),
        Some(_) => {}
    }
    let asks = words.iter().position(wants_help);
    match tree::resolve(tool, &words) {
        Resolution::Command { words, command, arguments } => run_command(name, words, command, arguments),
        Resolution::Help(about) => help::serve(name, tool, &about),
        Resolution::Unknown(path) | Resolution::Incomplete(path) if asks.is_some() && path.contains(' ') => {
            let group = path.rsplit_once(' ').map_or("", |(group, _)| group);
            Ok(help::of_group(name, tool, group))
        }
        Resolution::Incomplete(path) => {
            Ok(help::refuse(name, tool, &format!("incomplete command '{name} {path}'"), &path))
        }
        Resolution::Unknown(path) => Ok(help::refuse(name, tool, &format!("unknown command '{name} {path}'"), "")),
    }
}

fn run_command(
    tool: &'static str,
    words: &'static str,
    command: &'static Command,
    line: Vec<String>,
) -> Result<ExitCode> {
    let ctx = Context::for_tool()?;
    let row = local::find(tool, words);
    let define = row.and_then(|row| row.define);
    let definition = match define {
        Some(define) => define(command, &ctx, &line)?,
        None => Definition::of(command, &ctx.node)?,
    };
    let usage = || crate::usage::line(&crate::usage::prefix(tool, words), &definition);
    let arguments = match definition.parse(&line) {
        Ok(Request::Help) => return Ok(help::of_command(tool, words, command)),
        Ok(Request::Run(arguments)) => arguments,
        Err(error) => return Ok(failure::report(&error, Some(usage()))),
    };
    if !rustix::process::geteuid().is_root() {
        return Err(Error::new("please run as root"));
    }
    if !ctx.root.etc_pve("nodes").join(&ctx.node).exists() {
        // The first program on a node may be a tool.
        engine::node::setup::ensure(&ctx)?;
    }
    let Arguments { params, extras } = arguments;
    let invocation = Invocation { ctx, tool, words, command, params: Params::verified(params), extras };
    let outcome = match row {
        Some(row) => (row.run)(&invocation),
        None => run_method(&invocation),
    };
    Ok(outcome.unwrap_or_else(|error| failure::report(&error, Some(usage()))))
}

/// Runs the method behind a command and prints its result.
fn run_method(invocation: &Invocation) -> Result<ExitCode> {
    let Some((verb, template)) = invocation.command.target() else {
        let name = crate::usage::prefix(invocation.tool, invocation.words);
        return Err(Error::NotImplemented(format!("'{name}' is not built yet")));
    };
    let params =
        if invocation.command.parameters.is_some() { serde_json::Map::new() } else { invocation.params.to_map() };
    let reply = invocation.answer(verb, template, params)?;
    let is_task = invocation.command.output.kind == OutputKind::Task;
    if !is_task {
        invocation.print(reply)?;
    } else if let Value::String(text) = &reply.data
        && text.parse::<engine::task::Upid>().is_err()
    {
        // The work was done at once, and there is more to say than a task's id.
        output::write(&format!("{text}\n"));
    }
    Ok(ExitCode::SUCCESS)
}
