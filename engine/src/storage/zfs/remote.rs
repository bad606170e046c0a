//! Commands on the machine that has the pool, by SSH with the key `/etc/pve/priv/zfs/PORTAL_id_rsa`.
//! (PVE: pve-storage PVE/Storage/ZFSPlugin.pm, zfs_request)
//!
//! SSH hands its arguments to a shell of the other machine, so every word is refused that a shell could read as more
//! than a word.

use crate::storage::driver::Storage;
use crate::storage::iscsi::{place, portal_parts};
use crate::tool::Tool;
use crate::{Result, bail};
use std::time::Duration;

/// How long the other machine may take for one command.
const ANSWER: Duration = Duration::from_secs(60);

/// Refuses a word that is more than a word to a shell.
fn check_word(word: &str) -> Result<&str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+".contains(c);
    if word.is_empty() || !word.chars().all(allowed) {
        bail!("'{}' cannot be used on another machine", word.escape_debug());
    }
    Ok(word)
}

/// A command of the other machine, ready to run.
pub(super) fn command(storage: &Storage, words: &[&str]) -> Result<Tool> {
    let (portal, _) = place(storage)?;
    let (host, _) = portal_parts(portal)?;
    let key = storage.ctx.root.etc_pve(&format!("priv/zfs/{portal}_id_rsa"));
    let mut tool = Tool::new("ssh")
        .args(["-o", "BatchMode=yes", "-i", &key.to_string_lossy(), "--", &format!("root@{host}")])
        .within(ANSWER);
    for word in words {
        tool = tool.arg(check_word(word)?);
    }
    Ok(tool)
}

/// Runs a command there and answers what it printed.
pub(super) fn run(storage: &Storage, words: &[&str]) -> Result<String> {
    command(storage, words)?.read(storage.ctx)
}

/// The text of a file there.
pub(super) fn read_file(storage: &Storage, path: &str) -> Result<String> {
    run(storage, &["cat", path])
}

/// Replaces the text of a file there.
pub(super) fn write_file(storage: &Storage, path: &str, text: &str) -> Result<()> {
    // What tee prints is the text again, which nobody reads.
    command(storage, &["tee", path])?.input(text).run(storage.ctx)
}
