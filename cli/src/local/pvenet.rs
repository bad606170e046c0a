//! `pvenet`: plan, apply, confirm and take back the node's network. A tool of our own; PVE has none for it.

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use engine::network::transaction::{self, Pending};
use engine::{Error, Result};
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    command("pvenet", "apply", apply),
    command("pvenet", "boot", boot),
    command("pvenet", "confirm", confirm),
    command("pvenet", "guard", guard),
    command("pvenet", "plan", plan),
    command("pvenet", "rollback", rollback),
    command("pvenet", "status", status),
];

fn apply(invocation: &Invocation) -> Result<ExitCode> {
    transaction::apply(&invocation.ctx, invocation.opt("confirm")?, &mut say)?;
    Ok(ExitCode::SUCCESS)
}

fn boot(invocation: &Invocation) -> Result<ExitCode> {
    transaction::boot(&invocation.ctx, &mut say)?;
    Ok(ExitCode::SUCCESS)
}

fn confirm(invocation: &Invocation) -> Result<ExitCode> {
    transaction::confirm(&invocation.ctx)?;
    Ok(ExitCode::SUCCESS)
}

fn guard(invocation: &Invocation) -> Result<ExitCode> {
    transaction::guard(&invocation.ctx, &mut say)?;
    Ok(ExitCode::SUCCESS)
}

fn plan(invocation: &Invocation) -> Result<ExitCode> {
    let plan = transaction::plan_now(&invocation.ctx)?;
    plan.warnings.iter().for_each(|warning| say(&format!("warning: {warning}")));
    plan.changes.iter().for_each(|change| say(&change.to_string()));
    if plan.changes.is_empty() {
        say("no change");
    }
    Ok(ExitCode::SUCCESS)
}

fn rollback(invocation: &Invocation) -> Result<ExitCode> {
    transaction::rollback(&invocation.ctx, &mut say)?;
    Ok(ExitCode::SUCCESS)
}

/// Ends with 1 when kernel and configuration differ.
fn status(invocation: &Invocation) -> Result<ExitCode> {
    match transaction::pending(&invocation.ctx)? {
        Pending::None => say("no change waits for its confirmation"),
        Pending::Waits(seconds) => say(&format!("a change waits for its confirmation for {seconds} more seconds")),
        Pending::Dead => say("a change was interrupted and will be taken back"),
    }
    let plan = transaction::plan_now(&invocation.ctx).map_err(|error| Error::new(error.message()))?;
    match plan.changes.len() {
        0 => say("kernel and configuration agree"),
        1 => say("1 change is left to apply"),
        count => say(&format!("{count} changes are left to apply")),
    }
    Ok(if plan.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(line: &str) {
    output::write(&format!("{line}\n"));
}
