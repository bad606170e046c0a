//! Consoles of a real container: in the browser, as a picture, and by the tools on a real terminal.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::console::{Socket, Viewer};
use compat_tests::guest::busybox_template;
use compat_tests::terminal::dialogue;
use compat_tests::{Client, Node, process};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

const CONTAINER: &str = "/nodes/pve1/lxc/8361";

#[test]
fn terminals_lead_into_the_container() {
    let mut node = Node::start();
    node.start_proxy_as_service();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let words = "create 8361 local:vztmpl/busybox.tar.gz --ostype unmanaged --memory 64 --rootfs local:0 --cmode shell";
    node.run("pct", &words.split(' ').collect::<Vec<_>>()).ok();
    let inittab = node.path("var/lib/vz/images/8361/subvol-8361-disk-0.subvol/etc/inittab");
    let text = fs::read_to_string(&inittab).unwrap();
    fs::write(&inittab, format!("{text}tty1::respawn:/bin/sh\nconsole::respawn:/bin/sh\n")).unwrap();
    let client = node.admin();
    node.finish(&client, &client.post(&format!("{CONTAINER}/status/start"), &[]).data());

    let console = client.post(&format!("{CONTAINER}/termproxy"), &[]).data();
    assert!(console["upid"].as_str().unwrap().contains(":vncproxy:8361:"), "{console}");
    let mut socket = Socket::open(&client, CONTAINER, &console).unwrap();
    let line = format!("{}:{}\n", console["user"].as_str().unwrap(), console["ticket"].as_str().unwrap());
    socket.write_all(line.as_bytes()).unwrap();
    socket.expect("OK");
    socket.write_all(b"1:100:30:").unwrap();
    socket.expect("/ # ");
    socket.type_text("echo $(hostname)-$((40+2))\n");
    socket.expect("CT8361-42");
    // A fresh image of the front server answers from now on, and nobody who works on a console notices.
    let before = node.proxy_service_pid();
    node.run("pveproxy", &["restart"]).ok();
    let after = node.proxy_service_pid();
    assert!(before != after && process::is_alive(before) && process::is_alive(after), "{before} {after}");
    assert_eq!(client.get("/version").status, 200);
    socket.type_text("echo still-$((40+3))\n");
    socket.expect("still-43");
    socket.type_text("exit\n");
    node.finish(&client, &console["upid"]);
    drop(socket);
    compat_tests::wait_for("the end of the former image", 20, || (!process::is_alive(before)).then_some(()));

    let console = client.post(&format!("{CONTAINER}/vncproxy"), &[("websocket", "1")]).data();
    let socket = Socket::open(&client, CONTAINER, &console).unwrap();
    let mut viewer = Viewer::login(socket, console["password"].as_str().unwrap()).unwrap();
    compat_tests::wait_for("a prompt in the picture", 20, || {
        viewer.screenshot().unwrap().iter().any(|byte| *byte != 0).then_some(())
    });
    drop(viewer);

    spice_needs_its_program(&node, &client);

    // On a terminal of its own, with its size and its end.
    let entered = dialogue(&node, "pct enter 8361", &[("# ", "echo in-$((1+1)); tty; exit 3\n")]);
    assert!(entered.contains("in-2") && entered.contains("/dev/pts/"), "{entered}");
    node.run("pct", &["set", "8361", "--cmode", "tty"]).ok();
    node.finish(&client, &client.post(&format!("{CONTAINER}/status/stop"), &[]).data());
    node.finish(&client, &client.post(&format!("{CONTAINER}/status/start"), &[]).data());
    // The escape key ends the console, not the shell behind it.
    let steps = [("", "\n"), ("# ", "echo at-$((2+3))\n"), ("at-5", "\u{2}q")];
    dialogue(&node, "pct console 8361 --escape ^b", &steps);
    node.finish(&client, &client.post(&format!("{CONTAINER}/status/stop"), &[]).data());
    let closed = client.post(&format!("{CONTAINER}/termproxy"), &[]).data();
    let mut socket = Socket::open(&client, CONTAINER, &closed).unwrap();
    let line = format!("{}:{}\n", closed["user"].as_str().unwrap(), closed["ticket"].as_str().unwrap());
    socket.write_all(line.as_bytes()).unwrap();
    assert_eq!(node.wait_task(&client, &closed["upid"]), "CT 8361 not running");
    node.finish(&client, &client.delete(CONTAINER).data());
}

/// Stands for `spiceterm`: opens the port that it is told and writes down what it got.
const SPICETERM: &str = r#"#!/usr/bin/env python3
import os, socket, sys
port = int(sys.argv[sys.argv.index("--port") + 1])
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
listener.listen()
with open(sys.argv[0] + ".log", "w") as log:
    print(*sys.argv[1:], file=log)
    print(os.environ["SPICE_TICKET"], file=log)
"#;

/// Debian has no `spiceterm`: the answer says what is missing. Where it is installed, it gets the container's terminal.
fn spice_needs_its_program(node: &Node, client: &Client) {
    let refused = client.post(&format!("{CONTAINER}/spiceproxy"), &[]);
    assert_eq!(refused.status, 500);
    assert!(refused.text().contains("'spiceterm'"), "{}", refused.text());
    let directory = node.path("spice");
    let program = directory.join("spiceterm");
    fs::create_dir(&directory).unwrap();
    fs::write(&program, SPICETERM).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap());
    let mut pvesh = node.program("pvesh");
    pvesh.args(["create", &format!("{CONTAINER}/spiceproxy"), "--output-format", "json"]).env("PATH", path);
    let ran = pvesh.output().unwrap();
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    let settings: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((&settings["type"], &settings["title"]), (&"spice".into(), &"CT 8361".into()), "{settings}");
    let log = fs::read_to_string(directory.join("spiceterm.log")).unwrap();
    let (words, ticket) = log.trim_end().split_once('\n').unwrap();
    let port = &settings["tls-port"];
    let start =
        format!("--port {port} --addr 127.0.0.1 --timeout 40 --authpath /vms/8361 --permissions VM.Console -- ");
    assert!(words.starts_with(&start) && words.contains("lxc-attach"), "{words}");
    assert_eq!(settings["password"], ticket);
}
