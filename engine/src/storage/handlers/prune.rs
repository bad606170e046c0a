//! `/nodes/{node}/storage/{storage}/prunebackups`. (PVE: pve-storage PVE/API2/Storage/PruneBackups.pm)

use crate::storage::prune::{self, Marked};
use crate::{Call, Reply, Result, Vmid, access};
use serde_json::{Value, json};

fn plan(call: &Call) -> Result<Vec<Marked>> {
    let keep: Option<String> = call.opt("prune-backups")?;
    let kind: Option<String> = call.opt("type")?;
    prune::plan(call.ctx, &call.param::<String>("storage")?, keep.as_deref(), call.opt("vmid")?, kind.as_deref())
}

/// What would be done.
pub(super) fn preview(call: &Call) -> Result<Reply> {
    let rows = plan(call)?.into_iter().map(|entry| {
        let mut row = json!({
            "volid": entry.id.to_string(), "ctime": entry.ctime, "type": entry.kind, "mark": entry.mark.name(),
        });
        if let Some(vmid) = entry.vmid {
            row["vmid"] = json!(vmid.number());
        }
        row
    });
    Ok(Reply::from(Value::Array(rows.collect())))
}

pub(super) fn run(call: &Call) -> Result<Reply> {
    let storage: String = call.param("storage")?;
    let vmid: Option<Vmid> = call.opt("vmid")?;
    let path = format!("/storage/{storage}");
    match vmid {
        Some(vmid) => {
            access::check(call.ctx, &path, &["Datastore.AllocateSpace"])?;
            access::check(call.ctx, &format!("/vms/{vmid}"), &["VM.Backup"])?;
        }
        None => access::check(call.ctx, &path, &["Datastore.Allocate"])?,
    }
    let owner = vmid.map(|vmid| format!("{vmid}@")).unwrap_or_default();
    call.task("prunebackups", format!("{owner}{storage}"), |task| {
        prune::run(call.ctx, &plan(call)?, &mut |line| task.log(line))
    })
}
