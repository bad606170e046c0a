//! Templates that others offer. (PVE: pve-manager PVE/API2/Nodes.pm, aplinfo, apl_download, query_oci_repo_tags;
//! pve-storage PVE/API2/Storage/Status.pm, oci_registry_pull)

use crate::storage::appliance;
use crate::storage::transfer::{Incoming, Target, normalize_file_name};
use crate::storage::{self, Content};
use crate::{Call, Error, Reply, Result, bail, command};
use serde_json::{Value, json};
use std::path::Path;

/// The program that speaks with registries; Debian has it in a package of that name.
const SKOPEO: &str = "skopeo";

/// All members of the records, as the index has them.
pub(super) fn list(call: &Call) -> Result<Reply> {
    let rows = appliance::load(call.ctx)?.into_values().map(|entry| json!(entry.fields));
    Ok(Reply::from(rows.collect::<Value>()))
}

pub(super) fn download(call: &Call) -> Result<Reply> {
    let (id, template): (String, String) = (call.param("storage")?, call.param("template")?);
    let appliance =
        appliance::load(call.ctx)?.remove(&template).ok_or_else(|| Error::parameter("template", "no such template"))?;
    if !storage::find_enabled(call.ctx, &id)?.entry.has_content(Content::Vztmpl) {
        bail!("storage '{id}' does not support templates");
    }
    let target = Target::new(call.ctx, &id, Content::Vztmpl, &template)?;
    storage::activate(call.ctx, &id)?;
    call.task("download", &target.file, |task| appliance::fetch(task, &appliance, &target))
}

pub(super) fn repository_tags(call: &Call) -> Result<Reply> {
    let reference: String = call.param("reference")?;
    if !has_skopeo() {
        bail!("Install 'skopeo' to list tags from OCI registries.");
    }
    let answer = command::run(SKOPEO, &["list-tags", &format!("docker://{reference}")])?.stdout;
    let answer: Value =
        serde_json::from_str(&answer).map_err(|error| Error::new(format!("{SKOPEO}: unreadable answer: {error}")))?;
    Ok(Reply::from(answer["Tags"].clone()))
}

pub(super) fn pull(call: &Call) -> Result<Reply> {
    if !has_skopeo() {
        bail!("Install 'skopeo' to pull OCI images from registries.");
    }
    let (id, reference): (String, String) = (call.param("storage")?, call.param("reference")?);
    if !storage::find_enabled(call.ctx, &id)?.entry.has_content(Content::Vztmpl) {
        bail!("storage '{id}' is not configured for content-type 'vztmpl'");
    }
    let name = normalize_file_name(&call.opt::<String>("filename")?.unwrap_or_else(|| reference.clone())) + ".tar";
    let target = Target::new(call.ctx, &id, Content::Vztmpl, &name)?;
    storage::activate(call.ctx, &id)?;
    if target.path().exists() {
        bail!("refusing to override existing file '{name}'");
    }
    call.task("ociregistrypull", &name, |task| {
        let incoming = Incoming::create(&target)?;
        let archive = format!("oci-archive:{}", incoming.path().display());
        task.command(SKOPEO, &["copy", &format!("docker://{reference}"), &archive])?;
        incoming.place_new()
    })
}

fn has_skopeo() -> bool {
    Path::new("/usr/bin").join(SKOPEO).exists()
}
