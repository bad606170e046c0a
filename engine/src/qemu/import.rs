//! Images from elsewhere as disks: volumes of storages, uploaded images, files of the administrator.

use super::config::{Drive, Slot};
use super::{edit, template};
use crate::config::guest::GuestKind;
use crate::storage::{self, Content, Format, ImageSource, ImportImage, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Vmid, access, guest};
use std::path::Path;

/// Copies an image into a new volume of a VM. `source` is a volume id or, for root only, a path.
pub fn image(
    ctx: &Context,
    vmid: Vmid,
    source: &str,
    storage: &str,
    format: Option<Format>,
    log: &mut dyn FnMut(&str),
) -> Result<VolumeId> {
    check_source(ctx, source, "import-from")?;
    let config = storage::config(ctx)?;
    let entry = config.entry(storage)?;
    // Where the storage has no such format, its own will do.
    let format = Some(format.filter(|format| entry.formats().contains(format)).unwrap_or(entry.default_format()));
    let volume: VolumeId;
    let mut limit = None;
    let image = if source.starts_with('/') {
        log(&format!("importing '{source}'"));
        ImageSource::File(Path::new(source))
    } else {
        volume = source.parse().map_err(Error::new)?;
        if storage::describe(ctx, &volume)?.content == Content::Images {
            log(&format!("create full clone of drive ({volume})"));
            limit = storage::bandwidth_limit(ctx, "clone", &[&volume.storage, storage], None)?;
        } else {
            log(&format!("importing '{volume}'"));
        }
        ImageSource::Volume(&volume)
    };
    let wanted = ImportImage { source: image, storage, vmid, format, kind: VolumeKind::Image, limit };
    storage::import_image(ctx, &wanted, log)
}

/// Fails unless the caller may import from there: disks of VMs are cloned, images are read, paths are for root.
/// `parameter` is what the source was given in. (PVE: API2/Qemu.pm, check_storage_access)
pub fn check_source(ctx: &Context, source: &str, parameter: &str) -> Result<()> {
    if source.starts_with('/') {
        return match ctx.caller.is_root() {
            true => Ok(()),
            false => Err(Error::Forbidden("Only root can pass arbitrary filesystem paths.".into())),
        };
    }
    let volume: VolumeId = source.parse().map_err(Error::new)?;
    let described = storage::describe(ctx, &volume)?;
    match (described.content, described.vmid) {
        (Content::Images, Some(owner)) => access::check(ctx, &format!("/vms/{owner}"), &["VM.Clone"]),
        (Content::Images | Content::Import, _) => storage::check_volume_access(ctx, None, &volume),
        (other, _) => Err(Error::parameter(
            parameter,
            format!("{source} has wrong type '{}' - needs to be 'images' or 'import'", other.name()),
        )),
    }
}

/// Copies an image into a disk of a VM and enters it: as the drive that is named, or as an unused one. Gives back its key
/// and value. The caller holds the VM's lock. (PVE: PVE/QemuServer/ImportDisk.pm)
pub fn disk(
    ctx: &Context,
    vmid: Vmid,
    source: &str,
    storage: &str,
    format: Option<Format>,
    target: Option<Slot>,
    log: &mut dyn FnMut(&str),
) -> Result<(String, String)> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let taken = |slot: &Slot| config.current.get(&slot.to_string()).is_some();
    if let Some(slot) = target.filter(taken) {
        crate::bail!("cowardly refusing to overwrite existing entry: {slot}");
    }
    let volume = image(ctx, vmid, source, storage, format, log)?;
    let size = storage::print_size(storage::info(ctx, &volume)?.size);
    let entered = guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        if let Some(slot) = target {
            let value = format!("{volume},size={size}");
            config.current.set(slot.to_string(), &value);
            return Ok((slot.to_string(), value));
        }
        let text = volume.to_string();
        let key = edit::add_unused(&mut config.current, &text);
        Ok((key.ok_or_else(|| Error::new("no free place for an unused disk"))?, text))
    });
    let (key, value) = entered.map_err(|error| {
        let freed = storage::free(ctx, &volume);
        error.with_cleanup_failures(&freed.err().into_iter().collect::<Vec<_>>())
    })?;
    let Some(slot) = target.filter(|_| config.current.flag("template")) else { return Ok((key, value)) };
    template::make_base(ctx, vmid, Drive::parse(slot, &value)?)?;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    Ok((key.clone(), config.current.get(&key).unwrap_or_default().to_owned()))
}
