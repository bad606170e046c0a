//! Ending a task from outside: it is asked, and after five seconds made to.
//! (PVE: pve-common PVE/RESTEnvironment.pm, check_worker)

use super::{Task, Upid, journal};
use crate::process::ProcessId;
use crate::{Context, Mode, Result, access};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::time::{Duration, Instant};

/// How long a task may take to undo what it has begun.
const GRACE: Duration = Duration::from_secs(5);
/// How long a client of the daemon waits for the answer; many give up after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Asks the task's process group to end, and kills it when it does not within the grace time. In the daemon the rest
/// of that time passes in the background.
pub fn stop(ctx: &Context, upid: &Upid) {
    let process = upid.process;
    signal(process, Signal::TERM);
    let deadline = Instant::now() + GRACE;
    if matches!(ctx.mode, Mode::Daemon { .. }) {
        if !ends_within(process, PATIENCE) {
            std::thread::spawn(move || kill_at(process, deadline));
        }
    } else {
        kill_at(process, deadline);
    }
}

/// Ends the tasks of a kind that work on a guest, as far as the task's caller may: its own, those of its tokens, or with
/// `Sys.Modify` on the node all of them. (PVE: pve-guest-common PVE/GuestHelpers.pm, abort_guest_tasks)
pub fn overrule(task: &Task, kind: &str, id: impl ToString) -> Result<()> {
    let (ctx, id) = (task.ctx, id.to_string());
    let may_all = access::has(ctx, &format!("/nodes/{}", ctx.node), &["Sys.Modify"]);
    let caller = ctx.caller.id();
    let may = |upid: &Upid| may_all || upid.user == caller || upid.user_without_token() == caller;
    let active = journal::active(ctx)?.into_iter().filter(|record| record.end.is_none()).map(|record| record.upid);
    let overruled: Vec<Upid> = active.filter(|upid| upid.kind == kind && upid.id == id && may(upid)).collect();
    for upid in &overruled {
        stop(ctx, upid);
    }
    if !overruled.is_empty() {
        let list = overruled.iter().map(Upid::to_string).collect::<Vec<_>>().join(", ");
        task.log(format!("overruled {kind} tasks: {list}"));
    }
    Ok(())
}

fn kill_at(process: ProcessId, deadline: Instant) {
    if !ends_within(process, deadline.saturating_duration_since(Instant::now())) {
        signal(process, Signal::KILL);
        ends_within(process, PATIENCE);
    }
}

/// The group that the process leads; the process alone if it leads none (a tool in the middle of a pipeline).
fn signal(process: ProcessId, signal: Signal) {
    process.signal_group(signal);
    let Some(pid) = Pid::from_raw(process.pid.cast_signed()) else { return };
    let is_leader = rustix::process::getpgid(Some(pid)).is_ok_and(|group| group == pid);
    if !is_leader && process.is_alive() {
        // It may end between the look and the signal; then nothing is left to do.
        let _ = kill_process(pid, signal);
    }
}

/// Waits for the end of a process; `false` when it lives on.
fn ends_within(process: ProcessId, time: Duration) -> bool {
    let deadline = Instant::now() + time;
    let pidfd = Pid::from_raw(process.pid.cast_signed()).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    while process.is_alive() {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return false;
        }
        let Some(pidfd) = &pidfd else { return false };
        let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
        let wait = Timespec { tv_sec: rest.as_secs().cast_signed(), tv_nsec: i64::from(rest.subsec_nanos()) };
        // An interrupted wait is begun again with what is left of the time.
        let _ = poll(&mut fds, Some(&wait));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    fn task_of(child: &Child) -> Upid {
        let process = ProcessId::of(child.id()).unwrap();
        Upid {
            node: "pve1".into(),
            process,
            start_time: 1,
            kind: "sleep".into(),
            id: String::new(),
            user: "root@pam".into(),
        }
    }

    #[test]
    fn a_process_that_leads_no_group_is_ended_alone() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        stop(&ctx, &task_of(&child));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }

    #[test]
    fn the_whole_group_is_ended() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let mut child = Command::new("env").args(["sleep", "60"]).process_group(0).spawn().unwrap();
        stop(&ctx, &task_of(&child));
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
    }
}
