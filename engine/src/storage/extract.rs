//! The configuration of the guest in a backup, without unpacking the rest.
//! (PVE: pve-storage PVE/Storage.pm, extract_vzdump_config; pve-qemu vma_spec.txt)

use super::volume::VolumeId;
use super::{Content, activate_volume, describe};
use crate::{Context, Error, Result, bail, error::ResultExt};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Longest configuration.
const MAX_CONFIG: u64 = 1 << 20;

/// Longest header of a VMA archive that is read.
const MAX_HEADER: usize = 16 << 20;

/// The text of the configuration.
pub fn config(ctx: &Context, volume: &VolumeId) -> Result<String> {
    if describe(ctx, volume)?.content != Content::Backup {
        bail!("volume '{volume}' is not a backup");
    }
    let path = activate_volume(ctx, volume, None)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (kind, program) = form(&name)?;
    let file = File::open(&path).context(|| format!("unable to open '{}'", path.display()))?;
    let Some(program) = program else { return read(kind, file, &path) };
    let mut command = Command::new(program);
    let mut child = command
        .args(["-d", "-c"])
        .stdin(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(|| format!("unable to start '{program}'"))?;
    let Some(output) = child.stdout.take() else { bail!("'{program}' has no output") };
    let result = read(kind, output, &path);
    end(child);
    result
}

/// The rest of the archive is of no interest.
fn end(mut child: Child) {
    // The child is ours and may have ended already.
    let _ = child.kill();
    let _ = child.wait();
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tar,
    Vma,
}

/// What an archive is and what unpacks it.
fn form(name: &str) -> Result<(Kind, Option<&'static str>)> {
    let (rest, program) = match name.rsplit_once('.') {
        Some((rest, "gz" | "tgz")) => (rest, Some("gzip")),
        Some((rest, "zst")) => (rest, Some("zstd")),
        Some((rest, "lzo")) => (rest, Some("lzop")),
        Some((rest, "bz2")) => (rest, Some("bzip2")),
        _ => (name, None),
    };
    let kind = if rest.ends_with(".vma") {
        Kind::Vma
    } else if rest.ends_with(".tar") || name.ends_with(".tgz") {
        Kind::Tar
    } else {
        bail!("cannot determine archive info for '{name}'");
    };
    Ok((kind, program))
}

fn read(kind: Kind, from: impl Read, path: &Path) -> Result<String> {
    let text = match kind {
        Kind::Tar => from_tar(from)?,
        Kind::Vma => from_vma(from)?,
    };
    text.ok_or_else(|| Error::new(format!("ERROR: archive contains no configuration file: '{}'", path.display())))
}

fn from_tar(from: impl Read) -> Result<Option<String>> {
    let mut archive = tar::Archive::new(from);
    for entry in archive.entries()? {
        let entry = entry.context(|| "unable to read the archive")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name);
        if matches!(name, "etc/vzdump/pct.conf" | "etc/vzdump/vps.conf" | "qemu-server.conf") {
            let mut text = String::new();
            entry.take(MAX_CONFIG).read_to_string(&mut text)?;
            return Ok(Some(text));
        }
    }
    Ok(None)
}

/// A VMA archive begins with a header that holds all configurations: numbers are big-endian, the lengths of names and
/// texts little-endian.
fn from_vma(mut from: impl Read) -> Result<Option<String>> {
    const FIXED: usize = 12288;
    const NAMES: usize = 2044;
    const TEXTS: usize = NAMES + 256 * 4;
    let mut header = vec![0; FIXED];
    let short = |error: std::io::Error| match error.kind() {
        ErrorKind::UnexpectedEof => Error::new("VMA archive is cut short"),
        _ => Error::from(error),
    };
    from.read_exact(&mut header).map_err(short)?;
    if &header[..4] != b"VMA\0" {
        bail!("this is not a VMA archive");
    }
    let number = |at: usize| header[at..at + 4].iter().fold(0usize, |value, byte| value << 8 | usize::from(*byte));
    let (blobs, blobs_length, length) = (number(48), number(52), number(56));
    if length > MAX_HEADER || blobs.checked_add(blobs_length).is_none_or(|end| end > length) || length < FIXED {
        bail!("VMA archive has a damaged header");
    }
    let pointers: Vec<(usize, usize)> =
        (0..256).map(|index| (number(NAMES + index * 4), number(TEXTS + index * 4))).collect();
    header.resize(length, 0);
    from.read_exact(&mut header[FIXED..]).map_err(short)?;
    let blob = |at: usize| -> Option<&[u8]> {
        let start = blobs.checked_add(at)?;
        let size = header.get(start..start.checked_add(2)?)?;
        let size = usize::from(u16::from_le_bytes([size[0], size[1]]));
        header.get(start + 2..start + 2 + size)
    };
    for (name, text) in pointers.into_iter().filter(|(name, _)| *name != 0) {
        let found = blob(name).map(|name| name.strip_suffix(b"\0").unwrap_or(name));
        if found == Some(b"qemu-server.conf".as_slice()) {
            return Ok(blob(text).map(|text| String::from_utf8_lossy(text).into_owned()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_found_in_tar_and_vma() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(11);
        builder.append_data(&mut header, "./etc/vzdump/pct.conf", &b"memory: 512"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        assert_eq!(from_tar(&bytes[..]).unwrap().as_deref(), Some("memory: 512"));
        assert_eq!(from_tar(&bytes[1024..]).unwrap(), None);

        let mut vma = vec![0; 12288];
        vma[..4].copy_from_slice(b"VMA\0");
        let blobs: &[u8] = b"\0\x11\0qemu-server.conf\0\x08\0cores: 2";
        vma[48..52].copy_from_slice(&12288u32.to_be_bytes());
        vma[52..56].copy_from_slice(&(blobs.len() as u32).to_be_bytes());
        vma[56..60].copy_from_slice(&(12288 + blobs.len() as u32).to_be_bytes());
        vma[2044..2048].copy_from_slice(&1u32.to_be_bytes());
        vma[3068..3072].copy_from_slice(&20u32.to_be_bytes());
        vma.extend(blobs);
        assert_eq!(from_vma(&vma[..]).unwrap().as_deref(), Some("cores: 2"));
        assert!(from_vma(&vma[..100]).is_err() && from_vma(&[1; 20000][..]).is_err());
        vma[56..60].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(from_vma(&vma[..]).is_err());
    }

    #[test]
    fn archives_are_known_by_their_names() {
        assert!(form("vzdump-lxc-1.tar.zst").is_ok_and(|(kind, program)| kind == Kind::Tar && program == Some("zstd")));
        assert!(form("vzdump-qemu-1.vma").is_ok_and(|(kind, program)| kind == Kind::Vma && program.is_none()));
        assert!(form("old.tgz").is_ok_and(|(kind, program)| kind == Kind::Tar && program == Some("gzip")));
        assert!(form("x.zip").is_err());
    }
}
