//! A container's mounts, made in a mount namespace of their own.
//!
//! ```text
//! worker: unshare ── mount volumes below DIR/rootfs ── liblxc start
//!                                                              └─ monitor and container keep the namespace alive
//! ```
//! Nothing of it is seen on the host, and nothing must be undone: when the last process of the namespace ends, in
//! whatever way, the kernel drops its mounts, and loop devices detach by themselves. Host mounts that come and go later
//! are followed (the namespace is a slave of the host's).
//!
//! Only the root file system is mounted at a path of ours. Everything below it is found by `openat2` within the root, so
//! that links in a container's files lead nowhere else. (PVE: LXC.pm, mountpoint_stage and mountpoint_insert_staged)

use super::idmap::IdMap;
use super::monitor;
use super::plan::PassedDevice;
use super::rootfs::RootDirectory;
use super::volume::{MountPoint, Source};
use crate::storage::{self, VolumeId};
use crate::{Context, Error, Result, Vmid, command, error::ResultExt};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_bind,
    mount_bind_recursive, mount_change, mount_remount, move_mount, open_tree, unmount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Runs `work` in a mount namespace of this thread's own and comes back. Programs and monitors that are started
/// meanwhile keep the namespace; without any it ends here with all its mounts.
pub fn in_own_namespace<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    let open = |path| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let back = Back {
        namespace: open("/proc/thread-self/ns/mnt").context(|| "unable to find the mount namespace")?,
        directory: open(".").ok(),
    };
    // SAFETY: the descriptor table stays shared. What is no longer shared with other threads are working directory, root
    // and umask, and nobody in this process changes those for others.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) }
        .context(|| "unable to make a mount namespace")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context(|| "unable to separate mounts from the host's")?;
    leave_out_volumes_on_the_host();
    let result = work();
    drop(back);
    result
}

/// Takes volumes that somebody has mounted on the host (`pct mount`) out of this namespace. Where the host does not share its
/// mounts, they would stay in use here after they are unmounted there.
fn leave_out_volumes_on_the_host() {
    let text = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    for place in text.lines().filter_map(|line| line.split(' ').nth(4)).filter(|place| is_root_of_container(place)) {
        // A mount below it is gone with it.
        let _ = unmount(place, UnmountFlags::DETACH);
    }
}

/// Whether a path is the `rootfs` of a container's directory.
fn is_root_of_container(path: &str) -> bool {
    let mut names = path.rsplit('/');
    let is_number = |name: Option<&str>| name.is_some_and(|name| name.parse::<Vmid>().is_ok());
    names.next() == Some("rootfs") && is_number(names.next()) && path.contains("/var/lib/lxc/")
}

/// How long a thread that `work` started and joined may take to end in the kernel, too. While it shares its working
/// directory with the thread that started it, that one cannot change its namespace (setns(2): EINVAL).
const LAST_THREAD: Duration = Duration::from_secs(60);

/// The way back into the namespace that a thread came from, also when the work panics.
struct Back {
    namespace: OwnedFd,
    directory: Option<OwnedFd>,
}

impl Drop for Back {
    fn drop(&mut self) {
        let kind = Some(LinkNameSpaceType::Mount);
        let given_up = Instant::now() + LAST_THREAD;
        loop {
            match move_into_link_name_space(self.namespace.as_fd(), kind) {
                Err(Errno::INVAL) if Instant::now() < given_up => std::thread::sleep(Duration::from_millis(1)),
                moved => break moved.expect("the thread was in this namespace before"),
            }
        }
        if let Some(directory) = &self.directory {
            // The directory may have been removed; then nobody can work in it any more.
            let _ = rustix::process::fchdir(directory);
        }
    }
}

/// The mounted root of a container.
pub struct Mounted {
    /// Where it is mounted, in the namespace that mounted it.
    pub path: PathBuf,
    /// The root itself.
    pub root: RootDirectory,
}

/// Mounts all volumes of a container below its `rootfs` directory. With `writable`, read-only ones can be written, too
/// (for filling them).
pub fn mount_all(ctx: &Context, vmid: Vmid, mounts: &[MountPoint], map: &IdMap, writable: bool) -> Result<Mounted> {
    let directory = monitor::directory(ctx, vmid);
    let path = directory.join("rootfs");
    let stage = directory.join("stage");
    for place in [&path, &stage] {
        fs::create_dir_all(place).context(|| format!("unable to create '{}'", place.display()))?;
    }
    let mut root = None;
    for point in mounts {
        let read_only = point.read_only() && !writable;
        let place = || format!("unable to mount {} '{}'", point.key, point.volume());
        let tree = stage_volume(ctx, point, &stage, map, read_only).context(place)?;
        match &root {
            None => {
                move_mount(&tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context(place)?;
                root = Some(RootDirectory::open(&path, map)?);
            }
            Some(root) => {
                let target = root.make_directories(point.target()).context(place)?;
                keep_attributes(point, &tree, &target).context(place)?;
                let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
                move_mount(&tree, "", &target, "", flags).context(place)?;
            }
        }
    }
    let root = root.ok_or_else(|| Error::new("missing 'rootfs' configuration"))?;
    Ok(Mounted { path, root })
}

/// Mounts one volume, or a snapshot of it, directory or device at a place of ours in this namespace.
pub fn mount_at(
    ctx: &Context,
    point: &MountPoint,
    snapshot: Option<&str>,
    place: &Path,
    read_only: bool,
) -> Result<()> {
    fs::create_dir_all(place).context(|| format!("unable to create '{}'", place.display()))?;
    match point.source() {
        Source::Bind => bind(Path::new(point.volume()), place, read_only),
        Source::Device => mount_device(Path::new(point.volume()), place, point, read_only, false),
        Source::Volume => {
            let id: VolumeId = point.volume().parse().map_err(Error::new)?;
            let path = storage::activate_volume(ctx, &id, snapshot)?;
            if path.is_dir() {
                return bind(&path, place, read_only);
            }
            let metadata = fs::metadata(&path).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::new(format!("volume '{id}' does not exist")),
                _ => Error::from(error).context(path.display()),
            })?;
            mount_device(&path, place, point, read_only, metadata.is_file())
        }
    }
}

