//! Local commands of `pvesm`, the tool for storages. (pve-storage PVE/CLI/pvesm.pm)

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use engine::{Result, storage};
use std::process::ExitCode;

/// The version of the storage interface for plugins that we are compatible with, and how many older ones it takes.
/// (pve-storage PVE/Storage.pm, APIVER and APIAGE)
const API_VERSION: (u32, u32) = (15, 6);

/// The commands of this module.
pub const COMMANDS: &[Row] = &[command("pvesm", "apiinfo", api_info), command("pvesm", "path", path)];

fn api_info(_invocation: &Invocation) -> Result<ExitCode> {
    let (version, age) = API_VERSION;
    output::write(&format!("APIVER {version}\nAPIAGE {age}\n"));
    Ok(ExitCode::SUCCESS)
}

/// Where a volume is, whether it exists or not.
fn path(invocation: &Invocation) -> Result<ExitCode> {
    let path = storage::path(&invocation.ctx, &invocation.param("volume")?)?;
    output::write(&format!("{}\n", path.display()));
    Ok(ExitCode::SUCCESS)
}
