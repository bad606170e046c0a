//! Which storages are usable and how full they are, without ever waiting for one that hangs.
//!
//! Each storage is asked by a thread of its own with a deadline. A thread that hangs in the kernel stays behind, and
//! until it returns its storage is reported as unreachable at once, so a dead server costs one thread and no time.

use super::config::{Entry, StorageConfig};
use super::content::Content;
use super::driver::{Driver, Space, Storage};
use super::driver_of;
use crate::{Context, Error, Result, mounts};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How long a storage may take to answer. (PVE: Storage/Plugin.pm, status)
pub(super) const DEADLINE: Duration = Duration::from_secs(2);

/// How long tools of this machine may take that look at its own disks: a busy machine is no dead server.
pub(super) const LOCAL_TOOLS: Duration = Duration::from_secs(15);

/// How long a server may take to answer before work on its storage begins; one that is busy writing needs more than a
/// moment.
const BEFORE_WORK: Duration = Duration::from_secs(10);

/// How long a storage may take when it is made.
const FIRST_USE: Duration = Duration::from_secs(40);

/// A storage's state as last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageStatus {
    /// Its id.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// All bytes; 0 unless active.
    pub total: u64,
    /// Bytes that are taken.
    pub used: u64,
    /// Bytes that can be taken.
    pub avail: u64,
    /// It can be used now.
    pub active: bool,
    /// It is meant to be used on this node.
    pub enabled: bool,
    /// Same content on all its nodes.
    pub shared: bool,
    /// What it may hold.
    pub content: Vec<Content>,
    /// Why it is enabled but not active.
    pub reason: Option<String>,
}

/// A probe is known by the node's root and the storage: several nodes can live in one process.
type ProbeKey = (PathBuf, String);

/// What a probe will answer, if it ever does.
type Answer = mpsc::Receiver<Result<Space>>;

/// Probes that missed their deadline, and when they began. They belong to the process as their threads do.
static HANGING: Mutex<BTreeMap<ProbeKey, (Answer, i64)>> = Mutex::new(BTreeMap::new());

/// The state of all storages, in the order of the configuration.
pub fn all(ctx: &Context) -> Result<Vec<StorageStatus>> {
    let config = StorageConfig::load(ctx)?;
    Ok(probe_entries(ctx, config.entries().map(|(id, entry)| (id.to_owned(), entry.clone())).collect()))
}

/// The state of one storage.
pub fn probe(ctx: &Context, id: &str) -> Result<StorageStatus> {
    let config = StorageConfig::load(ctx)?;
    let entry = config.entry(id)?.clone();
    Ok(probe_entries(ctx, vec![(id.to_owned(), entry)]).remove(0))
}

/// Asks storages side by side; all of them together take no longer than the most patient deadline.
pub fn probe_entries(ctx: &Context, entries: Vec<(String, Entry)>) -> Vec<StorageStatus> {
    probe_within(ctx, entries, DEADLINE)
}

/// Asks a storage that may never have been used on this node: mounting or logging in takes longer than looking.
pub fn try_entry(ctx: &Context, id: &str, entry: &Entry) -> StorageStatus {
    probe_within(ctx, vec![(id.to_owned(), entry.clone())], FIRST_USE).remove(0)
}

fn probe_within(ctx: &Context, entries: Vec<(String, Entry)>, patience: Duration) -> Vec<StorageStatus> {
    let begin = Instant::now();
    let waiting: Vec<_> = entries
        .into_iter()
        .map(|(id, entry)| {
            let status = configured(ctx, &id, &entry);
            let driver = entry.known_kind().and_then(|kind| kind.driver);
            let patience = driver.map_or(patience, |driver| driver.patience().max(patience));
            let answer = status.enabled.then(|| start(ctx, id, entry));
            (status, answer, patience)
        })
        .collect();
    waiting
        .into_iter()
        .map(|(mut status, answer, patience)| {
            let Some(answer) = answer else { return status };
            match answer.and_then(|answer| wait(ctx, &status.id, answer, begin, patience)) {
                Ok(space) => {
                    status.active = true;
                    (status.total, status.used, status.avail) = (space.total, space.used, space.avail);
                }
                Err(error) => status.reason = Some(error.message().to_owned()),
            }
            status
        })
        .collect()
}

fn configured(ctx: &Context, id: &str, entry: &Entry) -> StorageStatus {
    StorageStatus {
        id: id.to_owned(),
        kind: entry.kind().to_owned(),
        total: 0,
        used: 0,
        avail: 0,
        active: false,
        enabled: !entry.is_disabled() && entry.is_on_node(&ctx.node),
        shared: entry.is_shared(),
        content: entry.contents(),
        reason: None,
    }
}

