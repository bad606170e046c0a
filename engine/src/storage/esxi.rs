//! Storages of type `esxi`: the virtual machines of an ESXi server, to be imported. Untested on real hardware.
//! (PVE: pve-storage PVE/Storage/ESXiPlugin.pm; VMware: "HTTP access to datastores")
//!
//! PVE mounts the server by a program of its own, which Debian does not have. Here the server's own pages below `/folder`
//! are read: data centres, datastores, directories, files. A volume is `DATACENTRE/DATASTORE/DIRECTORY/NAME.vmx`. Reading
//! disks is not built, and says so. The password lies in `/etc/pve/priv/storage/ID.pw` and reaches `curl` by its input.

use super::config::Entry;
use super::content::Content;
use super::driver::{Described, Driver, Filter, Secrets, Space, Storage};
use super::mounted::{check_server_name, ping, source_host};
use super::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::tool::Tool;
use crate::{Context, Error, Result, bail, error::ResultExt, file};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long the server may take for one page, and for all pages of a list.
const PAGE: Duration = Duration::from_secs(10);
const LIST: Duration = Duration::from_secs(60);

/// The driver.
pub struct Esxi;

fn password_file(storage: &Storage) -> PathBuf {
    storage.ctx.root.etc_pve(&format!("priv/storage/{}.pw", storage.id))
}

fn option<'s>(storage: &'s Storage, key: &str) -> Result<&'s str> {
    storage.entry.get(key).ok_or_else(|| Error::new(format!("missing value for required option '{key}'")))
}

fn port(storage: &Storage) -> u16 {
    storage.entry.get("port").and_then(|port| port.parse().ok()).unwrap_or(443)
}

