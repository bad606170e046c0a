//! Errors by the thousand, each with a text of its own in the reason phrase: none of the texts may stay in memory.
//!
//! Every error closes its connection, so each request has a TLS handshake of its own; tickets make it a cheap one, yet with
//! debug builds it takes about 4 ms of processor time. So the usual run makes 8,000 requests with long texts;
//! `COMPAT_ERRORS=100000` makes as many as that.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::wire::Dialer;
use compat_tests::{Client, Node, process};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const REQUESTS: usize = 8_000;
const THREADS: usize = 8;
/// The allocator may need so many KiB more, whatever the number of requests; the texts alone would be over 10 MiB.
const SLACK: u64 = 2048;

#[test]
fn error_texts_do_not_stay_in_memory() {
    let requests = compat_tests::setting("COMPAT_ERRORS", REQUESTS);
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    let memory = || (process::memory(node.proxy_pid()), process::memory(node.daemon_pid()));
    let asked = AtomicUsize::new(0);

    // As much at once as later, until caches and pools have their size.
    ask(&node, &admin, &asked, requests / 10);
    let (proxy, daemon) = memory();
    let began = Instant::now();
    for part in 1..=3 {
        ask(&node, &admin, &asked, requests * (1 + 3 * part) / 10);
        let now = memory();
        eprintln!("{:?} after {} s: KiB {now:?}, at first {:?}", asked, began.elapsed().as_secs(), (proxy, daemon));
        assert!(now.0 < proxy + SLACK, "pveproxy has grown from {proxy} to {} KiB", now.0);
        assert!(now.1 < daemon + SLACK, "pvedaemon has grown from {daemon} to {} KiB", now.1);
    }
    assert!(asked.into_inner() >= requests);
}

/// Asks until so many requests have been made.
fn ask(node: &Node, admin: &Client, asked: &AtomicUsize, end: usize) {
    let padding = "x".repeat(1500);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let dialer = Dialer::new(node.port());
                loop {
                    let number = asked.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        asked.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    let path = format!("/no-{number}-{padding}");
                    let request = admin.head("GET", &format!("/api2/json{path}"), &[], 0);
                    let reply = dialer.once(&request).unwrap_or_else(|error| panic!("{number}: {error}"));
                    assert_eq!(reply.status, 501);
                    assert_eq!(reply.reason, format!("Method 'GET {path}' not implemented"));
                }
            });
        }
    });
}
