//! Running programs in a container for `pct exec`, `pct enter` and `pct console`.

use super::liblxc::{Attach, Liblxc, Runtime, Terminal};
use super::monitor;
use crate::config::guest::GuestKind;
use crate::{Context, Error, Result, Vmid, bail, guest};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::io::IsTerminal;
use std::sync::atomic::{AtomicI32, Ordering};

/// The program in the container that signals are passed on to; 0 means none. A tool runs one program.
static PROGRAM: AtomicI32 = AtomicI32::new(0);

/// Signals that a user sends to the tool and means for the program.
const PASSED_ON: [i32; 6] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// Runs a command in a running container on the caller's standard streams and gives its exit code; 128 and the signal's
/// number when a signal ended it. An empty command is root's shell.
pub fn run(ctx: &Context, vmid: Vmid, command: &[String], keep_environment: bool) -> Result<i32> {
    assert_running(ctx, vmid)?;
    let own_terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let attach = Attach { command: command.to_vec(), keep_environment, own_terminal };
    let pid = Liblxc::new(monitor::containers(ctx)).attach(vmid, &attach)?;
    PROGRAM.store(pid, Ordering::Relaxed);
    if !own_terminal {
        pass_signals_on();
    }
    let pid = Pid::from_raw(pid).ok_or_else(|| Error::new("liblxc gave no process number"))?;
    let status = loop {
        match waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => break status,
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    PROGRAM.store(0, Ordering::Relaxed);
    let signalled = status.terminating_signal().map(|signal| 128 + signal);
    Ok(status.exit_status().or(signalled).unwrap_or(255))
}

/// Joins the terminal of the caller with one of the container's. `escape` is a letter or `^` and a letter.
pub fn console(ctx: &Context, vmid: Vmid, escape: &str) -> Result<()> {
    assert_running(ctx, vmid)?;
    let part = guest::load(ctx, GuestKind::Lxc, vmid)?.current;
    let letter = escape.trim_start_matches('^').bytes().next().unwrap_or(b'a').to_ascii_lowercase();
    match part.get("cmode").unwrap_or("tty") {
        "shell" => run(ctx, vmid, &[], false).map(drop),
        mode => {
            let terminal = if mode == "console" { Terminal::Console } else { Terminal::Any };
            Liblxc::new(monitor::containers(ctx)).console(vmid, terminal, letter - b'a' + 1)
        }
    }
}

fn assert_running(ctx: &Context, vmid: Vmid) -> Result<()> {
    guest::load(ctx, GuestKind::Lxc, vmid)?;
    if monitor::init(ctx, vmid).is_none() {
        bail!("container '{vmid}' not running!");
    }
    Ok(())
}

fn pass_signals_on() {
    extern "C" fn pass(signal: libc::c_int) {
        let pid = PROGRAM.load(Ordering::Relaxed);
        if pid > 0 {
            // SAFETY: kill is async-signal-safe; the program is our child and not yet waited for.
            unsafe { libc::kill(pid, signal) };
        }
    }
    for signal in PASSED_ON {
        // SAFETY: the handler reads an atomic and makes one system call that is allowed in handlers.
        unsafe { libc::signal(signal, pass as *const () as libc::sighandler_t) };
    }
}
