//! `POST /nodes/{node}/storage/{storage}/content/{volume}`: a full copy of a volume under a name of the caller's choice.
//! (PVE: pve-storage PVE/API2/Storage/Content.pm, copy)

use super::content::volume_of;
use crate::storage::{self, Content, Copy, VolumeKind, copy_as};
use crate::{Call, Error, Reply, Result, bail};

pub(super) fn copy(call: &Call) -> Result<Reply> {
    let source = volume_of(call, "volume")?;
    let target = volume_of(call, "target")?;
    let node: Option<String> = call.opt("target_node")?;
    if node.is_some_and(|node| !call.ctx.is_local_node(&node)) {
        return Err(Error::NotImplemented("copying a volume to another node is not implemented".into()));
    }
    let (from, to) = (storage::describe(call.ctx, &source)?, storage::describe(call.ctx, &target)?);
    if from.content != to.content {
        bail!("cannot copy content '{}' to content '{}'", from.content, to.content);
    }
    if storage::info(call.ctx, &target).is_ok() {
        bail!("volume '{target}' already exists");
    }
    call.task("imgcopy", "", |task| {
        let Some(vmid) = to.vmid.filter(|_| to.content == Content::Images) else {
            storage::transfer::copy_file(call.ctx, &source, &target)?;
            task.log(format!("copied '{source}' to '{target}'"));
            return Ok(());
        };
        let name = target.name.rsplit('/').next().unwrap_or(&target.name);
        let limit = storage::bandwidth_limit(call.ctx, "move", &[&source.storage, &target.storage], None)?;
        let wanted = Copy {
            source: &source,
            snapshot: None,
            storage: &target.storage,
            vmid,
            format: Some(to.format),
            kind: VolumeKind::Image,
            limit,
        };
        let made = copy_as(call.ctx, &wanted, Some(name), &mut |line| task.log(line))?;
        task.log(format!("copied '{source}' to '{made}'"));
        Ok(())
    })
}
