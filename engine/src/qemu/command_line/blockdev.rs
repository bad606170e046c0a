//! What stands behind a drive: QEMU's block layer.
//!
//! Machines from version 10.0 on get a chain of block nodes (throttle → format → file) in JSON; older ones keep the
//! `-drive` they were born with, because the choice shows in the guest. (PVE: Blockdev.pm, Drive.pm)

use super::builder::{Builder, escape_commas, fail};
use super::source::file_node;
use super::volumes::StorageTraits;
use crate::Result;
use crate::qemu::config::{Bus, Drive};
use serde_json::{Map, Value, json};

/// What a chain has beyond the drive's own options.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ChainOptions {
    /// Nobody writes to it, whatever the drive says.
    pub read_only: bool,
    /// Bytes of a raw image, when less than all are shown.
    pub size: Option<u64>,
}

/// What QEMU opens for a drive: path and format; an empty CD-ROM has neither.
fn path_and_format(builder: &Builder, drive: &Drive) -> Result<(String, Option<String>)> {
    let format = checked_format(builder, drive)?;
    if let Some(volume) = drive.volume() {
        return Ok((builder.volumes.path(&volume)?, Some(format)));
    }
    let path = match drive.file.as_str() {
        "none" => String::new(),
        "cdrom" => builder.host.cdrom_path().unwrap_or_default(),
        path if path.starts_with('/') => path.to_owned(),
        other => return fail(format!("drive '{}': unable to parse volume ID '{other}'", drive.slot)),
    };
    let format = if drive.is_cdrom() && path.is_empty() { None } else { Some(format) };
    Ok((path, format))
}

/// The format of the volume, which the drive may repeat but not change; of other files what the drive says.
fn checked_format(builder: &Builder, drive: &Drive) -> Result<String> {
    let configured = drive.options.text("format");
    let Some(volume) = drive.volume() else { return Ok(configured.unwrap_or_else(|| "raw".into())) };
    let stored = builder.volumes.format(&volume)?;
    match configured.filter(|format| *format != stored) {
        None => Ok(stored),
        Some(format) => fail(format!(
            "drive '{}' - volume '{volume}' - 'format={format}' option different from storage format '{stored}'",
            drive.slot
        )),
    }
}

fn refuse_unmarked_iso(builder: &Builder, drive: &Drive) -> Result<()> {
    match drive.volume() {
        Some(volume) if drive.options.text("media").is_none() && builder.volumes.is_iso(&volume) => {
            fail(format!("{}: explicit media parameter is required for iso images", drive.slot))
        }
        _ => Ok(()),
    }
}

fn traits(builder: &Builder, drive: &Drive) -> StorageTraits {
    drive.volume().map(|volume| builder.volumes.traits(&volume.storage)).unwrap_or_default()
}

/// Whether the host's cache is bypassed. (PVE: Drive.pm, drive_uses_cache_direct)
fn is_direct(drive: &Drive, storage: &StorageTraits) -> bool {
    match drive.options.text("cache") {
        Some(cache) => matches!(cache.as_str(), "off" | "none" | "directsync"),
        None => !drive.is_cdrom() && (storage.kind != "btrfs" || storage.nocow),
    }
}

/// How I/O is submitted. (PVE: Drive.pm, aio_cmdline_option)
fn aio(drive: &Drive, storage: &StorageTraits, direct: bool) -> String {
    if let Some(aio) = drive.options.text("aio") {
        return aio;
    }
    let hangs = (storage.kind == "rbd" && storage.krbd && !direct) || matches!(storage.kind.as_str(), "lvm" | "cifs");
    match (hangs, direct) {
        (false, _) => "io_uring",
        (true, true) => "native",
        (true, false) => "threads",
    }
    .to_owned()
}

/// What happens to writes of zeroes.
fn detect_zeroes(drive: &Drive) -> &'static str {
    match (drive.options.flag("detect_zeroes"), drive.options.text("discard").as_deref()) {
        (Some(false), _) => "off",
        (_, Some("on")) => "unmap",
        _ => "on",
    }
}

