//! Reading and replacing files of ours. One function writes: lock, read, change, temporary file, sync, rename.

use crate::process::ProcessId;
use crate::{Context, Error, Result, error::ResultExt};
use rustix::fs::{FlockOperation, Mode, OFlags};
use sha1::{Digest, Sha1};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The text of a file; an absent file is an empty one.
pub fn read_or_empty(path: &Path) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).context(|| format!("unable to read '{}'", path.display())),
    }
}

/// Removes a file; one that is not there is no error.
pub fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// SHA-1 of a text in hexadecimal, the `digest` of configuration files. (PVE: pve-common PVE/Tools.pm)
pub fn digest(text: &str) -> String {
    crate::types::hex(&Sha1::digest(text.as_bytes()))
}

/// Fails when the caller saw another state of the file. (PVE: pve-common PVE/Tools.pm, assert_if_modified)
pub fn assert_digest(current: &str, seen: Option<&str>) -> Result<()> {
    match seen {
        Some(seen) if !seen.is_empty() && seen != current => {
            Err(Error::new("detected modified configuration - file changed by other user? Try again."))
        }
        _ => Ok(()),
    }
}

/// Replaces a file in one step; readers see the old or the new text, also after a power cut.
///
/// `mode` holds for a new file, which also gets its directory's group: below `/etc/pve` that is the front server's. An
/// existing file keeps its owner and mode. What writers left that were killed in the same directory is removed.
pub fn replace(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let place = || format!("unable to write '{}'", path.display());
    let directory = path.parent().unwrap_or(Path::new("/"));
    remove_abandoned(directory);
    let temporary = temporary_for(path);
    let write = || -> std::io::Result<()> {
        let fd = rustix::fs::open(
            &temporary,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC,
            Mode::from_raw_mode(mode),
        )?;
        let mut file = File::from(fd);
        match fs::metadata(path) {
            Ok(old) => copy_owner_and_mode(&file, &old)?,
            Err(_) => {
                let group = rustix::fs::Gid::from_raw(fs::metadata(directory)?.gid());
                // Only root may give a file to any group; others keep their own.
                let _ = rustix::fs::fchown(&file, None, Some(group));
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            }
        }
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(&temporary))).context(place)
}

/// Replaces a file that is made anew when it is lost, such as what is written for a start: in one step for readers, but
/// without waiting for the disk.
pub fn replace_volatile(path: &Path, text: &[u8], mode: u32) -> Result<()> {
    let temporary = temporary_for(path);
    let write = || -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::open(&temporary, flags, Mode::from_raw_mode(mode))?);
        file.write_all(text)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
        // Changing places is what ext4 does without writing the new data out first.
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(rustix::fs::CWD, &temporary, rustix::fs::CWD, path, exchange) {
            Ok(()) => fs::remove_file(&temporary),
            Err(_) => fs::rename(&temporary, path),
        }
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .context(|| format!("unable to write '{}'", path.display()))
}

/// What stands between a temporary file's final name and its writer.
const TEMPORARY: &str = ".tmp.";

/// `.NAME.tmp.PID.START.NUMBER`: whoever finds it can tell whether its writer lives.
fn temporary_for(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let ProcessId { pid, start } = ProcessId::current();
    path.with_file_name(format!(".{name}{TEMPORARY}{pid}.{start}.{}", unique_number()))
}

/// Whose temporary file has this name, if it has such a name at all.
fn writer_of(name: &str) -> Option<ProcessId> {
    let (_, writer) = name.strip_prefix('.')?.rsplit_once(TEMPORARY)?;
    let mut numbers = writer.split('.').map(str::parse::<u64>);
    let (pid, start, _) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    numbers.next().is_none().then_some(ProcessId { pid: pid.try_into().ok()?, start })
}

/// Removes temporary files in a directory whose writers have ended.
fn remove_abandoned(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if writer_of(&entry.file_name().to_string_lossy()).is_some_and(|writer| !writer.is_alive()) {
            // Another one may have been faster; what cannot be removed is tried again by the next writer.
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn copy_owner_and_mode(file: &File, old: &fs::Metadata) -> std::io::Result<()> {
    let owner = rustix::fs::Uid::from_raw(old.uid());
    let group = rustix::fs::Gid::from_raw(old.gid());
    rustix::fs::fchown(file, Some(owner), Some(group))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(old.mode() & 0o7777))?;
    Ok(())
}

fn unique_number() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Changes a file under its lock: `change` gets the present text and returns the new one. An unchanged text is not written.
pub fn update(ctx: &Context, path: &Path, mode: u32, change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let _lock = lock_file(ctx, path)?;
    let old = read_or_empty(path)?;
    let new = change(&old)?;
    if new != old || !path.exists() {
        replace(path, new.as_bytes(), mode)?;
    }
    Ok(())
}

/// Waits for the short lock of a file; it is held while a text is read, changed and replaced, never longer.
/// Dropping the descriptor releases it.
pub fn lock_file(ctx: &Context, path: &Path) -> Result<OwnedFd> {
    let directory = ctx.root.run("lock/ferrovisor/files");
    fs::create_dir_all(&directory).context(|| format!("unable to create '{}'", directory.display()))?;
    let name: String = path.to_string_lossy().trim_start_matches('/').replace('/', "-");
    let lock = directory.join(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&lock, flags, Mode::from_raw_mode(0o600))
        .context(|| format!("can't open lock file '{}'", lock.display()))?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive))
        .context(|| format!("can't lock file '{}'", lock.display()))?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn replacing_keeps_the_mode_and_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.cfg");
        replace(&path, b"one", 0o640).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        replace(&path, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o604);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn temporary_files_of_dead_writers_go_with_the_next_writing() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str| directory.path().join(name);
        let temporary = temporary_for(&file("b.cfg"));
        assert_eq!(writer_of(&temporary.file_name().unwrap().to_string_lossy()), Some(ProcessId::current()));
        let (pid, start) = (std::process::id(), ProcessId::current().start);
        let dead = [format!(".a.cfg.tmp.{pid}.{}.0", start + 1), ".b.tmp.cfg.tmp.4294967295.7.3".into()];
        let kept = [".b.cfg.tmp.x".into(), "b.cfg.tmp.1.1.1".into(), format!(".b.cfg.tmp.{pid}.{start}.9")];
        dead.iter().chain(&kept).for_each(|name| fs::write(file(name), "").unwrap());
        replace(&file("a.cfg"), b"one", 0o640).unwrap();
        assert!(dead.iter().all(|name| !file(name).exists()));
        assert!(kept.iter().all(|name| file(name).exists()));
    }

    #[test]
    fn volatile_files_are_replaced_in_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config");
        for text in ["one", "two"] {
            replace_volatile(&path, text.as_bytes(), 0o644).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_names_the_file_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/a.cfg");
        let error = replace(&path, b"x", 0o600).unwrap_err();
        assert!(error.message().contains("missing/a.cfg"), "{error}");
    }

    #[test]
    fn digest_is_sha1_in_hexadecimal() {
        assert_eq!(digest(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert!(assert_digest("a", None).is_ok());
        assert!(assert_digest("a", Some("b")).is_err());
    }
}
