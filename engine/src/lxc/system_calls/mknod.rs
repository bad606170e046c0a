//! Device nodes that a container may have although its kernel would not let it make them: those that can do no harm.
//!
//! The node is made where the process would have made it, with the rights of the process's user and nothing but the
//! right to make nodes: paths, owners and permissions are the kernel's to judge. (PVE: pve-lxc-syscalld, sys_mknod.rs)

use super::message::{Answer, Call, Message};
use rustix::fs::{Gid, Mode, OFlags, openat};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups};
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Character devices by major and minor number: null, zero, full, random, urandom, tty, console, ptmx.
const HARMLESS: [(u32, u32); 8] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
/// Linux: CAP_MKNOD.
const CAP_MKNOD: u64 = 1 << 27;

/// Who asks.
#[derive(Debug, PartialEq, Eq)]
struct Caller {
    user: u32,
    group: u32,
    groups: Vec<u32>,
    umask: u32,
    may_make_nodes: bool,
}

/// Makes the node, or leaves the call to the kernel, which refuses what a container may not do.
pub fn answer(message: &Message, process: BorrowedFd, memory: BorrowedFd) -> Answer {
    let Call::MakeNode { directory, path, mode, device } = message.call() else { return Answer::Continue };
    if mode & libc::S_IFMT != libc::S_IFCHR || !HARMLESS.contains(&numbers(device)) {
        return Answer::Continue;
    }
    let made = || -> std::io::Result<Answer> {
        let mut status = String::new();
        File::from(inside(process, "status", OFlags::RDONLY)?).read_to_string(&mut status)?;
        let Some(caller) = caller(&status).filter(|caller| caller.may_make_nodes) else {
            return Ok(Answer::Continue);
        };
        let Some(path) = text(memory, path)? else { return Ok(Answer::Failed(libc::ENAMETOOLONG)) };
        let start = directory.map_or("cwd".to_owned(), |number| format!("fd/{number}"));
        let directories = OFlags::PATH | OFlags::DIRECTORY;
        let (root, start) = (inside(process, "root", directories)?, inside(process, &start, directories)?);
        let device = libc::makedev(numbers(device).0, numbers(device).1);
        as_caller(&caller, &root, &start, || {
            // SAFETY: the path is a string that lives until the call returns.
            match unsafe { libc::mknod(path.as_ptr(), mode, device) } {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        })
    };
    made().unwrap_or_else(|error| Answer::Failed(error.raw_os_error().unwrap_or(libc::EPERM)))
}

/// Major and minor number. (Linux: new_decode_dev)
fn numbers(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

/// Something of a process, found in its own directory of `/proc`: the process may have ended, but is no other.
fn inside(process: BorrowedFd, name: &str, flags: OFlags) -> std::io::Result<OwnedFd> {
    Ok(openat(process, name, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// The text at a place of a process's memory; none when it is longer than a path may be.
fn text(memory: BorrowedFd, place: u64) -> std::io::Result<Option<CString>> {
    let memory = File::from(memory.try_clone_to_owned()?);
    let mut bytes = vec![0; libc::PATH_MAX as usize];
    let mut length = 0;
    // What lies behind the end of the text may not be there.
    while length < bytes.len() {
        let page = 4096 - (place.wrapping_add(length as u64) % 4096) as usize;
        let end = bytes.len().min(length + page);
        match memory.read_at(&mut bytes[length..end], place.wrapping_add(length as u64))? {
            0 => return Err(std::io::Error::from_raw_os_error(libc::EFAULT)),
            count => length += count,
        }
        if bytes[..length].contains(&0) {
            let text = std::ffi::CStr::from_bytes_until_nul(&bytes).map_err(std::io::Error::other)?;
            return Ok(Some(text.to_owned()));
        }
    }
    Ok(None)
}

/// Reads `/proc/PID/status`.
fn caller(status: &str) -> Option<Caller> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    // Real, effective, saved, and the one for files.
    let of_files = |name| field(name)?.split_whitespace().nth(3)?.parse().ok();
    let groups = field("Groups")?.split_whitespace().map(|group| group.parse().ok()).collect::<Option<_>>()?;
    let effective = u64::from_str_radix(field("CapEff")?.trim(), 16).ok()?;
    Some(Caller {
        user: of_files("Uid")?,
        group: of_files("Gid")?,
        groups,
        umask: u32::from_str_radix(field("Umask")?.trim(), 8).ok()?,
        may_make_nodes: effective & CAP_MKNOD != 0,
    })
}

/// Does one thing in a process that sees the files as the caller does.
fn as_caller(
    caller: &Caller,
    root: &OwnedFd,
    start: &OwnedFd,
    work: impl Fn() -> std::io::Result<()>,
) -> std::io::Result<Answer> {
    let become_caller = || -> std::io::Result<()> {
        rustix::process::fchdir(root)?;
        rustix::process::chroot(c".")?;
        rustix::process::fchdir(start)?;
        rustix::process::umask(Mode::from_raw_mode(caller.umask));
        set_thread_groups(&caller.groups.iter().map(|group| Gid::from_raw(*group)).collect::<Vec<_>>())?;
        // SAFETY: these change what this process may do, and nothing in memory. They cannot fail for root.
        unsafe {
            libc::setfsgid(caller.group);
            libc::setfsuid(caller.user);
        }
        let only = CapabilitySet::MKNOD;
        set_capabilities(
            None,
            CapabilitySets { effective: only, permitted: only, inheritable: CapabilitySet::empty() },
        )?;
        Ok(())
    };
    // SAFETY: this program has one thread; the child ends without any clean-up of ours.
    match unsafe { libc::fork() } {
        0 => {
            let error = become_caller().and_then(|()| work()).err();
            let number = error.map_or(0, |error| error.raw_os_error().unwrap_or(libc::EPERM));
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(number) }
        }
        -1 => Err(std::io::Error::last_os_error()),
        child => {
            let pid = rustix::process::Pid::from_raw(child);
            let ended = rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
            Ok(match ended.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Answer::Done,
                number => Answer::Failed(number.unwrap_or(libc::EPERM)),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_caller_is_read_from_its_status() {
        let status = "Name:\tmknod\nUmask:\t0022\nUid:\t100000\t100000\t100000\t100005\nGid:\t1\t2\t3\t100006\n\
            Groups:\t100000 100027 \nCapEff:\t0000000008000000\n";
        let groups = vec![100_000, 100_027];
        let wanted = Caller { user: 100_005, group: 100_006, groups, umask: 0o022, may_make_nodes: true };
        assert_eq!(caller(status), Some(wanted));
        assert!(!caller(&status.replace("CapEff:\t0000000008", "CapEff:\t00000000f7")).unwrap().may_make_nodes);
        assert_eq!(caller("Name:\tx\n"), None);
    }

    #[test]
    fn devices_have_two_numbers() {
        assert_eq!(numbers(0x103), (1, 3));
        assert_eq!(numbers(0x0ff0_0302), (3, 0xff02));
    }

    #[test]
    fn texts_end_at_their_end() {
        let memory = File::open("/proc/self/mem").unwrap();
        let path = CString::new("/dev/null").unwrap();
        assert_eq!(text(memory.as_fd(), path.as_ptr() as u64).unwrap(), Some(path));
        let long = vec![b'x'; 5000];
        assert_eq!(text(memory.as_fd(), long.as_ptr() as u64).unwrap(), None);
        assert!(text(memory.as_fd(), 0).is_err());
        assert!(text(memory.as_fd(), u64::MAX).is_err());
    }
}
