//! Snapshots of qcow2 images: within the file, or, where the storage says `snapshot-as-volume-chain`, as a chain of files
//! `snap-NAME-FILE` below the current one. (PVE: pve-storage PVE/Storage/Plugin.pm, volume_snapshot and its kin)
//!
//! A chain changes by one rename at a time, so that a kill at any point leaves either the old chain or the new one.

use super::images::create_backed;
use super::interrupted;
use super::making::{Making, Plain};
use super::name::{ImageName, Name};
use super::path_of;
use crate::file::remove_if_there;
use crate::storage::driver::{Source, Storage};
use crate::storage::image;
use crate::storage::volume::Format;
use crate::{Error, Result, bail, command, error::ResultExt};
use std::fs;
use std::path::{Path, PathBuf};

/// Longest chain that is followed; a longer one has a loop.
const MAX_CHAIN: usize = 1000;

fn is_chain(storage: &Storage) -> bool {
    storage.entry.flag("snapshot-as-volume-chain").unwrap_or(false)
}

/// The image and its path, if it is one that can have snapshots.
fn qcow2(storage: &Storage, name: &Name, what: &str) -> Result<(ImageName, PathBuf)> {
    match name {
        Name::Image(image) if image.format == Format::Qcow2 => Ok((image.clone(), path_of(storage, name)?)),
        _ => bail!("can't {what} this image format"),
    }
}

/// The file of a snapshot in a chain.
fn snapshot_path(current: &Path, snapshot: &str) -> PathBuf {
    let file = current.file_name().unwrap_or_default().to_string_lossy();
    current.with_file_name(format!("snap-{snapshot}-{file}"))
}

/// The snapshots below a current file, newest first, by name and file.
fn chain(current: &Path) -> Result<Vec<(String, PathBuf)>> {
    let file = current.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    let mut at = current.to_owned();
    while found.len() < MAX_CHAIN {
        let header = image::read(&at).context(|| at.display().to_string())?;
        let Some(backing) = header.backing else { return Ok(found) };
        let Some(snapshot) = backing.strip_prefix("snap-").and_then(|rest| rest.strip_suffix(&format!("-{file}")))
        else {
            // The image below is a template's.
            return Ok(found);
        };
        at = snapshot_path(current, snapshot);
        found.push((snapshot.to_owned(), at.clone()));
    }
    bail!("the chain of snapshots of '{}' has no end", current.display())
}

/// The files below a current one; none if it has gone or cannot be read.
pub fn chain_files(current: &Path) -> Vec<PathBuf> {
    chain(current).unwrap_or_default().into_iter().map(|(_, file)| file).collect()
}

/// Whether an image has snapshots as a chain.
pub fn has_chain(storage: &Storage, current: &Path) -> Result<bool> {
    Ok(is_chain(storage) && !chain(current)?.is_empty())
}

/// Where a snapshot is read.
pub fn source(storage: &Storage, name: &Name, snapshot: &str) -> Result<Source> {
    let (_, path) = qcow2(storage, name, "read snapshots of")?;
    if !is_chain(storage) {
        return Ok(Source { path, internal: Some(snapshot.to_owned()) });
    }
    Ok(Source { path: link(&path, snapshot, name)?, internal: None })
}

/// The file of an existing snapshot.
fn link(current: &Path, snapshot: &str, name: &Name) -> Result<PathBuf> {
    let found = chain(current)?.into_iter().find(|(found, _)| found == snapshot);
    found.map(|(_, file)| file).ok_or_else(|| Error::new(format!("snapshot '{snapshot}' does not exist on '{name}'")))
}

/// Names of snapshots, oldest first.
pub fn list(storage: &Storage, name: &Name) -> Result<Vec<String>> {
    let Ok((_, path)) = qcow2(storage, name, "snapshot") else { return Ok(Vec::new()) };
    if is_chain(storage) {
        let mut names: Vec<String> = chain(&path)?.into_iter().map(|(name, _)| name).collect();
        names.reverse();
        return Ok(names);
    }
    let arguments = ["info", "--force-share", "--output=json", "-f", "qcow2", &path.to_string_lossy()];
    let output = command::run("qemu-img", &arguments)?;
    let info: serde_json::Value =
        serde_json::from_str(&output.stdout).map_err(|error| Error::new(error.to_string()))?;
    let snapshots = info["snapshots"].as_array().into_iter().flatten();
    Ok(snapshots.filter_map(|snapshot| Some(snapshot["name"].as_str()?.to_owned())).collect())
}

