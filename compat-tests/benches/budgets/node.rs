//! A node of release programs below a temporary directory.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The node; its daemons stop when it is dropped.
pub struct Node {
    root: tempfile::TempDir,
    programs: PathBuf,
    /// The port of pveproxy.
    pub port: u16,
    token: String,
    running: bool,
}

impl Node {
    /// A laid-out node without daemons.
    pub fn prepare() -> Self {
        let programs = std::env::var_os("FERROVISOR_PROGRAMS").expect("started by `cargo xtask bench`").into();
        let root = tempfile::Builder::new().prefix("ferrovisor-bench-").tempdir().expect("a directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(root.path(), open).expect("own directory");
        let mut node = Node { root, programs, port: 0, token: String::new(), running: false };
        node.check(node.program("pvesh").args(["get", "/version"]));
        node.check(node.program("pveum").args(["user", "add", "bench@pve"]));
        node.check(node.program("pveum").args([
            "acl",
            "modify",
            "/",
            "--users",
            "bench@pve",
            "--roles",
            "Administrator",
        ]));
        let added = ["user", "token", "add", "bench@pve", "bench", "--privsep", "0", "--output-format", "json"];
        let added = node.program("pveum").args(added).output().expect("pveum starts");
        let added: serde_json::Value = serde_json::from_slice(&added.stdout).expect("a token");
        node.token = format!("bench@pve!bench={}", added["value"].as_str().expect("a secret"));
        node
    }

    /// A running node with this many stopped VMs.
    pub fn start(guests: u32) -> Self {
        let mut node = Node::prepare();
        let directory = node.path("etc/pve/qemu-server");
        fs::create_dir_all(&directory).expect("own directory");
        for vmid in 1000..1000 + guests {
            let config = format!(
                "cores: 2\nmemory: 2048\nname: vm-{vmid}\nnet0: virtio=BC:24:11:00:00:01,bridge=vmbr0\n\
                 ostype: l26\nscsi0: local:{vmid}/vm-{vmid}-disk-0.qcow2,size=32G\nscsihw: virtio-scsi-single\n"
            );
            fs::write(directory.join(format!("{vmid}.conf")), config).expect("own directory");
        }
        node.port =
            TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        node.check(node.program("pvedaemon").arg("start"));
        let port = node.port.to_string();
        node.check(node.program("pveproxy").args(["start", "--listen", "127.0.0.1", "--port", &port]));
        node.running = true;
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", node.port)).is_err() {
            assert!(Instant::now() < deadline, "pveproxy answers");
            std::thread::sleep(Duration::from_millis(20));
        }
        node
    }

    /// One of our programs in this node's environment.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("PVE_ROOT", self.root.path()).env("PVE_NODENAME", "bench").stdin(Stdio::null());
        command
    }

    /// A path below the node's root.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    /// Runs a program that must succeed.
    pub fn check(&self, command: &mut Command) {
        let output = command.stdin(Stdio::null()).output().expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {} {error}", output.status);
    }

    /// A GET request with the token.
    pub fn request(&self, path: &str) -> Vec<u8> {
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: PVEAPIToken={}\r\n\r\n", self.token)
            .into_bytes()
    }

    /// Resident memory of both daemons, workers of tasks not counted.
    pub fn memory_mib(&self) -> f64 {
        let resident = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB").trim();
            line.trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0) / 1024.0
        };
        self.daemons().iter().map(resident).sum()
    }

    /// What the daemons use of one core in percent, and what they write to disk in kB, while nobody asks.
    pub fn rest(&self, time: Duration) -> (f64, f64) {
        std::thread::sleep(Duration::from_secs(5));
        let before = self.used();
        std::thread::sleep(time);
        let after = self.used();
        ((after.0 - before.0) / time.as_secs_f64() * 100.0, (after.1 - before.1) / 1024.0)
    }

    /// Seconds of CPU and bytes written so far.
    fn used(&self) -> (f64, f64) {
        let mut sum = (0.0, 0.0);
        for pid in self.daemons() {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks: f64 = fields[11..13].iter().filter_map(|field| field.parse::<f64>().ok()).sum();
            sum.0 += ticks / 100.0;
            let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
            sum.1 += line.and_then(|bytes| bytes.parse::<f64>().ok()).unwrap_or(0.0);
        }
        sum
    }

    /// The processes whose environment names this node's root.
    fn daemons(&self) -> Vec<u32> {
        let mark = format!("PVE_ROOT={}", self.root.path().display());
        let of_ours = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            ["pveproxy", "pvedaemon"].contains(&name.trim())
                && environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").expect("/proc is mounted");
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(of_ours).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.running {
            self.check(self.program("pveproxy").arg("stop"));
            self.check(self.program("pvedaemon").arg("stop"));
        }
    }
}
