//! From words to a command: unique prefixes, old names, and what is missing.
//! Owns the walk through a tool's words (pve-common PVE/CLIHandler.pm `resolve_cmd`); does not look at options.

use contract::command::{Command, Tool};
use std::collections::BTreeSet;

/// The command that every tool with sub-commands has besides those of its table.
pub const HELP: &str = "help";

/// Where a command line leads.
#[derive(Debug)]
pub enum Resolution {
    /// A command of the table, and how many words named it.
    Command {
        /// Its words as the table writes them.
        words: &'static str,
        /// Its row.
        command: &'static Command,
        /// The arguments behind its words.
        arguments: Vec<String>,
    },
    /// `help` and what it was asked about.
    Help(Vec<String>),
    /// The words so far name a group of commands.
    Incomplete(String),
    /// No command begins with these words.
    Unknown(String),
}

/// Follows the words of a command line.
pub fn resolve(tool: &'static Tool, line: &[String]) -> Resolution {
    let mut path = String::new();
    for (at, word) in line.iter().enumerate() {
        let joined = |word: &str| if path.is_empty() { word.to_owned() } else { format!("{path} {word}") };
        if let Some(target) = tool.aliases.get(&joined(word)) {
            return command(tool, target, &line[at + 1..]).unwrap_or_else(|| Resolution::Unknown(joined(word)));
        }
        let Some(next) = expand(&children(tool, &path), word) else {
            return Resolution::Unknown(joined(word));
        };
        path = joined(&next);
        if path == HELP {
            return Resolution::Help(line[at + 1..].to_vec());
        }
        if let Some(found) = command(tool, &path, &line[at + 1..]) {
            return found;
        }
    }
    Resolution::Incomplete(path)
}

fn command(tool: &'static Tool, words: &str, arguments: &[String]) -> Option<Resolution> {
    let (words, command) = tool.commands.get_key_value(words)?;
    Some(Resolution::Command { words, command, arguments: arguments.to_vec() })
}

/// The words that may follow `path`; old names are not among them.
pub fn children(tool: &Tool, path: &str) -> BTreeSet<String> {
    let below = |words: &str| {
        let rest = if path.is_empty() { words } else { words.strip_prefix(path)?.strip_prefix(' ')? };
        rest.split(' ').next().map(str::to_owned)
    };
    let mut words: BTreeSet<String> = tool.commands.keys().filter_map(|words| below(words)).collect();
    if path.is_empty() {
        words.insert(HELP.to_owned());
    }
    words
}

/// The word itself, or the only one that begins with it.
fn expand(candidates: &BTreeSet<String>, word: &str) -> Option<String> {
    if candidates.contains(word) {
        return Some(word.to_owned());
    }
    let mut hits = candidates.iter().filter(|candidate| !word.is_empty() && candidate.starts_with(word));
    match (hits.next(), hits.next()) {
        (Some(only), None) => Some(only.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::command;

    fn resolved(tool: &str, line: &str) -> String {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match resolve(command::tool(tool).unwrap(), &words) {
            Resolution::Command { words, arguments, .. } => format!("{words}: {}", arguments.join(" ")),
            Resolution::Help(about) => format!("help about {}", about.join(" ")),
            Resolution::Incomplete(path) => format!("incomplete {path}"),
            Resolution::Unknown(path) => format!("unknown {path}"),
        }
    }

    #[test]
    fn words_lead_to_commands() {
        for (tool, line, expected) in [
            ("qm", "list", "list: "),
            ("qm", "li", "unknown li"),
            ("qm", "lis", "unknown lis"),
            ("qm", "lists 100", "listsnapshot: 100"),
            ("qm", "stat 100 --verbose", "status: 100 --verbose"),
            ("qm", "sta 100", "unknown sta"),
            ("qm", "disk", "incomplete disk"),
            ("qm", "disk imp 100 a b", "disk import: 100 a b"),
            ("qm", "importdisk 100 a b", "disk import: 100 a b"),
            ("qm", "importdi 100 a b", "unknown importdi"),
            ("qm", "agent 100 ping", "guest cmd: 100 ping"),
            ("qm", "he create", "help about create"),
            ("qm", "frobnicate", "unknown frobnicate"),
            ("qm", "disk frobnicate", "unknown disk frobnicate"),
            ("pveum", "useradd a@pve", "user add: a@pve"),
            ("pveum", "us to li a@pve", "user token list: a@pve"),
            ("pveum", "user token remove a@pve x", "user token delete: a@pve x"),
            ("qm", "", "incomplete "),
        ] {
            assert_eq!(resolved(tool, line), expected, "{tool} {line}");
        }
    }
}
