//! Virtual machines: start, stop and clones next to QEMU's own programs, and lists of many.

use crate::connection::Connection;
use crate::measure::{Row, Samples, Table};
use crate::node::Node;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;

/// All rows about virtual machines.
pub fn measure(table: &mut Table) {
    let node = Node::start(0);
    start_and_stop(&node, table);
    linked_clone(&node, table);
    full_clone(&node, table);
    drop(node);
    list(table);
    killed(table);
}

fn qm(node: &Node, words: &str) {
    node.check(node.program("qm").args(words.split(' ')));
}

/// A VM to running and to its end, next to spawning QEMU by hand, asking it and telling it to quit.
fn start_and_stop(node: &Node, table: &mut Table) {
    qm(node, "create 100 --kvm 0 --memory 128 --cpu qemu64");
    let socket = node.path("run/qemu-server/100.qmp");
    let pid_file = node.path("run/qemu-server/100.pid");
    qm(node, "start 100");
    let arguments = command_line(&pid_file);
    qm(node, "stop 100");
    let [start, stop, raw_start, raw_stop] = Samples::by_turns(
        ROUNDS,
        [
            &mut || qm(node, "start 100"),
            &mut || qm(node, "stop 100"),
            &mut || {
                // QEMU keeps its standard error, so nobody may wait for the end of that.
                let mut raw = Command::new(&arguments[0]);
                let status = raw.args(&arguments[1..]).stdin(Stdio::null()).stderr(Stdio::null()).status();
                assert!(status.is_ok_and(|status| status.success()));
                assert!(ask(&socket, "query-status").contains("\"running\": true"));
            },
            &mut || quit(&socket, &pid_file),
        ],
    )
    .map(|samples| samples.median());
    table.add(&Row::more("qm start, to running", start, ("raw QEMU", raw_start), Duration::from_millis(25)));
    table.add(&Row::more("qm stop, at once", stop, ("QMP quit", raw_stop), Duration::from_millis(100)));
}

/// A linked clone of a template, next to making its image by hand.
fn linked_clone(node: &Node, table: &mut Table) {
    qm(node, "create 101 --memory 128 --scsi0 local:4,format=qcow2");
    qm(node, "template 101");
    let base = node.path("var/lib/vz/images/101/base-101-disk-0.qcow2");
    let copy = node.path("by-hand.qcow2");
    let [ours, _, by_hand] = Samples::by_turns(
        ROUNDS,
        [&mut || qm(node, "clone 101 102"), &mut || qm(node, "destroy 102"), &mut || {
            let order = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"];
            node.check(Command::new("qemu-img").args(order).arg(&base).arg(&copy));
        }],
    )
    .map(|samples| samples.median());
    // The base image is immutable, which a directory that goes with the bench cannot remove.
    qm(node, "destroy 101");
    table.add(&Row::time("linked clone", ours, ("qemu-img create -b", by_hand), Duration::from_millis(50)));
}

