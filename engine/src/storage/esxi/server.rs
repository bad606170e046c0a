//! What an ESXi server shows of its datastores: the pages below `/folder`. (VMware: "HTTP access to datastores")

use super::super::driver::Storage;
use super::super::mounted::source_host;
use crate::tool::Tool;
use crate::{Error, Result, bail};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the server may take for one page, and for all pages of a list.
const PAGE: Duration = Duration::from_secs(10);
const LIST: Duration = Duration::from_secs(60);

/// Data centre, datastore and the path in it: the parts of a volume's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'n> {
    pub centre: &'n str,
    pub datastore: &'n str,
    pub path: &'n str,
}

impl<'n> Place<'n> {
    /// Reads a volume's name.
    pub fn of(name: &'n str) -> Result<Self> {
        let mut parts = name.splitn(3, '/');
        let (centre, datastore, path) = (parts.next(), parts.next(), parts.next());
        let climbs = name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
        match (centre, datastore, path) {
            (Some(centre), Some(datastore), Some(path)) if !climbs && !name.contains(char::is_control) => {
                Ok(Place { centre, datastore, path })
            }
            _ => bail!("unable to parse esxi volume name '{}'", name.escape_debug()),
        }
    }

    /// What the server calls it; with a slash at its end a directory.
    fn link(&self) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let parts: Vec<String> = self.path.split('/').map(encode).collect();
        format!("/folder/{}?dcPath={}&dsName={}", parts.join("/"), encode(self.centre), encode(self.datastore))
    }
}

/// Where the storage's password lies.
pub fn password_file(storage: &Storage) -> PathBuf {
    storage.ctx.root.etc_pve(&format!("priv/storage/{}.pw", storage.id))
}

/// The storage's password.
pub fn password(storage: &Storage) -> Result<String> {
    let text = fs::read_to_string(password_file(storage));
    let text = text.map_err(|_| Error::new(format!("no password for storage '{}'", storage.id)))?;
    Ok(text.trim_end_matches('\n').to_owned())
}

/// An option that every entry has.
pub fn option<'s>(storage: &'s Storage, key: &str) -> Result<&'s str> {
    storage.entry.get(key).ok_or_else(|| Error::new(format!("missing value for required option '{key}'")))
}

/// The port of the server's pages.
pub fn port(storage: &Storage) -> u16 {
    storage.entry.get("port").and_then(|port| port.parse().ok()).unwrap_or(443)
}

/// Whether the server's certificate must be good.
pub fn is_verified(storage: &Storage) -> bool {
    !storage.entry.flag("skip-cert-verification").unwrap_or(false)
}

/// A value between quotes in curl's configuration.
pub fn quoted(text: &str) -> Result<String> {
    if text.contains(['\n', '\r', '\0']) {
        bail!("user name or password contains illegal characters");
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// The address of a file.
pub fn url(storage: &Storage, place: &Place) -> Result<String> {
    address(storage, &place.link())
}

fn address(storage: &Storage, link: &str) -> Result<String> {
    Ok(format!("https://{}:{}{link}", source_host(option(storage, "server")?)?, port(storage)))
}

/// A text file of the server. Nothing larger than a description is read.
pub fn text(storage: &Storage, place: &Place) -> Result<String> {
    page(storage, &place.link())
}

/// The names of the files beside one.
pub fn beside(storage: &Storage, place: &Place) -> Result<Vec<String>> {
    let Some((directory, _)) = place.path.rsplit_once('/') else { return Ok(Vec::new()) };
    let directory = format!("{directory}/");
    let links = links(&page(storage, &Place { path: &directory, ..*place }.link())?);
    let inside = |path: String| path.strip_prefix(&directory).map(str::to_owned);
    Ok(links.iter().map(|link| path_of(link)).filter_map(inside).collect())
}

fn page(storage: &Storage, link: &str) -> Result<String> {
    let user = format!("{}:{}", option(storage, "username")?, password(storage)?);
    let mut config = format!("user = {}\n", quoted(&user)?);
    if !is_verified(storage) {
        config += "insecure\n";
    }
    Tool::new("curl")
        .args(["-sS", "--fail", "--proto", "=https", "--max-time", "10", "--max-filesize", "4194304"])
        .args(["--config", "-", "--"])
        .arg(address(storage, link)?)
        .input(config)
        .within(PAGE + Duration::from_secs(2))
        .read(storage.ctx)
}

/// The links below `/folder` of a page, as they are to be asked for.
fn links(page: &str) -> Vec<String> {
    let rest = page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let inside = rest.map(|link| link.replace("&amp;", "&")).filter(|link| link.starts_with("/folder"));
    inside.filter(|link| !link.contains(|c: char| c.is_control() || c == ' ')).collect()
}

/// A value of a link's query.
fn query(link: &str, key: &str) -> Option<String> {
    let pairs = link.split_once('?')?.1.split('&');
    let value = pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key)?.1;
    Some(percent_decode_str(value).decode_utf8().ok()?.into_owned())
}

/// The path of a link below `/folder`.
fn path_of(link: &str) -> String {
    let path = link.strip_prefix("/folder").unwrap_or(link).split('?').next().unwrap_or_default();
    percent_decode_str(path.trim_matches('/')).decode_utf8_lossy().into_owned()
}

/// The machines of the server, as names of volumes.
pub fn machines(storage: &Storage) -> Result<Vec<String>> {
    let end = Instant::now() + LIST;
    let mut found = Vec::new();
    // Each page leads one step down: server, data centre, datastore, directory.
    let mut open = vec![("/folder".to_owned(), 0)];
    while let Some((link, depth)) = open.pop() {
        if Instant::now() > end {
            bail!("server '{}' takes too long to list its machines", option(storage, "server")?);
        }
        for next in links(&page(storage, &link)?) {
            let (centre, datastore, path) = (query(&next, "dcPath"), query(&next, "dsName"), path_of(&next));
            match (depth, centre, datastore) {
                (0, Some(_), None) | (1, Some(_), Some(_)) => open.push((next, depth + 1)),
                (2, Some(_), Some(_)) if next.contains("/?") && !path.is_empty() && !path.contains('/') => {
                    open.push((next, 3));
                }
                (3, Some(centre), Some(datastore)) if path.ends_with(".vmx") => {
                    found.push(format!("{centre}/{datastore}/{path}"));
                }
                _ => {}
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found.into_iter().filter(|name| Place::of(name).is_ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_climb() {
        for bad in ["", "a", "a/b", "a/../b.vmx", "a//b.vmx", "a/b/../c.vmx", "a/b/c\n.vmx"] {
            assert!(Place::of(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Place::of("a/b/c/d.vmx").unwrap(), Place { centre: "a", datastore: "b", path: "c/d.vmx" });
    }
}
