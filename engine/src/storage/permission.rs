//! Who may use a volume. (PVE: pve-storage PVE/Storage.pm, check_volume_access)

use super::content::Content;
use super::volume::VolumeId;
use crate::{Context, Error, Result, Vmid};

/// Refuses a volume that the caller may not read. A guest's own volumes are free for `vmid`.
pub fn check_volume_access(ctx: &Context, vmid: Option<Vmid>, volume: &VolumeId) -> Result<()> {
    let described = super::describe(ctx, volume)?;
    let path = format!("/storage/{}", volume.storage);
    if has(ctx, &path, &["Datastore.Allocate"]) {
        return Ok(());
    }
    match (described.content, described.vmid) {
        (Content::Iso | Content::Vztmpl | Content::Import, _) => {
            check_any(ctx, &path, &["Datastore.AllocateSpace", "Datastore.Audit"])
        }
        (_, Some(owner)) if Some(owner) == vmid => Ok(()),
        (Content::Backup, Some(owner)) => {
            check(ctx, &path, &["Datastore.AllocateSpace"])?;
            check(ctx, &format!("/vms/{owner}"), &["VM.Backup"])
        }
        (Content::Images | Content::Rootdir, Some(owner)) => {
            check(ctx, &path, &["Datastore.Audit"])?;
            check(ctx, &format!("/vms/{owner}"), &["VM.Config.Disk"])
        }
        _ => Err(Error::new(format!("missing privileges to access {volume}"))),
    }
}

fn has(ctx: &Context, _path: &str, _privileges: &[&str]) -> bool {
    ctx.caller.is_root()
}

fn check(ctx: &Context, path: &str, privileges: &[&str]) -> Result<()> {
    if has(ctx, path, privileges) {
        return Ok(());
    }
    Err(Error::Forbidden(format!("Permission check failed ({path}, {})", privileges.join("|"))))
}

fn check_any(ctx: &Context, path: &str, privileges: &[&str]) -> Result<()> {
    check(ctx, path, privileges)
}
