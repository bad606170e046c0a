//! Creating, changing and removing a VM.

use crate::config::guest::{GuestConfig, GuestKind};
use crate::qemu::config::{Drive, Slot};
use crate::qemu::create::{self, Create};
use crate::qemu::destroy::{self, Destroy};
use crate::qemu::permission::Subject;
use crate::qemu::update::{self, Update};
use crate::qemu::{recovery, reply, request, resize as disk_size};
use crate::task::journal;
use crate::{Call, Error, Params, Reply, Result, Vmid, access, guest, lock};
use serde_json::Value;
use std::time::Duration;

/// Parameters of `POST /nodes/{node}/qemu` that are no options of the VM.
const NOT_OPTIONS: [&str; 13] = [
    "node",
    "vmid",
    "archive",
    "bwlimit",
    "force",
    "pool",
    "start",
    "ha-managed",
    "storage",
    "unique",
    "live-restore",
    "import-working-storage",
    "digest",
];

/// `POST /nodes/{node}/qemu`.
pub fn create(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    for name in ["archive", "live-restore", "import-working-storage"] {
        if call.params.contains_key(name) {
            return Err(Error::NotImplemented(format!("parameter '{name}' is not supported yet")));
        }
    }
    if call.flag("ha-managed") {
        return Err(Error::NotImplemented("parameter 'ha-managed' is not supported yet".into()));
    }
    let mut settings = request::settings(call, &NOT_OPTIONS)?;
    let ostype = settings.get("ostype").cloned();
    request::hash_password(&mut settings, ostype.as_deref())?;
    let new =
        Create { vmid, settings, storage: call.text("storage"), start: call.flag("start"), pool: call.text("pool") };
    check_create(call, &new)?;
    if let Some(kind) = guest::find(call.ctx, vmid) {
        let (label, node) = (kind.label(), &call.ctx.node);
        return Err(Error::new(format!("unable to create VM {vmid} - {label} {vmid} already exists on node '{node}'")));
    }
    call.task("qmcreate", vmid, |task| create::create(task, &new))
}

fn check_create(call: &Call, new: &Create) -> Result<()> {
    let ctx = call.ctx;
    let subject = Subject { ctx, vmid: new.vmid, pool: new.pool.as_deref(), is_new: true };
    if let Some(pool) = &new.pool
        && !access::config(ctx)?.pools.contains_key(pool)
    {
        return Err(Error::Forbidden(format!("Permission check failed (pool '{pool}' does not exist)")));
    }
    subject.check(&["VM.Allocate"])?;
    if new.start {
        subject.check(&["VM.PowerMgmt"])?;
    }
    if let Some(storage) = &new.storage {
        access::check(ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    }
    for (key, value) in &new.settings {
        subject.check_option(key, Some(value), None)?;
        if key.starts_with("unused") {
            subject.check_unused(key, value)?;
        }
        if let Some(slot) = Slot::of_key(key) {
            subject.check_storage(&Drive::parse_request(slot, value)?, new.storage.as_deref())?;
        }
    }
    Ok(())
}

/// `DELETE /nodes/{node}/qemu/{vmid}`.
pub fn destroy(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let how = Destroy {
        skip_lock: call.flag("skiplock"),
        purge: call.flag("purge"),
        unreferenced: call.flag("destroy-unreferenced-disks"),
    };
    if how.skip_lock && !call.ctx.caller.is_root() {
        return Err(Error::parameter("skiplock", "Only root may use this option."));
    }
    destroy::check(call.ctx, vmid, &Destroy { skip_lock: true, ..how.clone() })?;
    call.task("qmdestroy", vmid, |task| destroy::destroy(task, vmid, &how))
}

/// `GET config`.
pub fn get(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let (snapshot, current) = (call.text("snapshot"), call.flag("current"));
    if snapshot.is_some() && current {
        return Err(guest::input::snapshot_and_current());
    }
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    tell_problems(call, &config);
    match snapshot {
        None => Ok(Reply::from(reply::config(&config, !current))),
        Some(name) => reply::snapshot(&config, &name)
            .map(Reply::from)
            .ok_or_else(|| Error::new(format!("snapshot '{name}' does not exist"))),
    }
}

/// `GET pending`.
pub fn pending(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    tell_problems(call, &config);
    Ok(Reply::from(Value::Array(crate::qemu::pending::listing(&config))))
}

/// Who looks at a terminal learns what of the file does not count.
fn tell_problems(call: &Call, config: &GuestConfig) {
    if matches!(call.ctx.mode, crate::Mode::Foreground) {
        config.problems.iter().for_each(|problem| eprintln!("{}", problem.text.trim_end()));
    }
}

/// `PUT config`: done when it answers.
pub fn update_now(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let update = Update::read(call, vmid)?;
    apply_now(call, vmid, &update)
}

fn apply_now(call: &Call, vmid: Vmid, update: &Update) -> Result<Reply> {
    let _lock = match update.works_on_guest() {
        true => Some(lock::acquire(call.ctx, &lock::guest(vmid), "config", |_| {})?),
        false => None,
    };
    let show = matches!(call.ctx.mode, crate::Mode::Foreground);
    update::apply(call.ctx, vmid, update, &mut |line| {
        if show {
            println!("{line}");
        }
    })?;
    Ok(Reply::null())
}

/// `POST config`: the same as a task. With `background_delay` the answer waits that long, and is empty when the task has
/// ended by then.
pub fn update_task(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let update = Update::read(call, vmid)?;
    let upid = call.task_with("qmconfig", vmid, None, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        update::apply(task.ctx, vmid, &update, &mut |line| task.log(line))
    })?;
    let delay: u64 = call.opt("background_delay")?.unwrap_or(0);
    if delay > 0 && matches!(call.ctx.mode, crate::Mode::Daemon { .. }) {
        match journal::wait(call.ctx, &upid, Duration::from_secs(delay))? {
            None => {}
            Some(status) if status == "OK" || status.starts_with("WARNINGS: ") => return Ok(Reply::null()),
            Some(status) => return Err(Error::new(format!("failed to update VM {vmid}: {status}"))),
        }
    }
    Ok(Reply::from(Value::String(upid.to_string())))
}

/// `PUT unlink`: removes drives from the configuration.
pub fn unlink(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let mut params = call.params.to_map();
    if let Some(list) = params.remove("idlist") {
        params.insert("delete".into(), list);
    }
    let params = Params::verified(params);
    let update = Update::read(&Call { ctx: call.ctx, method: call.method, params }, vmid)?;
    apply_now(call, vmid, &update)
}

/// `PUT resize`.
pub fn resize(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let (disk, size): (String, String) = (call.param("disk")?, call.param("size")?);
    let skip_lock = call.flag("skiplock");
    if skip_lock && !call.ctx.caller.is_root() {
        return Err(Error::parameter("skiplock", "Only root may use this option."));
    }
    let wish = disk_size::Resize {
        slot: disk.parse().map_err(Error::new)?,
        size: size.parse().map_err(|text: String| Error::parameter("size", text))?,
        digest: call.text("digest"),
        skip_lock,
    };
    guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    call.task("resize", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        disk_size::resize(task, vmid, &wish)
    })
}
