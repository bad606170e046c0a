//! `/nodes/{node}/storage/{storage}/upload`: a file that the front server has received goes to its place.
//! (PVE: pve-storage PVE/API2/Storage/Status.pm, upload)
//!
//! The received file is ours from here on: it is gone when this ends, well or not.

use crate::context::Mode;
use crate::storage::transfer::{Checksum, Incoming, Target, copy};
use crate::storage::{self, Content};
use crate::{Call, Error, Reply, Result, Task, bail, error::ResultExt};
use rustix::fs::{Mode as FileMode, OFlags};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where the front server puts what it receives; the number in hexadecimal follows.
const RECEIVED: &str = "/var/tmp/pveupload-";

pub(super) fn upload(call: &Call) -> Result<Reply> {
    let Some(text) = call.opt::<String>("tmpfilename")? else { bail!("missing temporary file name") };
    let path = received_path(call, &text)?;
    start(call, &path).inspect_err(|_| discard(&path))
}

/// The received file below the node's root. A tool's user may have put it below the real one.
fn received_path(call: &Call, text: &str) -> Result<PathBuf> {
    let number = text.strip_prefix(RECEIVED).unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(Error::parameter("tmpfilename", "value does not match the regex pattern"));
    }
    let path = call.ctx.root.path(text);
    let by_tool = matches!(call.ctx.mode, Mode::Foreground) && call.ctx.caller.is_root();
    Ok(if by_tool && fs::symlink_metadata(&path).is_err() { text.into() } else { path })
}

fn discard(path: &Path) {
    // It may be gone already, and nothing hangs on it.
    let _ = fs::remove_file(path);
}

fn start(call: &Call, received: &Path) -> Result<Reply> {
    let node: String = call.param("node")?;
    if !call.ctx.is_local_node(&node) {
        bail!("hostname lookup '{node}' failed");
    }
    let id: String = call.param("storage")?;
    let content: Content = call.param("content")?;
    let file = open_received(received)?;
    let target = Target::new(call.ctx, &id, content, &call.param::<String>("filename")?)?;
    let checksum = super::download::checksum(call)?;
    storage::activate(call.ctx, &id)?;
    call.task("imgcopy", "", |task| {
        let result = import(task, received, file, &target, checksum.as_ref(), &node);
        discard(received);
        result
    })
}

/// The received file itself, never what a link of that name points to.
fn open_received(path: &Path) -> Result<File> {
    let missing = || Error::new(format!("temporary file '{}' does not exist", path.display()));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, FileMode::empty()).map_err(|_| missing())?);
    if !file.metadata()?.is_file() {
        return Err(missing());
    }
    Ok(file)
}

fn import(
    task: &Task,
    received: &Path,
    mut file: File,
    target: &Target,
    checksum: Option<&Checksum>,
    node: &str,
) -> Result<()> {
    let (source, place) = (received.display(), target.path());
    task.log(format!("starting file import from: {source}"));
    let mut incoming = Incoming::create(target)?;
    let size = file.metadata()?.len();
    task.log(format!("target node: {node}"));
    task.log(format!("target file: {}", place.display()));
    task.log(format!("file size is: {size}"));
    // What is verified is the copy: nobody else can change it any more.
    copy(&mut file, &mut incoming.file).context(|| "import failed")?;
    if let Some(checksum) = checksum {
        checksum.verify(incoming.path(), &mut |line| task.log(line))?;
    }
    incoming.place()?;
    task.log("finished file import successfully");
    Ok(())
}
