//! Backups on a storage: how many may be protected. (PVE: pve-storage PVE/Storage.pm, update_volume_attribute)

use super::content::Content;
use super::volume::VolumeId;
use crate::{Context, Result, access, bail};

/// Protected backups that a user without Datastore.Allocate may keep per guest.
const PROTECTED_PER_GUEST: i64 = 5;

/// Sets or removes the protection of a backup, within the limit per guest.
pub fn set_protected(ctx: &Context, volume: &VolumeId, protected: bool) -> Result<()> {
    let already = super::attributes(ctx, volume)?.protected == Some(true);
    if protected && !already {
        check_limit(ctx, volume)?;
    }
    let (storage, driver) = super::activated(ctx, &volume.storage)?;
    driver.set_protected(&storage, &volume.name, protected)
}

fn check_limit(ctx: &Context, volume: &VolumeId) -> Result<()> {
    let described = super::describe(ctx, volume)?;
    let Some(vmid) = described.vmid.filter(|_| described.content == Content::Backup) else { return Ok(()) };
    let limit = limit(ctx, &volume.storage)?;
    if limit < 0 {
        return Ok(());
    }
    let backups = super::list(ctx, &volume.storage, Some(vmid), &[Content::Backup])?;
    let subtype = backups.iter().find(|backup| backup.id == *volume).and_then(|backup| backup.subtype);
    let count = backups.iter().filter(|backup| backup.protected && backup.subtype == subtype).count();
    if i64::try_from(count).is_ok_and(|count| count >= limit) {
        bail!("The number of protected backups per guest is limited to {limit} on storage '{}'", volume.storage);
    }
    Ok(())
}

/// -1 is without limit.
fn limit(ctx: &Context, storage: &str) -> Result<i64> {
    let configured = super::find(ctx, storage)?.entry.get("max-protected-backups").and_then(|text| text.parse().ok());
    Ok(configured.unwrap_or_else(|| {
        let unlimited = access::has(ctx, &format!("/storage/{storage}"), &["Datastore.Allocate"]);
        if unlimited { -1 } else { PROTECTED_PER_GUEST }
    }))
}
