//! Applying the interfaces file as one transaction.
//!
//! ```text
//! check ── plan ── journal ── file in force ── changes ── read back ──┬── done
//!                     │                                               └── waits for confirmation ──┬── done
//!                     └────────────── back to the former state ◄── failure, kill, no confirmation ─┘
//! ```
//! The journal is written before the first change and lies where it survives a restart of the machine. Whoever comes next
//! and finds one whose writer is dead goes back. Owns the journal and what is in force; one process at a time works.

use super::change::Change;
use super::netlink::Netlink;
use super::others::kept;
use super::plan::{Plan, plan};
use super::state::{Kind, State};
use super::wanted::Wanted;
use super::{dhcp, edit, open_vswitch, script, stanza};
use crate::{Context, Error, Result, bail, error::ResultExt, file};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How often the kernel is asked again: one change may undo a part of another.
const ROUNDS: usize = 3;

/// What is needed to go back.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Journal {
    /// The boot in which it was written; after another one the kernel knows nothing of it.
    boot: String,
    /// What was in force.
    before: Wanted,
    /// What is to be in force.
    wanted: Wanted,
    /// What the kernel had.
    snapshot: State,
    /// The file that was in force.
    old_text: String,
    /// The file that is to be in force.
    new_text: String,
    /// Whether `interfaces.new` was there.
    had_pending: bool,
    /// Until when (seconds since the machine's start) somebody has to confirm; `None` while changes are made.
    deadline: Option<i64>,
}

/// What is known of a change that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pending {
    /// None waits.
    None,
    /// It waits for this many more seconds.
    Waits(i64),
    /// Its writer is dead, or nobody has confirmed it in time.
    Dead,
}

/// What the file wants and what has to be done for it, with all checks. Changes nothing.
pub fn plan_now(ctx: &Context) -> Result<Plan> {
    let wanted = wanted(ctx, &edit::text(ctx)?)?;
    check_open_vswitch(&wanted)?;
    let (before, actual) = (in_force(ctx)?, actual(&Netlink::open()?)?);
    Ok(plan(&before, &kept(&before, &wanted, &actual), &actual))
}

/// Applies the waiting file, or the one in force again. With `confirm` seconds it goes back by itself unless confirmed.
pub fn apply(ctx: &Context, confirm: Option<u64>, log: &mut dyn FnMut(&str)) -> Result<()> {
    let _lock = lock(ctx)?;
    recover_locked(ctx, log)?;
    if let Pending::Waits(seconds) = pending(ctx)? {
        bail!(
            "a network change waits for its confirmation for {seconds} more seconds; confirm it or roll it back first"
        );
    }
    let had_pending = edit::pending_file(ctx).exists();
    let (old_text, new_text) = (file::read_or_empty(&edit::current_file(ctx))?, edit::text(ctx)?);
    let wanted = wanted(ctx, &new_text)?;
    check_open_vswitch(&wanted)?;
    let netlink = Netlink::open()?;
    let snapshot = actual(&netlink)?;
    let before = in_force(ctx)?;
    let target = kept(&before, &wanted, &snapshot);
    let plan = plan(&before, &target, &snapshot);
    plan.warnings.iter().for_each(|warning| log(&format!("warning: {warning}")));
    let guard = confirm.map(|_| guard_program()).transpose()?;
    let mut journal =
        Journal { boot: boot_id(), before, wanted, snapshot, old_text, new_text, had_pending, deadline: None };
    if plan.changes.is_empty() {
        log("no change");
    }
    if plan.changes.is_empty() && !had_pending {
        return write_in_force(ctx, &journal.wanted);
    }
    write_journal(ctx, &journal)?;
    let done = put_in_force(ctx, &journal).and_then(|()| carry_out(&netlink, &journal, target, plan, log));
    if let Err(error) = done {
        log(&format!("{error}; going back to the former state"));
        let failures: Vec<Error> = go_back(ctx, &journal, log).err().into_iter().collect();
        return Err(error.context("network change failed").with_cleanup_failures(&failures));
    }
    write_in_force(ctx, &journal.wanted)?;
    match (confirm, guard) {
        (Some(seconds), Some(program)) => {
            journal.deadline = Some(now().saturating_add_unsigned(seconds));
            write_journal(ctx, &journal)?;
            log(&format!("waiting for confirmation for {seconds} seconds ('pvenet confirm')"));
            start_guard(&program)
        }
        _ => remove_journal(ctx),
    }
}

