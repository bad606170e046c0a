//! `/nodes/{node}/storage/{storage}/import-metadata` and `/identity`: what a storage says about guests in it, and about
//! itself. (PVE: pve-storage PVE/API2/Storage/Status.pm)

use super::content::volume_of;
use crate::storage::{self, Content, check_volume_access};
use crate::{Call, Reply, Result, bail};
use serde_json::json;

pub(super) fn metadata(call: &Call) -> Result<Reply> {
    let volume = volume_of(call, "volume")?;
    check_volume_access(call.ctx, None, &volume)?;
    let described = storage::describe(call.ctx, &volume)?;
    if described.content != Content::Import {
        bail!("volume '{volume}' is not a guest to import");
    }
    let (storage, driver) = storage::activated(call.ctx, &volume.storage)?;
    Ok(Reply::from(driver.import_metadata(&storage, &volume.name)?))
}

pub(super) fn identity(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    let storage = storage::find_enabled(call.ctx, &id)?;
    let identity = storage::driver_of(&storage)?.identity(&storage)?;
    Ok(Reply::from(json!({ "type": storage.entry.kind(), "id": identity })))
}
