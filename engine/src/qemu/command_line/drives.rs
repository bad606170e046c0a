//! Drives: controllers, block layer and device of each.
//!
//! Machines from version 10.0 on get a chain of block nodes (throttle → format → file) in JSON; older ones keep the
//! `-drive` they were born with, because the choice shows in the guest. (PVE: Blockdev.pm, DriveDevice.pm, Drive.pm)

use super::builder::{Builder, canonical_json, escape_commas, fail};
use super::volumes::StorageTraits;
use crate::Result;
use crate::qemu::config::{Bus, Drive, Slot};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Adds all drives.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    if let Some(name) = builder.host.iscsi_initiator() {
        builder.device_option("-iscsi", format!("initiator-name={name}"));
    }
    let mut controllers = BTreeSet::new();
    for (slot, drive) in builder.vm.drives()? {
        if drive.is_cloudinit() {
            return fail(format!("option '{slot}': cloud-init drives are not supported yet"));
        }
        controller(builder, slot, &drive, &mut controllers)?;
        block_layer(builder, &drive)?;
        let device = device(builder, &drive)?;
        builder.device(device);
    }
    Ok(())
}

/// How many drives share a SCSI controller, which one a drive is on, and the prefix of its id.
fn scsi_controller(scsihw: &str, index: u16) -> (u16, u16, &'static str) {
    match scsihw {
        "virtio-scsi-single" => (1, index, "virtioscsi"),
        lsi if lsi.starts_with("lsi") => (7, index / 7, "scsihw"),
        _ => (256, index / 256, "scsihw"),
    }
}

fn controller(builder: &mut Builder, slot: Slot, drive: &Drive, known: &mut BTreeSet<String>) -> Result<()> {
    let iothread = drive.options.is_on("iothread");
    match slot.bus {
        Bus::Virtio if iothread => builder.option("-object", format!("iothread,id=iothread-{slot}")),
        Bus::Scsi => {
            let scsihw = builder.vm.scsihw();
            if slot.index > 13 && !builder.uses(4, 1, 2) {
                return fail(format!(
                    "{slot}: machine version 4.1~pve2 or higher is required to use more than 14 SCSI disks"
                ));
            }
            let (_, number, prefix) = scsi_controller(scsihw, slot.index);
            let id = format!("{prefix}{number}");
            let address = builder.pci_address(&id);
            let single = scsihw == "virtio-scsi-single";
            let mut options = String::new();
            if single && iothread {
                options = format!(",iothread=iothread-{id}");
                builder.option("-object", format!("iothread,id=iothread-{id}"));
            } else if iothread {
                let text = "iothread is only valid with virtio disk or virtio-scsi-single controller, ignoring";
                builder.warnings.push(text.into());
            }
            if single && let Some(queues) = drive.options.number("queues") {
                options += &format!(",num_queues={queues}");
            }
            if known.insert(id.clone()) {
                let model = if single { "virtio-scsi-pci" } else { scsihw };
                builder.device(format!("{model},id={id}{address}{options}"));
            }
        }
        Bus::Sata if known.insert("ahci0".into()) => {
            let address = builder.pci_address("ahci0");
            builder.device(format!("ahci,id=ahci0,multifunction=on{address}"));
        }
        _ => {}
    }
    Ok(())
}

fn block_layer(builder: &mut Builder, drive: &Drive) -> Result<()> {
    if !builder.at_least(10, 0) {
        let value = drive_option(builder, drive)?;
        builder.device_option("-drive", value);
        return Ok(());
    }
    if drive.file == "none" {
        return Ok(());
    }
    builder.option("-object", canonical_json(&throttle_group(drive)));
    let chain = block_nodes(builder, drive)?;
    builder.device_option("-blockdev", canonical_json(&chain));
    Ok(())
}

