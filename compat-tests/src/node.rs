//! A node of its own for each test: a temporary PVE_ROOT, both daemons in the foreground, a free port on loopback.

use crate::{Client, wait_for};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// The node's name.
const NAME: &str = "pve1";

/// A node; what it runs ends when it is dropped.
pub struct Node {
    root: TempDir,
    /// A copy of `/etc` that its programs see in place of the machine's.
    etc: Option<PathBuf>,
    port: u16,
    daemon: Option<Child>,
    proxy: Option<Child>,
    /// A pveproxy in the background, which is nobody's child.
    has_service: bool,
}

/// How a tool ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; 255 is what PVE's tools end with on errors.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Standard output of a tool that must succeed without a word on standard error.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "stdout: {}", self.stdout);
        self.stdout
    }
}

impl Node {
    /// A laid-out node without daemons: tools work on it.
    pub fn without_daemons() -> Self {
        let root = tempfile::Builder::new().prefix("ferrovisor-test-").tempdir().expect("a temporary directory");
        // pveproxy runs as www-data and containers as shifted users.
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("own directory");
        Node { root, etc: None, port: 0, daemon: None, proxy: None, has_service: false }
    }

    /// A node whose daemons answer.
    pub fn start() -> Self {
        let mut node = Node::without_daemons();
        node.port = free_port();
        node.start_daemon();
        node.start_proxy();
        node
    }

    /// A node whose daemons answer and whose machine has one more user. The accounts of this machine stay as they are.
    pub fn start_with_account(name: &str, password: &str) -> Self {
        let mut node = Node::without_daemons();
        node.own_etc();
        must("useradd", node.within_etc("useradd").args(["--no-create-home", name]));
        let mut child = node.within_etc("chpasswd").stdin(Stdio::piped()).spawn().expect("chpasswd starts");
        let line = format!("{name}:{password}\n");
        child.stdin.take().expect("a pipe").write_all(line.as_bytes()).expect("chpasswd reads");
        assert!(child.wait().expect("a child of ours").success(), "chpasswd");
        node.port = free_port();
        node.start_daemon();
        node.start_proxy();
        node
    }

    /// Gives the node's programs a copy of this machine's `/etc`, to be changed at will.
    pub fn own_etc(&mut self) -> PathBuf {
        let etc = self.path("machine-etc");
        must("cp", Command::new("cp").arg("-a").arg("/etc").arg(&etc));
        self.etc = Some(etc.clone());
        etc
    }

    /// A program in a mount name space in which `/etc` is the node's copy, if it has one.
    fn within_etc(&self, program: impl AsRef<OsStr>) -> Command {
        let Some(etc) = &self.etc else { return Command::new(program) };
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", r#"mount --bind "$0" /etc && exec "$@""#]).arg(etc).arg(program);
        command
    }

    /// Starts pvedaemon and waits for its socket.
    pub fn start_daemon(&mut self) {
        let socket = self.path("run/pvedaemon.sock");
        let mut command = self.program("pvedaemon");
        self.daemon = Some(self.spawn(command.args(["start", "--debug", "1"]), "pvedaemon"));
        wait_for("pvedaemon's socket", 20, || std::os::unix::net::UnixStream::connect(&socket).ok());
    }

    /// Starts pveproxy and waits for its port.
    pub fn start_proxy(&mut self) {
        let mut command = self.program("pveproxy");
        command.args(["start", "--debug", "1", "--listen", "127.0.0.1", "--port", &self.port.to_string()]);
        self.proxy = Some(self.spawn(&mut command, "pveproxy"));
        wait_for("pveproxy's port", 20, || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// Puts a pveproxy into the background, as services run, in place of the one in the foreground.
    pub fn start_proxy_as_service(&mut self) {
        self.kill_proxy();
        self.has_service = true;
        let port = self.port.to_string();
        self.run("pveproxy", &["start", "--listen", "127.0.0.1", "--port", &port]).ok();
    }

    /// The process that the pid file of pveproxy names.
    pub fn proxy_service_pid(&self) -> u32 {
        let text = fs::read_to_string(self.path("run/pveproxy/pveproxy.pid")).expect("pveproxy runs");
        text.trim().parse().expect("a number")
    }

    fn spawn(&self, command: &mut Command, name: &str) -> Child {
        let log =
            fs::OpenOptions::new().create(true).append(true).open(self.path(&format!("{name}.out"))).expect("a log");
        let error = log.try_clone().expect("a log");
        command.stdin(Stdio::null()).stdout(log).stderr(error).spawn().unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The process of pvedaemon.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("pvedaemon runs").id()
    }

    /// The process of pveproxy.
    pub fn proxy_pid(&self) -> u32 {
        self.proxy.as_ref().expect("pveproxy runs").id()
    }

    /// Kills pvedaemon with -9.
    pub fn kill_daemon(&mut self) {
        kill(self.daemon.take());
    }

    /// Kills pveproxy with -9.
    pub fn kill_proxy(&mut self) {
        kill(self.proxy.take());
    }

    /// Waits for the end of pvedaemon, which has been told to end.
    pub fn reap_daemon(&mut self) {
        reap(self.daemon.take());
    }

    /// Waits for the end of pveproxy, which has been told to end.
    pub fn reap_proxy(&mut self) {
        reap(self.proxy.take());
    }

    /// The node's name.
    pub fn name(&self) -> &'static str {
        NAME
    }

    /// The port of pveproxy.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The node's root.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A path below the root, written without the first slash.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join(relative)
    }