/// Brings everything up when the machine starts. A change that was not confirmed before is taken back first; what fails
/// is told, and the rest goes on: half a network is better than none. So is the former one, when the file cannot be read.
pub fn boot(ctx: &Context, log: &mut dyn FnMut(&str)) -> Result<()> {
    let _lock = lock(ctx)?;
    let recovered = recover_locked(ctx, log);
    let (wanted, refused) = wanted_at_boot(ctx, log)?;
    let netlink = Netlink::open()?;
    let mut failures: Vec<Error> = Vec::new();
    let mut started = Vec::new();
    for round in 0..ROUNDS {
        let before = if round == 0 { Wanted::default() } else { wanted.clone() };
        let actual = actual(&netlink)?;
        let plan = plan(&before, &kept(&before, &wanted, &actual), &actual);
        plan.warnings.iter().filter(|_| round == 0).for_each(|warning| log(&format!("warning: {warning}")));
        if plan.changes.is_empty() {
            break;
        }
        failures.clear();
        started.extend(asking(&plan));
        for change in &plan.changes {
            log(&change.to_string());
            if let Err(error) = execute(&netlink, change, log) {
                log(&format!("warning: {change}: {error}"));
                failures.push(error.context(change.to_string()));
            }
        }
    }
    write_in_force(ctx, &wanted)?;
    dhcp::await_leases(&netlink, started, log)?;
    failures.extend(recovered.err());
    failures.extend(refused);
    if failures.is_empty() {
        return Ok(());
    }
    let failures: Vec<String> = failures.iter().map(Error::to_string).collect();
    Err(Error::new(format!("not everything could be brought up: {}", failures.join("; "))))
}

/// Keeps a change that waits for its confirmation.
pub fn confirm(ctx: &Context) -> Result<()> {
    let _lock = lock(ctx)?;
    match pending(ctx)? {
        Pending::Waits(_) => remove_journal(ctx),
        _ => bail!("no network change waits for its confirmation"),
    }
}

/// Takes back a change that waits for its confirmation.
pub fn rollback(ctx: &Context, log: &mut dyn FnMut(&str)) -> Result<()> {
    let _lock = lock(ctx)?;
    match read_journal(ctx)? {
        Some(journal) => go_back(ctx, &journal, log),
        None => bail!("no network change waits for its confirmation"),
    }
}

/// Waits until the change is confirmed or its time is over, and takes it back then.
pub fn guard(ctx: &Context, log: &mut dyn FnMut(&str)) -> Result<()> {
    while let Pending::Waits(seconds) = pending(ctx)? {
        // The file may be confirmed at any moment; looking each second is cheap and ends soon.
        std::thread::sleep(std::time::Duration::from_millis(if seconds > 1 { 1000 } else { 200 }));
    }
    let _lock = lock(ctx)?;
    recover_locked(ctx, log)
}

/// Goes back from what a dead process has left, or goes on waiting for a confirmation. For the daemon's start.
pub fn recover(ctx: &Context, log: &mut dyn FnMut(&str)) -> Result<()> {
    if read_journal(ctx)?.is_none() {
        return Ok(());
    }
    let _lock = lock(ctx)?;
    recover_locked(ctx, log)?;
    match pending(ctx)? {
        Pending::Waits(_) => start_guard(&guard_program()?),
        _ => Ok(()),
    }
}

/// Whether a change waits.
pub fn pending(ctx: &Context) -> Result<Pending> {
    Ok(match read_journal(ctx)? {
        None => Pending::None,
        Some(Journal { deadline: Some(deadline), boot, .. }) if boot == boot_id() && deadline > now() => {
            Pending::Waits(deadline - now())
        }
        Some(_) => Pending::Dead,
    })
}

