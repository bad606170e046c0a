//! The ways in which clients write the same request: slashes, percent signs, parameters told twice; and what they offer
//! before the first byte of HTTP.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::wire::{Dialer, ask, read_to_end};
use compat_tests::{Client, Node, read_reply};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const CONTENT: &str = "/nodes/pve1/storage/local/content";
const FORM: (&str, &str) = ("Content-Type", "application/x-www-form-urlencoded");

/// Every way in which clients write one volume.
const WAYS: [&str; 8] = [
    "local:iso/a+b.iso",
    "local:iso%2Fa+b.iso",
    "local:iso%2fa%2Bb.iso",
    "local%3Aiso%2Fa%2Bb.iso",
    "local%3aiso/a%2bb.iso",
    "iso/a+b.iso",
    "iso%2Fa%2Bb.iso",
    "%69so/a+b.iso",
];

fn start() -> (Node, Client) {
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    (node, admin)
}

#[test]
fn volumes_are_named_in_many_ways() {
    let (node, admin) = start();
    let file = node.path("var/lib/vz/template/iso/a+b.iso");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    for way in WAYS {
        fs::write(&file, vec![b'x'; 4096]).unwrap();
        let path = format!("{CONTENT}/{way}");
        let read = admin.get(&path);
        assert_eq!(read.status, 200, "{way}: {}", read.reason);
        assert_eq!(read.data()["path"], file.to_str().unwrap(), "{way}");
        assert_eq!(read.data()["size"], 4096, "{way}");
        // The node may be called localhost, and slashes may be doubled.
        let odd = path.replace("/pve1/", "/localhost/").replace("/content/", "//content//");
        assert_eq!(admin.get(&odd).status, 200, "{odd}");
        let removed = admin.delete(&path).data();
        node.finish(&admin, &removed);
        assert!(!file.exists(), "{way}");
    }
    // The prefix of another storage, no storage of that name, a way out of the storage.
    fs::write(node.path("var/lib/vz/secret"), "x").unwrap();
    for way in ["other:iso/a.iso", "other%3Aiso%2Fa.iso", "iso/../../secret", "iso%2F..%2F..%2Fsecret"] {
        let reply = admin.get(&format!("{CONTENT}/{way}"));
        assert!(matches!(reply.status, 400 | 500), "{way}: {} {}", reply.status, reply.reason);
        assert_eq!(reply.json()["data"], Value::Null, "{way}");
    }
    // No percent sign is decoded twice.
    fs::write(node.path("var/lib/vz/template/iso/c.iso"), vec![b'x'; 10]).unwrap();
    assert_eq!(admin.get(&format!("{CONTENT}/iso/c.iso")).status, 200);
    assert_ne!(admin.get(&format!("{CONTENT}/iso%252Fc.iso")).status, 200);
    assert_ne!(admin.get(&format!("{CONTENT}/iso/%2563.iso")).status, 200);
}

#[test]
fn slashes_at_the_end_and_twice_do_not_count() {
    let (node, admin) = start();
    for path in [
        "/version/",
        "//version",
        "/version//",
        "///nodes///pve1//version/",
        "/nodes/pve1/qemu/",
        "/cluster//resources/?type=vm",
    ] {
        let reply = admin.get(path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.reason);
        let plain = path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        assert_eq!(reply.data(), admin.get(&format!("/{}", plain.replace("/?", "?"))).data(), "{path}");
    }
    for path in ["/api2//json//version", "/api2/json/version/?"] {
        assert_eq!(admin.send("GET", path, &[], b"").status, 200, "{path}");
    }
    // Changes, too.
    assert_eq!(admin.post("/pools/", &[("poolid", "slashes")]).data(), Value::Null);
    assert_eq!(admin.put("//pools//slashes/", &[("comment", "x")]).data(), Value::Null);
    assert_eq!(admin.get("/pools/slashes").data()["comment"], "x");
    assert_eq!(admin.delete("/pools/slashes/").data(), Value::Null);
    // Permissions are looked for on the path as it is meant.
    let nobody = node.token_client("nobody@pve");
    assert_eq!((nobody.get("//pools///slashes//").status, nobody.get("/access//roles/").status), (403, 200));
}

