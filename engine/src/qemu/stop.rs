//! Ending a VM: asked, told or killed; and what is cleaned up afterwards.

use super::config::Vm;
use super::{agent::Agent, files, pending, qmp, recovery, status};
use crate::config::guest::{GuestConfig, GuestKind};
use crate::guest::startup::Startup;
use crate::process::ProcessId;
use crate::{Context, Error, Result, Task, Vmid, guest, network, task::abort};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::json;
use std::time::{Duration, Instant};

/// How a VM is to be ended.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// End it although it is marked as locked.
    pub skip_lock: bool,
    /// Seconds to wait.
    pub timeout: Option<u64>,
    /// Ask the guest to shut down instead of pulling the plug.
    pub shutdown: bool,
    /// Kill it when it does not go.
    pub force: bool,
}

/// Ends a VM; waits for others that work on it. One that does not run is left alone.
pub fn stop(task: &Task, vmid: Vmid, how: &Stop) -> Result<()> {
    let _lock = recovery::NOTES.lock(task, vmid)?;
    stop_locked(task, vmid, how)
}

/// As [`stop`], for callers that hold the VM's lock. (PVE: QemuServer.pm, _do_vm_stop)
pub fn stop_locked(task: &Task, vmid: Vmid, how: &Stop) -> Result<()> {
    let ctx = task.ctx;
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let Some(process) = files::process(ctx, vmid) else { return after_end(task, vmid) };
    if !how.skip_lock {
        guest::check_lock(&config)?;
    }
    let vm = Vm::new(vmid, &config.current);
    let down = vm.text("startup").and_then(|text| text.parse::<Startup>().ok()).and_then(|startup| startup.down);
    let seconds = how.timeout.or(down.filter(|_| how.shutdown)).unwrap_or(60);
    if let Err(error) = hook(task, &vm, "pre-stop") {
        task.log(error.message());
    }
    let ended = match ask_to_end(ctx, &vm, &config, how.shutdown) {
        Ok(()) => wait_for_end(process, Duration::from_secs(seconds))?,
        Err(error) if !process.is_alive() => {
            task.log(format!("VM ended by itself ({error})"));
            true
        }
        Err(error) if !how.force => {
            return Err(Error::new(format!("VM quit/powerdown failed - {error}")));
        }
        Err(error) => {
            task.log(format!("VM quit/powerdown failed - {error}"));
            false
        }
    };
    if !ended {
        if !how.force {
            crate::bail!("VM quit/powerdown failed - got timeout");
        }
        task.log("VM still running - terminating now with SIGTERM");
        end_process(process, &mut |text| task.log(text))?;
    }
    after_end(task, vmid)?;
    if let Err(error) = hook(task, &vm, "post-stop") {
        task.log(error.message());
    }
    Ok(())
}

/// Sends the wish to end: to the agent when it answers, else by the power button; or tells QEMU to quit.
fn ask_to_end(ctx: &Context, vm: &Vm, config: &GuestConfig, shutdown: bool) -> Result<()> {
    if !shutdown {
        return match qmp::execute(ctx, vm.vmid, "quit", json!({})) {
            // QEMU may be gone before it has answered.
            Err(error) if status::is_running(ctx, vm.vmid) => Err(error),
            _ => Ok(()),
        };
    }
    if vm.agent()?.is_some()
        && let Ok(mut agent) = Agent::connect(ctx, vm.vmid, config)
    {
        return match agent.execute("guest-shutdown", &serde_json::Value::Null) {
            Err(error) if status::is_running(ctx, vm.vmid) => Err(error),
            _ => Ok(()),
        };
    }
    qmp::execute(ctx, vm.vmid, "system_powerdown", json!({})).map(drop)
}

