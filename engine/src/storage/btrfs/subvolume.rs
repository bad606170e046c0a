//! The few things that are done to subvolumes, by the tool `btrfs`.

use crate::{Result, command, error::ResultExt};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The inode of each subvolume's top directory. (Linux: BTRFS_FIRST_FREE_OBJECTID)
const TOP_INODE: u64 = 256;

fn run(words: &[&str], paths: &[&Path]) -> Result<String> {
    let mut arguments: Vec<OsString> = vec!["-q".into()];
    arguments.extend(words.iter().map(OsString::from));
    arguments.extend(paths.iter().map(OsString::from));
    let output = command::run("btrfs", &arguments).context(|| format!("command 'btrfs {}' failed", words.join(" ")))?;
    Ok(output.stdout)
}

pub fn create(path: &Path) -> Result<()> {
    run(&["subvolume", "create", "--"], &[path]).map(drop)
}

pub fn delete(path: &Path) -> Result<()> {
    run(&["subvolume", "delete", "--"], &[path]).map(drop)
}

pub fn snapshot(from: &Path, to: &Path, read_only: bool) -> Result<()> {
    let words: &[&str] =
        if read_only { &["subvolume", "snapshot", "-r", "--"] } else { &["subvolume", "snapshot", "--"] };
    run(words, &[from, to]).map(drop)
}

/// `-f`: also for a received subvolume, which then is one like any other.
pub fn set_read_only(path: &Path, read_only: bool) -> Result<()> {
    let value = if read_only { "true" } else { "false" };
    let arguments: [&OsStr; 7] = [
        "-q".as_ref(),
        "property".as_ref(),
        "set".as_ref(),
        "-f".as_ref(),
        path.as_ref(),
        "ro".as_ref(),
        value.as_ref(),
    ];
    command::run("btrfs", &arguments).map(drop)
}

pub fn is_subvolume(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_dir() && metadata.ino() == TOP_INODE)
}

/// The snapshots of a subvolume, oldest first.
pub fn snapshots_of(path: &Path) -> Result<Vec<String>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}@", name.to_string_lossy());
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(|| directory.display().to_string()),
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let snapshot = name.to_str().and_then(|name| name.strip_prefix(&prefix)).unwrap_or_default();
        if !snapshot.is_empty() && is_subvolume(&entry.path()) {
            found.push((generation(&entry.path())?, snapshot.to_owned()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, name)| name).collect())
}

/// The file system's count of changes when a subvolume was made.
fn generation(path: &Path) -> Result<u64> {
    let text = run_loud(&["subvolume", "show", "--"], path)?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Gen at creation:"));
    Ok(line.and_then(|number| number.trim().parse().ok()).unwrap_or(0))
}

fn run_loud(words: &[&str], path: &Path) -> Result<String> {
    let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    arguments.push(path.into());
    Ok(command::run("btrfs", &arguments)?.stdout)
}