fn key(ctx: &Context, id: &str) -> ProbeKey {
    (ctx.root.prefix().to_owned(), id.to_owned())
}

fn hanging() -> MutexGuard<'static, BTreeMap<ProbeKey, (Answer, i64)>> {
    HANGING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says since when, in the node's time.
fn unreachable(id: &str, since: i64) -> Error {
    let time = Timestamp::from_second(since).map(|time| time.to_zoned(TimeZone::system()));
    let since = time.map_or_else(|_| since.to_string(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string());
    Error::new(format!("storage '{id}' does not answer since {since}"))
}

/// Fails at once while a probe of this storage hangs, so that nobody else waits for it.
pub(super) fn check_answers(ctx: &Context, id: &str) -> Result<()> {
    still_hangs(&mut hanging(), &key(ctx, id)).map_or(Ok(()), |since| Err(unreachable(id, since)))
}

/// Makes a storage usable for work on it, or fails in time: whatever would hang in the kernel does so in a thread that is
/// left behind, and everybody after the first is told at once.
pub(super) fn ready(storage: &Storage, driver: &'static dyn Driver) -> Result<()> {
    let (ctx, id) = (storage.ctx, &storage.id);
    check_answers(ctx, id)?;
    if !driver.is_remote() {
        return driver.activate(storage);
    }
    let is_mounted = storage.entry.path().is_ok_and(|path| mounts::at(path).is_some());
    let patience = if is_mounted { BEFORE_WORK } else { FIRST_USE };
    let answer = start(ctx, id.clone(), storage.entry.clone())?;
    wait(ctx, id, answer, Instant::now(), patience).map(drop)
}

/// Since when a probe hangs; one that has come to its end is forgotten.
fn still_hangs(hanging: &mut BTreeMap<ProbeKey, (Answer, i64)>, key: &ProbeKey) -> Option<i64> {
    let (answer, since) = hanging.get(key)?;
    if let Err(mpsc::TryRecvError::Empty) = answer.try_recv() {
        return Some(*since);
    }
    hanging.remove(key);
    None
}

/// Begins a probe, unless an earlier one of this storage still hangs.
fn start(ctx: &Context, id: String, entry: Entry) -> Result<Answer> {
    check_answers(ctx, &id)?;
    let (sender, receiver) = mpsc::channel();
    let ctx = ctx.clone();
    std::thread::spawn(move || {
        // Nobody listens any longer if the deadline has passed and another probe has begun.
        let _ = sender.send(measure(&Storage { ctx: &ctx, id, entry }));
    });
    Ok(receiver)
}

fn measure(storage: &Storage) -> Result<Space> {
    let driver = driver_of(storage)?;
    driver.activate(storage)?;
    driver.space(storage)
}

fn wait(ctx: &Context, id: &str, answer: Answer, begin: Instant, patience: Duration) -> Result<Space> {
    match answer.recv_timeout(patience.saturating_sub(begin.elapsed())) {
        Ok(space) => space,
        Err(mpsc::RecvTimeoutError::Timeout) => {
            let since = ctx.clock.now() - i64::try_from(begin.elapsed().as_secs()).unwrap_or(0);
            hanging().insert(key(ctx, id), (answer, since));
            Err(unreachable(id, since))
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => Err(Error::new(format!("the probe of storage '{id}' failed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A daemon on a machine with LVM once ended here, with its stack overflown.
    #[test]
    fn a_probe_that_hangs_fits_the_stack_of_the_daemons_threads() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let (_sender, receiver) = mpsc::channel();
        hanging().insert(key(&ctx, "local"), (receiver, 0));
        let probing = std::thread::Builder::new().stack_size(crate::live::STACK).spawn(move || all(&ctx).unwrap());
        assert!(probing.unwrap().join().unwrap()[0].reason.is_some());
    }

    #[test]
    fn nobody_waits_for_a_storage_that_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let (sender, receiver) = mpsc::channel();
        hanging().insert(key(&ctx, "local"), (receiver, 0));
        let begin = Instant::now();
        let state = probe(&ctx, "local").unwrap();
        assert!(!state.active && state.reason.unwrap().contains("storage 'local' does not answer since 19"));
        assert!(super::super::list(&ctx, "local", None, &[]).unwrap_err().message().contains("does not answer since"));
        assert!(begin.elapsed() < DEADLINE, "no deadline is waited for twice");
        // The server is back: its late answer counts for nothing, a new probe does.
        sender.send(Ok(Space::default())).unwrap();
        assert!(super::super::list(&ctx, "local", None, &[]).is_ok());
        assert!(probe(&ctx, "local").unwrap().active);
    }
}
