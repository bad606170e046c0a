//! Volumes of a request: `local:4` becomes a volume, an existing one is looked at.

use super::config::Drive;
use super::state_disks;
use crate::storage::{self, Content, Format, NewVolume, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Vmid};

/// Fails unless a storage can be used here and holds images of VMs.
pub fn check_place(ctx: &Context, storage: &str) -> Result<()> {
    match storage::find_enabled(ctx, storage)?.entry.has_content(Content::Images) {
        true => Ok(()),
        false => Err(Error::parameter("storage", format!("storage '{storage}' does not support vm images"))),
    }
}

/// Volumes that have been made for a request; they are removed again unless the request succeeds.
pub struct Made<'a> {
    ctx: &'a Context,
    volumes: Vec<VolumeId>,
}

impl<'a> Made<'a> {
    /// Nothing yet.
    pub fn new(ctx: &'a Context) -> Self {
        Made { ctx, volumes: Vec::new() }
    }

    /// Takes over a volume that has been made elsewhere.
    pub fn note(&mut self, volume: VolumeId) {
        self.volumes.push(volume);
    }

    /// Removes what has been made and joins what goes wrong with the reason.
    pub fn undo(&self, reason: Error) -> Error {
        let failures: Vec<Error> = self
            .volumes
            .iter()
            .rev()
            .filter_map(|volume| storage::free(self.ctx, volume).err().map(|error| error.context(volume)))
            .collect();
        reason.with_cleanup_failures(&failures)
    }

    /// The drive as it will stand in the configuration. A new volume is made if one is wished for.
    pub fn realise(
        &mut self,
        vmid: Vmid,
        mut drive: Drive,
        default_storage: Option<&str>,
        log: &mut dyn FnMut(&str),
    ) -> Result<Drive> {
        let slot = drive.slot;
        if matches!(drive.file.as_str(), "none" | "cdrom") {
            drive.options.remove("size");
            return Ok(drive);
        }
        if drive.is_cloudinit() {
            return self.realise_cloudinit(vmid, drive, default_storage);
        }
        if let Some(source) = drive.options.remove("import-from") {
            return self.import(vmid, drive, &source, default_storage, log);
        }
        if let Some(new) = drive.new_disk() {
            let Some(storage) = new.storage.as_deref().or(default_storage) else {
                crate::bail!("no storage ID specified (and no default storage)");
            };
            if state_disks::is_one(&drive) {
                return self.realise_state(vmid, drive, storage, log);
            }
            let format = drive.options.text("format").map(|format| format.parse::<Format>().map_err(Error::new));
            let wish =
                NewVolume { vmid, format: format.transpose()?, name: None, size: new.size, kind: VolumeKind::Image };
            let volume = storage::allocate(self.ctx, storage, &wish)?;
            self.volumes.push(volume.clone());
            drive.file = volume.to_string();
            drive.options.remove("format");
            drive.options.set("size", storage::print_size(new.size));
            log(&format!("{slot}: successfully created disk '{drive}'"));
            return Ok(drive);
        }
        match drive.volume() {
            Some(volume) => existing(self.ctx, &mut drive, &volume)?,
            None if !std::path::Path::new(&drive.file).exists() => {
                crate::bail!("volume {} does not exist", drive.file);
            }
            None => {}
        }
        Ok(drive)
    }

    /// A new drive for the state of firmware or TPM, whose size is given.
    fn realise_state(
        &mut self,
        vmid: Vmid,
        mut drive: Drive,
        storage: &str,
        log: &mut dyn FnMut(&str),
    ) -> Result<Drive> {
        let format = drive.options.text("format").map(|format| format.parse::<Format>().map_err(Error::new));
        let volume = state_disks::create(self.ctx, vmid, &drive, storage, format.transpose()?)?;
        self.volumes.push(volume.clone());
        drive.file = volume.to_string();
        drive.options.remove("format");
        drive.options.set("size", storage::print_size(storage::info(self.ctx, &volume)?.size));
        log(&format!("{}: successfully created disk '{drive}'", drive.slot));
        Ok(drive)
    }
}

impl Made<'_> {
    /// The place for a cloud-init image; its content is written when the VM starts.
    fn realise_cloudinit(&mut self, vmid: Vmid, mut drive: Drive, default_storage: Option<&str>) -> Result<Drive> {
        if let Some(volume) = drive.volume().filter(|volume| volume.name != "cloudinit") {
            storage::describe(self.ctx, &volume)?;
            drive.options.set("media", "cdrom");
            return Ok(drive);
        }
        let storage = drive.file.split_once(':').map(|(storage, _)| storage.to_owned());
        let storage = storage.or_else(|| default_storage.map(str::to_owned));
        let storage = storage.ok_or_else(|| Error::new("no storage ID specified (and no default storage)"))?;
        let volume = allocate_cloudinit(self.ctx, vmid, &storage)?;
        self.volumes.push(volume.clone());
        drive.file = volume.to_string();
        drive.options.remove("format");
        drive.options.set("media", "cdrom");
        Ok(drive)
    }

    /// A copy of another volume or of an image file becomes the disk.
    fn import(
        &mut self,
        vmid: Vmid,
        mut drive: Drive,
        source: &str,
        default_storage: Option<&str>,
        log: &mut dyn FnMut(&str),
    ) -> Result<Drive> {
        let slot = drive.slot;
        let storage = drive.new_disk().and_then(|new| new.storage).or_else(|| default_storage.map(str::to_owned));
        let storage = storage.ok_or_else(|| Error::new("no storage ID specified (and no default storage)"))?;
        let format = drive.options.remove("format").map(|format| format.parse::<Format>().map_err(Error::new));
        let volume = super::import::image(self.ctx, vmid, source, &storage, format.transpose()?, log)?;
        self.volumes.push(volume.clone());
        drive.file = volume.to_string();
        drive.options.set("size", storage::print_size(storage::info(self.ctx, &volume)?.size));
        log(&format!("{slot}: successfully created disk '{drive}'"));
        Ok(drive)
    }
}

/// Bytes of a cloud-init image. (PVE: qemu-server PVE/QemuServer/Cloudinit.pm)
pub const CLOUDINIT_SIZE: u64 = 4 << 20;

/// An empty volume for a VM's cloud-init image.
pub fn allocate_cloudinit(ctx: &Context, vmid: Vmid, storage: &str) -> Result<VolumeId> {
    let is_directory = storage::config(ctx)?.entry(storage)?.path().is_ok();
    let (format, ending) = if is_directory { (Format::Qcow2, ".qcow2") } else { (Format::Raw, "") };
    let name = Some(format!("vm-{vmid}-cloudinit{ending}"));
    let wish = NewVolume { vmid, format: Some(format), name, size: CLOUDINIT_SIZE, kind: VolumeKind::Image };
    storage::allocate(ctx, storage, &wish)
}

fn existing(ctx: &Context, drive: &mut Drive, volume: &VolumeId) -> Result<()> {
    let slot = drive.slot;
    let described = storage::describe(ctx, volume)?;
    if !matches!(described.content, Content::Images | Content::Iso) {
        crate::bail!("cannot use volume {volume} - content type needs to be 'images' or 'iso'");
    }
    let info = storage::info(ctx, volume)?;
    if let Some(format) = drive.options.text("format").filter(|format| format != info.format.name()) {
        crate::bail!(
            "drive '{slot}' - volume '{volume}' - 'format={format}' option different from storage format '{}'",
            info.format
        );
    }
    drive.options.set("size", storage::print_size(info.size));
    Ok(())
}
