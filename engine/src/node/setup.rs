//! The first start of a node: directories, links and the few files without which nothing works.
//!
//! Every start runs this; on a node that is complete it only looks. Below a moved root (`PVE_ROOT`) it also lays out
//! what an installed system brings along: the network file, host names, the resolver's file.

use crate::{Context, Result, access, error::ResultExt, file};
use rustix::fs::{Gid, chown};
use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::Path;

/// Who may look into a directory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Everybody.
    All,
    /// Root only.
    Root,
    /// Root, and the group of the unprivileged front server.
    Front,
}

use Access::{All, Front, Root};

/// Directories with absolute paths. (PVE: pve-cluster debian/, pve-manager debian/, pve-storage PVE/Storage/Plugin.pm)
const DIRECTORIES: &[(&str, Access)] = &[
    ("/etc/pve", Front),
    ("/etc/pve/priv", Root),
    ("/etc/pve/nodes", Front),
    ("/var/lib/vz", All),
    ("/var/lib/vz/images", All),
    ("/var/lib/vz/template", All),
    ("/var/lib/vz/template/iso", All),
    ("/var/lib/vz/template/cache", All),
    ("/var/lib/vz/dump", All),
    ("/var/lib/vz/snippets", All),
    ("/var/lib/vz/import", All),
    ("/var/lib/vz/private", Root),
    ("/var/lib/pve-manager", All),
    ("/var/log/pve", All),
    ("/var/log/pve/tasks", Front),
    ("/var/log/pveproxy", Front),
    ("/var/tmp", All),
    ("/run", All),
    ("/run/lock", All),
    ("/run/qemu-server", Root),
    ("/run/ferrovisor", Front),
    ("/etc/network", All),
];

/// Below `/etc/pve/nodes/NODE`.
const NODE_DIRECTORIES: &[(&str, Access)] = &[("", Front), ("qemu-server", Front), ("lxc", Front), ("priv", Root)];

/// What a moved root gets from the machine when it has no file of its own.
const COPIED: &[&str] = &["/etc/resolv.conf", "/etc/hosts", "/etc/timezone"];

/// Lays out what is missing. Nothing that exists is changed.
///
/// # Errors
/// When something cannot be created; the text names it.
pub fn ensure(ctx: &Context) -> Result<()> {
    let group = front_group(ctx);
    for (path, access) in DIRECTORIES {
        directory(&ctx.root.path(path), *access, group)?;
    }
    for digit in "0123456789ABCDEF".chars() {
        directory(&ctx.root.path("/var/log/pve/tasks").join(digit.to_string()), Front, group)?;
    }
    let node = ctx.root.etc_pve("nodes").join(&ctx.node);
    for (name, access) in NODE_DIRECTORIES {
        directory(&node.join(name), *access, group)?;
    }
    for name in ["qemu-server", "lxc"] {
        link(&ctx.root.etc_pve(name), Path::new(&format!("nodes/{}/{name}", ctx.node)))?;
    }
    link(&ctx.root.etc_pve("local"), Path::new(&format!("nodes/{}", ctx.node)))?;
    if !ctx.root.prefix().as_os_str().is_empty() {
        lay_out_system(ctx)?;
    }
    access::keys::ensure(ctx)
}

/// The group that the front server runs as; absent on a machine without it, where nobody needs it either.
fn front_group(ctx: &Context) -> Option<Gid> {
    let text = fs::read_to_string(ctx.root.path("/etc/group")).or_else(|_| fs::read_to_string("/etc/group")).ok()?;
    let line = text.lines().find(|line| line.starts_with("www-data:"))?;
    line.split(':').nth(2)?.parse().ok().map(Gid::from_raw)
}

fn directory(path: &Path, access: Access, group: Option<Gid>) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mode = match access {
        All => 0o755,
        // New files inside belong to the group as well, as in the original's cluster file system.
        Front if group.is_some() => 0o2750,
        Front => 0o755,
        Root => 0o700,
    };
    let place = || format!("unable to create directory '{}'", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).context(place)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => {}
        // Another program has begun at the same time.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Ok(()),
        Err(error) => return Err(error).context(place),
    }
    // The umask may have taken bits away.
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).context(place)?;
    if path.ends_with("var/tmp") {
        fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).context(place)?;
    }
    match group {
        Some(group) if access == Front && rustix::process::geteuid().is_root() => {
            chown(path, None, Some(group)).context(place)
        }
        _ => Ok(()),
    }
}

/// A symbolic link that points to the node's own directory. A link of a node that had another name is renewed.
fn link(path: &Path, target: &Path) -> Result<()> {
    let place = || format!("unable to create symbolic link '{}'", path.display());
    match fs::read_link(path) {
        Ok(present) if present == target => return Ok(()),
        Ok(_) => fs::remove_file(path).context(place)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        // Not a link: somebody's own directory stays.
        Err(_) => return Ok(()),
    }
    match symlink(target, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error).context(place),
        _ => Ok(()),
    }
}

fn lay_out_system(ctx: &Context) -> Result<()> {
    link(&ctx.root.path("/var/run"), Path::new("../run"))?;
    let interfaces = ctx.root.path("/etc/network/interfaces");
    if !interfaces.exists() {
        file::replace(&interfaces, b"auto lo\niface lo inet loopback\n\n", 0o644)?;
    }
    for name in COPIED {
        let path = ctx.root.path(name);
        if let Ok(text) = fs::read(name)
            && !path.exists()
        {
            file::replace(&path, &text, 0o644)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_new_node_gets_its_directories_and_links_and_keeps_what_it_has() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        ensure(&ctx).unwrap();
        assert_eq!(mode_of(&ctx.root.etc_pve("priv")), 0o700);
        assert_eq!(mode_of(&ctx.root.path("/var/tmp")), 0o1777);
        assert_eq!(fs::read_link(ctx.root.etc_pve("qemu-server")).unwrap(), Path::new("nodes/pve1/qemu-server"));
        assert!(ctx.root.etc_pve("local/priv").is_dir() && ctx.root.path("/var/run/qemu-server").is_dir());
        fs::write(ctx.root.path("/etc/network/interfaces"), "mine\n").unwrap();
        fs::set_permissions(ctx.root.etc_pve("priv"), fs::Permissions::from_mode(0o711)).unwrap();
        ensure(&ctx).unwrap();
        assert_eq!(fs::read_to_string(ctx.root.path("/etc/network/interfaces")).unwrap(), "mine\n");
        assert_eq!(mode_of(&ctx.root.etc_pve("priv")), 0o711);
    }

    #[test]
    fn a_renamed_node_gets_links_to_its_new_directory() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        ensure(&ctx).unwrap();
        let renamed = Context { node: "pve2".into(), ..ctx };
        ensure(&renamed).unwrap();
        assert_eq!(fs::read_link(renamed.root.etc_pve("local")).unwrap(), Path::new("nodes/pve2"));
    }

    #[test]
    fn a_complete_node_costs_next_to_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        ensure(&ctx).unwrap();
        // The best of some tries: other programs share the machine.
        let best = (0..20).map(|_| {
            let start = Instant::now();
            ensure(&ctx).unwrap();
            start.elapsed()
        });
        assert!(best.min().unwrap().as_millis() < 2);
    }
}
