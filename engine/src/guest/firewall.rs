//! The file of a guest's firewall rules: it comes with clones and restores, and goes with the guest. What is in it is
//! somebody else's business.

use crate::{Context, Result, Vmid, error::ResultExt, file};
use std::path::PathBuf;

fn path(ctx: &Context, vmid: Vmid) -> PathBuf {
    ctx.root.etc_pve(&format!("firewall/{vmid}.fw"))
}

/// Gives a guest these rules.
pub fn write(ctx: &Context, vmid: Vmid, rules: &str) -> Result<()> {
    std::fs::create_dir_all(ctx.root.etc_pve("firewall"))?;
    file::replace(&path(ctx, vmid), rules.as_bytes(), 0o640)
}

/// Gives a guest the rules of another one, if that has any. (PVE: pve-firewall PVE/Firewall.pm, clone_vmfw_conf)
pub fn copy(ctx: &Context, from: Vmid, to: Vmid) -> Result<()> {
    let rules = file::read_or_empty(&path(ctx, from))?;
    if rules.is_empty() { Ok(()) } else { write(ctx, to, &rules) }
}

/// Removes the rules of a guest, if it has any.
pub fn remove(ctx: &Context, vmid: Vmid) -> Result<()> {
    let path = path(ctx, vmid);
    file::remove_if_there(&path).context(|| format!("unable to remove '{}'", path.display()))
}
