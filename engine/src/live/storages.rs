//! What is known of storages: asked when somebody wants to know, not more often than every few seconds, and waited for
//! only as long as a list may take. A storage that does not answer makes its own row stale and nothing else.

use super::Shared;
use crate::Context;
use crate::storage::{self, StorageStatus};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An answer of this age is as good as a new one.
const FRESH: Duration = Duration::from_secs(10);
/// An answer of this age is shown while a new one is on its way.
const USABLE: Duration = Duration::from_secs(30);
/// How long a reader waits for a new answer; afterwards it gets the old one.
const PATIENCE: Duration = Duration::from_millis(500);

/// The last answers and the change that announces new ones.
#[derive(Default)]
pub(super) struct Cache {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    is_asking: bool,
}

#[derive(Clone)]
struct Answer {
    time: Instant,
    stamp: Stamp,
    rows: Arc<Vec<StorageStatus>>,
}

/// Tells one `storage.cfg` from another.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(ctx: &Context) -> Stamp {
    let meta = fs::metadata(ctx.root.etc_pve("storage.cfg")).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

/// The state of all storages in the order of the configuration: from memory in the daemon, asked elsewhere.
pub fn storages(ctx: &Context) -> Arc<Vec<StorageStatus>> {
    match &ctx.live {
        Some(live) => current(&live.shared),
        None => Arc::new(storage::status(ctx)),
    }
}

/// The same in the daemon.
pub(super) fn current(shared: &Arc<Shared>) -> Arc<Vec<StorageStatus>> {
    let now = stamp(&shared.ctx);
    let cache = &shared.storages;
    let mut state = cache.state.lock().unwrap_or_else(PoisonError::into_inner);
    // What stood in another configuration is no answer at all.
    let answer = state.answer.clone().filter(|answer| answer.stamp == now);
    let age = answer.as_ref().map(|answer| answer.time.elapsed());
    if age.is_none_or(|age| age > FRESH) && !state.is_asking {
        state.is_asking = begin(shared, now);
    }
    if let Some(answer) = answer.filter(|_| age.is_some_and(|age| age <= USABLE)) {
        return answer.rows;
    }
    let is_old = |state: &mut State| {
        let answer = state.answer.as_ref();
        state.is_asking && !answer.is_some_and(|answer| answer.stamp == now && answer.time.elapsed() <= USABLE)
    };
    let waited = cache.answered.wait_timeout_while(state, PATIENCE, is_old);
    let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
    state.answer.as_ref().map(|answer| answer.rows.clone()).unwrap_or_default()
}

/// Asks all storages in a thread of its own; `false` if there cannot be one.
fn begin(shared: &Arc<Shared>, stamp: Stamp) -> bool {
    let shared = shared.clone();
    let ask = move || {
        let rows = Arc::new(storage::status(&shared.ctx));
        let mut state = shared.storages.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answer = Some(Answer { time: Instant::now(), stamp, rows });
        state.is_asking = false;
        shared.storages.answered.notify_all();
    };
    std::thread::Builder::new().name("storages".into()).stack_size(super::STACK).spawn(ask).is_ok()
}
