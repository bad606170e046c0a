//! Start, stop and replacement of a daemon: its pid file and what it hands to its own next image.
//!
//! A running daemon holds a lock on its pid file, so a stale file never looks like a running daemon. `restart` makes a fresh
//! image of the program serve on the same listening socket, with the same lock, and nobody is refused:
//!
//! - [`Running::replace`] in the same process, after it has finished what it answers; clients wait in the socket's queue.
//!   For a daemon that owns what only one can own, and for one that somebody watches in the foreground.
//! - [`Running::hand_over`] in a process beside it, which accepts whatever comes from then on, while the old one stays as
//!   long as what it answers lasts, such as a console. It goes with the daemon.

use super::command::{Command as Order, Line};
use engine::{Error, Result, ResultExt};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the descriptors that an image hands to the next one: `listener,lock`.
const INHERITED: &str = "FERROVISOR_SOCKETS";
/// Tells a daemon that its starter waits on standard output until it serves.
const STARTER: &str = "FERROVISOR_STARTER";
/// How long `stop` waits for the end, and `restart` for the fresh image.
const STOP: Duration = Duration::from_secs(35);
/// Answers that are not finished after this time are cut off when a daemon ends or starts again.
pub const END: Duration = Duration::from_secs(25);

/// A daemon as others see it.
#[derive(Debug, Clone)]
pub struct Control {
    /// The pid file.
    pub pid_file: PathBuf,
    /// Where messages of a daemon in the background go.
    pub log_file: PathBuf,
    /// The program, as it was found when this process started.
    pub program: PathBuf,
}

/// What a daemon holds from start to end.
#[derive(Debug)]
pub struct Running {
    control: Control,
    lock: File,
    background: bool,
}

impl Control {
    /// Carries out a command; `serve` runs in the process that becomes the daemon.
    ///
    /// # Errors
    /// What the command failed with; tasks are no business of a daemon's control.
    pub fn obey(&self, line: &Line, serve: impl FnOnce() -> Result<()>) -> Result<()> {
        match line.command {
            Order::Start if line.foreground || self.is_started_by_us() => serve(),
            Order::Start => self.start_in_background(),
            Order::Stop => self.stop(),
            Order::Restart if self.restart()? => Ok(()),
            Order::Restart => Err(Error::new("not running")),
            Order::Status => {
                println!("{}", if self.pid().is_some() { "running" } else { "stopped" });
                Ok(())
            }
            Order::Worker | Order::Authenticate => {
                let name = self.program.file_name().unwrap_or_default().to_string_lossy();
                Err(Error::new(format!("{name} has no tasks")))
            }
        }
    }

    /// The pid of the running daemon.
    pub fn pid(&self) -> Option<Pid> {
        let file = File::open(&self.pid_file).ok()?;
        if flock(&file, FlockOperation::NonBlockingLockShared).is_ok() {
            return None;
        }
        let text = fs::read_to_string(&self.pid_file).ok()?;
        text.trim().parse().ok().and_then(Pid::from_raw)
    }

    /// Whether a starter waits for this process to serve.
    pub fn is_started_by_us(&self) -> bool {
        std::env::var_os(STARTER).is_some() || std::env::var_os(INHERITED).is_some()
    }

