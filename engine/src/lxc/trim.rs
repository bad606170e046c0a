//! Giving back blocks that files of a container no longer use.
//!
//! The kernel is asked by a descriptor of the mount and not by a path: a path that means something in the container means
//! another file system on the host. (util-linux: fstrim; PVE: CLI/pct.pm, fstrim)

use super::idmap::IdMap;
use super::rootfs::RootDirectory;
use super::volume::{self, Source};
use super::{monitor, mount};
use crate::config::guest::GuestKind;
use crate::types::scaled;
use crate::{Context, Result, Vmid, error::ResultExt, guest, lock};
use rustix::fs::OFlags;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

/// `FITRIM` of `linux/fs.h`.
const TRIM: libc::c_ulong = 0xc018_5879;

/// `struct fstrim_range` of `linux/fs.h`, in bytes.
#[repr(C)]
struct Range {
    start: u64,
    length: u64,
    shortest: u64,
}

/// Trims the volumes of a container; bind mounts and read-only ones are left out. A running container's are trimmed
/// through its own mounts. What happened to each goes to `print`, as fstrim says it.
pub fn trim(ctx: &Context, vmid: Vmid, only_root: bool, print: impl Fn(&str)) -> Result<()> {
    let _lock = lock::acquire(ctx, &lock::guest(vmid), "pct fstrim", |_| {})?;
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    guest::check_lock(&config)?;
    let part = config.current;
    let mounts = volume::mounts(&part)?;
    let trim_all = |root: &Path| {
        for point in mounts.iter().filter(|point| point.source() != Source::Bind && !point.read_only()) {
            if only_root && point.key != "rootfs" {
                continue;
            }
            let beneath = RootDirectory::open(root, &IdMap::default())?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let directory = beneath.open_path(point.target(), flags).context(|| point.target().to_owned())?;
            match trim_mount(directory.as_fd()) {
                Ok(bytes) => print(&format!("{}: {} ({bytes} bytes) trimmed", point.target(), human(bytes))),
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    print(&format!("{}: the discard operation is not supported", point.key));
                }
                Err(error) => print(&format!("{}: FITRIM ioctl failed: {error}", point.key)),
            }
        }
        Ok(())
    };
    match monitor::init(ctx, vmid) {
        Some(init) => trim_all(Path::new(&format!("/proc/{}/root", init.pid))),
        None => {
            mount::in_own_namespace(|| trim_all(&mount::mount_all(ctx, vmid, &mounts, &IdMap::of(&part)?, false)?.path))
        }
    }
}

/// Trims the file system that a directory lies on; gives back how many bytes the device was told of.
fn trim_mount(directory: std::os::fd::BorrowedFd) -> std::io::Result<u64> {
    let mut range = Range { start: 0, length: u64::MAX, shortest: 0 };
    // SAFETY: the request reads and writes one structure of this layout, which lives until after the call.
    match unsafe { libc::ioctl(directory.as_raw_fd(), TRIM, &raw mut range) } {
        0 => Ok(range.length),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// `57.4 GiB`, `64 MiB`, `0 B`.
fn human(bytes: u64) -> String {
    let (number, unit) = scaled(bytes as f64);
    format!("{} {unit}", (number * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_fstrim_does() {
        let cases = [(0, "0 B"), (64 << 20, "64 MiB"), (61_652_799_488, "57.4 GiB"), (1536, "1.5 KiB")];
        for (bytes, text) in cases {
            assert_eq!(human(bytes), text);
        }
    }

    #[test]
    fn what_cannot_be_trimmed_is_an_error() {
        let directory = std::fs::File::open("/proc").unwrap();
        assert!(trim_mount(directory.as_fd()).is_err());
    }
}
