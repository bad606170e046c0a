//! The command tables of the tools: another view of the methods (pve-common PVE/CLIHandler.pm).
//! Owns which commands a tool has, which arguments stand by position and how results are printed, as data;
//! parsing and printing are done elsewhere. A tool is decoded at its first use.

use crate::method::{self, Method, Verb};
use crate::schema::Schema;
use crate::table::{self, TOOLS};
use crate::verify::ParameterSet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Shape of a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolKind {
    /// Its first words name a command.
    #[serde(rename = "sub-commands")]
    SubCommands,
    /// It does one thing; its command is called [`MAIN`].
    #[serde(rename = "single command")]
    Single,
    /// As `Single`, with its own handling of options.
    #[serde(rename = "script")]
    Script,
}

/// Name of the command of a tool that has only one.
pub const MAIN: &str = "(main)";

/// One tool.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Its shape.
    pub kind: ToolKind,
    /// It starts a daemon.
    pub daemon: bool,
    /// Commands by their words, such as `disk move`.
    pub commands: BTreeMap<String, Command>,
    /// Old words for commands.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aliases: BTreeMap<String, String>,
}

/// One command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// Verb and path of the method behind it; absent if the tool does the work itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The tool does the work itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
    /// Not a command of PVE but an addition of ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub addition: bool,
    /// Our own sentence about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doc: Option<String>,
    /// Parameters taken by position, in order.
    pub args: Vec<String>,
    /// The one positional parameter takes all words as one list.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub args_list: bool,
    /// The last positional parameter takes everything behind the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_args: Option<String>,
    /// Parameters with preset values; `@localnode` is this node.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fixed: BTreeMap<String, Value>,
    /// Parameters whose option holds a file name or is asked for, in words.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub value_mapping: BTreeMap<String, String>,
    /// The common output switches that it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output_options: Vec<String>,
    /// What is printed.
    pub output: Output,
    /// Parameters of a command that the tool does itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<BTreeMap<String, Schema>>,
    /// Its result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returns: Option<Schema>,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputKind {
    /// Nothing.
    None,
    /// As the tool's own code does it.
    Local,
    /// The task's log, while the worker runs in the foreground.
    Task,
    /// Table, JSON or YAML as the switches say.
    Formatted,
    /// One line per element.
    Lines,
    /// The value as it is.
    Plain,
    /// Columns of fixed format.
    FixedTable,
    /// JSON for containers, else the value as it is.
    JsonOrPlain,
    /// An indented tree.
    Tree,
    /// Blocks of lines.
    Blocks,
    /// A configuration file.
    ConfigFile,
    /// JSON.
    Json,
}

/// Columns of a table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Columns {
    /// These members, in this order.
    Named(Vec<String>),
    /// A rule, in words: required members sorted, then optional ones.
    Rule(String),
}

/// What a command prints.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// The manner.
    pub kind: OutputKind,
    /// Details in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// More details in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Exit codes in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<String>,
    /// Values of `--output-format`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub formats: Vec<String>,
    /// Columns of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Columns>,
    /// Titles of columns that differ from the member's name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub titles: BTreeMap<String, String>,
    /// Titles of a fixed table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub header: Vec<String>,
    /// The titles are printed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header_printed: Option<bool>,
    /// Widths of a fixed table in the manner of `printf`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub printf: Option<String>,
}

impl Command {
    /// Verb and path of the method behind the command.
    pub fn target(&self) -> Option<(Verb, &str)> {
        let (verb, template) = self.api.as_deref()?.split_once(' ')?;
        Some((verb.parse().ok()?, template))
    }

    /// The method behind the command.
    pub fn method(&self) -> Option<&'static Method> {
        let (verb, template) = self.target()?;
        method::method(verb, template)
    }

    /// What the command takes: its own parameters, or those of the method.
    pub fn parameter_set(&self) -> Option<ParameterSet<'_>> {
        match (&self.parameters, self.method()) {
            (Some(parameters), _) => Some(ParameterSet { parameters, additional_properties: false, schema: None }),
            (None, Some(method)) => Some(ParameterSet::of(method)),
            (None, None) => None,
        }
    }
}

impl Tool {
    /// Finds a command by its exact words, old words included.
    pub fn command(&self, words: &str) -> Option<&Command> {
        let words = self.aliases.get(words).map_or(words, String::as_str);
        self.commands.get(words)
    }
}

/// The names of all tools.
pub fn tools() -> impl ExactSizeIterator<Item = &'static str> {
    TOOLS.iter().map(|(name, _, _)| *name)
}

/// A tool by name.
pub fn tool(name: &str) -> Option<&'static Tool> {
    static CACHE: [OnceLock<Tool>; TOOLS.len()] = [const { OnceLock::new() }; TOOLS.len()];
    let row = table::position(&TOOLS, name)?;
    Some(CACHE[row].get_or_init(|| {
        let (name, start, end) = TOOLS[row];
        table::decode(name, start, end)
    }))
}

/// The rules that all tools follow, in words, and the common output switches.
pub fn conventions() -> Value {
    table::record(&table::SINGLE, "conventions").expect("the table is packed by build.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_fit_their_methods() {
        let mut commands = 0;
        for name in tools() {
            let tool = tool(name).expect("listed");
            for (words, command) in &tool.commands {
                commands += usize::from(!command.addition);
                let at = format!("{name} {words}");
                assert_eq!(command.api.is_some(), !command.local, "{at}");
                if command.api.is_some() {
                    assert!(command.method().is_some(), "{at}: no such method");
                }
                let Some(set) = command.parameter_set() else { panic!("{at}: takes nothing known") };
                let known = |name: &String| crate::lookup(set.parameters, name).is_some();
                for parameter in command.args.iter().chain(command.rest_args.iter()) {
                    assert!(known(parameter), "{at}: {parameter} is no parameter");
                }
                for parameter in command.fixed.keys() {
                    assert!(known(parameter), "{at}: fixed {parameter} is no parameter");
                    assert!(!command.args.contains(parameter), "{at}: {parameter} is fixed and by position");
                }
            }
            for (old, new) in &tool.aliases {
                assert!(tool.commands.contains_key(new), "{name} {old}: alias of nothing");
                assert!(!tool.commands.contains_key(old), "{name} {old}: alias hides a command");
                assert!(tool.command(old).is_some());
            }
        }
        // PVE's 28 tools with 290 commands, and our own `pvenet` with 7.
        assert_eq!((tools().len(), commands), (29, 297));
        assert!(tool("rm").is_none());
    }
}
