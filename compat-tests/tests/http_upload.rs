//! Uploads: the right is asked first, the file goes to its place, and nothing is left of those that fail.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Client, Node, Reply, read_reply, wait_for};
use std::io::Write;

const PATH: &str = "/api2/json/nodes/pve1/storage/local/upload";
const KIND: (&str, &str) = ("Content-Type", "multipart/form-data; boundary=xYz");

fn start() -> (Node, Client) {
    let node = Node::start();
    node.seed_users();
    let admin = node.token_client("admin@pve");
    (node, admin)
}

fn field(name: &str, value: &str) -> String {
    format!("--xYz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    let head = format!(
        "--xYz\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"small.iso\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    );
    [head.as_bytes(), content, b"\r\n--xYz--\r\n"].concat()
}

fn upload(client: &Client, query: &str, body: &[u8]) -> Reply {
    client.send("POST", &format!("{PATH}{query}"), &[KIND], body)
}

/// Files that uploads have left.
fn left(node: &Node) -> usize {
    let entries = std::fs::read_dir(node.path("var/tmp")).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("pveupload-")).count()
}

#[test]
fn a_file_arrives() {
    let (node, admin) = start();
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let body = [field("content", "iso").into_bytes(), file("filename", &content)].concat();
    let reply = upload(&admin, "", &body);
    let upid = reply.data();
    assert!(upid.as_str().unwrap().contains(":imgcopy:"), "{upid}");
    let target = node.path("var/lib/vz/template/iso/small.iso");
    wait_for("the file at its place", 20, || (std::fs::read(&target).ok()? == content).then_some(()));
    wait_for("nothing is left", 10, || (left(&node) == 0).then_some(()));
    // A ticket needs no CSRF token here: forms of browsers cannot send one.
    let ticket = node.client().with_header("Cookie", &format!("PVEAuthCookie={}", node.ticket("admin@pve", 0)));
    let body = [field("content", "iso").into_bytes(), file("filename", b"x")].concat();
    assert_eq!(upload(&ticket, "", &body).status, 200);
}

#[test]
fn wrong_uploads_are_refused_and_removed() {
    let (node, admin) = start();
    let good = [field("content", "iso").into_bytes(), file("filename", b"x")].concat();
    let refused = |reply: Reply, status: u16, text: &str| {
        assert_eq!(reply.status, status, "{} {}", reply.reason, reply.text());
        assert!(reply.reason.contains(text), "{} {}", reply.reason, reply.text());
        assert_eq!(left(&node), 0, "{text}");
    };
    let nobody = node.token_client("nobody@pve");
    refused(upload(&nobody, "", &good), 403, "Permission check failed (/storage/local, Datastore.AllocateTemplate)");
    refused(upload(&admin, "?tmpfilename=/etc/shadow", &good), 500, "not allowed");
    let smuggled = [field("tmpfilename", "/etc/shadow").into_bytes(), good.clone()].concat();
    refused(upload(&admin, "", &smuggled), 500, "not allowed");
    let wrong = [field("content", "iso").into_bytes(), file("file", b"x")].concat();
    refused(upload(&admin, "", &wrong), 500, "wrong field name 'file' for file upload, expected 'filename'");
    let wrong = [field("content", "images").into_bytes(), file("filename", b"x")].concat();
    refused(upload(&admin, "", &wrong), 400, "Parameter verification failed.");
    refused(upload(&admin, "", &good[..good.len() - 12]), 500, "upload failed");
    refused(admin.send("POST", PATH, &[("Content-Type", "application/json")], b"{}"), 501, "not implemented");
}

#[test]
fn a_client_that_goes_away_leaves_nothing() {
    let (node, admin) = start();
    let mut stream = admin.open();
    let begun = [field("content", "iso").into_bytes(), file("filename", &vec![7; 900_000])].concat();
    stream.get_mut().write_all(&admin.head("POST", PATH, &[KIND], 100_000_000)).unwrap();
    stream.get_mut().write_all(&begun[..begun.len() - 100]).unwrap();
    wait_for("the begun file", 10, || (left(&node) == 1).then_some(()));
    drop(stream);
    wait_for("the begun file's end", 10, || (left(&node) == 0).then_some(()));
}

