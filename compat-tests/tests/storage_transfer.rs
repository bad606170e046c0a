//! Files that come from outside: from a URL, or from a tool; and what must not be left behind by either.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// Names in a directory, hidden ones too.
fn names(node: &Node, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(node.path(directory)).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_tool_hands_over_a_regular_file_only() {
    let node = Node::without_daemons();
    fs::create_dir_all(node.path("var/tmp")).unwrap();
    fs::write(node.path("secret.iso"), "secret").unwrap();
    let upload = |number: &str| {
        let temporary = format!("/var/tmp/pveupload-{number}");
        let path = "/nodes/pve1/storage/local/upload";
        let arguments = ["create", path, "-content", "iso", "-filename", "x.iso", "-tmpfilename", &temporary];
        node.run("pvesh", &arguments)
    };
    fs::write(node.path("var/tmp/pveupload-0a"), "iso").unwrap();
    assert_eq!(upload("0a").code, 0);
    assert_eq!(fs::read(node.path("var/lib/vz/template/iso/x.iso")).unwrap(), b"iso");
    assert!(!node.path("var/tmp/pveupload-0a").exists());
    std::os::unix::fs::symlink(node.path("secret.iso"), node.path("var/tmp/pveupload-0b")).unwrap();
    let ran = upload("0b");
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("temporary file '"), "{}", ran.stderr);
    assert_ne!(upload("0c").code, 0);
    assert_ne!(upload("../../etc/shadow").code, 0);
    assert_eq!(fs::read(node.path("var/lib/vz/template/iso/x.iso")).unwrap(), b"iso");
    assert_eq!(fs::read_to_string(node.path("secret.iso")).unwrap(), "secret");
}

#[test]
fn downloads_are_verified_and_never_replace_a_file() {
    let node = Node::start();
    let admin = node.admin();
    let server = Server::start();
    let url = |path: &str| format!("http://user:secret@127.0.0.1:{}{path}?key=secret", server.port);
    let metadata = |path: &str| {
        admin.get(&format!("/nodes/pve1/query-url-metadata?url=http%3A%2F%2F127.0.0.1%3A{}{path}", server.port))
    };
    let known = metadata("%2Fgood.iso").data();
    assert_eq!(known, json!({"filename": "good.iso", "size": 1_000_000, "mimetype": "application/x-iso9660-image"}));
    assert_eq!(metadata("%2Fmissing.iso").reason, "invalid server response: '404 Not Found'");

    let path = "/nodes/pve1/storage/local/download-url";
    let download = |file: &str, from: &str, more: &[(&str, &str)]| -> Value {
        let url = url(from);
        let mut form = vec![("content", "iso"), ("filename", file), ("url", url.as_str())];
        form.extend(more);
        admin.post(path, &form).data()
    };
    let sum = sha256(&vec![7; 1_000_000]);
    let checked = [("checksum", sum.as_str()), ("checksum-algorithm", "sha256")];
    let upid = download("good.iso", "/good.iso", &checked);
    assert!(upid.as_str().unwrap().contains(":download:good.iso:"), "{upid}");
    node.finish(&admin, &upid);
    let log = admin.get(&format!("/nodes/pve1/tasks/{}/log?limit=0", upid.as_str().unwrap())).text();
    assert!(log.contains("downloading http://127.0.0.1:") && !log.contains("secret"), "{log}");
    node.finish(&admin, &download("good.iso", "/good.iso", &checked));
    let upid = download("good.iso", "/good.iso", &[]);
    assert!(node.wait_task(&admin, &upid).starts_with("refusing to override existing file '"));
    node.finish(&admin, &download("moved.iso", "/redirect", &[]));
    node.finish(&admin, &download("halves.iso", "/halves.iso", &[]));
    let halves = fs::read(node.path("var/lib/vz/template/iso/halves.iso")).unwrap();
    assert!(halves.len() == 1_000_000 && halves[499_999] == 7 && halves[500_000] == 8, "the rest is asked for");
    node.finish(&admin, &download("packed.iso", "/packed.iso.gz", &[("compression", "gz")]));
    assert_eq!(fs::read(node.path("var/lib/vz/template/iso/packed.iso")).unwrap(), b"plain");
    for (file, from, text) in [
        ("bad.iso", "/missing.iso", "download failed: server answers '404 Not Found'"),
        ("bad.iso", "/short.iso", "download failed: "),
    ] {
        let status = node.wait_task(&admin, &download(file, from, &[]));
        assert!(status.starts_with(text), "{status}");
    }
    let wrong = [("checksum", "00"), ("checksum-algorithm", "md5")];
    assert!(node.wait_task(&admin, &download("bad.iso", "/good.iso", &wrong)).starts_with("checksum mismatch: got '"));
    assert_eq!(names(&node, "var/lib/vz/template/iso"), ["good.iso", "halves.iso", "moved.iso", "packed.iso"]);
}

fn sha256(bytes: &[u8]) -> String {
    use openssl::hash::{MessageDigest, hash};
    hash(MessageDigest::sha256(), bytes).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A web server that knows a handful of files; its thread ends with the test's process.
struct Server {
    port: u16,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        Server { port }
    }
}

fn answer(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        request.push(byte[0]);
    }
    let request = String::from_utf8_lossy(&request).into_owned();
    let mut words = request.split([' ', '?']);
    let (verb, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let head = |status: &str, length: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n").into_bytes()
    };
    let (head, body) = match path {
        "/good.iso" => {
            (head("200 OK", 1_000_000, "Content-Type: application/x-iso9660-image; x=1\r\n"), vec![7; 1_000_000])
        }
        "/short.iso" => (head("200 OK", 1_000_000, ""), vec![7; 1000]),
        // Sends the first half only, and the rest when asked for it.
        "/halves.iso" => {
            let range = request.lines().any(|line| line.eq_ignore_ascii_case("range: bytes=500000-"));
            let same = request.lines().any(|line| line.eq_ignore_ascii_case("if-range: \"v1\""));
            if range && same {
                let more = "Content-Range: bytes 500000-999999/1000000\r\nETag: \"v1\"\r\n";
                (head("206 Partial Content", 500_000, more), vec![8; 500_000])
            } else {
                (head("200 OK", 1_000_000, "ETag: \"v1\"\r\n"), vec![7; 500_000])
            }
        }
        "/redirect" => (head("302 Found", 0, "Location: /good.iso\r\n"), Vec::new()),
        "/packed.iso.gz" => {
            let packed = gzip(b"plain");
            (head("200 OK", packed.len(), ""), packed)
        }
        _ => (head("404 Not Found", 0, ""), Vec::new()),
    };
    // A client may go before it has read everything.
    let _ = stream.write_all(&head);
    if verb != "HEAD" {
        let _ = stream.write_all(&body);
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::process::{Command, Stdio};
    let mut child = Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    child.wait_with_output().unwrap().stdout
}
