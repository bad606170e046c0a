//! Templates that are unpacked once, and shared by reference with all containers that are made of them.
//!
//! ```text
//! STORAGE/images/.unpacked/NAME-HASH/   from: what it was made of (and the file that users hold a lock on)
//!                                       root: the root volume as it is before a container has a name
//! ```
//! Only storages whose file system can share blocks have this; elsewhere each container unpacks for itself. An entry belongs
//! to one state of one template (size, time, inode), one format and size, one map of ids. Who comes first unpacks, the others
//! wait for that in a queue. Entries go when their template has changed or is gone, when there are more than a few, when
//! nobody has used them for a week, and when the storage becomes full. Removing all of them is always right.

use super::idmap::IdMap;
use super::template::{self, Archive};
use super::volume::MountPoint;
use super::{disk, monitor};
use crate::storage::{self, Format, NewVolume, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Task, Vmid, command, error::ResultExt, file};
use rustix::fs::{FlockOperation, Timestamps, flock};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Most entries of a storage.
const MOST_ENTRIES: usize = 4;
/// How long an entry stays that nobody uses.
const LONGEST_REST: Duration = Duration::from_secs(7 * 24 * 3600);
/// The part of a storage that entries leave free.
const KEPT_FREE: u64 = 10;

/// Makes the root volume of a new container by reference to its template, and enters it into the mount point. None where
/// the storage cannot, or the archive must be unpacked by itself.
pub fn root_volume(
    task: &Task,
    vmid: Vmid,
    template: &VolumeId,
    archive: &Path,
    point: &mut MountPoint,
    map: &IdMap,
) -> Result<Option<VolumeId>> {
    let ctx = task.ctx;
    let Some((storage, size, format)) = disk::wanted(ctx, point)? else { return Ok(None) };
    let storage = storage.to_owned();
    let Some(place) = storage::copy::sharing_place(ctx, &storage)? else { return Ok(None) };
    if super::oci::Archive::open(archive)?.is_some() {
        return Ok(None);
    }
    let origin = Origin::of(archive)?;
    let text = format!("{}\n{format} {size} {map:?}\n", origin.print());
    let name = archive.file_name().unwrap_or_default().to_string_lossy();
    let key = format!("{name}-{}", &file::digest(&text)[..16]);
    tidy(&place, Some(&key));
    let new = NewVolume { vmid, format: Some(format), name: None, size, kind: VolumeKind::ContainerRoot };
    if !place.join(&key).exists() {
        let _queue = task.lock(&format!("unpacked-{storage}-{key}"))?;
        if !place.join(&key).exists() {
            task.log(format!("extracting archive '{}'", archive.display()));
            let made = make(task, &storage, &new, (&place, &key), archive, map, &origin);
            // What is wrong with the archive is told where it is unpacked for this container alone.
            if made.inspect_err(|error| task.log(format!("{template}: {error}"))).is_err() {
                task.check_abort()?;
                return Ok(None);
            }
        }
    }
    let Some(_held) = hold(&place.join(&key))? else { return Ok(None) };
    let source = bytes_of(&place.join(&key).join("root"));
    let Some(id) = storage::copy::share(ctx, &source, &storage, &new)? else { return Ok(None) };
    point.set_volume(id.to_string(), Some(size));
    Ok(Some(id))
}

/// Where the bytes of a root are: in itself, or where BTRFS keeps those of an image.
fn bytes_of(root: &Path) -> PathBuf {
    let image = root.join("disk.raw");
    if image.is_file() && !root.join("etc").exists() { image } else { root.to_owned() }
}

/// One state of a template's file.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    path: PathBuf,
    state: String,
}

impl Origin {
    fn of(path: &Path) -> Result<Self> {
        let found = fs::metadata(path).context(|| path.display().to_string())?;
        let state = format!("{} {}.{:09} {}", found.len(), found.mtime(), found.mtime_nsec(), found.ino());
        Ok(Origin { path: path.to_owned(), state })
    }

    fn print(&self) -> String {
        format!("{}\n{}", self.state, self.path.display())
    }

