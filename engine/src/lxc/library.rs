//! liblxc, loaded when it is first needed: it brings a dozen libraries along, and most calls of a tool touch no container.
//!
//! Names and types are those of its header (`lxc-sys`); only the functions that are no entries of a container's table are
//! looked up here.

use crate::{Error, Result};
use libloading::Library;
use lxc_sys::{lxc_attach_exec_t, lxc_container};
use std::ffi::{c_char, c_int, c_void};
use std::sync::OnceLock;

/// The library's name since version 1; its interface only grows.
const FILE: &str = "liblxc.so.1";

/// The functions.
pub struct Functions {
    /// A counted reference to a container: its name, and the directory of all containers.
    pub container_new: unsafe extern "C" fn(*const c_char, *const c_char) -> *mut lxc_container,
    /// Gives a reference back.
    pub container_put: unsafe extern "C" fn(*mut lxc_container) -> c_int,
    /// For a container's `attach`: runs the shell of its root.
    pub attach_run_shell: lxc_attach_exec_t,
    /// For a container's `attach`: runs the `lxc_attach_command_t` behind the pointer.
    pub attach_run_command: lxc_attach_exec_t,
}

/// The functions of the installed library.
///
/// # Errors
/// A node without it, with the loader's reason.
pub fn functions() -> Result<&'static Functions> {
    static LOADED: OnceLock<std::result::Result<Functions, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| load().map_err(|error| error.to_string()));
    loaded.as_ref().map_err(|error| Error::new(format!("containers need liblxc: {error}")))
}

fn load() -> std::result::Result<Functions, libloading::Error> {
    // SAFETY: a library of the distribution, whose constructors expect to run in any program. It stays loaded until the
    // process ends, so what is looked up stays valid, and each type is the header's.
    unsafe {
        let library = std::mem::ManuallyDrop::new(Library::new(FILE)?);
        Ok(Functions {
            container_new: *library.get(b"lxc_container_new\0")?,
            container_put: *library.get(b"lxc_container_put\0")?,
            attach_run_shell: Some(
                *library.get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"lxc_attach_run_shell\0")?,
            ),
            attach_run_command: Some(
                *library.get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"lxc_attach_run_command\0")?,
            ),
        })
    }
}
