//! The state of a running machine (memory and devices) as a volume: written for snapshots with RAM and for suspending to
//! disk, read when such a VM starts.
//!
//! ```text
//! QEMU ── migration over a pipe ──> this process ──> volume        volume ──> this process ──> pipe ── QEMU -incoming
//! ```
//! The pipe works with every QEMU (files by name came with 8.2, and files by descriptor are on their way out), and when
//! this process dies, the migration fails and the guest goes on. Proxmox's own build has commands for this; the
//! distribution's has not.

use super::config::Vm;
use super::qmp::Monitor;
use super::{files, status};
use crate::config::guest::{GuestConfig, Part};
use crate::storage::{self, Content, NewVolume, VolumeId, VolumeKind};
use crate::{Context, Error, Result, Task, Vmid, error::ResultExt, task::abort};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// A guest that dirties its memory faster than it is written is stopped after this time, so that an end is in sight.
const LIVE_TIME: Duration = Duration::from_secs(20);
/// Room for the state of devices, in MiB. (PVE: QemuConfig.pm, __snapshot_save_vmstate)
const DEVICES: u64 = 500;

/// Makes the volume for a VM's state, called `vm-N-state-NAME`, and notes it with what the VM runs as in `part`.
pub fn allocate(
    ctx: &Context,
    vmid: Vmid,
    config: &GuestConfig,
    name: &str,
    on: Option<&str>,
    part: &mut Part,
) -> Result<VolumeId> {
    let vm = Vm::new(vmid, &config.current);
    check_resources(&vm)?;
    let storage = match on {
        Some(storage) => storage.to_owned(),
        None => find_storage(ctx, &vm)?,
    };
    let is_directory = storage::config(ctx)?.entry(&storage)?.path().is_ok();
    let new = NewVolume {
        vmid,
        format: Some(storage::Format::Raw),
        name: Some(format!("vm-{vmid}-state-{name}{}", if is_directory { ".raw" } else { "" })),
        size: (vm.memory()? * 2 + DEVICES) << 20,
        kind: VolumeKind::Image,
    };
    let mut monitor = Monitor::connect(ctx, vmid)?;
    let machine = status::running_machine(&vm, &mut monitor)?;
    let mtus = status::told_mtus(&vm, &mut monitor)?;
    drop(monitor);
    let volume = storage::allocate(ctx, &storage, &new)?;
    part.set("vmstate", volume.to_string());
    if let Some(machine) = machine {
        part.set("runningmachine", machine);
    }
    if !mtus.is_empty() {
        part.set("running-nets-host-mtu", mtus);
    }
    if let Some(cpu) = running_cpu(ctx, vmid) {
        part.set("runningcpu", cpu);
    }
    Ok(volume)
}

/// Fails when something that the VM has keeps a state of its own, or one that nobody may read.
/// (PVE: qemu-server PVE/QemuMigrate/Helpers.pm, check_non_migratable_resources)
pub fn check_resources(vm: &Vm) -> Result<()> {
    let mut blockers: Vec<&str> = ["amd-sev", "intel-tdx"].into_iter().filter(|key| vm.text(key).is_some()).collect();
    if !super::command_line::shares(vm)?.is_empty() {
        blockers.push("virtiofs");
    }
    match blockers.is_empty() {
        true => Ok(()),
        false => Err(Error::new(format!(
            "Cannot live-migrate, snapshot (with RAM), or hibernate a VM with: {}",
            blockers.join(", ")
        ))),
    }
}

/// The storage that [`allocate`] takes when none is named.
pub fn place(ctx: &Context, vmid: Vmid, config: &GuestConfig) -> Result<String> {
    find_storage(ctx, &Vm::new(vmid, &config.current))
}

