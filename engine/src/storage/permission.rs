//! Who may use a volume. (PVE: pve-storage PVE/Storage.pm, check_volume_access)

use super::content::Content;
use super::driver::Described;
use super::volume::VolumeId;
use crate::{Context, Error, Result, Vmid, access};

/// Refuses a volume that the caller may not read. A guest's own volumes are free for `vmid`.
pub fn check_volume_access(ctx: &Context, vmid: Option<Vmid>, volume: &VolumeId) -> Result<()> {
    check_described(ctx, vmid, volume, &super::describe(ctx, volume)?)
}

/// The same for a volume whose name has been understood already.
pub(super) fn check_described(
    ctx: &Context,
    vmid: Option<Vmid>,
    volume: &VolumeId,
    described: &Described,
) -> Result<()> {
    let path = format!("/storage/{}", volume.storage);
    if access::has(ctx, &path, &["Datastore.Allocate"]) {
        return Ok(());
    }
    match (described.content, described.vmid) {
        (Content::Iso | Content::Vztmpl | Content::Import, _) => {
            access::check_any(ctx, &path, &["Datastore.AllocateSpace", "Datastore.Audit"])
        }
        (_, Some(owner)) if Some(owner) == vmid => Ok(()),
        (Content::Backup, Some(owner)) => {
            access::check(ctx, &path, &["Datastore.AllocateSpace"])?;
            access::check(ctx, &format!("/vms/{owner}"), &["VM.Backup"])
        }
        (Content::Images | Content::Rootdir, Some(owner)) => {
            access::check(ctx, &path, &["Datastore.Audit"])?;
            access::check(ctx, &format!("/vms/{owner}"), &["VM.Config.Disk"])
        }
        _ => Err(Error::new(format!("missing privileges to access {volume}"))),
    }
}
