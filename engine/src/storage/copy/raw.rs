//! Bytes of disks from file or device to file or device: by reference where the file system can, else without the holes.

use super::pace::{Pace, Progress};
use crate::{Error, Result, command, error::ResultExt};
use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Seek, SeekFrom as Place};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// How much is read at once.
const CHUNK: u64 = 1 << 20;

/// After so many bytes the kernel is asked to write them out while the next ones are read.
const FLUSH: u64 = 16 << 20;

/// Zeros of this length and alignment are left out.
const BLOCK: usize = 64 << 10;

/// Copies all bytes of `from` to the start of `to`. Where `zeros`, `to` reads as zeros already.
pub fn copy(from: &Path, to: &Path, zeros: bool, pace: &mut Pace, progress: &mut Progress) -> Result<()> {
    let (source, target) = open(from, to)?;
    if pace.is_free() && clone_file(&source, &target)? {
        target.sync_data()?;
        progress.finish();
        return Ok(());
    }
    let place = || format!("unable to copy '{}' to '{}'", from.display(), to.display());
    copy_data(&source, &target, zeros, pace, progress).context(place)?;
    target.sync_data().context(place)?;
    progress.finish();
    Ok(())
}

/// Makes one file share all bytes of another; `false` where the file systems cannot.
pub fn reflink(from: &Path, to: &Path) -> Result<bool> {
    let (source, target) = open(from, to)?;
    // The new file must not keep anything behind the old one's end.
    let length = target.metadata()?.len();
    let done = clone_file(&source, &target)?;
    if done && source.metadata()?.len() < length {
        target.set_len(source.metadata()?.len())?;
    }
    if done {
        target.sync_data()?;
    }
    Ok(done)
}

/// Fills an empty directory with files that share all bytes with those of another; `false` where the file systems cannot.
pub fn reflink_tree(from: &Path, to: &Path) -> Result<bool> {
    let mut words: Vec<std::ffi::OsString> = vec!["--archive".into(), "--reflink=always".into()];
    words.extend(["--no-target-directory".into(), "--".into(), from.into(), to.into()]);
    Ok(command::run("cp", &words).is_ok())
}

/// Whether files in a directory can share bytes.
pub fn can_share(directory: &Path) -> bool {
    let works = || -> Result<bool> {
        let (source, target) = (tempfile::tempfile_in(directory)?, tempfile::tempfile_in(directory)?);
        source.write_all_at(&[1; 4096], 0)?;
        clone_file(&source, &target)
    };
    works().unwrap_or(false)
}

fn open(from: &Path, to: &Path) -> Result<(File, File)> {
    let source = File::open(from).context(|| format!("unable to open '{}'", from.display()))?;
    let target = File::options().write(true).open(to).context(|| format!("unable to open '{}'", to.display()))?;
    Ok((source, target))
}

/// Asks the file system; whatever it cannot do is no error.
fn clone_file(source: &File, target: &File) -> Result<bool> {
    if !source.metadata()?.is_file() || !target.metadata()?.is_file() {
        return Ok(false);
    }
    match rustix::fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(true),
        Err(Errno::NOSPC | Errno::DQUOT) => Err(Error::from(Errno::NOSPC)),
        Err(_) => Ok(false),
    }
}

fn copy_data(mut source: &File, target: &File, zeros: bool, pace: &mut Pace, progress: &mut Progress) -> Result<()> {
    let length = source.seek(Place::End(0))?;
    let has_holes = source.metadata()?.is_file();
    let mut buffer = vec![0; CHUNK as usize];
    let (mut at, mut flushed) = (0, 0);
    progress.set_done(0);
    while at < length {
        let data = if has_holes { next_data(source, at, length)? } else { at };
        if data > at {
            if !zeros {
                write_zeros(target, at, data - at)?;
            }
            progress.set_done(data);
            at = data;
            continue;
        }
        let end = if has_holes { next_hole(source, at, length)? } else { length };
        while at < end {
            let count = (end - at).min(CHUNK) as usize;
            source.read_exact_at(&mut buffer[..count], at)?;
            write_data(target, &buffer[..count], at, zeros)?;
            at += count as u64;
            if let Some(length) = NonZeroU64::new(at - flushed).filter(|length| length.get() >= FLUSH) {
                // Advice that the file system does not take costs time, nothing else.
                let _ = rustix::fs::fadvise(target, flushed, Some(length), Advice::DontNeed);
                flushed = at;
            }
            pace.moved(count as u64)?;
            progress.set_done(at);
        }
    }
    Ok(())
}

