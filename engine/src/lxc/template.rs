//! Unpacking a template into a container's root.
//!
//! The system's tar does it, in a user namespace with the container's ids, so that files get the right owners and the
//! archive can never do more than the container may. tar itself refuses `..` in names, strips leading slashes and makes
//! links to other places last; an archive that tries is an error. Device nodes below `/dev` are left out.
//! (PVE: LXC/Create.pm, restore_tar_archive)

use super::idmap::IdMap;
use crate::storage::copy::Pace;
use crate::task::abort;
use crate::{Error, Result, error::ResultExt};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

/// Where the files of a new container come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Archive {
    /// A file of a storage.
    File(PathBuf),
    /// What a person pipes into the tool: plain or packed, which its first bytes tell.
    StandardInput,
}

impl std::fmt::Display for Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Archive::File(path) => write!(f, "'{}'", path.display()),
            Archive::StandardInput => write!(f, "from STDIN"),
        }
    }
}

/// What packed streams begin with.
const FIRST_BYTES: [(&[u8], &str); 5] = [
    (b"\x1f\x8b", "-z"),
    (b"BZh", "-j"),
    (b"\xfd7zXZ\0", "-J"),
    (b"\x89LZO\0", "--lzop"),
    (b"\x28\xb5\x2f\xfd", "--zstd"),
];

/// How much is copied at once.
const LARGEST_CHUNK: u64 = 256 << 10;

/// As many bytes tell how a stream is packed.
const TELLING: u64 = 6;

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

/// Unpacks an archive into a directory, at most `limit` KiB of it per second. What tar says goes to `log`.
pub fn unpack(archive: &Archive, root: &Path, map: &IdMap, limit: Option<u64>, log: impl Fn(&str)) -> Result<()> {
    let (input, compression) = match archive {
        Archive::File(path) => {
            let input = File::open(path).context(|| format!("unable to open '{}'", path.display()))?;
            (input, compression(&path.to_string_lossy())?)
        }
        Archive::StandardInput => (std::io::stdin().as_fd().try_clone_to_owned()?.into(), None),
    };
    if limit.is_none() && matches!(archive, Archive::File(_)) {
        return run_tar(archive, compression, root, map, input.into(), |_| Ok(None), log);
    }
    let mut start = Vec::new();
    (&input).take(TELLING).read_to_end(&mut start).context(|| "unable to read the archive")?;
    let packed = FIRST_BYTES.iter().find(|(bytes, _)| start.starts_with(bytes)).map(|(_, flag)| *flag);
    let compression = if *archive == Archive::StandardInput { packed } else { compression };
    run_tar(archive, compression, root, map, Stdio::piped(), |child| feed(child, start, input, limit).map(Some), log)
}

/// Lets a thread copy to tar. It ends with the archive or with tar, so it may be waited for when tar has ended.
fn feed(child: &mut Child, start: Vec<u8>, mut input: File, limit: Option<u64>) -> Result<JoinHandle<()>> {
    let output = child.stdin.take().expect("standard input is a pipe");
    let chunk = limit.map_or(LARGEST_CHUNK, |kib| kib.saturating_mul(256).clamp(4096, LARGEST_CHUNK));
    let mut pace = Pace::new(limit.map(|kib| kib.saturating_mul(1024)));
    let mut copy = move || -> Result<()> {
        (&output).write_all(&start)?;
        let mut buffer = vec![0; chunk as usize];
        loop {
            let mut both = [PollFd::new(&input, PollFlags::IN), PollFd::new(&output, PollFlags::empty())];
            poll(&mut both, None)?;
            if both[1].revents().contains(PollFlags::ERR) {
                return Ok(());
            }
            let count = input.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            (&output).write_all(&buffer[..count])?;
            pace.moved(count as u64)?;
        }
    };
    // Whatever ends it early is told by tar, which misses the rest.
    Ok(std::thread::Builder::new().spawn(move || drop(copy()))?)
}

fn run_tar(
    archive: &Archive,
    compression: Option<&str>,
    root: &Path,
    map: &IdMap,
    input: Stdio,
    started: impl FnOnce(&mut Child) -> Result<Option<JoinHandle<()>>>,
    log: impl Fn(&str),
) -> Result<()> {
    let namespace = map.namespace()?;
    let mut command = Command::new("tar");
    command.args(["-x", "-f", "-"]).args(compression).args(TAR_FLAGS).arg("-C").arg(root);
    command.args(["--anchored", "--exclude", "./dev/*", "--exclude", "dev/*"]);
    command.stdin(input).stdout(Stdio::null()).stderr(Stdio::piped()).env("LC_ALL", "C").process_group(0);
    let entered = namespace.as_ref().map(AsRawFd::as_raw_fd);
    // SAFETY: between fork and exec only system calls are made, with a descriptor that outlives them.
    unsafe { command.pre_exec(move || entered.map_or(Ok(()), enter).and_then(|()| end_with_parent())) };
    let mut child = command.spawn().context(|| "unable to start 'tar'")?;
    let feeder = started(&mut child);
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
    // These end with their pipes and return nothing.
    let _ = reader.join();
    let _ = feeder?.map(JoinHandle::join);
    outcome?;
    if status.success() {
        return Ok(());
    }
    // tar tells a short write without its reason, and a full volume is the only one on a local file system.
    if last.contains("Wrote only") {
        last += " (No space left on device)";
    }
    Err(Error::new(format!("unable to extract archive {archive}: {last}")))
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
        let error = unpack(&Archive::File(archive), &root, &IdMap::default(), None, |_| {}).unwrap_err();
        assert!(error.message().contains("contains '..'"), "{error}");
        assert!(!directory.path().join("evil").exists());
    }
}