/// The lock is held, so a journal that does not wait has no living writer.
fn recover_locked(ctx: &Context, log: &mut dyn FnMut(&str)) -> Result<()> {
    match (pending(ctx)?, read_journal(ctx)?) {
        (Pending::Dead, Some(journal)) => {
            log("a network change was not completed or not confirmed; going back to the former state");
            go_back(ctx, &journal, log)
        }
        _ => Ok(()),
    }
}

fn wanted(ctx: &Context, text: &str) -> Result<Wanted> {
    let sections = stanza::read(ctx, &edit::current_file(ctx), text)?;
    let wanted = Wanted::of(&sections)?;
    // PVE's words name an interface; its section has a line.
    check_rules(ctx, text).map_err(|error| match sections.place_of(error.message()) {
        Some(place) => error.context(place),
        None => error,
    })?;
    Ok(wanted)
}

fn read_wanted(ctx: &Context, text: &str) -> Result<Wanted> {
    stanza::read(ctx, &edit::current_file(ctx), text).and_then(|sections| Wanted::of(&sections))
}

/// PVE's rules, among them that every port exists.
fn check_rules(ctx: &Context, text: &str) -> Result<()> {
    super::interfaces::Interfaces::parse(text, &edit::kernel_view(ctx)?).print(edit::has_ifupdown2(ctx)).map(drop)
}

/// What the file in force wants, also when a rule is broken: a card may have died. Where nothing can be read, what was in
/// force last, with the reason.
fn wanted_at_boot(ctx: &Context, log: &mut dyn FnMut(&str)) -> Result<(Wanted, Option<Error>)> {
    let text = file::read_or_empty(&edit::current_file(ctx))?;
    match read_wanted(ctx, &text) {
        Ok(wanted) => {
            if let Err(error) = check_rules(ctx, &text) {
                log(&format!("warning: {error}"));
            }
            Ok((wanted, None))
        }
        Err(error) => {
            let Ok(kept) = serde_json::from_str(&file::read_or_empty(&kept_file(ctx))?) else { return Err(error) };
            log(&format!("{error}; bringing up what was in force before"));
            Ok((kept, Some(error)))
        }
    }
}

/// What cannot be carried out is said before anything is changed.
fn check_open_vswitch(wanted: &Wanted) -> Result<()> {
    let Some(name) = wanted.open_vswitch.keys().next() else { return Ok(()) };
    open_vswitch::check().map_err(|error| error.context(format!("'{name}'")))
}

/// What the kernel and Open vSwitch have.
fn actual(netlink: &Netlink) -> Result<State> {
    Ok(State { open_vswitch: open_vswitch::parts()?, ..netlink.state()? })
}

fn put_in_force(ctx: &Context, journal: &Journal) -> Result<()> {
    if journal.had_pending {
        let _lock = file::lock_file(ctx, &edit::current_file(ctx))?;
        file::replace(&edit::current_file(ctx), journal.new_text.as_bytes(), 0o644)?;
        // Somebody may have edited it since it was read; that waits for the next time.
        if file::read_or_empty(&edit::pending_file(ctx))? == journal.new_text {
            std::fs::remove_file(edit::pending_file(ctx))?;
        }
    }
    Ok(())
}

/// Carries out the plan, asks the kernel, and does what is still missing. What is missing after that is a failure.
fn carry_out(
    netlink: &Netlink,
    journal: &Journal,
    mut target: Wanted,
    mut plan: Plan,
    log: &mut dyn FnMut(&str),
) -> Result<()> {
    let asking = asking(&plan);
    // What is not of the file is no reason to go back.
    let is_of_others =
        |change: &Change| matches!(change, Change::AddRoute(route) if !journal.wanted.state.routes.contains(route));
    for round in 0..ROUNDS {
        for change in &plan.changes {
            log(&change.to_string());
            match execute(netlink, change, log) {
                Err(error) if is_of_others(change) => log(&format!("warning: {change}: {error}")),
                done => done.map_err(|error| error.context(change.to_string()))?,
            }
        }
        let actual = actual(netlink)?;
        // Commands have just set more.
        target = kept(&journal.wanted, &target, &actual);
        plan = self::plan(&journal.wanted, &target, &actual);
        plan.changes
            .retain(|change| !matches!(change, Change::Command { .. }) && (round == 0 || !is_of_others(change)));
        if plan.changes.is_empty() {
            return dhcp::await_leases(netlink, asking, log);
        }
    }
    let left: Vec<String> = plan.changes.iter().map(Change::to_string).collect();
    Err(Error::new(format!("the kernel did not take: {}", left.join("; "))))
}

