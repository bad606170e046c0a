//! Shell completion: scripts for bash, zsh and fish, and the word list that PVE's own bash completion asks for.
//! The command tree for the scripts is built here, from the contract, and only when a script is asked for.

use crate::arguments::Definition;
use crate::options::ValueMode;
use crate::tree;
use clap::{Arg, ArgAction};
use clap_complete::{Shell, generate, generate_to};
use contract::command::{self, Command, MAIN, Tool};
use contract::{Kind, Schema};
use engine::{Error, Result};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

/// Serves `completion SHELL`, `bashcomplete` and `verifyapi`; other words are not its business.
pub fn serve(name: &'static str, tool: &'static Tool, words: &[String]) -> Result<Option<ExitCode>> {
    match words.first().map(String::as_str) {
        Some("completion") => {
            let shell: Shell = words
                .get(1)
                .and_then(|word| word.parse().ok())
                .ok_or_else(|| Error::BadRequest(format!("usage: {name} completion bash|zsh|fish")))?;
            let mut script = Vec::new();
            generate(shell, &mut clap_tree(name, tool), name, &mut script);
            crate::output::write(&String::from_utf8_lossy(&script));
            Ok(Some(ExitCode::SUCCESS))
        }
        Some("bashcomplete") => {
            let line = std::env::var("COMP_LINE").unwrap_or_default();
            let point = std::env::var("COMP_POINT").ok().and_then(|point| point.parse().ok()).unwrap_or(line.len());
            let current = words.get(2).map_or("", String::as_str);
            let candidates = candidates(tool, line.get(..point).unwrap_or(&line), current);
            crate::output::write(&candidates.iter().map(|candidate| format!("{candidate}\n")).collect::<String>());
            Ok(Some(ExitCode::SUCCESS))
        }
        // The tables are checked when the program is built.
        Some("verifyapi") => Ok(Some(ExitCode::SUCCESS)),
        _ => Ok(None),
    }
}

/// Writes the scripts of all tools for all shells into a folder.
pub fn write_all(folder: &Path) -> std::io::Result<()> {
    for name in command::tools() {
        let Some(tool) = command::tool(name) else { continue };
        let mut tree = clap_tree(name, tool);
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            generate_to(shell, &mut tree, name, folder)?;
        }
    }
    Ok(())
}

