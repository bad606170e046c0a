//! What is planned is also accepted: each case's command line for the installed QEMU starts it, with its processors halted.
//!
//! The plan is made with the version that is installed, whichever the case names, and localised as for a start. What this
//! machine may lack is then replaced by what comes nearest, and counted by reason: [`Stage`] names them all.

use super::tests::{cases, facts, planned};
use super::*;
use crate::host::Host;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long an emulator may take to its first word.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place where a command line of this machine can be started.
struct Stage {
    directory: tempfile::TempDir,
    /// How often something was replaced, by reason.
    replaced: BTreeMap<&'static str, usize>,
    images: usize,
    servers: Vec<Child>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // It goes by itself when QEMU does.
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Stage {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("virtiofsd")).unwrap();
        Stage { directory, replaced: BTreeMap::new(), images: 0, servers: Vec::new() }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    fn paths(&self) -> Paths {
        Paths { run: self.path(""), short_run: self.path(""), events: self.path("events") }
    }

    fn note(&mut self, reason: &'static str) {
        *self.replaced.entry(reason).or_default() += 1;
    }

    /// An empty image; as large as the variables of the firmware, which may be one.
    fn image(&mut self, format: &str) -> String {
        self.images += 1;
        let path = self.path(&format!("image-{}", self.images));
        if format == "raw" {
            std::fs::File::create(&path).unwrap().set_len(540_672).unwrap();
            return path;
        }
        let made = Command::new("qemu-img").args(["create", "-q", "-f", format, &path, "528K"]).status();
        assert!(made.unwrap().success(), "an image of the format '{format}'");
        path
    }

