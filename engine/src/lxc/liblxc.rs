//! The border to liblxc: the only place that knows its C interface.
//!
//! [`Runtime`] speaks of containers in our words; [`Liblxc`] is the real one. liblxc forks when it enters a container: that
//! must come from a task or tool process of its own, never from a daemon with other work in hand.

use super::library::{self, Functions};
use crate::{Error, Result, Vmid, error::ResultExt};
use lxc_sys::{lxc_attach_command_t, lxc_attach_options_t, lxc_container};
use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What can be done to containers.
pub trait Runtime {
    /// Starts a container whose configuration lies in its directory; returns when its init runs. The monitor is
    /// nobody's child, and lives in the mount namespace of the calling thread but in control groups of its own.
    fn start(&self, vmid: Vmid) -> Result<()>;
    /// Ends all processes of a container at once.
    fn kill(&self, vmid: Vmid) -> Result<()>;
    /// Asks the container's init to shut down and waits; false when it still runs after that.
    fn shutdown(&self, vmid: Vmid, patience: Duration) -> Result<bool>;
    /// Stops all processes of a container where they are.
    fn freeze(&self, vmid: Vmid) -> Result<()>;
    /// Lets a frozen container go on.
    fn thaw(&self, vmid: Vmid) -> Result<()>;
    /// Starts a program in a running container, on the caller's standard streams, and gives its process number.
    fn attach(&self, vmid: Vmid, attach: &Attach) -> Result<i32>;
    /// Joins the caller's terminal with one of the container's until the user leaves.
    fn console(&self, vmid: Vmid, terminal: Terminal, escape: u8) -> Result<()>;
}

/// A program to run in a container.
#[derive(Debug, Clone)]
pub struct Attach {
    /// Program and arguments; empty means root's shell.
    pub command: Vec<String>,
    /// Whether it sees the caller's environment.
    pub keep_environment: bool,
    /// Whether it gets a terminal of its own, so that the caller's cannot be taken over from inside.
    pub own_terminal: bool,
}

/// Which terminal of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Terminal {
    /// Any free `ttyN`.
    Any,
    /// `/dev/console`.
    Console,
}

/// The real thing.
#[derive(Debug, Clone)]
pub struct Liblxc {
    path: PathBuf,
}

impl Liblxc {
    /// Containers whose directories lie below `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Liblxc { path: path.into() }
    }

    fn open(&self, vmid: Vmid) -> Result<Handle> {
        Handle::open(&self.path, vmid)
    }
}

/// A reference that liblxc counts.
struct Handle {
    library: &'static Functions,
    container: *mut lxc_container,
}

/// Calls a function of the container's table.
macro_rules! call {
    ($handle:expr, $function:ident $(, $argument:expr)*) => {{
        let container = $handle.container;
        // SAFETY: the handle owns a reference, so the table behind it is valid, and liblxc fills all its entries.
        let function = unsafe { (*container).$function };
        let function = function.ok_or_else(|| Error::new(concat!("liblxc has no function ", stringify!($function))))?;
        // SAFETY: the arguments are plain values or point to data that outlives the call.
        unsafe { function(container $(, $argument)*) }
    }};
}

impl Handle {
    fn open(path: &Path, vmid: Vmid) -> Result<Self> {
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::new("path of containers holds a NUL"));
        let (name, path) = (text(vmid.to_string().as_bytes())?, text(path.as_os_str().as_bytes())?);
        let library = library::functions()?;
        // SAFETY: both are NUL-terminated texts that liblxc copies.
        let container = unsafe { (library.container_new)(name.as_ptr(), path.as_ptr()) };
        if container.is_null() {
            return Err(Error::new(format!("liblxc cannot read the configuration of CT {vmid}")));
        }
        Ok(Handle { library, container })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the reference is ours and is not used after this.
        unsafe { (self.library.container_put)(self.container) };
    }
}

