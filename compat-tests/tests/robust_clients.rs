//! Clients without manners: what they send is answered properly or not at all, and good clients are served meanwhile.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::wire::{Dialer, ask, read_to_end};
use compat_tests::{Client, Node, process, try_read_reply, wait_for};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::Duration;

/// Lets good clients ask while the bad ones behave as they do; both daemons must be the same afterwards.
fn among_good_clients(bad: impl FnOnce(&Node, &Client, &Dialer)) {
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    let dialer = Dialer::new(node.port());
    let (over, good) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for path in ["/api2/json/version", "/api2/json/access/users"] {
            let (dialer, over, good, request) = (&dialer, &over, &good, admin.head("GET", path, &[], 0));
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(dialer.once(&request).expect("a good client is served").status, 200);
                    good.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(20));
                }
            });
        }
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            bad(&node, &admin, &dialer);
            let end = good.load(Ordering::Relaxed) + 4;
            wait_for("good clients", 30, || (good.load(Ordering::Relaxed) >= end).then_some(()));
        }));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    assert!(process::is_alive(node.proxy_pid()) && process::is_alive(node.daemon_pid()));
    wait_for("connections that are given back", 60, || (process::open_files(node.proxy_pid()) < 60).then_some(()));
}

/// Requests that are wrong from the first line to the last header, and what may be answered; 0 is a closed connection.
#[test]
fn malformed_requests() {
    let line = |text: &str| format!("{text}\r\nHost: x\r\n\r\n").into_bytes();
    let headers = |text: &str| format!("GET /api2/json/version HTTP/1.1\r\nHost: x\r\n{text}\r\n").into_bytes();
    let post = |text: &str| format!("POST /api2/json/access/ticket HTTP/1.1\r\nHost: x\r\n{text}\r\nx=1").into_bytes();
    let many = |count: usize| (0..count).map(|number| format!("X-{number}: 1\r\n")).collect::<String>();
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("one word", line("GET"), &[400]),
        ("two words", line("GET /api2/json/version"), &[400]),
        ("no slash", line("GET api2/json/version HTTP/1.1"), &[400]),
        ("nonsense", line("\u{1}\u{2} nonsense"), &[400]),
        ("zero byte in the path", line("GET /api2/\0/version HTTP/1.1"), &[400]),
        ("zero byte in a header", headers("X: a\0b\r\n"), &[400, 506]),
        ("only zero bytes", vec![0; 3000], &[400]),
        ("header without colon", headers("nonsense\r\n"), &[506]),
        ("header without name", headers(": x\r\n"), &[506]),
        ("HTTP/2 in words", line("GET /api2/json/version HTTP/2.0"), &[506]),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), &[506]),
        ("HTTP/3", line("GET / HTTP/3.0"), &[506]),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), &[400]),
        ("user before the slash", line("GET root@pam/api2/json/version HTTP/1.1"), &[400]),
        ("user and nothing else", line("GET root@pam HTTP/1.1"), &[400]),
        ("two lengths", post("Content-Length: 3\r\nContent-Length: 4\r\n"), &[400]),
        ("length is no number", post("Content-Length: three\r\n"), &[400]),
        ("negative length", post("Content-Length: -3\r\n"), &[400]),
        ("signed length", post("Content-Length: +3\r\n"), &[400]),
        ("length beyond all numbers", post("Content-Length: 99999999999999999999999\r\n"), &[400]),
        ("long body", post("Content-Length: 99999999999\r\n"), &[501]),
        ("chunked", post("Transfer-Encoding: chunked\r\n"), &[400, 501]),
        ("chunked and a length", post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), &[400, 501]),
        ("unknown encoding", post("Transfer-Encoding: gzip\r\nContent-Length: 3\r\n"), &[400, 501]),
        ("65 header lines", headers(&many(65)), &[431]),
        ("200 header lines", headers(&many(200)), &[431]),
        ("9 KiB of headers", headers(&format!("X: {}\r\n", "x".repeat(9 * 1024))), &[431]),
        ("200 KiB of headers", headers(&format!("X: {}\r\n", "x".repeat(200 * 1024))), &[431, 0]),
        ("200 KiB of path", line(&format!("GET /{} HTTP/1.1", "x".repeat(200 * 1024))), &[400, 431, 0]),
    ];
    among_good_clients(|_, _, dialer| {
        let mut wrong = Vec::new();
        for (name, request, expected) in cases {
            let mut wire = dialer.open().unwrap();
            match ask(&mut wire, &request) {
                Ok(reply) => {
                    if !expected.contains(&reply.status) {
                        wrong.push(format!("{name}: {} {}", reply.status, reply.reason));
                    } else if read_to_end(&mut wire).is_err() {
                        wrong.push(format!("{name}: the connection stays open"));
                    }
                }
                Err(error) if expected.contains(&0) => eprintln!("{name}: {error}"),
                Err(error) => wrong.push(format!("{name}: {error}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    });
}

/// Unusual, but right.
#[test]
fn old_and_odd_requests_are_answered() {
    among_good_clients(|_, admin, dialer| {
        let head = String::from_utf8(admin.head("GET", "/api2/json/version", &[], 0)).unwrap();
        let absolute = head.replace("GET /", "GET https://localhost:8006/");
        let user_in_absolute = head.replace("GET /", "GET https://root@localhost/");
        let empty_lines = format!("\r\n\r\n{head}");
        let lower_case = head.replace("Authorization:", "authorization:");
        let many = head.replace("Host: ", &"X: 1\r\n".repeat(50)).replace("localhost", "Host: localhost");
        for request in [&absolute, &user_in_absolute, &empty_lines, &lower_case, &many] {
            let reply = dialer.once(request.as_bytes()).unwrap_or_else(|error| panic!("{error}: {request}"));
            assert_eq!(reply.status, 200, "{} for {request}", reply.reason);
        }
        // HTTP/1.0 ends with its answer, unless the client asks for more.
        let old = head.replace("HTTP/1.1", "HTTP/1.0");
        let mut wire = dialer.open().unwrap();
        assert_eq!(ask(&mut wire, old.as_bytes()).unwrap().status, 200);
        assert!(read_to_end(&mut wire).unwrap().is_empty());
        let kept = old.replace("Host:", "Connection: keep-alive\r\nHost:");
        let mut wire = dialer.open().unwrap();
        for _ in 0..2 {
            assert_eq!(ask(&mut wire, kept.as_bytes()).unwrap().status, 200);
        }
    });
}

#[test]
fn clients_that_leave_at_any_moment() {
    among_good_clients(|node, admin, dialer| {
        let form = ("Content-Type", "application/x-www-form-urlencoded");
        let head = admin.head("POST", "/api2/json/access/users", &[form], 1000);
        let hello = client_hello(dialer);
        for round in 0..20 {
            // In the middle of TLS, with garbage instead of TLS, without a word.
            let mut tcp = dialer.tcp().unwrap();
            tcp.write_all(&hello[..(hello.len() * round / 20).max(1)]).unwrap();
            drop(tcp);
            let mut tcp = dialer.tcp().unwrap();
            tcp.write_all(b"\x16\x03\x01\x02\x00garbage that is no handshake at all").unwrap();
            tcp.shutdown(Shutdown::Write).unwrap();
            assert!(read_to_end(&mut tcp).is_ok());
            drop(dialer.tcp().unwrap());
            // In the middle of the head, of the body, of the answer.
            let mut wire = dialer.open().unwrap();
            wire.get_mut().write_all(&head[..head.len() * round / 20]).unwrap();
            drop(wire);
            let mut wire = dialer.open().unwrap();
            wire.get_mut().write_all(&head).unwrap();
            wire.get_mut().write_all(&vec![b'x'; round * 50]).unwrap();
            drop(wire);
            let mut wire = dialer.open().unwrap();
            let get = admin.head("GET", "/api2/json/nodes/pve1", &[], 0);
            wire.get_mut().write_all(&get.repeat(10)).unwrap();
            let _ = wire.get_mut().read(&mut [0; 10]);
            drop(wire);
        }
        // A body that never came must not have become a user.
        assert_eq!(node.token_client("admin@pve").get("/access/users").data().as_array().unwrap().len(), 5);
    });
}

/// The first message of a handshake, caught from a client of the same kind.
fn client_hello(dialer: &Dialer) -> Vec<u8> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut caught, _) = listener.accept().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| assert!(dialer.shake(stream).is_err()));
        let mut hello = vec![0; 4096];
        let length = caught.read(&mut hello).unwrap();
        hello.truncate(length);
        caught.shutdown(Shutdown::Both).unwrap();
        hello
    })
}

