//! Tools on a terminal of their own, used as a person uses them: look what is there, then type.

use crate::Node;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long a person waits for what should be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a tool on a pseudo terminal. Of each pair the first text is waited for (behind what was waited for before), then the
/// second one is typed. Gives back what was to be seen until the tool's end, which the last text typed has to see to.
pub fn dialogue(node: &Node, command: &str, steps: &[(&str, &str)]) -> String {
    let (tool, rest) = command.split_once(' ').unwrap_or((command, ""));
    let program = node.program(tool);
    let line = format!("{} {rest}", program.get_program().to_string_lossy());
    let mut script = Command::new("script");
    for (key, value) in program.get_envs() {
        script.env(key, value.expect("a program of a node has values"));
    }
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = script.spawn().expect("script is part of every Debian");
    let mut input = child.stdin.take().expect("standard input is a pipe");
    let mut output = child.stdout.take().expect("standard output is a pipe");
    let (sender, receiver) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if sender.send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    let (mut seen, mut from) = (String::new(), 0);
    for (wanted, typed) in steps {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = seen[from..].find(wanted) {
                from += place + wanted.len();
                break;
            }
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => seen += &String::from_utf8_lossy(&bytes),
                Err(_) => {
                    let _ = child.kill();
                    panic!("{command}: no '{wanted}' in: {seen}");
                }
            }
        }
        input.write_all(typed.as_bytes()).and_then(|()| input.flush()).expect("the tool reads");
    }
    // `script` copies what is typed until its program ends.
    let status = crate::wait_for(&format!("the end of '{command}'; {seen}"), 60, || child.try_wait().expect("a child"));
    drop(input);
    reader.join().expect("it only reads");
    seen.extend(receiver.try_iter().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
    assert!(status.code().is_some(), "{seen}");
    seen
}
