//! Volumes and file systems as streams: `zfs send` and `zfs receive`. (PVE: pve-storage PVE/Storage/ZFSPoolPlugin.pm,
//! volume_export and volume_import)
//!
//! A stream holds all snapshots up to the one that is sent. PVE sends with `-U` as well, so that encrypted data sets leave
//! unencrypted; releases of ZFS without it refuse to send these.

use super::dataset::{choose_name, full_name, snapshot_name};
use super::{ask, parse, pool_name, run, zfs};
use crate::storage::driver::Storage;
use crate::storage::stream::{Export, Form, Import};
use crate::tool::Data;
use crate::types::random_uuid;
use crate::{Error, Result, bail};
use std::fs::File;

pub(super) fn export(storage: &Storage, export: &Export, form: Form, to: &File) -> Result<()> {
    if form != Form::Zfs {
        bail!("unsupported export stream format for zfspool: {form}");
    }
    let Some(snapshot) = &export.snapshot else { bail!("zfspool storage can only export snapshots") };
    let sent = snapshot_name(storage, &export.name, snapshot)?;
    let since = export.base.as_deref().map(|base| [if export.with_snapshots { "-I" } else { "-i" }, base]);
    let mut words = vec!["send", "-Rpv"];
    words.extend(since.iter().flatten());
    words.extend(["--", &sent]);
    let data = Data { to: Some(to), ..Data::default() };
    zfs(storage, &words)?.run_with(storage.ctx, data, &mut |line| eprintln!("{line}"))
}

pub(super) fn import(storage: &Storage, import: &Import, form: Form, from: &File) -> Result<String> {
    if form != Form::Zfs {
        bail!("unsupported import stream format for zfspool: {form}");
    }
    match &import.base {
        Some(base) => continue_from(storage, &import.name, base, from),
        None => receive_new(storage, &import.name, import.allow_rename, from),
    }
}

/// Adds what has changed since a snapshot that both sides have. The volume goes back to it if that fails.
fn continue_from(storage: &Storage, name: &str, base: &str, from: &File) -> Result<String> {
    let base = snapshot_name(storage, name, base)?;
    if !exists(storage, &base) {
        bail!("base snapshot '{base}' doesn't exist");
    }
    receive(storage, &["-F"], &full_name(storage, name)?, from).map_err(|error| {
        let undone = run(storage, &["rollback", "-r", "--", &base]);
        error.with_cleanup_failures(&undone.err().into_iter().collect::<Vec<_>>())
    })?;
    Ok(parse(name)?.0.name)
}

/// Receives under a name that nobody else has or lists, so that neither a failure nor somebody who is quicker meets a volume
/// of somebody else.
fn receive_new(storage: &Storage, name: &str, may_rename: bool, from: &File) -> Result<String> {
    let (parsed, format) = parse(name)?;
    let place = full_name(storage, name)?;
    let check = || match exists(storage, &place) {
        true if !may_rename => Err(Error::new(format!("volume '{place}' already exists"))),
        taken => Ok(taken),
    };
    check()?;
    let hidden = format!("{}/recv-{}-{}", pool_name(storage)?, parsed.vmid, random_uuid());
    let settle = || {
        let _lock = storage.lock()?;
        let name = if check()? {
            eprintln!("volume '{place}' already exists - importing with a different name");
            choose_name(storage, parsed.vmid, format, None)?
        } else {
            parsed.name.clone()
        };
        run(storage, &["rename", "--", &hidden, &full_name(storage, &name)?]).map(|()| name)
    };
    receive(storage, &[], &hidden, from).and_then(|()| settle()).map_err(|error| {
        // A stream that broke off early has made nothing.
        let left = exists(storage, &hidden).then(|| run(storage, &["destroy", "-r", "--", &hidden]));
        error.with_cleanup_failures(&left.and_then(Result::err).into_iter().collect::<Vec<_>>())
    })
}

fn receive(storage: &Storage, options: &[&str], place: &str, from: &File) -> Result<()> {
    let words = [&["recv"], options, &["-x", "encryption", "--", place]].concat();
    let data = Data { from: Some(from), ..Data::default() };
    zfs(storage, &words)?.run_with(storage.ctx, data, &mut |line| eprintln!("{line}"))
}

fn exists(storage: &Storage, dataset: &str) -> bool {
    ask(storage, &["get", "-H", "name", dataset]).is_ok()
}
