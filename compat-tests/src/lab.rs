//! Machines of the lab, as `cargo xtask lab` runs them: Debian 12 with our package, cables between them that can be pulled.
//!
//! A test takes a [`Machine`] of its own, which goes on within seconds from one that has booted; it ends when it is dropped,
//! unless the test fails and `COMPAT_LAB_KEEP` is set: then `cargo xtask lab shell` looks at what is left.
//! Where the lab cannot be had the test is skipped with the reason.

use crate::{Client, Ran, skip};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The password of `root` inside.
pub const PASSWORD: &str = "lab-password";

/// The name of a machine inside, unless it was started with another.
pub const HOSTNAME: &str = "node";

/// A running machine.
pub struct Machine {
    name: String,
}

impl Machine {
    /// A machine in which our package is installed and its services run; `None` after a skip was noted for `test`. The
    /// names of machines that run at the same time differ.
    pub fn start(test: &str, name: &str) -> Option<Self> {
        Self::begin(test, name, &[])
    }

    /// A Debian machine without our package.
    pub fn plain(test: &str, name: &str) -> Option<Self> {
        Self::begin(test, name, &["--plain"])
    }

    fn begin(test: &str, name: &str, options: &[&str]) -> Option<Self> {
        if let Err(reason) = possible() {
            skip(test, &reason);
            return None;
        }
        // What an earlier run of the test has left.
        let machine = Machine { name: name.to_owned() };
        lab(&["stop", name]);
        let started = lab(&[&["start", name], options].concat());
        assert!(started.status.success(), "lab: {}", String::from_utf8_lossy(&started.stderr));
        Some(machine)
    }

    /// Runs a command inside as root, word by word.
    pub fn run<S: AsRef<str>>(&self, command: &[S]) -> Ran {
        let mut words = vec!["run", "--on", &self.name, "--"];
        words.extend(command.iter().map(AsRef::as_ref));
        let Output { status, stdout, stderr } = lab(&words);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ran { code: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Runs a shell script inside that must succeed; gives back its standard output without the last line's end.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        let ran = self.run(&["sh", "-ec", script]);
        assert_eq!(ran.code, 0, "{script}\n{}{}", ran.stdout, ran.stderr);
        ran.stdout.trim_end().to_owned()
    }

    /// Runs one of our tools, given as a line without quotes, which must succeed; gives back its standard output.
    #[track_caller]
    pub fn tool(&self, line: &str) -> String {
        let ran = self.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(ran.code, 0, "{line}\n{}{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    /// GET by `pvesh` inside.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let text = self.tool(&format!("pvesh get {path} --output-format json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}"))
    }

    /// Copies a file in.
    #[track_caller]
    pub fn put(&self, file: &Path, path: &str) {
        done(&["put", &self.name, &file.display().to_string(), path]);
    }

    /// Copies a file out.
    #[track_caller]
    pub fn fetch(&self, path: &str, file: &Path) {
        done(&["get", &self.name, path, &file.display().to_string()]);
    }

    /// Boots the machine again from inside; returns when systemd has started everything.
    #[track_caller]
    pub fn reboot(&self) {
        done(&["reboot", &self.name]);
    }

    /// A client of the machine's API.
    pub fn client(&self) -> Client {
        let about: Value = serde_json::from_str(&done(&["about", &self.name])).expect("JSON");
        let port = about["api"].as_u64().and_then(|port| u16::try_from(port).ok());
        Client::new(port.expect("a machine has a port"))
    }

    /// Joins a card of this machine and one of another, `en01` to `en04`, by a cable.
    #[track_caller]
    pub fn connect(&self, card: &str, other: &Machine, far: &str) -> Cable {
        let end = format!("{}/{card}", self.name);
        done(&["connect", &end, &format!("{}/{far}", other.name)]);
        Cable(end)
    }

    /// The machine's name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("COMPAT_LAB_KEEP").is_some() {
            return;
        }
        lab(&["stop", &self.name]);
    }
}

/// A cable between two machines.
pub struct Cable(String);

impl Cable {
    /// Pulls it: both cards lose their carrier.
    #[track_caller]
    pub fn unplug(&self) {
        done(&["unplug", &self.0]);
    }

    /// Puts it back.
    #[track_caller]
    pub fn plug(&self) {
        done(&["plug", &self.0]);
    }
}

/// Whether machines can be started here. `cargo xtask test` has looked and says so in `COMPAT_LAB`; without it the lab is
/// used when it was built before.
fn possible() -> Result<(), String> {
    match std::env::var("COMPAT_LAB") {
        Ok(answer) if answer == "ready" => Ok(()),
        Ok(reason) => Err(reason),
        Err(_) => {
            let cache = std::env::var_os("FERROVISOR_LAB_CACHE").map(PathBuf::from);
            let cache = cache.unwrap_or_else(|| programs().with_file_name("lab"));
            let mut layers = std::fs::read_dir(cache).into_iter().flatten().flatten();
            match layers.any(|entry| entry.file_name().to_string_lossy().starts_with("booted-")) {
                true => Ok(()),
                false => Err("the lab is not built: cargo xtask lab build".into()),
            }
        }
    }
}

#[track_caller]
fn done(words: &[&str]) -> String {
    let Output { status, stdout, stderr } = lab(words);
    assert!(status.success(), "lab {words:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}

fn lab(words: &[&str]) -> Output {
    let mut xtask = Command::new(programs().join("xtask"));
    xtask.arg("lab").args(words).stdin(Stdio::null()).output().expect("xtask is built with the programs")
}

fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a test is a program");
    own.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned()
}