/// Limits by QEMU's names, in PVE's order.
fn limits(drive: &Drive) -> Vec<(String, u64)> {
    let mut limits = Vec::new();
    for (suffix, name) in [("", "total"), ("_rd", "read"), ("_wr", "write")] {
        let bytes = |key: String| drive.options.fraction(&key).map(|mbps| (mbps * 1024.0 * 1024.0) as u64);
        let count = |key: String| drive.options.fraction(&key).map(|count| count as u64);
        let found = [
            (format!("bps-{name}"), bytes(format!("mbps{suffix}"))),
            (format!("bps-{name}-max"), bytes(format!("mbps{suffix}_max"))),
            (format!("bps-{name}-max-length"), count(format!("bps{suffix}_max_length"))),
            (format!("iops-{name}"), count(format!("iops{suffix}"))),
            (format!("iops-{name}-max"), count(format!("iops{suffix}_max"))),
            (format!("iops-{name}-max-length"), count(format!("iops{suffix}_max_length"))),
        ];
        limits.extend(found.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| *value > 0)?))));
    }
    limits
}

/// `-drive` of machines before 10.0.
pub(super) fn drive_option(builder: &Builder, drive: &Drive) -> Result<String> {
    let (path, format) = path_and_format(builder, drive)?;
    let storage = traits(builder, drive);
    if storage.chains && format.as_deref() == Some("qcow2") {
        return fail(format!(
            "storage for '{}' is configured for snapshots as a volume chain - this requires QEMU machine version >= \
             10.0. See https://pve.proxmox.com/wiki/QEMU_Machine_Version_Upgrade",
            drive.file
        ));
    }
    let mut options = String::new();
    for key in ["media", "cache", "rerror", "werror", "discard"] {
        if let Some(value) = drive.options.text(key) {
            options += &format!(",{key}={value}");
        }
    }
    let switch = |flag: bool| if flag { "on" } else { "off" };
    if let Some(snapshot) = drive.options.flag("snapshot") {
        options += &format!(",snapshot={}", switch(snapshot));
    }
    if let Some(read_only) = drive.options.flag("ro") {
        options += &format!(",readonly={}", switch(read_only));
    }
    for (name, value) in limits(drive) {
        options += &format!(",throttling.{name}={value}");
    }
    if let Some(format) = format {
        options += &format!(",format={format}");
    }
    let direct = is_direct(drive, &storage);
    if direct && drive.options.text("cache").is_none() {
        options += ",cache=none";
    }
    options += &format!(",aio={}", aio(drive, &storage, direct));
    refuse_unmarked_iso(builder, drive)?;
    if !drive.is_cdrom() {
        options += &format!(",detect-zeroes={}", detect_zeroes(drive));
    }
    if builder.vm.is_template() && !matches!(drive.slot.bus, Bus::Ide | Bus::Sata) {
        options += ",readonly=on";
    }
    let file = if path.is_empty() { String::new() } else { format!("file={},", escape_commas(&path)) };
    Ok(format!("{file}if=none,id=drive-{}{options}", drive.slot))
}

/// The object that holds a drive's limits.
pub(super) fn throttle_group(drive: &Drive) -> Value {
    let limits: Map<String, Value> = limits(drive).into_iter().map(|(name, value)| (name, value.into())).collect();
    json!({"id": format!("throttle-drive-{}", drive.slot), "limits": limits, "qom-type": "throttle-group"})
}

/// The chain of block nodes of machines from 10.0 on.
pub(super) fn block_nodes(builder: &Builder, drive: &Drive, options: ChainOptions) -> Result<Value> {
    let file = file_layer(builder, drive, options, None)?;
    let mut top = format_layer(builder, drive, file, options, None)?;
    if let Some(backing) = backing_layers(builder, drive)? {
        top["backing"] = backing;
    }
    if drive.options.is_on("scsiblock") {
        top["node-name"] = format!("drive-{}", drive.slot).into();
        return Ok(top);
    }
    let mut throttle = json!({
        "driver": "throttle", "node-name": format!("drive-{}", drive.slot),
        "throttle-group": format!("throttle-drive-{}", drive.slot), "file": top,
    });
    add_common(&mut throttle, drive, options);
    Ok(throttle)
}