#[test]
fn slow_clients_are_served_and_endless_ones_given_up() {
    among_good_clients(|_, admin, dialer| {
        std::thread::scope(|scope| {
            // Slow, but it comes to an end.
            scope.spawn(|| {
                let mut wire = dialer.open().unwrap();
                for byte in admin.head("GET", "/api2/json/version", &[], 0) {
                    wire.get_mut().write_all(&[byte]).unwrap();
                    sleep(Duration::from_millis(5));
                }
                assert_eq!(try_read_reply(&mut wire).unwrap().status, 200);
            });
            // A head that never ends, byte by byte and line by line: closed, at most after an answer that says so.
            for text in ["x", "X-More: of the same\r\n"] {
                scope.spawn(move || {
                    let mut wire = dialer.open().unwrap();
                    wire.get_mut().write_all(b"GET /api2/json/version HTTP/1.1\r\nX-A: ").unwrap();
                    wait_for("an end of the endless head", 90, || {
                        sleep(Duration::from_millis(250));
                        wire.get_mut().write_all(text.as_bytes()).is_err().then_some(())
                    });
                });
            }
            // Silence of every kind.
            for begun in [&b""[..], b"\x16\x03\x01", b"GET / HTTP/1.1\r\n"] {
                scope.spawn(move || {
                    let mut tcp = dialer.tcp().unwrap();
                    tcp.write_all(begun).unwrap();
                    assert!(read_to_end(&mut tcp).unwrap().len() < 1000, "closed");
                });
            }
            scope.spawn(|| {
                let mut wire = dialer.open().unwrap();
                wire.get_mut()
                    .write_all(b"POST /api2/json/access/ticket HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
                    .unwrap();
                let end = try_read_reply(&mut wire).map(|reply| reply.status);
                assert!(matches!(end, Ok(408) | Err(_)), "{end:?}");
            });
        });
    });
}
