//! `qmrestore`: creates a virtual machine from a backup. The same method that creates one does the work.

use super::{Row, command};
use crate::invocation::Invocation;
use contract::Verb;
use contract::command::MAIN;
use engine::Result;
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[command("qmrestore", MAIN, restore)];

fn restore(invocation: &Invocation) -> Result<ExitCode> {
    invocation.call(Verb::Post, "/nodes/{node}/qemu", invocation.params.to_map())?;
    Ok(ExitCode::SUCCESS)
}
