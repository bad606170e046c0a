//! Files from a URL. (PVE: pve-storage PVE/API2/Storage/Status.pm, download_url; pve-manager PVE/API2/Nodes.pm)

use crate::storage::download::{Source, Wanted};
use crate::storage::transfer::{Checksum, Target};
use crate::storage::{self, Content};
use crate::{Call, Reply, Result, bail};
use serde_json::{Map, Value, json};

fn source(call: &Call) -> Result<Source> {
    let verify = call.opt("verify-certificates")?.unwrap_or(true);
    Source::new(call.ctx, call.param("url")?, verify)
}

pub(super) fn metadata(call: &Call) -> Result<Reply> {
    let metadata = source(call)?.metadata()?;
    let mut row = Map::new();
    if let Some(name) = metadata.file_name {
        row.insert("filename".into(), json!(name));
    }
    if let Some(size) = metadata.size {
        row.insert("size".into(), json!(size));
    }
    if let Some(kind) = metadata.mime_type {
        row.insert("mimetype".into(), json!(kind));
    }
    Ok(Reply::from(Value::Object(row)))
}

pub(super) fn download(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    let content: Content = call.param("content")?;
    if !storage::find_enabled(call.ctx, &id)?.entry.has_content(content) {
        bail!("storage '{id}' is not configured for content-type '{content}'");
    }
    let target = Target::new(call.ctx, &id, content, &call.param::<String>("filename")?)?;
    let wanted = Wanted { checksum: checksum(call)?, compression: call.opt("compression")? };
    let source = source(call)?;
    storage::activate(call.ctx, &id)?;
    // The id of a task must not have a colon; names are made of harmless characters only.
    call.task("download", &target.file, |task| {
        if wanted.compression.is_some() && content != Content::Iso {
            bail!("decompression not supported for {content}");
        }
        source.fetch(task, &target, &wanted)
    })
}

/// The expected checksum, if one was given.
pub(super) fn checksum(call: &Call) -> Result<Option<Checksum>> {
    Ok(match (call.opt("checksum-algorithm")?, call.opt("checksum")?) {
        (Some(algorithm), Some(expected)) => Some(Checksum::new(algorithm, expected)),
        _ => None,
    })
}
