//! The shell that the small guest runs on its serial port.

use crate::{Node, wait_for};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Numbers the commands of a test program.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// The serial port of a VM, to type into.
pub struct Shell(UnixStream);

impl Shell {
    /// The line of a VM that is starting, whatever comes from it.
    pub fn connect(node: &Node, vmid: &str) -> Self {
        let path = node.path(&format!("run/qemu-server/{vmid}.serial0"));
        let stream = wait_for("the serial port", 10, || UnixStream::connect(&path).ok());
        stream.set_read_timeout(Some(Duration::from_millis(300))).expect("the serial port is open");
        Shell(stream)
    }

    /// Waits for the prompt of a guest's shell.
    pub fn open(node: &Node, vmid: &str) -> Self {
        let mut shell = Shell::connect(node, vmid);
        shell.type_text("\n");
        shell.expect("/ # ");
        shell
    }

    /// Types.
    pub fn type_text(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("the serial port is open");
    }

    /// Reads until a text has come and gives back everything up to it.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let until = Instant::now() + Duration::from_secs(120);
        let (mut seen, mut piece) = (String::new(), [0; 4096]);
        while !seen.contains(text) {
            assert!(Instant::now() < until, "no {text:?} in {seen:?}");
            match self.0.read(&mut piece) {
                Ok(0) => panic!("ended before {text:?}: {seen:?}"),
                Ok(count) => seen.push_str(&String::from_utf8_lossy(&piece[..count])),
                Err(_) => {}
            }
        }
        seen
    }

    /// Runs a command and gives back what it prints.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        // What an earlier command has left on the line must not be taken for this one's.
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        self.type_text(&format!("{command}; echo en''d{number}.\n"));
        let seen = self.expect(&format!("end{number}."));
        let after = seen.rsplit_once(&format!("en''d{number}.")).map_or(seen.as_str(), |(_, after)| after);
        after.rsplit_once(&format!("end{number}.")).map_or(after, |(output, _)| output).trim().to_owned()
    }

    /// The number that the guest has counted to.
    #[track_caller]
    pub fn counter(&mut self) -> u64 {
        wait_for("a number", 30, || self.run("cat /tmp/n").lines().last()?.trim().parse().ok())
    }
}
