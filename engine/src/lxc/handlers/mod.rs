//! `/nodes/{node}/lxc`: the methods of containers.
//!
//! Migration, replication and the firewall are not built yet.

pub mod consoles;
pub mod copies;
pub mod snapshots;

use crate::call::config_text;
use crate::config::guest::{GuestConfig, GuestKind};
use crate::context::Mode;
use crate::lxc::create::{self, NewContainer, Restore};
use crate::lxc::destroy::{self, Destroy};
use crate::lxc::liblxc::Liblxc;
use crate::lxc::permission::{self, Target};
use crate::lxc::setup::NewAccount;
use crate::lxc::start::{self, Start};
use crate::lxc::stop::{self, Stop};
use crate::lxc::update::{self, Change};
use crate::lxc::volume::{self, Source};
use crate::lxc::{freeze, monitor, recovery, resize, status, view};
use crate::registry::{Binding, delete, get, post, put};
use crate::storage::{self, VolumeId};
use crate::{Call, Context, Error, Reply, Result, Vmid, access, bail, guest};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    post("/nodes/{node}/lxc", create_container),
    delete("/nodes/{node}/lxc/{vmid}", destroy_container),
    get("/nodes/{node}/lxc/{vmid}/config", get_config),
    put("/nodes/{node}/lxc/{vmid}/config", put_config),
    get("/nodes/{node}/lxc/{vmid}/pending", get_pending),
    get("/nodes/{node}/lxc/{vmid}/interfaces", get_interfaces),
    put("/nodes/{node}/lxc/{vmid}/resize", resize_volume),
    get("/nodes/{node}/lxc/{vmid}/status/current", get_status),
    post("/nodes/{node}/lxc/{vmid}/status/start", start_container),
    post("/nodes/{node}/lxc/{vmid}/status/stop", stop_container),
    post("/nodes/{node}/lxc/{vmid}/status/shutdown", shut_container_down),
    post("/nodes/{node}/lxc/{vmid}/status/reboot", reboot_container),
    post("/nodes/{node}/lxc/{vmid}/status/suspend", suspend_container),
    post("/nodes/{node}/lxc/{vmid}/status/resume", resume_container),
];

/// Parameters of the creation that are no options of the container.
const NOT_OPTIONS: [&str; 14] = [
    "node",
    "vmid",
    "ostemplate",
    "password",
    "storage",
    "force",
    "restore",
    "unique",
    "pool",
    "ignore-unpack-errors",
    "ssh-public-keys",
    "bwlimit",
    "start",
    "ha-managed",
];

/// Options among parameters, as the file holds them.
fn options(call: &Call, without: &[&str]) -> BTreeMap<String, String> {
    let wanted = call.params.iter().filter(|(key, _)| !without.contains(&key.as_str()));
    wanted.map(|(key, value)| (key.clone(), config_text(value))).collect()
}

fn vmid(call: &Call) -> Result<Vmid> {
    call.param("vmid")
}

fn is_running(call: &Call, vmid: Vmid) -> bool {
    monitor::init(call.ctx, vmid).is_some()
}

fn runtime(call: &Call) -> Liblxc {
    Liblxc::new(monitor::containers(call.ctx))
}

