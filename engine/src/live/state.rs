//! The table of guests, kept equal to the files and processes of the node.

use super::facts::GuestFacts;
use super::running::{self, Running, Usage};
use super::watch::{Changes, KINDS, Watch};
use super::{GuestRow, Problem, balloon};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::process::ProcessId;
use crate::qemu::status::Told;
use crate::{Context, Result, Vmid, guest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

type Key = (Vmid, GuestKind);

/// So many files are worth a thread.
const LEAST_SHARE: usize = 200;
/// So many files a reader takes at a time.
const HELPING: usize = 32;

/// A guest with what is known of it.
struct Entry {
    facts: Arc<GuestFacts>,
    running: Option<Running>,
}

/// All guests of this node. With a watch it follows changes, without one it is a single look.
#[derive(Default)]
pub struct Table {
    entries: BTreeMap<Key, Entry>,
    problems: BTreeMap<Key, Problem>,
}

impl Table {
    /// Reads the guests of some kinds once.
    pub fn scan(ctx: &Context, kinds: &[GuestKind]) -> Result<Self> {
        let mut table = Table::default();
        table.read_all(ctx, kinds)?;
        table.find_running(ctx);
        Ok(table)
    }

    /// Takes over what has changed since the last call; answers with new problems.
    pub fn follow(&mut self, ctx: &Context, watch: &mut Watch) -> Result<Vec<Problem>> {
        let before: BTreeSet<Problem> = self.problems.values().cloned().collect();
        match watch.changes()? {
            Changes::Some(keys) => keys.into_iter().for_each(|key| self.take(ctx, key, read(ctx, key))),
            Changes::Everything => {
                *watch = Watch::new(ctx)?;
                self.read_all(ctx, &KINDS)?;
            }
        }
        self.find_running(ctx);
        Ok(self.problems.values().filter(|problem| !before.contains(problem)).cloned().collect())
    }

    /// Measures what running guests use.
    pub fn measure(&mut self, ctx: &Context) {
        for ((vmid, kind), entry) in &mut self.entries {
            if let Some(running) = &mut entry.running {
                running.measure(ctx, *kind, *vmid);
            }
        }
    }

    /// The rows of lists, by number.
    pub fn rows(&self) -> Vec<GuestRow> {
        self.entries
            .iter()
            .map(|((vmid, kind), entry)| GuestRow {
                vmid: *vmid,
                kind: *kind,
                facts: entry.facts.clone(),
                running: entry.running.clone(),
            })
            .collect()
    }

    /// What is known of a running guest.
    pub fn running(&self, kind: GuestKind, vmid: Vmid) -> Option<Running> {
        self.entries.get(&(vmid, kind))?.running.clone()
    }

    /// Files that cannot be read, or not in full.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.values().cloned().collect()
    }

    /// VMs that run.
    pub fn running_machines(&self) -> Vec<(Vmid, ProcessId)> {
        let machines = self.entries.iter().filter(|((_, kind), _)| *kind == GuestKind::Qemu);
        machines.filter_map(|((vmid, _), entry)| Some((*vmid, entry.running.as_ref()?.process))).collect()
    }

    /// Takes over what a VM's QEMU has told, if it is still the same.
    pub fn take_told(&mut self, vmid: Vmid, process: ProcessId, told: &Usage) {
        let entry = self.entries.get_mut(&(vmid, GuestKind::Qemu)).and_then(|entry| entry.running.as_mut());
        if let Some(running) = entry.filter(|running| running.process == process) {
            running.usage.take_told(told);
        }
    }

    /// A running VM as one that memory is shared with, if it has agreed to that and its driver answers.
    pub fn balloon(&self, vmid: Vmid, told: &Told) -> Option<balloon::Guest> {
        let facts = &self.entries.get(&(vmid, GuestKind::Qemu))?.facts;
        let (least, shares) = facts.balloon_min.zip(facts.shares.filter(|shares| *shares > 0))?;
        if facts.lock.as_deref() == Some("migrate") {
            return None;
        }
        Some(balloon::Guest { vmid, now: told.balloon?, least, most: facts.memory, shares, free: told.free_inside })
    }

    /// What ends when a guest does.
    pub fn pidfds(&self) -> Vec<Arc<OwnedFd>> {
        self.entries.values().filter_map(|entry| Some(entry.running.as_ref()?.pidfd.clone())).collect()
    }

    fn read_all(&mut self, ctx: &Context, kinds: &[GuestKind]) -> Result<()> {
        let mut present = BTreeSet::new();
        for kind in kinds {
            present.extend(guest::list(ctx, *kind)?.into_iter().map(|vmid| (vmid, *kind)));
        }
        self.entries.retain(|key, _| present.contains(key));
        self.problems.retain(|key, _| present.contains(key));
        let present: Vec<Key> = present.into_iter().collect();
        for (key, facts) in read_many(ctx, &present) {
            self.take(ctx, key, facts);
        }
        Ok(())
    }

    /// Takes over what one file says. A file that cannot be read keeps its guest in the list, as far as it was known.
    fn take(&mut self, ctx: &Context, key: Key, facts: io::Result<GuestFacts>) {
        self.problems.remove(&key);
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.entries.remove(&key);
                return;
            }
            Err(error) => {
                let text = format!("unable to read '{}' - {}", file_name(key), crate::Error::from(error));
                self.problems.insert(key, problem(ctx, key, &text));
                self.entries.entry(key).or_insert_with(|| Entry { facts: Arc::default(), running: None });
                return;
            }
        };
        if !facts.unreadable_lines.is_empty() {
            // The lines themselves may hold a secret.
            let lines: Vec<String> = facts.unreadable_lines.iter().map(usize::to_string).collect();
            let text = format!("unable to parse '{}', line {}", file_name(key), lines.join(", "));
            self.problems.insert(key, problem(ctx, key, &text));
        }
        let facts = Arc::new(facts);
        self.entries
            .entry(key)
            .and_modify(|entry| entry.facts = facts.clone())
            .or_insert_with(|| Entry { facts, running: None });
    }

    /// Guests that have ended stop, guests that have begun run.
    fn find_running(&mut self, ctx: &Context) {
        for entry in self.entries.values_mut() {
            entry.running.take_if(|running| has_ended(&running.pidfd));
        }
        let has_containers = self.entries.keys().any(|(_, kind)| *kind == GuestKind::Lxc);
        for (vmid, kind) in running::candidates(ctx, has_containers) {
            if let Some(entry) = self.entries.get_mut(&(vmid, kind))
                && entry.running.is_none()
                && let Some(process) = running::find(ctx, kind, vmid)
            {
                entry.running = Running::begin(ctx, kind, vmid, process);
            }
        }
    }
}

