//! Many clients, slow clients, and daemons that come and go.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node, read_reply, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

fn start() -> (Node, Client) {
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    (node, admin)
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn a_thousand_idle_clients_do_not_matter() {
    let (node, admin) = start();
    let idle: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(("127.0.0.1", node.port())).unwrap()).collect();
    let served: Vec<_> = (0..20)
        .map(|_| {
            let admin = admin.clone();
            thread::spawn(move || {
                let mut stream = admin.open();
                for _ in 0..20 {
                    stream.get_mut().write_all(&admin.head("GET", "/api2/json/nodes", &[], 0)).unwrap();
                    assert_eq!(read_reply(&mut stream).status, 200);
                }
            })
        })
        .collect();
    served.into_iter().for_each(|thread| thread.join().unwrap());
    drop(idle);
}

#[test]
fn nonsense_and_silence_end_the_connection() {
    let (node, admin) = start();
    let mut nonsense = admin.open();
    nonsense.get_mut().write_all(b"\x01\x02 nonsense\r\n\r\n").unwrap();
    assert_eq!(read_reply(&mut nonsense).status, 400);
    // Neither plain nor TLS.
    let mut silent = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A head that never ends, on a connection that has been used before.
    let mut slow = admin.open();
    slow.get_mut().write_all(&admin.head("GET", "/api2/json/version", &[], 0)).unwrap();
    assert_eq!(read_reply(&mut slow).status, 200);
    slow.get_mut().write_all(b"GET /api2/json/version HTTP/1.1\r\nHost:").unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0, "the silent one is closed");
    assert!(matches!(slow.get_mut().read(&mut [0]), Ok(0) | Err(_)), "the slow one is closed");
    assert_eq!(admin.get("/version").status, 200);
}

#[test]
fn an_absent_daemon_is_an_error_of_its_own() {
    let (mut node, admin) = start();
    assert_eq!(admin.get("/nodes").status, 200);
    node.kill_daemon();
    let reply = admin.get("/nodes");
    assert_eq!((reply.status, reply.reason.as_str()), (595, "Connection refused"));
    node.start_daemon();
    assert_eq!(admin.get("/nodes").status, 200);
}

/// Both daemons take a new image of the program while clients keep asking: nobody is refused.
#[test]
fn a_restart_is_not_noticed() {
    let (node, admin) = start();
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (admin, over, asked) = (admin.clone(), Arc::clone(&over), Arc::clone(&asked));
            thread::spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let reply = admin.get("/nodes");
                    assert_eq!(reply.status, 200, "{}", reply.reason);
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let some_more = |what: &str| {
        let before = asked.load(Ordering::Relaxed);
        wait_for(what, 60, || (asked.load(Ordering::Relaxed) > before + 10).then_some(()));
    };
    some_more("answers");
    signal(node.proxy_pid(), Signal::HUP);
    some_more("answers of the new pveproxy");
    signal(node.daemon_pid(), Signal::HUP);
    some_more("answers of the new pvedaemon");
    assert_eq!(node.run("pveproxy", &["status"]).ok(), "running\n");
    assert_eq!(node.run("pvedaemon", &["status"]).ok(), "running\n");
    over.store(true, Ordering::Relaxed);
    clients.into_iter().for_each(|client| client.join().unwrap());
}

/// `stop` waits for the answer under way: here one that is delayed for three seconds.
#[test]
fn the_last_answer_is_finished() {
    let node = Node::start();
    let mut stream = node.client().open();
    stream.get_mut().write_all(&node.client().head("GET", "/api2/json/version", &[], 0)).unwrap();
    // The request has arrived when the server has nothing left to read; a moment is all it takes.
    thread::sleep(Duration::from_millis(300));
    signal(node.proxy_pid(), Signal::TERM);
    let reply = read_reply(&mut stream);
    assert_eq!((reply.status, reply.reason.as_str()), (401, "No ticket"));
    wait_for("the end of pveproxy", 10, || (node.run("pveproxy", &["status"]).stdout == "stopped\n").then_some(()));
    assert!(TcpStream::connect(("127.0.0.1", node.port())).is_err());
}