fn clap_tree(name: &'static str, tool: &'static Tool) -> clap::Command {
    let root = clap::Command::new(name).version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    if let Some(main) = tool.commands.get(MAIN) {
        return with_arguments(root, main);
    }
    let rows: Vec<(Vec<&str>, &'static Command)> =
        tool.commands.iter().map(|(words, command)| (words.split(' ').collect(), command)).collect();
    let help = clap::Command::new(tree::HELP).about("Explains a command").arg(Arg::new("command").num_args(0..));
    with_children(root, &rows).subcommand(help)
}

fn with_children(node: clap::Command, rows: &[(Vec<&str>, &'static Command)]) -> clap::Command {
    let mut groups: BTreeMap<&str, Vec<(Vec<&str>, &'static Command)>> = BTreeMap::new();
    for (words, command) in rows {
        groups.entry(words[0]).or_default().push((words[1..].to_vec(), command));
    }
    groups.into_iter().fold(node, |node, (word, below)| {
        let child = clap::Command::new(word.to_owned());
        let child = match below.as_slice() {
            [(words, command)] if words.is_empty() => with_arguments(child, command),
            several => with_children(child, several),
        };
        node.subcommand(child)
    })
}

fn with_arguments(node: clap::Command, command: &'static Command) -> clap::Command {
    let node = match command.doc.as_ref().or_else(|| command.method().and_then(|method| method.doc.as_ref())) {
        Some(doc) => node.about(doc.clone()),
        None => node,
    };
    let Ok(definition) = Definition::of(command, "") else { return node };
    let options = definition.option_table().into_iter().filter(|(name, _)| !definition.args.contains(name));
    let node = options.fold(node, |node, (name, acceptance)| {
        let schema = definition.parameter(&name);
        let arg = Arg::new(name.clone()).long(name).value_parser(values(schema)).action(ArgAction::Append);
        node.arg(if acceptance.value == ValueMode::Optional { arg.num_args(0..=1) } else { arg })
    });
    definition.args.iter().fold(node, |node, name| {
        let arg = Arg::new(name.clone()).value_parser(values(definition.parameter(name)));
        let takes_all = definition.args_list || definition.rest_args.as_ref() == Some(name);
        node.arg(if takes_all { arg.num_args(0..) } else { arg })
    })
}

fn values(schema: Option<&Schema>) -> clap::builder::ValueParser {
    match words_of(schema) {
        words if words.is_empty() => clap::builder::ValueParser::string(),
        words => clap::builder::PossibleValuesParser::new(words).into(),
    }
}

/// The words that can be completed for a value.
fn words_of(schema: Option<&Schema>) -> Vec<String> {
    match schema {
        Some(schema) if schema.kind == Some(Kind::Boolean) => vec!["0".to_owned(), "1".to_owned()],
        Some(schema) => schema.enumeration.clone().unwrap_or_default(),
        None => Vec::new(),
    }
}

/// What may stand at the end of a line. (pve-common PVE/CLIHandler.pm, `print_bash_completion`)
fn candidates(tool: &'static Tool, line: &str, current: &str) -> Vec<String> {
    let mut words: Vec<String> = line.split_whitespace().skip(1).map(str::to_owned).collect();
    if !current.is_empty() && words.last().is_some_and(|last| last == current) {
        words.pop();
    }
    let fitting = |candidates: Vec<String>| {
        candidates.into_iter().filter(|candidate| candidate.starts_with(current)).collect::<Vec<_>>()
    };
    let (command, arguments) = match tool.commands.get(MAIN) {
        Some(main) => (main, words),
        None => match tree::resolve(tool, &words) {
            tree::Resolution::Command { command, arguments, .. } => (command, arguments),
            tree::Resolution::Incomplete(path) => return fitting(tree::children(tool, &path).into_iter().collect()),
            tree::Resolution::Help(about) => {
                return fitting(tree::children(tool, &about.join(" ")).into_iter().collect());
            }
            tree::Resolution::Unknown(_) => return Vec::new(),
        },
    };
    let Ok(definition) = Definition::of(command, "") else { return Vec::new() };
    if let Some(name) = definition.args.get(arguments.len())
        && !current.starts_with('-')
    {
        return fitting(words_of(definition.parameter(name)));
    }
    let before = arguments.last().map(|word| word.trim_start_matches('-'));
    let option = before.filter(|_| arguments.last().is_some_and(|word| word.starts_with('-')));
    match option.and_then(|name| definition.parameter(name)) {
        Some(schema) if !current.starts_with('-') => fitting(words_of(Some(schema))),
        _ => {
            let options = definition.option_table().into_keys().filter(|name| !definition.args.contains(name));
            fitting(options.map(|name| format!("--{name}")).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_completed() {
        let tool = command::tool("qm").unwrap();
        for (line, current, expected) in [
            ("qm ", "", "agent"),
            ("qm disk ", "", "import move rescan resize unlink"),
            ("qm disk m", "m", "move"),
            ("qm unl", "unl", "unlock"),
            ("qm set 100 --onb", "--onb", "--onboot"),
            ("qm set 100 --bios ", "", "seabios ovmf"),
            ("qm set 100 --onboot ", "", "0 1"),
            ("qm frob ", "", ""),
        ] {
            let found = candidates(tool, line, current);
            if expected == "agent" {
                assert!(found.contains(&"list".to_owned()) && !found.contains(&"agent".to_owned()));
            } else {
                assert_eq!(found.join(" "), expected, "{line}");
            }
        }
    }

    #[test]
    fn every_tool_has_scripts() {
        let folder = tempfile::tempdir().unwrap();
        write_all(folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3 * command::tools().len());
        let bash = std::fs::read_to_string(folder.path().join("qm.bash")).unwrap();
        assert!(bash.contains("--scsihw") && bash.contains("importovf"));
    }
}
