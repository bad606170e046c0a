//! Templates built on this node by `debootstrap`, for nodes that reach a Debian mirror but no template server.

use crate::storage::content::Content;
use crate::storage::transfer::{Incoming, Target};
use crate::{Context, Error, Result, bail, command, error::ResultExt, file};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

/// What a container needs to be used like one of PVE's templates.
const PACKAGES: &str = "systemd-sysv,dbus,ifupdown,isc-dhcp-client,iproute2,iputils-ping,netbase,procps,openssh-server,\
    ca-certificates,less,vim-tiny,cron,logrotate";

/// Releases that can be built: name and suite.
const RELEASES: [(&str, &str); 3] = [("debian-11", "bullseye"), ("debian-12", "bookworm"), ("debian-13", "trixie")];

/// Where Debian's packages are if this node's own `sources.list` does not say.
const MIRROR: &str = "http://deb.debian.org/debian";

/// What to build.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// `debian-12`.
    pub release: String,
    /// Where packages come from; this node's own mirror if absent.
    pub mirror: Option<String>,
}

/// Builds a template and puts it into a storage; gives back its file name. Progress is told line by line.
///
/// # Errors
/// When the release is unknown, `debootstrap` is missing or fails, or the template exists already. Nothing is left.
pub fn build(ctx: &Context, storage: &str, recipe: &Recipe, log: &mut dyn FnMut(&str)) -> Result<String> {
    let Some((_, suite)) = RELEASES.iter().find(|(name, _)| *name == recipe.release) else {
        let known = RELEASES.map(|(name, _)| name).join(", ");
        return Err(Error::parameter("template", format!("unknown release, known are {known}")));
    };
    // The name is checked before the work; it is completed with the version afterwards.
    Target::new(ctx, storage, Content::Vztmpl, &file_name(&recipe.release, "0"))?;
    crate::storage::activate(ctx, storage)?;
    let work = tempfile::Builder::new().prefix("pveam-build-").tempdir_in(temporary(ctx)?)?;
    let root = work.path().join("rootfs");
    bootstrap(suite, recipe.mirror.as_deref().unwrap_or(&own_mirror()), &root, log)?;
    clean(&root)?;
    let version = fs::read_to_string(root.join("etc/debian_version")).context(|| "the new system has no version")?;
    let target = Target::new(ctx, storage, Content::Vztmpl, &file_name(&recipe.release, version.trim()))?;
    if target.path().exists() {
        bail!("refusing to override existing file '{}'", target.path().display());
    }
    log(&format!("packing {}", target.file));
    let incoming = Incoming::create(&target)?;
    let arguments: [&OsStr; 10] = [
        "--create".as_ref(),
        "--zstd".as_ref(),
        "--numeric-owner".as_ref(),
        "--xattrs".as_ref(),
        "--exclude=./dev/*".as_ref(),
        "--directory".as_ref(),
        root.as_os_str(),
        "--file".as_ref(),
        incoming.path().as_os_str(),
        ".".as_ref(),
    ];
    command::run("tar", &arguments)?;
    incoming.place_new()?;
    Ok(target.file)
}

/// `debian-12-local_12.12-1_amd64.tar.zst`, in the form of PVE's names.
fn file_name(release: &str, version: &str) -> String {
    format!("{release}-local_{version}-1_amd64.tar.zst")
}

fn temporary(ctx: &Context) -> Result<std::path::PathBuf> {
    let directory = ctx.root.path("/var/tmp");
    fs::create_dir_all(&directory).context(|| format!("unable to create '{}'", directory.display()))?;
    Ok(directory)
}

/// Mounts that debootstrap makes end with its own mount name space, however it ends.
fn bootstrap(suite: &str, mirror: &str, root: &Path, log: &mut dyn FnMut(&str)) -> Result<()> {
    let include = format!("--include={PACKAGES}");
    let arguments: [&OsStr; 8] = [
        "--mount".as_ref(),
        "debootstrap".as_ref(),
        "--variant=minbase".as_ref(),
        "--arch=amd64".as_ref(),
        include.as_ref(),
        suite.as_ref(),
        root.as_os_str(),
        mirror.as_ref(),
    ];
    command::run_lines("unshare", &arguments, |_, line| log(line)).context(|| "debootstrap")
}

/// What must not be the same in all containers made of it, and what can be fetched again.
fn clean(root: &Path) -> Result<()> {
    for directory in ["var/cache/apt/archives", "var/lib/apt/lists", "var/log"] {
        remove_files(&root.join(directory))?;
    }
    for entry in fs::read_dir(root.join("etc/ssh"))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with("ssh_host_") {
            fs::remove_file(entry.path())?;
        }
    }
    for name in ["etc/hostname", "etc/resolv.conf"] {
        file::remove_if_there(&root.join(name))?;
    }
    // Empty means: to be made at the first start.
    fs::write(root.join("etc/machine-id"), "")?;
    Ok(())
}

/// Files in a directory and below; directories stay with their owners and modes.
fn remove_files(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => remove_files(&entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

/// The Debian mirror that this node's own packages come from.
fn own_mirror() -> String {
    let texts = ["/etc/apt/sources.list", "/etc/apt/sources.list.d/debian.sources"];
    let found = texts.iter().find_map(|path| mirror_in(&fs::read_to_string(path).ok()?));
    found.unwrap_or_else(|| MIRROR.to_owned())
}

/// The first archive in a `sources.list` of either form; security updates are no whole archive.
fn mirror_in(text: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let mut urls = lines.flat_map(str::split_whitespace).filter(|word| word.starts_with("http"));
    urls.find(|url| url.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_own_mirror_is_taken() {
        let list = "# deb http://old/debian x main\ndeb [signed-by=/x] http://m.example/debian bookworm main\n";
        assert_eq!(mirror_in(list).as_deref(), Some("http://m.example/debian"));
        let sources = "Types: deb\nURIs: http://m/debian-security\nSuites: x\n\nTypes: deb\nURIs: https://m/debian/\n";
        assert_eq!(mirror_in(sources).as_deref(), Some("https://m/debian/"));
        assert_eq!(mirror_in(""), None);
    }
}
