//! The files of a container, reached from its root and never outside of it.
//!
//! Every path is resolved by the kernel with the container's root as `/` (`openat2`, RESOLVE_IN_ROOT): links of the
//! container lead where they lead for the container. New files belong to the container's root user unless they replace
//! one. Owns reading, replacing and linking; it knows no particular file.

use super::idmap::IdMap;
use crate::{Error, Result, error::ResultExt};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Files that we read or replace as a whole are never longer.
const LONGEST_FILE: u64 = 16 * 1024 * 1024;

/// The root directory of a container.
#[derive(Debug)]
pub struct RootDirectory {
    root: OwnedFd,
    user: u32,
    group: u32,
}

impl RootDirectory {
    /// The root at a path of the host.
    pub fn open(path: &Path, map: &IdMap) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).context(|| path.display().to_string())?;
        Ok(RootDirectory { root, user: map.user(0)?, group: map.group(0)? })
    }

    /// Opens what a path names.
    pub fn open_path(&self, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
        self.open_mode(path, flags, Mode::empty())
    }

    fn open_mode(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        // A rename elsewhere may make the kernel ask for another try.
        for _ in 0..16 {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::AGAIN)
    }

    /// What a path is, links followed; none when it does not exist.
    pub fn stat(&self, path: &str) -> Option<Stat> {
        rustix::fs::fstat(self.open_path(path, OFlags::PATH).ok()?).ok()
    }

    /// Whether a path is a regular file.
    pub fn is_file(&self, path: &str) -> bool {
        self.stat(path).is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// Whether a path is a directory.
    pub fn is_directory(&self, path: &str) -> bool {
        self.stat(path).is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
    }

    /// The text of a file; none when there is none.
    pub fn read(&self, path: &str) -> Result<Option<String>> {
        Ok(self.read_bytes(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The bytes of a file; none when there is none.
    pub fn read_bytes(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let what = || format!("unable to read '{path}' of the container");
        // Opening a device or pipe may do something; so it is looked at first, and then that same file is opened.
        let found = match self.open_path(path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            found => found.context(what)?,
        };
        let stat = rustix::fs::fstat(&found).context(what)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let again = format!("/proc/self/fd/{}", found.as_raw_fd());
        let file = File::open(again).context(what)?;
        let mut bytes = Vec::new();
        file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).context(what)?;
        if bytes.len() as u64 > LONGEST_FILE {
            return Err(Error::new("file too long").context(what()));
        }
        Ok(Some(bytes))
    }

    /// Replaces a file in one step. A link in its place is replaced, not followed. An existing file keeps owner and mode.
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let what = || format!("unable to write '{path}' of the container");
        let (parent, name) = self.parent_of(path).context(what)?;
        let temporary = format!("{name}.pve-tmp.{}", std::process::id());
        let old = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
        let old = old.filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let (user, group, mode) =
            old.map_or((self.user, self.group, mode), |stat| (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777));
        let write = || -> std::io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&parent, &temporary, flags, Mode::from_raw_mode(0o600))?);
            file.write_all(text.as_ref())?;
            rustix::fs::fchown(&file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            rustix::fs::renameat(&parent, &temporary, &parent, name)?;
            Ok(())
        };
        write()
            .inspect_err(|_| {
                let _ = rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty());
            })
            .context(what)
    }

    /// Makes a symbolic link, in place of whatever file was there.
    pub fn symlink(&self, target: &str, path: &str) -> Result<()> {
        let what = || format!("unable to make link '{path}' of the container");
        let (parent, name) = self.parent_of(path).context(what)?;
        let temporary = format!("{name}.pve-tmp.{}", std::process::id());
        rustix::fs::symlinkat(target, &parent, &temporary).context(what)?;
        let owner = (Some(Uid::from_raw(self.user)), Some(Gid::from_raw(self.group)));
        rustix::fs::chownat(&parent, &temporary, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)
            .and_then(|()| rustix::fs::renameat(&parent, &temporary, &parent, name))
            .inspect_err(|_| {
                let _ = rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty());
            })
            .context(what)
    }

    /// Where a symbolic link points to; none when the path is none.
    pub fn read_link(&self, path: &str) -> Option<String> {
        let (parent, name) = self.parent_of(path).ok()?;
        rustix::fs::readlinkat(parent, name, Vec::new()).ok()?.into_string().ok()
    }

    /// Removes a file or link; an absent one is no error.
    pub fn remove(&self, path: &str) -> Result<()> {
        let what = || format!("unable to remove '{path}' of the container");
        match self.parent_of(path).map(|(parent, name)| rustix::fs::unlinkat(parent, name, AtFlags::empty())) {
            Ok(Ok(()) | Err(Errno::NOENT | Errno::NOTDIR)) | Err(_) => Ok(()),
            Ok(Err(error)) => Err(error).context(what),
        }
    }

    /// Makes an empty file that something can be mounted on; an existing one stays.
    pub fn make_mount_target(&self, path: &str) -> Result<()> {
        let what = || format!("unable to make '{path}' of the container");
        if self.stat(path).is_some() {
            return Ok(());
        }
        let (parent, name) = self.parent_of(path).context(what)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = self.as_owner(|| rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600)));
        made.map(drop).context(what)
    }

    /// Does something with files as the container's root, as which file systems of the container's own want it: the
    /// host's root does not exist there.
    fn as_owner<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Back;
        impl Drop for Back {
            fn drop(&mut self) {
                // SAFETY: plain system calls about this thread alone.
                unsafe { (libc::setfsuid(0), libc::setfsgid(0)) };
            }
        }
        let _back = Back;
        // SAFETY: plain system calls about this thread alone; `Back` undoes them.
        unsafe { (libc::setfsgid(self.group), libc::setfsuid(self.user)) };
        work()
    }

    /// The directory at a path, made with all its parents if it is missing.
    pub fn make_directories(&self, path: &str) -> Result<OwnedFd> {
        let what = || format!("unable to make directory '{path}' of the container");
        let mut so_far = String::from("/");
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if matches!(name, "." | "..") {
                return Err(Error::new(format!("{path} contains illegal character sequences")));
            }
            let parent = self.open_path(&so_far, OFlags::PATH | OFlags::DIRECTORY).context(what)?;
            match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                // The container's own file system, which does not know the host's root.
                Err(Errno::OVERFLOW) => {
                    self.as_owner(|| rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))).context(what)?;
                }
                Ok(()) => {
                    let owner = (Some(Uid::from_raw(self.user)), Some(Gid::from_raw(self.group)));
                    rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).context(what)?;
                }
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error).context(what),
            }
            so_far = format!("{}/{name}", so_far.trim_end_matches('/'));
        }
        self.open_path(&so_far, OFlags::PATH | OFlags::DIRECTORY).context(what)
    }

    /// The directory that holds a path's last name, and that name.
    pub fn parent_of<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str)> {
        let path = path.trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("/", path));
        if matches!(name, "" | "." | "..") {
            return Err(Error::new(format!("'{path}' is no file name")));
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        Ok((self.open_path(parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn root(directory: &Path) -> RootDirectory {
        // Tests may run without root; owners stay as they are then.
        let map = IdMap::default();
        let mut root = RootDirectory::open(directory, &map).unwrap();
        let own = fs::metadata(directory).unwrap();
        use std::os::unix::fs::MetadataExt;
        (root.user, root.group) = (own.uid(), own.gid());
        root
    }

    #[test]
    fn links_never_lead_out() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "host").unwrap();
        let inside = tempfile::tempdir().unwrap();
        symlink(outside.path(), inside.path().join("etc")).unwrap();
        symlink("../../../../../../etc/passwd", inside.path().join("passwd")).unwrap();
        let root = root(inside.path());
        assert_eq!(root.read("/etc/secret").unwrap(), None);
        assert_eq!(root.read("passwd").unwrap(), None);
        assert!(root.write("/etc/secret", "container", 0o644).is_err());
        assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "host");
        assert!(root.make_directories("/a/../b").is_err());
    }

    #[test]
    fn absolute_links_are_followed_within_the_root() {
        let inside = tempfile::tempdir().unwrap();
        let root = root(inside.path());
        root.make_directories("/usr/etc").unwrap();
        symlink("/usr/etc", inside.path().join("etc")).unwrap();
        root.write("/etc/hostname", "web\n", 0o644).unwrap();
        assert_eq!(fs::read_to_string(inside.path().join("usr/etc/hostname")).unwrap(), "web\n");
        assert_eq!(root.read("/etc/hostname").unwrap().as_deref(), Some("web\n"));
        assert_eq!(root.read_link("/etc").as_deref(), Some("/usr/etc"));
    }

    #[test]
    fn replacing_keeps_modes_and_replaces_links() {
        let inside = tempfile::tempdir().unwrap();
        let root = root(inside.path());
        root.write("shadow", "a", 0o644).unwrap();
        fs::set_permissions(inside.path().join("shadow"), fs::Permissions::from_mode(0o640)).unwrap();
        root.write("/shadow", "b", 0o644).unwrap();
        assert_eq!(root.stat("shadow").unwrap().st_mode & 0o777, 0o640);
        symlink("shadow", inside.path().join("link")).unwrap();
        root.write("/link", "c", 0o600).unwrap();
        assert_eq!(root.read("shadow").unwrap().as_deref(), Some("b"));
        root.symlink("shadow", "link").unwrap();
        assert_eq!(root.read("link").unwrap().as_deref(), Some("b"));
        root.remove("link").unwrap();
        root.remove("/no/such/file").unwrap();
        assert_eq!(fs::read_dir(inside.path()).unwrap().count(), 1);
    }
}