    /// Whether the file is still as it was.
    fn is_current(text: &str) -> bool {
        let Some((state, path)) = text.trim_end().split_once('\n') else { return false };
        Origin::of(Path::new(path)).is_ok_and(|now| now.state == state)
    }
}

/// Keeps an entry from being removed, and notes that it is used. None when it was removed a moment ago.
fn hold(entry: &Path) -> Result<Option<File>> {
    let path = entry.join("from");
    let Ok(file) = File::options().read(true).write(true).open(&path) else { return Ok(None) };
    flock(&file, FlockOperation::LockShared).context(|| path.display().to_string())?;
    if !path.exists() {
        return Ok(None);
    }
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now })?;
    Ok(Some(file))
}

/// Unpacks a template into an entry of its own.
fn make(
    task: &Task,
    storage: &str,
    new: &NewVolume,
    (place, key): (&Path, &str),
    archive: &Path,
    map: &IdMap,
    origin: &Origin,
) -> Result<()> {
    let ctx = task.ctx;
    let fill = |root: &Path| -> Result<()> {
        let archive = Archive::File(archive.to_owned());
        let log = |line: &str| task.log(line);
        if new.format == Some(Format::Subvol) {
            disk::own(root, map)?;
            return template::unpack(&archive, root, map, None, log);
        }
        disk::format_image(root, map, &log)?;
        let stage = monitor::directory(ctx, new.vmid).join("stage");
        fs::create_dir_all(&stage).context(|| format!("unable to create '{}'", stage.display()))?;
        super::mount::in_own_namespace(|| {
            command::run("mount", &["-n".as_ref(), "-o".as_ref(), "loop".as_ref(), root, stage.as_path()])?;
            let unpacked = template::unpack(&archive, &stage, map, None, log);
            // The image must be whole before it is shared.
            let unmounted = rustix::mount::unmount(&stage, rustix::mount::UnmountFlags::empty());
            unpacked.and(unmounted.context(|| "unable to unmount the image"))
        })?;
        File::open(root)?.sync_all().map_err(Error::from)
    };
    let note = |entry: &Path| fs::write(entry.join("from"), format!("{}\n", origin.print())).map_err(Error::from);
    storage::copy::make_shared(ctx, storage, new, &place.join(key), &fill, &note)
}

/// Removes what must not or need not stay; `used` is in use now. What cannot be removed is tried again next time.
pub fn tidy(place: &Path, used: Option<&str>) {
    let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
    // What has no note is the rest of one that was removed; what begins with a point is being made.
    let entries = entries.filter(|path| {
        let is_rest = !path.join("from").exists();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_rest && !is_hidden {
            let _ = fs::remove_dir_all(path);
        }
        !is_rest
    });
    let mut known: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|path| Some((fs::metadata(path.join("from")).ok()?.modified().ok()?, path)))
        .filter(|(_, path)| used.is_none_or(|used| !path.ends_with(used)))
        .collect();
    known.sort_unstable_by(|one, other| other.cmp(one));
    let is_full =
        rustix::fs::statvfs(place).is_ok_and(|space| space.f_bavail.saturating_mul(KEPT_FREE) < space.f_blocks);
    for (index, (time, path)) in known.iter().enumerate() {
        let text = fs::read_to_string(path.join("from")).unwrap_or_default();
        let rests = time.elapsed().is_ok_and(|rest| rest > LONGEST_REST);
        let room = MOST_ENTRIES - usize::from(used.is_some());
        if is_full || rests || index >= room || !Origin::is_current(&text) {
            remove(path);
        }
    }
}

fn remove(entry: &Path) {
    let Ok(file) = File::open(entry.join("from")) else { return };
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        // Without its note it is used by nobody; what is left of it then goes when somebody comes again.
        let _ = fs::remove_file(entry.join("from"));
        let _ = fs::remove_dir_all(entry);
    }
}

/// Removes entries of templates that are gone, on all storages; a daemon that starts does this.
pub fn tidy_all(ctx: &Context) -> Result<()> {
    for place in storage::copy::sharing_places(ctx)? {
        tidy(&place, None);
    }
    Ok(())
}