/// Where a state goes: the configured place, a shared storage that the VM uses, any that it uses, `local`.
/// (PVE: QemuConfig.pm, find_vmstate_storage)
fn find_storage(ctx: &Context, vm: &Vm) -> Result<String> {
    if let Some(storage) = vm.text("vmstatestorage") {
        return Ok(storage.to_owned());
    }
    let config = storage::config(ctx)?;
    let (mut shared, mut local): (Option<String>, Option<String>) = (None, None);
    for volume in vm.drives()?.iter().filter(|(_, drive)| !drive.is_cdrom()).filter_map(|(_, drive)| drive.volume()) {
        let Some(entry) = config.get(&volume.storage).filter(|entry| entry.has_content(Content::Images)) else {
            continue;
        };
        let place = if entry.is_shared() { &mut shared } else { &mut local };
        if place.is_none() || entry.path().is_ok() {
            *place = Some(volume.storage);
        }
    }
    Ok(shared.or(local).unwrap_or_else(|| "local".into()))
}

/// The processor that QEMU was started with.
fn running_cpu(ctx: &Context, vmid: Vmid) -> Option<String> {
    let process = files::process(ctx, vmid)?;
    let command = std::fs::read(format!("/proc/{}/cmdline", process.pid)).ok()?;
    let mut words = command.split(|byte| *byte == 0);
    words.find(|word| *word == b"-cpu")?;
    Some(String::from_utf8_lossy(words.next()?).into_owned())
}

/// Writes the state of a running VM. `at_end` runs when the guest stands still and its disks are as the state will
/// remember them. Afterwards the guest stands still; whoever wants it to go on says `cont`.
pub fn save(task: &Task, vmid: Vmid, path: &Path, at_end: impl FnOnce(&mut Monitor) -> Result<()>) -> Result<()> {
    let ctx = task.ctx;
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut target =
        OpenOptions::new().write(true).open(path).context(|| format!("unable to write '{}'", path.display()))?;
    let copying = std::thread::spawn(move || -> std::io::Result<u64> {
        let count = std::io::copy(&mut File::from(reader), &mut target)?;
        target.sync_all()?;
        Ok(count)
    });
    let outcome = begin(ctx, vmid, writer).and_then(|()| follow(task, vmid, at_end));
    if outcome.is_err() {
        // It may have failed by itself, and QEMU may be gone.
        let _ = super::qmp::execute(ctx, vmid, "migrate_cancel", json!({}));
    }
    // QEMU closes its end when it is through or has given up.
    let copied = copying.join().unwrap_or_else(|_| Err(std::io::Error::other("the writer ended")));
    // Without this a later migration would wait for somebody.
    let reset = Monitor::connect(ctx, vmid).and_then(|mut monitor| pause_before_end(&mut monitor, false));
    outcome.and(reset)?;
    let count = copied.context(|| format!("unable to write '{}'", path.display()))?;
    task.log(format!("completed saving the VM state, saved {}", storage::print_size(count)));
    Ok(())
}

fn pause_before_end(monitor: &mut Monitor, on: bool) -> Result<()> {
    let capability = json!({"capability": "pause-before-switchover", "state": on});
    monitor.execute("migrate-set-capabilities", json!({"capabilities": [capability]})).map(drop)
}

