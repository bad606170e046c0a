//! Drives: controllers, and the device of each. What stands behind is in `blockdev`. (PVE: DriveDevice.pm, Drive.pm)

use super::blockdev::{self, ChainOptions};
use super::builder::{Builder, canonical_json, escape_commas, fail};
use crate::Result;
use crate::qemu::config::{Bus, Drive, Slot};
use percent_encoding::percent_decode_str;
use std::collections::BTreeSet;

/// Adds all drives.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    if let Some(name) = builder.host.iscsi_initiator() {
        builder.device_option("-iscsi", format!("initiator-name={name}"));
    }
    let mut controllers = BTreeSet::new();
    for (slot, drive) in builder.vm.drives()? {
        if matches!(slot.bus, Bus::Efidisk | Bus::Tpmstate) {
            continue;
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
        let value = blockdev::drive_option(builder, drive)?;
        builder.device_option("-drive", value);
        return Ok(());
    }
    if drive.file == "none" {
        return Ok(());
    }
    builder.option("-object", canonical_json(&blockdev::throttle_group(drive)));
    let options = ChainOptions { read_only: builder.vm.is_template(), ..ChainOptions::default() };
    let chain = blockdev::block_nodes(builder, drive, options)?;
    builder.device_option("-blockdev", canonical_json(&chain));
    Ok(())
}

/// What a SCSI drive is: `cd`, `hd`, or for devices of the host that want their commands passed through `block` and
/// `generic`. (PVE: Drive.pm, get_scsi_device_type)
fn scsi_kind(builder: &Builder, drive: &Drive) -> Result<&'static str> {
    if drive.is_cdrom() || drive.is_cloudinit() {
        return Ok("cd");
    }
    if drive.file.starts_with('/') {
        return Ok(match builder.host.scsi_type(&drive.file) {
            Some(0) if drive.options.is_on("scsiblock") => "block",
            Some(1) => "generic",
            _ => "hd",
        });
    }
    let is_remote = match drive.volume() {
        Some(volume) if !builder.at_least(4, 1) => builder.volumes.path(&volume)?.starts_with("iscsi://"),
        _ => false,
    };
    Ok(if is_remote { "generic" } else { "hd" })
}

/// The device that the guest sees. (PVE: DriveDevice.pm, print_drivedevice_full)
fn device(builder: &mut Builder, drive: &Drive) -> Result<String> {
    let slot = drive.slot;
    let options = &drive.options;
    let new_style = builder.at_least(10, 0);
    let backend = if new_style && drive.file == "none" { String::new() } else { format!(",drive=drive-{slot}") };
    let solid_state = if options.is_on("ssd") { ",rotation_rate=1" } else { "" };
    let text = |key: &str| options.text(key).map(|value| format!(",{key}={value}")).unwrap_or_default();
    let mut has_write_cache = true;
    let mut device = match slot.bus {
        Bus::Virtio => {
            let address = builder.pci_address(&slot.to_string());
            let iothread = if options.is_on("iothread") { format!(",iothread=iothread-{slot}") } else { String::new() };
            format!("virtio-blk-pci{backend},id={slot}{address}{iothread}")
        }
        Bus::Scsi => {
            let kind = scsi_kind(builder, drive)?;
            let scsihw = builder.vm.scsihw();
            let (size, number, prefix) = scsi_controller(scsihw, slot.index);
            let place = if scsihw.starts_with("lsi") || scsihw == "pvscsi" {
                format!("scsi-id={}", slot.index % size)
            } else {
                format!("channel=0,scsi-id=0,lun={}", slot.index)
            };
            has_write_cache = matches!(kind, "hd" | "cd");
            let id = if new_style && has_write_cache { format!(",device_id=drive-{slot}") } else { String::new() };
            let speed = if matches!(kind, "hd" | "block") { solid_state } else { "" };
            let names = if has_write_cache { [text("vendor"), text("product")].concat() } else { String::new() };
            let wwn = text("wwn");
            format!("scsi-{kind},bus={prefix}{number}.0,{place}{backend},id={slot}{id}{speed}{wwn}{names}")
        }
        Bus::Ide | Bus::Sata => {
            // A template is opened for backups only, and disks of this kind cannot be read-only.
            let kind = if drive.is_cdrom() || builder.vm.is_template() { "cd" } else { "hd" };
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
        Bus::Efidisk | Bus::Tpmstate | Bus::Unused => return fail("unsupported interface type"),
    };
    device += &builder.boot_index(&slot.to_string());
    if let Some(serial) = options.text("serial") {
        device += &format!(",serial={}", escape_commas(&percent_decode_str(&serial).decode_utf8_lossy()));
    }
    if new_style {
        if !drive.is_cdrom() && has_write_cache {
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
