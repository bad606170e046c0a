//! What lies in a directory storage. (PVE: pve-storage PVE/Storage/Plugin.pm, list_images and list_volumes)
//!
//! One pass over each directory, one short read per image that has changed. A file that vanishes meanwhile is left out.

use super::attributes::{notes_path, protection_path};
use super::check_inside;
use super::name::{FileName, ImageName, Name, backup_subtype, parse_image_file};
use crate::config::guest::GuestKind;
use crate::storage::content::Content;
use crate::storage::driver::{Filter, Storage};
use crate::storage::headers;
use crate::storage::volume::{Format, Volume};
use crate::{Result, Vmid, error::ResultExt, guest};
use std::fs::{self, DirEntry, Metadata};
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What an entry of a guest's directory is.
pub type ReadImage = fn(&Storage, &Path, Vmid, &DirEntry) -> Option<Volume>;

/// Everything, where images are the entries of their guests' directories.
pub fn list(storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
    list_with(storage, filter, image_volume)
}

/// Everything, where images lie as `read_image` understands.
pub fn list_with(storage: &Storage, filter: &Filter, read_image: ReadImage) -> Result<Vec<Volume>> {
    let mut volumes = Vec::new();
    if filter.contents.iter().any(|content| matches!(content, Content::Images | Content::Rootdir)) {
        images(storage, filter, read_image, &mut volumes)?;
    }
    for content in &filter.contents {
        let of_no_guest = matches!(content, Content::Iso | Content::Vztmpl);
        match content {
            Content::Images | Content::Rootdir | Content::None => {}
            _ if of_no_guest && filter.vmid.is_some() => {}
            _ => files(storage, *content, filter.vmid, &mut volumes)?,
        }
    }
    Ok(volumes)
}

/// Readable entries of a directory that are not hidden; none if it does not exist.
fn entries(directory: &Path) -> Result<Vec<DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
            .collect()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(|| format!("unable to read '{}'", directory.display())),
    }
}

/// An entry's metadata, unless it is gone or a link that leads out of the storage.
fn metadata(storage: &Storage, directory: &Path, entry: &DirEntry) -> Option<Metadata> {
    if entry.file_type().ok()?.is_symlink() {
        check_inside(storage, directory, &entry.path()).ok()?;
    }
    fs::metadata(entry.path()).ok()
}

fn images(storage: &Storage, filter: &Filter, read_image: ReadImage, volumes: &mut Vec<Volume>) -> Result<()> {
    let directory = storage.entry.content_directory(Content::Images)?;
    let guests: Vec<Vmid> = match filter.vmid {
        Some(vmid) => vec![vmid],
        None => entries(&directory)?.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
    };
    for vmid in guests {
        let of_guest = directory.join(vmid.to_string());
        let is_link = fs::symlink_metadata(&of_guest).is_ok_and(|metadata| metadata.is_symlink());
        if is_link && check_inside(storage, &directory, &of_guest).is_err() {
            continue;
        }
        let content = match guest::find(storage.ctx, vmid) {
            Some(GuestKind::Lxc) => Content::Rootdir,
            _ => Content::Images,
        };
        if !filter.contents.contains(&content) {
            continue;
        }
        let images = entries(&of_guest)?.into_iter();
        let images = images.filter_map(|entry| read_image(storage, &directory, vmid, &entry));
        volumes.extend(images.map(|volume| Volume { content, ..volume }));
    }
    Ok(())
}

/// The row of an image, if the entry is one.
pub fn image_volume(storage: &Storage, directory: &Path, vmid: Vmid, entry: &DirEntry) -> Option<Volume> {
    let file = entry.file_name().into_string().ok()?;
    let (format, is_base) = parse_image_file(&file).ok()?;
    let metadata = metadata(storage, directory, entry)?;
    if metadata.is_dir() != (format == Format::Subvol) {
        return None;
    }
    let (format_name, size, parent) = match format {
        Format::Subvol => ("subvol", 0, None),
        Format::Raw => ("raw", metadata.len(), None),
        Format::Qcow2 | Format::Vmdk => {
            let header = headers::header(&entry.path(), &metadata).ok()?;
            let name = if header.format == format { format.name() } else { "invalid" };
            (name, header.size, header.backing)
        }
    };
    let base = parent.as_deref().and_then(base_image);
    let name = ImageName { vmid, file, base, format, is_base };
    Some(Volume {
        used: Some(if format == Format::Subvol { 0 } else { metadata.blocks() * 512 }),
        vmid: Some(vmid),
        parent,
        ctime: Some(metadata.ctime()),
        ..Volume::new(storage.volume(name.to_string()), Content::Images, format_name, size)
    })
}

