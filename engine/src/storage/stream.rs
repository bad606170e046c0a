//! Volumes as streams: how one leaves a node and comes to another. A stream begins with the size in bytes as eight
//! little-endian bytes, unless its form is a file system's own. (PVE: pve-storage PVE/Storage/Plugin.pm, volume_export
//! and volume_import)

use super::copy::pipe;
use super::driver::{Driver, Storage};
use super::volume::{Format, NewVolume, VolumeKind};
use super::{Content, convert, transfer::Incoming, transfer::Target};
use crate::{Context, Error, Result, bail, error::ResultExt};
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::str::FromStr;

/// The form of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// The size, then the bytes of the disk.
    Raw,
    /// The size, then a qcow2 file with its snapshots.
    Qcow2,
    /// The size, then a VMDK file.
    Vmdk,
    /// The size, then a tar archive of a directory.
    Tar,
    /// What `btrfs send` writes.
    Btrfs,
    /// What `zfs send` writes.
    Zfs,
}

impl Form {
    /// All forms.
    pub const ALL: [Form; 6] = [Form::Raw, Form::Tar, Form::Qcow2, Form::Vmdk, Form::Zfs, Form::Btrfs];

    /// PVE's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Form::Raw => "raw+size",
            Form::Qcow2 => "qcow2+size",
            Form::Vmdk => "vmdk+size",
            Form::Tar => "tar+size",
            Form::Btrfs => "btrfs",
            Form::Zfs => "zfs",
        }
    }

    /// The image format whose file the stream holds.
    fn file_format(self) -> Option<Format> {
        match self {
            Form::Qcow2 => Some(Format::Qcow2),
            Form::Vmdk => Some(Format::Vmdk),
            _ => None,
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Form {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Form::ALL.into_iter().find(|form| form.name() == text).ok_or_else(|| format!("unknown stream format '{text}'"))
    }
}

crate::param_from_str!(Form);

/// What is to leave.
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// The volume's name.
    pub name: String,
    /// The state to send; the current one if absent.
    pub snapshot: Option<String>,
    /// Only what has changed since this snapshot.
    pub base: Option<String>,
    /// Older snapshots go along.
    pub with_snapshots: bool,
    /// Which older snapshots go along, oldest first; all if empty.
    pub snapshots: Vec<String>,
}

/// What is to come.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The wanted name.
    pub name: String,
    /// The snapshot in the stream that is the current state.
    pub snapshot: Option<String>,
    /// The snapshot that the stream builds upon.
    pub base: Option<String>,
    /// The stream has older snapshots.
    pub with_snapshots: bool,
    /// Another name will do if the wanted one is taken.
    pub allow_rename: bool,
}

/// Writes a volume to a file, pipe or socket.
pub fn export(ctx: &Context, volume: &super::VolumeId, export: &Export, form: Form, to: &File) -> Result<()> {
    let (storage, driver) = super::activated(ctx, &volume.storage)?;
    let export = Export { name: volume.name.clone(), ..export.clone() };
    driver.export(&storage, &export, form, to)
}

/// Makes a volume of what comes from a file, pipe or socket.
pub fn import(
    ctx: &Context,
    volume: &super::VolumeId,
    import: &Import,
    form: Form,
    from: &File,
) -> Result<super::VolumeId> {
    let (storage, driver) = super::activated(ctx, &volume.storage)?;
    let import = Import { name: volume.name.clone(), ..import.clone() };
    Ok(storage.volume(driver.import(&storage, &import, form, from)?))
}

/// Waits until a socket or pipe has something to read; `false` when the time is over.
pub fn wait_readable(fd: std::os::fd::BorrowedFd, time: std::time::Duration) -> Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let time = Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    Ok(rustix::io::retry_on_intr(|| poll(&mut fds, Some(&time)))? > 0)
}

/// The forms that both storages understand, best first. (PVE: Storage.pm, volume_transfer_formats)
pub fn transfer_formats(
    ctx: &Context,
    from: &super::VolumeId,
    to: &super::VolumeId,
    export: &Export,
) -> Result<Vec<Form>> {
    let (source, source_driver) = super::with_driver(ctx, &from.storage)?;
    let (target, target_driver) = super::with_driver(ctx, &to.storage)?;
    let export = Export { name: from.name.clone(), ..export.clone() };
    let import = Import {
        name: to.name.clone(),
        snapshot: export.snapshot.clone(),
        base: export.base.clone(),
        with_snapshots: export.with_snapshots,
        allow_rename: false,
    };
    let known = target_driver.import_formats(&target, &import)?;
    let mut forms = source_driver.export_formats(&source, &export)?;
    forms.retain(|form| known.contains(form));
    Ok(forms)
}

/// The forms of a type without snapshots of its own.
pub fn default_export_formats(driver: &dyn Driver, storage: &Storage, export: &Export) -> Result<Vec<Form>> {
    if export.snapshot.is_some() || export.base.is_some() {
        return Ok(Vec::new());
    }
    forms(driver, storage, &export.name, export.with_snapshots)
}

