//! Consoles of a real VM: a web socket client logs in on the serial port, an RFB client looks at the screen; and who is
//! kept out.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::console::{Socket, Viewer};
use compat_tests::guest::boot_args;
use compat_tests::{Client, Node, skip};
use serde_json::{Value, json};
use std::io::Write;
use std::process::Stdio;

const VM: &str = "/nodes/pve1/qemu/7110";

fn start(node: &Node, client: &Client, vmid: &str, args: &str, vga: &str) {
    // Only root may set `args`.
    let options = ["--memory", "128", "--kvm", "0", "--serial0", "socket", "--vga", vga, "--args", args];
    node.run("qm", &[&["create", vmid], &options[..]].concat()).ok();
    node.finish(client, &client.post(&format!("/nodes/pve1/qemu/{vmid}/status/start"), &[]).data());
}

/// Logs in on a terminal by the protocol that xterm.js speaks.
fn enter(client: &Client, path: &str, console: &Value) -> Socket {
    let mut socket = Socket::open(client, path, console).unwrap();
    let line = format!("{}:{}\n", console["user"].as_str().unwrap(), console["ticket"].as_str().unwrap());
    socket.write_all(line.as_bytes()).unwrap();
    socket.expect("OK");
    socket
}

#[test]
fn a_browser_works_on_the_serial_port_and_sees_the_screen() {
    let Ok(args) = boot_args().inspect_err(|reason| skip("consoles", reason)) else { return };
    let node = Node::start();
    let client = node.admin();
    start(&node, &client, "7110", &args, "std");

    let console = client.post(&format!("{VM}/termproxy"), &[("serial", "serial0")]).data();
    assert!(console["upid"].as_str().unwrap().contains(":vncproxy:7110:admin@pve!"), "{console}");
    assert!(console.get("password").is_none());
    let mut socket = enter(&client, VM, &console);
    socket.write_all(b"1:100:30:2").unwrap();
    // Nothing that is typed before the guest is up reaches it.
    socket.type_text("\n");
    socket.expect("/ # ");
    socket.type_text("echo so-$((40+2))-it-is\n");
    socket.expect("so-42-it-is");
    drop(socket);
    node.finish(&client, &console["upid"]);

    let console = client.post(&format!("{VM}/vncproxy"), &[("websocket", "1")]).data();
    let password = console["password"].as_str().unwrap();
    assert_eq!(password.len(), 8);
    assert!(console["ticket"].as_str().unwrap().starts_with(&format!("{password}:PVEVNC:")));
    assert!(console["cert"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE"), "{console}");
    let socket = Socket::open(&client, VM, &console).unwrap();
    let mut viewer = Viewer::login(socket, password).unwrap();
    assert!(viewer.width >= 640 && viewer.height >= 400, "{}x{}", viewer.width, viewer.height);
    let picture = viewer.screenshot().unwrap();
    assert!(picture.iter().any(|byte| *byte != 0), "the screen is black");
    drop(viewer);

    // The password was good for this one console.
    let console = client.post(&format!("{VM}/vncproxy"), &[("websocket", "1")]).data();
    let socket = Socket::open(&client, VM, &console).unwrap();
    assert!(Viewer::login(socket, "password").is_err());

    // Without an upgrade the port is told (fog-proxmox asks so).
    let console = client.post(&format!("{VM}/termproxy"), &[]).data();
    let ticket: String = console["ticket"].as_str().unwrap().bytes().map(|byte| format!("%{byte:02X}")).collect();
    let told = client.get(&format!("{VM}/vncwebsocket?port={}&vncticket={ticket}", console["port"])).data();
    assert_eq!(told, json!({"port": console["port"].to_string()}));
    client.delete(&format!("/nodes/pve1/tasks/{}", console["upid"].as_str().unwrap())).data();

    // The tool that ssh runs on another node.
    let mut tool = node.program("qm");
    tool.args(["vncproxy", "7110"]).env("LC_PVE_TICKET", "secret12").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = tool.spawn().unwrap();
    let streams = Joined(child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let viewer = Viewer::login(streams, "secret12").unwrap();
    drop(viewer);
    child.kill().unwrap();
    child.wait().unwrap();
    let refused = node.run("qm", &["vncproxy", "7110"]);
    assert!(refused.code != 0 && refused.stderr.contains("LC_PVE_TICKET"), "{refused:?}");

    // The monitor, by the interface and by the tool.
    let answer = client.post(&format!("{VM}/monitor"), &[("command", "info name")]).data();
    assert!(answer.as_str().unwrap().contains("7110"), "{answer}");
    let mut tool = node.program("qm");
    let mut tool = tool.args(["monitor", "7110"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    tool.stdin.take().unwrap().write_all(b"info status\nquit\n").unwrap();
    let printed = String::from_utf8(tool.wait_with_output().unwrap().stdout).unwrap();
    assert!(printed.contains("VM status: running"), "{printed}");
    node.finish(&client, &client.post(&format!("{VM}/status/stop"), &[]).data());
}

struct Joined(std::process::ChildStdout, std::process::ChildStdin);

impl std::io::Read for Joined {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Joined {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.1.flush()
    }
}

#[test]
fn a_serial_display_is_drawn_for_clients_of_vnc() {
    let Ok(args) = boot_args().inspect_err(|reason| skip("consoles", reason)) else { return };
    let node = Node::start();
    let client = node.admin();
    start(&node, &client, "7111", &args, "serial0");
    let path = "/nodes/pve1/qemu/7111";
    let console = client.post(&format!("{path}/vncproxy"), &[("websocket", "1")]).data();
    let password = console["password"].as_str().unwrap();
    let socket = Socket::open(&client, path, &console).unwrap();
    let mut viewer = Viewer::login(socket, password).unwrap();
    let lit = |picture: &[u8]| picture.chunks(4).filter(|pixel| pixel[..3] != [0; 3]).count();
    let before = lit(&viewer.screenshot().unwrap());
    viewer.type_text("\necho ################################\n").unwrap();
    compat_tests::wait_for("what was typed on the picture", 60, || {
        let now = lit(&viewer.screenshot().unwrap());
        (now > before + 500).then_some(())
    });
    node.finish(&client, &client.post(&format!("{path}/status/stop"), &[]).data());
}

#[test]
fn strangers_and_late_comers_are_kept_out() {
    let Ok(args) = boot_args().inspect_err(|reason| skip("consoles", reason)) else { return };
    let node = Node::start();
    let admin = node.admin();
    start(&node, &admin, "7112", &args, "serial0");
    let path = "/nodes/pve1/qemu/7112";
    node.user("joe@pve", "PVEAuditor");
    node.user("eve@pve", "PVEVMUser");
    let joe = node.client().login("joe@pve", "secret-password");
    assert_eq!(joe.post(&format!("{path}/termproxy"), &[]).status, 403);

    let console = admin.post(&format!("{path}/termproxy"), &[]).data();
    let ticket = console["ticket"].as_str().unwrap();
    // Another user with rights cannot use this ticket, and nobody can use it for another port or a changed one.
    let eve = node.client().login("eve@pve", "secret-password");
    assert!(Socket::open(&eve, path, &console).is_err_and(|error| error.starts_with("401")));
    let other = json!(if console["port"] == 5999 { 5998 } else { 5999 });
    assert!(Socket::open_with(&admin, path, &other, ticket).is_err());
    let bent: String = ticket.chars().rev().collect();
    assert!(Socket::open_with(&admin, path, &console["port"], &bent).is_err());
    // The port itself asks as well: on this machine everybody can reach it.
    let mut direct = std::net::TcpStream::connect(("127.0.0.1", console["port"].as_u64().unwrap() as u16)).unwrap();
    direct.write_all(format!("eve@pve:{ticket}\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut direct, &mut answer).unwrap_or_default();
    assert_eq!(answer, b"", "a stranger was greeted");
    assert_eq!(node.wait_task(&admin, &console["upid"]), "authentication failed");

    // A token may have consoles of its own.
    let token = node.client().with_token(&node.token("eve@pve"));
    let console = token.post(&format!("{path}/termproxy"), &[]).data();
    assert!(console["user"].as_str().unwrap().starts_with("eve@pve!"), "{console}");
    let mut socket = enter(&token, path, &console);
    socket.type_text("\n");
    socket.expect("/ # ");
    socket.type_text("echo token-$((6*7))\n");
    socket.expect("token-42");
    drop(socket);

    // Nobody comes: the port is closed after ten seconds.
    let console = admin.post(&format!("{path}/termproxy"), &[]).data();
    assert_eq!(node.wait_task(&admin, &console["upid"]), "connection timed out");
    assert!(Socket::open(&admin, path, &console).is_err());
    node.finish(&admin, &admin.post(&format!("{path}/status/stop"), &[]).data());
}

#[test]
fn the_node_has_a_terminal_for_administrators() {
    let node = Node::start();
    let admin = node.admin();
    let console = admin.post("/nodes/pve1/termproxy", &[]).data();
    let mut socket = enter(&admin, "/nodes/pve1", &console);
    // Others than root are asked who they are.
    socket.expect("login:");
    drop(socket);
    node.finish(&admin, &console["upid"]);
    node.user("ops@pve", "Administrator");
    let ops = node.client().login("ops@pve", "secret-password");
    assert_eq!(ops.post("/nodes/pve1/termproxy", &[("cmd", "upgrade")]).status, 403);
    let console = ops.post("/nodes/pve1/vncshell", &[("websocket", "1")]).data();
    let socket = Socket::open(&ops, "/nodes/pve1", &console).unwrap();
    let mut viewer = Viewer::login(socket, console["password"].as_str().unwrap()).unwrap();
    compat_tests::wait_for("a prompt", 30, || {
        let picture = viewer.screenshot().ok()?;
        picture.chunks(4).any(|pixel| pixel[..3] != [0; 3]).then_some(())
    });
}