    /// Starts the daemon in the background with the same arguments; returns when it serves.
    pub fn start_in_background(&self) -> Result<()> {
        if self.pid().is_some() {
            return Ok(());
        }
        let mut command = Command::new(&self.program);
        command.args(std::env::args_os().skip(1)).env(STARTER, "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: setsid is async-signal-safe and touches no memory of ours.
        unsafe { command.pre_exec(|| rustix::process::setsid().map(drop).map_err(Into::into)) };
        wait_until_ready(command)
    }

    /// Ends the daemon and waits for its end. A daemon that does not run is fine.
    pub fn stop(&self) -> Result<()> {
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        kill_process(pid, Signal::TERM)?;
        let deadline = Instant::now() + STOP;
        while self.pid() == Some(pid) {
            if Instant::now() > deadline {
                return Err(Error::new(format!("process {} does not end", pid.as_raw_nonzero())));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Makes a fresh image serve and waits for it; says whether a daemon runs at all.
    pub fn restart(&self) -> Result<bool> {
        let Some(pid) = self.pid() else {
            return Ok(false);
        };
        let written = || fs::metadata(&self.pid_file).and_then(|file| file.modified()).ok();
        let before = written();
        kill_process(pid, Signal::HUP)?;
        let deadline = Instant::now() + STOP;
        // Each image writes its pid when it serves.
        while written() == before || self.pid().is_none() {
            if Instant::now() > deadline {
                return Err(Error::new(format!("process {} has no successor", pid.as_raw_nonzero())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(true)
    }

    /// Becomes the daemon: takes the lock and writes the pid file, or takes over what the last image held.
    pub fn begin(&self) -> Result<Running> {
        let place = || format!("unable to use pid file '{}'", self.pid_file.display());
        let background = std::env::var_os(STARTER).is_some();
        if let Some((_, lock)) = inherited() {
            return Ok(Running { control: self.clone(), lock: lock.into(), background });
        }
        if let Some(parent) = self.pid_file.parent() {
            fs::create_dir_all(parent).context(place)?;
        }
        let mut options = OpenOptions::new();
        let lock = options.write(true).create(true).truncate(false).mode(0o644).open(&self.pid_file).context(place)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::new("already running".to_owned()))?;
        let running = Running { control: self.clone(), lock, background };
        running.write_pid()?;
        Ok(running)
    }
}

/// Starts a daemon whose standard output is a pipe and waits until it serves.
fn wait_until_ready(mut command: Command) -> Result<()> {
    let program = command.get_program().to_owned();
    let mut child = command.spawn().context(|| format!("unable to start '{}'", program.display()))?;
    let mut text = String::new();
    child.stdout.take().expect("standard output is a pipe").read_to_string(&mut text)?;
    if text.trim() == "ready" {
        // One that only stood between is reaped.
        child.try_wait()?;
        return Ok(());
    }
    let status = child.wait()?;
    Err(Error::new(format!("start failed ({status})")))
}

/// Listener and lock of the image before this one.
fn inherited() -> Option<(OwnedFd, OwnedFd)> {
    let text = std::env::var(INHERITED).ok()?;
    let mut numbers = text.split(',').map(|number| number.parse::<RawFd>().ok().filter(|number| *number > 2));
    let (listener, lock) = (numbers.next()??, numbers.next()??);
    // SAFETY: the variable is only set by `Running::replace` and `Running::hand_over` for this very image, with two
    // descriptors that they have kept open for us. Each is made into an owner at most once per place that asks: `begin`
    // takes the lock, `inherited_listener` the listener, and the other one is duplicated below.
    let (listener, lock) = unsafe { (BorrowedFd::borrow_raw(listener), BorrowedFd::borrow_raw(lock)) };
    let close_on_exec = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok();
    Some((close_on_exec(listener)?, close_on_exec(lock)?))
}

/// The listening socket of the image before this one.
pub fn inherited_listener() -> Option<OwnedFd> {
    let (listener, _) = inherited()?;
    Some(listener)
}

impl Running {
    /// In one write and without a moment in which the file is empty.
    fn write_pid(&self) -> Result<()> {
        let text = format!("{}\n", std::process::id());
        let written = self.lock.write_all_at(text.as_bytes(), 0).and_then(|()| self.lock.set_len(text.len() as u64));
        written.context(|| format!("unable to use pid file '{}'", self.control.pid_file.display()))
    }

    /// Tells starter and service manager that requests are answered from now on.
    pub fn ready(&self) -> Result<()> {
        close_inherited();
        self.write_pid()?;
        notify("READY=1");
        if self.background {
            let log = OpenOptions::new().create(true).append(true).mode(0o640).open(&self.control.log_file);
            let silent = OpenOptions::new().write(true).open("/dev/null")?;
            println!("ready");
            std::io::stdout().flush()?;
            rustix::stdio::dup2_stderr(log.as_ref().unwrap_or(&silent))?;
            // Closes the pipe: this is what the starter waits for.
            rustix::stdio::dup2_stdout(&silent)?;
        }
        Ok(())
    }

    /// Runs a fresh image of the program in this process, with the same listening socket.
    pub fn replace(&self, listener: impl AsFd) -> Error {
        let handed = [listener.as_fd(), self.lock.as_fd()];
        for fd in handed {
            if let Err(error) = fcntl_setfd(fd, FdFlags::empty()) {
                return error.into();
            }
        }
        let numbers = format!("{},{}", handed[0].as_raw_fd(), handed[1].as_raw_fd());
        notify("RELOADING=1");
        Command::new(&self.control.program)
            .args(std::env::args_os().skip(1))
            .env(INHERITED, numbers)
            .env_remove(STARTER)
            .exec()
            .into()
    }

    /// Whether a fresh image may serve beside this one: nobody watches this process.
    pub fn may_hand_over(&self) -> bool {
        self.background
    }

    /// Starts a fresh image of the program beside this process, with the same listening socket, and returns when it serves.
    ///
    /// # Errors
    /// An image that does not start; then nothing has changed.
    pub fn hand_over(&self, listener: impl AsFd) -> Result<()> {
        let copy = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let (socket, lock) = (copy(listener.as_fd())?, copy(self.lock.as_fd())?);
        let handed = [socket.as_raw_fd(), lock.as_raw_fd()];
        let mut command = Command::new(&self.control.program);
        command.args(std::env::args_os().skip(1)).env(STARTER, "1");
        command.env(INHERITED, format!("{},{}", handed[0], handed[1])).stdin(Stdio::null()).stdout(Stdio::piped());
        // SAFETY: between fork and exec only system calls are made, which touch no memory of ours. The first child ends at
        // once, so that the daemon is nobody's child and whoever manages services sees its end.
        unsafe {
            command.pre_exec(move || {
                for number in handed {
                    fcntl_setfd(BorrowedFd::borrow_raw(number), FdFlags::empty())?;
                }
                match libc::syscall(libc::SYS_fork) {
                    -1 => Err(std::io::Error::last_os_error()),
                    0 => rustix::process::setsid().map(drop).map_err(Into::into),
                    _ => libc::_exit(0),
                }
            });
        }
        wait_until_ready(command)
    }

    /// Gives up the pid file after [`Self::hand_over`]: this process ends some time after the daemon does, if not before.
    pub fn retire(self) {
        let Running { control, .. } = self;
        std::thread::spawn(move || {
            while control.pid().is_some() {
                std::thread::sleep(Duration::from_secs(1));
            }
            std::thread::sleep(END);
            std::process::exit(0);
        });
    }

    /// The end: removes the pid file as far as this account may.
    pub fn end(self) {
        notify("STOPPING=1");
        let _ = fs::remove_file(&self.control.pid_file);
    }
}

/// The descriptors that came along have been duplicated; the originals would otherwise be inherited by every child.
fn close_inherited() {
    let Ok(text) = std::env::var(INHERITED) else {
        return;
    };
    for number in text.split(',').filter_map(|number| number.parse::<RawFd>().ok()).filter(|number| *number > 2) {
        // SAFETY: the numbers were handed over for this image alone; everybody who needs them has a duplicate by now, and
        // `ready` is called once.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// A message to the service manager, if there is one.
fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() {
        let _ = socket.send_to(format!("{state}\nMAINPID={}", std::process::id()).as_bytes(), Path::new(&path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stale_pid_files_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let control = Control {
            pid_file: directory.path().join("run/x.pid"),
            log_file: directory.path().join("log"),
            program: "/bin/true".into(),
        };
        assert_eq!(control.pid(), None);
        let running = control.begin().unwrap();
        assert_eq!(control.pid(), Pid::from_raw(i32::try_from(std::process::id()).unwrap()));
        assert_eq!(control.begin().unwrap_err().to_string(), "already running");
        drop(running);
        assert!(control.pid_file.exists());
        assert_eq!(control.pid(), None);
        assert!(!control.restart().unwrap());
        control.stop().unwrap();
        control.begin().unwrap().end();
        assert!(!control.pid_file.exists());
    }
}