/// The base image that `../VMID/FILE` names.
fn base_image(backing: &str) -> Option<(Vmid, String)> {
    let (vmid, file) = backing.strip_prefix("../")?.split_once('/')?;
    parse_image_file(file).ok()?;
    Some((vmid.parse().ok()?, file.to_owned()))
}

fn files(storage: &Storage, content: Content, vmid: Option<Vmid>, volumes: &mut Vec<Volume>) -> Result<()> {
    let directory = storage.entry.content_directory(content)?;
    for entry in entries(&directory)? {
        let Ok(file) = entry.file_name().into_string() else { continue };
        let Some(name) = FileName::new(content, &file) else { continue };
        let Some(metadata) = metadata(storage, &directory, &entry).filter(|metadata| !metadata.is_dir()) else {
            continue;
        };
        if content == Content::Backup && vmid.is_some() && name.vmid != vmid {
            continue;
        }
        let id = storage.volume(Name::File(name.clone()).to_string());
        let mut volume = Volume {
            vmid: name.vmid,
            ctime: Some(metadata.ctime()),
            ..Volume::new(id, content, name.format, metadata.len())
        };
        if content == Content::Backup {
            let path = entry.path();
            volume.subtype = Some(backup_subtype(&file));
            volume.ctime = backup_time(&file).or(volume.ctime);
            volume.notes = first_line(&notes_path(&path));
            volume.protected = protection_path(&path).exists();
        }
        volumes.push(volume);
    }
    Ok(())
}

fn first_line(path: &Path) -> Option<String> {
    let file = fs::File::open(path).ok()?;
    let mut line = Vec::new();
    BufReader::new(file.take(64 * 1024)).read_until(b'\n', &mut line).ok()?;
    if line.is_empty() {
        return None;
    }
    Some(String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned())
}

/// The time in `vzdump-TYPE-VMID-YYYY_MM_DD-HH_MM_SS.…`, local time of the node.
fn backup_time(file: &str) -> Option<i64> {
    let stem = file.split('.').next()?;
    let mut parts = stem.rsplitn(3, '-');
    let (time, date) = (parts.next()?, parts.next()?);
    let civil = jiff::civil::DateTime::strptime("%Y_%m_%d-%H_%M_%S", format!("{date}-{time}")).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::system()).ok()?.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_carry_their_time_in_the_name() {
        let seconds = backup_time("vzdump-qemu-100-2024_03_01-12_30_59.vma.zst").unwrap();
        let back = jiff::Timestamp::from_second(seconds).unwrap().to_zoned(jiff::tz::TimeZone::system());
        assert_eq!(back.strftime("%Y-%m-%d %H:%M:%S").to_string(), "2024-03-01 12:30:59");
        for other in ["old.tgz", "vzdump-qemu-100-yesterday.vma", "vzdump-qemu-100-2024_13_01-12_30_59.vma"] {
            assert_eq!(backup_time(other), None, "{other}");
        }
    }

    #[test]
    fn base_images_are_named_relatively() {
        let (vmid, file) = base_image("../9000/base-9000-disk-0.qcow2").unwrap();
        assert_eq!((vmid.number(), file.as_str()), (9000, "base-9000-disk-0.qcow2"));
        for other in ["/etc/passwd", "../9000/../x.raw", "vm-100-disk-0.qcow2", "../x/base-1-disk-0.raw"] {
            assert_eq!(base_image(other), None, "{other}");
        }
    }
}
