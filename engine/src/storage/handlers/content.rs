//! `/nodes/{node}/storage/{storage}/content`: volumes. (PVE: pve-storage PVE/API2/Storage/Content.pm)

use crate::context::Mode;
use crate::storage::driver::Described;
use crate::storage::permission::check_described;
use crate::storage::{
    self, Content, Format, NewVolume, Volume, VolumeId, VolumeKind, attributes, backup, check_volume_access,
};
use crate::task::{Upid, journal};
use crate::{Call, Error, Reply, Result, access};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often a task is looked at while its end is waited for.
const LOOK: Duration = Duration::from_millis(20);

pub(super) fn list(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    let content: Vec<Content> = call.opt("content")?.into_iter().collect();
    let volumes = storage::list(call.ctx, &id, call.opt("vmid")?, &content)?;
    // What a caller may see depends on content and owner only; thousands of volumes have few of these.
    let mut verdicts = HashMap::new();
    let mut may_read = |volume: &Volume| {
        *verdicts.entry((volume.content, volume.vmid)).or_insert_with(|| {
            let described = Described {
                content: volume.content,
                vmid: volume.vmid,
                is_base: false,
                format: Format::Raw,
                base: None,
            };
            check_described(call.ctx, None, &volume.id, &described).is_ok()
        })
    };
    let rows: Vec<Row> = volumes.iter().filter(|volume| may_read(volume)).map(Row::of).collect();
    Reply::list(&rows)
}

/// A volume in the list. Members that would say nothing are missing.
#[derive(Serialize)]
struct Row<'a> {
    volid: String,
    content: &'static str,
    format: &'a str,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vmid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ctime: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtype: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protected: Option<u8>,
}

impl<'a> Row<'a> {
    fn of(volume: &'a Volume) -> Self {
        Row {
            volid: volume.id.to_string(),
            content: volume.content.name(),
            format: &volume.format,
            size: volume.size,
            used: volume.used,
            vmid: volume.vmid.map(|vmid| vmid.number()),
            parent: volume.parent.as_deref(),
            ctime: volume.ctime,
            subtype: volume.subtype,
            notes: volume.notes.as_deref(),
            protected: volume.protected.then_some(1),
        }
    }
}

pub(super) fn allocate(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    let name: String = call.param("filename")?;
    let size = parse_kib(&call.param::<String>("size")?)?;
    let mut format: Option<Format> = call.opt("format")?;
    let of_name = name.rsplit_once('.').and_then(|(_, extension)| extension.parse::<Format>().ok());
    if let Some(of_name) = of_name.filter(|format| *format != Format::Subvol) {
        if let Some(format) = format.filter(|format| *format != of_name) {
            return Err(Error::parameter("format", format!("different storage formats ({format} != {of_name})")));
        }
        format = Some(of_name);
    }
    let kind = if format == Some(Format::Subvol) { VolumeKind::ContainerRoot } else { VolumeKind::Image };
    let new = NewVolume { vmid: call.param("vmid")?, format, name: Some(name), size, kind };
    Ok(Reply::from(json!(storage::allocate(call.ctx, &id, &new)?.to_string())))
}

/// KiB without a unit, else MiB or GiB; in bytes.
fn parse_kib(text: &str) -> Result<u64> {
    let bad = || Error::parameter("size", format!("unable to parse size '{text}'"));
    let (digits, factor) = match text.chars().last() {
        Some('M') => (&text[..text.len() - 1], 1 << 20),
        Some('G') => (&text[..text.len() - 1], 1 << 30),
        _ => (text, 1 << 10),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor)).ok_or_else(bad)
}

/// The volume of a call: a whole id, or a name on the storage of the path.
fn volume(call: &Call) -> Result<VolumeId> {
    volume_of(call, "volume")
}

/// The same for another parameter.
pub(super) fn volume_of(call: &Call, parameter: &str) -> Result<VolumeId> {
    let text: String = call.param(parameter)?;
    let storage: Option<String> = call.opt("storage")?;
    let bad = |text: String| Error::parameter(parameter, text);
    if !text.contains(':') {
        let storage = storage.ok_or_else(|| bad("no storage specified - incomplete volume ID".into()))?;
        return format!("{storage}:{text}").parse().map_err(bad);
    }
    let volume: VolumeId = text.parse().map_err(bad)?;
    match storage {
        Some(storage) if storage != volume.storage => {
            Err(bad(format!("storage ID mismatch ({} != {storage})", volume.storage)))
        }
        _ => Ok(volume),
    }
}

