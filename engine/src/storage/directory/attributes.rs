//! Notes and protection of backups: files beside the archive. (PVE: pve-storage PVE/Storage/DirPlugin.pm)

use super::name::Name;
use super::path_of;
use crate::storage::content::Content;
use crate::storage::driver::{Attributes, Storage};
use crate::{Result, bail, error::ResultExt, file};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The file that holds an archive's notes.
pub(super) fn notes_path(archive: &Path) -> PathBuf {
    with_suffix(archive, ".notes")
}

/// The file whose existence protects an archive.
pub(super) fn protection_path(archive: &Path) -> PathBuf {
    with_suffix(archive, ".protected")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = OsString::from(path);
    text.push(suffix);
    text.into()
}

pub(super) fn read(storage: &Storage, name: &Name) -> Result<Attributes> {
    if name.content() != Content::Backup {
        return Ok(Attributes::default());
    }
    let path = path_of(storage, name)?;
    let notes = file::read_or_empty(&notes_path(&path))?;
    Ok(Attributes { notes: Some(notes), protected: Some(protection_path(&path).exists()) })
}

pub(super) fn set_notes(storage: &Storage, name: &Name, notes: &str) -> Result<()> {
    if name.content() != Content::Backup {
        bail!("only backups can have notes");
    }
    let path = notes_path(&path_of(storage, name)?);
    if notes.is_empty() {
        return file::remove_if_there(&path).context(|| "could not delete notes");
    }
    file::replace(&path, notes.as_bytes(), 0o644)
}

pub(super) fn set_protected(storage: &Storage, name: &Name, protected: bool) -> Result<()> {
    if name.content() != Content::Backup {
        bail!("only backups support attribute 'protected'");
    }
    let path = protection_path(&path_of(storage, name)?);
    let place = path.display();
    if protected {
        file::replace(&path, b"", 0o644).context(|| format!("unable to create protection file '{place}'"))
    } else {
        file::remove_if_there(&path).context(|| format!("could not delete protection file '{place}'"))
    }
}
