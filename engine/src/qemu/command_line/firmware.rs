//! UEFI: firmware, and the drive of its variables. (PVE: qemu-server OVMF.pm)

use super::blockdev::{self, ChainOptions};
use super::builder::{Builder, canonical_json, escape_commas, fail};
use super::confidential::Protection;
use crate::Result;
use crate::host::Host;
use crate::qemu::config::{Bus, Drive, Properties, Slot};
use serde_json::json;

/// Where PVE's firmware package puts its files; the second slash is PVE's.
pub(super) const DIRECTORY: &str = "/usr/share/pve-edk2-firmware//";

const VARIABLES: Slot = Slot { bus: Bus::Efidisk, index: 0 };

/// Variables for a VM that has no drive for them: made anew at each start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareCopy {
    /// The variables that the firmware comes with.
    pub source: String,
    /// Where the VM wants its own.
    pub target: String,
}

/// Firmware and the variables that it comes with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// What runs.
    pub code: String,
    /// Variables, and their size in bytes; none where the firmware keeps none.
    pub variables: Option<(String, u64)>,
}

/// The files for a machine. `efidisk` are the options of the drive for the variables.
///
/// # Errors
/// When a file is not installed.
pub fn files(
    host: &Host,
    arch: &str,
    efidisk: Option<&Properties>,
    is_q35: bool,
    protection: Option<Protection>,
) -> Result<Files> {
    let has_keys = efidisk.is_some_and(|options| options.is_on("pre-enrolled-keys"));
    let is_large = efidisk.is_some_and(|options| options.text("efitype").as_deref() == Some("4m"));
    let (code, variables) = if arch == "aarch64" {
        let is_secure = has_keys && host.firmware_size(&format!("{DIRECTORY}AAVMF_CODE.secboot.fd")).is_some();
        match is_secure {
            true => ("AAVMF_CODE.secboot.fd", Some("AAVMF_VARS.ms.fd")),
            false => ("AAVMF_CODE.fd", Some("AAVMF_VARS.fd")),
        }
    } else {
        match protection {
            Some(Protection::SevSnp) => ("OVMF_SEV_4M.fd", None),
            Some(Protection::Tdx) => ("OVMF_TDX_4M.ms.fd", None),
            Some(Protection::Sev | Protection::SevEs) => ("OVMF_SEV_CODE_4M.fd", Some("OVMF_SEV_VARS_4M.fd")),
            None if is_large => (
                if is_q35 { "OVMF_CODE_4M.secboot.fd" } else { "OVMF_CODE_4M.fd" },
                Some(if has_keys { "OVMF_VARS_4M.ms.fd" } else { "OVMF_VARS_4M.fd" }),
            ),
            None => ("OVMF_CODE.fd", Some("OVMF_VARS.fd")),
        }
    };
    let code = format!("{DIRECTORY}{code}");
    if host.firmware_size(&code).is_none() {
        return fail(format!("EFI base image '{code}' not found"));
    }
    let variables = match variables {
        None => None,
        Some(name) => {
            let path = format!("{DIRECTORY}{name}");
            match host.firmware_size(&path) {
                Some(size) => Some((path, size)),
                None => return fail(format!("EFI vars image '{path}' not found")),
            }
        }
    };
    Ok(Files { code, variables })
}

