//! Storages of type `nfs`. (PVE: pve-storage PVE/Storage/NFSPlugin.pm)

use super::Share;
use super::server::{check_server_name, option, ping, source_host};
use crate::mounts::Mount;
use crate::storage::driver::Storage;
use crate::tool::Tool;
use crate::{Error, Result, bail};
use std::time::Duration;

/// How long the server's own services may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// NFS servers.
pub struct Nfs;

fn server<'s>(storage: &'s Storage) -> Result<&'s str> {
    let server = storage.entry.get("server").ok_or_else(|| Error::new("missing value for required option 'server'"))?;
    check_server_name(server)
}

impl Share for Nfs {
    fn source(&self, storage: &Storage) -> Result<String> {
        let export =
            storage.entry.get("export").ok_or_else(|| Error::new("missing value for required option 'export'"))?;
        if !export.starts_with('/') || export.contains(|c: char| c.is_control()) {
            bail!("invalid NFS export path '{}'", export.escape_debug());
        }
        Ok(format!("{}:{export}", source_host(server(storage)?)?))
    }

    fn is_mounted_as(&self, storage: &Storage, mount: &Mount) -> Result<bool> {
        let source = self.source(storage)?;
        Ok(mount.kind.starts_with("nfs") && mount.source.trim_end_matches('/') == source.trim_end_matches('/'))
    }

    fn mount(&self, storage: &Storage, source: &str, place: &str) -> Result<Tool> {
        let mut tool = Tool::new("mount").args(["-t", "nfs"]);
        if let Some(options) = storage.entry.get("options") {
            tool = tool.args(["-o", options]);
        }
        Ok(tool.args(["--", source, place]))
    }

    /// A server that takes a connection is there. One whose NFS port is not the usual one is asked by its port mapper.
    fn check_connection(&self, storage: &Storage) -> Result<()> {
        let server = server(storage)?;
        let options = storage.entry.get("options").unwrap_or_default();
        let port = match option(options, "port").and_then(|port| port.parse().ok()) {
            None | Some(0) => 2049,
            Some(port) => port,
        };
        let Err(unreachable) = ping(server, port) else { return Ok(()) };
        let version = option(options, "vers").or_else(|| option(options, "nfsvers")).unwrap_or_default();
        if version.starts_with('4') {
            return Err(unreachable);
        }
        let exports = Tool::new("showmount").args(["--no-headers", "--exports", server]);
        exports.within(ANSWER).run(storage.ctx).map_err(|_| unreachable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Entry;
    use crate::tool::script::Script;
    use std::path::Path;

    #[test]
    fn mounts_have_source_place_and_options() {
        let script = Script::new();
        let ctx = script.context(Path::new("/nowhere"));
        let mut entry = Entry::new("nfs");
        entry.set("server", "fe80::1");
        entry.set("export", "/srv/a b");
        let mut storage = Storage { ctx: &ctx, id: "nas".into(), entry };
        let source = Nfs.source(&storage).unwrap();
        assert_eq!(
            Nfs.mount(&storage, &source, "/mnt/pve/nas").unwrap().to_string(),
            "mount -t nfs -- '[fe80::1]:/srv/a b' /mnt/pve/nas"
        );
        storage.entry.set("options", "vers=4.2,soft");
        assert_eq!(
            Nfs.mount(&storage, &source, "/mnt/pve/nas").unwrap().to_string(),
            "mount -t nfs -o vers=4.2,soft -- '[fe80::1]:/srv/a b' /mnt/pve/nas"
        );
        let mount = |kind: &str, source: &str| Mount { source: source.into(), target: "/x".into(), kind: kind.into() };
        assert!(Nfs.is_mounted_as(&storage, &mount("nfs4", "[fe80::1]:/srv/a b/")).unwrap());
        assert!(!Nfs.is_mounted_as(&storage, &mount("nfs4", "[fe80::1]:/srv")).unwrap());
        assert!(!Nfs.is_mounted_as(&storage, &mount("ext4", "[fe80::1]:/srv/a b")).unwrap());
        storage.entry.set("server", "-oproto=udp");
        assert!(Nfs.source(&storage).is_err());
        storage.entry.set("server", "nas");
        storage.entry.set("export", "x");
        assert!(Nfs.source(&storage).is_err());
    }

    #[test]
    fn an_old_server_is_asked_by_its_port_mapper() {
        let script = Script::new();
        let ctx = script.context(Path::new("/nowhere"));
        let mut entry = Entry::new("nfs");
        entry.set("server", "127.0.0.1");
        entry.set("export", "/x");
        // A port that nobody listens on: the discard service of nobody.
        entry.set("options", "port=9");
        let mut storage = Storage { ctx: &ctx, id: "nas".into(), entry };
        Nfs.check_connection(&storage).unwrap();
        assert_eq!(script.take(), "showmount --no-headers --exports 127.0.0.1\n");
        storage.entry.set("options", "vers=4,port=9");
        assert!(Nfs.check_connection(&storage).is_err());
        assert_eq!(script.take(), "");
    }
}
