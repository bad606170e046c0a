//! Local commands of `qm` that work on disks and in the guest.

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use engine::config::guest::GuestKind;
use engine::qemu::config::Slot;
use engine::qemu::{agent, import, rescan};
use engine::{Error, Result, Vmid, guest, lock};
use serde_json::Value;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    command("qm", "disk import", import_disk),
    command("qm", "disk rescan", rescan_disks),
    command("qm", "guest exec", run_in_guest),
];

/// The most that is passed on as input of a program.
const LONGEST_INPUT: u64 = 1 << 20;

/// Copies an image file into a new disk: an unused one, or the one that is named.
/// (PVE: qemu-server PVE/CLI/qm.pm, importdisk)
fn import_disk(invocation: &Invocation) -> Result<ExitCode> {
    let ctx = &invocation.ctx;
    let vmid: Vmid = invocation.param("vmid")?;
    let source: String = invocation.param("source")?;
    let storage: String = invocation.param("storage")?;
    let format: Option<String> = invocation.opt("format")?;
    let format = format.map(|format| format.parse().map_err(Error::new)).transpose()?;
    let target: Option<String> = invocation.opt("target-disk")?;
    let target = target.and_then(|name| Slot::of_key(&name));
    guest::check_lock(&guest::load(ctx, GuestKind::Qemu, vmid)?)?;
    let path = std::fs::canonicalize(&source).ok().filter(|path| path.is_file());
    let path = path.ok_or_else(|| Error::new(format!("{source}: non-existent or non-regular file")))?;
    engine::storage::find_enabled(ctx, &storage)?;
    engine::storage::check_content(ctx, &storage, "images")
        .map_err(|_| Error::new(format!("storage {storage} does not support vm images")))?;
    println!("importing disk '{source}' to VM {vmid} ...");
    let _lock = lock::acquire(ctx, &lock::guest(vmid), "importdisk", |holder| println!("waiting for {holder}"))?;
    let (key, value) =
        import::disk(ctx, vmid, &path.to_string_lossy(), &storage, format, target, &mut |line| println!("{line}"))?;
    println!("{key}: successfully imported disk '{value}'");
    Ok(ExitCode::SUCCESS)
}

/// Compares storages with configurations.
fn rescan_disks(invocation: &Invocation) -> Result<ExitCode> {
    let ctx = &invocation.ctx;
    let dry_run = invocation.flag("dryrun");
    if dry_run {
        println!("NOTE: running in dry-run mode, won't write changes out!");
    }
    println!("rescan volumes...");
    let vmids = match invocation.opt("vmid")? {
        Some(vmid) => vec![vmid],
        None => guest::list(ctx, GuestKind::Qemu)?,
    };
    for vmid in vmids {
        rescan::rescan(ctx, vmid, dry_run, &mut |line| println!("{line}"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a program in the guest and waits for it. (PVE: qemu-server PVE/CLI/qm.pm, exec)
fn run_in_guest(invocation: &Invocation) -> Result<ExitCode> {
    let ctx = &invocation.ctx;
    let vmid: Vmid = invocation.param("vmid")?;
    let synchronous = invocation.opt("synchronous")?.unwrap_or(true);
    let timeout: Option<u64> = invocation.opt("timeout")?;
    if timeout.is_some() && !synchronous {
        return Err(Error::parameter("synchronous", "needs to be set for 'timeout'"));
    }
    let words: Vec<String> = invocation.opt("extra-args")?.unwrap_or_default();
    let input = if invocation.flag("pass-stdin") { Some(read_input()?) } else { None };
    let config = guest::load(ctx, GuestKind::Qemu, vmid)?;
    let connect = || agent::Agent::connect(ctx, vmid, &config);
    let started = agent::exec(&mut connect()?, &words, input.as_deref())?;
    let result = match started["pid"].as_i64().filter(|_| synchronous) {
        Some(pid) => wait_for(&connect, pid, timeout.unwrap_or(30))?.unwrap_or_else(|| {
            eprintln!("timeout reached, returning pid");
            started.clone()
        }),
        None => started,
    };
    output::write(&output::json::pretty_or_plain(&result));
    Ok(ExitCode::SUCCESS)
}

fn wait_for(connect: &dyn Fn() -> Result<agent::Agent>, pid: i64, seconds: u64) -> Result<Option<Value>> {
    let until = (seconds > 0).then(|| Instant::now() + Duration::from_secs(seconds));
    loop {
        let status = agent::exec_status(&mut connect()?, pid)?;
        if status["exited"] == 1 {
            return Ok(Some(status));
        }
        if until.is_some_and(|until| Instant::now() > until) {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn read_input() -> Result<String> {
    let mut input = String::new();
    std::io::stdin().lock().take(LONGEST_INPUT + 1).read_to_string(&mut input)?;
    if input.len() as u64 > LONGEST_INPUT {
        return Err(Error::new("'input-data' (STDIN) is limited to 1 MiB, aborting"));
    }
    Ok(input)
}
