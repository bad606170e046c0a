//! Storages of type `esxi`: the virtual machines of an ESXi server, to be imported. Untested on real hardware.
//! (PVE: pve-storage PVE/Storage/ESXiPlugin.pm)
//!
//! PVE mounts the server by a program of its own, which Debian does not have. Here the server's own pages below `/folder`
//! are read ([`server`]), and `qemu-img` reads a disk where it lies. A volume is `DATACENTRE/DATASTORE/DIRECTORY/NAME`, with
//! `.vmx` a machine ([`vmx`]), with `.vmdk` a disk ([`disk`]). The password lies in `/etc/pve/priv/storage/ID.pw` and reaches
//! no argument.

mod disk;
mod server;
mod vmx;

use super::config::Entry;
use super::content::Content;
use super::convert::{RemoteDisk, TemporaryRaw};
use super::driver::{Described, Driver, Filter, Secrets, Space, Storage};
use super::mounted::{check_server_name, ping};
use super::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::{Context, Result, bail, error::ResultExt, file};
use server::{Place, option, password_file, port, quoted};
use std::fs;
use std::path::PathBuf;

/// The driver.
pub struct Esxi;

/// The volume of a file that a machine's description names: beside it, or in a datastore of the server.
fn named_by(machine: &Place, file: &str) -> Result<String> {
    let name = match file.strip_prefix("/vmfs/volumes/") {
        Some(rest) => format!("{}/{rest}", machine.centre),
        None if file.starts_with('/') => bail!("failed to resolve path '{}'", file.escape_debug()),
        None => {
            let directory = machine.path.rsplit_once('/').map(|(directory, _)| format!("{directory}/"));
            format!("{}/{}/{}{file}", machine.centre, machine.datastore, directory.unwrap_or_default())
        }
    };
    Place::of(&name)?;
    Ok(name)
}

/// The file with a disk's bytes, and its size.
fn extent(storage: &Storage, name: &str) -> Result<(String, u64)> {
    let place = Place::of(name)?;
    if !name.ends_with(".vmdk") || name.ends_with("-flat.vmdk") {
        bail!("'{name}' does not describe a disk");
    }
    let found = disk::parse(&server::text(storage, &place)?, name)?;
    Ok((named_by(&place, &found.file)?, found.size))
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
        file::remove_if_there(&password_file(storage)).context(|| "removing esxi credentials failed")
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
        let row = |name: String| Volume::new(storage.volume(name), Content::Import, "vmx", 0);
        Ok(server::machines(storage)?.into_iter().map(row).collect())
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        Place::of(name)?;
        let format = if name.ends_with(".vmdk") { Format::Vmdk } else { Format::Raw };
        Ok(Described { content: Content::Import, vmid: None, is_base: false, format, base: None })
    }

    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        Place::of(name)?;
        bail!("storage '{}': '{name}' is no file of this node", storage.id)
    }

    /// A machine has no size. (PVE: volume_size_info)
    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        let (size, format) = match name.ends_with(".vmx") {
            true => (Place::of(name).map(|_| 0)?, Format::Raw),
            false => (extent(storage, name)?.1, Format::Vmdk),
        };
        Ok(VolumeInfo { size, used: 0, format, parent: None })
    }

    fn remote_disk(&self, storage: &Storage, name: &str) -> Result<Option<RemoteDisk>> {
        let (file, size) = extent(storage, name)?;
        Ok(Some(RemoteDisk {
            url: server::url(storage, &Place::of(&file)?)?,
            user: option(storage, "username")?.to_owned(),
            password: TemporaryRaw::in_memory(&server::password(storage)?)?,
            is_verified: server::is_verified(storage),
            size,
        }))
    }

    fn import_metadata(&self, storage: &Storage, name: &str) -> Result<serde_json::Value> {
        let place = Place::of(name)?;
        if !name.ends_with(".vmx") {
            bail!("'{name}' does not describe a machine");
        }
        let machine = vmx::Vmx::parse(&server::text(storage, &place)?);
        // While a machine runs, its memory has a file.
        let runs = server::beside(storage, &place)?.iter().any(|file| file.ends_with(".vswp"));
        let volume = |file: &str| named_by(&place, file);
        let size = |name: &str| extent(storage, name).ok().map(|(_, size)| size);
        machine.metadata(&vmx::Files { storage: &storage.id, volume: &volume, size: &size, runs })
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
        let url = "curl -sS --fail --proto =https --max-time 10 --max-filesize 4194304 --config - --";
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
    fn files_lie_beside_their_machine_or_in_another_datastore() {
        let machine = Place::of("dc/ds1/web/web.vmx").unwrap();
        assert_eq!(named_by(&machine, "web.vmdk").unwrap(), "dc/ds1/web/web.vmdk");
        assert_eq!(named_by(&machine, "/vmfs/volumes/ds2/other/data.vmdk").unwrap(), "dc/ds2/other/data.vmdk");
        for bad in ["/dev/sda", "../other/x.vmdk", "/vmfs/volumes/../x", "a//b.vmdk", ""] {
            assert!(named_by(&machine, bad).is_err(), "{bad}");
        }
    }
}
