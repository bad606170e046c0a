//! One machine of the lab: its QEMU, its folder with all sockets, its cables.
//!
//! A cable's end is a Unix datagram socket, one Ethernet frame for each datagram. Card `en01` of a machine receives at
//! `en01` in its folder and sends to `en01.far`, a symbolic link: plugging a cable in is making two links. The other end may
//! be another machine or any program that binds a socket.

use super::image::{CARDS, HOSTNAME, Image};
use super::qmp::Qmp;
use super::ssh::Ssh;
use crate::{Outcome, sh};
use serde_json::{Value, json};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Empty disks besides the system's, each of this size.
const SPARE_DISKS: [&str; 3] = ["lab1", "lab2", "lab3"];
const SPARE_SIZE: &str = "8G";

/// What the processor can. The string functions that the C library takes for newer ones are slower to emulate.
const CPU: &str = "Nehalem,+aes,+pclmulqdq,+rdrand";

/// How long a machine may need to boot; much is for hosts on which many others work.
pub const BOOT_SECONDS: u64 = 900;

/// A machine by its name, running or not.
pub struct Machine {
    name: String,
    folder: PathBuf,
}

/// What a machine starts from.
pub struct Origin<'a> {
    /// Kernel and key.
    pub image: &'a Image,
    /// The disk below its own.
    pub disk: PathBuf,
    /// The state to go on from; without it the machine boots.
    pub memory: Option<PathBuf>,
    /// A file that lies at the start of the last spare disk, instead of nothing: much quicker than any network.
    pub parcel: Option<PathBuf>,
}