/// Resets what Rust's runtime has changed and programs of containers must not inherit.
fn default_broken_pipe() {
    // SAFETY: sets a default disposition; no handler of ours is involved.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

fn ignore_broken_pipe() {
    // SAFETY: sets a disposition without a handler, the one that Rust's runtime starts with.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

impl Runtime for Liblxc {
    fn start(&self, vmid: Vmid) -> Result<()> {
        // liblxc forks several times and moves its caller into the control groups of the monitor, which lives on as a
        // copy of the caller; so it is called by a small program that has nothing but this to do. (liblxc:
        // lxccontainer.c, do_lxcapi_start; cgroups/cgfsng.c, cgfsng_monitor_enter) What it says is in the log.
        let mut command = Command::new("lxc-start");
        command.arg("-P").arg(&self.path).args(["-n", &vmid.to_string(), "-d"]);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        match status.context(|| "unable to start 'lxc-start'")?.success() {
            true => Ok(()),
            false => Err(Error::new(format!("startup for container '{vmid}' failed"))),
        }
    }

    fn kill(&self, vmid: Vmid) -> Result<()> {
        let handle = self.open(vmid)?;
        if call!(handle, stop) { Ok(()) } else { Err(Error::new("container did not stop")) }
    }

    fn shutdown(&self, vmid: Vmid, patience: Duration) -> Result<bool> {
        let handle = self.open(vmid)?;
        let seconds = c_int::try_from(patience.as_secs()).unwrap_or(c_int::MAX);
        Ok(call!(handle, shutdown, seconds))
    }

    fn freeze(&self, vmid: Vmid) -> Result<()> {
        let handle = self.open(vmid)?;
        if call!(handle, freeze) { Ok(()) } else { Err(Error::new(format!("unable to freeze CT {vmid}"))) }
    }

    fn thaw(&self, vmid: Vmid) -> Result<()> {
        let handle = self.open(vmid)?;
        if call!(handle, unfreeze) { Ok(()) } else { Err(Error::new(format!("unable to thaw CT {vmid}"))) }
    }

    fn attach(&self, vmid: Vmid, attach: &Attach) -> Result<i32> {
        let handle = self.open(vmid)?;
        let words: Vec<CString> = attach
            .command
            .iter()
            .map(|word| CString::new(word.as_str()).map_err(|_| Error::new("command holds a NUL")))
            .collect::<Result<_>>()?;
        let mut pointers: Vec<*mut c_char> = words.iter().map(|word| word.as_ptr().cast_mut()).collect();
        pointers.push(std::ptr::null_mut());
        let mut command = lxc_attach_command_t { program: pointers[0], argv: pointers.as_mut_ptr() };
        let mut options = attach_options(attach);
        let (function, payload): (lxc_sys::lxc_attach_exec_t, *mut std::ffi::c_void) = if words.is_empty() {
            (handle.library.attach_run_shell, std::ptr::null_mut())
        } else {
            (handle.library.attach_run_command, (&raw mut command).cast())
        };
        let mut pid = -1;
        default_broken_pipe();
        let result = call!(handle, attach, function, payload, &raw mut options, &raw mut pid);
        ignore_broken_pipe();
        if result == 0 && pid > 0 { Ok(pid) } else { Err(Error::new(format!("unable to enter CT {vmid}"))) }
    }

    fn console(&self, vmid: Vmid, terminal: Terminal, escape: u8) -> Result<()> {
        let handle = self.open(vmid)?;
        let number = if terminal == Terminal::Console { 0 } else { -1 };
        match call!(handle, console, number, 0, 1, 2, c_int::from(escape)) {
            0 => Ok(()),
            _ => Err(Error::new(format!("unable to open a console of CT {vmid}"))),
        }
    }
}

impl Liblxc {
    /// Sets a value of a running container's control group, such as `devices.allow`.
    pub fn set_limit(&self, vmid: Vmid, key: &str, value: &str) -> Result<()> {
        let handle = self.open(vmid)?;
        let text = |text: &str| CString::new(text).map_err(|_| Error::new("limit holds a NUL"));
        let (name, wanted) = (text(key)?, text(value)?);
        if call!(handle, set_cgroup_item, name.as_ptr(), wanted.as_ptr()) {
            return Ok(());
        }
        Err(Error::new(format!("unable to set '{key}' of CT {vmid} to '{value}'")))
    }
}

/// liblxc's own defaults, with our wishes. (liblxc: attach_options.h, LXC_ATTACH_OPTIONS_DEFAULT)
fn attach_options(attach: &Attach) -> lxc_attach_options_t {
    // SAFETY: a structure of numbers and pointers; all zero is a valid value of each.
    let mut options: lxc_attach_options_t = unsafe { std::mem::zeroed() };
    let mut flags = lxc_sys::LXC_ATTACH_DEFAULT;
    if attach.own_terminal {
        flags |= lxc_sys::LXC_ATTACH_TERMINAL;
    }
    options.attach_flags = flags.cast_signed();
    options.namespaces = -1;
    options.personality = lxc_sys::LXC_ATTACH_DETECT_PERSONALITY.into();
    options.uid = lxc_sys::uid_t::MAX;
    options.gid = lxc_sys::gid_t::MAX;
    options.env_policy = if attach.keep_environment {
        lxc_sys::lxc_attach_env_policy_t_LXC_ATTACH_KEEP_ENV
    } else {
        lxc_sys::lxc_attach_env_policy_t_LXC_ATTACH_CLEAR_ENV
    };
    (options.stdin_fd, options.stdout_fd, options.stderr_fd) = (0, 1, 2);
    options.log_fd = -libc::EBADF;
    options
}
