//! The script that an administrator may give a guest: run as `SCRIPT VMID PHASE`.
//! (PVE: pve-guest-common PVE/GuestHelpers.pm, exec_hookscript)

use crate::config::guest::Part;
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Vmid, command, error::ResultExt};

/// Runs the script of a container, if it has one. What it prints goes to `log`.
pub fn run(ctx: &Context, vmid: Vmid, part: &Part, phase: &str, log: impl Fn(&str)) -> Result<()> {
    let Some(volume) = part.get("hookscript") else { return Ok(()) };
    let id: VolumeId = volume.parse().map_err(|error| Error::new(format!("hookscript: {error}")))?;
    let path = storage::path(ctx, &id)?;
    command::run_lines(&path.to_string_lossy(), &[vmid.to_string().as_str(), phase], |_, line| log(line))
        .context(|| format!("hookscript error for {vmid} on {phase}"))
}
