//! Ceph as storages see it: where the cluster is, who we are there, and where the key lies. Shared by `rbd` and `cephfs`.
//! (PVE: pve-storage PVE/CephConfig.pm)
//!
//! A storage without `monhost` belongs to the cluster that `/etc/pve/ceph.conf` describes. Keys are kept in
//! `/etc/pve/priv/ceph/`, commands get the file's name and never the key.

use super::driver::{Secrets, Storage};
use super::mounted::{check_server_name, source_host};
use crate::tool::Tool;
use crate::types::split_list;
use crate::{Error, Result, bail, error::ResultExt, file};
use std::fs;
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Ports of monitors: the second version of the protocol, then the first.
const MONITOR_PORTS: [u16; 2] = [3300, 6789];

/// How long a monitor may take to accept a connection.
const ANSWER: Duration = Duration::from_millis(700);

/// In which form the key is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credentials {
    /// A keyring file, for `rbd`.
    Keyring,
    /// The bare key, for `cephfs`.
    Secret,
}

impl Credentials {
    fn of(storage: &Storage) -> Self {
        if storage.entry.kind() == "cephfs" { Credentials::Secret } else { Credentials::Keyring }
    }

    fn path(self, storage: &Storage) -> PathBuf {
        let extension = if self == Credentials::Secret { "secret" } else { "keyring" };
        storage.ctx.root.etc_pve(&format!("priv/ceph/{}.{extension}", storage.id))
    }
}

/// How to reach the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// The user without `client.`.
    pub user: String,
    /// The configuration file, if there is one.
    pub config: Option<String>,
    /// The file with the key, if there is one.
    pub secret: Option<String>,
    /// Addresses of monitors, with a port where one was given; `None` if the configuration names them.
    pub monitors: Option<Vec<String>>,
}

impl Connection {
    /// `cephx` with a key, `none` without.
    pub fn authentication(&self) -> &'static str {
        if self.secret.is_some() { "cephx" } else { "none" }
    }

    /// The options that every Ceph tool takes.
    pub fn arguments(&self, tool: Tool) -> Tool {
        let mut tool = tool;
        if let Some(config) = &self.config {
            tool = tool.args(["-c", config]);
        }
        if let Some(monitors) = &self.monitors {
            tool = tool.args(["-m", &monitors.join(",")]);
        }
        tool = tool.args(["--auth_supported", self.authentication(), "-n", &format!("client.{}", self.user)]);
        if let Some(secret) = &self.secret {
            tool = tool.args(["--keyring", secret]);
        }
        tool
    }
}

/// Refuses a word that could end an option or begin another one.
pub fn check_word<'v>(value: &'v str, what: &str) -> Result<&'v str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if value.is_empty() || value.starts_with('-') || !value.chars().all(allowed) {
        bail!("invalid {what} '{}'", value.escape_debug());
    }
    Ok(value)
}

/// How to reach a storage's cluster.
pub fn connection(storage: &Storage) -> Result<Connection> {
    let existing = |path: PathBuf| path.exists().then(|| path.to_string_lossy().into_owned());
    let root = &storage.ctx.root;
    let monitors = storage.entry.get("monhost").map(monitors_of).transpose()?;
    let config = match monitors {
        None => Some(root.etc_pve("ceph.conf").to_string_lossy().into_owned()),
        Some(_) => existing(root.etc_pve(&format!("priv/ceph/{}.conf", storage.id))),
    };
    let user = check_word(storage.entry.get("username").unwrap_or("admin"), "username")?.to_owned();
    Ok(Connection { user, config, secret: existing(Credentials::of(storage).path(storage)), monitors })
}

/// Monitors of a list in `storage.cfg`, each `HOST`, `HOST:PORT` or `[ADDRESS]:PORT`.
fn monitors_of(text: &str) -> Result<Vec<String>> {
    split_list(text).iter().map(|item| monitor(item)).collect()
}

fn monitor(text: &str) -> Result<String> {
    let (host, port) = split_port(text);
    let host = source_host(host)?;
    Ok(port.map_or_else(|| host.clone(), |port| format!("{host}:{port}")))
}

/// Host and port; a bare IPv6 address has no port.
fn split_port(text: &str) -> (&str, Option<u16>) {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').unwrap_or((rest, ""));
        return (host, rest.strip_prefix(':').and_then(|port| port.parse().ok()));
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, port.parse().ok()),
        _ => (text, None),
    }
}

/// The monitors that the cluster's configuration file names.
pub fn monitors_of_config(storage: &Storage) -> Result<Vec<String>> {
    let path = storage.ctx.root.etc_pve("ceph.conf");
    let text = fs::read_to_string(&path).context(|| format!("unable to read '{}'", path.display()))?;
    let monitors = monitors_of(&monitor_line(&text))?;
    if monitors.is_empty() {
        bail!("no monitors in '{}'", path.display());
    }
    Ok(monitors)
}

/// `mon_host` of a Ceph configuration, vectors such as `[v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0]` without their brackets.
fn monitor_line(text: &str) -> String {
    let line = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])).find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key.trim().replace(' ', "_") == "mon_host").then(|| value.trim().to_owned())
    });
    let items = line.unwrap_or_default();
    let items = items.split([' ', ',', ';']).map(|item| {
        let item = item.strip_prefix('[').filter(|rest| rest.starts_with('v')).unwrap_or(item);
        let item = item.strip_prefix("v1:").or_else(|| item.strip_prefix("v2:")).unwrap_or(item);
        let item = item.strip_suffix(']').filter(|rest| rest.contains('/')).unwrap_or(item);
        item.split('/').next().unwrap_or_default()
    });
    items.filter(|item| !item.is_empty()).collect::<Vec<_>>().join(",")
}