fn create_container(call: &Call) -> Result<Reply> {
    let (ctx, vmid) = (call.ctx, vmid(call)?);
    if call.flag("ha-managed") {
        return Err(Error::NotImplemented("containers cannot be made HA resources yet".into()));
    }
    let restore = call.flag("restore");
    let storage: String = call.opt("storage")?.unwrap_or_else(|| "local".into());
    let wanted = call.opt::<bool>("unprivileged")?;
    let unprivileged = wanted.unwrap_or(!restore);
    if !restore && !unprivileged {
        access::check(ctx, "/", &["Sys.Modify"])?;
    }
    let replaced = (restore && call.flag("force"))
        .then(|| guest::find(ctx, vmid).filter(|kind| *kind == GuestKind::Lxc))
        .flatten()
        .map(|kind| guest::load(ctx, kind, vmid))
        .transpose()?;
    let pool: Option<String> = call.opt("pool")?;
    let without_firewall = check_allocate(ctx, vmid, pool.as_deref(), replaced.as_ref(), wanted)?;
    // The worker comes here, too: then the number may be taken by what it made before it was killed, but not by itself.
    match (&replaced, guest::find(ctx, vmid)) {
        (Some(config), _) => create::check_replaceable(ctx, vmid, config)?,
        (None, Some(kind)) => bail!("{} {vmid} already exists on node '{}'", kind.label(), ctx.node),
        (None, None) => {}
    }
    let mut options = options(call, &NOT_OPTIONS);
    options.retain(|key, _| !volume::is_unused_key(key));
    options.remove("unprivileged");
    let target = Target { vmid, pool: pool.as_deref(), old: None, unprivileged };
    permission::check_options(ctx, target, &options, &[])?;
    let template = match call.param::<String>("ostemplate")?.as_str() {
        "-" => {
            check_pipe(ctx, restore, &options)?;
            None
        }
        text => {
            let template: VolumeId = text.parse().map_err(Error::new)?;
            storage::check_volume_access(ctx, Some(vmid), &template)?;
            create::archive(ctx, &template)?;
            Some(template)
        }
    };
    let names_mounts = options.keys().any(|key| volume::is_mount_key(key));
    let mounts = if restore && !names_mounts { Vec::new() } else { create::wanted_mounts(&options, &storage)? };
    let storages = mounts.iter().filter(|mount| mount.source() == Source::Volume);
    let mut storages: Vec<&str> = storages.map(|mount| mount.volume().split(':').next().unwrap_or_default()).collect();
    if mounts.is_empty() {
        storages.push(&storage);
    }
    let wanted_limit = call.opt::<f64>("bwlimit")?.map(|limit| limit as u64);
    let limit = storage::bandwidth_limit(ctx, "restore", &storages, wanted_limit)?;
    for storage in storages {
        storage::check_content(ctx, storage, "rootdir").map_err(|_| {
            Error::parameter("storage", format!("storage '{storage}' does not support container directories"))
        })?;
        access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    options.retain(|key, _| !volume::is_mount_key(key));
    update::normalize(ctx, &mut options)?;
    if unprivileged && !restore {
        options.insert("unprivileged".into(), "1".into());
    }
    let keys: Option<String> = call.opt("ssh-public-keys")?;
    if let Some(keys) = &keys {
        guest::input::check_ssh_keys(keys)?;
    }
    let overwrite = replaced.is_some();
    let unique = call.flag("unique");
    let new = NewContainer {
        vmid,
        template,
        description: options.remove("description"),
        environment: options.remove("env"),
        options,
        mounts,
        account: NewAccount { password: call.opt("password")?, keys },
        pool,
        limit,
        ignore_unpack_errors: call.flag("ignore-unpack-errors"),
        restore: restore.then_some(Restore { overwrite, unique, storage, unprivileged: wanted, without_firewall }),
    };
    let start = call.flag("start");
    let runtime = runtime(call);
    call.task(if restore { "vzrestore" } else { "vzcreate" }, vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        create::create(task, &new)?;
        if start { start::start(task, &runtime, vmid, Start::default()) } else { Ok(()) }
    })
}

/// A pipe is there for somebody at a terminal who restores, and names the root himself.
fn check_pipe(ctx: &Context, restore: bool, options: &BTreeMap<String, String>) -> Result<()> {
    if !matches!(ctx.mode, Mode::Foreground) {
        bail!("pipe requires cli environment");
    }
    if !restore {
        bail!("pipe can only be used with restore tasks");
    }
    if !options.contains_key("rootfs") {
        bail!("restore from pipe requires rootfs parameter");
    }
    Ok(())
}

/// Whether the caller may make the container: by the pool, by its path, or by putting back an own backup of it. Gives
/// back whether the firewall's rules must stay as they are.
fn check_allocate(
    ctx: &Context,
    vmid: Vmid,
    pool: Option<&str>,
    replaced: Option<&GuestConfig>,
    unprivileged: Option<bool>,
) -> Result<bool> {
    let path = format!("/vms/{vmid}");
    if pool.is_some_and(|pool| access::has(ctx, &format!("/pool/{pool}"), &["VM.Allocate"])) {
        return Ok(false);
    }
    if let Some(old) = replaced.filter(|_| !access::has(ctx, &path, &["VM.Allocate"]))
        && access::has(ctx, &path, &["VM.Backup"])
    {
        if old.current.flag("unprivileged") && unprivileged == Some(false) {
            access::check(ctx, "/", &["Sys.Modify"])?;
        }
        return Ok(true);
    }
    access::check(ctx, &path, &["VM.Allocate"]).map(|()| false)
}