/// A full clone of a disk with data, next to `qemu-img convert` and a sync of its target.
fn full_clone(node: &Node, table: &mut Table) {
    qm(node, "create 103 --memory 128 --scsi0 local:4,format=qcow2");
    let source = node.path("var/lib/vz/images/103/vm-103-disk-0.qcow2");
    node.check(Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -P 7 1G 256M"]).arg(&source));
    let copy = node.path("copy.qcow2");
    let [ours, _, by_hand] = Samples::by_turns(
        5,
        [&mut || qm(node, "clone 103 104 --full"), &mut || qm(node, "destroy 104"), &mut || {
            node.check(Command::new("qemu-img").args(["convert", "-O", "qcow2"]).arg(&source).arg(&copy));
            node.check(Command::new("sync").arg("-d").arg(&copy));
        }],
    )
    .map(|samples| samples.median());
    let what = "full clone, whole tool";
    table.add(&Row::time(what, ours, ("qemu-img convert", by_hand), by_hand.mul_f64(1.05)));
}

/// The list of a thousand VMs and one configuration of them, by whole tools, next to reading the files.
fn list(table: &mut Table) {
    let node = Node::start(1_000);
    let files = node.path("etc/pve/qemu-server");
    let [listed, by_hand, one] = Samples::by_turns(
        ROUNDS,
        [
            &mut || qm(&node, "list"),
            &mut || node.check(Command::new("grep").args(["-r", "name"]).arg(&files)),
            &mut || qm(&node, "config 1500"),
        ],
    )
    .map(|samples| samples.median());
    table.add(&Row::time("qm list, 1,000 VMs", listed, ("grep -r", by_hand), Duration::from_millis(30)));
    table.add(&Row::time("qm config, one of 1,000 VMs", one, ("grep -r", by_hand), Duration::from_millis(30)));
}

/// From the kill of a VM's process to both lists showing it stopped, among a thousand VMs; beside it the same reads when
/// nothing happens.
fn killed(table: &mut Table) {
    let node = Node::start(1_000);
    qm(&node, "create 100 --kvm 0 --memory 128 --cpu qemu64");
    let pid_file = node.path("run/qemu-server/100.pid");
    let lists = ["/api2/json/cluster/resources", "/api2/json/nodes/bench/qemu"].map(|list| node.request(list));
    let mut connection = Connection::open(node.port);
    let mut runs = |list: &[u8]| String::from_utf8_lossy(connection.ask(list)).contains(r#""status":"running""#);
    let mut seen = Vec::new();
    let mut at_rest = Vec::new();
    for _ in 0..20 {
        qm(&node, "start 100");
        let deadline = Instant::now() + Duration::from_secs(10);
        while !lists.iter().all(|list| runs(list)) {
            assert!(Instant::now() < deadline, "a VM that runs is listed so");
        }
        let pid = std::fs::read_to_string(&pid_file).expect("QEMU wrote its pid");
        let start = Instant::now();
        node.check(Command::new("kill").args(["-9", pid.trim()]));
        while lists.iter().any(|list| runs(list)) {
            assert!(Instant::now() < deadline, "a VM that was killed is listed as stopped");
        }
        seen.push(start.elapsed());
        let start = Instant::now();
        assert!(!lists.iter().any(|list| runs(list)), "a VM that was killed stays so");
        at_rest.push(start.elapsed());
    }
    let (seen, at_rest) = (Samples::new(seen), Samples::new(at_rest));
    let budget = Duration::from_millis(100);
    table.add(&Row::time("kill -9 to stopped in lists: p50", seen.median(), ("two lists", at_rest.median()), budget));
    table.add(&Row::time("kill -9 to stopped in lists: max of 20", seen.longest(), ("", at_rest.longest()), budget));
    qm(&node, "stop 100");
}

/// What a running QEMU was started with.
fn command_line(pid_file: &Path) -> Vec<String> {
    let pid = std::fs::read_to_string(pid_file).expect("QEMU wrote its pid");
    let line = std::fs::read(Path::new("/proc").join(pid.trim()).join("cmdline")).expect("QEMU runs");
    let arguments = line.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
    arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect()
}

/// What QEMU answers to a command over QMP.
fn ask(socket: &Path, command: &str) -> String {
    let stream = UnixStream::connect(socket).expect("QMP listens");
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    // The first is its greeting.
    for order in ["", r#"{"execute":"qmp_capabilities"}"#, &format!(r#"{{"execute":"{command}"}}"#)] {
        (&stream).write_all(order.as_bytes()).expect("QMP listens");
        line.clear();
        reader.read_line(&mut line).expect("QMP answers");
    }
    line
}

fn quit(socket: &Path, pid_file: &Path) {
    let pid = std::fs::read_to_string(pid_file).expect("QEMU wrote its pid").trim().to_owned();
    ask(socket, "quit");
    let deadline = Instant::now() + Duration::from_secs(10);
    while Path::new("/proc").join(&pid).exists() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}
