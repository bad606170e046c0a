//! New drives that hold the state of a machine: variables of UEFI firmware, and of a TPM. Their size is given.
//! (PVE: qemu-server OVMF.pm, create_efidisk; API2/Qemu.pm, create_disks)

use super::command_line::firmware_files;
use super::config::{Bus, Drive};
use crate::host::firmware_here;
use crate::storage::{self, Format, NewVolume, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Vmid, command};

/// Bytes of a TPM's state.
const TPM_SIZE: u64 = 4 << 20;

/// Whether a drive is of this kind.
pub fn is_one(drive: &Drive) -> bool {
    matches!(drive.slot.bus, Bus::Efidisk | Bus::Tpmstate)
}

/// Makes the volume of a drive. Nothing is left behind if it fails.
pub fn create(ctx: &Context, vmid: Vmid, drive: &Drive, storage: &str, format: Option<Format>) -> Result<VolumeId> {
    let wish = |size, format| NewVolume { vmid, format, name: None, size, kind: VolumeKind::Image };
    if drive.slot.bus == Bus::Tpmstate {
        return storage::allocate(ctx, storage, &wish(TPM_SIZE, Some(Format::Raw)));
    }
    let files = firmware_files(&ctx.host, &ctx.host.architecture(), Some(&drive.options), true, None)?;
    let Some((variables, size)) = files.variables else {
        return Err(Error::new(format!("{}: this firmware keeps no variables", drive.slot)));
    };
    let source =
        firmware_here(&variables).ok_or_else(|| Error::new(format!("EFI vars image '{variables}' not found")))?;
    let volume = storage::allocate(ctx, storage, &wish(size, format))?;
    let copied = storage::path(ctx, &volume).and_then(|target| {
        let format = storage::info(ctx, &volume)?.format.name();
        let words = ["convert", "-n", "-f", "raw", "-O", format];
        let mut words: Vec<&std::ffi::OsStr> = words.iter().map(|word| (*word).as_ref()).collect();
        words.extend([source.as_os_str(), target.as_os_str()]);
        command::run("qemu-img", &words).map(drop)
    });
    match copied {
        Ok(()) => Ok(volume),
        Err(error) => {
            let failures: Vec<Error> = storage::free(ctx, &volume).err().into_iter().collect();
            Err(error.context("copying the firmware's variables failed").with_cleanup_failures(&failures))
        }
    }
}
