//! Local commands of `qm` that make VMs from descriptions of other systems: a manifest on this machine (`importovf`), or an
//! appliance or guest on a storage (`import`). Both end in the method that creates VMs, so a failure leaves nothing.

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use contract::Verb;
use engine::storage::import::{ova, ovf};
use engine::{Error, Result, ResultExt, Vmid};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[command("qm", "importovf", import_manifest), command("qm", "import", import_volume)];

const CREATE: &str = "/nodes/{node}/qemu";

/// A new VM from an OVF manifest and the disks beside it. (PVE: qemu-server PVE/CLI/qm.pm, importovf)
fn import_manifest(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    let (manifest, storage): (String, String) = (invocation.param("manifest")?, invocation.param("storage")?);
    let format: Option<String> = invocation.opt("format")?;
    let path = std::fs::canonicalize(&manifest).ok().filter(|path| path.is_file());
    let path = path.ok_or_else(|| Error::new(format!("{manifest}: non-existent or non-regular file")))?;
    engine::storage::check_content(&invocation.ctx, &storage, "images")?;
    let guest = ovf::parse(&ova::read_text(File::open(&path).context(|| manifest.clone())?)?)?;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let disks: Vec<(&ovf::Disk, PathBuf)> =
        guest.disks.iter().map(|disk| Ok((disk, beside(directory, &disk.file)?))).collect::<Result<_>>()?;
    if invocation.flag("dryrun") {
        let row = |(disk, file): &(&ovf::Disk, PathBuf)| json!({"backing_file": file, "disk_address": disk.address, "virtual_size": disk.size});
        let disks: Vec<Value> = disks.iter().map(row).collect();
        let settings = json!({"name": guest.name, "memory": guest.memory, "cores": guest.cores});
        output::write(&(output::json::pretty(&json!({"disks": disks, "qm": without_null(settings)})) + "\n"));
        return Ok(ExitCode::SUCCESS);
    }
    let mut wish = Map::from_iter([("vmid".to_owned(), json!(vmid.to_string()))]);
    for (key, value) in [("memory", guest.memory), ("cores", guest.cores)] {
        value.map(|value| wish.insert(key.into(), value.to_string().into()));
    }
    guest.name.map(|name| wish.insert("name".into(), name.into()));
    for (disk, file) in disks {
        wish.insert(disk.address.clone(), new_disk(&storage, &file.to_string_lossy(), format.as_deref()).into());
    }
    invocation.call(Verb::Post, CREATE, wish)?;
    Ok(ExitCode::SUCCESS)
}

/// A file beside a manifest; a link out of its directory leads nowhere.
fn beside(directory: &Path, name: &str) -> Result<PathBuf> {
    let file = std::fs::canonicalize(directory.join(name)).context(|| format!("error parsing {name}"))?;
    match file.starts_with(directory) && file.is_file() {
        true => Ok(file),
        false => Err(Error::new(format!("error parsing {name}, file seems not to exist or lies elsewhere"))),
    }
}

fn new_disk(storage: &str, source: &str, format: Option<&str>) -> String {
    let format = format.map(|format| format!(",format={format}")).unwrap_or_default();
    format!("{storage}:0,import-from={source}{format}")
}

fn without_null(mut value: Value) -> Value {
    value.as_object_mut().into_iter().for_each(|map| map.retain(|_, value| !value.is_null()));
    value
}

/// A new VM from what a storage knows about a guest; options of the line win over that.
fn import_volume(invocation: &Invocation) -> Result<ExitCode> {
    let (source, target): (String, String) = (invocation.param("source")?, invocation.param("storage")?);
    let format: Option<String> = invocation.opt("format")?;
    let (storage, _) = source.split_once(':').ok_or_else(|| Error::parameter("source", "not a volume ID"))?;
    let question = Map::from_iter([("storage".to_owned(), json!(storage)), ("volume".to_owned(), json!(source))]);
    let described = invocation.call(Verb::Get, "/nodes/{node}/storage/{storage}/import-metadata", question)?.data;
    let mut wish = Map::new();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    for (key, value) in described["create-args"].as_object().into_iter().flatten() {
        wish.insert(key.clone(), text(value).into());
    }
    for (key, value) in described["net"].as_object().into_iter().flatten() {
        wish.insert(key.clone(), text(&value["model"]).into());
    }
    for (key, disk) in described["disks"].as_object().into_iter().flatten() {
        let value = match disk["volid"].as_str().or(disk.as_str()) {
            Some(volume) => new_disk(&target, volume, format.as_deref()),
            None => format!("{target}:1"),
        };
        wish.insert(key.clone(), value.into());
    }
    for (key, value) in invocation.params.to_map() {
        if !["source", "storage", "format", "dryrun", "delete", "reboot", "node"].contains(&key.as_str()) {
            wish.insert(key, value);
        }
    }
    if invocation.flag("dryrun") {
        let options: String = wish
            .iter()
            .filter(|(key, _)| *key != "vmid")
            .map(|(key, value)| format!(" --{key} '{}'", text(value).replace('\'', r"'\''")))
            .collect();
        output::write(&format!("qm create {}{options}\n", invocation.param::<Vmid>("vmid")?));
        return Ok(ExitCode::SUCCESS);
    }
    invocation.call(Verb::Post, CREATE, wish)?;
    Ok(ExitCode::SUCCESS)
}
