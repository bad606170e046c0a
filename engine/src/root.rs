//! The file system root of a node: every path that we own is made here.
//!
//! `PVE_ROOT=DIR` moves the whole node below `DIR`. Paths that a user wrote into `storage.cfg` stay as written; the
//! embedded default storage `local` lies below the root.

use std::path::{Path, PathBuf};

/// A directory that stands for `/`. An empty prefix means the real one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Root {
    prefix: PathBuf,
}

impl Root {
    /// A node whose paths lie below `prefix`.
    pub fn new(prefix: impl Into<PathBuf>) -> Self {
        Root { prefix: prefix.into() }
    }

    /// The root that `PVE_ROOT` names, or the real one.
    pub fn from_env() -> Self {
        Root::new(std::env::var_os("PVE_ROOT").unwrap_or_default())
    }

    /// The place of an absolute path of ours, for example `/var/log/pve/tasks`.
    pub fn path(&self, absolute: &str) -> PathBuf {
        debug_assert!(absolute.starts_with('/'), "paths below the root are written as absolute ones: {absolute}");
        if self.prefix.as_os_str().is_empty() {
            return PathBuf::from(absolute);
        }
        self.prefix.join(absolute.trim_start_matches('/'))
    }

    /// A file of the cluster file system: `etc_pve("user.cfg")` is `/etc/pve/user.cfg`.
    pub fn etc_pve(&self, relative: &str) -> PathBuf {
        self.path("/etc/pve").join(relative)
    }

    /// A file below `/run`.
    pub fn run(&self, relative: &str) -> PathBuf {
        self.path("/run").join(relative)
    }

    /// The prefix itself; empty for the real root.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_applies_to_absolute_paths() {
        let node = Root::new("/srv/node");
        assert_eq!(node.path("/var/lib/vz"), Path::new("/srv/node/var/lib/vz"));
        assert_eq!(node.etc_pve("user.cfg"), Path::new("/srv/node/etc/pve/user.cfg"));
        assert_eq!(Root::default().run("x.pid"), Path::new("/run/x.pid"));
    }
}