/// Mounts at the stage and takes the mount off again as a detached tree.
pub fn stage_volume(ctx: &Context, point: &MountPoint, stage: &Path, map: &IdMap, read_only: bool) -> Result<OwnedFd> {
    mount_at(ctx, point, None, stage, read_only)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, stage, flags).context(|| "unable to take a mount off its stage");
    // Binding may have brought mounts below the directory along.
    let off = unmount(stage, UnmountFlags::DETACH).context(|| "unable to clear the stage for mounts");
    let tree = tree?;
    off?;
    if let Some(text) = point.id_map()
        && let Some(namespace) = map.for_mount(text)?.namespace()?
    {
        shift_ids(&tree, &namespace).context(|| format!("unable to map the ids of '{}'", point.volume()))?;
    }
    Ok(tree)
}

/// Shows the ids of a detached tree by the map of a user namespace.
fn shift_ids(tree: &OwnedFd, namespace: &OwnedFd) -> std::io::Result<()> {
    /// `struct mount_attr` of the kernel.
    #[repr(C)]
    struct MountAttributes {
        set: u64,
        clear: u64,
        propagation: u64,
        namespace: u64,
    }
    const IDMAP: u64 = 0x0010_0000;
    let fd = u64::try_from(namespace.as_raw_fd()).map_err(std::io::Error::other)?;
    let attributes = MountAttributes { set: IDMAP, clear: 0, propagation: 0, namespace: fd };
    // SAFETY: both descriptors are open, the path is an empty text, and the structure is as large as the size says.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Gives a mount the owner and mode of the directory that it covers, if it is to keep them.
pub fn keep_attributes(point: &MountPoint, tree: &OwnedFd, target: &OwnedFd) -> Result<()> {
    if point.flag("keepattrs") != Some(true) {
        return Ok(());
    }
    let stat = rustix::fs::fstat(target)?;
    let (user, group) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(tree, "", Some(user), Some(group), rustix::fs::AtFlags::EMPTY_PATH)?;
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    fs::set_permissions(path, fs::Permissions::from_mode(stat.st_mode & 0o7777)).map_err(Into::into)
}

fn bind(source: &Path, stage: &Path, read_only: bool) -> Result<()> {
    if !source.is_dir() {
        return Err(Error::new(format!("directory '{}' does not exist", source.display())));
    }
    if !read_only {
        return mount_bind_recursive(source, stage).map_err(Into::into);
    }
    mount_bind(source, stage)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount(stage, flags, c"").map_err(|error| {
        // The error of the first step is the one that counts.
        let _ = unmount(stage, UnmountFlags::DETACH);
        error.into()
    })
}

/// mount(8) finds the kind of file system and makes loop devices that detach by themselves.
fn mount_device(source: &Path, stage: &Path, point: &MountPoint, read_only: bool, image: bool) -> Result<()> {
    let mut options = point.mount_options();
    if image {
        options.push("loop".into());
    }
    if read_only {
        options.push("ro".into());
    }
    if point.flag("quota") == Some(true) && !read_only {
        options.extend(["usrjquota=aquota.user", "grpjquota=aquota.group", "jqfmt=vfsv0"].map(str::to_owned));
    }
    let mut arguments: Vec<std::ffi::OsString> = vec!["-n".into()];
    if !options.is_empty() {
        arguments.extend(["-o".into(), options.join(",").into()]);
    }
    arguments.extend(["--".into(), source.into(), stage.into()]);
    command::run("mount", &arguments).map(drop)
}

/// Makes the nodes of passed-through devices in a file system of the namespace's own.
pub fn make_devices(ctx: &Context, vmid: Vmid, devices: &[PassedDevice], map: &IdMap) -> Result<()> {
    if devices.is_empty() {
        return Ok(());
    }
    let place = monitor::directory(ctx, vmid).join("passthrough");
    fs::create_dir_all(&place).context(|| format!("unable to create '{}'", place.display()))?;
    mount("none", &place, "tmpfs", MountFlags::NOSUID, c"size=64k,mode=755")
        .context(|| format!("unable to mount '{}'", place.display()))?;
    for device in devices {
        let what = || format!("unable to pass device '{}'", device.path);
        let node = rustix::fs::stat(device.path.as_str()).context(what)?;
        let path = place.join(device.path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap_or(&place)).context(what)?;
        let kind = rustix::fs::FileType::from_raw_mode(node.st_mode);
        rustix::fs::mknodat(CWD, &path, kind, Mode::from_raw_mode(device.mode), node.st_rdev).context(what)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(device.mode)).context(what)?;
        let (user, group) = (map.user(device.uid)?, map.group(device.gid)?);
        std::os::unix::fs::chown(&path, Some(user), Some(group)).context(what)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_root_of_container;

    #[test]
    fn volumes_on_the_host_are_told_by_their_place() {
        assert!(is_root_of_container("/var/lib/lxc/100/rootfs") && is_root_of_container("/x/var/lib/lxc/8640/rootfs"));
        let others = ["/var/lib/lxc/100/rootfs/data", "/var/lib/lxc/rootfs", "/srv/100/rootfs", "/"];
        assert!(!others.iter().any(|path| is_root_of_container(path)));
    }
}
