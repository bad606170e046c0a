//! Copying files into and out of a running container for `pct push` and `pct pull`.
//!
//! Paths of the container are resolved beneath its root, so that its links cannot reach the host. Names of users and
//! groups are the container's on the way in, the host's on the way out. (PVE: CLI/pct.pm, push and pull)

use super::idmap::IdMap;
use super::monitor;
use super::rootfs::RootDirectory;
use crate::config::guest::GuestKind;
use crate::{Context, Error, Result, Vmid, error::ResultExt, guest};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Owner and permissions of the copy.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Octal permissions.
    pub mode: Option<String>,
    /// Name or number of the owner.
    pub user: Option<String>,
    /// Name or number of the group.
    pub group: Option<String>,
}

impl Attributes {
    fn mode(&self) -> Result<Option<u32>> {
        let parse = |text: &String| {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            mode.ok_or_else(|| Error::new(format!("invalid permissions '{text}'")))
        };
        self.mode.as_ref().map(parse).transpose()
    }
}

/// Copies a file of the host into a container. An existing file is replaced.
pub fn push(ctx: &Context, vmid: Vmid, source: &Path, destination: &str, attributes: &Attributes) -> Result<()> {
    let (root, map) = open_root(ctx, vmid)?;
    let what = || format!("unable to write '{destination}' of CT {vmid}");
    let mut input = File::open(source).context(|| format!("failed to open {}", source.display()))?;
    let mode = attributes.mode()?.unwrap_or(0o644);
    let user = map.user(lookup(&root, "/etc/passwd", attributes.user.as_deref(), "user")?.unwrap_or(0))?;
    let group = map.group(lookup(&root, "/etc/group", attributes.group.as_deref(), "group")?.unwrap_or(0))?;
    let (parent, name) = root.parent_of(destination).context(what)?;
    if root.is_directory(destination) {
        return Err(Error::new(format!("'{destination}' is a directory")).context(what()));
    }
    let temporary = format!(".{name}.pct-push.{}", std::process::id());
    let mut copy = || -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut output = File::from(rustix::fs::openat(&parent, &temporary, flags, Mode::from_raw_mode(0o600))?);
        std::io::copy(&mut input, &mut output)?;
        output.flush()?;
        rustix::fs::fchown(&output, Some(Uid::from_raw(user)), Some(Gid::from_raw(group)))?;
        rustix::fs::fchmod(&output, Mode::from_raw_mode(mode))?;
        rustix::fs::renameat(&parent, &temporary, &parent, name)?;
        Ok(())
    };
    copy()
        .inspect_err(|_| {
            let _ = rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty());
        })
        .context(what)
}

/// Copies a regular file of a container to the host.
pub fn pull(ctx: &Context, vmid: Vmid, source: &str, destination: &Path, attributes: &Attributes) -> Result<()> {
    let (root, _) = open_root(ctx, vmid)?;
    let what = || format!("unable to read '{source}' of CT {vmid}");
    // Without waiting, so that a pipe in its place cannot hold us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut input = File::from(root.open_path(source, flags).context(what)?);
    let stat = rustix::fs::fstat(&input).context(what)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::new("not a regular file").context(what()));
    }
    let mode = attributes.mode()?;
    let host = RootDirectory::open(Path::new("/"), &IdMap::default())?;
    let user = lookup(&host, "/etc/passwd", attributes.user.as_deref(), "user")?;
    let group = lookup(&host, "/etc/group", attributes.group.as_deref(), "group")?;
    let to = || format!("failed to write {}", destination.display());
    let mut output =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(destination).context(to)?;
    std::io::copy(&mut input, &mut output).context(to)?;
    if user.is_some() || group.is_some() {
        std::os::unix::fs::fchown(&output, user, group).context(to)?;
    }
    if let Some(mode) = mode {
        output.set_permissions(std::fs::Permissions::from_mode(mode)).context(to)?;
    }
    Ok(())
}

/// The root of a running container, as its init sees it.
pub fn open_root(ctx: &Context, vmid: Vmid) -> Result<(RootDirectory, IdMap)> {
    let map = IdMap::of(&guest::load(ctx, GuestKind::Lxc, vmid)?.current)?;
    let init = monitor::init(ctx, vmid).ok_or_else(|| Error::new(format!("container '{vmid}' not running!")))?;
    let root = RootDirectory::open(Path::new(&format!("/proc/{}/root", init.pid)), &map)?;
    // The number may have gone to another process before it was opened.
    if !init.is_alive() {
        return Err(Error::new(format!("container '{vmid}' not running!")));
    }
    Ok((root, map))
}

/// The number of a user or group: given as such, or looked up in a file of the root.
fn lookup(root: &RootDirectory, file: &str, name: Option<&str>, kind: &str) -> Result<Option<u32>> {
    let Some(name) = name else { return Ok(None) };
    if let Ok(number) = name.parse() {
        return Ok(Some(number));
    }
    let text = root.read(file)?.unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        fields.nth(1)?.parse().ok()
    });
    found.map(Some).ok_or_else(|| Error::new(format!("{kind} '{name}' not found")))
}