    /// The command as it can be started here.
    fn set(&mut self, command: &[String], host: &Host) -> Vec<String> {
        let mut set = Vec::new();
        let mut words = command.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                // A child that can be waited for.
                "-daemonize" => continue,
                "-cpu" | "-machine" | "-drive" | "-blockdev" | "-netdev" | "-device" | "-object" | "-chardev" => {
                    let value = words.next().expect("an option has a value");
                    if let Some(value) = self.option(word, value, host) {
                        set.extend([word.clone(), value]);
                    }
                }
                _ => set.push(word.clone()),
            }
        }
        set.push("-S".into());
        if !set.iter().any(|word| word == "-display") {
            set.extend(["-display", "none"].map(str::to_owned));
        }
        set
    }

    fn option(&mut self, option: &str, value: &str, host: &Host) -> Option<String> {
        if value.starts_with('{') {
            let mut value: Value = serde_json::from_str(value).unwrap();
            return self.object(option, &mut value).then(|| value.to_string());
        }
        let mut value = Words::parse(value);
        match option {
            "-cpu" => {
                if value.0.first().is_some_and(|(model, _)| model == "host") {
                    self.note("no KVM: 'max' for the host's processor");
                    value.0[0].0 = "max".into();
                }
                value.remove("enforce");
                let before = value.0.len();
                value.0.retain(|(key, _)| !key.trim_start_matches(['+', '-']).starts_with("hv"));
                if value.0.len() < before {
                    self.note("no KVM: without what Windows knows it by");
                }
            }
            "-machine" => {
                if value.get("accel") == Some("kvm") {
                    self.note("no KVM: emulated");
                    value.remove("kernel_irqchip");
                    value.set("accel", "tcg");
                }
                value.remove("confidential-guest-support");
            }
            "-drive" => self.drive(&mut value),
            "-netdev" if value.get("type") == Some("tap") => {
                self.note("no bridge: a network of QEMU's own for a tap");
                value.set("type", "user");
                value.remove("vhost");
            }
            "-device" if value.is("vfio-pci") => {
                self.note("no such PCI device of the host: an emulated one in its place");
                let kept = ["id", "bus", "addr", "multifunction"];
                value.0.retain(|(key, _)| kept.contains(&key.as_str()));
                value.0.insert(0, ("pci-testdev".into(), None));
            }
            "-device" if value.is("scsi-block") || value.is("scsi-generic") => {
                self.note("no SCSI device of the host: an emulated one");
                value.0[0].0 = "scsi-hd".into();
            }
            "-object" if value.is("sev-guest") || value.is("sev-snp-guest") => {
                self.note("no SEV");
                return None;
            }
            "-object" => self.memory(&mut value, host),
            "-chardev" if value.is("serial") || value.is("parallel") => {
                self.note("no such port of the host: one that goes nowhere");
                let id = value.get("id").unwrap_or_default().to_owned();
                value = Words(vec![("null".into(), None), ("id".into(), Some(id))]);
            }
            "-chardev" if value.is("socket") && value.get("server").is_none() => {
                let path = value.get("path").unwrap_or_default().to_owned();
                self.serve(&path);
            }
            _ => {}
        }
        Some(value.text())
    }

    fn drive(&mut self, drive: &mut Words) {
        let Some(file) = drive.get("file") else { return };
        if file.contains("OVMF") {
            return;
        }
        if !file.starts_with("/var/lib/vz/") {
            self.note("no such volume or device: a file");
        }
        // These need a device or a client of theirs.
        if drive.get("aio") == Some("native") && drive.get("cache").is_none() {
            drive.remove("aio");
        }
        let format = drive.get("format").unwrap_or("raw").to_owned();
        let image = self.image(&format);
        drive.set("file", &image);
    }

    fn memory(&mut self, object: &mut Words, host: &Host) {
        if object.get("mem-path").is_some_and(|path| path.contains("hugepages")) {
            self.note("no huge pages: ordinary ones");
            object.remove("prealloc");
            let directory = self.path("");
            object.set("mem-path", &directory);
        } else if object.get("mem-path").is_some() {
            let file = self.path("shared-memory");
            object.set("mem-path", &file);
        }
        let node = object.get("host-nodes").and_then(|node| node.parse().ok());
        if node.is_some_and(|node| !host.has_numa_node(node)) {
            self.note("no such NUMA node of the host");
            object.remove("host-nodes");
            object.remove("policy");
        }
    }

    /// Whether an option that is an object stays.
    fn object(&mut self, option: &str, value: &mut Value) -> bool {
        match option {
            "-blockdev" => self.node(value, "raw"),
            "-object" if value["qom-type"] == "tdx-guest" => {
                self.note("no TDX");
                return false;
            }
            _ => {}
        }
        true
    }

    /// Puts images below a block node.
    fn node(&mut self, node: &mut Value, format: &str) {
        let driver = node["driver"].as_str().unwrap_or_default().to_owned();
        let Some(fields) = node.as_object_mut() else { return };
        for (key, child) in fields.iter_mut().filter(|(_, child)| child.is_object()) {
            if key == "file" || key == "backing" {
                let format = if key == "file" && driver != "throttle" { &driver } else { format };
                self.node(child, format);
            }
        }
        if fields.contains_key("file") {
            return;
        }
        let file = fields.get("filename").and_then(Value::as_str).unwrap_or_default();
        if file.contains("OVMF") {
            return;
        }
        if driver != "file" {
            self.note("no such volume or device: a file");
            let common = ["node-name", "read-only", "cache", "detect-zeroes", "discard", "auto-read-only", "aio"];
            fields.retain(|key, _| common.contains(&key.as_str()));
            fields.insert("driver".into(), "file".into());
        }
        fields.insert("filename".into(), self.image(format).into());
    }

    /// Starts who is expected behind a socket.
    fn serve(&mut self, path: &str) {
        let mut command = if path.contains("virtiofsd") {
            let mut command = Command::new("/usr/lib/qemu/virtiofsd");
            command.arg(format!("--socket-path={path}")).arg("-o").arg(format!("source={}", self.path(""))).arg("-f");
            command
        } else {
            let mut command = Command::new("swtpm");
            command.args(["socket", "--tpm2", "--tpmstate"]).arg(format!("dir={}", self.path("")));
            command.arg("--ctrl").arg(format!("type=unixio,path={path}"));
            command
        };
        self.servers.push(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + PATIENCE;
        while !Path::new(path).exists() {
            assert!(Instant::now() < until, "nobody listens at '{path}'");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts QEMU, asks for its state, and ends it.
    fn start(&self, command: &[String]) -> Result<String, String> {
        let mut process = Command::new(&command[0]);
        process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = process.spawn().map_err(|error| format!("{}: {error}", command[0]))?;
        let asked = self.ask(&mut process);
        if asked.is_err() {
            // It may have ended.
            let _ = process.kill();
        }
        let mut words = String::new();
        process.stderr.take().expect("piped").read_to_string(&mut words).unwrap();
        process.wait().unwrap();
        asked.map_err(|error| format!("{error}: {}", words.trim()))
    }

    fn ask(&self, process: &mut Child) -> Result<String, String> {
        let text = |error: std::io::Error| error.to_string();
        let until = Instant::now() + PATIENCE;
        let mut stream = loop {
            match UnixStream::connect(self.path("8006.qmp")) {
                Ok(stream) => break stream,
                Err(_) if process.try_wait().map_err(text)?.is_some() => return Err("it has ended".into()),
                Err(error) if Instant::now() > until => return Err(error.to_string()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(PATIENCE)).map_err(text)?;
        let mut answers = BufReader::new(stream.try_clone().map_err(text)?);
        let mut line = String::new();
        answers.read_line(&mut line).map_err(text)?;
        let mut status = String::new();
        for command in ["qmp_capabilities", "query-status", "quit"] {
            // In one piece: it quits before a line's end.
            stream.write_all(json!({"execute": command}).to_string().as_bytes()).map_err(text)?;
            loop {
                line.clear();
                if answers.read_line(&mut line).map_err(text)? == 0 {
                    return Err(format!("it has ended at '{command}'"));
                }
                let answer: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
                if let Some(found) = answer.get("return") {
                    status = found["status"].as_str().unwrap_or(&status).to_owned();
                    break;
                }
            }
        }
        Ok(status)
    }
}

/// `key=value,key,…`, where a value's commas are doubled.
struct Words(Vec<(String, Option<String>)>);

impl Words {
    fn parse(text: &str) -> Self {
        let parts = text.replace(",,", "\0");
        let part = |part: &str| match part.replace('\0', ",").split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (part.replace('\0', ","), None),
        };
        Words(parts.split(',').map(part).collect())
    }

    fn text(&self) -> String {
        let part = |(key, value): &(String, Option<String>)| match value {
            Some(value) => format!("{key}={}", value.replace(',', ",,")),
            None => key.replace(',', ",,"),
        };
        self.0.iter().map(part).collect::<Vec<_>>().join(",")
    }

    fn is(&self, kind: &str) -> bool {
        self.0.first().is_some_and(|(key, value)| key == kind && value.is_none())
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(found, _)| found == key)?.1.as_deref()
    }

    fn set(&mut self, key: &str, value: &str) {
        match self.0.iter_mut().find(|(found, _)| found == key) {
            Some(pair) => pair.1 = Some(value.to_owned()),
            None => self.0.push((key.to_owned(), Some(value.to_owned()))),
        }
    }

    fn remove(&mut self, key: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|(found, _)| found != key);
        self.0.len() < before
    }
}

/// What became of the cases.
#[derive(Default)]
struct Outcome {
    started: usize,
    same: usize,
    refused: BTreeMap<String, Vec<String>>,
    left_out: BTreeMap<String, Vec<String>>,
    replaced: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
    seen: std::collections::BTreeSet<String>,
}

/// Facts of a case with what is true of the installed QEMU.
fn facts_here(text: &str, version: &str) -> Map<String, Value> {
    let here = Host::default();
    let mut facts = facts(text);
    facts.insert("qemu_version".into(), version.into());
    facts.insert("spice".into(), here.has_spice().into());
    facts.insert("io_uring".into(), here.has_io_uring().into());
    if facts.get("kvm").is_none() {
        facts.insert("kvm".into(), true.into());
    }
    facts
}

/// Whether a case was written for the installed version.
fn is_for(text: &str, version: &str) -> bool {
    let short = |version: &str| version.splitn(3, '.').take(2).collect::<Vec<_>>().join(".");
    facts(text).get("qemu_version").and_then(Value::as_str).is_some_and(|named| short(named) == short(version))
}

fn try_case(case: &Path, version: &str, certificate: &str, outcome: &Mutex<Outcome>) {
    let name = case.file_stem().unwrap().to_string_lossy().into_owned();
    let text = std::fs::read_to_string(case).unwrap();
    let mut facts = facts_here(&text, version);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    facts.insert("next_spice_port".into(), port.into());
    let mut stage = Stage::new();
    let host = Host::with_overrides(facts.clone());
    let places = local::Places {
        events: stage.path("8006-event.qmp"),
        certificate: format!("{certificate}/pve-ssl"),
        authority: format!("{certificate}/pve-ssl.pem"),
    };
    let localised = planned(&text, &facts, stage.paths())
        .0
        .and_then(|plan| local::localise(&plan, &host, host.qemu_version()?, &places));
    let command = match localised {
        Ok(local) => local.command,
        Err(error) => {
            let mut outcome = outcome.lock().unwrap();
            if is_for(&text, version)
                && !std::fs::read_to_string(case.with_extension("cmd")).unwrap().starts_with("error:")
            {
                outcome.wrong.push(format!("{name}: {error}"));
            }
            outcome.refused.entry(error.to_string()).or_default().push(name);
            return;
        }
    };
    let plain = command.join(" ").replace(&stage.path(""), "").replace(&port.to_string(), "");
    if !outcome.lock().unwrap().seen.insert(plain.clone()) {
        outcome.lock().unwrap().same += 1;
        return;
    }
    if let Some(reason) = missing(&command) {
        outcome.lock().unwrap().left_out.entry(reason).or_default().push(name);
        return;
    }
    let command = stage.set(&command, &Host::default());
    let started = stage.start(&command);
    let mut outcome = outcome.lock().unwrap();
    for (reason, count) in std::mem::take(&mut stage.replaced) {
        *outcome.replaced.entry(reason).or_default() += count;
    }
    match started {
        Ok(status) if status == "prelaunch" => outcome.started += 1,
        Ok(status) => outcome.wrong.push(format!("{name}: is '{status}'")),
        Err(error) => outcome.wrong.push(format!("{name}: {error}\n{}", to_pretty_text(&command))),
    }
}

/// What is not installed here and cannot be replaced.
fn missing(command: &[String]) -> Option<String> {
    let line = command.join(" ");
    if !Path::new(&command[0]).exists() {
        return Some(format!("'{}' is not installed", command[0]));
    }
    if line.contains("type=virt") && command[0].ends_with("x86_64") {
        return Some("planned for a host of another architecture".into());
    }
    if line.contains(firmware::DIRECTORY) {
        return Some("firmware of a kind that is not installed".into());
    }
    None
}

fn certificate(directory: &Path) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    command.args(["-subj", "/CN=pve1", "-days", "2", "-keyout"]).arg(directory.join("pve-ssl.key"));
    command.arg("-out").arg(directory.join("pve-ssl.pem")).stderr(Stdio::null());
    assert!(command.status().unwrap().success());
}