/// Waits for the end of a process; `false` when the time is over.
pub fn wait_for_end(process: ProcessId, timeout: Duration) -> Result<bool> {
    let Some(pid) = Pid::from_raw(process.pid.cast_signed()).filter(|_| process.is_alive()) else { return Ok(true) };
    let Ok(descriptor) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(!process.is_alive()) };
    let until = Instant::now() + timeout;
    loop {
        abort::check()?;
        let left = until.saturating_duration_since(Instant::now());
        let step = left.min(Duration::from_millis(500));
        let step = Timespec { tv_sec: step.as_secs().cast_signed(), tv_nsec: i64::from(step.subsec_nanos()) };
        match poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&step)) {
            Ok(0) | Err(rustix::io::Errno::INTR) if left.is_zero() => return Ok(!process.is_alive()),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

/// TERM, and KILL after ten seconds.
fn end_process(process: ProcessId, log: &mut dyn FnMut(&str)) -> Result<()> {
    signal(process, Signal::TERM);
    if wait_for_end(process, Duration::from_secs(10))? {
        return Ok(());
    }
    log("VM still running - terminating now with SIGKILL");
    signal(process, Signal::KILL);
    if wait_for_end(process, Duration::from_secs(10))? {
        return Ok(());
    }
    Err(Error::new(format!("process {} cannot be killed", process.pid)))
}

fn signal(process: ProcessId, signal: Signal) {
    if process.is_alive()
        && let Some(pid) = Pid::from_raw(process.pid.cast_signed())
    {
        // It may end between the look and the signal; then there is nothing left to do.
        let _ = kill_process(pid, signal);
    }
}

/// Ends whatever a failed start has left: process and files.
pub fn kill(ctx: &Context, vmid: Vmid) -> Result<()> {
    if let Some(process) = files::process(ctx, vmid) {
        end_process(process, &mut |_| {})?;
    }
    files::remove_leftovers(ctx, vmid)?;
    network::tidy(ctx).map(drop)
}

/// Cleans up after a VM that has ended without being told to, for the holder of its lock.
pub(super) fn ended(task: &Task, vmid: Vmid) -> Result<()> {
    let Ok(config) = guest::load(task.ctx, GuestKind::Qemu, vmid) else {
        return files::remove_leftovers(task.ctx, vmid).map(drop);
    };
    after_end(task, vmid)?;
    hook(task, &Vm::new(vmid, &config.current), "post-stop")
}

/// Cleans up after a VM that has ended, and lets the changes take effect that waited for it.
fn after_end(task: &Task, vmid: Vmid) -> Result<()> {
    files::remove_leftovers(task.ctx, vmid)?;
    network::tidy(task.ctx)?;
    deactivate_volumes(task, vmid)?;
    pending::apply_stopped(task.ctx, vmid, &mut |text| task.warn(text))
}

/// Gives back the devices of a VM's volumes; one that somebody else uses stays.
pub(super) fn deactivate_volumes(task: &Task, vmid: Vmid) -> Result<()> {
    let config = guest::load(task.ctx, GuestKind::Qemu, vmid)?;
    for (_, drive) in Vm::new(vmid, &config.current).drives()? {
        if let Some(volume) = drive.volume()
            && let Err(error) = crate::storage::deactivate_volume(task.ctx, &volume, None)
        {
            task.warn(format!("volume deactivation failed: {volume}: {error}"));
        }
    }
    Ok(())
}

/// Runs the VM's hook script for a phase, if it has one. (PVE: pve-guest-common PVE/GuestHelpers.pm, exec_hookscript)
pub fn hook(task: &Task, vm: &Vm, phase: &str) -> Result<()> {
    let Some(script) = vm.text("hookscript") else { return Ok(()) };
    guest::input::check_hookscript(task.ctx, script)
        .and_then(|path| task.command(&path.to_string_lossy(), &[vm.vmid.to_string().as_str(), phase]))
        .map_err(|error| error.context(format!("hookscript error for {} on {phase}", vm.vmid)))
}

/// Shuts a VM down and starts it again, so that waiting changes take effect.
pub fn reboot(task: &Task, vmid: Vmid, timeout: Option<u64>) -> Result<()> {
    let _lock = recovery::NOTES.lock(task, vmid)?;
    let how = Stop { timeout, shutdown: true, ..Stop::default() };
    stop_locked(task, vmid, &how)?;
    super::launch::start_locked(task, vmid, &super::launch::Start::default())
}
