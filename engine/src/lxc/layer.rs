//! One layer of an image, put on top of the files that are there.
//!
//! Names are resolved within the root by the kernel, owners are the container's, device nodes are left out, and files
//! named `.wh.X` remove X of the layers below. (OCI image specification, "Image Layer Filesystem Changeset")

use super::idmap::IdMap;
use super::rootfs::RootDirectory;
use crate::{Error, Result, bail, error::ResultExt};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use tar::EntryType;

const WHITEOUT: &str = ".wh.";
const OPAQUE: &str = ".wh..wh..opq";
/// A tree that is deeper is made to exhaust whoever removes it.
const DEEPEST: usize = 256;

/// How a layer is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// By a program that unpacks its standard input.
    By(&'static str),
}

impl Packing {
    /// By the media type of a layer.
    pub fn of(kind: &str) -> Result<Self> {
        match kind.rsplit(['.', '+']).next().unwrap_or_default() {
            "gzip" => Ok(Packing::By("gzip")),
            "zstd" => Ok(Packing::By("zstd")),
            "tar" => Ok(Packing::Plain),
            _ => bail!("unsupported OCI layer type '{}'", kind.escape_debug()),
        }
    }
}

/// Unpacks a layer.
pub fn apply(mut packed: impl Read + Send, packing: Packing, root: &RootDirectory, map: &IdMap) -> Result<()> {
    let Packing::By(program) = packing else { return unpack(packed, root, map) };
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context(|| format!("unable to start '{program}'"))?;
    let mut input = child.stdin.take().expect("standard input is a pipe");
    let output = child.stdout.take().expect("standard output is a pipe");
    let unpacked = std::thread::scope(|scope| {
        // It ends with the data, or when nobody reads any more.
        scope.spawn(move || drop(std::io::copy(&mut packed, &mut input)));
        unpack(output, root, map)
    });
    let status = child.wait().context(|| program)?;
    unpacked?;
    if status.success() { Ok(()) } else { Err(Error::new(format!("'{program}' could not unpack the layer"))) }
}

fn unpack(reader: impl Read, root: &RootDirectory, map: &IdMap) -> Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        crate::task::abort::check()?;
        let mut entry = entry?;
        let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| Error::new("name is not UTF-8"))?;
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        if path.is_empty() || path == "." {
            continue;
        }
        if path.split('/').any(|name| name == "..") {
            bail!("'{}' contains '..'", path.escape_debug());
        }
        place(&mut entry, &path, root, map).context(|| path.escape_debug().to_string())?;
    }
    Ok(())
}