/// Fails unless one of the monitors takes a connection.
pub fn check_monitors(storage: &Storage) -> Result<()> {
    let monitors = match connection(storage)?.monitors {
        Some(monitors) => monitors,
        None => monitors_of_config(storage)?,
    };
    let reached = monitors.iter().any(|monitor| {
        let (host, port) = split_port(monitor);
        let ports = port.map_or_else(|| MONITOR_PORTS.to_vec(), |port| vec![port]);
        ports.into_iter().any(|port| {
            let addresses = check_server_name(host).ok().and_then(|host| (host, port).to_socket_addrs().ok());
            addresses.into_iter().flatten().any(|address| TcpStream::connect_timeout(&address, ANSWER).is_ok())
        })
    });
    if reached { Ok(()) } else { Err(Error::new(format!("no monitor of {} answers", monitors.join(", ")))) }
}

/// Keeps the key of a new or changed storage. A new one without a key takes that of the cluster's administrator, if the
/// node has it.
pub fn keep(storage: &Storage, form: Credentials, secrets: &Secrets, create: bool) -> Result<()> {
    let path = form.path(storage);
    let secret = match secrets.get("keyring") {
        Some(Some(secret)) => check_key(form, secret)?.trim_end().to_owned(),
        Some(None) => return forget(storage, form),
        None if !create => return Ok(()),
        None => {
            if path.exists() {
                bail!("ceph authx keyring file for storage '{}' already exists!", storage.id);
            }
            let admin = storage.ctx.root.etc_pve("priv/ceph.client.admin.keyring");
            let Ok(text) = fs::read_to_string(&admin) else { return Ok(()) };
            match form {
                Credentials::Keyring => text.trim_end().to_owned(),
                Credentials::Secret => {
                    key_of(&text).ok_or_else(|| Error::new("no key in the administrator's keyring"))?
                }
            }
        }
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).context(|| directory.display().to_string())?;
    }
    file::replace(&path, format!("{secret}\n").as_bytes(), 0o400)?;
    // librbd inside QEMU finds the key by this file; the kernel needs none.
    if form == Credentials::Keyring && storage.entry.get("monhost").is_some() {
        let config = storage.ctx.root.etc_pve(&format!("priv/ceph/{}.conf", storage.id));
        if !config.exists() {
            file::replace(&config, format!("[global]\n\tkeyring = {}\n\n", path.display()).as_bytes(), 0o600)?;
        }
    }
    Ok(())
}

/// Removes what [`keep`] made.
pub fn forget(storage: &Storage, form: Credentials) -> Result<()> {
    let config = storage.ctx.root.etc_pve(&format!("priv/ceph/{}.conf", storage.id));
    for path in [form.path(storage), config] {
        file::remove_if_there(&path).context(|| format!("removing '{}' failed", path.display()))?;
    }
    Ok(())
}

/// The key in a keyring file.
fn key_of(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("key")?.trim_start().strip_prefix('='))?;
    Some(value.trim().to_owned()).filter(|key| !key.is_empty())
}

/// Refuses what is no key, without repeating it.
fn check_key(form: Credentials, text: &str) -> Result<&str> {
    let good = match form {
        Credentials::Keyring => key_of(text).is_some_and(|key| key.ends_with("==")),
        Credentials::Secret => text.trim_end().ends_with("==") && !text.trim_end().contains('\n'),
    };
    if !good {
        let word = if form == Credentials::Keyring { "rbd" } else { "cephfs" };
        bail!("Not a proper {word} authentication file");
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Entry;
    use crate::tool::script::Script;

    #[test]
    fn monitors_are_found_in_both_forms() {
        let config = "[global]\n  fsid = x\n  mon host = [v2:10.0.0.1:3300/0,v1:10.0.0.1:6789/0] 10.0.0.2,fe80::3\n";
        assert_eq!(monitor_line(config), "10.0.0.1:3300,10.0.0.1:6789,10.0.0.2,fe80::3");
        assert_eq!(
            monitors_of("10.0.0.1 mon.example;[fe80::1]:3300,fe80::2").unwrap(),
            ["10.0.0.1", "mon.example", "[fe80::1]:3300", "[fe80::2]"]
        );
        assert!(monitors_of("-x").is_err());
    }

    #[test]
    fn keys_lie_in_files_that_only_root_reads() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Script::new().context(root.path());
        let mut entry = Entry::new("rbd");
        entry.set("monhost", "10.0.0.1");
        let storage = Storage { ctx: &ctx, id: "ceph".into(), entry };
        let secret = |text: &str| Secrets::from([("keyring".to_owned(), Some(text.to_owned()))]);
        assert!(keep(&storage, Credentials::Keyring, &secret("nonsense"), true).is_err());
        keep(&storage, Credentials::Keyring, &secret("[client.admin]\n\tkey = abc==\n"), true).unwrap();
        let directory = root.path().join("etc/pve/priv/ceph");
        assert_eq!(fs::read_to_string(directory.join("ceph.keyring")).unwrap(), "[client.admin]\n\tkey = abc==\n");
        assert!(fs::read_to_string(directory.join("ceph.conf")).unwrap().starts_with("[global]\n\tkeyring = "));
        let connection = connection(&storage).unwrap();
        let command = connection.arguments(Tool::new("rbd")).to_string();
        assert!(command.contains("-m 10.0.0.1 --auth_supported cephx -n client.admin --keyring "), "{command}");
        assert!(!command.contains("abc"));
        forget(&storage, Credentials::Keyring).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }
}
