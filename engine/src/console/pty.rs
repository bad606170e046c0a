//! A program on a terminal of its own.

use crate::{Error, Result, error::ResultExt};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

/// A running program and the side of its terminal that we hold.
pub struct Pty {
    /// Reads what the program prints, writes what it reads.
    pub master: File,
    child: Child,
}

impl Pty {
    /// Starts a program. Of our environment it gets only what a login needs.
    pub fn start(command: &[String]) -> Result<Self> {
        let (program, arguments) = command.split_first().ok_or_else(|| Error::new("no program for the terminal"))?;
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        // It is to become the program's own terminal, not ours.
        let slave =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(&*name.to_string_lossy())?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("TERM", "xterm-256color").env("PWD", "/").current_dir("/");
        for name in ["PATH", "HOME", "USER", "LANG", "LANGUAGE", "PVE_ROOT", "PVE_NODENAME", "TZ"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let terminal = slave.as_raw_fd();
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
        // SAFETY: the closure runs between fork and exec and calls only setsid and ioctl, which are safe there; the
        // terminal is open in the parent until after the spawn.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(BorrowedFd::borrow_raw(terminal))?;
                Ok(())
            });
        }
        let child = command.spawn().context(|| format!("unable to start '{program}'"))?;
        let pty = Pty { master: File::from(master), child };
        pty.resize(80, 24);
        Ok(pty)
    }

    /// Tells the program how large its terminal is.
    pub fn resize(&self, columns: u16, rows: u16) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        // A terminal whose program has ended needs no size.
        let _ = tcsetwinsize(self.master.as_fd(), size);
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // The terminal hangs up when the last descriptor closes; programs that mind nothing of that are ended.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::HUP);
        }
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
