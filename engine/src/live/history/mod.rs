//! What node, guests and storages used, minute by minute and for years: the numbers behind graphs.
//!
//! ```text
//! every ten seconds: a sample ──> mean of the minute, in memory
//! every half hour, when somebody asks, and at the end: minutes ──> file of fixed size ──> half hours, quarter days, weeks
//! ```
//! Rings, steps and names are those of PVE's round robin files; the files are of our own make. Guests that do not run have
//! no samples, so a node at rest with many of them writes next to nothing.
//! (PVE: pve-cluster src/pmxcfs/status.c, rrd_def_*; src/PVE/RRD.pm; pve-manager PVE/Service/pvestatd.pm)

mod archive;
mod sample;

pub use archive::Consolidation;
pub use sample::{Kind, Sample};

use crate::{Context, Result};
use archive::Archive;
use sample::Minute;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long minutes stay in memory when nobody asks.
const FLUSH: Duration = Duration::from_secs(30 * 60);

/// What is sampled: a kind and a name among its like.
pub type Subject = (Kind, String);

/// One point of a series: when it begins, in seconds since 1970, and a value for each name of its kind; not a number where
/// nothing is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Begin.
    pub time: i64,
    /// Values in the order of [`Kind::names`].
    pub values: Vec<f64>,
}

/// The history of everything on this node.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    series: BTreeMap<Subject, Minute>,
    flushed: Instant,
}

/// Where the files lie.
fn directory(ctx: &Context) -> PathBuf {
    ctx.root.path("/var/lib/ferrovisor/history")
}

impl History {
    /// The history of a node.
    pub fn of(ctx: &Context) -> Self {
        let memory = Memory { series: BTreeMap::new(), flushed: Instant::now() };
        History { directory: directory(ctx), memory: Mutex::new(memory) }
    }

    /// Takes samples over.
    pub fn add(&self, now: i64, samples: Vec<(Subject, Sample)>) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        for (subject, sample) in samples {
            let kind = subject.0;
            memory.series.entry(subject).or_insert_with(|| Minute::new(kind)).add(now, &sample);
        }
    }

    /// Writes what is in memory, if that is due.
    pub fn flush_if_due(&self, now: i64, subjects: impl FnOnce() -> Option<BTreeSet<Subject>>) {
        let is_due = self.memory.lock().unwrap_or_else(PoisonError::into_inner).flushed.elapsed() > FLUSH;
        if is_due {
            self.flush(now, subjects().as_ref());
        }
    }

    /// Writes what is in memory; `subjects` are all that exist, if that is known, and others are forgotten some days after
    /// their end. A file that cannot be written costs its own points and nothing else.
    pub fn flush(&self, now: i64, subjects: Option<&BTreeSet<Subject>>) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.flushed = Instant::now();
        memory.series.retain(|subject, _| subjects.is_none_or(|subjects| subjects.contains(subject)));
        for (subject, minute) in &mut memory.series {
            self.write(subject, minute, now);
        }
        if let Some(subjects) = subjects {
            archive::forget(&self.directory, subjects);
        }
    }

    /// Writes what is in memory of one subject, for a reader.
    fn flush_one(&self, now: i64, subject: &Subject) {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(minute) = memory.series.get_mut(subject) {
            self.write(subject, minute, now);
        }
    }

    fn write(&self, subject: &Subject, minute: &mut Minute, now: i64) {
        let rows = minute.take_finished(now);
        if rows.is_empty() {
            return;
        }
        let written = Archive::open(&self.directory, subject).and_then(|archive| archive.write(&rows, now));
        if let Err(error) = written {
            eprintln!("unable to write the history of '{}': {error}", subject.1);
        }
    }
}

/// A series for a graph: the last whole steps of a time frame up to now.
///
/// # Errors
/// When the file cannot be read.
pub fn read(ctx: &Context, subject: &Subject, frame: &str, how: Consolidation) -> Result<Vec<Row>> {
    let now = ctx.clock.now();
    if let Some(live) = &ctx.live {
        live.history().flush_one(now, subject);
    }
    let (step, count) = frame_of(frame);
    let end = now.div_euclid(step) * step;
    let times = (1..=count).rev().map(|back| end - back * step);
    let unknown = vec![f64::NAN; subject.0.names().len()];
    let mut rows: Vec<Row> = match Archive::existing(&directory(ctx), subject)? {
        Some(archive) => archive.read(times, step, how)?,
        None => times.map(|time| Row { time, values: unknown.clone() }).collect(),
    };
    // The newest step may not have been measured yet.
    rows.pop_if(|row| row.values.iter().all(|value| value.is_nan()));
    Ok(rows)
}

/// Seconds of a step, and how many of them.
fn frame_of(frame: &str) -> (i64, i64) {
    match frame {
        "hour" => (60, 60),
        "day" => (60, 1440),
        "week" => (1800, 336),
        "month" => (1800, 1440),
        "year" => (6 * 3600, 1440),
        _ => (7 * 86400, 570),
    }
}

#[cfg(test)]
mod tests;
