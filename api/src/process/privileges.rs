//! From root to `www-data`, and what has to be set before.

use engine::{Error, Result};
use std::ffi::CString;

/// Who the front server runs as, and whose requests the privileged daemon takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Account {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
}

/// The account `www-data`.
pub fn www_data() -> Result<Account> {
    let missing = || Error::new("there is no user 'www-data' on this system");
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let line = passwd.lines().find(|line| line.starts_with("www-data:")).ok_or_else(missing)?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    match (fields.next(), fields.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => Ok(Account { uid, gid }),
        _ => Err(missing()),
    }
}

/// Whether this process may do everything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives root away for good, in all threads.
pub fn drop_to(account: Account) -> Result<()> {
    let failed = |what: &str| Error::new(format!("{what} failed: {}", std::io::Error::last_os_error()));
    let name = CString::new("www-data").expect("no zero byte inside");
    // SAFETY: plain system calls of the C library, which applies them to all threads; the name is a C string that outlives
    // the call. Each result is looked at, so the process never goes on with more rights than it should have.
    unsafe {
        if libc::initgroups(name.as_ptr(), account.gid) != 0 {
            return Err(failed("initgroups"));
        }
        if libc::setresgid(account.gid, account.gid, account.gid) != 0 {
            return Err(failed("setgid"));
        }
        if libc::setresuid(account.uid, account.uid, account.uid) != 0 {
            return Err(failed("setuid"));
        }
    }
    Ok(())
}

/// Keeps the allocator from reserving memory for each thread, and allows as many open files as the system does.
pub fn tune() {
    // SAFETY: mallopt only sets a number; it is called before the first thread is started.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
    }
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Gives a path to an account; only root can, and only root needs to.
pub fn give(path: &std::path::Path, uid: u32, gid: u32, mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if is_root() {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    Ok(())
}
