//! What clients send: bodies in every form that PVE takes, and what it refuses.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node};
use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");
const JSON: (&str, &str) = ("Content-Type", "application/json; charset=utf-8");

fn start() -> (Node, Client) {
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    (node, admin)
}

/// A method that refuses each parameter that it gets, and so shows what arrived.
fn refused(client: &Client, query: &str, headers: &[(&str, &str)], body: &str) -> Vec<String> {
    let path = format!("/api2/json/nodes/pve1/startall{query}");
    let reply = client.send("POST", &path, headers, body.as_bytes());
    assert_eq!(reply.status, 400, "{} {}", reply.reason, reply.text());
    reply.json()["errors"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn bodies_in_all_forms() {
    let (_node, admin) = start();
    for (query, headers, body, expected) in [
        ("", &[FORM][..], "x=1&y=2", &["x", "y"][..]),
        ("", &[FORM], "x=1;y=2", &["x", "y"]),
        ("", &[FORM], "x&y=", &["x", "y"]),
        ("", &[FORM], "x=1&_dc=123", &["x"]),
        ("", &[], "x=1", &["x"]),
        ("", &[JSON], r#"{"x": 1, "y": [1, 2], "z": true}"#, &["x", "y", "z"]),
        ("?x=1", &[FORM], "y=1", &["x", "y"]),
        ("?x=1", &[], "", &["x"]),
        ("?x=1", &[JSON], "", &["x"]),
        ("?node=other", &[], "", &["node"]),
    ] {
        assert_eq!(refused(&admin, query, headers, body), expected, "{query} {body}");
    }
}

#[test]
fn the_query_wins_and_repeated_keys_are_lists() {
    let (_node, admin) = start();
    let text = |query: &str, body: &str| {
        let path = format!("/api2/json/nodes/pve1/startall{query}");
        admin.send("POST", &path, &[FORM], body.as_bytes()).json()["errors"].to_string()
    };
    assert!(text("?force=query", "force=body").contains("'query'"));
    assert!(!text("?force=query", "force=body").contains("'body'"));
    // A boolean that occurs twice is a list, and a list is no boolean.
    assert!(text("", "force=1&force=1").contains("force"));
    let path = "/api2/json/nodes/pve1/startall?node=pve1&x=1";
    let reply = admin.send("POST", path, &[FORM], b"node=pve1");
    assert_eq!(reply.json()["errors"].as_object().unwrap().len(), 1, "the same value again is fine: {}", reply.text());
}

#[test]
fn what_pve_refuses() {
    let (_node, admin) = start();
    let refused = |verb: &str, headers: &[(&str, &str)], body: &[u8], status: u16, reason: &str| {
        let reply = admin.send(verb, "/api2/json/version", headers, body);
        assert_eq!((reply.status, reply.reason.as_str()), (status, reason), "{verb} {headers:?}");
        assert_eq!(reply.header("connection"), Some("close"));
    };
    refused("GET", &[FORM], b"x=1", 501, "Unexpected content for method 'GET'");
    refused("DELETE", &[FORM], b"x=1", 501, "Unexpected content for method 'DELETE'");
    refused("POST", &[FORM], &vec![b'x'; 512 * 1024 + 1], 501, "for data too large");
    refused("POST", &[("Content-Type", "text/plain")], b"x", 506, "upload 'Content-Type 'text/plain' not implemented");
    for verb in ["PATCH", "OPTIONS", "BREW"] {
        refused(verb, &[], b"", 501, &format!("method '{verb}' not available"));
    }
    // A GET with an empty body is fine.
    assert_eq!(admin.send("GET", "/api2/json/version", &[("Content-Length", "0")], b"").status, 200);
    // As long as it may be.
    let body = [b"x=".as_slice(), &vec![b'x'; 512 * 1024 - 2]].concat();
    assert_eq!(admin.send("POST", "/api2/json/version", &[FORM], &body).status, 501);
    assert!(admin.send("POST", "/api2/json/version", &[FORM], &body).reason.starts_with("Method 'POST /version'"));
}

#[test]
fn what_is_no_request_is_told_why() {
    let (_node, admin) = start();
    let good = admin.head("GET", "/api2/json/version", &[], 0);
    for (bytes, status, reason) in [
        (&b"\x01\x02nonsense\r\n\r\n"[..], 400, "bad request"),
        (b"GET /api2/json/version\r\n\r\n", 400, "bad request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 506, "http protocol version 2.0 not supported"),
        (b"GET /api2/json/version HTTP/3.0\r\nHost: x\r\n\r\n", 506, "http protocol version 3.0 not supported"),
        (b"GET /api2/json/version HTTP/1.1\r\nHost: x\r\nno header\r\n\r\n", 506, "unable to parse request header"),
    ] {
        let mut fresh = admin.open();
        let mut kept = admin.open();
        kept.get_mut().write_all(&good).unwrap();
        assert_eq!(compat_tests::read_reply(&mut kept).status, 200);
        for stream in [&mut fresh, &mut kept] {
            stream.get_mut().write_all(bytes).unwrap();
            let reply = compat_tests::read_reply(stream);
            assert_eq!((reply.status, reply.reason.as_str(), reply.text().as_str()), (status, reason, reason));
            assert_eq!(reply.header("connection"), Some("close"));
            assert_eq!(reply.header("server"), Some("pve-api-daemon/3.0"));
            assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "the connection ends");
        }
    }
    assert_eq!(admin.get("/version").status, 200);
}

#[test]
fn chunked_bodies_are_refused() {
    let (_node, admin) = start();
    let mut stream = admin.open();
    let head = String::from_utf8(admin.head("POST", "/api2/json/version", &[FORM], 0)).unwrap();
    let head = head.replace("Content-Length: 0", "Transfer-Encoding: chunked");
    stream.get_mut().write_all(head.as_bytes()).unwrap();
    stream.get_mut().write_all(b"3\r\nx=1\r\n0\r\n\r\n").unwrap();
    let reply = compat_tests::read_reply(&mut stream);
    assert_eq!((reply.status, reply.reason.as_str()), (501, "chunked transfer encoding not supported"));
}

#[test]
fn plain_http_is_sent_to_tls() {
    let (node, _) = start();
    for (verb, status) in [("GET", 301), ("HEAD", 301), ("POST", 308)] {
        let mut stream = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
        write!(stream, "{verb} /api2/json/version?a=1 HTTP/1.1\r\nHost: pve.example:8006\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        BufReader::new(&stream).read_to_string(&mut text).unwrap();
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        assert!(text.contains("\r\nLocation: https://pve.example:8006/api2/json/version?a=1\r\n"), "{text}");
    }
}

#[test]
fn connections_are_kept_and_pipelined() {
    let (_node, admin) = start();
    let mut stream = admin.open();
    let head = admin.head("GET", "/api2/json/version", &[], 0);
    for _ in 0..3 {
        stream.get_mut().write_all(&head).unwrap();
        assert_eq!(compat_tests::read_reply(&mut stream).status, 200);
    }
    stream.get_mut().write_all(&[head.as_slice(), &head, &head].concat()).unwrap();
    for _ in 0..3 {
        assert_eq!(compat_tests::read_reply(&mut stream).status, 200);
    }
}
