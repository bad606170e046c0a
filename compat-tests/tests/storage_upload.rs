//! Uploads by form: whole or not at all, and nothing left behind.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node, Reply, wait_for};
use serde_json::json;
use std::fs;
use std::io::Write;

const BOUNDARY: &str = "----ferrovisor-test";
const UPLOAD: &str = "/api2/json/nodes/pve1/storage/local/upload";

/// Everything of a form up to the file's bytes.
fn form_start(fields: &[(&str, &str)], file: &str) -> Vec<u8> {
    let mut text = String::new();
    for (name, value) in fields {
        text += &format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    text += &format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"filename\"; filename=\"{file}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    text.into_bytes()
}

fn upload(client: &Client, fields: &[(&str, &str)], file: &str, bytes: &[u8]) -> Reply {
    let mut body = form_start(fields, file);
    body.extend_from_slice(bytes);
    body.extend_from_slice(format!("\r\n--{BOUNDARY}--\r\n").as_bytes());
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    client.send("POST", UPLOAD, &[("Content-Type", &kind)], &body)
}

/// Names in a directory, hidden ones too.
fn names(node: &Node, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(node.path(directory)).into_iter().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn received(node: &Node) -> Vec<String> {
    names(node, "var/tmp").into_iter().filter(|name| name.starts_with("pveupload-")).collect()
}

#[test]
fn uploads_arrive_whole_or_not_at_all() {
    let node = Node::start();
    let admin = node.admin();
    let bytes: Vec<u8> =
        (0..50 * 1024 * 1024u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let sum = sha256(&bytes);
    let checked = [("content", "iso"), ("checksum", sum.as_str()), ("checksum-algorithm", "sha256")];
    let upid = upload(&admin, &checked, "C:\\isos\\my image.iso", &bytes).data();
    assert!(upid.as_str().unwrap().contains(":imgcopy::"), "{upid}");
    node.finish(&admin, &upid);
    assert_eq!(names(&node, "var/lib/vz/template/iso"), ["my_image.iso"]);
    assert!(fs::read(node.path("var/lib/vz/template/iso/my_image.iso")).unwrap() == bytes, "every byte arrives");
    assert_eq!(received(&node), [""; 0], "nothing is left of what was received");
    let rows = admin.get("/nodes/pve1/storage/local/content?content=iso").data();
    assert_eq!((&rows[0]["volid"], &rows[0]["size"]), (&json!("local:iso/my_image.iso"), &json!(bytes.len())));

    let wrong = [("content", "iso"), ("checksum", "00"), ("checksum-algorithm", "sha256")];
    let upid = upload(&admin, &wrong, "wrong.iso", b"CD001").data();
    assert!(node.wait_task(&admin, &upid).starts_with("checksum mismatch: got '"));
    for (content, file, status) in
        [("iso", "a.exe", 400), ("vztmpl", "a.iso", 400), ("import", "a b.iso", 400), ("backup", "a.vma", 400)]
    {
        let reply = upload(&admin, &[("content", content)], file, b"x");
        assert_eq!(reply.status, status, "{content} {file}: {}", reply.text());
    }
    let mut evil = vec![0; 1024];
    evil[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
    evil[8..16].copy_from_slice(&512u64.to_be_bytes());
    evil[16..20].copy_from_slice(&11u32.to_be_bytes());
    evil[512..523].copy_from_slice(b"/etc/shadow");
    let upid = upload(&admin, &[("content", "import")], "evil.qcow2", &evil).data();
    assert!(node.wait_task(&admin, &upid).contains("backing file not allowed for untrusted image"));

    let upid = upload(&admin, &[("content", "snippets")], "user.yaml", b"#cloud-config").data();
    node.finish(&admin, &upid);
    assert_eq!(fs::read(node.path("var/lib/vz/snippets/user.yaml")).unwrap(), b"#cloud-config");

    let upid = upload(&admin, &[("content", "iso")], "my_image.iso", b"newer").data();
    node.finish(&admin, &upid);
    assert_eq!(fs::read(node.path("var/lib/vz/template/iso/my_image.iso")).unwrap(), b"newer");
    assert_eq!(names(&node, "var/lib/vz/template/iso"), ["my_image.iso"]);
    assert_eq!((names(&node, "var/lib/vz/import"), received(&node)), (vec![], vec![]));
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let node = Node::start();
    let admin = node.admin();
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let start = form_start(&[("content", "iso")], "half.iso");
    let mut stream = admin.open();
    let head = admin.head("POST", UPLOAD, &[("Content-Type", &kind)], start.len() + 10_000_000);
    stream.get_mut().write_all(&head).unwrap();
    stream.get_mut().write_all(&start).unwrap();
    stream.get_mut().write_all(&vec![1; 1_000_000]).unwrap();
    wait_for("the upload to begin", 20, || (!received(&node).is_empty()).then_some(()));
    drop(stream);
    wait_for("the received part to go", 20, || received(&node).is_empty().then_some(()));
    assert_eq!(names(&node, "var/lib/vz/template/iso"), [""; 0]);
    assert_eq!(admin.get("/version").status, 200);
}

fn sha256(bytes: &[u8]) -> String {
    use openssl::hash::{MessageDigest, hash};
    hash(MessageDigest::sha256(), bytes).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}