pub fn create(storage: &Storage, name: &Name, snapshot: &str) -> Result<()> {
    let (image, path) = qcow2(storage, name, "snapshot")?;
    if !is_chain(storage) {
        if list(storage, name)?.iter().any(|other| other == snapshot) {
            bail!("snapshot '{snapshot}' already exists on '{name}'");
        }
        return in_image(storage, "-c", snapshot, &path);
    }
    let kept = snapshot_path(&path, snapshot);
    if chain(&path)?.iter().any(|(other, _)| other == snapshot) {
        bail!("target snapshot '{snapshot}' already exists");
    }
    let overlay = overlay(storage, &image, &path, &kept)?;
    // A file of that name that is not in the chain is what a killed process has left.
    remove_if_there(&kept)?;
    if fs::hard_link(&path, &kept).is_err() {
        fs::rename(&path, &kept).context(|| format!("rename '{}' to '{}' failed", path.display(), kept.display()))?;
    }
    replace(&overlay, &path).inspect_err(|_| {
        // Back to one name for the one file.
        let _ = fs::rename(&kept, &path);
    })
}

/// A new empty image on top of another one beside it, still hidden.
fn overlay(storage: &Storage, image: &ImageName, current: &Path, below: &Path) -> Result<Making> {
    let size = image::read(if below.exists() && below != current { below } else { current })?.size;
    let file = image.file.strip_prefix("vm-").unwrap_or(&image.file);
    // Any free name will do: the file gets the current one's.
    let name = format!("overlay-{}-{file}", std::process::id());
    let making = Making::reserve(storage, &Plain, image.vmid, Format::Qcow2, None, Some(&name))?;
    let below = below.file_name().unwrap_or_default().to_string_lossy();
    create_backed(making.inside(), &below, Format::Qcow2, size)?;
    Ok(making)
}

/// Puts a hidden overlay in a current image's place.
fn replace(overlay: &Making, current: &Path) -> Result<()> {
    fs::rename(overlay.inside(), current).context(|| format!("unable to replace '{}'", current.display()))
}

fn in_image(storage: &Storage, option: &str, snapshot: &str, path: &Path) -> Result<()> {
    interrupted::change(storage, path, &["snapshot", option, snapshot, &path.to_string_lossy()])
}

pub fn rollback_possible(storage: &Storage, name: &Name, snapshot: &str) -> Result<()> {
    let names = list(storage, name)?;
    let Some(at) = names.iter().position(|other| other == snapshot) else {
        bail!("can't rollback, snapshot '{snapshot}' does not exist on '{name}'");
    };
    let newer = &names[at + 1..];
    if is_chain(storage) && !newer.is_empty() {
        let newer = newer.join("', '");
        bail!("can't rollback, '{snapshot}' is not most recent snapshot on '{name}': newer are '{newer}'");
    }
    Ok(())
}

pub fn rollback(storage: &Storage, name: &Name, snapshot: &str) -> Result<()> {
    let (image, path) = qcow2(storage, name, "rollback snapshot")?;
    if !is_chain(storage) {
        return in_image(storage, "-a", snapshot, &path);
    }
    let below = link(&path, snapshot, name)?;
    let overlay = overlay(storage, &image, &path, &below)?;
    replace(&overlay, &path)
}

pub fn delete(storage: &Storage, name: &Name, snapshot: &str) -> Result<()> {
    let (_, path) = qcow2(storage, name, "delete snapshot for")?;
    if !is_chain(storage) {
        return in_image(storage, "-d", snapshot, &path);
    }
    let links = chain(&path)?;
    let Some(at) = links.iter().position(|(other, _)| other == snapshot) else {
        bail!("snapshot '{snapshot}' does not exist on '{name}'");
    };
    let file = &links[at].1;
    let child = if at == 0 { &path } else { &links[at - 1].1 };
    match links.get(at + 1) {
        // The oldest holds most of the data: what is above it is written into it, and it takes the place above.
        None => {
            command::run("qemu-img", &["commit", "-d", "-f", "qcow2", &child.to_string_lossy()])
                .context(|| format!("error committing to '{snapshot}'"))?;
            fs::rename(file, child).context(|| format!("rename '{}' failed", file.display()))
        }
        Some((_, parent)) => {
            let parent = parent.file_name().unwrap_or_default().to_string_lossy();
            let child = child.to_string_lossy();
            command::run("qemu-img", &["rebase", "-b", &parent, "-F", "qcow2", "-f", "qcow2", &child])
                .context(|| format!("error rebasing from '{snapshot}'"))?;
            remove_if_there(file).context(|| format!("unlink '{}' failed", file.display()))
        }
    }
}
