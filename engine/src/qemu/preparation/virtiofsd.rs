//! Servers of shared directories, one process each, which end with QEMU. (PVE: qemu-server Virtiofs.pm, start_virtiofsd)
//!
//! Debian 13 has the server in Rust that PVE has; Debian 12 has QEMU's own, with options of another shape. That one is
//! not told to write to the system log: its filter of system calls would kill it there.

use super::super::command_line::{shared_path, shares};
use super::super::config::{Properties, Vm};
use super::super::{files, scope};
use crate::mapping::{Kind, Mappings};
use crate::{Error, Result, Task, error::ResultExt};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const SERVER: &str = "/usr/libexec/virtiofsd";
const SERVER_OF_QEMU: &str = "/usr/lib/qemu/virtiofsd";

/// A server that waits for QEMU.
pub struct Share {
    /// Its socket's name.
    pub path: PathBuf,
    /// The socket; as long as it is open, QEMU waits for the server.
    pub socket: UnixListener,
}

/// Starts the servers of all directories of a VM.
pub fn start_all(task: &Task, vm: &Vm) -> Result<Vec<Share>> {
    let wanted = shares(vm)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let ctx = task.ctx;
    let mappings = Mappings::load(ctx, &[Kind::Directory])?;
    let directory = files::directory(ctx).join("virtiofsd");
    fs::create_dir_all(&directory).context(|| format!("unable to create '{}'", directory.display()))?;
    let mut started: Vec<Share> = Vec::new();
    for (number, options) in wanted {
        let name = options.text("dirid").unwrap_or_default();
        let shared = shared_path(&mappings, &ctx.node.to_string(), &name)?;
        let path = directory.join(format!("vm{}-fs{number}", vm.vmid));
        let share = start(task, vm, number, &options, &shared, path);
        match share {
            Ok(share) => started.push(share),
            Err(error) => {
                // Servers that nobody has connected to end when their sockets are closed.
                let removed = started.iter().map(|share| fs::remove_file(&share.path));
                let failures: Vec<Error> = removed.filter_map(|done| done.err().map(Error::from)).collect();
                return Err(error.with_cleanup_failures(&failures));
            }
        }
    }
    Ok(started)
}

fn start(task: &Task, vm: &Vm, number: u32, options: &Properties, shared: &str, path: PathBuf) -> Result<Share> {
    if path.exists() {
        fs::remove_file(&path).context(|| format!("unable to remove '{}'", path.display()))?;
    }
    let socket = UnixListener::bind(&path).context(|| "cannot create socket".to_owned())?;
    let descriptor = socket.as_raw_fd();
    let mut words = scope::server_prefix(task.ctx, vm.vmid, &format!("virtiofs{number}"));
    words.extend(command(options, shared, descriptor, vm.windows() > 0)?);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: the closure runs between fork and exec and calls only setsid and fcntl, which are safe there; the
    // descriptor stays open in the parent until after the spawn.
    unsafe {
        command.pre_exec(move || {
            libc::setsid();
            if libc::fcntl(descriptor, libc::F_SETFD, 0) < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn().context(|| "could not fork to start virtiofsd".to_owned())?;
    Ok(Share { path, socket })
}

fn command(options: &Properties, shared: &str, descriptor: i32, is_windows: bool) -> Result<Vec<String>> {
    if Path::new(SERVER).is_file() {
        return Ok(of_today(options, shared, descriptor, is_windows));
    }
    if Path::new(SERVER_OF_QEMU).is_file() {
        return of_qemu(options, shared, descriptor);
    }
    Err(Error::new("virtiofsd is not installed. To use virtio-fs, install virtiofsd via apt."))
}

fn of_today(options: &Properties, shared: &str, descriptor: i32, is_windows: bool) -> Vec<String> {
    let mut words = vec![SERVER.to_owned(), format!("--fd={descriptor}"), format!("--shared-dir={shared}")];
    let mut add = |is_wanted: bool, word: &str| {
        if is_wanted {
            words.push(word.to_owned());
        }
    };
    add(options.is_on("expose-xattr"), "--xattr");
    add(options.is_on("expose-acl"), "--posix-acl");
    add(true, "--announce-submounts");
    add(options.is_on("direct-io"), "--allow-direct-io");
    if let Some(cache) = options.text("cache") {
        add(true, &format!("--cache={cache}"));
    }
    add(is_windows, "--inode-file-handles=prefer");
    add(true, "--syslog");
    words
}

fn of_qemu(options: &Properties, shared: &str, descriptor: i32) -> Result<Vec<String>> {
    let mut words = vec![SERVER_OF_QEMU.to_owned(), "-f".into(), format!("--fd={descriptor}")];
    let mut add = |is_wanted: bool, word: &str| {
        if is_wanted {
            words.extend(["-o".to_owned(), word.to_owned()]);
        }
    };
    add(true, &format!("source={shared}"));
    add(options.is_on("expose-xattr") || options.is_on("expose-acl"), "xattr");
    add(options.is_on("expose-acl"), "posix_acl");
    add(true, "announce_submounts");
    add(options.is_on("direct-io"), "allow_direct_io");
    match options.text("cache").as_deref() {
        Some("never") => add(true, "cache=none"),
        Some("metadata") => {
            return Err(Error::new("virtiofs: 'cache=metadata' needs the package virtiofsd of Debian 13"));
        }
        Some(cache) => add(true, &format!("cache={cache}")),
        None => {}
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: &str) -> Properties {
        Properties::parse("pve-qm-virtiofs", "virtiofs0", text).unwrap()
    }

    #[test]
    fn both_servers_are_told_the_same() {
        let all = options("share,cache=never,direct-io=1,expose-acl=1,expose-xattr=1");
        assert_eq!(
            of_today(&all, "/srv", 7, true).join(" "),
            "/usr/libexec/virtiofsd --fd=7 --shared-dir=/srv --xattr --posix-acl --announce-submounts \
             --allow-direct-io --cache=never --inode-file-handles=prefer --syslog"
        );
        assert_eq!(
            of_qemu(&all, "/srv", 7).unwrap().join(" "),
            "/usr/lib/qemu/virtiofsd -f --fd=7 -o source=/srv -o xattr -o posix_acl -o announce_submounts \
             -o allow_direct_io -o cache=none"
        );
        assert!(of_qemu(&options("share,cache=metadata"), "/srv", 7).is_err());
    }
}
