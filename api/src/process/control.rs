//! Start, stop and replacement of a daemon: its pid file and what it hands to its own next image.
//!
//! A running daemon holds a lock on its pid file, so a stale file never looks like a running daemon. `restart` lets the
//! daemon finish what it answers and then run a fresh image of the program in the same process: pid, listening sockets and
//! the lock stay, clients wait in the socket's queue meanwhile and nobody is refused.

use super::command::{Command as Order, Line};
use engine::{Error, Result, ResultExt};
use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Names the descriptors that an image hands to the next one: `listener,lock`.
const INHERITED: &str = "FERROVISOR_SOCKETS";
/// Tells a daemon that its starter waits on standard output until it serves.
const STARTER: &str = "FERROVISOR_STARTER";
/// How long `stop` waits for the end.
const STOP: Duration = Duration::from_secs(35);

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
    lock: OwnedFd,
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
        let mut child = command.spawn().context(|| format!("unable to start '{}'", self.program.display()))?;
        let mut text = String::new();
        child.stdout.take().expect("standard output is a pipe").read_to_string(&mut text)?;
        if text.trim() == "ready" {
            return Ok(());
        }
        let status = child.wait()?;
        Err(Error::new(format!("start failed ({status})")))
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

    /// Lets the running daemon take a new image; says whether there is one.
    pub fn restart(&self) -> Result<bool> {
        match self.pid() {
            Some(pid) => {
                kill_process(pid, Signal::HUP)?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Becomes the daemon: takes the lock and writes the pid file, or takes over what the last image held.
    pub fn begin(&self) -> Result<Running> {
        let place = || format!("unable to use pid file '{}'", self.pid_file.display());
        let background = std::env::var_os(STARTER).is_some();
        if let Some((_, lock)) = inherited() {
            return Ok(Running { control: self.clone(), lock, background: false });
        }
        if let Some(parent) = self.pid_file.parent() {
            fs::create_dir_all(parent).context(place)?;
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(false).mode(0o644).open(&self.pid_file).context(place)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| Error::new("already running".to_owned()))?;
        file.set_len(0).context(place)?;
        writeln!(file, "{}", std::process::id()).context(place)?;
        Ok(Running { control: self.clone(), lock: file.into(), background })
    }
}

/// Listener and lock of the image before this one.
fn inherited() -> Option<(OwnedFd, OwnedFd)> {
    let text = std::env::var(INHERITED).ok()?;
    let mut numbers = text.split(',').map(|number| number.parse::<RawFd>().ok().filter(|number| *number > 2));
    let (listener, lock) = (numbers.next()??, numbers.next()??);
    // SAFETY: the variable is only set by `Running::replace` right before it becomes this image, with two descriptors that
    // it has kept open for us. Each is made into an owner at most once per place that asks: `begin` takes the lock,
    // `inherited_listener` the listener, and the other one is duplicated below.
    let (listener, lock) =
        unsafe { (std::os::fd::BorrowedFd::borrow_raw(listener), std::os::fd::BorrowedFd::borrow_raw(lock)) };
    let close_on_exec = |fd: std::os::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).ok();
    Some((close_on_exec(listener)?, close_on_exec(lock)?))
}

/// The listening socket of the image before this one.
pub fn inherited_listener() -> Option<OwnedFd> {
    let (listener, _) = inherited()?;
    Some(listener)
}

impl Running {
    /// Tells starter and service manager that requests are answered from now on.
    pub fn ready(&self) -> Result<()> {
        close_inherited();
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