/// Our end of the pipe is closed afterwards, so that its reader sees the end when QEMU closes the other.
fn begin(ctx: &Context, vmid: Vmid, writer: OwnedFd) -> Result<()> {
    let mut monitor = Monitor::connect(ctx, vmid)?;
    pause_before_end(&mut monitor, true)?;
    monitor.execute("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 50, "downtime-limit": 500}))?;
    monitor.send_descriptor("state", writer.as_fd())?;
    monitor.execute("migrate", json!({"uri": "fd:state"})).map(drop)
}

/// Follows a migration to its end. The monitor is left free between two looks.
fn follow(task: &Task, vmid: Vmid, at_end: impl FnOnce(&mut Monitor) -> Result<()>) -> Result<()> {
    let (begin, mut told, mut stopped) = (Instant::now(), Instant::now(), false);
    let mut at_end = Some(at_end);
    loop {
        abort::check()?;
        let mut monitor = Monitor::connect(task.ctx, vmid)?;
        let state = monitor.execute("query-migrate", json!({}))?;
        match state["status"].as_str().unwrap_or_default() {
            "completed" => return Ok(()),
            "failed" | "cancelled" => {
                let reason = state["error-desc"].as_str().unwrap_or("unknown error");
                return Err(Error::new(format!("unable to save VM state and RAM - {reason}")));
            }
            "pre-switchover" => {
                if let Some(at_end) = at_end.take() {
                    at_end(&mut monitor)?;
                    monitor.execute("migrate-continue", json!({"state": "pre-switchover"}))?;
                }
            }
            _ if !stopped && begin.elapsed() > LIVE_TIME => {
                task.log("the guest changes its memory faster than it can be saved - pausing it");
                monitor.execute("stop", json!({}))?;
                stopped = true;
            }
            _ => {}
        }
        drop(monitor);
        if told.elapsed() > Duration::from_secs(2) {
            let bytes = state["ram"]["transferred"].as_u64().unwrap_or(0);
            task.log(format!("{} in {} s", storage::print_size(bytes), begin.elapsed().as_secs()));
            told = Instant::now();
        }
        sleep(Duration::from_millis(25));
    }
}

/// A state that is handed to a QEMU that starts.
pub struct Incoming {
    reader: OwnedFd,
    feeding: Option<JoinHandle<()>>,
}

impl Incoming {
    /// Begins to read a state. QEMU gets the descriptor of [`Incoming::descriptor`].
    pub fn open(path: &Path) -> Result<Self> {
        let mut source = File::open(path).context(|| format!("unable to read '{}'", path.display()))?;
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let feeding = std::thread::spawn(move || {
            let mut writer = File::from(writer);
            let mut piece = vec![0; 256 * 1024];
            while let Ok(count @ 1..) = source.read(&mut piece) {
                // QEMU closes its end behind the state; a volume is longer.
                if writer.write_all(&piece[..count]).is_err() {
                    break;
                }
            }
        });
        Ok(Incoming { reader, feeding: Some(feeding) })
    }

    /// What QEMU reads.
    pub fn descriptor(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// Waits until the VM has its state back, and lets it go on.
    pub fn wait_until_loaded(mut self, ctx: &Context, vmid: Vmid, timeout: Duration) -> Result<()> {
        drop(self.reader);
        let until = Instant::now() + timeout;
        loop {
            abort::check()?;
            if !status::is_running(ctx, vmid) {
                crate::bail!("QEMU ended while it loaded the state of the VM");
            }
            let state = Monitor::connect(ctx, vmid).and_then(|mut monitor| monitor.execute("query-status", json!({})));
            match state.as_ref().ok().and_then(|state| state["status"].as_str()) {
                Some("running") => break,
                Some("inmigrate") | None if Instant::now() < until => sleep(Duration::from_millis(20)),
                Some("inmigrate") | None => crate::bail!("timeout while the state of the VM was loaded"),
                Some(_) => {
                    Monitor::connect(ctx, vmid)?.execute("cont", json!({}))?;
                    break;
                }
            }
        }
        if let Some(feeding) = self.feeding.take() {
            // It ends with its pipe and cannot panic.
            let _ = feeding.join();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestKind;

    #[test]
    fn what_keeps_a_state_of_its_own_is_not_saved() {
        let refused = |text: &str| {
            let config = GuestConfig::parse(GuestKind::Qemu, text);
            check_resources(&Vm::new("100".parse().unwrap(), &config.current)).err().map(|error| error.to_string())
        };
        assert_eq!(refused("memory: 512\n"), None);
        assert_eq!(
            refused("amd-sev: std\nvirtiofs0: share\n").as_deref(),
            Some("Cannot live-migrate, snapshot (with RAM), or hibernate a VM with: amd-sev, virtiofs")
        );
    }
}
