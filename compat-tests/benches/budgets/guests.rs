//! Starting a VM, next to QEMU with the same command line.

use crate::measure::{Row, Samples, Table};
use crate::node::Node;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;

/// A VM to running, next to spawning QEMU by hand and asking it.
pub fn start_vm(table: &mut Table) {
    let node = Node::start(0);
    node.check(node.program("qm").args(["create", "100", "--kvm", "0", "--memory", "128", "--cpu", "qemu64"]));
    let socket = node.path("run/qemu-server/100.qmp");
    let pid_file = node.path("run/qemu-server/100.pid");
    node.check(node.program("qm").args(["start", "100"]));
    let arguments = command_line(&pid_file);
    node.check(node.program("qm").args(["stop", "100"]));
    let raw = Samples::of_with(
        ROUNDS,
        || {
            node.check(Command::new(&arguments[0]).args(&arguments[1..]));
            assert!(is_running(&socket));
        },
        || kill(&pid_file),
    );
    let ours = Samples::of_with(
        ROUNDS,
        || node.check(node.program("qm").args(["start", "100"])),
        || {
            node.check(node.program("qm").args(["stop", "100"]));
        },
    );
    let budget = Duration::from_millis(25);
    table.add(&Row::more("qm start, to running", ours.median(), ("raw QEMU", raw.median()), budget));
}

/// What a running QEMU was started with.
fn command_line(pid_file: &Path) -> Vec<String> {
    let pid = std::fs::read_to_string(pid_file).expect("QEMU wrote its pid");
    let line = std::fs::read(Path::new("/proc").join(pid.trim()).join("cmdline")).expect("QEMU runs");
    let arguments = line.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
    arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// Whether QEMU says over QMP that the machine runs.
fn is_running(socket: &Path) -> bool {
    let Ok(stream) = UnixStream::connect(socket) else { return false };
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    let mut ask = |text: &str| {
        (&stream).write_all(text.as_bytes()).expect("QMP listens");
        line.clear();
        reader.read_line(&mut line).expect("QMP answers");
        line.clone()
    };
    ask("");
    ask("{\"execute\":\"qmp_capabilities\"}\n");
    ask("{\"execute\":\"query-status\"}\n").contains("\"running\": true")
}

fn kill(pid_file: &Path) {
    let pid = std::fs::read_to_string(pid_file).expect("QEMU wrote its pid").trim().to_owned();
    assert!(Command::new("kill").args(["-9", &pid]).status().is_ok_and(|status| status.success()));
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new("/proc").join(&pid).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    // QEMU was killed and could not remove it.
    let _ = std::fs::remove_file(pid_file);
}
