//! Storages of type `cephfs`, by the kernel or by FUSE. Untested on real hardware.
//! (PVE: pve-storage PVE/Storage/CephFSPlugin.pm)

use super::Share;
use crate::mounts::Mount;
use crate::storage::ceph::{self, Credentials};
use crate::storage::driver::{Secrets, Storage};
use crate::tool::Tool;
use crate::{Result, bail};

/// Ceph file systems.
pub struct CephFs;

fn subdirectory<'s>(storage: &'s Storage) -> Result<&'s str> {
    let directory = storage.entry.get("subdir").unwrap_or("/");
    if !directory.starts_with('/') || directory.contains(|c: char| c.is_control() || c == ',') {
        bail!("invalid subdirectory '{}'", directory.escape_debug());
    }
    Ok(directory)
}

impl Share for CephFs {
    fn source(&self, storage: &Storage) -> Result<String> {
        let connection = ceph::connection(storage)?;
        let monitors = match connection.monitors {
            Some(monitors) => monitors,
            None => ceph::monitors_of_config(storage)?,
        };
        Ok(format!("{}:{}", monitors.join(","), subdirectory(storage)?))
    }

    fn is_mounted_as(&self, storage: &Storage, mount: &Mount) -> Result<bool> {
        let directory = subdirectory(storage)?;
        let is_ceph = mount.kind == "ceph" || mount.kind == "fuse.ceph-fuse";
        let ends_so =
            mount.source.ends_with(&format!(":{directory}")) || mount.source.ends_with(&format!("={directory}"));
        Ok(is_ceph && (mount.source == "ceph-fuse" || ends_so))
    }

    fn mount(&self, storage: &Storage, source: &str, place: &str) -> Result<Tool> {
        let connection = ceph::connection(storage)?;
        let file_system = storage.entry.get("fs-name");
        if file_system.is_some_and(|name| name.contains(',')) {
            bail!("invalid file system name");
        }
        let by_fuse = storage.entry.flag("fuse").unwrap_or(false);
        // Name, secret, configuration and file system have other words for FUSE.
        let words = if by_fuse {
            ["ceph.id", "ceph.keyfile", "ceph.conf", "ceph.client_fs"]
        } else {
            ["name", "secretfile", "conf", "fs"]
        };
        let values =
            [Some(connection.user.clone()), connection.secret, connection.config, file_system.map(str::to_owned)];
        let pairs = words.into_iter().zip(values);
        let mut options: Vec<String> =
            pairs.filter_map(|(word, value)| value.map(|value| format!("{word}={value}"))).collect();
        options.extend(storage.entry.get("options").map(str::to_owned));
        let kind = if by_fuse { "fuse.ceph" } else { "ceph" };
        Ok(Tool::new("mount").args(["-t", kind, "-o", &options.join(","), "--", source, place]))
    }

    fn check_connection(&self, storage: &Storage) -> Result<()> {
        ceph::check_monitors(storage)
    }

    fn secret_options(&self) -> &'static [&'static str] {
        &["keyring"]
    }

    fn keep_secrets(&self, storage: &Storage, secrets: &Secrets, create: bool) -> Result<()> {
        ceph::keep(storage, Credentials::Secret, secrets, create)
    }

    fn drop_secrets(&self, storage: &Storage) -> Result<()> {
        ceph::forget(storage, Credentials::Secret)
    }
}