impl Machine {
    /// A machine whose sockets lie in `runs`.
    pub fn new(runs: &Path, name: &str) -> Outcome<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 30 || !name.bytes().all(plain) {
            return Err(format!("'{name}' is no name for a machine: small letters, digits and '-'").into());
        }
        Ok(Machine { name: name.to_owned(), folder: runs.join(name) })
    }

    /// Starts QEMU and waits until commands can be run inside.
    pub fn start(&self, origin: &Origin) -> Outcome {
        if self.is_running() {
            return Err(format!("machine '{}' runs already", self.name).into());
        }
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        fs::create_dir_all(&self.folder)?;
        overlay(&origin.disk, &self.disk())?;
        for disk in SPARE_DISKS {
            let mut create = Command::new("qemu-img");
            sh(create.args(["create", "-q", "-f", "qcow2"]).arg(self.folder.join(disk)).arg(SPARE_SIZE))?;
        }
        if let Some(parcel) = &origin.parcel {
            let mut convert = Command::new("qemu-img");
            convert.args(["convert", "-n", "-f", "raw", "-O", "qcow2"]).arg(parcel);
            sh(convert.arg(self.folder.join(SPARE_DISKS[2])))?;
        }
        let (ssh, api) = free_ports()?;
        let about = json!({ "ssh": ssh, "api": api, "key": origin.image.key() });
        fs::write(self.folder.join("machine.json"), about.to_string())?;
        sh(self.qemu(origin, ssh, api).stdin(Stdio::null()))?;
        let outcome = self.wait_for_commands(origin.memory.is_some());
        if outcome.is_err() {
            self.stop()?;
        }
        outcome
    }

    fn wait_for_commands(&self, restored: bool) -> Outcome {
        if restored {
            self.qmp()?.go_on()?;
        }
        self.ssh()?.open(BOOT_SECONDS, || self.is_running())?;
        if restored { self.arrive() } else { Ok(()) }
    }

    /// After the state of another run: it is later now, and cards of two machines on one cable must differ. The way in
    /// gets the address, too, that it has after the next boot: the network behind it learns one from questions only,
    /// and nobody asks after a boot.
    fn arrive(&self) -> Outcome {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let mut script = format!("date -u -s @{now} >/dev/null\n");
        for (at, (card, _)) in CARDS.iter().enumerate() {
            script += &format!("ip link set dev {card} address {}\n", self.hardware_address(at));
            if at == 0 {
                script += &format!("ip neigh flush dev {card}\n");
                continue;
            }
            // LACP joins only cards that know their speed.
            script += &format!("ethtool -s {card} speed 1000 duplex full\n");
        }
        self.ssh()?.script(&script).map(drop)
    }

    /// Gives the machine another name inside. Daemons that run already do not notice.
    pub fn rename(&self, name: &str) -> Outcome {
        let script =
            format!("echo {name} > /etc/hostname\nsed -i 's/ {HOSTNAME}$/ {name}/' /etc/hosts\nhostname {name}\n");
        self.ssh()?.script(&script).map(drop)
    }

    /// Boots the machine again from inside and waits until it is up.
    pub fn reboot(&self) -> Outcome {
        let ssh = self.ssh()?;
        let boot = ssh.script("cat /proc/sys/kernel/random/boot_id")?;
        // The connection ends under the command.
        let _ = ssh.script("systemctl reboot");
        ssh.close();
        let deadline = Instant::now() + Duration::from_secs(BOOT_SECONDS);
        loop {
            ssh.open(BOOT_SECONDS, || self.is_running())?;
            match ssh.script("cat /proc/sys/kernel/random/boot_id") {
                Ok(now) if now != boot => return self.wait_for_system(),
                // Still on its way down.
                _ if Instant::now() < deadline => ssh.close(),
                _ => return Err("the machine does not boot again".into()),
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until systemd has nothing more to start.
    pub fn wait_for_system(&self) -> Outcome {
        // `degraded` is an answer, too: a test looks at what failed.
        self.ssh()?.script("systemctl is-system-running --wait || true").map(drop)
    }

    /// Ends QEMU at once and removes the machine's folder.
    pub fn stop(&self) -> Outcome {
        if let Ok(ssh) = self.ssh() {
            ssh.close();
        }
        if let Some(pid) = self.pid() {
            let _ = self.qmp().and_then(|mut qmp| qmp.ask("quit", json!({})));
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.is_running() {
                if Instant::now() > deadline {
                    sh(Command::new("kill").args(["-9", &pid]))?;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        if self.folder.exists() {
            fs::remove_dir_all(&self.folder)?;
        }
        Ok(())
    }

    /// Puts what the machine is now into a folder, as an origin of others, and ends it.
    pub fn freeze(&self, folder: &Path) -> Outcome {
        // What is only cached need not be saved.
        self.ssh()?.script("sync; echo 3 > /proc/sys/vm/drop_caches")?;
        self.ssh()?.close();
        let work = folder.with_extension("unfinished");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir_all(&work)?;
        self.qmp()?.save(&work.join("memory"))?;
        let disk = self.folder.join("kept");
        fs::rename(self.disk(), &disk)?;
        // QEMU holds the file open; it ends before the file is moved.
        let _ = self.qmp().and_then(|mut qmp| qmp.ask("quit", json!({})));
        while self.is_running() {
            std::thread::sleep(Duration::from_millis(50));
        }
        sh(Command::new("mv").arg(&disk).arg(work.join("disk.qcow2")))?;
        fs::rename(work, folder)?;
        self.stop()
    }

    /// The connection for commands.
    pub fn ssh(&self) -> Outcome<Ssh> {
        let about = self.about()?;
        let port = |name: &str| about[name].as_u64().and_then(|port| u16::try_from(port).ok());
        Ok(Ssh {
            control: self.folder.join("ssh"),
            key: about["key"].as_str().ok_or("a machine has a key")?.into(),
            port: port("ssh").ok_or("a machine has a port")?,
        })
    }

    /// QEMU's own commands.
    pub fn qmp(&self) -> Outcome<Qmp> {
        Qmp::connect(&self.folder.join("qmp"))
    }

    /// What the machine was started with: `ssh`, `api` (ports on loopback) and `key`.
    pub fn about(&self) -> Outcome<Value> {
        let text = fs::read_to_string(self.folder.join("machine.json"));
        Ok(serde_json::from_str(&text.map_err(|_| format!("machine '{}' does not run", self.name))?)?)
    }

    /// The socket of a card, or an error when the machine has no such cable.
    pub fn card(&self, card: &str) -> Outcome<PathBuf> {
        match CARDS.iter().skip(1).any(|(name, _)| *name == card) {
            true => Ok(self.folder.join(card)),
            false => Err(format!("there is no card '{card}'; there are en01 to en04").into()),
        }
    }

    /// Plugs a cable in: what `card` sends goes to the socket `far`.
    pub fn plug(&self, card: &str, far: &Path) -> Outcome {
        let link = self.card(card)?.with_extension("far");
        let _ = fs::remove_file(&link);
        Ok(symlink(far, link)?)
    }

    /// Lets the card see its cable go or come.
    pub fn set_link(&self, card: &str, up: bool) -> Outcome {
        self.card(card)?;
        self.qmp()?.ask("set_link", json!({ "name": card, "up": up })).map(drop)
    }

    /// Whether its QEMU lives.
    pub fn is_running(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&command).contains(&self.folder.display().to_string())
    }

    fn pid(&self) -> Option<String> {
        let text = fs::read_to_string(self.folder.join("pid")).ok()?;
        Some(text.trim().to_owned()).filter(|pid| !pid.is_empty())
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk.qcow2")
    }

    fn hardware_address(&self, card: usize) -> String {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        let hash = hasher.finish();
        format!("52:54:00:{:02x}:{:02x}:{card:02x}", hash & 0xff, hash >> 8 & 0xff)
    }

    /// What a state fits to: QEMU's arguments, for a name and ports that are always the same.
    pub fn shape(&self, image: &Image) -> Vec<String> {
        let origin = Origin { image, disk: image.disk(), memory: None, parcel: None };
        self.qemu(&origin, 1, 2).get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    fn qemu(&self, origin: &Origin, ssh: u16, api: u16) -> Command {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut qemu = Command::new("qemu-system-x86_64");
        let mut add = |option: &str, value: String| {
            qemu.arg(option).arg(value);
        };
        add("-name", format!("lab-{}", self.name));
        add("-accel", "tcg,thread=multi,tb-size=256".into());
        add("-machine", "q35,usb=off,vmport=off,hpet=on".into());
        add("-cpu", CPU.into());
        add("-smp", "2".into());
        add("-m", "2048".into());
        add("-display", "none".into());
        add("-kernel", origin.image.kernel().display().to_string());
        add("-initrd", origin.image.initramfs().display().to_string());
        add("-append", "console=ttyS0 quiet mitigations=off audit=0 random.trust_cpu=on panic=-1".into());
        add("-chardev", format!("file,id=console,path={}", path("console")));
        add("-serial", "chardev:console".into());
        add("-qmp", format!("unix:{},server=on,wait=off", path("qmp")));
        add("-pidfile", path("pid"));
        add("-device", "virtio-rng-pci,addr=0x3".into());
        let disks = [("disk.qcow2", 2), (SPARE_DISKS[0], 4), (SPARE_DISKS[1], 5), (SPARE_DISKS[2], 6)];
        for (disk, slot) in disks {
            let id = disk.split('.').next().unwrap_or(disk);
            add("-drive", format!("file={},if=none,id={id},format=qcow2,cache=unsafe,discard=unmap", path(disk)));
            add("-device", format!("virtio-blk-pci,drive={id},serial={id},addr={slot:#x}"));
        }
        for (at, (card, slot)) in CARDS.iter().enumerate() {
            add(
                "-netdev",
                match at {
                    0 => format!("user,id={card},hostfwd=tcp:127.0.0.1:{ssh}-:22,hostfwd=tcp:127.0.0.1:{api}-:8006"),
                    _ => {
                        let (near, far) = (path(card), path(&format!("{card}.far")));
                        format!("dgram,id={card},local.type=unix,local.path={near},remote.type=unix,remote.path={far}")
                    }
                },
            );
            let address = self.hardware_address(at);
            add("-device", format!("virtio-net-pci,netdev={card},mac={address},romfile=,addr={slot:#x}"));
        }
        if let Some(memory) = &origin.memory {
            add("-incoming", format!("exec:cat '{}'", memory.display()));
        }
        qemu.args(["-nodefaults", "-no-user-config", "-daemonize"]);
        qemu
    }
}

/// A disk that keeps what differs from another.
fn overlay(below: &Path, disk: &Path) -> Outcome {
    let format = if below.extension().is_some_and(|end| end == "raw") { "raw" } else { "qcow2" };
    let mut create = Command::new("qemu-img");
    sh(create.args(["create", "-q", "-f", "qcow2", "-F", format, "-b"]).arg(below).arg(disk))
}

/// Two ports on loopback that nobody has at this moment.
fn free_ports() -> Outcome<(u16, u16)> {
    let sockets = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok((sockets[0].local_addr()?.port(), sockets[1].local_addr()?.port()))
}