/// Adds the firmware of a VM with `bios: ovmf`.
pub(super) fn add(builder: &mut Builder) -> Result<()> {
    if !builder.is_uefi() {
        return Ok(());
    }
    if builder.options.cpu.is_none() && super::cpu::is_32_bit(builder)? {
        return fail("OVMF (UEFI) BIOS is not supported on 32-bit CPU types");
    }
    let protection = Protection::of(&builder.vm)?;
    let drive = builder.vm.text("efidisk0").map(|text| Drive::parse(VARIABLES, text)).transpose()?;
    let options = drive.as_ref().map(|drive| &drive.options);
    if matches!(protection, Some(Protection::SevSnp | Protection::Tdx)) {
        if drive.is_some() {
            let text = "EFI disks are not supported with Confidential Virtual Machines and will be ignored";
            builder.warnings.push(text.into());
        }
        let files = files(builder.host, &builder.arch, None, builder.is_q35(), protection)?;
        builder.option("-bios", files.code);
        return Ok(());
    }
    warn_of_missing_keys(builder, options);
    let files = files(builder.host, &builder.arch, options, builder.is_q35(), protection)?;
    let (variables, size) = files.variables.expect("only firmware without pflash has none, and that is dealt with");
    let drive = match drive {
        Some(drive) => drive,
        None => {
            builder.warnings.push("no efidisk configured! Using temporary efivars disk.".into());
            let target = format!("{}/efidisk/{}-ovmf.fd", builder.options.paths.short_run, builder.vm.vmid);
            builder.preparations.firmware = Some(FirmwareCopy { source: variables, target: target.clone() });
            let mut options = Properties::default();
            options.set("format", "raw");
            Drive { slot: VARIABLES, file: target, options }
        }
    };
    if builder.at_least(10, 0) {
        nodes(builder, &files.code, drive, size)
    } else {
        drives(builder, &files.code, &drive, size)
    }
}

/// Older firmware of ARM machines has no image that checks signatures.
fn warn_of_missing_keys(builder: &mut Builder, efidisk: Option<&Properties>) {
    let image = format!("{DIRECTORY}AAVMF_CODE.secboot.fd");
    let wants_keys = builder.is_arm() && efidisk.is_some_and(|options| options.is_on("pre-enrolled-keys"));
    if wants_keys && builder.host.firmware_size(&image).is_none() {
        builder.warnings.push(format!(
            "requested EFI image with pre-enrolled-keys, but ignoring because {image}' file is missing - check that \
             pve-edk2-firmware-aarch64 is correctly installed with version > 4.2025.05-2"
        ));
    }
}

fn format(builder: &Builder, drive: &Drive) -> Result<String> {
    match (drive.options.text("format"), drive.volume()) {
        (Some(format), _) => Ok(format),
        (None, Some(volume)) => builder.volumes.format(&volume),
        (None, None) => fail("efidisk format must be specified"),
    }
}

/// Of machines from 10.0 on.
fn nodes(builder: &mut Builder, code: &str, mut drive: Drive, size: u64) -> Result<()> {
    let is_raw = format(builder, &drive)? == "raw";
    if drive.options.text("cache").is_none() {
        // Firmware writes its variables in tiny pieces.
        drive.options.set("cache", "writeback");
    }
    let options = ChainOptions { read_only: builder.vm.is_template(), size: is_raw.then_some(size) };
    // The copy is not there yet, so nobody may look at it.
    let chain = blockdev::block_nodes(builder, &drive, options)?;
    builder.option("-object", canonical_json(&blockdev::throttle_group(&drive)));
    let code = json!({
        "driver": "raw", "file": {"driver": "file", "filename": code}, "node-name": "pflash0", "read-only": true,
    });
    builder.option("-blockdev", canonical_json(&code));
    builder.option("-blockdev", canonical_json(&chain));
    builder.machine_flags.extend(["pflash0=pflash0".to_owned(), "pflash1=drive-efidisk0".to_owned()]);
    Ok(())
}

/// Of machines before 10.0.
fn drives(builder: &mut Builder, code: &str, drive: &Drive, size: u64) -> Result<()> {
    let format = format(builder, drive)?;
    let mut path = match drive.volume() {
        Some(volume) => builder.volumes.path(&volume)?,
        None => drive.file.clone(),
    };
    let mut text = "if=pflash,unit=1,id=drive-efidisk0".to_owned();
    if path.starts_with("rbd:") {
        text += ",cache=writeback";
        path += ":rbd_cache_policy=writeback";
    }
    text += &format!(",format={format},file={}", escape_commas(&path));
    if format == "raw" && builder.uses(4, 1, 2) {
        text += &format!(",size={size}");
    }
    if builder.vm.is_template() && builder.preparations.firmware.is_none() {
        text += ",readonly=on";
    }
    builder.option("-drive", format!("if=pflash,unit=0,format=raw,readonly=on,file={code}"));
    builder.option("-drive", text);
    Ok(())
}
