//! Images from elsewhere as disks: volumes of storages, uploaded images, files of the administrator.

use super::config::Slot;
use super::edit;
use crate::config::guest::GuestKind;
use crate::storage::{self, Content, Copy, Format, NewVolume, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Vmid, access, command, error::ResultExt, guest};
use serde_json::Value;
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
    if source.starts_with('/') {
        return file(ctx, vmid, Path::new(source), storage, format, log);
    }
    let volume: VolumeId = source.parse().map_err(Error::new)?;
    let described = storage::describe(ctx, &volume)?;
    if described.content == storage::Content::Images {
        log(&format!("create full clone of drive ({volume})"));
        let limit = storage::bandwidth_limit(ctx, "clone", &[&volume.storage, storage], None)?;
        let copy = Copy { source: &volume, snapshot: None, storage, vmid, format, kind: VolumeKind::Image, limit };
        return storage::copy(ctx, &copy, log);
    }
    let path = storage::activate_volume(ctx, &volume, None)?;
    file(ctx, vmid, &path, storage, format, log)
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
        edit::add_unused(&mut config.current, &text);
        let mut unused = config.current.indexed("unused");
        let key = unused.find(|(_, found)| *found == text).map(|(number, _)| format!("unused{number}"));
        Ok((key.ok_or_else(|| Error::new("no free place for an unused disk"))?, text.clone()))
    });
    entered.map_err(|error| {
        let freed = storage::free(ctx, &volume);
        error.with_cleanup_failures(&freed.err().into_iter().collect::<Vec<_>>())
    })
}

/// Copies an image file into a new volume. The image's own claims about files beside it are not followed.
fn file(
    ctx: &Context,
    vmid: Vmid,
    path: &Path,
    storage: &str,
    format: Option<Format>,
    log: &mut dyn FnMut(&str),
) -> Result<VolumeId> {
    let header = storage::image::read(path)?;
    storage::transfer::check_harmless(&header, &path.to_string_lossy())?;
    let text = path.to_string_lossy().into_owned();
    let told = command::run("qemu-img", &["info", "--output=json", &text])?;
    let told: Value = serde_json::from_str(&told.stdout).map_err(|error| Error::new(format!("qemu-img: {error}")))?;
    let read_as = told["format"].as_str().unwrap_or("raw").to_owned();
    let size = told["virtual-size"].as_u64().ok_or_else(|| Error::new(format!("'{text}' has no size")))?;
    if !matches!(read_as.as_str(), "raw" | "qcow2" | "vmdk" | "vdi" | "vhdx" | "vpc") {
        crate::bail!("image format '{read_as}' cannot be imported");
    }
    let config = storage::config(ctx)?;
    let entry = config.entry(storage)?;
    let format = format.filter(|format| entry.formats().contains(format)).unwrap_or(entry.default_format());
    let new = NewVolume { vmid, format: Some(format), name: None, size, kind: VolumeKind::Image };
    let volume = storage::allocate(ctx, storage, &new)?;
    log(&format!("importing '{text}' as '{volume}'"));
    let mut convert = || {
        let target = storage::activate_volume(ctx, &volume, None)?;
        let target = target.to_string_lossy();
        let arguments = ["convert", "-p", "-n", "-f", &read_as, "-O", format.name(), &text, &target];
        command::run_lines("qemu-img", &arguments, |_, line| {
            if !line.trim().is_empty() {
                log(line.trim());
            }
        })
    };
    let outcome = convert().context(|| format!("importing '{text}'"));
    match outcome {
        Ok(()) => Ok(volume),
        Err(error) => {
            let freed = storage::free(ctx, &volume);
            Err(error.with_cleanup_failures(&freed.err().into_iter().collect::<Vec<_>>()))
        }
    }
}
