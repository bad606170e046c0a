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
    let delete: Option<Vec<String>> = invocation.opt("delete")?;
    let given = invocation.params.to_map();
    let wish = create_options(&described, &target, format.as_deref(), given, &delete.unwrap_or_default());
    if invocation.flag("dryrun") {
        output::write(&create_command(invocation.param("vmid")?, &wish));
        return Ok(ExitCode::SUCCESS);
    }
    invocation.call(Verb::Post, CREATE, wish)?;
    Ok(ExitCode::SUCCESS)
}

/// What a guest on a storage becomes: the options of the line win, and those that are deleted are left out.
/// (PVE: qemu-server PVE/CLI/qm.pm, vm_import)
fn create_options(
    described: &Value,
    target: &str,
    format: Option<&str>,
    given: Map<String, Value>,
    delete: &[String],
) -> Map<String, Value> {
    let mut wish = Map::new();
    for (key, value) in described["create-args"].as_object().into_iter().flatten() {
        wish.insert(key.clone(), text(value).into());
    }
    for (key, net) in described["net"].as_object().into_iter().flatten() {
        let mut options: Vec<String> =
            net.as_object().into_iter().flatten().map(|(name, value)| format!("{name}={}", text(value))).collect();
        options.sort();
        wish.insert(key.clone(), options.join(",").into());
    }
    for (key, disk) in described["disks"].as_object().into_iter().flatten() {
        let value = match disk["volid"].as_str().or(disk.as_str()).filter(|_| key != "efidisk0") {
            Some(volume) => new_disk(target, volume, format),
            // Firmware keeps nothing that could be brought along.
            None => {
                let format = format.map(|format| format!(",format={format}")).unwrap_or_default();
                format!("{target}:1{format},efitype=4m")
            }
        };
        wish.insert(key.clone(), value.into());
    }
    const OWN: [&str; 7] = ["source", "storage", "format", "dryrun", "delete", "reboot", "node"];
    for (key, value) in given.into_iter().filter(|(key, _)| !OWN.contains(&key.as_str())) {
        let key = if key == "live-import" { "live-restore".into() } else { key };
        wish.insert(key, value);
    }
    wish.retain(|key, _| !delete.contains(key));
    wish
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    }
}

/// The command that `--dryrun` shows. What a shell would read otherwise stands in quotes.
fn create_command(vmid: Vmid, wish: &Map<String, Value>) -> String {
    let mut keys: Vec<&String> = wish.keys().filter(|key| *key != "vmid").collect();
    keys.sort();
    let quoted = |value: String| match value.chars().all(|c| c.is_ascii_alphanumeric() || "-_=:,./+@%".contains(c)) {
        true => value,
        false => format!("'{}'", value.replace('\'', r"'\''")),
    };
    let options: Vec<String> = keys.into_iter().map(|key| format!("--{key} {}", quoted(text(&wish[key])))).collect();
    let head = "# dry-run – the resulting create command for the import would be:";
    format!("{head}\nqm create {vmid} \\\n  {}\n", options.join(" \\\n  "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_keeps_its_cards_and_gets_firmware_of_its_own() {
        let described = json!({
            "create-args": {"cores": 2, "name": "old", "bios": "ovmf"},
            "net": {"net0": {"model": "vmxnet3", "macaddr": "00:50:56:00:00:01"}},
            "disks": {"efidisk0": 1, "scsi0": {"volid": "esxi:ha/a.vmdk", "size": 5}},
        });
        let given = json!({"vmid": 100, "source": "esxi:ha/a.vmx", "storage": "fast", "name": "new one"});
        let wish =
            create_options(&described, "fast", Some("raw"), given.as_object().cloned().unwrap(), &["bios".into()]);
        let shown = "# dry-run – the resulting create command for the import would be:\nqm create 100 \\\n  \
                     --cores 2 \\\n  --efidisk0 fast:1,format=raw,efitype=4m \\\n  --name 'new one' \\\n  \
                     --net0 macaddr=00:50:56:00:00:01,model=vmxnet3 \\\n  \
                     --scsi0 fast:0,import-from=esxi:ha/a.vmdk,format=raw\n";
        assert_eq!(create_command("100".parse().unwrap(), &wish), shown);
    }
}
