//! Suspending to disk and going on from there.
//!
//! ```text
//! to disk:  lock `suspending`, memory to its volume, QEMU ends ── lock `suspended`
//! start:    QEMU with the state ── volume, lock and what the state needed are removed
//! ```
//! (PVE: qemu-server PVE/QemuServer.pm, vm_suspend and vm_start_nolock)

use super::config::Vm;
use super::launch::{self, Start};
use super::recovery::{self, Facts};
use super::{qmp, snapshot::plan, state, status, stop};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::storage::{self, Content};
use crate::{Context, Error, Result, Task, Vmid, guest};
use serde_json::json;

/// Writes a running VM's memory to a volume and ends it.
pub fn to_disk(task: &Task, vmid: Vmid, skip_lock: bool, storage: Option<&str>) -> Result<()> {
    let ctx = task.ctx;
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    if config.current.get("lock") == Some("backup") {
        crate::bail!("cannot suspend to disk during backup");
    }
    if !skip_lock {
        guest::check_lock(&config)?;
    }
    let mut extra = Part::default();
    let place = storage.map_or_else(|| state::place(ctx, vmid, &config), |storage| Ok(storage.to_owned()))?;
    let name = state_name(ctx, vmid, &place)?;
    let _work = recovery::begin(ctx, vmid, &Facts { storages: vec![&place], suspends: true, ..Facts::default() })?;
    let volume = state::allocate(ctx, vmid, &config, &name, Some(&place), &mut extra)?;
    let noted = guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.current.options.extend(extra.options);
        config.current.set("lock", "suspending");
        Ok(())
    });
    let saved = noted.and_then(|()| {
        task.log(format!("suspending VM {vmid} to '{volume}'"));
        let path = storage::activate_volume(ctx, &volume, None)?;
        state::save(task, vmid, &path, |_| Ok(()))
    });
    if let Err(error) = saved {
        // It may be standing still already.
        let resumed = qmp::execute(ctx, vmid, "cont", json!({})).map(drop);
        let forgotten = forget(ctx, vmid);
        let freed = storage::free(ctx, &volume);
        let failures: Vec<Error> = [resumed, forgotten, freed].into_iter().filter_map(Result::err).collect();
        return Err(error.with_cleanup_failures(&failures));
    }
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        config.current.set("lock", "suspended");
        Ok(())
    })?;
    task.log("State saved, quitting");
    stop::kill(ctx, vmid)?;
    // Changes that wait do so until the next cold start: the state belongs to the machine as it is.
    stop::deactivate_volumes(task, vmid)?;
    if let Err(error) = stop::hook(task, &Vm::new(vmid, &config.current), "post-stop") {
        task.log(error.message());
    }
    Ok(())
}

/// A state is called by the day. The last one may still be there when its removal failed.
fn state_name(ctx: &Context, vmid: Vmid, storage: &str) -> Result<String> {
    let day = jiff::Timestamp::from_second(ctx.clock.now()).expect("the clock tells a time that there is");
    let day = day.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d").to_string();
    let volumes = storage::list(ctx, storage, Some(vmid), &[Content::Images])?;
    let taken: Vec<String> = volumes.into_iter().map(|volume| volume.id.name).collect();
    Ok(free_name(&day, &taken))
}

fn free_name(day: &str, taken: &[String]) -> String {
    let others = (1..).map(|number| format!("suspend-{day}-{number}"));
    let mut names = std::iter::once(format!("suspend-{day}")).chain(others);
    let is_free = |name: &String| {
        let end = format!("-state-{name}");
        !taken.iter().any(|volume| volume.trim_end_matches(".raw").ends_with(&end))
    };
    names.find(is_free).expect("there are more numbers than volumes")
}

fn forget(ctx: &Context, vmid: Vmid) -> Result<()> {
    guest::update(ctx, GuestKind::Qemu, vmid, |config| {
        forget_state(&mut config.current);
        Ok(())
    })
}

/// Takes out what a configuration says of a state, and its mark.
pub fn forget_state(part: &mut Part) {
    for key in ["lock", "vmstate"].iter().chain(&plan::RUNNING) {
        part.options.remove(*key);
    }
}

