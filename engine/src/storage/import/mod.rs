//! Images from elsewhere become volumes: files of content type `import`, disks within appliances, files of the
//! administrator; raw, qcow2, VMDK, VHDX, VPC, VDI, also compressed.
//!
//! Such an image may be hostile: before any program opens it, its header must say that it is complete in itself.

pub mod describe;
pub mod ova;
pub mod ovf;

use super::convert::{self, Conversion, Input};
use super::copy::pace::Progress;
use super::directory::name::Name;
use super::transfer::check_harmless;
use super::volume::{Format, NewVolume, VolumeId, VolumeKind};
use super::{Content, Copy, activated, copy, image, unfinished::Unfinished};
use crate::{Context, Error, Result, Vmid, bail, command, error::ResultExt};
use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where an image comes from.
#[derive(Debug, Clone)]
pub enum ImageSource<'a> {
    /// A volume: a guest's disk, a file of content type `import`, a disk in an appliance (`x.ova/disk.vmdk`).
    Volume(&'a VolumeId),
    /// A file of the node. That the caller may read it is the caller's matter.
    File(&'a Path),
}

/// An image that is to become a guest's volume.
#[derive(Debug, Clone)]
pub struct ImportImage<'a> {
    /// What is imported.
    pub source: ImageSource<'a>,
    /// The storage of the new volume.
    pub storage: &'a str,
    /// The guest that will own it.
    pub vmid: Vmid,
    /// Its format; the storage's default if absent.
    pub format: Option<Format>,
    /// What it is for.
    pub kind: VolumeKind,
    /// KiB per second at most.
    pub limit: Option<u64>,
}

/// Makes the volume; `progress` gets lines for a task's log. Nothing is left behind if it fails or is stopped.
pub fn import_image(ctx: &Context, wanted: &ImportImage, progress: &mut dyn FnMut(&str)) -> Result<VolumeId> {
    let file = match wanted.source {
        ImageSource::File(path) => return convert_file(ctx, wanted, path, None, progress),
        ImageSource::Volume(volume) => volume,
    };
    let (storage, driver) = activated(ctx, &file.storage)?;
    let described = driver.describe(&storage, &file.name)?;
    match described.content {
        Content::Images | Content::Rootdir => {
            let ImportImage { storage, vmid, format, kind, limit, .. } = *wanted;
            copy(ctx, &Copy { source: file, snapshot: None, storage, vmid, format, kind, limit }, progress)
        }
        Content::Import => {
            if let Some(disk) = driver.remote_disk(&storage, &file.name)? {
                return convert_input(ctx, wanted, Input::Remote(&disk), disk.size, progress);
            }
            let path = driver.activate_volume(&storage, &file.name, None)?;
            match file.name.parse::<Name>() {
                Ok(Name::Packed(_, disk, format)) => convert_packed(ctx, wanted, &path, &disk, format, progress),
                _ => convert_file(ctx, wanted, &path, Some(described.format), progress),
            }
        }
        other => bail!("volume '{file}' with content '{other}' cannot be imported as a disk"),
    }
}

/// A disk in an archive is read where it lies.
fn convert_packed(
    ctx: &Context,
    wanted: &ImportImage,
    archive: &Path,
    disk: &str,
    format: Format,
    progress: &mut dyn FnMut(&str),
) -> Result<VolumeId> {
    let member = ova::member(archive, disk)?;
    let header = ova::header(archive, &member)?;
    check_harmless(&header, disk)?;
    if header.format != format {
        bail!("{disk}: Image is not in {format} format");
    }
    let input = Input::Part { path: archive, format: format.name(), offset: member.offset, length: member.length };
    convert_input(ctx, wanted, input, header.size, progress)
}

fn convert_file(
    ctx: &Context,
    wanted: &ImportImage,
    path: &Path,
    format: Option<Format>,
    progress: &mut dyn FnMut(&str),
) -> Result<VolumeId> {
    let place = || format!("unable to open '{}'", path.display());
    let file = File::open(path).context(place)?;
    if file.metadata().context(place)?.is_dir() {
        bail!("'{}' is a directory", path.display());
    }
    if let Some(program) = compression(path, &file)? {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let plain = decompress(&file, directory, program)?;
        let plain = convert::TemporaryRaw::of(plain);
        return convert_file(ctx, wanted, &plain.path(), None, progress);
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let header = image::read_file(&file).context(place)?;
    check_harmless(&header, &name)?;
    let detected = match header.format {
        Format::Raw => foreign_format(&file)?.unwrap_or("raw"),
        known => known.name(),
    };
    if let Some(format) = format.filter(|format| *format != Format::Raw && format.name() != detected) {
        bail!("{name}: Image is not in {format} format");
    }
    // What its name calls raw is raw, whatever its first bytes look like.
    let detected = if format == Some(Format::Raw) { "raw" } else { detected };
    let size = match detected {
        "raw" => (&file).seek(std::io::SeekFrom::End(0)).context(place)?,
        "qcow2" | "vmdk" => header.size,
        other => virtual_size(path, other)?,
    };
    convert_input(ctx, wanted, Input::File(path, detected), size, progress)
}

/// What images of VirtualBox have at byte 64. (QEMU: block/vdi.c)
const VDI: u32 = 0xbeda_107f;

/// Formats that guests' volumes never have but other products export: VHDX, VPC and VDI. None can refer to other files
/// in QEMU's implementation.
fn foreign_format(file: &File) -> Result<Option<&'static str>> {
    let length = file.metadata()?.len();
    let mut start = [0; 8];
    if length >= 512 {
        file.read_exact_at(&mut start, 0)?;
        if &start == b"vhdxfile" {
            return Ok(Some("vhdx"));
        }
        let mut signature = [0; 4];
        file.read_exact_at(&mut signature, 64)?;
        if u32::from_le_bytes(signature) == VDI {
            return Ok(Some("vdi"));
        }
        let mut end = start;
        file.read_exact_at(&mut end, length - 512)?;
        if &start == b"conectix" || &end == b"conectix" {
            return Ok(Some("vpc"));
        }
    }
    Ok(None)
}

