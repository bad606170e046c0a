//! Local commands of `pvesm`, the tool for storages. (pve-storage PVE/CLI/pvesm.pm)

use super::{Row, command as row};
use crate::invocation::Invocation;
use crate::output;
use contract::Verb;
use engine::call::config_text;
use engine::error::ResultExt;
use engine::storage::stream::{self, Form};
use engine::storage::{self, VolumeId};
use engine::{Error, Result, bail, host};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Duration;

/// How long an importing side waits for the exporting one.
const CLIENT_DEADLINE: Duration = Duration::from_secs(30);

/// Where nodes send disks to each other. (PVE: pve-common PVE/Tools.pm, next_migrate_port)
const MIGRATION_PORTS: Range<u16> = 60_000..60_050;

/// The version of the storage interface for plugins that we are compatible with, and how many older ones it takes.
/// (pve-storage PVE/Storage.pm, APIVER and APIAGE)
const API_VERSION: (u32, u32) = (15, 6);

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    row("pvesm", "apiinfo", api_info),
    row("pvesm", "export", export),
    row("pvesm", "extractconfig", extract_config),
    row("pvesm", "import", import),
    row("pvesm", "path", path),
    row("pvesm", "prune-backups", prune),
];

fn api_info(_invocation: &Invocation) -> Result<ExitCode> {
    let (version, age) = API_VERSION;
    output::write(&format!("APIVER {version}\nAPIAGE {age}\n"));
    Ok(ExitCode::SUCCESS)
}

/// A volume as a stream; a file that was not written to its end is removed.
fn export(invocation: &Invocation) -> Result<ExitCode> {
    let volume: VolumeId = invocation.param("volume")?;
    let form: Form = invocation.param("format")?;
    let target: String = invocation.param("filename")?;
    let snapshots = invocation.opt::<Vec<String>>("snapshot-list")?.unwrap_or_default();
    let wanted = stream::Export {
        name: String::new(),
        snapshot: invocation.opt("snapshot")?,
        base: invocation.opt("base")?,
        with_snapshots: invocation.flag("with-snapshots") || !snapshots.is_empty(),
        snapshots,
    };
    if target == "-" {
        let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        stream::export(&invocation.ctx, &volume, &wanted, form, &file)?;
        return Ok(ExitCode::SUCCESS);
    }
    let place = || format!("open({target})");
    let file = File::options().write(true).create(true).truncate(true).open(&target).context(place)?;
    let result = stream::export(&invocation.ctx, &volume, &wanted, form, &file);
    if result.is_err() {
        // The error that is reported is the export's.
        let _ = std::fs::remove_file(&target);
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// A volume of a stream from a file, standard input, a TCP port or a Unix socket of our own.
fn import(invocation: &Invocation) -> Result<ExitCode> {
    let volume: VolumeId = invocation.param("volume")?;
    let form: Form = invocation.param("format")?;
    let wanted = stream::Import {
        name: String::new(),
        snapshot: invocation.opt("snapshot")?,
        base: invocation.opt("base")?,
        with_snapshots: invocation.flag("with-snapshots"),
        allow_rename: invocation.flag("allow-rename"),
    };
    let file = open_stream(&invocation.param::<String>("filename")?)?;
    let made = stream::import(&invocation.ctx, &volume, &wanted, form, &file)?;
    if let Some(snapshot) = invocation.opt::<String>("delete-snapshot")? {
        storage::snapshot_delete(&invocation.ctx, &made, &snapshot)?;
    }
    output::write(&format!("successfully imported '{made}'\n"));
    Ok(ExitCode::SUCCESS)
}

fn open_stream(name: &str) -> Result<File> {
    if name == "-" {
        return Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?));
    }
    if let Some(address) = name.strip_prefix("tcp://") {
        let address = if address.contains('/') { own_address(address)?.to_string() } else { address.to_owned() };
        let listener = listen(&address)?;
        output::write(&format!("{address}\n{}\n", listener.local_addr()?.port()));
        wait_for_client(listener.as_fd())?;
        return Ok(File::from(std::os::fd::OwnedFd::from(listener.accept()?.0)));
    }
    if let Some(path) = name.strip_prefix("unix://") {
        let listener = UnixListener::bind(path).context(|| "failed to open socket")?;
        output::write("ready\n");
        wait_for_client(listener.as_fd())?;
        return Ok(File::from(std::os::fd::OwnedFd::from(listener.accept()?.0)));
    }
    File::open(name).context(|| format!("open({name})"))
}

/// The one address of this node in a network. (PVE: pve-common PVE/Network.pm, get_local_ip_from_cidr)
fn own_address(network: &str) -> Result<IpAddr> {
    let found = host::addresses(&["to", network, "up"])?;
    match found.first() {
        Some(address) if found.len() == 1 => Ok(*address),
        Some(_) => bail!("Got multiple local IP address in network '{network}'"),
        None => bail!("Unable to get any local IP address in network '{network}'"),
    }
}

/// Listens at the first free port for migrations, which firewalls let pass.
fn listen(address: &str) -> Result<TcpListener> {
    for port in MIGRATION_PORTS {
        match TcpListener::bind((address, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error).context(|| "failed to open socket"),
        }
    }
    bail!("unable to find free port ({}-{})", MIGRATION_PORTS.start, MIGRATION_PORTS.end)
}

/// Returns when somebody connects; the other side has been told where.
fn wait_for_client(listener: BorrowedFd) -> Result<()> {
    if storage::stream::wait_readable(listener, CLIENT_DEADLINE)? {
        return Ok(());
    }
    Err(Error::new("timed out waiting for client"))
}

/// The configuration in a backup.
fn extract_config(invocation: &Invocation) -> Result<ExitCode> {
    let text = storage::extract::config(&invocation.ctx, &invocation.param("volume")?)?;
    output::write(&format!("{}\n", text.trim_end_matches('\n')));
    Ok(ExitCode::SUCCESS)
}

/// Shows or does what a rule says, the storage's own or the one of the command line.
fn prune(invocation: &Invocation) -> Result<ExitCode> {
    let mut params = Map::from_iter([("storage".to_owned(), invocation.param::<Value>("storage")?)]);
    for name in ["vmid", "type"] {
        if let Some(value) = invocation.opt::<Value>(name)? {
            params.insert(name.to_owned(), value);
        }
    }
    let mut rules = Vec::new();
    for name in ["keep-all", "keep-daily", "keep-hourly", "keep-last", "keep-monthly", "keep-weekly", "keep-yearly"] {
        if let Some(value) = invocation.opt::<Value>(name)? {
            rules.push(format!("{name}={}", config_text(&value)));
        }
    }
    if !rules.is_empty() {
        params.insert("prune-backups".to_owned(), Value::from(rules.join(",")));
    }
    const PATH: &str = "/nodes/{node}/storage/{storage}/prunebackups";
    let dry_run = invocation.flag("dry-run");
    let verb = if dry_run { Verb::Get } else { Verb::Delete };
    let list = invocation.call(verb, PATH, params)?.data;
    invocation.print(json!({ "dryrun": dry_run, "list": list }).into())?;
    Ok(ExitCode::SUCCESS)
}

/// Where a volume is, whether it exists or not.
fn path(invocation: &Invocation) -> Result<ExitCode> {
    let path = storage::path(&invocation.ctx, &invocation.param("volume")?)?;
    output::write(&format!("{}\n", path.display()));
    Ok(ExitCode::SUCCESS)
}