/// How a suspended VM goes on; `None` for one that is not suspended. One that was unlocked by hand goes on as well, and
/// one whose state is gone starts afresh.
pub fn how_to_resume(config: &GuestConfig, how: &Start) -> Result<Option<Start>> {
    let part = &config.current;
    let state = part.get("vmstate");
    if part.get("lock") != Some("suspended") && state.is_none() {
        return Ok(None);
    }
    Ok(Some(Start {
        skip_lock: true,
        machine: how.machine.clone().or_else(|| part.get("runningmachine").map(str::to_owned)),
        mtus: launch::known_mtus(part.get("running-nets-host-mtu").unwrap_or_default()),
        cpu: how.cpu.clone().or_else(|| part.get("runningcpu").map(str::to_owned)),
        state: state.map(|volume| volume.parse().map_err(Error::new)).transpose()?,
        is_resumed: true,
        ..how.clone()
    }))
}

/// Starts a suspended VM with its state, which is of no more use then.
pub fn resume(task: &Task, vmid: Vmid, how: &Start) -> Result<()> {
    let ctx = task.ctx;
    task.log("Resuming suspended VM");
    let _work = recovery::begin(ctx, vmid, &Facts { resumes: true, ..Facts::default() })?;
    launch::start_locked(task, vmid, how)?;
    task.log("Resumed VM, removing state");
    if let Err(error) = remove_state(ctx, vmid) {
        task.warn(error.message());
    }
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    launch::started(task, &Vm::new(vmid, &config.current));
    Ok(())
}

/// A state that is used up leaves the configuration, and its volume goes.
fn remove_state(ctx: &Context, vmid: Vmid) -> Result<()> {
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    forget(ctx, vmid)?;
    let Some(volume) = config.current.get("vmstate") else { return Ok(()) };
    let freed = volume.parse().map_err(Error::new).and_then(|volume| storage::free(ctx, &volume));
    freed.map_err(|error| error.context(format!("could not remove the state '{volume}'")))
}

/// Settles a start from disk whose process was killed: the VM goes on, or is suspended as before.
pub fn settle(ctx: &Context, vmid: Vmid) -> Result<()> {
    let state = status::run_state(ctx, vmid);
    match state.as_deref() {
        Some("running" | "paused") => remove_state(ctx, vmid),
        // Nobody writes the rest of the state to it any more.
        _ => stop::kill(ctx, vmid),
    }
}

/// Lets a VM that stands still go on, for the holder of its lock. One that runs already is left alone.
/// (PVE: QemuServer/RunState.pm, vm_resume)
pub fn wake(ctx: &Context, vmid: Vmid, skip_lock: bool) -> Result<()> {
    let state = qmp::execute(ctx, vmid, "query-status", json!({}))?["status"].clone();
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    if config.current.flag("template") {
        crate::bail!("VM {vmid} is a template and cannot be resumed!");
    }
    if state == "running" {
        return Ok(());
    }
    if !skip_lock && config.current.get("lock") != Some("backup") {
        guest::check_lock(&config)?;
    }
    if state == "shutdown" {
        // It has switched itself off while something kept its process.
        qmp::execute(ctx, vmid, "system_reset", json!({}))?;
    }
    let command = if state == "suspended" { "system_wakeup" } else { "cont" };
    qmp::execute(ctx, vmid, command, json!({})).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_has_the_day_and_a_name_of_its_own() {
        let taken = ["100/vm-100-state-suspend-2026-11-23.raw", "vm-100-state-suspend-2026-11-23-1"].map(str::to_owned);
        assert_eq!(free_name("2026-11-23", &taken), "suspend-2026-11-23-2");
        assert_eq!(free_name("2026-11-2", &taken), "suspend-2026-11-2");
    }

    #[test]
    fn what_has_a_state_or_the_mark_goes_on_with_what_it_ran_as() {
        let how = |text: &str| how_to_resume(&GuestConfig::parse(GuestKind::Qemu, text), &Start::default()).unwrap();
        assert!(how("memory: 64\n").is_none() && how("lock: backup\n").is_none());
        let whole = how("lock: suspended\nrunningcpu: host\nvmstate: local:100/vm-100-state-x.raw\n").unwrap();
        assert_eq!((whole.cpu.as_deref(), whole.state.is_some(), whole.is_resumed), (Some("host"), true, true));
        assert!(how("vmstate: local:100/vm-100-state-x.raw\n").unwrap().state.is_some(), "unlocked by hand");
        assert!(how("lock: suspended\n").unwrap().state.is_none(), "the state is gone");
    }
}
