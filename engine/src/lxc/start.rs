//! Starting a container.
//!
//! Order: what can be refused is refused first, then leftovers of the last run are removed, then everything is mounted
//! and started in a mount namespace of its own (see [`super::mount`]). A failed start leaves nothing: the namespace ends
//! with it, control groups and links are removed by [`super::stop::clean_up`].

use super::idmap::{self, IdMap};
use super::liblxc::Runtime;
use super::plan::{self, Plan};
use super::system_calls::Helper;
use super::{dhcp, facts, hook, inspect, interface, monitor, mount, setup, stop, update, volume};
use crate::config::guest::{GuestConfig, GuestKind, Part};
use crate::{Context, Error, Result, Task, Vmid, bail, error::ResultExt, file, guest, network};
use std::fs;

/// How a container is to be started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Start {
    /// Start it although its configuration is locked.
    pub skip_lock: bool,
    /// Write all that liblxc says into the task log.
    pub debug: bool,
}

/// Starts a container; the caller holds the guest's lock.
pub fn start(task: &Task, runtime: &dyn Runtime, vmid: Vmid, options: Start) -> Result<()> {
    let ctx = task.ctx;
    if monitor::init(ctx, vmid).is_some() {
        bail!("CT {vmid} already running");
    }
    let config = guest::load(ctx, GuestKind::Lxc, vmid)?;
    check(&config, options.skip_lock)?;
    let config = update::apply_all_pending(ctx, vmid, |text| task.warn(text))?;
    let mut part = config.current;
    if options.debug {
        part.set("debug", "1");
    }
    let map = IdMap::of(&part)?;
    let plan = plan::plan(vmid, &part, &facts::of_host(ctx, vmid, &part)?)?;
    for warning in &plan.warnings {
        task.warn(warning);
    }
    idmap::ensure_granted(ctx, &map, |line| task.log(line))?;
    stop::clean_up(ctx, vmid).context(|| "leftovers of the last run")?;
    if part.get("lock") == Some("mounted") {
        inspect::release(ctx, vmid)?;
    }
    write_plan(ctx, vmid, &plan)?;
    hook::run(ctx, vmid, &part, "pre-start", |line| task.log(line))?;
    let helper = plan.asks_for_system_calls.then(|| Helper::start(ctx, vmid)).transpose()?;
    for port in ports(vmid, &part)? {
        network::prepare(ctx, &port)?;
    }
    let started = mount::in_own_namespace(|| {
        let mounted = mount::mount_all(ctx, vmid, &volume::mounts(&part)?, &map, false)?;
        mount::make_devices(ctx, vmid, &plan::passed_devices(&part)?, &map)?;
        setup::before_start(&mounted.root, &part, |text| task.warn(text))?;
        task.check_abort()?;
        runtime.start(vmid)
    });
    if let (Some(helper), Ok(())) = (helper, &started) {
        helper.leave();
    }
    if options.debug || started.is_err() {
        report(task, vmid, options.debug);
    }
    if let Err(error) = started {
        let failures: Vec<Error> = stop::clean_up(ctx, vmid).err().into_iter().collect();
        return Err(error.with_cleanup_failures(&failures));
    }
    if let Err(error) = plug(ctx, vmid, &part) {
        let failures: Vec<Error> =
            [runtime.kill(vmid), stop::clean_up(ctx, vmid)].into_iter().filter_map(Result::err).collect();
        return Err(error.with_cleanup_failures(&failures));
    }
    if let Some(init) = monitor::init(ctx, vmid) {
        for net in interface::interfaces(&part)? {
            if let Err(error) = dhcp::start(ctx, vmid, init, None, Some(&net)) {
                task.warn(format!("DHCP failed - {}", error.message()));
            }
        }
    }
    if let Err(error) = hook::run(ctx, vmid, &part, "post-start", |line| task.log(line)) {
        task.log(error.message());
    }
    Ok(())
}

/// liblxc has attached the links; VLANs, speed and cable are set here.
fn plug(ctx: &Context, vmid: Vmid, part: &Part) -> Result<()> {
    ports(vmid, part)?.iter().try_for_each(|port| network::plug(ctx, port))
}

fn ports(vmid: Vmid, part: &Part) -> Result<Vec<network::Port>> {
    interface::interfaces(part)?.iter().filter_map(|net| net.port(vmid).transpose()).collect()
}

fn check(config: &GuestConfig, skip_lock: bool) -> Result<()> {
    let part = &config.current;
    if part.flag("template") {
        bail!("you can't start a CT if it's a template");
    }
    if !skip_lock && part.get("lock") != Some("mounted") {
        guest::check_lock(config)?;
    }
    if part.flag("unprivileged") && volume::mounts(part)?.iter().any(|mount| mount.flag("quota") == Some(true)) {
        bail!("Quotas are not supported by unprivileged containers.");
    }
    Ok(())
}

/// Writes what liblxc reads. The directories on the way must be open to the container's users.
fn write_plan(ctx: &Context, vmid: Vmid, plan: &Plan) -> Result<()> {
    let directory = monitor::directory(ctx, vmid);
    fs::create_dir_all(directory.join("rootfs")).context(|| directory.display().to_string())?;
    let log = facts::log_file(ctx, vmid);
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).context(|| parent.display().to_string())?;
    }
    fs::write(&log, "").context(|| log.display().to_string())?;
    if let Some(rules) = &plan.seccomp {
        file::replace_volatile(&directory.join("rules.seccomp"), rules.as_bytes(), 0o644)?;
    }
    file::replace_volatile(&directory.join("config"), plan.config.as_bytes(), 0o644)
}

/// Puts liblxc's log into the task log: all of it, or what went wrong.
fn report(task: &Task, vmid: Vmid, all: bool) {
    let text = fs::read_to_string(facts::log_file(task.ctx, vmid)).unwrap_or_default();
    for line in text.lines().filter(|line| all || line.contains(" ERROR ")) {
        task.log(readable(line));
    }
}

/// `lxc 101 20261122195050.310 ERROR conf - ../src/lxc/conf.c:lxc_map_ids:3708 - newuidmap failed` → `conf: newuidmap failed`.
fn readable(line: &str) -> String {
    let mut parts = line.splitn(3, " - ");
    match (parts.next(), parts.next(), parts.next()) {
        (Some(head), Some(_), Some(text)) => {
            format!("lxc: {}: {text}", head.split_whitespace().last().unwrap_or_default())
        }
        _ => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn log_lines_lose_what_only_developers_need() {
        let line = "lxc 101 20261122195050.310 ERROR    conf - ../src/lxc/conf.c:lxc_map_ids:3708 - no map - sorry";
        assert_eq!(readable(line), "lxc: conf: no map - sorry");
        assert_eq!(readable("what"), "what");
    }
}