/// A value between quotes in curl's configuration.
fn quoted(text: &str) -> Result<String> {
    if text.contains(['\n', '\r', '\0']) {
        bail!("user name or password contains illegal characters");
    }
    Ok(format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// One of the server's pages.
fn page(storage: &Storage, path: &str) -> Result<String> {
    let host = source_host(option(storage, "server")?)?;
    let file = password_file(storage);
    let password =
        fs::read_to_string(&file).map_err(|_| Error::new(format!("no password for storage '{}'", storage.id)))?;
    let user = format!("{}:{}", option(storage, "username")?, password.trim_end_matches('\n'));
    let mut config = format!("user = {}\n", quoted(&user)?);
    if storage.entry.flag("skip-cert-verification").unwrap_or(false) {
        config += "insecure\n";
    }
    Tool::new("curl")
        .args(["-sS", "--fail", "--proto", "=https", "--max-time", "10", "--config", "-", "--"])
        .arg(format!("https://{host}:{}{path}", port(storage)))
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
fn machines(storage: &Storage) -> Result<Vec<String>> {
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
    Ok(found.into_iter().filter(|name| check_name(name).is_ok()).collect())
}

/// Data centre, datastore, and the path in it.
fn check_name(name: &str) -> Result<(&str, &str, &str)> {
    let mut parts = name.splitn(3, '/');
    let (centre, datastore, path) = (parts.next(), parts.next(), parts.next());
    let climbs = name.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    match (centre, datastore, path) {
        (Some(centre), Some(datastore), Some(path)) if !climbs && !name.contains(char::is_control) => {
            Ok((centre, datastore, path))
        }
        _ => bail!("unable to parse esxi volume name '{}'", name.escape_debug()),
    }
}

impl Driver for Esxi {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn secret_options(&self) -> &'static [&'static str] {
        &["password"]
    }

    fn check_entry(&self, _ctx: &Context, _id: &str, entry: &mut Entry, _create: bool) -> Result<()> {
        check_server_name(entry.get("server").unwrap_or_default()).map(drop)
    }

    fn configure(&self, storage: &mut Storage, secrets: &Secrets, create: bool) -> Result<()> {
        let path = password_file(storage);
        match secrets.get("password") {
            Some(Some(password)) => {
                quoted(password)?;
                if let Some(directory) = path.parent() {
                    fs::create_dir_all(directory).context(|| directory.display().to_string())?;
                }
                file::replace(&path, password.as_bytes(), 0o600)
            }
            Some(None) => self.unconfigure(storage),
            None if create => bail!("missing password"),
            None => Ok(()),
        }
    }

    fn unconfigure(&self, storage: &Storage) -> Result<()> {
        match fs::remove_file(password_file(storage)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::from(error)).context(|| "removing esxi credentials failed")
            }
            _ => Ok(()),
        }
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        ping(option(storage, "server")?, port(storage))
            .map_err(|error| error.context(format!("storage '{}' is not online", storage.id)))
    }

    /// The server's space is not ours to count.
    fn space(&self, storage: &Storage) -> Result<Space> {
        self.activate(storage).map(|()| Space::default())
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        if !filter.contents.contains(&Content::Import) || filter.vmid.is_some() {
            return Ok(Vec::new());
        }
        let row = |name: String| Volume {
            id: storage.volume(name),
            content: Content::Import,
            format: "vmx".into(),
            size: 0,
            used: None,
            vmid: None,
            parent: None,
            ctime: None,
            subtype: None,
            notes: None,
            protected: false,
        };
        Ok(machines(storage)?.into_iter().map(row).collect())
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        check_name(name)?;
        Ok(Described { content: Content::Import, vmid: None, is_base: false, format: Format::Raw, base: None })
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        bail!("storage '{}': reading disks of an ESXi server is not supported - export the machine as OVA", storage.id)
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let (centre, datastore, path) = check_name(name)?;
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let parts: Vec<String> = path.split('/').map(encode).collect();
        let link = format!("/folder/{}?dcPath={}&dsName={}", parts.join("/"), encode(centre), encode(datastore));
        let text = page(storage, &link)?;
        Ok(VolumeInfo { size: text.len() as u64, used: 0, format: Format::Raw, parent: None })
    }

    fn allocate(&self, storage: &Storage, _new: &NewVolume) -> Result<String> {
        Err(storage.unsupported("allocating volumes"))
    }

    fn free(&self, storage: &Storage, _name: &str) -> Result<()> {
        Err(storage.unsupported("removing volumes"))
    }

    fn resize(&self, storage: &Storage, _name: &str, _size: u64) -> Result<()> {
        Err(storage.unsupported("resizing volumes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tool::script::Script;

    #[test]
    fn machines_are_found_step_by_step_and_the_password_is_no_argument() {
        let root = tempfile::tempdir().unwrap();
        let url = "curl -sS --fail --proto =https --max-time 10 --config - --";
        let at = |path: &str| format!("{url} '{path}'").replace("'", if path.contains('?') { "'" } else { "" });
        let script = Script::new()
            .answer(&at("https://esx:443/folder"), "<a href=\"/folder?dcPath=ha%2ddatacenter\">x</a><a href=\"http://vmware\">y</a>")
            .answer(&at("https://esx:443/folder?dcPath=ha%2ddatacenter"), "<a href=\"/folder?dcPath=ha%2ddatacenter&amp;dsName=ds1\">x</a>")
            .answer(
                &at("https://esx:443/folder?dcPath=ha%2ddatacenter&dsName=ds1"),
                "<a href=\"/folder?dcPath=ha%2ddatacenter\">Parent</a><a href=\"/folder/web%201/?dcPath=ha%2ddatacenter&amp;dsName=ds1\">x</a>\
                 <a href=\"/folder/file.iso?dcPath=ha%2ddatacenter&amp;dsName=ds1\">z</a>",
            )
            .answer(
                &at("https://esx:443/folder/web%201/?dcPath=ha%2ddatacenter&dsName=ds1"),
                "<a href=\"/folder/web%201/web%201.vmx?dcPath=ha%2ddatacenter&amp;dsName=ds1\">x</a>\
                 <a href=\"/folder/web%201/disk.vmdk?dcPath=ha%2ddatacenter&amp;dsName=ds1\">y</a>",
            );
        let ctx = script.context(root.path());
        let mut entry = Entry::new("esxi");
        for (key, value) in [("server", "esx"), ("username", "root"), ("skip-cert-verification", "1")] {
            entry.set(key, value);
        }
        let mut storage = Storage { ctx: &ctx, id: "esx".into(), entry };
        assert!(Esxi.configure(&mut storage, &Secrets::new(), true).is_err());
        let secrets = Secrets::from([("password".to_owned(), Some("pass\"word".to_owned()))]);
        Esxi.configure(&mut storage, &secrets, true).unwrap();
        let filter = Filter { contents: vec![Content::Import], vmid: None };
        let found = Esxi.list(&storage, &filter).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id.to_string(), "esx:ha-datacenter/ds1/web 1/web 1.vmx");
        let commands = script.take();
        assert!(commands.lines().all(|line| !line.split(" < ").next().unwrap().contains("pass")), "{commands}");
        assert!(commands.contains("insecure"));
        Esxi.unconfigure(&storage).unwrap();
        assert!(Esxi.list(&storage, &filter).is_err());
    }

    #[test]
    fn names_cannot_climb() {
        for bad in ["", "a", "a/b", "a/../b.vmx", "a//b.vmx", "a/b/../c.vmx", "a/b/c\n.vmx"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_name("a/b/c/d.vmx").unwrap(), ("a", "b", "c/d.vmx"));
    }
}
