//! QEMU as a process, from its command line to the moment when it runs, with its keeper beside it.
//!
//! ```text
//! this process ──fork──> keeper ──fork──> QEMU's first process ──> QEMU, a daemon and the keeper's child
//!                          │ hears how the first one ends: file with QEMU's number, "started"
//!                          └─exec──> pvedaemon keep VMID PID       (see `keeper`)
//! ```
//! The keeper is a fork, not a program of its own, until QEMU runs: a start does not wait for one more program to load.

use super::{files, keeper};
use crate::{Context, Error, Result, Task, Vmid, error::ResultExt, task::abort};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Where QEMU writes what it has to say after its start: to the keeper.
pub const LOG: &str = "/dev/stderr";
/// How often it is asked whether the task is to end, in nanoseconds.
const LOOK: i64 = 50_000_000;

/// QEMU on its way.
pub struct Starting {
    vmid: Vmid,
    keeper: Child,
    /// What QEMU says.
    words: Words,
    /// Gets a byte when QEMU runs, and ends without one when it does not.
    started: File,
}

/// Starts a command that becomes QEMU, which gets these descriptors under their numbers.
pub fn spawn(ctx: &Context, vmid: Vmid, words: &[&str], descriptors: Vec<RawFd>) -> Result<Starting> {
    let (program, arguments) = words.split_first().expect("a plan begins with a program");
    let (said, says) = pipe_with(PipeFlags::CLOEXEC)?;
    let (started, starts) = pipe_with(PipeFlags::CLOEXEC)?;
    let mine = Words::of(&said)?;
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|error| Error::new(error.to_string()));
    let place = |path: PathBuf| text(path.as_os_str().as_bytes());
    let keeper = Keeper {
        program: place(ctx.daemon_program()?)?,
        vmid: text(vmid.to_string().as_bytes())?,
        pid_file: place(files::path(ctx, vmid, "pid"))?,
        mark: place(files::path(ctx, vmid, keeper::MARK))?,
        words: said,
        started: starts,
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(says);
    // SAFETY: what runs between fork and exec are system calls on values made before; the descriptors are open in this
    // process until after the spawn.
    unsafe {
        command.pre_exec(move || {
            libc::umask(0o077);
            rustix::process::setsid()?;
            for descriptor in &descriptors {
                if libc::fcntl(*descriptor, libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            keeper.fork()
        });
    }
    let child = command.spawn().context(|| format!("unable to start '{program}'"))?;
    Ok(Starting { vmid, keeper: child, words: mine, started: started.into() })
}

impl Starting {
    /// Waits until QEMU is ready. What it prints until then goes to the task's log and is the reason of a failure.
    pub fn wait(mut self, task: &Task, timeout: Duration) -> Result<()> {
        let until = Instant::now() + timeout;
        let mut log = |line: &str| task.log(line);
        loop {
            let mut descriptors = vec![PollFd::new(&self.started, PollFlags::IN)];
            if self.words.is_open {
                descriptors.push(PollFd::new(self.words.pipe.get_ref(), PollFlags::IN));
            }
            match poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: LOOK })) {
                Err(rustix::io::Errno::INTR) => continue,
                outcome => outcome?,
            };
            let is_decided = !descriptors[0].revents().is_empty();
            // In this order: what was said before the decision is in the pipe by now.
            self.words.read(&mut log)?;
            if is_decided {
                self.words.finish(&mut log);
                break;
            }
            if Instant::now() >= until || abort::check().is_err() {
                // It may have ended by itself just now; then there is nothing to kill.
                let _ = self.keeper.kill();
                let _ = self.keeper.wait();
                abort::check()?;
                crate::bail!("QEMU did not start within {} seconds", timeout.as_secs());
            }
        }
        if self.started.read(&mut [0])? > 0 {
            return Ok(());
        }
        let exit = self.keeper.wait().context(|| format!("waiting for QEMU of VM {}", self.vmid))?;
        match (exit.code(), self.words.last.as_str()) {
            (Some(code), "") => Err(Error::new(format!("QEMU exited with code {code}"))),
            (Some(code), last) => Err(Error::new(format!("QEMU exited with code {code}: {last}"))),
            (None, _) => Err(Error::new(format!("QEMU was killed ({exit})"))),
        }
    }
}

/// The lines that QEMU prints.
struct Words {
    pipe: BufReader<File>,
    is_open: bool,
    /// The beginning of a line.
    rest: Vec<u8>,
    last: String,
}

