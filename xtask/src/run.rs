//! `cargo xtask run`: a node below a folder of its own, with both daemons, and how to start the first guest.

use crate::{Outcome, cargo, demo, packages, sh, target, workspace};
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A node's folder and how its programs are called.
pub struct Node {
    /// `PVE_ROOT`.
    pub root: PathBuf,
    /// The directory of the release programs.
    pub programs: PathBuf,
    listen: String,
    port: u16,
}

/// Starts or stops the node.
pub fn main(arguments: &[&str]) -> Outcome {
    if !packages::is_root() {
        return Err("a node starts guests and networks: run this as root".into());
    }
    let value = |name: &str| arguments.iter().position(|a| *a == name).and_then(|at| arguments.get(at + 1)).copied();
    let node = Node {
        root: default_root()?,
        programs: target("release"),
        listen: value("--listen").unwrap_or("127.0.0.1").to_owned(),
        port: value("--port").map_or(Ok(8006), str::parse)?,
    };
    if arguments.contains(&"--stop") {
        return node.stop();
    }
    packages::ensure()?;
    build()?;
    node.start()?;
    let password = node.administrator()?;
    node.welcome(&password);
    if arguments.contains(&"--demo") {
        demo::start(&node)?;
    }
    Ok(())
}

/// Builds the release programs.
pub fn build() -> Outcome {
    println!("building (release) …");
    sh(cargo().args(["build", "--release", "--workspace", "--bins", "--exclude", "xtask"]))?;
    link_tools(&target("release"))
}

/// `PVE_ROOT`, else `node` in the checkout, else (when others may not enter the checkout) a folder below `/srv`.
fn default_root() -> Outcome<PathBuf> {
    if let Some(root) = std::env::var_os("PVE_ROOT") {
        return Ok(PathBuf::from(root));
    }
    let checkout = workspace().canonicalize()?;
    let open = checkout.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o1 != 0));
    if open {
        return Ok(checkout.join("node"));
    }
    // pveproxy runs as www-data, containers as shifted users: both must be able to enter.
    println!("{} is closed to other users; the node's folder is /srv/ferrovisor-node", checkout.display());
    Ok(PathBuf::from("/srv/ferrovisor-node"))
}

impl Node {
    /// One of our programs in this node's environment.
    pub fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.join(name));
        command.env("PVE_ROOT", &self.root).env("PVE_NODENAME", node_name());
        command
    }

    fn start(&self) -> Outcome {
        fs::create_dir_all(&self.root)?;
        sh(self.program("pvedaemon").arg("start"))?;
        let port = self.port.to_string();
        sh(self.program("pveproxy").args(["start", "--listen", &self.listen, "--port", &port]))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect((self.listen.as_str(), self.port)).is_err() {
            if Instant::now() > deadline {
                return Err(format!("pveproxy does not answer; see {}/var/log", self.root.display()).into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn stop(&self) -> Outcome {
        demo::stop(self)?;
        sh(self.program("pveproxy").arg("stop"))?;
        sh(self.program("pvedaemon").arg("stop"))
    }

    /// The password of `admin@pve`; the user is made at the first start.
    fn administrator(&self) -> Outcome<String> {
        let file = self.root.join("admin-password");
        if let Ok(password) = fs::read_to_string(&file) {
            return Ok(password.trim().to_owned());
        }
        let password = random_password()?;
        sh(self
            .program("pveum")
            .args(["user", "add", "admin@pve", "--comment", "made at the first start"])
            .args(["--password", &password]))?;
        sh(self.program("pveum").args(["acl", "modify", "/", "--users", "admin@pve", "--roles", "Administrator"]))?;
        fs::write(&file, &password)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(password)
    }

    fn welcome(&self, password: &str) {
        let (root, programs) = (self.root.display(), self.programs.display());
        let address = format!("https://{}:{}", self.listen, self.port);
        println!(
            "\nThe node {name} runs below {root}.\n\n  address   {address}/\n  user      admin@pve\n  password  {password}\n\n\
             Try:\n  export PVE_ROOT={root} PVE_NODENAME={name} PATH={programs}:$PATH\n  pvesh get /version\n  \
             qm create 100 --name first --memory 512 --kvm 0 --scsi0 local:1 --serial0 socket && qm start 100 && qm list\n  \
             curl -k -d username=admin@pve --data-urlencode password='{password}' {address}/api2/json/access/ticket\n\n\
             `cargo xtask run --demo` starts a VM and a container, `cargo xtask run --stop` ends the node.",
            name = node_name()
        );
    }
}

/// The machine's name up to its first dot.
fn node_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().split('.').next().filter(|name| !name.is_empty()).unwrap_or("localhost").to_owned()
}

/// The smaller tools are one program under several names.
fn link_tools(programs: &Path) -> Outcome {
    let names = crate::output(Command::new(programs.join("ferrovisor-tools")).arg("--list"))?;
    for name in names.lines() {
        let link = programs.join(name);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink("ferrovisor-tools", link)?;
        }
    }
    Ok(())
}

fn random_password() -> Outcome<String> {
    use std::io::Read;
    let mut bytes = [0; 12];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
