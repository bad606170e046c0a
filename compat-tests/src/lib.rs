//! Drives the built programs as their users do: by HTTP, by argv, with real clients and real guests.
//!
//! A test takes a [`Node`] (a PVE_ROOT of its own on a free loopback port), talks to it through a [`Client`] or runs tools
//! with [`Node::run`]. Nothing here links the engine: what a test knows, a user knows.

mod client;
pub mod console;
pub mod debian;
pub mod guest;
pub mod lab;
mod lab_guests;
pub mod loop_mount;
pub mod network;
mod node;
pub mod process;
pub mod python;
mod seed;
pub mod serial;
pub mod terminal;
pub mod user_mode;
pub mod visitor;
mod web;
pub mod wire;

pub use client::{Client, Reply, read_reply, try_read_reply};
pub use node::{Node, Ran};
pub use web::FileServer;

use std::io::Write;
use std::time::{Duration, Instant};

/// Notes that a test cannot run here and why; `cargo xtask test` counts these. Return from the test after it.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(list) = std::env::var_os("COMPAT_SKIPS") {
        let mut list = std::fs::OpenOptions::new().create(true).append(true).open(list).expect("the list of skips");
        writeln!(list, "{test}\t{reason}").expect("the list of skips");
    }
}

/// How large or how often something is done: what the environment says under a name, or what the ordinary suite has time for.
pub fn setting<T: std::str::FromStr>(name: &str, ordinary: T) -> T {
    let Ok(text) = std::env::var(name) else { return ordinary };
    text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

/// Waits until `condition` gives something; panics with `what` after `seconds`.
pub fn wait_for<T>(what: &str, seconds: u64, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
