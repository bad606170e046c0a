//! Starting, stopping and looking at a VM.

use crate::config::guest::GuestKind;
use crate::qemu::launch::{self, Start};
use crate::qemu::stop::{self, Stop};
use crate::qemu::{monitor_rights, qmp, recovery, state, status, suspend};
use crate::{Call, Error, Reply, Result, Vmid, access, guest, task};
use serde_json::{Value, json};

/// A switch that only root may use.
fn root_flag(call: &Call, name: &str) -> Result<bool> {
    let flag = call.flag(name);
    if flag && !call.ctx.caller.is_root() {
        return Err(Error::parameter(name, "Only root may use this option."));
    }
    Ok(flag)
}

fn check_running(call: &Call, vmid: Vmid) -> Result<()> {
    match status::checked_running(call.ctx, vmid)? {
        true => Ok(()),
        false => Err(Error::new(format!("VM {vmid} not running"))),
    }
}

/// `GET status/current`.
pub fn current(call: &Call) -> Result<Reply> {
    let vmid = call.param("vmid")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    Ok(Reply::from(status::current(call.ctx, vmid, &config)?))
}

/// `POST status/start`.
pub fn start(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let migration = ["stateuri", "migratedfrom", "migration_type", "migration_network", "targetstorage"];
    for name in migration.iter().chain(&["force-cpu", "with-conntrack-state", "nets-host-mtu"]) {
        if call.text(name).is_some_and(|value| value != "0") && !call.ctx.caller.is_root() {
            return Err(Error::parameter(name, "Only root may use this option."));
        }
    }
    if let Some(name) = migration.iter().find(|name| call.text(name).is_some()) {
        return Err(Error::NotImplemented(format!("parameter '{name}' is not supported yet")));
    }
    let how = Start {
        skip_lock: root_flag(call, "skiplock")?,
        timeout: call.opt("timeout")?,
        machine: call.text("machine"),
        cpu: call.text("force-cpu"),
        mtus: launch::known_mtus(&call.text("nets-host-mtu").unwrap_or_default()),
        ..Start::default()
    };
    call.task("qmstart", vmid, |task| launch::start(task, vmid, &how))
}

/// `POST status/stop`.
pub fn stop(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    root_flag(call, "keepActive")?;
    let overrules = call.flag("overrule-shutdown");
    let how =
        Stop { skip_lock: root_flag(call, "skiplock")?, timeout: call.opt("timeout")?, shutdown: false, force: true };
    call.task("qmstop", vmid, |task| {
        if overrules {
            task::overrule(task, "qmshutdown", vmid)?;
        }
        status::checked_running(task.ctx, vmid)?;
        stop::stop(task, vmid, &how)
    })
}

/// `POST status/shutdown`.
pub fn shutdown(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    root_flag(call, "keepActive")?;
    let force = call.flag("forceStop");
    let is_paused = status::is_deaf(call.ctx, vmid);
    if is_paused && !force {
        // The wish would reach the guest later, when it goes on.
        return Err(Error::new("VM is paused - cannot shutdown"));
    }
    let skip_lock = root_flag(call, "skiplock")?;
    let how = Stop { skip_lock, timeout: call.opt("timeout")?, shutdown: !is_paused, force };
    call.task("qmshutdown", vmid, |task| {
        if is_paused {
            task.log("VM is paused - stop instead of shutdown");
        }
        status::checked_running(task.ctx, vmid)?;
        stop::stop(task, vmid, &how)
    })
}

/// `POST status/reboot`.
pub fn reboot(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    if status::is_deaf(call.ctx, vmid) {
        return Err(Error::new("VM is paused - cannot shutdown"));
    }
    check_running(call, vmid)?;
    let timeout = call.opt("timeout")?;
    call.task("qmreboot", vmid, |task| stop::reboot(task, vmid, timeout))
}

/// `POST status/reset`.
pub fn reset(call: &Call) -> Result<Reply> {
    monitor_task(call, "qmreset", "system_reset")
}

/// `POST status/suspend`.
pub fn suspend(call: &Call) -> Result<Reply> {
    if !call.flag("todisk") {
        if call.text("statestorage").is_some() {
            return Err(Error::parameter("statestorage", "Requires 'todisk' option"));
        }
        return monitor_task(call, "qmpause", "stop");
    }
    let vmid: Vmid = call.param("vmid")?;
    let skip_lock = root_flag(call, "skiplock")?;
    check_running(call, vmid)?;
    access::check(call.ctx, &format!("/vms/{vmid}"), &["VM.Config.Disk"])?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    if config.current.indexed("hostpci").next().is_some() {
        return Err(Error::new(
            "cannot suspend VM to disk due to passed-through PCI device(s), which lack the possibility to save/restore \
             their internal state",
        ));
    }
    let storage = match call.text("statestorage") {
        Some(storage) => storage,
        None => state::place(call.ctx, vmid, &config)?,
    };
    access::check(call.ctx, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    call.task("qmsuspend", vmid, |task| suspend::to_disk(task, vmid, skip_lock, Some(&storage)))
}

/// A task that is one command of the monitor.
fn monitor_task(call: &Call, kind: &str, command: &'static str) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let skip_lock = root_flag(call, "skiplock")?;
    check_running(call, vmid)?;
    call.task(kind, vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        let config = guest::load(task.ctx, GuestKind::Qemu, vmid)?;
        // A backup does not mind a pause.
        if !skip_lock && config.current.get("lock") != Some("backup") {
            guest::check_lock(&config)?;
        }
        qmp::execute(task.ctx, vmid, command, json!({})).map(drop)
    })
}

/// `POST status/resume`.
pub fn resume(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let skip_lock = root_flag(call, "skiplock")?;
    root_flag(call, "nocheck")?;
    let config = guest::load(call.ctx, GuestKind::Qemu, vmid).ok();
    if config.is_some_and(|config| config.current.get("lock") == Some("suspended")) {
        return call.task("qmresume", vmid, |task| launch::start(task, vmid, &Start::default()));
    }
    check_running(call, vmid)?;
    call.task("qmresume", vmid, |task| {
        let _lock = recovery::NOTES.lock(task, vmid)?;
        suspend::wake(task.ctx, vmid, skip_lock)
    })
}

/// `PUT sendkey`: keys as QEMU names them, joined with dashes.
pub fn send_key(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    root_flag(call, "skiplock")?;
    let key: String = call.param("key")?;
    check_running(call, vmid)?;
    let answer = qmp::human(call.ctx, vmid, &format!("sendkey {key}"))?;
    if answer.trim().is_empty() { Ok(Reply::null()) } else { Err(Error::new(answer.trim())) }
}

/// `POST monitor`: a line of the human monitor. What goes wrong in it is its answer.
pub fn monitor(call: &Call) -> Result<Reply> {
    let vmid: Vmid = call.param("vmid")?;
    let line: String = call.param("command")?;
    monitor_rights::check(call.ctx, &line)?;
    guest::load(call.ctx, GuestKind::Qemu, vmid)?;
    let answer = qmp::human(call.ctx, vmid, &line).unwrap_or_else(|error| format!("ERROR: {error}\n"));
    Ok(Reply::from(Value::String(answer)))
}
