//! Consoles of a real container: in the browser, as a picture, and by the tools on a real terminal.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::console::{Socket, Viewer};
use compat_tests::guest::busybox_template;
use compat_tests::{Node, process};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

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

    // On a terminal of its own, with its size and its end.
    let entered = on_a_terminal(&node, "pct enter 8361", "echo in-$((1+1)); tty; exit 3\n");
    assert!(entered.contains("in-2") && entered.contains("/dev/pts/"), "{entered}");
    node.run("pct", &["set", "8361", "--cmode", "tty"]).ok();
    node.finish(&client, &client.post(&format!("{CONTAINER}/status/stop"), &[]).data());
    node.finish(&client, &client.post(&format!("{CONTAINER}/status/start"), &[]).data());
    // The escape key ends the console, not the shell behind it.
    let seen = on_a_terminal(&node, "pct console 8361 --escape ^b", "\necho at-$((2+3))\n\u{2}q");
    assert!(seen.contains("at-5"), "{seen}");
    node.finish(&client, &client.post(&format!("{CONTAINER}/status/stop"), &[]).data());
    let closed = client.post(&format!("{CONTAINER}/termproxy"), &[]).data();
    let mut socket = Socket::open(&client, CONTAINER, &closed).unwrap();
    let line = format!("{}:{}\n", closed["user"].as_str().unwrap(), closed["ticket"].as_str().unwrap());
    socket.write_all(line.as_bytes()).unwrap();
    assert_eq!(node.wait_task(&client, &closed["upid"]), "CT 8361 not running");
    node.finish(&client, &client.delete(CONTAINER).data());
}

/// Runs a tool on a pseudo terminal and gives back what was to be seen there.
fn on_a_terminal(node: &Node, command: &str, typed: &str) -> String {
    let (tool, rest) = command.split_once(' ').unwrap();
    let program = node.program(tool);
    let line = format!("{} {rest}", program.get_program().to_string_lossy());
    let mut script = Command::new("script");
    for (key, value) in program.get_envs() {
        script.env(key, value.unwrap());
    }
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    // A shell that is not there yet loses what is typed; a person looks at the prompt.
    let mut output = child.stdout.take().unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let (mut all, mut buffer, mut told) = (Vec::new(), [0; 4096], false);
        while let Ok(count) = std::io::Read::read(&mut output, &mut buffer) {
            if count == 0 {
                break;
            }
            all.extend_from_slice(&buffer[..count]);
            if !told {
                told = true;
                sender.send(()).unwrap();
            }
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    receiver.recv_timeout(std::time::Duration::from_secs(20)).unwrap();
    for key in typed.split_inclusive('\n') {
        input.write_all(key.as_bytes()).unwrap();
        input.flush().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    // `script` copies what is typed until its program ends, which the escape key or `exit` has seen to.
    let seen = compat_tests::wait_for("the tool's end", 20, || child.try_wait().unwrap());
    drop(input);
    let text = reader.join().unwrap();
    assert!(seen.code().is_some(), "{text}");
    text
}
