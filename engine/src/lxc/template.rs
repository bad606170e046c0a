//! Unpacking a template into a container's root.
//!
//! The system's tar does it, in a user namespace with the container's ids, so that files get the right owners and the
//! archive can never do more than the container may. tar itself refuses `..` in names, strips leading slashes and makes
//! links to other places last; an archive that tries is an error. Device nodes below `/dev` are left out.
//! (PVE: LXC/Create.pm, restore_tar_archive)

use super::idmap::IdMap;
use crate::task::abort;
use crate::{Error, Result, error::ResultExt};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// What templates are packed with, by the end of their names.
const COMPRESSIONS: [(&str, Option<&str>); 9] = [
    (".tar", None),
    (".tar.gz", Some("-z")),
    (".tgz", Some("-z")),
    (".tar.bz2", Some("-j")),
    (".tar.xz", Some("-J")),
    (".txz", Some("-J")),
    (".tar.lzo", Some("--lzop")),
    (".tar.zst", Some("--zstd")),
    (".tzst", Some("--zstd")),
];

/// What is kept of the files.
const TAR_FLAGS: [&str; 12] = [
    "--one-file-system",
    "-p",
    "--sparse",
    "--numeric-owner",
    "--acls",
    "--xattrs",
    "--xattrs-include=user.*",
    "--xattrs-include=security.capability",
    "--warning=no-file-ignored",
    "--warning=no-xattr-write",
    "--totals",
    "--skip-old-files",
];

/// How a file's name says it is packed.
pub fn compression(name: &str) -> Result<Option<&'static str>> {
    let known = COMPRESSIONS.iter().find(|(end, _)| name.ends_with(end));
    known.map(|(_, flag)| *flag).ok_or_else(|| {
        let packed = name.rsplit_once(".tar.").map(|(_, end)| end);
        match packed {
            Some(end) => Error::new(format!("unrecognized compression format: .{end}")),
            None => Error::new(format!("file does not look like a template archive: {name}")),
        }
    })
}

/// Unpacks an archive into a directory. What tar says goes to `log`.
pub fn unpack(archive: &Path, root: &Path, map: &IdMap, log: impl Fn(&str)) -> Result<()> {
    let compression = compression(&archive.to_string_lossy())?;
    let input = File::open(archive).context(|| format!("unable to open '{}'", archive.display()))?;
    let namespace = map.namespace()?;
    let mut command = Command::new("tar");
    command.args(["-x", "-f", "-"]).args(compression).args(TAR_FLAGS).arg("-C").arg(root);
    command.args(["--anchored", "--exclude", "./dev/*", "--exclude", "dev/*"]);
    command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped()).env("LC_ALL", "C").process_group(0);
    let entered = namespace.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: between fork and exec only system calls are made, with a descriptor that outlives them.
    unsafe { command.pre_exec(move || entered.map_or(Ok(()), enter).and_then(|()| end_with_parent())) };
    let mut child = command.spawn().context(|| "unable to start 'tar'")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let errors = child.stderr.take().expect("standard error is a pipe");
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(errors).lines().map_while(|line| line.ok()) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let mut last = String::new();
    let outcome = loop {
        match receiver.recv_timeout(std::time::Duration::from_millis(100)) {
            Ok(line) => {
                log(&line);
                if !line.starts_with("Total bytes") && !line.contains("Exiting with failure") {
                    last = line;
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break Ok(()),
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                if let Err(error) = abort::check() {
                    break Err(error);
                }
            }
        }
    };
    if outcome.is_err() {
        crate::process::ProcessId::of(child.id()).inspect(|tar| tar.signal_group(rustix::process::Signal::KILL));
    }
    let status = child.wait().context(|| "waiting for 'tar'")?;
    // The reader ends with the pipe and returns nothing.
    let _ = reader.join();
    outcome?;
    if status.success() {
        return Ok(());
    }
    // tar tells a short write without its reason, and a full volume is the only one on a local file system.
    if last.contains("Wrote only") {
        last += " (No space left on device)";
    }
    Err(Error::new(format!("unable to extract archive '{}': {last}", archive.display())))
}

/// Becomes root of a user namespace.
fn enter(namespace: i32) -> std::io::Result<()> {
    let check = |result: i32| if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
    // SAFETY: plain system calls of a process that has just one thread and no state to lose.
    unsafe {
        check(libc::setns(namespace, libc::CLONE_NEWUSER))?;
        check(libc::setgroups(0, std::ptr::null()))?;
        check(libc::setresgid(0, 0, 0))?;
        check(libc::setresuid(0, 0, 0))
    }
}

/// A killed task must not leave tar at work; becoming another user would clear this, so it comes last.
fn end_with_parent() -> std::io::Result<()> {
    // SAFETY: a plain system call about this process alone.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn compression_is_told_by_the_name() {
        assert_eq!(compression("/x/debian-12.tar.zst").unwrap(), Some("--zstd"));
        assert_eq!(compression("busybox.tar").unwrap(), None);
        assert_eq!(compression("a.tar.rar").unwrap_err().message(), "unrecognized compression format: .rar");
        assert!(compression("a.iso").unwrap_err().message().starts_with("file does not look like a template archive"));
    }

    #[test]
    fn archives_that_try_to_leave_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (source, root) = (directory.path().join("source"), directory.path().join("root"));
        fs::create_dir_all(&source).unwrap();
        fs::create_dir_all(&root).unwrap();
        fs::write(directory.path().join("evil"), "x").unwrap();
        let archive = directory.path().join("t.tar");
        let packed =
            Command::new("tar").arg("-P").arg("-cf").arg(&archive).arg("-C").arg(&source).arg("../evil").status();
        assert!(packed.unwrap().success());
        fs::remove_file(directory.path().join("evil")).unwrap();
        let error = unpack(&archive, &root, &IdMap::default(), |_| {}).unwrap_err();
        assert!(error.message().contains("contains '..'"), "{error}");
        assert!(!directory.path().join("evil").exists());
    }
}
