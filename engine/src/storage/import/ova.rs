//! Appliances: a tar archive with an OVF description and disks, read in place.

use crate::storage::image::{self, Header};
use crate::{Error, Result, bail, error::ResultExt};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest description that is read.
const MAX_OVF: u64 = 8 << 20;

/// Where a file lies in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// The first byte.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// The first regular file of the archive that `wanted` accepts by its name.
fn find(archive: &Path, wanted: impl Fn(&str) -> bool) -> Result<Option<Member>> {
    let place = || format!("unable to read '{}'", archive.display());
    let file = File::open(archive).context(place)?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().context(place)? {
        let entry = entry.context(place)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name);
        if wanted(name) {
            if !entry.header().entry_type().is_file() {
                bail!("'{name}' in the archive is not a regular file");
            }
            return Ok(Some(Member { offset: entry.raw_file_position(), length: entry.size() }));
        }
    }
    Ok(None)
}

/// A disk in an archive.
pub fn member(archive: &Path, disk: &str) -> Result<Member> {
    let missing = || Error::new(format!("archive '{}' has no file '{disk}'", archive.display()));
    find(archive, |name| name == disk)?.ok_or_else(missing)
}

/// What the header of a disk in an archive says.
pub fn header(archive: &Path, member: &Member) -> Result<Header> {
    let place = || format!("unable to read '{}'", archive.display());
    let file = File::open(archive).context(place)?;
    if file.metadata().context(place)?.len() < member.offset.saturating_add(member.length) {
        bail!("archive '{}' is cut short", archive.display());
    }
    image::read_part(&file, member.offset, member.length).context(place)
}

/// The text of the first description.
pub fn description(archive: &Path) -> Result<String> {
    let missing = || Error::new(format!("archive '{}' has no .ovf file inside", archive.display()));
    let member = find(archive, |name| name.ends_with(".ovf"))?.ok_or_else(missing)?;
    let mut file = File::open(archive)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(member.offset))?;
    read_text(file.take(member.length))
}

/// A description's text, if it is not too long to be one.
pub fn read_text(from: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    from.take(MAX_OVF + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_OVF {
        bail!("the OVF description is longer than {} MiB", MAX_OVF >> 20);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
