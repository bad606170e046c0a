//! The files of a running VM below `/run/qemu-server`: pid file and sockets, named `VMID.ENDING`.

use crate::process::ProcessId;
use crate::{Context, Result, Vmid, error::ResultExt};
use std::fs;
use std::path::{Path, PathBuf};

/// The longest path that a Unix socket can have.
const LONGEST_SOCKET: usize = 107;

/// The directory of all VMs.
pub fn directory(ctx: &Context) -> PathBuf {
    ctx.root.run("qemu-server")
}

/// A VM's file with an ending: `pid`, `qmp`, `vnc`, `qga`, `serial0`, …
pub fn path(ctx: &Context, vmid: Vmid, ending: &str) -> PathBuf {
    directory(ctx).join(format!("{vmid}.{ending}"))
}

/// The socket on which a VM tells its events to whoever connects.
pub fn event_socket(ctx: &Context, vmid: Vmid) -> PathBuf {
    directory(ctx).join(format!("{vmid}-event.qmp"))
}

/// Makes the directory. PVE's command lines say `/var/run`, so that name must lead to `/run`.
pub fn ensure_directory(ctx: &Context) -> Result<()> {
    let directory = directory(ctx);
    fs::create_dir_all(&directory).context(|| format!("unable to create '{}'", directory.display()))?;
    let alias = ctx.root.path("/var/run");
    if !alias.exists() {
        let place = || format!("unable to create '{}'", alias.display());
        fs::create_dir_all(ctx.root.path("/var")).context(place)?;
        std::os::unix::fs::symlink("../run", &alias).context(place)?;
    }
    let longest = ctx.root.path("/var/run/qemu-server/999999999-event.qmp");
    if longest.as_os_str().len() > LONGEST_SOCKET {
        crate::bail!("the path '{}' is too long for a socket", directory.display());
    }
    Ok(())
}

/// The process of a VM, if it runs: the pid file names a QEMU that was started with this very pid file.
pub fn process(ctx: &Context, vmid: Vmid) -> Option<ProcessId> {
    let file = path(ctx, vmid, "pid");
    let pid = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
    let process = ProcessId::of(pid)?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = command.split(|byte| *byte == 0);
    words.find(|word| *word == b"-pidfile")?;
    let named = String::from_utf8_lossy(words.next()?).into_owned();
    let is_ours =
        Path::new(&named) == file || Path::new(&named) == ctx.root.path("/var/run/qemu-server").join(file.file_name()?);
    (is_ours && process.is_alive()).then_some(process)
}

/// Numbers of the VMs that have files here, running or not.
pub fn with_files(ctx: &Context) -> Vec<Vmid> {
    let Ok(entries) = fs::read_dir(directory(ctx)) else { return Vec::new() };
    let mut found: Vec<Vmid> = entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name[..name.find(['.', '-'])?].parse().ok()
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Removes what a VM that has ended left behind, and says what it was.
pub fn remove_leftovers(ctx: &Context, vmid: Vmid) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let Ok(entries) = fs::read_dir(directory(ctx)) else { return Ok(removed) };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let rest = name.strip_prefix(&vmid.to_string()).unwrap_or_default();
        if rest.starts_with('.') || matches!(rest, "-event.qmp" | "-swtpm.log") {
            fs::remove_file(entry.path()).context(|| format!("unable to remove '{}'", entry.path().display()))?;
            removed.push(name);
        }
    }
    super::preparation::clean(ctx, vmid)?;
    removed.sort();
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_one_vm_are_removed_and_no_others() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        ensure_directory(&ctx).unwrap();
        for name in ["100.pid", "100.qmp", "100-event.qmp", "1000.pid", "101.vnc"] {
            fs::write(directory(&ctx).join(name), "1").unwrap();
        }
        let vmid = "100".parse().unwrap();
        assert_eq!(remove_leftovers(&ctx, vmid).unwrap(), ["100-event.qmp", "100.pid", "100.qmp"]);
        assert_eq!(with_files(&ctx).iter().map(ToString::to_string).collect::<Vec<_>>(), ["101", "1000"]);
    }

    #[test]
    fn a_pid_that_is_no_qemu_of_ours_is_not_the_vm() {
        let root = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(root.path());
        ensure_directory(&ctx).unwrap();
        let vmid = "100".parse().unwrap();
        fs::write(path(&ctx, vmid, "pid"), std::process::id().to_string()).unwrap();
        assert_eq!(process(&ctx, vmid), None);
    }
}
