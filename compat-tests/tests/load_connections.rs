//! Many connections at once: whoever keeps one open in peace disturbs nobody, and who works gets his own answers in order.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::wire::{Dialer, Wire, ask};
use compat_tests::{Client, Node, process, skip, try_read_reply};
use std::io::{self, Write};
use std::time::{Duration, Instant};

const IDLE: usize = 1000;
const BUSY: usize = 200;
const THREADS: usize = 8;
const ROUNDS: usize = 3;
/// Requests per busy connection and round, and how many of them are sent at once.
const BURSTS: usize = 4;
const PIPELINED: usize = 4;
/// A connection that was quiet for longer may have been closed (the daemons do so after 30 seconds).
const QUIET: Duration = Duration::from_secs(20);

#[test]
fn a_thousand_quiet_connections_and_two_hundred_busy_ones() {
    let test = "a_thousand_quiet_connections_and_two_hundred_busy_ones";
    let hard = process::set_file_limit(u64::MAX);
    if hard < (IDLE + BUSY + 500) as u64 {
        return skip(test, &format!("only {hard} open files are allowed here"));
    }
    // The daemons start with a low limit and have to raise it themselves.
    process::set_file_limit(256);
    let node = Node::start();
    node.seed_users();
    process::set_file_limit(u64::MAX);
    for pid in [node.proxy_pid(), node.daemon_pid()] {
        let (soft, hard) = process::file_limit(pid);
        assert_eq!(soft, hard, "a daemon allows itself what the system allows");
    }

    let admin = node.token_client("admin@pve");
    let version = admin.head("GET", "/api2/json/version", &[], 0);
    let dialer = Dialer::new(node.port());
    let before = process::memory(node.proxy_pid());
    let mut quiet: Vec<(Wire, Instant)> = (0..IDLE)
        .map(|number| {
            let mut wire = dialer.open().unwrap_or_else(|error| panic!("connection {number} refused: {error}"));
            assert_eq!(ask(&mut wire, &version).unwrap().status, 200);
            (wire, Instant::now())
        })
        .collect();
    let each = (process::memory(node.proxy_pid()) - before) / IDLE as u64;
    eprintln!("a quiet connection takes {each} KiB");
    assert!(each < 96, "a quiet connection takes {each} KiB");
    assert!(process::open_files(node.proxy_pid()) > IDLE);

    for round in 0..ROUNDS {
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (dialer, admin) = (&dialer, &admin);
                scope.spawn(move || busy(dialer, admin, round * THREADS + thread));
            }
        });
        let mut late = 0;
        for (wire, last) in &mut quiet {
            match ask(wire, &version) {
                Ok(reply) => assert_eq!(reply.status, 200),
                Err(error) if last.elapsed() < QUIET => panic!("a quiet connection was lost: {error}"),
                Err(_) => {
                    late += 1;
                    *wire = dialer.open().unwrap();
                }
            }
            *last = Instant::now();
        }
        eprintln!("round {round}: {late} quiet connections were too old on this slow machine");
    }

    // What was taken for connections is given back.
    drop(quiet);
    compat_tests::wait_for("connections that are given back", 30, || {
        (process::open_files(node.proxy_pid()) < 100).then_some(())
    });
}

/// Asks on its share of the busy connections, each time something that nobody else asks.
fn busy(dialer: &Dialer, admin: &Client, number: usize) {
    let mut wires: Vec<Wire> = (0..BUSY / THREADS).map(|_| dialer.open().expect("a good client is let in")).collect();
    for burst in 0..BURSTS {
        let name = |wire: usize, request: usize| format!("/load/{number}/{wire}/{burst}/{request}");
        for (at, wire) in wires.iter_mut().enumerate() {
            let requests: Vec<u8> = (0..PIPELINED)
                .flat_map(|request| admin.head("GET", &format!("/api2/extjs{}", name(at, request)), &[], 0))
                .collect();
            wire.get_mut().write_all(&requests).unwrap();
        }
        for (at, wire) in wires.iter_mut().enumerate() {
            for request in 0..PIPELINED {
                let answer = answer(wire).unwrap_or_else(|error| panic!("{}: {error}", name(at, request)));
                assert_eq!(answer, format!("Method 'GET {}' not implemented", name(at, request)));
            }
        }
    }
}

/// The message of an answer in the format that keeps connections open.
fn answer(wire: &mut Wire) -> io::Result<String> {
    let reply = try_read_reply(wire)?;
    assert_eq!(reply.status, 200, "{}", reply.reason);
    Ok(reply.json()["message"].as_str().unwrap_or_default().to_owned())
}
