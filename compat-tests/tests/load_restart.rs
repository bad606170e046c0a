//! Daemons that are restarted, ended and killed while clients ask all the time.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::wire::{Dialer, Wire, ask};
use compat_tests::{Node, process, wait_for};
use rustix::process::Signal;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const CLIENTS: usize = 20;

/// What the clients have seen.
#[derive(Default)]
struct Seen {
    good: AtomicUsize,
    /// Refused when connecting.
    refused: AtomicUsize,
    /// Kept connections that the server had closed before the request; as every client does, it was sent again.
    again: AtomicUsize,
    /// Everything else.
    failed: Mutex<Vec<String>>,
}

impl Seen {
    /// Waits until so many more requests have been answered well.
    fn wait_for_more(&self, more: usize) {
        let end = self.good.load(Ordering::Relaxed) + more;
        wait_for("answers", 60, || (self.good.load(Ordering::Relaxed) >= end).then_some(()));
    }

    #[track_caller]
    fn assert_nothing_failed(&self) {
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{} of {}: {:?}", failed.len(), self.good.load(Ordering::Relaxed), failed.first());
        let again = self.again.load(Ordering::Relaxed);
        eprintln!("{} requests, {again} of them sent again", self.good.load(Ordering::Relaxed));
    }
}

/// Lets twenty clients ask as long as `story` takes. Half of them keep their connections, half of them do not.
fn while_asked(node: &mut Node, story: impl FnOnce(&mut Node, &Seen)) -> Seen {
    node.seed_users();
    let (seen, stop) = (Seen::default(), AtomicBool::new(false));
    let admin = node.token_client("admin@pve");
    // The second one is answered by the privileged daemon.
    let paths = ["/api2/json/version", "/api2/json/access/users"];
    let requests = paths.map(|path| admin.head("GET", path, &[], 0));
    let dialer = Dialer::new(node.port());
    assert_eq!(dialer.once(&requests[1]).unwrap().status, 200);
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (dialer, seen, stop, request) = (&dialer, &seen, &stop, &requests[client % 2]);
            scope.spawn(move || {
                let mut kept = None;
                while !stop.load(Ordering::Relaxed) {
                    one(dialer, request, &mut kept, seen);
                    if client < CLIENTS / 2 {
                        kept = None;
                    }
                }
            });
        }
        // A panic of the story must not leave the clients running.
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            seen.wait_for_more(100);
            story(node, &seen);
        }));
        stop.store(true, Ordering::Relaxed);
        told.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    seen
}

fn one(dialer: &Dialer, request: &[u8], kept: &mut Option<Wire>, seen: &Seen) {
    let count = |counter: &AtomicUsize| {
        counter.fetch_add(1, Ordering::Relaxed);
    };
    let fail = |text: String| seen.failed.lock().unwrap().push(text);
    if let Some(wire) = kept {
        match ask(wire, request) {
            Ok(reply) if reply.status == 200 => {
                count(&seen.good);
                if reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                    *kept = None;
                }
                return;
            }
            Ok(reply) => {
                *kept = None;
                return fail(format!("{} {}", reply.status, reply.reason));
            }
            Err(_) => {
                *kept = None;
                count(&seen.again);
            }
        }
    }
    let asked = dialer.open().map_err(|error| (error, "no connection")).and_then(|mut wire| {
        let reply = ask(&mut wire, request).map_err(|error| (error, "no answer"))?;
        Ok((wire, reply))
    });
    match asked {
        Ok((wire, reply)) if reply.status == 200 => {
            count(&seen.good);
            let close = reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
            *kept = (!close).then_some(wire);
        }
        Ok((_, reply)) => fail(format!("{} {}", reply.status, reply.reason)),
        Err((error, _)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            count(&seen.refused);
            std::thread::sleep(Duration::from_millis(10));
        }
        Err((error, what)) => fail(format!("{what}: {error}")),
    }
}

#[test]
fn restarts_are_not_noticed() {
    let mut node = Node::start();
    let seen = while_asked(&mut node, |node, seen| {
        for program in ["pveproxy", "pvedaemon", "pveproxy", "pvedaemon"] {
            let pid = if program == "pveproxy" { node.proxy_pid() } else { node.daemon_pid() };
            let before = std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap();
            node.run(program, &["restart"]).ok();
            seen.wait_for_more(300);
            assert!(process::is_alive(pid), "{program} goes on in the same process");
            assert_eq!(std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap(), before);
            assert_eq!(node.run(program, &["status"]).ok(), "running\n");
        }
    });
    seen.assert_nothing_failed();
    assert_eq!(seen.refused.into_inner(), 0, "a restart refuses nobody");
}

#[test]
fn an_absent_daemon_is_waited_for() {
    let mut node = Node::start();
    let seen = while_asked(&mut node, |node, seen| {
        for _ in 0..2 {
            process::signal(node.daemon_pid(), Signal::TERM);
            node.reap_daemon();
            node.start_daemon();
            seen.wait_for_more(100);
        }
    });
    seen.assert_nothing_failed();
}

#[test]
fn a_front_server_that_ends_finishes_its_answers() {
    let mut node = Node::start();
    let seen = while_asked(&mut node, |node, seen| {
        process::signal(node.proxy_pid(), Signal::TERM);
        node.reap_proxy();
        node.start_proxy();
        seen.wait_for_more(100);
    });
    // Connections that nobody had accepted yet are reset with the socket; nothing that was asked may be lost.
    let failed = seen.failed.lock().unwrap();
    assert!(failed.iter().all(|text| text.starts_with("no connection")), "{failed:?}");
}

#[test]
fn a_killed_daemon_is_an_error_and_then_forgotten() {
    let mut node = Node::start();
    let seen = while_asked(&mut node, |node, seen| {
        node.kill_daemon();
        node.start_daemon();
        seen.wait_for_more(300);
    });
    let failed = seen.failed.into_inner().unwrap();
    // Requests that were under way; each client has at most one of them.
    assert!(failed.len() <= CLIENTS, "{failed:?}");
    assert!(failed.iter().all(|text| text.starts_with("59")), "{failed:?}");

    // Without a daemon for longer: an error that clients know as "not reachable".
    node.kill_daemon();
    let reply = node.token_client("admin@pve").get("/access/users");
    assert_eq!((reply.status, reply.reason.as_str()), (595, "Connection refused"));
    node.start_daemon();
    assert_eq!(node.token_client("admin@pve").get("/access/users").status, 200);
}
