//! Images on their way: made below a hidden directory beside their place and moved there in one step.
//!
//! The hidden directory is named after the process that works in it, and what lies in it has the name that it will get.
//! So a name is reserved by the directory's existence, nobody ever lists half an image, and what a killed process has
//! left behind is known as such: whoever comes next removes it, and the name is free again.

use super::images;
use super::interrupted;
use super::name::{ImageName, Name, disk_number, parse_image_file};
use super::path_of;
use crate::process::ProcessId;
use crate::storage::content::Content;
use crate::storage::driver::Storage;
use crate::storage::unfinished::Unfinished;
use crate::storage::volume::Format;
use crate::{Error, Result, Vmid, bail, error::ResultExt};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// How hidden directories begin.
const PREFIX: &str = ".making-";

/// Most disks of a guest on one storage.
const MAX_VOLUMES_PER_GUEST: u32 = 1024;

/// A reserved name with a place to work at.
pub struct Making {
    image: ImageName,
    hidden: PathBuf,
    /// What is moved at the end.
    entry: PathBuf,
    /// Where the bytes go: the entry itself or something in it.
    inside: PathBuf,
    target: PathBuf,
}

/// How the images of a type lie in a guest's directory.
pub trait Layout {
    /// The entry of the guest's directory that an image is.
    fn entry(&self, image: &ImageName) -> String {
        image.file.clone()
    }

    /// The path within the entry where the bytes are; empty if the entry itself is the image.
    fn inside(&self, _image: &ImageName) -> &'static str {
        ""
    }
}

/// Images are the entries.
pub struct Plain;

impl Layout for Plain {}

impl Making {
    /// Reserves a name: the wanted one, or the next free one.
    pub fn reserve(
        storage: &Storage,
        layout: &dyn Layout,
        vmid: Vmid,
        format: Format,
        base: Option<(Vmid, String)>,
        named: Option<&str>,
    ) -> Result<Self> {
        let directory = guest_directory(storage, vmid)?;
        remove_abandoned(storage, &directory);
        let _lock = storage.lock()?;
        let taken = taken(&directory)?;
        let file = match named {
            Some(name) => name.to_owned(),
            None => next_disk_name(storage, &taken, vmid, format)?,
        };
        let is_base = parse_image_file(&file)?.1;
        let image = ImageName { vmid, base, format, is_base, file };
        // Looks at links in the way before anything is made.
        path_of(storage, &Name::Image(image.clone()))?;
        let name = layout.entry(&image);
        let target = directory.join(&name);
        if taken.contains(&name) || fs::symlink_metadata(&target).is_ok() {
            bail!("disk image '{}' already exists", target.display());
        }
        let hidden = hide(storage, &directory)?;
        let entry = hidden.join(&name);
        let inside = match layout.inside(&image) {
            "" => entry.clone(),
            within => entry.join(within),
        };
        let making = Making { image, hidden, entry, inside, target };
        // The entry reserves the name; whoever fills it replaces it.
        fs::write(making.hidden.join(format!("{name}.reserved")), b"").context(|| "unable to create image")?;
        Ok(making)
    }

    /// What it will be called.
    pub fn image(&self) -> &ImageName {
        &self.image
    }

    /// What is moved at the end.
    pub fn entry(&self) -> &Path {
        &self.entry
    }

    /// Where the bytes go.
    pub fn inside(&self) -> &Path {
        &self.inside
    }

    /// The place that it will get.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Gives the image its place; the answer is its name.
    pub fn place(self) -> Result<String> {
        match rustix::fs::renameat_with(CWD, &self.entry, CWD, &self.target, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // Some network file systems know no flags; the reservation has to do there.
            Err(Errno::INVAL) => fs::rename(&self.entry, &self.target)?,
            Err(Errno::EXIST) => bail!("disk image '{}' already exists", self.target.display()),
            Err(error) => return Err(error).context(|| format!("unable to create '{}'", self.target.display())),
        }
        Ok(self.image.to_string())
    }
}

impl Unfinished for Making {
    fn path(&self) -> &Path {
        &self.inside
    }

    fn format(&self) -> Format {
        self.image.format
    }

    fn reads_as_zeros(&self) -> bool {
        true
    }

    fn keep(self: Box<Self>, place: &Path) -> Result<()> {
        fs::rename(&self.entry, place).context(|| format!("unable to create '{}'", place.display()))
    }

    fn finish(self: Box<Self>) -> Result<String> {
        self.place()
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        // What cannot be removed now is removed by whoever comes next.
        let _ = fs::remove_dir_all(&self.hidden);
        images::remove_empty_parent(&self.hidden);
    }
}

