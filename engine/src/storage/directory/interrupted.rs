//! Changes within an image that `qemu-img` makes in many writes, such as those of its snapshots.
//!
//! While one is made, a hidden directory beside the image says so. What is left of a killed one keeps the data, but counts
//! references that nobody holds; the image is repaired before anybody works with it again.

use super::making::{hide, is_abandoned};
use crate::storage::driver::Storage;
use crate::{Result, bail, command, error::ResultExt};
use std::fs;
use std::path::{Path, PathBuf};

/// What follows an image's name in the hidden directory.
const SUFFIX: &str = ".changing";

/// Runs a `qemu-img` that changes an image; one that fails half-way leaves a sound image as well.
pub fn change(storage: &Storage, image: &Path, arguments: &[&str]) -> Result<()> {
    let (Some(directory), Some(file)) = (image.parent(), image.file_name().and_then(|name| name.to_str())) else {
        bail!("'{}' is no image", image.display());
    };
    repair(storage, image)?;
    let hidden = hide(storage, directory)?;
    let marker = hidden.join(format!("{file}{SUFFIX}"));
    fs::write(&marker, b"").context(|| format!("unable to create '{}'", marker.display()))?;
    match command::run("qemu-img", arguments) {
        Ok(_) => {
            // What cannot be removed now is found by whoever comes next.
            let _ = fs::remove_dir_all(&hidden);
            Ok(())
        }
        Err(error) => {
            let failures: Vec<_> = settle(&hidden).err().into_iter().collect();
            Err(error.with_cleanup_failures(&failures))
        }
    }
}

/// Repairs an image whose last change was cut off.
pub fn repair(storage: &Storage, image: &Path) -> Result<()> {
    for entry in image.parent().into_iter().flat_map(fs::read_dir).flatten().flatten() {
        let hidden = entry.path();
        if is_abandoned(storage, &entry) && changed(&hidden).as_deref() == Some(image) {
            settle(&hidden)?;
        }
    }
    Ok(())
}

/// Removes the hidden directory of a process that is gone; the image of which it speaks is repaired before.
pub fn settle(hidden: &Path) -> Result<()> {
    if let Some(image) = changed(hidden).filter(|image| image.exists()) {
        let name = image.to_string_lossy();
        command::run("qemu-img", &["check", "-q", "-f", "qcow2", "-r", "all", &name])
            .context(|| format!("unable to repair '{name}', whose last change was interrupted"))?;
    }
    fs::remove_dir_all(hidden).context(|| format!("unable to remove '{}'", hidden.display()))
}

/// The image that was being changed, beside the hidden directory.
fn changed(hidden: &Path) -> Option<PathBuf> {
    let mut names = fs::read_dir(hidden).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let file = names.find_map(|name| Some(name.strip_suffix(SUFFIX)?.to_owned()))?;
    Some(hidden.parent()?.join(file))
}
