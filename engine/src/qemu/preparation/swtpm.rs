//! The TPM of a VM: a process of its own that ends with QEMU. (PVE: qemu-server QemuServer.pm, start_swtpm)

use super::super::config::{Bus, Drive, Slot, Vm};
use super::super::{files, scope};
use crate::process::ProcessId;
use crate::{Context, Error, Result, Task, Vmid, error::ResultExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const STATE: Slot = Slot { bus: Bus::Tpmstate, index: 0 };

/// How long it may take until it has written its number.
const PATIENCE: Duration = Duration::from_secs(5);

/// Starts the TPM of a VM, if it has one. A state that is new is set up first.
pub fn start(task: &Task, vm: &Vm) -> Result<Option<ProcessId>> {
    let Some(text) = vm.text("tpmstate0").filter(|_| !vm.is_template()) else { return Ok(None) };
    let drive = Drive::parse(STATE, text)?;
    let state = state_path(task.ctx, &drive)?;
    let is_second = drive.options.text("version").as_deref() == Some("v2.0");
    let mut set_up = words(&[
        "--tpmstate",
        &format!("file://{state}"),
        "--createek",
        "--create-ek-cert",
        "--create-platform-cert",
        "--lock-nvram",
        "--config",
        "/etc/swtpm_setup.conf",
        "--runas",
        "0",
        "--not-overwrite",
    ]);
    if is_second {
        set_up.extend(words(&["--tpm2", "--ecc"]));
    }
    task.command("swtpm_setup", &set_up).map_err(|error| error.context("swtpm_setup failed"))?;
    let socket = files::path(task.ctx, vm.vmid, "swtpm");
    let pid_file = files::path(task.ctx, vm.vmid, "swtpm.pid");
    let log = files::directory(task.ctx).join(format!("{}-swtpm.log", vm.vmid));
    let mut command = scope::server_prefix(task.ctx, vm.vmid, "swtpm");
    command.extend(words(&[
        "swtpm",
        "socket",
        "--tpmstate",
        &format!("backend-uri=file://{state},mode=0600"),
        "--ctrl",
        &format!("type=unixio,path={},mode=0600", socket.display()),
        "--pid",
        &format!("file={}", pid_file.display()),
        "--terminate",
        "--daemon",
        "--log",
        &format!("file={},level=1", log.display()),
    ]));
    if is_second {
        command.push("--tpm2".into());
    }
    task.command(&command[0], &command[1..])?;
    wait_for_process(task, vm.vmid, &pid_file).map(Some)
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The state has to be a file or device that the process can open itself.
fn state_path(ctx: &Context, drive: &Drive) -> Result<String> {
    let Some(volume) = drive.volume() else { return Ok(drive.file.clone()) };
    let format = super::super::command_line::format_of_name(&volume.name);
    if format != "raw" {
        crate::bail!("tpmstate0: volume '{volume}' is '{format}', but only 'raw' can be opened here");
    }
    Ok(crate::storage::path(ctx, &volume)?.to_string_lossy().into_owned())
}

fn wait_for_process(task: &Task, vmid: Vmid, file: &PathBuf) -> Result<ProcessId> {
    let until = Instant::now() + PATIENCE;
    loop {
        let pid = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(process) = pid.and_then(ProcessId::of) {
            return Ok(process);
        }
        task.check_abort()?;
        if Instant::now() >= until {
            return Err(Error::new(format!("failed to start swtpm: pid file '{}' wasn't created.", file.display())))
                .context(|| format!("TPM of VM {vmid}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the process of a VM that did not start.
pub fn end(process: ProcessId) {
    if process.is_alive()
        && let Some(pid) = rustix::process::Pid::from_raw(process.pid.cast_signed())
    {
        // It may end by itself between the look and the signal.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}