/// Snapshots that are volumes of their own, each on the next older one.
fn backing_layers(builder: &Builder, drive: &Drive) -> Result<Option<Value>> {
    let Some(volume) = drive.volume() else { return Ok(None) };
    let mut below = None;
    for layer in builder.volumes.chain(&volume)?.into_iter().rev() {
        let options = ChainOptions::default();
        let mut file = file_layer(builder, drive, options, Some(&layer.snapshot))?;
        file["filename"] = layer.file.into();
        let mut node = format_layer(builder, drive, file, options, Some(&layer.snapshot))?;
        if let Some(below) = below.take() {
            node["backing"] = below;
        }
        below = Some(node);
    }
    Ok(below)
}

fn file_layer(builder: &Builder, drive: &Drive, options: ChainOptions, snapshot: Option<&str>) -> Result<Value> {
    if drive.options.is_on("snapshot") {
        return fail("'snapshot' option is not yet supported for '-blockdev'");
    }
    let storage = traits(builder, drive);
    let mut node = if let Some(volume) = drive.volume() {
        refuse_unmarked_iso(builder, drive)?;
        builder.volumes.node(&volume)?
    } else if drive.file == "cdrom" {
        let mut node = file_node(&builder.host.cdrom_path().unwrap_or_default(), true);
        node.insert("driver".into(), "host_cdrom".into());
        node
    } else if drive.file.starts_with('/') {
        // The copy of the firmware's variables is made after planning.
        let is_copy = drive.slot.bus == Bus::Efidisk && builder.preparations.firmware.is_some();
        let is_device = !is_copy && builder.volumes.is_device(&drive.file)?;
        let mut node = file_node(&drive.file, is_device);
        if is_device && drive.is_cdrom() {
            node.insert("driver".into(), "host_cdrom".into());
        }
        node
    } else {
        return fail(format!("drive '{}': unable to parse volume ID '{}'", drive.slot, drive.file));
    };
    let driver = node.get("driver").and_then(Value::as_str).unwrap_or_default().to_owned();
    let direct = is_direct(drive, &storage);
    let cache = if driver == "rbd" && drive.slot.bus == Bus::Efidisk {
        // Firmware rewrites its variables again and again.
        json!({"direct": false, "no-flush": false})
    } else {
        json!({"direct": direct, "no-flush": drive.options.text("cache").as_deref() == Some("unsafe")})
    };
    node.insert("cache".into(), cache);
    if matches!(driver.as_str(), "file" | "host_cdrom" | "host_device") {
        node.insert("aio".into(), aio(drive, &storage, direct).into());
    }
    node.insert("node-name".into(), node_name('e', drive, snapshot).into());
    let mut node = Value::Object(node);
    add_common(&mut node, drive, options);
    Ok(node)
}

fn format_layer(
    builder: &Builder,
    drive: &Drive,
    file: Value,
    options: ChainOptions,
    snapshot: Option<&str>,
) -> Result<Value> {
    let format = checked_format(builder, drive)?;
    let mut node = json!({
        "driver": format, "cache": file["cache"], "file": file, "node-name": node_name('f', drive, snapshot),
    });
    add_common(&mut node, drive, options);
    if let Some(size) = options.size {
        node["size"] = size.into();
    }
    if format == "qcow2" && traits(builder, drive).chains {
        node["discard-no-unref"] = true.into();
    }
    Ok(node)
}

/// What every node of a chain has.
fn add_common(node: &mut Value, drive: &Drive, options: ChainOptions) {
    if !drive.is_cdrom() {
        let discard = if drive.options.text("discard").as_deref() == Some("on") { "unmap" } else { "ignore" };
        node["discard"] = discard.into();
        node["detect-zeroes"] = detect_zeroes(drive).into();
    }
    node["read-only"] = (drive.options.is_on("ro") || drive.is_cdrom() || options.read_only).into();
}

/// Node names have at most 31 characters and begin with a letter.
fn node_name(kind: char, drive: &Drive, snapshot: Option<&str>) -> String {
    let snapshot = snapshot.map(|name| format!("snap={name},")).unwrap_or_default();
    let text = format!("drive={},{snapshot}volid={}", drive.slot, drive.file);
    let sum = openssl::sha::sha256(text.as_bytes());
    format!("{kind}{}", crate::types::hex(&sum[..15]))
}
