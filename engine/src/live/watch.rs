//! Which configuration files have changed since the last look.
//!
//! The kernel queues an event before the change's system call returns, so whoever asks after a change sees it: there is
//! no moment in which a list is older than the files.

use crate::config::guest::GuestKind;
use crate::{Context, Result, Vmid, error::ResultExt, guest};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};

/// Both kinds of guests.
pub const KINDS: [GuestKind; 2] = [GuestKind::Qemu, GuestKind::Lxc];

/// Files that are new, gone or different.
pub enum Changes {
    /// These.
    Some(BTreeSet<(Vmid, GuestKind)>),
    /// Too many to tell, or the directories themselves: read everything again.
    Everything,
}

/// A watch on the configuration directories of the node.
pub struct Watch {
    inotify: Inotify,
    directories: Vec<(WatchDescriptor, GuestKind)>,
}

impl Watch {
    /// Begins to watch; what happened before is not told.
    pub fn new(ctx: &Context) -> Result<Self> {
        let inotify = Inotify::init().context(|| "unable to watch configuration files")?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::MOVED_FROM
            | WatchMask::MOVED_TO
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF;
        let mut directories = Vec::new();
        for kind in KINDS {
            let directory = guest::directory(ctx, kind);
            let place = || format!("unable to watch '{}'", directory.display());
            std::fs::create_dir_all(&directory).context(place)?;
            directories.push((inotify.watches().add(&directory, mask).context(place)?, kind));
        }
        Ok(Watch { inotify, directories })
    }

    /// What has changed since the last call. Never waits.
    pub fn changes(&mut self) -> Result<Changes> {
        let mut changed = BTreeSet::new();
        let mut buffer = [0; 16384];
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Changes::Some(changed)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).context(|| "unable to read changes of configuration files"),
            };
            for event in events {
                let lost = EventMask::Q_OVERFLOW
                    | EventMask::IGNORED
                    | EventMask::UNMOUNT
                    | EventMask::DELETE_SELF
                    | EventMask::MOVE_SELF;
                if event.mask.intersects(lost) {
                    return Ok(Changes::Everything);
                }
                let kind = self.directories.iter().find(|(watch, _)| *watch == event.wd).map(|(_, kind)| *kind);
                let vmid = event.name.and_then(|name| name.to_str()?.strip_suffix(".conf")?.parse().ok());
                changed.extend(vmid.zip(kind));
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
