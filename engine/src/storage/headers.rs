//! Headers of images as they were last read, so that a list of thousands of volumes opens only those that have changed.
//!
//! What was read counts as long as inode, size and times of the file stay, which are asked of the file system each time:
//! a change by hand, by QEMU or by another node is seen at once. A file that changed just now is read again, because the
//! clock of its file system may not move on between two changes. Only this process knows what is kept here.

use super::image::{self, Header};
use crate::Result;
use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Headers that are kept at most, about 150 bytes each.
const LARGEST: usize = 50_000;

/// File systems stamp with a clock that ticks; the coarsest one ticks every two seconds.
const TICK: Duration = Duration::from_secs(3);

/// Which file, on which file system.
type Place = (u64, u64);

/// What changes with each change of a file: size, times of data and inode.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp {
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Another change would have another stamp.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let latest = u64::try_from(self.changed.0.max(self.modified.0)).unwrap_or(0);
        now.saturating_sub(TICK).as_secs() > latest
    }
}

static HEADERS: LazyLock<Mutex<HashMap<Place, (Stamp, Header)>>> = LazyLock::new(Mutex::default);

/// The header of an image whose metadata were read just now.
pub fn header(path: &Path, metadata: &Metadata) -> Result<Header> {
    let (place, stamp) = ((metadata.dev(), metadata.ino()), Stamp::of(metadata));
    let kept = || HEADERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, header)) = kept().get(&place)
        && *of == stamp
    {
        return Ok(header.clone());
    }
    let header = image::read(path)?;
    if stamp.is_settled() {
        let mut kept = kept();
        if kept.len() >= LARGEST {
            kept.clear();
        }
        kept.insert(place, (stamp, header.clone()));
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File, FileTimes};
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    fn qcow2(size: u64) -> Vec<u8> {
        let mut bytes = vec![0; 104];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x02");
        bytes[24..32].copy_from_slice(&size.to_be_bytes());
        bytes
    }

    fn size(path: &Path) -> u64 {
        header(path, &fs::metadata(path).unwrap()).unwrap().size
    }

    #[test]
    fn a_change_is_seen_at_once_even_with_its_time_set_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vm-100-disk-0.qcow2");
        let mut file = File::create(&path).unwrap();
        file.write_all(&qcow2(1 << 30)).unwrap();
        assert_eq!(size(&path), 1 << 30);
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        file.write_all_at(&qcow2(2 << 30), 0).unwrap();
        file.set_times(FileTimes::new().set_modified(before)).unwrap();
        assert_eq!(size(&path), 2 << 30);
        // Another file under the name.
        fs::write(directory.path().join("new"), qcow2(3 << 30)).unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(size(&path), 3 << 30);
    }

    #[test]
    fn only_what_has_settled_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        fs::write(&path, qcow2(1)).unwrap();
        let now = fs::metadata(&path).unwrap();
        header(&path, &now).unwrap();
        let kept = |metadata: &Metadata| HEADERS.lock().unwrap().contains_key(&(metadata.dev(), metadata.ino()));
        assert!(!kept(&now));
        let mut old = Stamp::of(&now);
        assert!(!old.is_settled());
        (old.modified.0, old.changed.0) = (old.modified.0 - 10, old.changed.0 - 10);
        assert!(old.is_settled());
    }
}