/// The right is asked before the file is sent.
#[test]
fn a_refusal_comes_before_the_data() {
    let (node, _) = start();
    let nobody = node.token_client("nobody@pve");
    let mut stream = nobody.open();
    stream.get_mut().write_all(&nobody.head("POST", PATH, &[KIND], 1_000_000_000)).unwrap();
    assert_eq!(read_reply(&mut stream).status, 403);
}

/// The protocol that clients call tus: a broken upload goes on where it ended.
#[test]
fn a_broken_upload_goes_on() {
    let (node, admin) = start();
    let client = admin.clone().with_header("Tus-Resumable", "1.0.0");
    let content: Vec<u8> = (0..900_000_u32).map(|number| (number % 253) as u8).collect();
    let length = content.len().to_string();
    // small.iso, iso
    let described = [("Upload-Length", length.as_str()), ("Upload-Metadata", "filename c21hbGwuaXNv,content aXNv")];
    let begin = |client: &Client| client.send("POST", PATH, &described, b"");
    let nobody = node.token_client("nobody@pve").with_header("Tus-Resumable", "1.0.0");
    assert_eq!(begin(&nobody).status, 403);
    assert_eq!(begin(&admin.clone().with_header("Tus-Resumable", "0.2.0")).status, 412);
    assert_eq!(client.send("POST", PATH, &described[..1], b"").status, 400);
    assert_eq!(left(&node), 0);
    let begun = begin(&client);
    assert_eq!(begun.status, 201, "{}", begun.text());
    let place = begun.header("location").unwrap().to_owned();
    let look = |client: &Client| client.send("HEAD", &place, &[], b"");
    let bytes = ("Content-Type", "application/offset+octet-stream");
    let send = |offset: usize, data: &[u8]| {
        client.send("PATCH", &place, &[bytes, ("Upload-Offset", &offset.to_string())], data)
    };
    assert_eq!(look(&client).header("upload-offset"), Some("0"));
    // The connection breaks in the middle.
    let mut stream = client.open();
    stream.get_mut().write_all(&client.head("PATCH", &place, &[bytes, ("Upload-Offset", "0")], content.len())).unwrap();
    stream.get_mut().write_all(&content[..400_000]).unwrap();
    let offset = || look(&client).header("upload-offset").and_then(|text| text.parse::<usize>().ok());
    wait_for("the first bytes", 10, || offset().filter(|offset| *offset > 0));
    drop(stream);
    let here = wait_for("the end of the broken request", 10, || {
        let reply = send(0, b"x");
        (reply.status == 409).then(offset).flatten()
    });
    assert!(here <= 400_000, "{here}");
    // Others do not get at it.
    let grant = ["acl", "modify", "/storage/local", "--users", "nobody@pve", "--roles", "Administrator"];
    node.run("pveum", &grant).ok();
    assert_eq!(look(&nobody).status, 404);
    assert_eq!(send(here, &vec![0; content.len()]).status, 413);
    let reply = send(here, &content[here..here + 1_000]);
    assert_eq!((reply.status, reply.header("upload-offset")), (204, Some((here + 1_000).to_string().as_str())));
    let reply = send(here + 1_000, &content[here + 1_000..]);
    assert_eq!(reply.status, 204, "{}", reply.text());
    assert!(reply.header("pve-task").is_some_and(|upid| upid.contains(":imgcopy:")));
    let target = node.path("var/lib/vz/template/iso/small.iso");
    wait_for("the file at its place", 20, || (std::fs::read(&target).ok()? == content).then_some(()));
    wait_for("nothing is left", 10, || (left(&node) == 0).then_some(()));
    assert_eq!(look(&client).status, 404);
    // One that is given up.
    let place = begin(&client).header("location").unwrap().to_owned();
    assert_eq!(client.send("DELETE", &place, &[], b"").status, 204);
    assert_eq!(left(&node), 0);
}