fn virtual_size(path: &Path, format: &str) -> Result<u64> {
    let arguments = ["info", "--output=json", "-f", format, &path.to_string_lossy()];
    let output = command::run("qemu-img", &arguments)?;
    let info: serde_json::Value =
        serde_json::from_str(&output.stdout).map_err(|error| Error::new(error.to_string()))?;
    if info.get("backing-filename").is_some() {
        bail!("backing file not allowed for untrusted image '{}'!", path.display());
    }
    info["virtual-size"].as_u64().ok_or_else(|| Error::new(format!("'{}' has no size", path.display())))
}

fn convert_input(
    ctx: &Context,
    wanted: &ImportImage,
    source: Input,
    size: u64,
    progress: &mut dyn FnMut(&str),
) -> Result<VolumeId> {
    let (storage, driver) = activated(ctx, wanted.storage)?;
    let format = wanted.format.unwrap_or_else(|| storage.entry.default_format());
    if !storage.entry.formats().contains(&format) || format == Format::Subvol {
        bail!("unsupported format '{format}' for storage type {}", storage.entry.kind());
    }
    // Disks are made of whole KiB.
    let size = size.checked_next_multiple_of(1024).ok_or_else(|| Error::new("size is too large"))?;
    let new = NewVolume { vmid: wanted.vmid, format: Some(format), name: None, size, kind: wanted.kind };
    let target: Box<dyn Unfinished> = driver.begin(&storage, &new)?;
    let conversion = Conversion {
        source,
        snapshot: None,
        target: target.path(),
        target_format: target.format(),
        target_is_zero: target.reads_as_zeros(),
        limit: wanted.limit.map(|kib| kib.saturating_mul(1024)),
    };
    convert::run(&conversion, &mut Progress::new(size, progress))?;
    Ok(storage.volume(target.finish()?))
}

/// The program that unpacks a file, by its extension and its first bytes.
fn compression(path: &Path, file: &File) -> Result<Option<&'static [&'static str]>> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    let (magic, program): (&[u8], &'static [&'static str]) = match extension.as_str() {
        "gz" => (&[0x1f, 0x8b], &["gzip", "-d", "-c"]),
        "xz" => (&[0xfd, b'7', b'z'], &["xz", "-d", "-c"]),
        "zst" => (&[0x28, 0xb5, 0x2f, 0xfd], &["zstd", "-q", "-d", "-c"]),
        "bz2" => (b"BZh", &["bzip2", "-d", "-c"]),
        "lzo" => (&[0x89, b'L', b'Z', b'O'], &["lzop", "-d", "-c"]),
        _ => return Ok(None),
    };
    let mut start = vec![0; magic.len()];
    let packed = file.metadata()?.len() >= magic.len() as u64 && {
        file.read_exact_at(&mut start, 0)?;
        start == magic
    };
    Ok(packed.then_some(program))
}

/// The unpacked bytes in a file without a name, holes included.
fn decompress(file: &File, directory: &Path, program: &[&str]) -> Result<File> {
    let target =
        tempfile::tempfile_in(directory).context(|| format!("unable to write to '{}'", directory.display()))?;
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).stdin(file.try_clone()?).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context(|| format!("unable to start '{}'", program[0]))?;
    let Some(mut output) = child.stdout.take() else { bail!("'{}' has no output", program[0]) };
    let copied = copy_sparse(&mut output, &target);
    drop(output);
    if copied.is_err() {
        // The child is ours and may have ended already.
        let _ = child.kill();
    }
    let status = child.wait()?;
    copied?;
    if !status.success() {
        bail!("decompression failed: command '{}' failed: {status}", program[0]);
    }
    Ok(target)
}

fn copy_sparse(from: &mut impl std::io::Read, mut to: &File) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        let count = super::copy::pipe::fill(from, &mut buffer)?;
        if count == 0 {
            break;
        }
        super::copy::raw::write_data(to, &buffer[..count], at, true)?;
        at += count as u64;
        crate::task::abort::check()?;
    }
    to.set_len(at)?;
    Ok(to.flush()?)
}
