//! The table of guests, kept equal to the files and processes of the node.

use super::facts::GuestFacts;
use super::running::{self, Running, Usage};
use super::watch::{Changes, KINDS, Watch};
use super::{GuestRow, Problem};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::process::ProcessId;
use crate::{Context, Result, Vmid, guest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;

type Key = (Vmid, GuestKind);

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
    /// Reads everything once.
    pub fn scan(ctx: &Context) -> Result<Self> {
        let mut table = Table::default();
        table.read_all(ctx)?;
        table.find_running(ctx);
        Ok(table)
    }

    /// Takes over what has changed since the last call; answers with new problems.
    pub fn follow(&mut self, ctx: &Context, watch: &mut Watch) -> Result<Vec<Problem>> {
        let before: BTreeSet<Problem> = self.problems.values().cloned().collect();
        match watch.changes()? {
            Changes::Some(keys) => keys.into_iter().for_each(|key| self.read(ctx, key)),
            Changes::Everything => {
                *watch = Watch::new(ctx)?;
                self.read_all(ctx)?;
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

    /// What ends when a guest does.
    pub fn pidfds(&self) -> Vec<Arc<OwnedFd>> {
        self.entries.values().filter_map(|entry| Some(entry.running.as_ref()?.pidfd.clone())).collect()
    }

    fn read_all(&mut self, ctx: &Context) -> Result<()> {
        let mut present = BTreeSet::new();
        for kind in KINDS {
            present.extend(guest::list(ctx, kind)?.into_iter().map(|vmid| (vmid, kind)));
        }
        self.entries.retain(|key, _| present.contains(key));
        self.problems.retain(|key, _| present.contains(key));
        present.into_iter().for_each(|key| self.read(ctx, key));
        Ok(())
    }

    /// Reads one file. A file that cannot be read keeps its guest in the list, as far as it was known.
    fn read(&mut self, ctx: &Context, key: Key) {
        let (vmid, kind) = key;
        let path = guest::path(ctx, kind, vmid);
        let time = std::fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let time = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let file = format!("{}/{vmid}.conf", kind.config_directory());
        let problem = |text: String| Problem {
            time: time.map_or(0, |elapsed| elapsed.as_secs().cast_signed()),
            text: format!("{} {vmid}: {text}", kind.label()),
        };
        self.problems.remove(&key);
        let facts = match std::fs::read(&path) {
            Ok(bytes) => GuestFacts::of(&GuestConfig::parse(kind, &String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.entries.remove(&key);
                return;
            }
            Err(error) => {
                self.problems.insert(key, problem(format!("unable to read '{file}' - {}", crate::Error::from(error))));
                self.entries.entry(key).or_insert_with(|| Entry { facts: Arc::default(), running: None });
                return;
            }
        };
        if !facts.unreadable_lines.is_empty() {
            // The lines themselves may hold a secret.
            let lines: Vec<String> = facts.unreadable_lines.iter().map(usize::to_string).collect();
            self.problems.insert(key, problem(format!("unable to parse '{file}', line {}", lines.join(", "))));
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

fn has_ended(pidfd: &OwnedFd) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&now)).is_ok_and(|ready| ready > 0)
}
