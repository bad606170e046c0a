//! Images in the guests' directories of a btrfs: subvolumes without a snapshot's mark.

use super::RAW_FILE;
use crate::Vmid;
use crate::storage::content::Content;
use crate::storage::directory::list as plain;
use crate::storage::directory::name::{ImageName, parse_image_file};
use crate::storage::driver::Storage;
use crate::storage::volume::{Format, Volume};
use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The row of an image, if the entry is one.
pub fn image_volume(storage: &Storage, directory: &Path, vmid: Vmid, entry: &DirEntry) -> Option<Volume> {
    let entry_name = entry.file_name().into_string().ok()?;
    let is_directory = entry.file_type().ok()?.is_dir();
    if !is_directory {
        // A plain raw file is no volume here: PVE would look for it in a subvolume.
        return plain::image_volume(storage, directory, vmid, entry).filter(|volume| volume.format != "raw");
    }
    if entry_name.contains('@') {
        return None;
    }
    let is_raw = !entry_name.contains('.');
    let file = if is_raw { format!("{entry_name}.raw") } else { entry_name };
    let (format, is_base) = parse_image_file(&file).ok()?;
    let (size, used, metadata) = match format {
        Format::Raw => {
            let data = fs::symlink_metadata(entry.path().join(RAW_FILE)).ok().filter(|data| data.is_file())?;
            (data.len(), data.blocks() * 512, data)
        }
        Format::Subvol => (0, 0, entry.metadata().ok()?),
        _ => return None,
    };
    let name = ImageName { vmid, file, base: None, format, is_base };
    Some(Volume {
        used: Some(used),
        vmid: Some(vmid),
        ctime: Some(metadata.ctime()),
        ..Volume::new(storage.volume(name.to_string()), Content::Images, format.name(), size)
    })
}