/// What QEMU opens for a drive: path and format; an empty CD-ROM has neither.
fn path_and_format(builder: &Builder, drive: &Drive) -> Result<(String, Option<String>)> {
    let format = drive.options.text("format");
    if let Some(volume) = drive.volume() {
        let stored = builder.volumes.format(&volume)?;
        if let Some(format) = format.filter(|format| *format != stored) {
            return fail(format!(
                "drive '{}' - volume '{volume}' - 'format={format}' option different from storage format '{stored}'",
                drive.slot
            ));
        }
        if builder.volumes.is_iso(&volume) && !drive.is_cdrom() {
            return fail(format!("{}: explicit media parameter is required for iso images", drive.slot));
        }
        return Ok((builder.volumes.path(&volume)?, Some(stored)));
    }
    let path = match drive.file.as_str() {
        "none" => String::new(),
        "cdrom" => builder.host.cdrom_path().unwrap_or_default(),
        path if path.starts_with('/') => path.to_owned(),
        other => return fail(format!("drive '{}': unable to parse volume ID '{other}'", drive.slot)),
    };
    let format = if drive.is_cdrom() && path.is_empty() { None } else { Some(format.unwrap_or_else(|| "raw".into())) };
    Ok((path, format))
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
fn drive_option(builder: &Builder, drive: &Drive) -> Result<String> {
    let (path, format) = path_and_format(builder, drive)?;
    let storage = traits(builder, drive);
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
    if !drive.is_cdrom() {
        options += &format!(",detect-zeroes={}", detect_zeroes(drive));
    }
    let file = if path.is_empty() { String::new() } else { format!("file={},", escape_commas(&path)) };
    Ok(format!("{file}if=none,id=drive-{}{options}", drive.slot))
}

fn throttle_group(drive: &Drive) -> Value {
    let limits: Map<String, Value> = limits(drive).into_iter().map(|(name, value)| (name, value.into())).collect();
    json!({"id": format!("throttle-drive-{}", drive.slot), "limits": limits, "qom-type": "throttle-group"})
}

/// The chain of block nodes of machines from 10.0 on.
fn block_nodes(builder: &Builder, drive: &Drive) -> Result<Value> {
    if drive.options.is_on("snapshot") {
        return fail("'snapshot' option is not yet supported for '-blockdev'");
    }
    let (path, format) = path_and_format(builder, drive)?;
    let storage = traits(builder, drive);
    let direct = is_direct(drive, &storage);
    let cache = json!({"direct": direct, "no-flush": drive.options.text("cache").as_deref() == Some("unsafe")});
    let driver = match (drive.file == "cdrom" || builder.volumes.is_device(&path)?, drive.is_cdrom()) {
        (false, _) => "file",
        (true, true) if drive.volume().is_none() => "host_cdrom",
        (true, _) => "host_device",
    };
    let with_common = |mut node: Value| {
        if !drive.is_cdrom() {
            let discard = if drive.options.text("discard").as_deref() == Some("on") { "unmap" } else { "ignore" };
            node["discard"] = discard.into();
            node["detect-zeroes"] = detect_zeroes(drive).into();
        }
        node["read-only"] = (drive.options.is_on("ro") || drive.is_cdrom()).into();
        node
    };
    let file = with_common(json!({
        "driver": driver, "filename": path, "cache": cache, "aio": aio(drive, &storage, direct),
        "node-name": node_name('e', drive),
    }));
    let format = with_common(json!({
        "driver": format.unwrap_or_else(|| "raw".into()), "file": file, "cache": cache,
        "node-name": node_name('f', drive),
    }));
    if drive.options.is_on("scsiblock") {
        let mut top = format;
        top["node-name"] = format!("drive-{}", drive.slot).into();
        return Ok(top);
    }
    Ok(with_common(json!({
        "driver": "throttle", "node-name": format!("drive-{}", drive.slot),
        "throttle-group": format!("throttle-drive-{}", drive.slot), "file": format,
    })))
}

/// Node names have at most 31 characters and begin with a letter.
fn node_name(kind: char, drive: &Drive) -> String {
    let text = format!("drive={},volid={}", drive.slot, drive.file);
    let sum = openssl::sha::sha256(text.as_bytes());
    let hex: String = sum.iter().take(15).map(|byte| format!("{byte:02x}")).collect();
    format!("{kind}{hex}")
}

/// The device that the guest sees. (PVE: DriveDevice.pm, print_drivedevice_full)
fn device(builder: &mut Builder, drive: &Drive) -> Result<String> {
    let slot = drive.slot;
    let options = &drive.options;
    let new_style = builder.at_least(10, 0);
    let backend = if new_style && drive.file == "none" { String::new() } else { format!(",drive=drive-{slot}") };
    let solid_state = if options.is_on("ssd") { ",rotation_rate=1" } else { "" };
    let text = |key: &str| options.text(key).map(|value| format!(",{key}={value}")).unwrap_or_default();
    let mut device = match slot.bus {
        Bus::Virtio => {
            let address = builder.pci_address(&slot.to_string());
            let iothread = if options.is_on("iothread") { format!(",iothread=iothread-{slot}") } else { String::new() };
            format!("virtio-blk-pci{backend},id={slot}{address}{iothread}")
        }
        Bus::Scsi => {
            let kind = if drive.is_cdrom() { "cd" } else { "hd" };
            let scsihw = builder.vm.scsihw();
            let (size, number, prefix) = scsi_controller(scsihw, slot.index);
            let place = if scsihw.starts_with("lsi") || scsihw == "pvscsi" {
                format!("scsi-id={}", slot.index % size)
            } else {
                format!("channel=0,scsi-id=0,lun={}", slot.index)
            };
            let id = if new_style { format!(",device_id=drive-{slot}") } else { String::new() };
            let speed = if kind == "hd" { solid_state } else { "" };
            let names = [text("wwn"), text("vendor"), text("product")].concat();
            format!("scsi-{kind},bus={prefix}{number}.0,{place}{backend},id={slot}{id}{speed}{names}")
        }
        Bus::Ide | Bus::Sata => {
            let kind = if drive.is_cdrom() { "cd" } else { "hd" };
            let bus = ide_bus(builder, slot);
            let mut device = format!("ide-{kind},{bus}{backend},id={slot}");
            if kind == "hd" {
                if let Some(model) = options.text("model") {
                    device += &format!(",model={}", escape_commas(&percent_decode_str(&model).decode_utf8_lossy()));
                }
                device += solid_state;
            }
            device + &text("wwn")
        }
        Bus::Efidisk | Bus::Tpmstate | Bus::Unused => return fail(format!("option '{slot}' is not supported yet")),
    };
    device += &builder.boot_index(&slot.to_string());
    if let Some(serial) = options.text("serial") {
        device += &format!(",serial={}", escape_commas(&percent_decode_str(&serial).decode_utf8_lossy()));
    }
    if new_style {
        if !drive.is_cdrom() {
            let through = matches!(options.text("cache").as_deref(), Some("writethrough" | "directsync"));
            device += if through { ",write-cache=off" } else { ",write-cache=on" };
        }
        device += &[text("rerror"), text("werror")].concat();
    }
    Ok(device)
}

/// Q35 has one drive on each IDE bus; odd numbers moved up by two buses.
fn ide_bus(builder: &Builder, slot: Slot) -> String {
    if slot.bus == Bus::Sata {
        return format!("bus=ahci0.{}", slot.index);
    }
    let (controller, unit) = (slot.index / 2, slot.index % 2);
    if builder.is_q35() {
        return format!("bus=ide.{},unit=0", controller + 2 * unit);
    }
    format!("bus=ide.{controller},unit={unit}")
}