pub(super) fn read(call: &Call) -> Result<Reply> {
    let volume = volume(call)?;
    check_volume_access(call.ctx, None, &volume)?;
    let path = storage::path(call.ctx, &volume)?;
    let info = storage::info(call.ctx, &volume)?;
    if info.size == 0 && info.format != Format::Subvol {
        return Err(Error::new(format!("volume '{volume}' has size zero")));
    }
    let attributes = attributes(call.ctx, &volume)?;
    let mut entry = Map::new();
    entry.insert("path".into(), json!(path.to_string_lossy()));
    entry.insert("size".into(), json!(info.size));
    entry.insert("used".into(), json!(info.used));
    entry.insert("format".into(), json!(info.format.name()));
    if let Some(notes) = attributes.notes {
        entry.insert("notes".into(), json!(notes));
    }
    if let Some(protected) = attributes.protected {
        entry.insert("protected".into(), json!(u8::from(protected)));
    }
    Ok(Reply::from(Value::Object(entry)))
}

pub(super) fn update(call: &Call) -> Result<Reply> {
    let volume = volume(call)?;
    check_volume_access(call.ctx, None, &volume)?;
    if let Some(notes) = call.opt::<String>("notes")? {
        storage::set_notes(call.ctx, &volume, &notes)?;
    }
    if let Some(protected) = call.opt::<bool>("protected")? {
        backup::set_protected(call.ctx, &volume, protected)?;
    }
    Ok(Reply::null())
}

pub(super) fn remove(call: &Call) -> Result<Reply> {
    let volume = volume(call)?;
    let described = storage::describe(call.ctx, &volume)?;
    let path = format!("/storage/{}", volume.storage);
    match described.vmid {
        Some(owner) if described.content == Content::Backup => {
            access::check(call.ctx, &path, &["Datastore.AllocateSpace"])?;
            access::check(call.ctx, &format!("/vms/{owner}"), &["VM.Backup"])?;
        }
        _ => access::check(call.ctx, &path, &["Datastore.Allocate"])?,
    }
    let owner = described.vmid.map(|vmid| format!("{vmid}@")).unwrap_or_default();
    let reply = call.task("imgdel", format!("{owner}{}", volume.storage), |task| {
        let path = storage::path(call.ctx, &volume)?;
        if std::fs::symlink_metadata(&path).is_err() {
            task.log(format!("disk image '{}' does not exist", path.display()));
        }
        storage::free(call.ctx, &volume)?;
        task.log(format!("Removed volume '{volume}'"));
        Ok(())
    })?;
    match call.opt::<u64>("delay")? {
        Some(seconds) => wait(call, reply, Duration::from_secs(seconds)),
        None => Ok(reply),
    }
}

/// Null when the task ends well in time, its error when it fails in time, else its UPID.
fn wait(call: &Call, reply: Reply, time: Duration) -> Result<Reply> {
    let Mode::Daemon { .. } = call.ctx.mode else { return Ok(Reply::null()) };
    let Some(upid) = reply.data.as_str().and_then(|text| text.parse::<Upid>().ok()) else { return Ok(reply) };
    let until = Instant::now() + time;
    loop {
        let ended = !upid.process.is_alive();
        let status = journal::status_from_log(call.ctx, &upid);
        if ended || status != "unexpected status" {
            let good = status == "OK" || status.starts_with("WARNINGS: ");
            return if good { Ok(Reply::null()) } else { Err(Error::new(status)) };
        }
        if Instant::now() >= until {
            return Ok(reply);
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_kib_unless_they_say_otherwise() {
        for (text, bytes) in [("4", 4096), ("4M", 4 << 20), ("8G", 8 << 30), ("0", 0)] {
            assert_eq!(parse_kib(text).unwrap(), bytes);
        }
        for bad in ["", "G", "1T", "-1", "1.5G", "99999999999999999999"] {
            assert!(parse_kib(bad).is_err(), "{bad}");
        }
    }
}
