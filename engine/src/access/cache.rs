//! Parsed files in memory, so that a permission check costs one `stat`.
//!
//! A file counts as unchanged while device, inode, size, modification and change time stay. A file that was changed a
//! moment ago is read again each time: two changes within one tick of the kernel's clock would look alike.

use crate::{Result, error::ResultExt};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Age from which a file's stamp tells all its later changes.
const SETTLED: Duration = Duration::from_millis(50);

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Files of one kind, by path.
pub struct FileCache<T> {
    entries: RwLock<Option<Entries<T>>>,
}

type Entries<T> = HashMap<PathBuf, (Stamp, Arc<T>)>;

impl<T> FileCache<T> {
    /// An empty one, for a `static`.
    pub const fn new() -> Self {
        FileCache { entries: RwLock::new(None) }
    }

    /// The parsed file; `None` if there is no such file. `parse` also gets the file's modification time in seconds.
    pub fn get(&self, path: &Path, parse: impl FnOnce(&str, i64) -> Result<T>) -> Result<Option<Arc<T>>> {
        let place = || format!("unable to read '{}'", path.display());
        let metadata = match std::fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(place),
        };
        if let Some(known) = self.known(path, Stamp::of(&metadata)) {
            return Ok(Some(known));
        }
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(place),
        };
        // Taken from what is read now, and before it is read.
        let stamp = Stamp::of(&file.metadata().context(place)?);
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).context(place)?;
        let value = Arc::new(parse(&String::from_utf8_lossy(&bytes), stamp.modified.0)?);
        if stamp.is_settled() {
            let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
            entries.get_or_insert_default().insert(path.to_owned(), (stamp, value.clone()));
        }
        Ok(Some(value))
    }

    fn known(&self, path: &Path, stamp: Stamp) -> Option<Arc<T>> {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        let (known, value) = entries.as_ref()?.get(path)?;
        (*known == stamp).then(|| value.clone())
    }
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// The last change is so long ago that another one will have another time.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanoseconds) = self.changed;
        let changed = Duration::new(seconds.try_into().unwrap_or(0), nanoseconds.try_into().unwrap_or(0));
        now.checked_sub(changed).is_some_and(|age| age > SETTLED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_change_is_missed_and_no_settled_file_is_read_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.cfg");
        let cache = FileCache::new();
        let read = |text: &str, _| Ok(text.to_owned());
        assert_eq!(cache.get(&path, read).unwrap(), None);
        for round in 0..200 {
            let text = format!("{:04}", round);
            std::fs::write(&path, &text).unwrap();
            assert_eq!(*cache.get(&path, read).unwrap().unwrap(), text);
        }
        std::thread::sleep(SETTLED * 2);
        cache.get(&path, read).unwrap();
        let never = |_: &str, _| -> Result<String> { panic!("the file has not changed") };
        assert_eq!(*cache.get(&path, never).unwrap().unwrap(), "0199");
    }
}