/// The forms of a type without snapshots of its own.
pub fn default_import_formats(driver: &dyn Driver, storage: &Storage, import: &Import) -> Result<Vec<Form>> {
    if import.base.is_some() {
        return Ok(Vec::new());
    }
    forms(driver, storage, &import.name, import.with_snapshots)
}

fn forms(driver: &dyn Driver, storage: &Storage, name: &str, with_snapshots: bool) -> Result<Vec<Form>> {
    let described = driver.describe(storage, name)?;
    Ok(match (described.format, with_snapshots) {
        (Format::Qcow2, true) => vec![Form::Qcow2],
        (Format::Vmdk, true) => vec![Form::Vmdk],
        (_, true) => Vec::new(),
        (Format::Subvol, false) => vec![Form::Tar],
        (_, false) if described.content == Content::Backup => Vec::new(),
        (_, false) => vec![Form::Raw],
    })
}

/// Writes files, devices and directories.
pub fn default_export(driver: &dyn Driver, storage: &Storage, export: &Export, form: Form, to: &File) -> Result<()> {
    if !default_export_formats(driver, storage, export)?.contains(&form) {
        bail!("volume export format {form} not available for type '{}'", storage.entry.kind());
    }
    let info = driver.info(storage, &export.name)?;
    let format = driver.describe(storage, &export.name)?.format;
    let path = driver.activate_volume(storage, &export.name, None)?;
    let mut out = to;
    out.write_all(&info.size.to_le_bytes()).context(|| "unable to write the size")?;
    match form {
        Form::Tar => pipe::tar_to(&path, to),
        Form::Raw if matches!(format, Format::Qcow2 | Format::Vmdk) => {
            let plain = convert::to_temporary_raw(&path, format)?;
            copy_bytes(&plain.path(), to)
        }
        _ => copy_bytes(&path, to),
    }
}

fn copy_bytes(path: &Path, mut to: &File) -> Result<()> {
    let mut from = File::open(path).context(|| path.display().to_string())?;
    super::transfer::copy(&mut from, &mut to).map(drop)
}

/// Makes an image, a directory or a file of a stream.
pub fn default_import(
    driver: &dyn Driver,
    storage: &Storage,
    import: &Import,
    form: Form,
    from: &File,
) -> Result<String> {
    let described = driver.describe(storage, &import.name)?;
    if matches!(form, Form::Btrfs | Form::Zfs) {
        bail!("volume import format '{form}' not available for type '{}'", storage.entry.kind());
    }
    if form.file_format().is_some() != import.with_snapshots {
        let with = if import.with_snapshots { "with" } else { "without" };
        bail!("format {form} cannot be imported {with} snapshots");
    }
    let size = read_size(from)?;
    let Some(vmid) = described.vmid.filter(|_| described.content == Content::Images) else {
        return import_file(storage, &import.name, described.content, from);
    };
    let fits = match form {
        Form::Tar => described.format == Format::Subvol,
        Form::Raw => described.format == Format::Raw,
        other => other.file_format() == Some(described.format),
    };
    if !fits {
        bail!("cannot import format {form} into a file of format {}", described.format);
    }
    let file = import.name.rsplit('/').next().unwrap_or(&import.name).to_owned();
    let kind = if form == Form::Tar { VolumeKind::ContainerRoot } else { VolumeKind::Image };
    let taken = driver.info(storage, &import.name).is_ok();
    if taken && !import.allow_rename {
        bail!("volume '{}' already exists", storage.volume(&import.name));
    }
    let name = if taken { None } else { Some(file) };
    let size = if form == Form::Tar { 0 } else { size };
    let new = NewVolume { vmid, format: Some(described.format), name, size, kind };
    let unfinished = driver.begin(storage, &new)?;
    match form {
        Form::Tar => pipe::tar_from(from, unfinished.path())?,
        Form::Raw => pipe::write_image(from, unfinished.path(), Some(size), unfinished.reads_as_zeros())?,
        _ => {
            pipe::write_image(from, unfinished.path(), None, false)?;
            check_received(unfinished.path(), described.format)?;
        }
    }
    unfinished.finish()
}

/// A received image must be what it is said to be, and must not reach for other files.
fn check_received(path: &Path, format: Format) -> Result<()> {
    let header = super::image::read(path)?;
    if header.format != format {
        bail!("received image is not in {format} format");
    }
    if header.backing.is_some() || header.external_data {
        bail!("received image refers to other files");
    }
    Ok(())
}

fn read_size(mut from: &File) -> Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes).map_err(|_| Error::new("import: no size found in export header, aborting."))?;
    Ok(u64::from_le_bytes(bytes))
}

/// ISO files, templates and their kin.
fn import_file(storage: &Storage, name: &str, content: Content, mut from: &File) -> Result<String> {
    if !matches!(content, Content::Iso | Content::Vztmpl | Content::Snippets | Content::Import) {
        bail!("importing volume of type '{content}' not implemented");
    }
    let file = name.rsplit('/').next().unwrap_or(name);
    let target = Target::for_volume(storage, content, file)?;
    let mut incoming = Incoming::create(&target)?;
    super::transfer::copy(&mut from, &mut incoming.file)?;
    incoming.place_new()?;
    Ok(name.to_owned())
}
