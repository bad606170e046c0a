//! Local commands of `qm`, the tool for virtual machines.

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use engine::config::guest::GuestKind;
use engine::qemu::{command_line, files, firmware_keys, keeper, launch, qmp, status, stop, terminal};
use engine::{Error, Result, Vmid, guest};
use std::io::{BufRead, Write};
use std::process::ExitCode;
use std::time::Duration;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    command("qm", "cleanup", cleanup),
    command("qm", "enroll-efi-keys", enroll),
    command("qm", "monitor", monitor),
    command("qm", "nbdstop", stop_nbd),
    command("qm", "showcmd", show_command),
    command("qm", "terminal", open_terminal),
    command("qm", "unlock", unlock),
    command("qm", "vncproxy", join_display),
    command("qm", "wait", wait),
];

/// The command line that starts the VM, as PVE prints it.
fn show_command(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    let config = guest::load(&invocation.ctx, GuestKind::Qemu, vmid)?;
    let snapshot: Option<String> = invocation.opt("snapshot")?;
    let plan = launch::show(&invocation.ctx, vmid, &config, snapshot.as_deref())?;
    plan.notes.iter().for_each(|note| eprintln!("{note}"));
    plan.warnings.iter().for_each(|warning| eprintln!("WARN: {warning}"));
    let text = if invocation.flag("pretty") {
        command_line::to_pretty_text(&plan.command)
    } else {
        command_line::to_text(&plan.command)
    };
    output::write(&format!("{text}\n"));
    Ok(ExitCode::SUCCESS)
}

/// Joins a serial port with this terminal.
fn open_terminal(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    let escape: Option<String> = invocation.opt("escape")?;
    let escape = terminal::escape_character(escape.as_deref().unwrap_or("^O"))?;
    let port: Option<String> = invocation.opt("iface")?;
    let terminal = terminal::open(&invocation.ctx, vmid, port.as_deref())?;
    let hint = escape.map(|code| format!(" (press Ctrl+{} to exit)", char::from(code + 0x40))).unwrap_or_default();
    println!("starting serial terminal on interface {}{hint}", terminal.port);
    terminal.join(escape)?;
    Ok(ExitCode::SUCCESS)
}

/// Joins the VM's VNC server with the standard streams. The password comes with the environment, as PVE's own callers
/// send it through ssh. (PVE: qemu-server CLI/qm.pm, vncproxy)
fn join_display(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    let password = std::env::var("LC_PVE_TICKET")
        .map_err(|_| Error::new("LC_PVE_TICKET not set, VNC proxy without password is forbidden"))?;
    let stream = engine::qemu::picture::open(&invocation.ctx, vmid, &password)?;
    terminal::Terminal { port: "vnc".into(), stream }.join(None)?;
    Ok(ExitCode::SUCCESS)
}

/// Enters certificates for secure boot into the EFI disk.
fn enroll(invocation: &Invocation) -> Result<ExitCode> {
    let is_done = firmware_keys::enroll(&invocation.ctx, invocation.param("vmid")?, &mut |line| println!("{line}"))?;
    println!(
        "{}",
        match is_done {
            true => "successfully updated efidisk",
            false => "skipping - no pre-enrolled keys or already got ms-cert=2023k marker",
        }
    );
    Ok(ExitCode::SUCCESS)
}

/// A prompt of QEMU's human monitor.
fn monitor(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    guest::load(&invocation.ctx, GuestKind::Qemu, vmid)?;
    println!("Entering QEMU Monitor for VM {vmid} - type 'help' for help");
    let mut lines = std::io::stdin().lock().lines();
    loop {
        print!("qm> ");
        std::io::stdout().flush()?;
        let Some(line) = lines.next().transpose()? else { break };
        match line.trim() {
            "" => continue,
            "q" | "quit" => break,
            line => match qmp::human(&invocation.ctx, vmid, line) {
                Ok(answer) => print!("{answer}"),
                Err(error) => println!("ERROR: {error}"),
            },
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the VM's server for network block devices; what goes wrong is only said.
fn stop_nbd(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    if let Err(error) = qmp::execute(&invocation.ctx, vmid, "nbd-server-stop", serde_json::json!({})) {
        eprintln!("{error}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes the lock out of the configuration.
fn unlock(invocation: &Invocation) -> Result<ExitCode> {
    guest::update(&invocation.ctx, GuestKind::Qemu, invocation.param("vmid")?, |config| {
        config.current.options.remove("lock");
        config.pending.part.options.remove("lock");
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Waits until the VM has ended.
fn wait(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    status::checked_running(&invocation.ctx, vmid)?;
    let Some(process) = files::process(&invocation.ctx, vmid) else { return Ok(ExitCode::SUCCESS) };
    println!("waiting until VM {vmid} stops (PID {})", process.pid);
    let timeout =
        invocation.opt::<u64>("timeout")?.map_or(Duration::from_secs(u64::from(u32::MAX)), Duration::from_secs);
    if stop::wait_for_end(process, timeout)? {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Error::new("wait failed - got timeout"))
    }
}

/// Cleans up after a VM that has ended, if nobody has.
fn cleanup(invocation: &Invocation) -> Result<ExitCode> {
    let vmid: Vmid = invocation.param("vmid")?;
    if guest::find(&invocation.ctx, vmid) != Some(GuestKind::Qemu) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("Starting cleanup for {vmid}");
    keeper::clean_up_left_over(&invocation.ctx, vmid)?;
    eprintln!("Finished cleanup for {vmid}");
    Ok(ExitCode::SUCCESS)
}
