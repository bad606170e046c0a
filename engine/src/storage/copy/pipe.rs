//! Directories and streams: trees with owners, links and attributes as they are, images from a pipe.

use super::pace::Pace;
use super::raw::write_data;
use crate::{Error, Result, bail, error::ResultExt};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// How trees are packed and unpacked: numbers of owners, ACLs, attributes and holes are kept.
/// (PVE: pve-storage PVE/Storage/Plugin.pm, COMMON_TAR_FLAGS)
pub const TAR_FLAGS: [&str; 9] = [
    "--one-file-system",
    "-p",
    "--sparse",
    "--numeric-owner",
    "--acls",
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--warning=no-file-ignored",
];

/// How much is moved at once.
const CHUNK: usize = 256 << 10;

/// Copies what is in a directory to another one.
pub fn tree(from: &Path, to: &Path, pace: &mut Pace) -> Result<()> {
    let mut packer = packer(from).stdout(Stdio::piped()).spawn().context(|| "unable to start 'tar'")?;
    let unpacker = unpacker(to).stdin(Stdio::piped()).spawn().context(|| "unable to start 'tar'");
    let mut unpacker = match unpacker {
        Ok(child) => child,
        Err(error) => {
            end(&mut packer);
            return Err(error);
        }
    };
    let (Some(mut output), Some(mut input)) = (packer.stdout.take(), unpacker.stdin.take()) else {
        bail!("tar has no pipes");
    };
    let moved = pump(&mut output, &mut input, pace);
    drop(input);
    drop(output);
    if moved.is_err() {
        end(&mut packer);
        end(&mut unpacker);
    }
    // A reader that fails makes the writer fail, too; the first cause is the unpacker's.
    let (packed, unpacked) = (finish(packer, "packing"), finish(unpacker, "unpacking"));
    match moved {
        Err(error) if error.message() == "received interrupt" => Err(error),
        moved => unpacked.and(packed).and(moved),
    }
}

/// Packs a directory into a stream.
pub fn tar_to(from: &Path, to: &File) -> Result<()> {
    let child = packer(from).stdout(to.try_clone()?).spawn().context(|| "unable to start 'tar'")?;
    wait(child, "packing")
}

/// Unpacks a stream into a directory.
pub fn tar_from(from: &File, to: &Path) -> Result<()> {
    let child = unpacker(to).stdin(from.try_clone()?).spawn().context(|| "unable to start 'tar'")?;
    wait(child, "unpacking")
}

fn packer(from: &Path) -> Command {
    let mut command = Command::new("tar");
    command.args(TAR_FLAGS).args(["-cf", "-", "-C"]).arg(from).arg(".");
    command.stdin(Stdio::null()).stderr(Stdio::piped());
    command
}

fn unpacker(to: &Path) -> Command {
    let mut command = Command::new("tar");
    command.args(TAR_FLAGS).arg("-C").arg(to).args(["-xf", "-"]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn pump(from: &mut impl Read, to: &mut impl Write, pace: &mut Pace) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        to.write_all(&buffer[..count])?;
        pace.moved(count as u64)?;
    }
}

fn end(child: &mut Child) {
    // The child is ours and may have ended already.
    let _ = child.kill();
}

/// Waits for a program while looking whether the task is to stop.
fn wait(mut child: Child, what: &str) -> Result<()> {
    let stopped = loop {
        if child.try_wait()?.is_some() {
            break Ok(());
        }
        if let Err(error) = crate::task::abort::check() {
            end(&mut child);
            break Err(error);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    };
    finish(child, what).and(stopped)
}

/// The end of a program; its last words are the error.
fn finish(child: Child, what: &str) -> Result<()> {
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Err(Error::new(format!("{what} failed: {} {last}", output.status).trim_end().to_owned()))
}

/// Writes a stream to an image. With a size, the stream must have exactly so many bytes; without one, the image's file is
/// what the stream holds.
pub fn write_image(mut from: &File, to: &Path, size: Option<u64>, zeros: bool) -> Result<()> {
    let target = File::options().write(true).open(to).context(|| format!("unable to open '{}'", to.display()))?;
    if size.is_none() {
        target.set_len(0)?;
    }
    let mut pace = Pace::new(None);
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    loop {
        let count = fill(&mut from, &mut buffer)?;
        if count == 0 {
            break;
        }
        if size.is_some_and(|size| at + count as u64 > size) {
            bail!("import: the stream is longer than its header says");
        }
        write_data(&target, &buffer[..count], at, zeros)?;
        at += count as u64;
        pace.moved(count as u64)?;
    }
    if let Some(size) = size.filter(|size| *size != at) {
        bail!("import: the stream ended after {at} of {size} bytes");
    }
    Ok(target.sync_data()?)
}

/// Reads until the buffer is full or the stream ends.
pub fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match from.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(count)
}
