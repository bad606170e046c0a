//! A file of fixed size with rings of rows, one for each step and kind of consolidation.
//!
//! Each row begins with its time, so a ring needs no mark of where it begins, and a row that was not written, or belongs
//! to an earlier turn, is seen as unknown. Parts that were never written take no space on disk.

use super::{Kind, Row, Subject};
use crate::{Result, error::ResultExt};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How the rows of a longer step come from those of a shorter one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consolidation {
    /// Their mean.
    Average,
    /// The largest.
    Max,
}

/// Seconds of a step and rows of its ring: minutes of a day, half hours of a month, quarter days of a year, weeks of ten
/// years.
const RINGS: [(i64, i64); 4] = [(60, 1440), (1800, 1440), (6 * 3600, 1440), (7 * 86400, 570)];
/// The first bytes of a file; another layout gets another mark.
const MAGIC: &[u8; 16] = b"ferrovisor hist1";

/// An open file.
pub struct Archive {
    file: File,
    kind: Kind,
}

fn path(directory: &Path, (kind, name): &Subject) -> PathBuf {
    directory.join(kind.directory()).join(name)
}

/// Files of guests and storages that are gone are kept for this time: they may only be out of sight.
const KEPT: Duration = Duration::from_secs(7 * 86400);

/// Removes the files of guests and storages that are gone for long.
pub fn forget(directory: &Path, subjects: &BTreeSet<Subject>) {
    let is_old = |entry: &fs::DirEntry| {
        let written = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        written.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > KEPT)
    };
    for kind in [Kind::Guest, Kind::Storage] {
        for entry in fs::read_dir(directory.join(kind.directory())).into_iter().flatten().flatten() {
            let known = entry.file_name().into_string().is_ok_and(|name| subjects.contains(&(kind, name)));
            if !known && is_old(&entry) {
                // Next time, then.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl Archive {
    /// The file of a subject, which is made if there is none, or none that can be used.
    pub fn open(directory: &Path, subject: &Subject) -> Result<Self> {
        let path = path(directory, subject);
        let place = || format!("unable to open '{}'", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).context(place)?;
        }
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).context(place)?;
        let archive = Archive { file, kind: subject.0 };
        if !archive.is_ours() {
            archive.file.set_len(0).context(place)?;
            archive.file.write_all_at(MAGIC, 0).context(place)?;
        }
        Ok(archive)
    }

    /// The file of a subject, if there is one.
    pub fn existing(directory: &Path, subject: &Subject) -> Result<Option<Self>> {
        let path = path(directory, subject);
        match File::open(&path) {
            Ok(file) => Ok(Some(Archive { file, kind: subject.0 }).filter(Archive::is_ours)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("unable to open '{}'", path.display())),
        }
    }

    fn is_ours(&self) -> bool {
        let mut magic = [0; MAGIC.len()];
        self.file.read_exact_at(&mut magic, 0).is_ok() && magic == *MAGIC
    }

    fn row_size(&self) -> usize {
        8 * (1 + self.kind.names().len())
    }

    /// Where a ring begins: all rings of means, then all of maxima.
    fn begin(&self, ring: usize, how: Consolidation) -> u64 {
        let rows = |rings: &[(i64, i64)]| rings.iter().map(|(_, rows)| rows).sum::<i64>();
        let before = rows(&RINGS[..ring]) + if how == Consolidation::Max { rows(&RINGS) } else { 0 };
        (MAGIC.len() as i64 + before * self.row_size() as i64).cast_unsigned()
    }

    /// Writes minutes, and all longer steps that they complete.
    pub fn write(&self, minutes: &[Row], now: i64) -> Result<()> {
        let Some(first) = minutes.first().map(|row| row.time) else { return Ok(()) };
        for how in [Consolidation::Average, Consolidation::Max] {
            for row in minutes {
                self.put(0, how, row)?;
            }
            for (ring, &(step, _)) in RINGS.iter().enumerate().skip(1) {
                // What was still going on when the last minutes were written is over now.
                let mut begin = (first.div_euclid(step) - 1) * step;
                while begin + step <= now {
                    self.consolidate(ring, how, begin)?;
                    begin += step;
                }
            }
        }
        Ok(())
    }

    /// Makes one row of a longer step; unknown values are those of which less than half is known.
    fn consolidate(&self, ring: usize, how: Consolidation, begin: i64) -> Result<()> {
        let (step, (shorter, _)) = (RINGS[ring].0, RINGS[ring - 1]);
        let rows = self.read((0..step / shorter).map(|at| begin + at * shorter), shorter, how)?;
        let value = |at: usize| {
            let known: Vec<f64> = rows.iter().map(|row| row.values[at]).filter(|value| !value.is_nan()).collect();
            match how {
                _ if known.len() * 2 < rows.len() => f64::NAN,
                Consolidation::Average => known.iter().sum::<f64>() / known.len() as f64,
                Consolidation::Max => known.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            }
        };
        let values: Vec<f64> = (0..self.kind.names().len()).map(value).collect();
        if values.iter().all(|value| value.is_nan()) {
            return Ok(());
        }
        self.put(ring, how, &Row { time: begin, values })
    }

    fn put(&self, ring: usize, how: Consolidation, row: &Row) -> Result<()> {
        let (step, rows) = RINGS[ring];
        let mut bytes = row.time.to_le_bytes().to_vec();
        bytes.extend(row.values.iter().flat_map(|value| value.to_le_bytes()));
        let at = row.time.div_euclid(step).rem_euclid(rows).cast_unsigned() * self.row_size() as u64;
        Ok(self.file.write_all_at(&bytes, self.begin(ring, how) + at)?)
    }

    /// Rows of a step at given times; what is not in the file is unknown.
    pub fn read(&self, times: impl Iterator<Item = i64>, step: i64, how: Consolidation) -> Result<Vec<Row>> {
        let ring = RINGS.iter().position(|(known, _)| *known == step).expect("only steps of the rings are asked for");
        let (size, rows) = (self.row_size(), RINGS[ring].1);
        let times: Vec<i64> = times.collect();
        // A few rows are read one by one, many with their whole ring.
        let whole = times.len() > 32;
        let mut bytes = vec![0; if whole { usize::try_from(rows).unwrap_or(0) * size } else { size }];
        if whole {
            self.fill(&mut bytes, self.begin(ring, how))?;
        }
        let read = |time: i64| {
            let at = time.div_euclid(step).rem_euclid(rows).cast_unsigned() * size as u64;
            if !whole {
                self.fill(&mut bytes, self.begin(ring, how) + at)?;
            }
            let from = if whole { usize::try_from(at).unwrap_or(0) } else { 0 };
            let mut numbers = bytes[from..from + size].as_chunks::<8>().0.iter();
            let written = numbers.next().is_some_and(|bytes| i64::from_le_bytes(*bytes) == time);
            let values = numbers.map(|bytes| if written { f64::from_le_bytes(*bytes) } else { f64::NAN });
            Ok(Row { time, values: values.collect() })
        };
        times.into_iter().map(read).collect()
    }

    /// Reads; what lies behind the end of the file is zero.
    fn fill(&self, bytes: &mut [u8], mut at: u64) -> Result<()> {
        bytes.fill(0);
        let mut rest = bytes;
        while !rest.is_empty() {
            match self.file.read_at(rest, at)? {
                0 => break,
                read => {
                    rest = &mut rest[read..];
                    at += read as u64;
                }
            }
        }
        Ok(())
    }
}
