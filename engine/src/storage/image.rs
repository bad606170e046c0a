//! What an image file says about itself: its size and its backing file, read from the header without any program.
//! (QEMU: docs/interop/qcow2.txt; VMware: Virtual Disk Format 5.0, sparse extent header)
//!
//! Lists of thousands of volumes need nothing more than one short read per file.

use super::volume::Format;
use crate::Result;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

/// Longest backing file name that QEMU accepts.
const MAX_BACKING_NAME: u32 = 1023;

/// Bit of the incompatible features of qcow2: the data are in another file.
const QCOW2_EXTERNAL_DATA: u64 = 1 << 2;

/// Bytes of a sector of VMDK headers.
const SECTOR: u64 = 512;

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the bytes are; `Raw` for everything that has no known header.
    pub format: Format,
    /// The size that a guest sees.
    pub size: u64,
    /// The backing file as the header names it.
    pub backing: Option<String>,
    /// The data are, or may be, in other files.
    pub external_data: bool,
    /// Snapshots within the file (qcow2).
    pub snapshots: u32,
}

/// Reads an image's header.
pub fn read(path: &Path) -> Result<Header> {
    Ok(read_file(&File::open(path)?)?)
}

/// Reads the header of an open file.
pub fn read_file(file: &File) -> std::io::Result<Header> {
    read_part(file, 0, length(file)?)
}

/// The bytes of a file or a block device, for which metadata know none.
fn length(mut file: &File) -> std::io::Result<u64> {
    let metadata = file.metadata()?;
    if !metadata.file_type().is_block_device() {
        return Ok(metadata.len());
    }
    let before = file.stream_position()?;
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(before))?;
    Ok(length)
}

/// Reads the header of an image that lies within a file.
pub fn read_part(file: &File, offset: u64, length: u64) -> std::io::Result<Header> {
    let file = &Part { file, offset };
    let mut start = [0; 104];
    let count = read_up_to(file, &mut start)?.min(usize::try_from(length).unwrap_or(usize::MAX));
    let raw = Header { format: Format::Raw, size: length, backing: None, external_data: false, snapshots: 0 };
    match &start[..count.min(4)] {
        [b'Q', b'F', b'I', 0xfb] if count >= 72 => qcow2(file, &start, count),
        [b'K', b'D', b'M', b'V'] if count >= 79 => vmdk(file, &start),
        [b'#', b' ', b'D', b'i'] if start.starts_with(b"# Disk DescriptorFile") => vmdk_descriptor(file, length),
        _ => Ok(raw),
    }
}

/// A file, or a part of one, read by position.
struct Part<'a> {
    file: &'a File,
    offset: u64,
}

impl Part<'_> {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<usize> {
        self.file.read_at(buffer, self.offset.saturating_add(at))
    }

    fn read_exact_at(&self, buffer: &mut [u8], at: u64) -> std::io::Result<()> {
        self.file.read_exact_at(buffer, self.offset.saturating_add(at))
    }
}

fn read_up_to(file: &Part, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], count as u64)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

fn big_endian(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn little_endian(bytes: &[u8], at: usize, length: usize) -> u64 {
    bytes[at..at + length].iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn qcow2(file: &Part, start: &[u8], count: usize) -> std::io::Result<Header> {
    let offset = big_endian(start, 8, 8);
    let length = big_endian(start, 16, 4) as u32;
    let backing = if offset != 0 && (1..=MAX_BACKING_NAME).contains(&length) {
        let mut name = vec![0; length as usize];
        file.read_exact_at(&mut name, offset)?;
        Some(String::from_utf8_lossy(&name).into_owned())
    } else {
        None
    };
    let version = big_endian(start, 4, 4);
    let features = if version >= 3 && count >= 80 { big_endian(start, 72, 8) } else { 0 };
    Ok(Header {
        format: Format::Qcow2,
        size: big_endian(start, 24, 8),
        backing,
        external_data: features & QCOW2_EXTERNAL_DATA != 0,
        snapshots: big_endian(start, 60, 4) as u32,
    })
}

/// A file with header, descriptor and data.
fn vmdk(file: &Part, start: &[u8]) -> std::io::Result<Header> {
    let size = little_endian(start, 12, 8).saturating_mul(SECTOR);
    let at = little_endian(start, 28, 8).saturating_mul(SECTOR);
    let length = little_endian(start, 36, 8).saturating_mul(SECTOR);
    let text = if at == 0 { String::new() } else { read_text(file, at, length)? };
    let (extents, backing) = descriptor(&text);
    // Without a capacity of its own, QEMU takes the descriptor for the whole truth.
    let external_data = extents.len() > 1 || size == 0;
    Ok(Header { format: Format::Vmdk, size, backing, external_data, snapshots: 0 })
}

/// A text that names the files with the data.
fn vmdk_descriptor(file: &Part, length: u64) -> std::io::Result<Header> {
    let (extents, backing) = descriptor(&read_text(file, 0, length)?);
    let sectors = extents.iter().fold(0u64, |sum, sectors| sum.saturating_add(*sectors));
    Ok(Header {
        format: Format::Vmdk,
        size: sectors.saturating_mul(SECTOR),
        backing,
        external_data: true,
        snapshots: 0,
    })
}

/// A descriptor's text; longer ones than QEMU reads are cut.
fn read_text(file: &Part, at: u64, length: u64) -> std::io::Result<String> {
    let mut bytes = vec![0; length.min(64 * 1024) as usize];
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], at.saturating_add(count as u64))? {
            0 => break,
            more => count += more,
        }
    }
    bytes.truncate(count);
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
}