/// Interfaces that begin to ask for an address, and whether for one of IPv4.
fn asking(plan: &Plan) -> Vec<(String, bool)> {
    let start = |change: &Change| match change {
        Change::StartDhcp { name, four, .. } => Some((name.clone(), *four)),
        _ => None,
    };
    plan.changes.iter().filter_map(start).collect()
}

fn execute(netlink: &Netlink, change: &Change, log: &mut dyn FnMut(&str)) -> Result<()> {
    if netlink.execute(change)? {
        return Ok(());
    }
    match change {
        Change::Command { name, phase, line } => script::run(name, phase, line, log),
        Change::StartDhcp { name, four, six } => dhcp::start(name, *four, *six)?,
        Change::StopDhcp(name) => dhcp::stop(name)?,
        Change::OpenVSwitch(words) => open_vswitch::call(words)?,
        _ => {}
    }
    Ok(())
}

/// Restores files and, in the same boot, the kernel's state.
fn go_back(ctx: &Context, journal: &Journal, log: &mut dyn FnMut(&str)) -> Result<()> {
    if journal.had_pending {
        let _lock = file::lock_file(ctx, &edit::current_file(ctx))?;
        if !edit::pending_file(ctx).exists() {
            file::replace(&edit::pending_file(ctx), journal.new_text.as_bytes(), 0o644)?;
        }
        file::replace(&edit::current_file(ctx), journal.old_text.as_bytes(), 0o644)?;
    }
    write_json(&kept_file(ctx), &journal.before)?;
    if journal.boot == boot_id() {
        let netlink = Netlink::open()?;
        let former = former(journal);
        let present = present(journal);
        let mut failures: Vec<Error> = Vec::new();
        for _ in 0..ROUNDS {
            let plan = plan(&present, &former, &actual(&netlink)?);
            if plan.changes.is_empty() {
                break;
            }
            failures.clear();
            // The network first: a command may take its time.
            let (commands, changes): (Vec<_>, Vec<_>) =
                plan.changes.iter().partition(|change| matches!(change, Change::Command { .. }));
            for change in changes.into_iter().chain(commands) {
                log(&format!("back: {change}"));
                // The next round tries what has failed again.
                failures.extend(execute(&netlink, change, log).err().map(|error| error.context(change.to_string())));
            }
        }
        write_json(&in_force_file(ctx), &(boot_id(), &journal.before))?;
        if let Some((first, rest)) = failures.split_first() {
            return Err(Error::new(format!("going back failed: {first}")).with_cleanup_failures(rest));
        }
    }
    remove_journal(ctx)
}

/// What is left behind on the way back. Commands of links that stay are those of the former file, as they have run before;
/// what is made or removed again runs its own.
fn present(journal: &Journal) -> Wanted {
    let mut present = journal.wanted.clone();
    present.commands.retain(|name, _| !journal.before.state.links.contains_key(name));
    present.commands.extend(journal.before.commands.clone());
    present
}

