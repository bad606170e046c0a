//! What the privileged daemon does when it starts: it says what it finds, cleans up after what has died, and starts
//! guests once after each start of the machine.

use super::{bulk, options};
use crate::config::guest::GuestKind;
use crate::{Context, Result, error::ResultExt, guest, lxc, network, qemu, registry, task};
use contract::Verb;
use serde_json::{Map, json};
use std::fs;
use std::time::Duration;

/// Which boot the guests were started for.
const MARKER: &str = "ferrovisor/boot-id";

/// Brings order into what an earlier life has left. Called once, after `live::start`, in the daemon's mode. Failures
/// are told in the service's log: none of them is a reason not to serve.
pub fn begin(ctx: &Context) {
    // Whoever reads the list gives an end to tasks whose process is gone.
    report("tasks", task::journal::active(ctx).map(drop));
    report("virtual machines", qemu::reconcile(ctx).map(|cleaned| cleaned.iter().for_each(|line| eprintln!("{line}"))));
    report("containers", clean_up_containers(ctx));
    report("network", network::reconcile(ctx).map(|removed| removed.iter().for_each(|line| eprintln!("{line}"))));
    report("start of guests", autostart(ctx));
}

fn report(step: &str, outcome: Result<()>) {
    if let Err(error) = outcome {
        eprintln!("{step}: {error}");
    }
}

/// Waits for tasks that work on a container, so it has a thread of its own.
fn clean_up_containers(ctx: &Context) -> Result<()> {
    let ctx = ctx.clone();
    let clean_up = move || match lxc::reconcile(&ctx) {
        Ok(found) => {
            found.done.iter().for_each(|line| eprintln!("{line}"));
            found.failures.iter().for_each(|error| eprintln!("containers: {error}"));
        }
        Err(error) => eprintln!("containers: {error}"),
    };
    std::thread::Builder::new().name("containers".into()).spawn(clean_up).context(|| "unable to start a thread")?;
    Ok(())
}

/// Once after each boot: leftover backup locks go, and guests with `onboot` start as a task.
fn autostart(ctx: &Context) -> Result<()> {
    if !is_first_start(ctx)? {
        return Ok(());
    }
    remove_backup_locks(ctx)?;
    if !bulk::has_autostart(ctx)? {
        return Ok(());
    }
    let delay = options::start_delay(ctx)?;
    let ctx = ctx.clone();
    let start = move || {
        std::thread::sleep(Duration::from_secs(delay));
        let params = Map::from_iter([("node".to_owned(), json!(ctx.node))]);
        if let Err(error) = registry::run(&ctx, Verb::Post, "/nodes/{node}/startall", params) {
            eprintln!("start of guests: {error}");
        }
    };
    if delay == 0 {
        start();
    } else {
        std::thread::Builder::new().name("startall".into()).spawn(start).context(|| "unable to start a thread")?;
    }
    Ok(())
}

/// Whether the machine has started since the last call. `/run` may outlive a boot below a moved root.
fn is_first_start(ctx: &Context) -> Result<bool> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").context(|| "unable to read the boot's id")?;
    let path = ctx.root.run(MARKER);
    if fs::read_to_string(&path).is_ok_and(|seen| seen == boot) {
        return Ok(false);
    }
    let place = || format!("unable to write '{}'", path.display());
    fs::create_dir_all(path.parent().expect("the marker lies in a directory")).context(place)?;
    fs::write(&path, boot).context(place)?;
    Ok(true)
}

/// No backup has survived the start of the machine.
fn remove_backup_locks(ctx: &Context) -> Result<()> {
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        for vmid in guest::list(ctx, kind)? {
            let config = guest::load(ctx, kind, vmid)?;
            if config.current.get("lock") != Some("backup") {
                continue;
            }
            guest::update(ctx, kind, vmid, |config| {
                config.current.options.remove("lock");
                Ok(())
            })?;
            eprintln!("removed left over backup lock from '{vmid}'!");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::guest::GuestConfig;

    #[test]
    fn a_boot_counts_once_and_frees_interrupted_backups() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        for (vmid, lock) in [("100", "backup"), ("101", "migrate")] {
            let mut config = GuestConfig::new(GuestKind::Lxc);
            config.current.set("lock", lock);
            guest::create(&ctx, vmid.parse().unwrap(), &config).unwrap();
        }
        begin(&ctx);
        let lock = |vmid: &str| {
            let config = guest::load(&ctx, GuestKind::Lxc, vmid.parse().unwrap()).unwrap();
            config.current.get("lock").map(str::to_owned)
        };
        assert_eq!((lock("100"), lock("101").as_deref()), (None, Some("migrate")));
        assert!(!is_first_start(&ctx).unwrap());
        fs::write(ctx.root.run(MARKER), "another boot").unwrap();
        assert!(is_first_start(&ctx).unwrap());
    }
}