#[test]
fn what_the_path_says_may_be_said_again() {
    let (node, admin) = start();
    fs::write(node.path("etc/pve/qemu-server/7900.conf"), "memory: 64\nname: a\n").unwrap();
    let vm = "/nodes/pve1/qemu/7900/config";
    let same: [&[(&str, &str)]; 3] = [
        &[("node", "pve1"), ("name", "b")],
        &[("vmid", "7900"), ("name", "c")],
        &[("node", "pve1"), ("vmid", "7900"), ("name", "d")],
    ];
    for form in same {
        let reply = admin.put(vm, form);
        assert_eq!(reply.status, 200, "{form:?}: {} {}", reply.reason, reply.text());
        assert_eq!(admin.get(vm).data()["name"], form.last().unwrap().1);
    }
    for (name, value) in [("vmid", "7901"), ("node", "pve2")] {
        let reply = admin.put(vm, &[(name, value), ("name", "wrong")]);
        assert_eq!((reply.status, reply.reason.as_str()), (400, "Parameter verification failed."), "{name}");
        let told = reply.json()["errors"].clone();
        assert_eq!(told.as_object().unwrap().keys().collect::<Vec<_>>(), [name], "{told}");
        let reply = admin.get(&format!("{vm}?{name}={value}"));
        assert_eq!(reply.status, 400, "{name} in the query");
    }
    assert_eq!(admin.get(&format!("{vm}?node=pve1&vmid=7900")).data()["name"], "d");
    // JSON has numbers.
    let json = ("Content-Type", "application/json");
    let path = format!("/api2/json{vm}");
    assert_eq!(admin.send("PUT", &path, &[json], br#"{"vmid": 7900, "name": "e"}"#).status, 200);
    assert_eq!(admin.send("PUT", &path, &[json], br#"{"vmid": 7901, "name": "wrong"}"#).status, 400);
    assert_eq!(admin.get(vm).data()["name"], "e");
    // A storage in the path, and again in the body.
    let new = |storage: &str| {
        let form = [("storage", storage), ("vmid", "7900"), ("filename", "vm-7900-disk-0.raw"), ("size", "64")];
        admin.post(CONTENT, &form)
    };
    assert_eq!(new("other").status, 400);
    assert_eq!(new("local").data(), json!("local:7900/vm-7900-disk-0.raw"));
}

#[test]
fn verbs_that_the_interface_does_not_have() {
    let (node, admin) = start();
    for verb in ["PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get"] {
        for path in ["/api2/json/version", "/api2/json/nodes/pve1/qemu", "/"] {
            let reply = admin.send(verb, path, &[], b"");
            assert_eq!((reply.status, reply.reason), (501, format!("method '{verb}' not available")), "{path}");
        }
    }
    // HEAD: whatever is said, no body follows.
    let dialer = Dialer::new(node.port());
    let mut wire = dialer.open().unwrap();
    wire.get_mut().write_all(&admin.head("HEAD", "/api2/json/version", &[], 0)).unwrap();
    let text = String::from_utf8(read_to_end(&mut wire).unwrap()).unwrap();
    assert!(text.starts_with("HTTP/1.1 501 ") && text.ends_with("\r\n\r\n"), "{text}");
    // Known verbs on paths that do not have them.
    let reply = admin.send("PUT", "/api2/json/version", &[FORM], b"");
    assert_eq!((reply.status, reply.reason.as_str()), (501, "Method 'PUT /version' not implemented"));
}

/// A wrong secret is answered late; that must hold up nobody else.
#[test]
fn a_refusal_that_is_delayed_delays_nobody() {
    const GOOD: usize = 50;
    let (node, admin) = start();
    let dialer = Dialer::new(node.port());
    let good = admin.head("GET", "/api2/json/access/users", &[], 0);
    let bad = node.client().with_token("admin@pve!main=00000000-0000-0000-0000-000000000000");
    let bad = bad.head("GET", "/api2/json/access/users", &[], 0);
    assert_eq!(dialer.once(&good).unwrap().status, 200);
    // Connections are there before, so that what counts is the requests.
    let refused: Vec<_> = (0..10).map(|_| dialer.open().unwrap()).collect();
    let served: Vec<_> = (0..GOOD).map(|_| dialer.open().unwrap()).collect();
    let begin = Barrier::new(GOOD + 1);
    std::thread::scope(|scope| {
        let refused: Vec<_> = refused
            .into_iter()
            .map(|mut wire| {
                wire.get_mut().write_all(&bad).unwrap();
                let sent = Instant::now();
                scope.spawn(move || (read_reply(&mut wire).status, sent.elapsed(), Instant::now()))
            })
            .collect();
        let served: Vec<_> = served
            .into_iter()
            .map(|mut wire| {
                let (begin, good) = (&begin, &good);
                scope.spawn(move || {
                    begin.wait();
                    (ask(&mut wire, good).unwrap().status, Instant::now())
                })
            })
            .collect();
        begin.wait();
        let last =
            served.into_iter().map(|thread| thread.join().unwrap()).inspect(|(status, _)| assert_eq!(*status, 200));
        let last = last.map(|(_, at)| at).max().unwrap();
        for thread in refused {
            let (status, took, at) = thread.join().unwrap();
            assert_eq!(status, 401);
            assert!(took >= Duration::from_millis(2900), "{took:?}");
            assert!(last < at, "all good requests are answered before the first refusal");
        }
    });
}

#[test]
fn http_1_1_is_all_that_is_chosen() {
    let (node, admin) = start();
    let offers: [(&[u8], Option<&[u8]>); 5] = [
        (b"\x02h2\x08http/1.1", Some(b"http/1.1")),
        (b"\x08http/1.1\x02h2", Some(b"http/1.1")),
        (b"\x02h2", None),
        (b"\x02h3\x02h2\x08http/1.0", None),
        (b"", None),
    ];
    for (offered, chosen) in offers {
        let mut connector = SslConnector::builder(SslMethod::tls()).unwrap();
        connector.set_verify(SslVerifyMode::NONE);
        if !offered.is_empty() {
            connector.set_alpn_protos(offered).unwrap();
        }
        let tcp = TcpStream::connect(("127.0.0.1", node.port())).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let stream = connector.build().connect("localhost", tcp);
        let mut stream = BufReader::new(stream.unwrap_or_else(|error| panic!("{error}: {offered:?}")));
        assert_eq!(stream.get_ref().ssl().selected_alpn_protocol(), chosen, "{offered:?}");
        stream.get_mut().write_all(&admin.head("GET", "/api2/json/version", &[], 0)).unwrap();
        assert_eq!(read_reply(&mut stream).status, 200, "{offered:?}");
    }
}
