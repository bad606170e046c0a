//! Locks that are queues: one per guest and per storage, granted in the order of arrival.
//!
//! A lock is a file with one line per holder or waiter, oldest first: `PID START TICKET LABEL`. The first line holds the
//! lock. Lines of processes that have ended count for nothing and are removed by whoever looks next, so a killed holder
//! never blocks anybody. A waiter is told behind whom it waits (a UPID, usually) and waits as long as it may live.
//!
//! A lock must not be taken twice on one path of calls; that would wait for itself.

use crate::process::ProcessId;
use crate::task::abort;
use crate::{Context, Result, error::ResultExt};
use inotify::{Inotify, WatchMask};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A held lock; dropping it lets the next in the queue go on.
#[derive(Debug)]
pub struct QueueLock {
    path: PathBuf,
    entry: Entry,
}

/// One place in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    process: ProcessId,
    ticket: u64,
    label: String,
}

/// The name of a guest's lock.
pub fn guest(vmid: crate::Vmid) -> String {
    format!("guest-{vmid}")
}

/// The name of a storage's lock.
pub fn storage(id: &str) -> String {
    format!("storage-{id}")
}

/// Waits for the lock `name`. `waiting` is called with the label of the holder whenever another one is in front.
///
/// # Errors
/// When the process is told to stop while it waits, or the lock file cannot be used.
pub fn acquire(ctx: &Context, name: &str, label: &str, mut waiting: impl FnMut(&str)) -> Result<QueueLock> {
    let directory = ctx.root.run("lock/ferrovisor");
    fs::create_dir_all(&directory).context(|| format!("unable to create '{}'", directory.display()))?;
    let path = directory.join(name);
    static NEXT_TICKET: AtomicU64 = AtomicU64::new(1);
    let entry = Entry {
        process: ProcessId::current(),
        ticket: NEXT_TICKET.fetch_add(1, Ordering::Relaxed),
        label: label.replace(char::is_whitespace, "_"),
    };
    let place = || format!("can't lock '{}'", path.display());
    let mut queue = edit(&path, |queue| queue.push(entry.clone())).context(place)?;
    let lock = QueueLock { path: path.clone(), entry };
    let mut watch = None;
    let mut told = None;
    while queue.first() != Some(&lock.entry) {
        abort::check()?;
        let holder = queue.first().cloned();
        if let Some(holder) = &holder
            && told.as_ref() != Some(holder)
        {
            waiting(&holder.label);
            told = Some(holder.clone());
        }
        if watch.is_none() {
            let inotify = Inotify::init().context(place)?;
            inotify.watches().add(&path, WatchMask::MODIFY).context(place)?;
            watch = Some(inotify);
        } else if let (Some(inotify), Some(holder)) = (&mut watch, &holder) {
            wait_for_change(inotify, holder.process)?;
        }
        queue = edit(&path, |_| {}).context(place)?;
    }
    Ok(lock)
}

/// Returns when the queue's file changes, the holder ends, or a second has passed.
fn wait_for_change(inotify: &mut Inotify, holder: ProcessId) -> Result<()> {
    let pidfd = Pid::from_raw(holder.pid.cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    let mut fds = vec![PollFd::from_borrowed_fd(inotify.as_fd(), PollFlags::IN)];
    if let Some(pidfd) = pidfd.as_ref().filter(|_| holder != ProcessId::current()) {
        fds.push(PollFd::new(pidfd, PollFlags::IN));
    }
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    match poll(&mut fds, Some(&second)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let mut buffer = [0; 1024];
    match inotify.read_events(&mut buffer) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Reads the queue without the dead, changes it, writes it back if it differs; all under the file's short lock.
fn edit(path: &PathBuf, change: impl FnOnce(&mut Vec<Entry>)) -> std::io::Result<Vec<Entry>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
    rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let mut queue: Vec<Entry> = text.lines().filter_map(Entry::parse).collect();
    queue.retain(|entry| entry.process.is_alive());
    change(&mut queue);
    let new: String = queue.iter().map(Entry::line).collect();
    if new != text {
        file.rewind()?;
        file.write_all(new.as_bytes())?;
        file.set_len(new.len() as u64)?;
    }
    Ok(queue)
}

impl Entry {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, ' ');
        let process = ProcessId { pid: fields.next()?.parse().ok()?, start: fields.next()?.parse().ok()? };
        Some(Entry { process, ticket: fields.next()?.parse().ok()?, label: fields.next()?.to_owned() })
    }

    fn line(&self) -> String {
        format!("{} {} {} {}\n", self.process.pid, self.process.start, self.ticket, self.label)
    }
}

impl Drop for QueueLock {
    fn drop(&mut self) {
        // If the file cannot be written now, the entry ends with this process.
        let _ = edit(&self.path, |queue| queue.retain(|entry| entry != &self.entry));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;
    use std::sync::{Arc, Mutex, mpsc};

    #[test]
    fn waiters_are_served_in_order_and_know_behind_whom_they_wait() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let first = acquire(&ctx, "guest-100", "UPID:first", |_| panic!("nobody is in front")).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for number in 0..3 {
            let (ctx, order) = (ctx.clone(), order.clone());
            let (queued, is_queued) = mpsc::channel();
            threads.push(std::thread::spawn(move || {
                let mut holders = Vec::new();
                let lock = acquire(&ctx, "guest-100", &format!("UPID:{number}"), |holder| {
                    holders.push(holder.to_owned());
                    queued.send(()).ok();
                });
                order.lock().unwrap().push((number, holders));
                drop(lock);
            }));
            is_queued.recv().unwrap();
        }
        drop(first);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let order = order.lock().unwrap();
        assert_eq!(order.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(order.iter().all(|(_, holders)| holders[0] == "UPID:first"));
    }

    #[test]
    fn a_dead_holder_blocks_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let path = ctx.root.run("lock/ferrovisor/storage-local");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "4194303 1 1 UPID:dead\nnot a line\n").unwrap();
        acquire(&ctx, "storage-local", "me", |_| panic!("nobody alive is in front")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "");
    }
}