fn place(entry: &mut tar::Entry<impl Read>, path: &str, root: &RootDirectory, map: &IdMap) -> Result<()> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = root.make_directories(&format!("/{parent}"))?;
    if name == OPAQUE {
        return empty(&parent, DEEPEST);
    }
    if let Some(gone) = name.strip_prefix(WHITEOUT) {
        return remove(&parent, gone, DEEPEST);
    }
    let header = entry.header();
    let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
    let id = |number: u64| u32::try_from(number).map_err(|_| Error::new("owner out of range"));
    let (user, group) = (map_or_same(map, id(header.uid()?)?, true)?, map_or_same(map, id(header.gid()?)?, false)?);
    let owner = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
    match header.entry_type() {
        EntryType::Directory => {
            let there = rustix::fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok();
            if there.is_none_or(|stat| FileType::from_raw_mode(stat.st_mode) != FileType::Directory) {
                remove(&parent, name, DEEPEST)?;
                rustix::fs::mkdirat(&parent, name, mode)?;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
            rustix::fs::fchown(&directory, owner.0, owner.1)?;
            rustix::fs::fchmod(&directory, mode)?;
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            remove(&parent, name, DEEPEST)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file = File::from(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?);
            std::io::copy(entry, &mut file)?;
            rustix::fs::fchown(&file, owner.0, owner.1)?;
            rustix::fs::fchmod(&file, mode)?;
        }
        EntryType::Symlink => {
            let target = entry.link_name_bytes().ok_or_else(|| Error::new("link without target"))?.into_owned();
            remove(&parent, name, DEEPEST)?;
            rustix::fs::symlinkat(target.as_slice(), &parent, name)?;
            rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        EntryType::Link => {
            let target = entry.link_name_bytes().ok_or_else(|| Error::new("link without target"))?.into_owned();
            let target = String::from_utf8(target).map_err(|_| Error::new("name is not UTF-8"))?;
            let target = format!("/{}", target.trim_start_matches("./").trim_start_matches('/'));
            let (directory, file) = root.parent_of(&target)?;
            if rustix::fs::statat(&directory, file, AtFlags::SYMLINK_NOFOLLOW).is_err() {
                bail!("target '{}' of a hard link is missing", target.escape_debug());
            }
            let temporary = format!(".{}.oci-link", std::process::id());
            rustix::fs::linkat(&directory, file, &parent, &temporary, AtFlags::empty())?;
            remove(&parent, name, DEEPEST)?;
            rustix::fs::renameat(&parent, &temporary, &parent, name)?;
        }
        EntryType::Fifo => {
            remove(&parent, name, DEEPEST)?;
            rustix::fs::mknodat(&parent, name, FileType::Fifo, mode, 0)?;
            rustix::fs::chownat(&parent, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // Containers get the devices that their configuration names, no others.
        _ => {}
    }
    Ok(())
}

/// An id of the host; a privileged container's are the host's own.
fn map_or_same(map: &IdMap, id: u32, is_user: bool) -> Result<u32> {
    match (map.is_empty(), is_user) {
        (true, _) => Ok(id),
        (false, true) => map.user(id),
        (false, false) => map.group(id),
    }
}

/// Removes whatever has this name; nothing there is no error.
fn remove(parent: &impl AsFd, name: &str, depth: usize) -> Result<()> {
    if matches!(name, "" | "." | "..") || name.contains('/') {
        bail!("'{}' is no file name", name.escape_debug());
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    empty(&directory, depth)?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn empty(directory: &OwnedFd, depth: usize) -> Result<()> {
    let Some(depth) = depth.checked_sub(1) else { bail!("directories are too deep") };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let readable = rustix::fs::openat(directory, ".", flags, Mode::empty())?;
    for entry in Dir::read_from(&readable)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !matches!(name.as_str(), "." | "..") {
            remove(&readable, &name, depth)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    fn layer(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: EntryType, link: &str, text: &str) {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o755);
        let own = |id: u32| u64::from(id);
        header.set_uid(own(rustix::process::geteuid().as_raw()));
        header.set_gid(own(rustix::process::getegid().as_raw()));
        header.set_size(text.len() as u64);
        if !link.is_empty() {
            header.set_link_name_literal(link).unwrap();
        }
        header.set_cksum();
        builder.append(&header, text.as_bytes()).unwrap();
    }

    fn put(layers: &[Vec<u8>], at: &Path) -> Result<()> {
        let map = IdMap::default();
        let root = RootDirectory::open(at, &map)?;
        layers.iter().try_for_each(|layer| apply(layer.as_slice(), Packing::Plain, &root, &map))
    }

    #[test]
    fn upper_layers_replace_and_remove() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let lower = layer(|b| {
            add(b, "etc/a", EntryType::Regular, "", "one");
            add(b, "etc/b", EntryType::Regular, "", "two");
            add(b, "old/deep/file", EntryType::Regular, "", "x");
            add(b, "keep/x", EntryType::Regular, "", "x");
            add(b, "hard", EntryType::Link, "etc/b", "");
        });
        let upper = layer(|b| {
            add(b, "etc/a", EntryType::Regular, "", "new");
            add(b, "etc/.wh.b", EntryType::Regular, "", "");
            add(b, ".wh.old", EntryType::Regular, "", "");
            add(b, "keep/.wh..wh..opq", EntryType::Regular, "", "");
            add(b, "keep/y", EntryType::Regular, "", "y");
        });
        put(&[lower, upper], directory.path()).unwrap();
        let read = |path: &str| fs::read_to_string(directory.path().join(path)).ok();
        assert_eq!(read("etc/a").as_deref(), Some("new"));
        assert_eq!((read("etc/b"), read("keep/x"), read("old/deep/file")), (None, None, None));
        assert_eq!((read("keep/y").as_deref(), read("hard").as_deref()), (Some("y"), Some("two")));
    }

    #[test]
    fn no_layer_reaches_outside() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "host").unwrap();
        let out = outside.path().to_str().unwrap();
        // The link leads to a directory of that name within the root, which does not exist.
        let through = layer(|b| {
            add(b, "out", EntryType::Symlink, out, "");
            add(b, "out/secret", EntryType::Regular, "", "evil");
        });
        assert!(put(&[through], directory.path()).is_err());
        let hard = layer(|b| add(b, "hard", EntryType::Link, secret.to_str().unwrap(), ""));
        assert!(put(&[hard], directory.path()).is_err());
        let up = layer(|b| add(b, "../up", EntryType::Regular, "", "evil"));
        assert!(put(&[up], directory.path()).is_err());
        let white = layer(|b| add(b, ".wh...", EntryType::Regular, "", ""));
        assert!(put(&[white], directory.path()).is_err());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "host");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn packings_are_told_by_the_type() {
        assert_eq!(Packing::of("application/vnd.oci.image.layer.v1.tar+gzip").unwrap(), Packing::By("gzip"));
        assert_eq!(Packing::of("application/vnd.docker.image.rootfs.diff.tar.gzip").unwrap(), Packing::By("gzip"));
        assert_eq!(Packing::of("application/vnd.oci.image.layer.v1.tar").unwrap(), Packing::Plain);
        assert!(Packing::of("application/x").is_err());
    }
}