/// Sectors of each extent, and the parent.
fn descriptor(text: &str) -> (Vec<u64>, Option<String>) {
    let mut extents = Vec::new();
    let mut parent = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("RW" | "RDONLY" | "NOACCESS") => {
                extents.push(words.next().and_then(|sectors| sectors.parse().ok()).unwrap_or(0));
            }
            Some(word) if word.starts_with("parentFileNameHint") => {
                parent = line.split('"').nth(1).map(str::to_owned);
            }
            _ => {}
        }
    }
    (extents, parent)
}

/// The start of a version 3 image, for tests.
#[cfg(test)]
pub(super) fn qcow2_bytes(size: u64, backing: &str) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    if !backing.is_empty() {
        bytes[8..16].copy_from_slice(&300u64.to_be_bytes());
        bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
        bytes[300..300 + backing.len()].copy_from_slice(backing.as_bytes());
    }
    bytes[24..32].copy_from_slice(&size.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn header_of(bytes: &[u8]) -> Header {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        read_file(&file).unwrap()
    }

    #[test]
    fn qcow2_tells_size_backing_file_and_external_data() {
        let mut bytes = qcow2_bytes(32 << 30, "../9000/base-9000-disk-0.qcow2");
        let header = header_of(&bytes);
        assert_eq!((header.format, header.size), (Format::Qcow2, 32 << 30));
        assert_eq!(header.backing.as_deref(), Some("../9000/base-9000-disk-0.qcow2"));
        assert!(!header.external_data);
        bytes[72..80].copy_from_slice(&QCOW2_EXTERNAL_DATA.to_be_bytes());
        assert!(header_of(&bytes).external_data);
        assert_eq!(header_of(&qcow2_bytes(1, "")).backing, None);
    }

    #[test]
    fn vmdk_tells_size_and_whether_data_are_elsewhere() {
        let mut bytes = vec![0; 2048];
        bytes[..4].copy_from_slice(b"KDMV");
        bytes[12..20].copy_from_slice(&8192u64.to_le_bytes());
        bytes[28..36].copy_from_slice(&1u64.to_le_bytes());
        bytes[36..44].copy_from_slice(&2u64.to_le_bytes());
        bytes[512..512 + 38].copy_from_slice(b"# Disk DescriptorFile\nRW 8192 SPARSE \"");
        let header = header_of(&bytes);
        assert_eq!((header.format, header.size, header.external_data), (Format::Vmdk, 8192 * 512, false));
        let text =
            "# Disk DescriptorFile\nparentFileNameHint=\"/etc/shadow\"\nRW 10 FLAT \"a\" 0\nRW 20 FLAT \"b\" 0\n";
        let header = header_of(text.as_bytes());
        assert_eq!((header.size, header.external_data), (30 * 512, true));
        assert_eq!(header.backing.as_deref(), Some("/etc/shadow"));
    }

    #[test]
    fn everything_else_is_raw_and_short_files_are_no_trouble() {
        for bytes in [&b""[..], b"Q", b"QFI\xfb", b"KDMV", b"# Disk", b"hello"] {
            let header = header_of(bytes);
            assert_eq!((header.format, header.size), (Format::Raw, bytes.len() as u64));
        }
    }
}
