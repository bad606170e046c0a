//! The unmodified proxmoxer against a node: a VM that speaks on its serial console, a container that runs commands, an
//! upload, and error texts in exceptions; once with a password and once with a token.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, guest, python, skip, wait_for};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[test]
fn lifecycle_with_a_password() {
    let node = Node::start();
    node.user("admin@pve", "Administrator");
    lifecycle("lifecycle_with_a_password", &node, 8100, json!({"user": "admin@pve", "password": "secret-password"}));
}

#[test]
fn lifecycle_with_a_token() {
    let node = Node::start();
    node.user("admin@pve", "Administrator");
    let token = node.token("admin@pve");
    let (id, secret) = token.split_once('=').unwrap();
    let name = id.split_once('!').unwrap().1;
    let login = json!({"user": "admin@pve", "token_name": name, "token_value": secret});
    lifecycle("lifecycle_with_a_token", &node, 8110, login);
}

fn lifecycle(test: &str, node: &Node, vmid: u32, login: Value) {
    let boot = match guest::boot_args() {
        Ok(boot) => boot,
        Err(reason) => return skip(test, &reason),
    };
    let bridge_name = format!("fvc{vmid}");
    let _bridge = guest::Bridge::new(&bridge_name, None);
    guest::busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let iso = node.path("image.iso");
    std::fs::File::create(&iso).unwrap().set_len(50 * 1024 * 1024).unwrap();
    let ctid = vmid + 1;
    let steps = |steps: &[&str]| {
        let mut given = json!({
            "host": "127.0.0.1", "port": node.port(), "node": node.name(), "bridge": bridge_name, "vmid": vmid, "ctid": ctid,
            "template": "local:vztmpl/busybox.tar.gz", "iso": iso, "steps": steps,
        });
        given.as_object_mut().unwrap().extend(login.as_object().unwrap().clone());
        let output =
            python::run("proxmoxer_lifecycle.py", &given.to_string()).unwrap_or_else(|reason| panic!("{reason}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.ends_with("done\n"), "{steps:?}: {text}");
    };
    steps(&["errors", "upload", "vm-create", "ct"]);

    // What boots the VM is an option that only root may set, so it is set on the node, as an administrator would.
    let id = vmid.to_string();
    node.run("qm", &["set", &id, "--args", &boot]).ok();
    steps(&["vm-start"]);
    let console = serial(node, vmid);
    wait_for_marker(console, guest::MARKER);
    let ran = node.run("pct", &["exec", &ctid.to_string(), "--", "sh", "-c", "echo hello; exit 7"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (7, "hello\n"), "{}", ran.stderr);

    steps(&["vm-remove", "ct-remove"]);
    let images = std::fs::read_dir(node.path("var/lib/vz/images")).unwrap().count();
    assert_eq!(images, 0, "no volume is left");
}

fn serial(node: &Node, vmid: u32) -> UnixStream {
    let socket = node.path(&format!("run/qemu-server/{vmid}.serial0"));
    wait_for("the serial console", 20, || UnixStream::connect(&socket).ok())
}

/// Reads the console until it has said the marker; a line break makes a shell repeat itself.
fn wait_for_marker(mut console: UnixStream, marker: &str) {
    console.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut said = String::new();
    let mut buffer = [0; 4096];
    wait_for(&format!("{marker:?} on the serial console"), 90, || {
        match console.read(&mut buffer) {
            Ok(count) => said.push_str(&String::from_utf8_lossy(&buffer[..count])),
            // The marker may have gone by before we listened: the shell can say it again.
            Err(_) => drop(console.write_all(b"echo the guest' 'is up\n")),
        }
        said.contains(marker).then_some(())
    });
}