    /// One of our programs in this node's environment.
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.within_etc(programs().join(name));
        command.env("PVE_ROOT", self.root.path()).env("PVE_NODENAME", NAME).env("TZ", "UTC").env("LC_ALL", "C");
        command
    }

    /// Runs a tool to its end.
    pub fn run<S: AsRef<OsStr>>(&self, tool: &str, arguments: &[S]) -> Ran {
        let mut command = self.program(tool);
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{tool}: {e}"));
        Ran {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// An anonymous client.
    pub fn client(&self) -> Client {
        Client::new(self.port)
    }

    /// A client with a token of the user `admin@pve`, who may do everything but what only `root@pam` may.
    #[track_caller]
    pub fn admin(&self) -> Client {
        if !fs::read_to_string(self.path("etc/pve/user.cfg")).unwrap_or_default().contains("user:admin@pve:") {
            self.user("admin@pve", "Administrator");
        }
        self.client().with_token(&self.token("admin@pve"))
    }

    /// Makes a user with the password `secret-password` and a role on `/`; an empty role gives no right.
    #[track_caller]
    pub fn user(&self, user: &str, role: &str) {
        self.run("pveum", &["user", "add", user, "--password", "secret-password"]).ok();
        if !role.is_empty() {
            self.run("pveum", &["acl", "modify", "/", "--users", user, "--roles", role]).ok();
        }
    }

    /// Makes a token without privilege separation: `user@realm!name=secret`.
    #[track_caller]
    pub fn token(&self, user: &str) -> String {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let arguments = ["user", "token", "add", user, &name, "--privsep", "0", "--output-format", "json"];
        let added: Value = serde_json::from_str(&self.run("pveum", &arguments).ok()).expect("JSON");
        format!("{user}!{name}={}", added["value"].as_str().expect("a secret"))
    }

    /// Ends guests that a test has left running, by their own processes; a test that passes leaves none.
    fn end_guests(&self) {
        let names = |directory: &str| -> Vec<String> {
            let entries = fs::read_dir(self.path(directory)).into_iter().flatten();
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
        };
        for file in names("run/qemu-server").iter().filter(|name| name.ends_with(".pid")) {
            let pid = fs::read_to_string(self.path(&format!("run/qemu-server/{file}"))).unwrap_or_default();
            // It may be ending already.
            let _ = Command::new("kill").args(["-9", pid.trim()]).stderr(Stdio::null()).status();
        }
        for id in names("var/lib/lxc") {
            let mut stop = Command::new("lxc-stop");
            stop.arg("-P").arg(self.path("var/lib/lxc")).args(["-n", &id, "-k"]);
            // Most are stopped.
            let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
    }

    /// Waits for the end of a task and gives back its `exitstatus`.
    #[track_caller]
    pub fn wait_task(&self, client: &Client, upid: &Value) -> String {
        // The id of a task may have characters that a path has not.
        let upid = upid.as_str().unwrap_or_else(|| panic!("not a UPID: {upid}")).replace('>', "%3E");
        let status = wait_for(&format!("end of {upid}"), 300, || {
            let status = client.get(&format!("/nodes/{NAME}/tasks/{upid}/status")).data();
            (status["status"] == "stopped").then_some(status)
        });
        status["exitstatus"].as_str().expect("a stopped task has an exit status").to_owned()
    }

    /// Waits for a task that must end well; panics with its log otherwise.
    #[track_caller]
    pub fn finish(&self, client: &Client, upid: &Value) {
        let status = self.wait_task(client, upid);
        let log =
            || client.get(&format!("/nodes/{NAME}/tasks/{}/log?limit=0", upid.as_str().unwrap_or_default())).text();
        assert_eq!(status, "OK", "{}", log());
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["pvedaemon", "pveproxy"] {
                let log = fs::read_to_string(self.path(&format!("{name}.out"))).unwrap_or_default();
                if !log.is_empty() {
                    eprintln!("--- {name} said:\n{log}");
                }
            }
        }
        self.end_guests();
        if self.has_service {
            self.run("pveproxy", &["stop"]);
        }
        kill(self.proxy.take());
        kill(self.daemon.take());
        // Images of templates are immutable, and there may be none.
        let _ = Command::new("chattr").args(["-R", "-f", "-i"]).arg(self.root()).stderr(Stdio::null()).status();
    }
}

fn must(what: &str, command: &mut Command) {
    assert!(command.status().unwrap_or_else(|error| panic!("{what}: {error}")).success(), "{what}");
}

fn reap(child: Option<Child>) {
    let status = child.expect("it runs").wait().expect("a child of ours");
    assert!(status.success(), "{status}");
}

fn kill(child: Option<Child>) {
    if let Some(mut child) = child {
        // It may have ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The directory of the built programs: two above the test's own executable.
fn programs() -> PathBuf {
    let own = std::env::current_exe().expect("a test is a program");
    let directory = own.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").to_owned();
    let tools = directory.join("ferrovisor-tools");
    if tools.exists() && fs::symlink_metadata(directory.join("pvenet")).is_err() {
        link_tools(&tools, &directory);
    }
    directory
}

/// The smaller tools are one program under several names.
fn link_tools(tools: &Path, directory: &Path) {
    let names = Command::new(tools).arg("--list").output().expect("ferrovisor-tools starts").stdout;
    for name in String::from_utf8_lossy(&names).lines() {
        // Another test may be doing the same.
        let _ = std::os::unix::fs::symlink("ferrovisor-tools", directory.join(name));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}