/// A new hidden directory of this process: whatever it holds may be removed when the process is gone.
pub fn hide(storage: &Storage, directory: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let ProcessId { pid, start } = ProcessId::current();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let hidden = directory.join(format!("{PREFIX}{}-{pid}-{start}-{number}", storage.ctx.node));
    let place = || format!("unable to create '{}'", hidden.display());
    loop {
        fs::create_dir_all(directory).context(|| format!("unable to create '{}'", directory.display()))?;
        match fs::create_dir(&hidden) {
            // Somebody has removed the guest's empty directory in between.
            Err(error) if error.kind() == ErrorKind::NotFound => crate::task::abort::check()?,
            other => {
                other.context(place)?;
                return Ok(hidden);
            }
        }
    }
}

/// Takes an entry out of sight and removes it. A killed process leaves it to whoever comes next, but nobody lists it.
pub fn remove_hidden(storage: &Storage, path: &Path) -> Result<()> {
    let Some(directory) = path.parent() else { bail!("'{}' has no directory", path.display()) };
    let hidden = match hide_existing(storage, directory, path)? {
        Some(hidden) => hidden,
        None => return Ok(()),
    };
    fs::remove_dir_all(&hidden).context(|| format!("unable to remove '{}'", path.display()))
}

fn hide_existing(storage: &Storage, directory: &Path, path: &Path) -> Result<Option<PathBuf>> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(None);
    }
    let hidden = hide(storage, directory)?;
    let result = fs::rename(path, hidden.join("removed"));
    match result {
        Ok(()) => Ok(Some(hidden)),
        Err(error) => {
            let _ = fs::remove_dir(&hidden);
            if error.kind() == ErrorKind::NotFound { Ok(None) } else { Err(Error::from(error)) }
        }
    }
}

/// The process of this node that works in a hidden directory.
fn owner(storage: &Storage, name: &str) -> Option<ProcessId> {
    let mut fields = name.strip_prefix(PREFIX)?.rsplitn(4, '-');
    let (_number, start, pid) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next()? != storage.ctx.node {
        return None;
    }
    Some(ProcessId { pid: pid.parse().ok()?, start: start.parse().ok()? })
}

/// Where a guest's images lie.
fn guest_directory(storage: &Storage, vmid: Vmid) -> Result<PathBuf> {
    Ok(storage.entry.content_directory(Content::Images)?.join(vmid.to_string()))
}

/// Removes what killed processes of this node have left of a guest: hidden entries, and the directory if it is empty.
pub fn remove_abandoned_of(storage: &Storage, vmid: Vmid) {
    let Ok(directory) = guest_directory(storage, vmid) else { return };
    remove_abandoned(storage, &directory);
    if let Ok(_lock) = storage.lock() {
        // Fails, as wanted, while something is in it.
        let _ = fs::remove_dir(directory);
    }
}

/// Removes what killed processes of this node have left in a guest's directory.
fn remove_abandoned(storage: &Storage, directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if is_abandoned(storage, &entry) {
            // Another process may be doing the same, and an image that cannot be repaired says so when it is used.
            let _ = interrupted::settle(&entry.path());
        }
    }
}

/// Removes hidden directories of killed processes of this node where no images lie.
pub fn remove_abandoned_in(storage: &Storage, directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if is_abandoned(storage, &entry) {
            // Another process may be doing the same.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether an entry is a hidden directory of a process of this node that is gone.
pub fn is_abandoned(storage: &Storage, entry: &fs::DirEntry) -> bool {
    let name = entry.file_name();
    name.to_str().and_then(|name| owner(storage, name)).is_some_and(|process| !process.is_alive())
}

/// Entries of a guest's directory, those that are being made included. These are read first: an image that is moved to
/// its place meanwhile is seen at one of both.
fn taken(directory: &Path) -> Result<Vec<String>> {
    let names = |path: &Path| -> Result<Vec<String>> {
        match fs::read_dir(path) {
            Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).context(|| format!("unable to read '{}'", path.display())),
        }
    };
    let mut taken = Vec::new();
    for name in names(directory)?.iter().filter(|name| name.starts_with(PREFIX)) {
        let reserved = names(&directory.join(name))?;
        taken.extend(reserved.iter().filter_map(|name| Some(name.strip_suffix(".reserved")?.to_owned())));
    }
    taken.extend(names(directory)?);
    Ok(taken)
}

fn next_disk_name(storage: &Storage, taken: &[String], vmid: Vmid, format: Format) -> Result<String> {
    let numbers: Vec<u32> = taken.iter().filter_map(|name| disk_number(name, vmid)).collect();
    let number = (0..MAX_VOLUMES_PER_GUEST).find(|number| !numbers.contains(number)).ok_or_else(|| {
        Error::new(format!("unable to allocate an image name for VM {vmid} in storage '{}'", storage.id))
    })?;
    let prefix = if format == Format::Subvol { "subvol" } else { "vm" };
    Ok(format!("{prefix}-{vmid}-disk-{number}.{format}"))
}
