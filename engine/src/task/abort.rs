//! Being told to stop: SIGTERM and SIGINT set a flag that long work looks at, so that undo steps still run.
//!
//! This flag is the only state of the whole process: signals have no other address.

use crate::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// From now on SIGTERM and SIGINT set the flag instead of ending the process. Called by task processes only.
pub fn listen() {
    extern "C" fn set(_signal: libc::c_int) {
        STOPPED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        // SAFETY: the handler only stores into an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, set as *const () as libc::sighandler_t) };
    }
}

/// Fails once the process has been told to stop. (PVE: the worker's text on a signal)
pub fn check() -> Result<()> {
    if STOPPED.load(Ordering::Relaxed) { Err(Error::new("received interrupt")) } else { Ok(()) }
}