fn destroy_container(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let options = Destroy {
        force: call.flag("force"),
        purge: call.flag("purge"),
        unreferenced: call.flag("destroy-unreferenced-disks"),
    };
    destroy::check(call.ctx, vmid, &guest::load(call.ctx, GuestKind::Lxc, vmid)?, options.force)?;
    let runtime = runtime(call);
    call.task("vzdestroy", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        destroy::destroy(task, &runtime, vmid, options)
    })
}

fn get_config(call: &Call) -> Result<Reply> {
    let config = guest::load(call.ctx, GuestKind::Lxc, vmid(call)?)?;
    let Some(name) = call.opt::<String>("snapshot")? else {
        return Ok(view::config(&config, call.flag("current")).into());
    };
    if call.flag("current") {
        return Err(guest::input::snapshot_and_current());
    }
    let part = config.snapshots.get(&name).ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist")))?;
    Ok(view::snapshot(part, &config.digest).into())
}

fn get_pending(call: &Call) -> Result<Reply> {
    Ok(view::pending(&guest::load(call.ctx, GuestKind::Lxc, vmid(call)?)?).into())
}

fn put_config(call: &Call) -> Result<Reply> {
    let (ctx, vmid) = (call.ctx, vmid(call)?);
    let set = options(call, &["node", "vmid", "delete", "revert", "digest"]);
    let list = |name: &str| call.opt::<Vec<String>>(name).map(Option::unwrap_or_default);
    let change = Change { set, delete: list("delete")?, revert: list("revert")?, digest: call.opt("digest")? };
    if change.set.is_empty() && change.delete.is_empty() && change.revert.is_empty() {
        bail!("no options specified");
    }
    for (name, keys) in [("delete", &change.delete), ("revert", &change.revert)] {
        for key in keys {
            let is_option =
                call.method.parameters.contains_key(key) || contract::lookup(&call.method.parameters, key).is_some();
            if !is_option || ["node", "vmid", "delete", "revert", "digest"].contains(&key.as_str()) {
                return Err(Error::parameter(name, format!("unknown option '{key}'")));
            }
            if change.set.contains_key(key) {
                // The missing quote is PVE's.
                let quote = if name == "revert" { "'" } else { "" };
                let text = format!("you can't use '-{key}' and {quote}-{name} {key}' at the same time");
                return Err(Error::parameter(name, text));
            }
        }
    }
    if let Some(key) = change.delete.iter().find(|key| change.revert.contains(key)) {
        let text = format!("you can't use '-delete {key}' and '-revert {key}' at the same time");
        return Err(Error::parameter("delete", text));
    }
    let old = guest::load(ctx, GuestKind::Lxc, vmid)?;
    let unprivileged = old.current.flag("unprivileged");
    let target = Target { vmid, pool: None, old: Some(&old.current), unprivileged };
    permission::check_options(ctx, target, &change.set, &[change.delete.clone(), change.revert.clone()].concat())?;
    update::change(ctx, vmid, &change, &|text| {
        if matches!(ctx.mode, Mode::Foreground) {
            eprintln!("{text}");
        }
    })?;
    Ok(Reply::null())
}

fn get_interfaces(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    match status::probe(call.ctx, vmid) {
        Some(init) => Ok(status::interfaces(init)?.into()),
        None => Ok(Reply::null()),
    }
}

fn resize_volume(call: &Call) -> Result<Reply> {
    let (ctx, vmid) = (call.ctx, vmid(call)?);
    let (disk, size): (String, String) = (call.param("disk")?, call.param("size")?);
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    crate::file::assert_digest(&config.digest, call.text("digest").as_deref())?;
    let unprivileged = config.current.flag("unprivileged");
    let target = Target { vmid, pool: None, old: Some(&config.current), unprivileged };
    permission::check_options(ctx, target, &BTreeMap::new(), std::slice::from_ref(&disk))?;
    resize::check(ctx, vmid, &config, &disk, &size)?;
    call.task("resize", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
        resize::grow(task, vmid, resize::check(ctx, vmid, &config, &disk, &size)?)
    })
}