/// What the kernel had, as far as the change may have touched it: the links of both files, what stands on them and what
/// is plugged into them.
fn former(journal: &Journal) -> Wanted {
    let mut names: BTreeSet<String> =
        journal.before.state.links.keys().chain(journal.wanted.state.links.keys()).cloned().collect();
    for _ in 0..4 {
        let touched = journal.snapshot.links.iter().filter(|(_, link)| {
            let stands_on = |raw: &String| names.contains(raw);
            link.controller.as_ref().is_some_and(stands_on)
                || matches!(&link.kind, Kind::Vlan { raw, .. } if stands_on(raw))
        });
        let more: Vec<String> = touched.map(|(name, _)| name.clone()).collect();
        names.extend(more);
    }
    let mut state = journal.snapshot.clone();
    state.links.retain(|name, _| names.contains(name));
    state.routes.retain(|route| names.contains(&route.link));
    for (name, link) in &mut state.links {
        // A bridge or bond has its ports' address unless a file says otherwise.
        if journal.wanted.state.links.get(name).is_none_or(|wanted| wanted.mac.is_none()) {
            link.mac = None;
        }
    }
    let Wanted { commands, dhcp, open_vswitch, .. } = journal.before.clone();
    Wanted { state, commands, dhcp, open_vswitch, ..Wanted::default() }
}

/// What was applied last in this boot; before the first time, what the file in force says: somebody else has applied it.
fn in_force(ctx: &Context) -> Result<Wanted> {
    let text = file::read_or_empty(&in_force_file(ctx))?;
    if let Ok((boot, mut wanted)) = serde_json::from_str::<(String, Wanted)>(&text)
        && boot == boot_id()
    {
        // A client that has died is to be started again.
        wanted.dhcp.retain(|name, _| dhcp::runs(name));
        return Ok(wanted);
    }
    let file = edit::current_file(ctx);
    let sections = stanza::read(ctx, &file, &file::read_or_empty(&file)?);
    Ok(sections.and_then(|sections| Wanted::of(&sections)).unwrap_or_default())
}

fn write_in_force(ctx: &Context, wanted: &Wanted) -> Result<()> {
    write_json(&in_force_file(ctx), &(boot_id(), wanted))?;
    write_json(&kept_file(ctx), wanted)
}

fn in_force_file(ctx: &Context) -> PathBuf {
    ctx.root.run("ferrovisor/network.json")
}

/// What was in force last, also after a restart of the machine.
fn kept_file(ctx: &Context) -> PathBuf {
    ctx.root.path("/var/lib/ferrovisor/network.json")
}

fn journal_file(ctx: &Context) -> PathBuf {
    ctx.root.path("/var/lib/ferrovisor/network.journal")
}

fn read_journal(ctx: &Context) -> Result<Option<Journal>> {
    let file = journal_file(ctx);
    let text = file::read_or_empty(&file)?;
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |error: serde_json::Error| Error::new(error.to_string());
    serde_json::from_str(&text).map(Some).map_err(wrong).context(|| file.display().to_string())
}

fn write_journal(ctx: &Context, journal: &Journal) -> Result<()> {
    write_json(&journal_file(ctx), journal)
}

fn remove_journal(ctx: &Context) -> Result<()> {
    Ok(file::remove_if_there(&journal_file(ctx))?)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).context(|| directory.display().to_string())?;
    }
    let text = serde_json::to_vec(value).map_err(|error| Error::new(error.to_string()))?;
    // The same again need not wait for the disk.
    if std::fs::read(path).is_ok_and(|present| present == text) {
        return Ok(());
    }
    file::replace(path, &text, 0o600)
}

fn lock(ctx: &Context) -> Result<OwnedFd> {
    file::lock_file(ctx, Path::new("network-change"))
}

/// Seconds since the machine's start: the time of day may jump as soon as the network is there.
fn now() -> i64 {
    rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// `pvenet` beside this program, or in the path.
fn guard_program() -> Result<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("pvenet")));
    beside
        .filter(|program| program.is_file())
        .or_else(|| crate::host::program_path("pvenet"))
        .ok_or_else(|| Error::new("'pvenet' is not installed, so nobody could take an unconfirmed change back"))
}

/// A process of its own, in a session of its own: it outlives daemon, task and terminal.
fn start_guard(program: &Path) -> Result<()> {
    let mut command = Command::new(program);
    command.arg("guard").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: setsid is safe between fork and exec and touches no memory.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    command.spawn().map(drop).context(|| format!("unable to start '{}'", program.display()))
}