impl Words {
    /// A way to read the pipe without waiting that leaves others' ways alone.
    fn of(pipe: &OwnedFd) -> Result<Self> {
        let place = format!("/proc/self/fd/{}", pipe.as_raw_fd());
        let pipe = rustix::fs::open(place, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Words { pipe: BufReader::new(pipe.into()), is_open: true, rest: Vec::new(), last: String::new() })
    }

    /// Reads what there is.
    fn read(&mut self, log: &mut dyn FnMut(&str)) -> Result<()> {
        while self.is_open {
            match self.pipe.read_until(b'\n', &mut self.rest) {
                Ok(_) if self.rest.ends_with(b"\n") => self.line(log),
                Ok(_) => self.is_open = false,
                // What has come of the line stays in the rest.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What was said last may have no end of line.
    fn finish(&mut self, log: &mut dyn FnMut(&str)) {
        if !self.rest.is_empty() {
            self.line(log);
        }
    }

    fn line(&mut self, log: &mut dyn FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.rest);
        log(text.trim_end());
        self.last = text.trim().to_owned();
        self.rest.clear();
    }
}

/// What the keeper needs, made before the fork, after which nothing may be allocated.
struct Keeper {
    program: CString,
    vmid: CString,
    pid_file: CString,
    mark: CString,
    words: OwnedFd,
    started: OwnedFd,
}

impl Keeper {
    /// Makes this process the keeper, and a child of it the one that goes on.
    fn fork(&self) -> std::io::Result<()> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        // SAFETY: as fork(2), without the C library's handlers, which are not for processes like this one.
        match unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) } {
            // Whoever gives up waiting kills the keeper, and QEMU's first process goes with it; the one that stays is a
            // child of that and does not.
            0 => Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?),
            number => {
                let Some(first) = i32::try_from(number).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw) else {
                    return Err(std::io::Error::last_os_error());
                };
                let code = self.keep(first).unwrap_or(libc::EXIT_FAILURE);
                // SAFETY: ends the process and runs nothing of the program it was forked from.
                unsafe { libc::_exit(code) }
            }
        }
    }

    /// Returns only when QEMU does not run: the code to end with.
    fn keep(&self, first: Pid) -> rustix::io::Result<i32> {
        rustix::stdio::dup2_stdin(&self.words)?;
        rustix::stdio::dup2_stdout(&self.started)?;
        let nothing = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty())?;
        rustix::stdio::dup2_stderr(&nothing)?;
        drop(nothing);
        // The descriptors of taps above all are to go when QEMU does.
        // SAFETY: what owns the descriptors in this process never runs again.
        unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0) };
        let status = loop {
            match waitpid(Some(first), WaitOptions::empty()) {
                Err(rustix::io::Errno::INTR) => {}
                outcome => break outcome?.map(|(_, status)| status),
            }
        };
        let code = status.and_then(|status| {
            let killed = || status.terminating_signal().map(|signal| 128 + signal);
            status.exit_status().or_else(killed)
        });
        match code {
            Some(0) => self.become_watcher(),
            code => Ok(code.unwrap_or(libc::EXIT_FAILURE)),
        }
    }

    fn become_watcher(&self) -> rustix::io::Result<i32> {
        let mut number = [0; 16];
        let file = rustix::fs::open(&self.pid_file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let count = rustix::io::read(&file, &mut number[..15])?;
        let digits = number[..count].iter().take_while(|byte| byte.is_ascii_digit()).count();
        number[digits] = 0;
        let create = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let mark = rustix::fs::open(&self.mark, create, Mode::RUSR | Mode::WUSR)?;
        rustix::io::write(&mark, &number[..digits])?;
        rustix::io::write(rustix::stdio::stdout(), b"+")?;
        rustix::stdio::dup2_stdout(rustix::stdio::stderr())?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        // A file system that somebody stood in is not to be kept busy.
        rustix::process::chdir(c"/")?;
        let pid = CStr::from_bytes_until_nul(&number).unwrap_or(c"0");
        let words = [self.program.as_c_str(), c"keep", &self.vmid, pid].map(CStr::as_ptr);
        let words = [words[0], words[1], words[2], words[3], std::ptr::null()];
        // SAFETY: the words are strings that live until the exec, and a null pointer is their end.
        unsafe { libc::execv(words[0], words.as_ptr()) };
        Ok(libc::EXIT_FAILURE)
    }
}