/// What one file says.
fn read(ctx: &Context, key: Key) -> io::Result<GuestFacts> {
    read_into(ctx, key, &mut Vec::new())
}

/// What one file says, read through a buffer that serves for many.
fn read_into(ctx: &Context, (vmid, kind): Key, buffer: &mut Vec<u8>) -> io::Result<GuestFacts> {
    buffer.clear();
    // Its length is not asked for first.
    File::open(guest::path(ctx, kind, vmid))?.take(u64::MAX).read_to_end(buffer)?;
    Ok(GuestFacts::of(&GuestConfig::parse(kind, &String::from_utf8_lossy(buffer))))
}

/// What many files say; all processors read when it is worth it, each as much as it can.
fn read_many(ctx: &Context, keys: &[Key]) -> Vec<(Key, io::Result<GuestFacts>)> {
    let next = AtomicUsize::new(0);
    let some = || {
        let (mut buffer, mut found) = (Vec::with_capacity(16 << 10), Vec::new());
        while let Some(rest) = keys.get(next.fetch_add(HELPING, Ordering::Relaxed)..).filter(|rest| !rest.is_empty()) {
            found.extend(rest.iter().take(HELPING).map(|key| (*key, read_into(ctx, *key, &mut buffer))));
        }
        found
    };
    let readers = std::thread::available_parallelism().map_or(1, NonZero::get).min(keys.len() / LEAST_SHARE).max(1);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..readers).map(|_| scope.spawn(some)).collect();
        let mut all = some();
        for other in others {
            all.extend(other.join().expect("reading a file does not panic"));
        }
        all
    })
}

/// The file below the node's directory.
fn file_name((vmid, kind): Key) -> String {
    format!("{}/{vmid}.conf", kind.config_directory())
}

/// A problem of a file, with the time of its last change.
fn problem(ctx: &Context, (vmid, kind): Key, text: &str) -> Problem {
    let time = std::fs::metadata(guest::path(ctx, kind, vmid)).and_then(|meta| meta.modified()).ok();
    let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    Problem {
        time: time.map_or(0, |elapsed| elapsed.as_secs().cast_signed()),
        text: format!("{} {vmid}: {text}", kind.label()),
    }
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}
