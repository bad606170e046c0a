//! The budgets of the project, measured on the release programs, each next to the raw tool or the floor of the same run.
//!
//! `cargo xtask bench` builds the programs and starts this with the directory of the programs. Nothing here asserts a time:
//! a missed budget is printed and makes the exit status 1.

mod connection;
mod containers;
mod guests;
mod lab;
mod measure;
mod network;
mod node;
mod storage;

use connection::{Connection, floor_server};
use measure::{Row, Samples, Table};
use node::Node;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    // `cargo bench` adds arguments of its own.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let wanted = |name: &str| name.contains(&filter);
    let mut table = Table::new();
    if wanted("tools") {
        tools(&mut table);
    }
    if wanted("api") {
        version(&mut table);
        for (guests, budget) in [(1_000, 10), (10_000, 100)] {
            resources(&mut table, guests, Duration::from_millis(budget));
        }
    }
    if wanted("guests machines") {
        guests::measure(&mut table);
    }
    if wanted("guests containers") {
        containers::measure(&mut table);
    }
    if wanted("network") {
        network::rows(&mut table);
        lab::rows(&mut table);
    }
    if wanted("storage") {
        storage::rows(&mut table);
    }
    if table.missed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whole processes, next to the shortest one there is.
fn tools(table: &mut Table) {
    let node = Node::prepare();
    let floor = Samples::of(200, || run(&mut Command::new("/bin/true"))).median();
    for (program, arguments) in [("qm", &["list"][..]), ("pct", &["list"]), ("pvesh", &["get", "/version"])] {
        let ours = Samples::of(200, || run(node.program(program).args(arguments))).median();
        let what = format!("{program} {}: whole process", arguments.join(" "));
        table.add(&Row::time(&what, ours, ("/bin/true", floor), Duration::from_millis(10)));
    }
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("the program starts");
    assert!(status.success(), "{command:?}: {status}");
}

/// GET /version over TLS, kept alive: one after another, then from four connections at once.
fn version(table: &mut Table) {
    let node = Node::start(0);
    let request = node.request("/api2/json/version");
    let mut ours = Connection::open(node.port);
    let floor_port = floor_server(ours.ask(&request).to_vec());
    let mut floor = Connection::open(floor_port);
    Samples::of(500, || {
        ours.ask(&request);
    });
    let (ours, floor) = (
        Samples::of(5_000, || {
            ours.ask(&request);
        })
        .median(),
        Samples::of(5_000, || {
            floor.ask(&request);
        })
        .median(),
    );
    table.add(&Row::time("GET /version, kept alive: p50", ours, ("fixed bytes", floor), Duration::from_micros(300)));
    let (rate, floor) = (throughput(node.port, &request), throughput(floor_port, &request));
    let beside = format!("fixed bytes {floor:.0} /s");
    table.add(&Row::number("GET /version, 4 connections", rate, "/s", beside, 10_000.0, true));
    let memory = node.memory_mib();
    table.add(&Row::number("memory of both daemons, idle", memory, "MiB", "-".into(), 40.0, false));
}

fn throughput(port: u16, request: &[u8]) -> f64 {
    const EACH: usize = 5_000;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut connection = Connection::open(port);
                (0..EACH).for_each(|_| {
                    connection.ask(request);
                });
            });
        }
    });
    (4 * EACH) as f64 / start.elapsed().as_secs_f64()
}

/// GET /cluster/resources with many stopped guests; with 1,000 also memory and rest.
fn resources(table: &mut Table, guests: u32, budget: Duration) {
    let node = Node::start(guests);
    let request = node.request("/api2/json/cluster/resources");
    let mut ours = Connection::open(node.port);
    let body = ours.ask(&request).to_vec();
    assert!(body.len() > guests as usize * 100, "all guests are listed");
    let mut floor = Connection::open(floor_server(body));
    let (ours, floor) = (
        Samples::of(100, || {
            ours.ask(&request);
        })
        .median(),
        Samples::of(100, || {
            floor.ask(&request);
        })
        .median(),
    );
    let what = format!("GET /cluster/resources, {guests} guests: p50");
    table.add(&Row::time(&what, ours, ("same bytes", floor), budget));
    if guests == 1_000 {
        table.add(&Row::number(
            "memory of both daemons, 1000 guests",
            node.memory_mib(),
            "MiB",
            "-".into(),
            64.0,
            false,
        ));
        let (share, written) = node.rest(Duration::from_secs(20));
        table.add(&Row::number("CPU at rest, 1000 stopped guests", share, "% core", "-".into(), 0.2, false));
        table.add(&Row::number("written at rest in 20 s", written, "kB", "-".into(), 0.5, false));
    }
}
