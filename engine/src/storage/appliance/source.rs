//! Where indexes of templates come from: `/etc/pve/aplinfo.cfg`, or PVE's own two sources without such a file.
//!
//! ```text
//! index: proxmox
//!     url http://download.proxmox.com/images/aplinfo-pve-9.dat
//!     keyring /usr/share/keyrings/proxmox-archive-keyring.gpg
//! index: mine
//!     url /srv/templates/aplinfo.dat
//!     unsigned 1
//! ```
//! `url` is a URL or an absolute path; its signature lies beside it with the extension `.asc`, a URL is fetched with `.gz`.

use crate::config::SectionConfig;
use crate::{Context, Error, Result, bail, file};
use std::fmt;
use std::path::{Path, PathBuf};

/// The sources that PVE has built in. (PVE: pve-manager PVE/APLInfo.pm, get_apl_sources)
const BUILT_IN: &str = "\
index: download.proxmox.com
\turl http://download.proxmox.com/images/aplinfo-pve-9.dat

index: releases.turnkeylinux.org
\turl https://releases.turnkeylinux.org/pve/aplinfo.dat
";

/// Where the keys of PVE's index lie, on a PVE host and where its keys were added to a Debian.
const KEYRINGS: [&str; 3] = [
    "/usr/share/doc/pve-manager/trustedkeys.gpg",
    "/usr/share/keyrings/proxmox-archive-keyring.gpg",
    "/etc/apt/trusted.gpg.d/proxmox-release-trixie.gpg",
];

/// Where something is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// Fetched over HTTP.
    Url(String),
    /// A file of this node.
    Path(PathBuf),
}

impl Location {
    /// A URL or an absolute path.
    pub fn of(text: &str) -> Result<Self> {
        if text.starts_with("http://") || text.starts_with("https://") {
            Ok(Location::Url(text.to_owned()))
        } else if text.starts_with('/') {
            Ok(Location::Path(PathBuf::from(text)))
        } else {
            bail!("'{}' is neither a URL (http, https) nor an absolute path", text.escape_debug())
        }
    }
}

/// What an index's relative locations stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The URL of the index without its last component.
    Url(String),
    /// The directory of the index.
    Directory(PathBuf),
}

impl Base {
    /// The whole location. An index that was fetched cannot name files of this node, one of a file nothing above its
    /// directory.
    pub fn resolve(&self, location: &str) -> Result<String> {
        if location.starts_with("http://") || location.starts_with("https://") {
            return Ok(location.to_owned());
        }
        let plain = !location.contains("://")
            && !location.contains(char::is_control)
            && location.split('/').all(|part| !part.is_empty() && part != "..");
        match self {
            _ if !plain => bail!("unable to parse appliance record: location '{}'", location.escape_debug()),
            Base::Url(url) => Ok(format!("{url}/{location}")),
            Base::Directory(directory) => Ok(directory.join(location).display().to_string()),
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Base::Url(url) => f.write_str(url),
            Base::Directory(directory) => directory.display().fmt(f),
        }
    }
}

/// A source of templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its id, also the name of its kept index.
    pub name: String,
    /// The index.
    pub index: Location,
    /// Who may have signed it; `None` if the administrator wants no signature.
    pub keyrings: Option<Vec<PathBuf>>,
}

impl Source {
    /// Where the checked index is kept.
    pub fn kept_index(&self, ctx: &Context) -> PathBuf {
        directory(ctx).join(&self.name)
    }

    /// What relative locations in its index stand on.
    pub fn base(&self) -> Base {
        match &self.index {
            Location::Url(url) => Base::Url(url.rsplit_once('/').map_or(url.as_str(), |(base, _)| base).to_owned()),
            Location::Path(path) => Base::Directory(path.parent().unwrap_or(Path::new("/")).to_owned()),
        }
    }
}

/// Where indexes are kept.
pub fn directory(ctx: &Context) -> PathBuf {
    ctx.root.path("/var/lib/pve-manager/apl-info")
}

/// All sources in the order of the file.
pub fn sources(ctx: &Context) -> Result<Vec<Source>> {
    let path = ctx.root.etc_pve("aplinfo.cfg");
    let text = file::read_or_empty(&path)?;
    let text = if text.trim().is_empty() { BUILT_IN } else { &text };
    let config = SectionConfig::parse(text);
    if let Some((number, line)) = config.problems.first() {
        bail!("{} line {number}: unable to parse '{}'", path.display(), line.escape_debug());
    }
    config
        .sections
        .iter()
        .map(|(name, section)| {
            let wrong = |what: &str| Error::new(format!("{}: index '{name}': {what}", path.display()));
            if section.kind != "index" || name.starts_with('.') || name.contains('/') {
                return Err(wrong("not an index with a plain name"));
            }
            let index = Location::of(section.get("url").ok_or_else(|| wrong("'url' is missing"))?)?;
            let keyrings = match section.get("keyring") {
                _ if section.flag("unsigned") => None,
                Some(keyring) => Some(vec![PathBuf::from(keyring)]),
                None => Some(KEYRINGS.map(PathBuf::from).to_vec()),
            };
            Ok(Source { name: name.clone(), index, keyrings })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_there_are_the_two_sources_of_pve() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let names: Vec<String> = sources(&ctx).unwrap().into_iter().map(|source| source.name).collect();
        assert_eq!(names, ["download.proxmox.com", "releases.turnkeylinux.org"]);
    }

    #[test]
    fn the_administrators_file_replaces_them() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        std::fs::create_dir_all(ctx.root.etc_pve("")).unwrap();
        let write = |text: &str| std::fs::write(ctx.root.etc_pve("aplinfo.cfg"), text).unwrap();
        write(
            "index: mine\n\turl /srv/t/aplinfo.dat\n\tunsigned 1\n\nindex: other\n\turl https://h/a/x.dat\n\tkeyring /k\n",
        );
        let all = sources(&ctx).unwrap();
        assert_eq!((&all[0].keyrings, all[0].base().to_string()), (&None, "/srv/t".to_owned()));
        assert_eq!((&all[1].keyrings, all[1].base().to_string()), (&Some(vec!["/k".into()]), "https://h/a".to_owned()));
        for bad in ["index: ../x\n\turl /a\n", "index: x\n\turl ftp://h/a\n", "index: x\n", "dir: x\n\turl /a\n", "x\n"]
        {
            write(bad);
            assert!(sources(&ctx).is_err(), "{bad}");
        }
    }

    #[test]
    fn relative_locations_stay_below_a_local_index() {
        let base = Base::Directory("/srv/t".into());
        assert_eq!(base.resolve("system/x.tar.gz").unwrap(), "/srv/t/system/x.tar.gz");
        for bad in ["../x.tar.gz", "a/../../x.tar.gz", "/etc/x.tar.gz", "file:///etc/x.tar.gz", ""] {
            assert!(base.resolve(bad).is_err(), "{bad}");
            assert!(Base::Url("http://h".into()).resolve(bad).is_err(), "{bad}");
        }
    }
}
