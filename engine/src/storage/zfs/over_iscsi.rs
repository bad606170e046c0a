//! Storages of type `zfs`: volumes of a pool on another machine, which gives them by iSCSI to QEMU.
//! (PVE: pve-storage PVE/Storage/ZFSPlugin.pm)

use super::dataset::{self, full_name, snapshot_name};
use super::target::{device, number, provider};
use super::{BASE_SNAPSHOT, parse, pool_name, run};
use crate::storage::config::Entry;
use crate::storage::driver::{Described, Driver, Filter, Space, Storage};
use crate::storage::feature::{Capability, Feature, State, can};
use crate::storage::iscsi::{place, portal_parts};
use crate::storage::mounted::ping;
use crate::storage::pool;
use crate::storage::volume::{Format, NewVolume, Volume, VolumeInfo};
use crate::{Context, Error, Result, Vmid, bail};
use std::path::PathBuf;

const RAW: &[Format] = &[Format::Raw];

/// The port of SSH, by which the other machine is told what to do.
const SSH: u16 = 22;

/// What volumes can do.
const CAPABILITIES: &[Capability] = &[
    can(Feature::Snapshot, State::Current, RAW),
    can(Feature::Snapshot, State::Snapshot, RAW),
    can(Feature::Clone, State::Base, RAW),
    can(Feature::Template, State::Current, RAW),
    can(Feature::Copy, State::Current, RAW),
    can(Feature::Copy, State::Base, RAW),
];

/// The driver.
pub struct ZfsOverIscsi;

/// Only volumes can be given by iSCSI.
fn check(name: &str) -> Result<()> {
    match parse(name)?.1 {
        Format::Raw => Ok(()),
        format => bail!("unsupported format '{format}'"),
    }
}

fn publish(storage: &Storage, name: &str) -> Result<()> {
    provider(storage)?.publish(storage, &device(storage, name)?)
}

fn withdraw(storage: &Storage, name: &str) -> Result<()> {
    provider(storage)?.withdraw(storage, &device(storage, name)?)
}

impl Driver for ZfsOverIscsi {
    fn as_driver(&self) -> &dyn Driver {
        self
    }

    fn capabilities(&self) -> &'static [Capability] {
        CAPABILITIES
    }

    fn check_entry(&self, ctx: &Context, id: &str, entry: &mut Entry, _create: bool) -> Result<()> {
        let storage = Storage { ctx, id: id.to_owned(), entry: entry.clone() };
        pool_name(&storage)?;
        provider(&storage)?;
        place(&storage).map(drop)
    }

    fn activate(&self, storage: &Storage) -> Result<()> {
        let (host, _) = portal_parts(place(storage)?.0)?;
        ping(host, SSH).map_err(|error| error.context(format!("storage '{}' is not online", storage.id)))
    }

    fn space(&self, storage: &Storage) -> Result<Space> {
        dataset::space(storage)
    }

    fn list(&self, storage: &Storage, filter: &Filter) -> Result<Vec<Volume>> {
        let rows = dataset::list(storage)?.into_iter().filter(|row| row.format == Format::Raw);
        Ok(pool::list(storage, filter, rows))
    }

    fn describe(&self, _storage: &Storage, name: &str) -> Result<Described> {
        check(name)?;
        Ok(pool::describe(&parse(name)?.0, Format::Raw))
    }

    /// A name that QEMU understands.
    fn path(&self, storage: &Storage, name: &str) -> Result<PathBuf> {
        check(name)?;
        let (portal, target) = place(storage)?;
        Ok(format!("iscsi://{portal}/{target}/{}", number(storage, name)?).into())
    }

    fn info(&self, storage: &Storage, name: &str) -> Result<VolumeInfo> {
        check(name)?;
        dataset::info(storage, name)
    }

    fn allocate(&self, storage: &Storage, new: &NewVolume) -> Result<String> {
        if let Some(format) = new.format.filter(|format| *format != Format::Raw) {
            bail!("unsupported format '{format}'");
        }
        let _lock = storage.lock()?;
        let name = dataset::choose_name(storage, new.vmid, Format::Raw, new.name.as_deref())?;
        dataset::create_volume(storage, &name, new.size)?;
        publish(storage, &name).map_err(|error| {
            let failures: Vec<Error> = dataset::destroy(storage, &name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
        Ok(name)
    }

    fn free(&self, storage: &Storage, name: &str) -> Result<()> {
        check(name)?;
        let _lock = storage.lock()?;
        withdraw(storage, name)?;
        dataset::destroy(storage, name).map_err(|error| {
            let failures: Vec<Error> = publish(storage, name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })
    }

    fn resize(&self, storage: &Storage, name: &str, size: u64) -> Result<()> {
        check(name)?;
        dataset::check_growth(storage, name, size)?;
        let kib = dataset::volume_kib(size);
        run(storage, &["set", &format!("volsize={kib}k"), &full_name(storage, name)?])?;
        provider(storage)?.resized(storage, &device(storage, name)?, kib)
    }

    fn snapshot(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        check(name)?;
        run(storage, &["snapshot", &snapshot_name(storage, name, snapshot)?])
    }

    fn snapshot_delete(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        check(name)?;
        run(storage, &["destroy", &snapshot_name(storage, name, snapshot)?])
    }

    fn rollback_possible(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        dataset::rollback_possible(storage, name, snapshot)
    }

    fn rollback(&self, storage: &Storage, name: &str, snapshot: &str) -> Result<()> {
        check(name)?;
        let kept = snapshot_name(storage, name, snapshot)?;
        let device = device(storage, name)?;
        let _lock = storage.lock()?;
        provider(storage)?.withdraw(storage, &device)?;
        let result = run(storage, &["rollback", &kept]);
        // Whatever became of it, the guest needs its disk.
        let published = provider(storage)?.publish_again(storage, &device);
        match result {
            Ok(()) => published,
            Err(error) => Err(error.with_cleanup_failures(&published.err().into_iter().collect::<Vec<_>>())),
        }
    }

    fn snapshots(&self, storage: &Storage, name: &str) -> Result<Vec<String>> {
        check(name)?;
        dataset::snapshots(storage, name)
    }

    fn make_template(&self, storage: &Storage, name: &str) -> Result<String> {
        check(name)?;
        let (bare, whole) = dataset::template_names(name)?;
        let _lock = storage.lock()?;
        withdraw(storage, name)?;
        dataset::rename(storage, name, &bare).map_err(|error| {
            let failures: Vec<Error> = publish(storage, name).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
        publish(storage, &bare)?;
        run(storage, &["snapshot", &format!("{}@{BASE_SNAPSHOT}", full_name(storage, &bare)?)])?;
        Ok(whole)
    }

    fn clone_linked(&self, storage: &Storage, name: &str, snapshot: Option<&str>, vmid: Vmid) -> Result<String> {
        check(name)?;
        if snapshot.is_some() {
            return Err(storage.unsupported("linked clone of a snapshot"));
        }
        let _lock = storage.lock()?;
        let clone = dataset::clone(storage, name, vmid)?;
        publish(storage, &clone).map_err(|error| {
            let failures: Vec<Error> = dataset::destroy(storage, &clone).err().into_iter().collect();
            error.with_cleanup_failures(&failures)
        })?;
        Ok(format!("{}/{clone}", parse(name)?.0.name))
    }
}