fn get_status(call: &Call) -> Result<Reply> {
    let status: Map<String, Value> = status::current(call.ctx, vmid(call)?)?;
    Ok(Value::Object(status).into())
}

fn skip_lock(call: &Call) -> Result<bool> {
    let skip = call.flag("skiplock");
    if skip && !call.ctx.caller.is_root() {
        return Err(Error::parameter("skiplock", "Only root may use this option."));
    }
    Ok(skip)
}

fn start_container(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let options = Start { skip_lock: skip_lock(call)?, debug: call.flag("debug") };
    guest::load(call.ctx, GuestKind::Lxc, vmid)?;
    if is_running(call, vmid) {
        bail!("CT {vmid} already running");
    }
    let runtime = runtime(call);
    call.task("vzstart", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        start::start(task, &runtime, vmid, options)
    })
}

fn stop_container(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    let skip = skip_lock(call)?;
    let overruled = call.flag("overrule-shutdown").then_some("vzshutdown");
    stop_task(call, ("vzstop", overruled), vmid, skip, |_| Stop::Kill)
}

fn shut_container_down(call: &Call) -> Result<Reply> {
    let vmid = vmid(call)?;
    stop_task(call, ("vzshutdown", None), vmid, false, shutdown_of)
}

fn shutdown_of(call: &Call) -> Stop {
    let seconds = call.opt::<u64>("timeout").ok().flatten().unwrap_or(60);
    Stop::Shutdown { patience: Duration::from_secs(seconds), then_kill: call.flag("forceStop") }
}

/// A task of `kind`; tasks of the kind that it overrules are ended first.
fn stop_task(
    call: &Call,
    (kind, overruled): (&str, Option<&str>),
    vmid: Vmid,
    skip_lock: bool,
    how: fn(&Call) -> Stop,
) -> Result<Reply> {
    let ctx = call.ctx;
    guest::load(ctx, GuestKind::Lxc, vmid)?;
    if !is_running(call, vmid) {
        bail!("CT {vmid} not running");
    }
    let runtime = runtime(call);
    call.task(kind, vmid, |task| {
        if let Some(overruled) = overruled {
            crate::task::overrule(task, overruled, vmid)?;
        }
        let _lock = recovery::NOTES.lock(task, vmid)?;
        let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
        if !skip_lock && config.current.get("lock") != Some("mounted") {
            guest::check_lock(&config)?;
        }
        stop::stop(task, &runtime, vmid, how(call))
    })
}

/// A stop and a start, so that changes that waited take effect.
fn reboot_container(call: &Call) -> Result<Reply> {
    let (ctx, vmid) = (call.ctx, vmid(call)?);
    guest::load(ctx, GuestKind::Lxc, vmid)?;
    if !is_running(call, vmid) {
        bail!("CT {vmid} not running!");
    }
    let patience = Duration::from_secs(call.opt("timeout")?.unwrap_or(60));
    let runtime = runtime(call);
    call.task("vzreboot", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        if monitor::init(ctx, vmid).is_none() {
            return Ok(());
        }
        stop::stop(task, &runtime, vmid, Stop::Shutdown { patience, then_kill: true })?;
        start::start(task, &runtime, vmid, Start::default())
    })
}

/// PVE writes the processes to disk (CRIU, experimental); here they stay in memory, which works with every kernel.
fn suspend_container(call: &Call) -> Result<Reply> {
    let (ctx, vmid) = (call.ctx, vmid(call)?);
    guest::check_lock(&guest::load(ctx, GuestKind::Lxc, vmid)?)?;
    if !is_running(call, vmid) {
        bail!("CT {vmid} not running");
    }
    let runtime = runtime(call);
    call.task("vzsuspend", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        freeze::suspend(ctx, &runtime, vmid)
    })
}

fn resume_container(call: &Call) -> Result<Reply> {
    let (ctx, vmid) = (call.ctx, vmid(call)?);
    guest::load(ctx, GuestKind::Lxc, vmid)?;
    if !is_running(call, vmid) {
        bail!("CT {vmid} not running");
    }
    let runtime = runtime(call);
    call.task("vzresume", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        freeze::resume(ctx, &runtime, vmid)
    })
}