#[test]
fn the_installed_qemu_accepts_what_is_planned_for_it() {
    let host = Host::default();
    let Ok(version) = host.qemu_version() else {
        eprintln!("SKIPPED: no QEMU is installed");
        return;
    };
    let output = Command::new(host.qemu_program()).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or(&version.to_string()).to_owned();
    let version = version.trim_start_matches("QEMU emulator version ").to_owned();
    let keys = tempfile::tempdir().unwrap();
    certificate(keys.path());
    let wanted = std::env::var("QEMU_CASES").unwrap_or_default();
    let all: Vec<PathBuf> = cases().into_iter().filter(|case| case.to_string_lossy().contains(&wanted)).collect();
    let next = Mutex::new(all.into_iter());
    let outcome = Mutex::new(Outcome::default());
    let certificate = keys.path().to_string_lossy().into_owned();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from).max(2) {
            scope.spawn(|| {
                loop {
                    let case = next.lock().unwrap().next();
                    let Some(case) = case else { return };
                    try_case(&case, &version, &certificate, &outcome);
                }
            });
        }
    });
    let outcome = outcome.into_inner().unwrap();
    eprintln!("QEMU {version}: {} accepted, {} the same as others", outcome.started, outcome.same);
    for (what, list) in [("refused", &outcome.refused), ("left out", &outcome.left_out)] {
        for (reason, cases) in list {
            eprintln!("{what}, {}: {} ({})", cases.len(), reason.trim(), cases.join(", "));
        }
    }
    assert!(outcome.started > 0 || !wanted.is_empty(), "some are for this QEMU");
    for (reason, count) in &outcome.replaced {
        eprintln!("replaced, {count}: {reason}");
    }
    assert!(outcome.wrong.is_empty(), "{} not accepted:\n{}", outcome.wrong.len(), outcome.wrong.join("\n\n"));
}
