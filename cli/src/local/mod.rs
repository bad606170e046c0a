//! Commands that the tools do themselves: no single method of the interface stands behind them.
//! Owns the table of these commands. A function here is thin: it reads parameters, calls the engine, prints.
//!
//! A row also wins over the method that the contract names, for the few commands that print before or after it.

mod guest;
mod pct;
mod pveam;
mod pvenet;
mod pvesh;
mod pvesm;
mod pveum;
mod pveversion;
mod qm;
mod qm_disk;
mod qm_import;
mod qmrestore;

use crate::arguments::Definition;
use crate::invocation::Invocation;
use contract::command::Command;
use engine::{Context, Result};
use std::process::ExitCode;

/// What does the work of a local command. Parameters are verified before it runs.
pub type LocalCommand = fn(&Invocation) -> Result<ExitCode>;

/// What a command takes, when that depends on the line itself.
pub type Define = fn(&'static Command, &Context, &[String]) -> Result<Definition>;

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// The tool's name.
    pub tool: &'static str,
    /// The command's words as the contract writes them.
    pub words: &'static str,
    /// Who does it.
    pub run: LocalCommand,
    /// What it takes, if the contract's row does not say all.
    pub define: Option<Define>,
}

/// A row for a command whose parameters the contract gives.
pub const fn command(tool: &'static str, words: &'static str, run: LocalCommand) -> Row {
    Row { tool, words, run, define: None }
}

/// The rows of all areas.
const TABLE: &[&[Row]] = &[
    guest::COMMANDS,
    pct::COMMANDS,
    pveam::COMMANDS,
    pvenet::COMMANDS,
    pvesh::COMMANDS,
    pvesm::COMMANDS,
    pveum::COMMANDS,
    pveversion::COMMANDS,
    qm::COMMANDS,
    qm_disk::COMMANDS,
    qm_import::COMMANDS,
    qmrestore::COMMANDS,
];

/// All rows.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    TABLE.iter().copied().flatten()
}

/// The row of a command, if somebody has written it.
pub fn find(tool: &str, words: &str) -> Option<&'static Row> {
    rows().find(|row| row.tool == tool && row.words == words)
}

/// The words of a tool's line from its command on. `pvesh` takes old switches before the command.
pub fn without_leading_switches(tool: &str, words: Vec<String>) -> Vec<String> {
    if tool == "pvesh" { pvesh::without_leading_switches(words) } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_commands_of_the_contract_and_stand_once() {
        let mut seen = std::collections::BTreeSet::new();
        for row in rows() {
            let tool = contract::command::tool(row.tool).unwrap_or_else(|| panic!("{}: no tool", row.tool));
            assert!(tool.commands.contains_key(row.words), "{} {}: no command", row.tool, row.words);
            assert!(seen.insert((row.tool, row.words)), "{} {}: two rows", row.tool, row.words);
        }
    }
}