fn next_data(source: &File, at: u64, length: u64) -> Result<u64> {
    match rustix::fs::seek(source, SeekFrom::Data(at)) {
        Ok(data) => Ok(data.min(length)),
        Err(Errno::NXIO) => Ok(length),
        // A file system that does not know holes has none.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(at),
        Err(error) => Err(error.into()),
    }
}

fn next_hole(source: &File, at: u64, length: u64) -> Result<u64> {
    match rustix::fs::seek(source, SeekFrom::Hole(at)) {
        Ok(hole) => Ok(hole.min(length)),
        Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NXIO) => Ok(length),
        Err(error) => Err(error.into()),
    }
}

/// Writes what is not zero, or everything if the target may hold other bytes.
pub fn write_data(target: &File, bytes: &[u8], at: u64, zeros: bool) -> Result<()> {
    if !zeros {
        return Ok(target.write_all_at(bytes, at)?);
    }
    let mut offset = 0;
    let mut pending: Option<usize> = None;
    for block in bytes.chunks(BLOCK) {
        match (is_zero(block), pending) {
            (true, Some(start)) => {
                target.write_all_at(&bytes[start..offset], at + start as u64)?;
                pending = None;
            }
            (false, None) => pending = Some(offset),
            _ => {}
        }
        offset += block.len();
    }
    if let Some(start) = pending {
        target.write_all_at(&bytes[start..], at + start as u64)?;
    }
    Ok(())
}

/// Whether all bytes are zero; most data differ in the first few.
fn is_zero(block: &[u8]) -> bool {
    let start = block.len().min(16);
    block[..start].iter().all(|byte| *byte == 0) && block[start..] == block[..block.len() - start]
}

fn write_zeros(target: &File, at: u64, length: u64) -> Result<()> {
    match rustix::fs::fallocate(target, FallocateFlags::ZERO_RANGE, at, length) {
        Ok(()) => return Ok(()),
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV) => {}
        Err(error) => return Err(error.into()),
    }
    let zeros = vec![0; CHUNK as usize];
    let mut done = 0;
    while done < length {
        crate::task::abort::check()?;
        let count = (length - done).min(CHUNK);
        target.write_all_at(&zeros[..count as usize], at + done)?;
        done += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn copies_are_equal_and_keep_their_holes() {
        let directory = tempfile::tempdir().unwrap();
        let (from, to) = (directory.path().join("from"), directory.path().join("to"));
        let file = File::create(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 5 << 20, (64 << 20) - 3] {
            file.write_all_at(b"abc", at).unwrap();
        }
        // Zeros that are written are left out as well.
        file.write_all_at(&vec![0; 4 << 20], 20 << 20).unwrap();
        for zeros in [true, false] {
            let target = File::create(&to).unwrap();
            if !zeros {
                target.write_all_at(&vec![7; 30 << 20], 0).unwrap();
            }
            target.set_len(64 << 20).unwrap();
            let mut lines = 0;
            let mut line = |_: &str| lines += 1;
            let mut progress = Progress::new(64 << 20, &mut line);
            // A limit keeps the file system from sharing the bytes.
            copy(&from, &to, zeros, &mut Pace::new(Some(1 << 40)), &mut progress).unwrap();
            assert!(lines > 2);
            assert!(std::fs::read(&from).unwrap() == std::fs::read(&to).unwrap());
            if zeros {
                assert!(std::fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
            }
        }
    }

    #[test]
    fn zero_blocks_are_known() {
        assert!(is_zero(&[0; 65536]) && is_zero(&[]) && is_zero(&[0; 7]));
        for at in [0, 1, 15, 16, 100, 65535] {
            let mut block = vec![0; 65536];
            block[at] = 1;
            assert!(!is_zero(&block), "{at}");
        }
    }
}
