//! The script that an administrator may give a guest: run as `SCRIPT VMID PHASE`.
//! (PVE: pve-guest-common PVE/GuestHelpers.pm, exec_hookscript)

use crate::config::guest::Part;
use crate::{Context, Result, Vmid, command, error::ResultExt, guest};

/// Runs the script of a container, if it has one. What it prints goes to `log`.
pub fn run(ctx: &Context, vmid: Vmid, part: &Part, phase: &str, log: impl Fn(&str)) -> Result<()> {
    let Some(volume) = part.get("hookscript") else { return Ok(()) };
    let vmid_text = vmid.to_string();
    let run = |path: std::path::PathBuf| {
        command::run_lines(&path.to_string_lossy(), &[vmid_text.as_str(), phase], |_, line| log(line))
    };
    guest::input::check_hookscript(ctx, volume)
        .and_then(run)
        .context(|| format!("hookscript error for {vmid} on {phase}"))
}
