//! Facts of the machine. What is probed here can be replaced by a JSON file (`PVE_HOST_FACTS`), for tests and for
//! planning on another machine.
//!
//! Owns probing; must not change the machine. Every fact is probed when it is first asked for. What QEMU says of itself
//! costs a program start, so it is kept below `/run`, keyed by the program's time stamp.

mod addresses;
mod guests;

pub use addresses::addresses;
pub use guests::firmware_here;

use crate::{Error, Result, Root, command, error::ResultExt};
use serde_json::{Map, Value};
use std::fmt;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The machine's facts: what the file names wins over what is probed.
#[derive(Debug, Default)]
pub struct Host {
    overrides: Map<String, Value>,
    qemu: OnceLock<QemuVersion>,
    processor: OnceLock<Processor>,
}

/// Which QEMU the host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuVersion {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
    /// Whether it is Proxmox's build, with machine revisions (`+pve1`), `-id` and their block drivers.
    pub proxmox: bool,
}

/// What `/proc/cpuinfo` says of the first processor.
#[derive(Debug, Clone, Default)]
struct Processor {
    vendor: String,
    flags: String,
    address_bits: Option<u32>,
}

/// The emulator of the distribution.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

impl Host {
    /// Facts with replacements, as the file of `PVE_HOST_FACTS` has them.
    pub fn with_overrides(overrides: Map<String, Value>) -> Self {
        Host { overrides, ..Host::default() }
    }

    /// Probed facts, replaced by the file that `PVE_HOST_FACTS` names.
    pub fn from_env() -> Result<Self> {
        let Some(file) = std::env::var_os("PVE_HOST_FACTS") else {
            return Ok(Host::default());
        };
        let place = || format!("PVE_HOST_FACTS {}", file.to_string_lossy());
        let text = fs::read_to_string(&file).context(place)?;
        let overrides = serde_json::from_str(&text).map_err(|error| Error::new(error.to_string())).context(place)?;
        Ok(Host::with_overrides(overrides))
    }

    /// A replaced fact, if the file names it.
    pub fn replaced(&self, key: &str) -> Option<&Value> {
        self.overrides.get(key)
    }

    fn replaced_text(&self, key: &str) -> Option<String> {
        self.replaced(key).map(crate::call::config_text)
    }

    fn replaced_number(&self, key: &str) -> Option<u64> {
        self.replaced_text(key)?.parse().ok()
    }

    fn replaced_flag(&self, key: &str) -> Option<bool> {
        self.replaced_text(key).map(|text| !matches!(text.as_str(), "" | "0" | "false"))
    }

    /// The node's name: `PVE_NODENAME`, else the replaced fact, else the host name up to its first dot.
    pub fn node_name(&self) -> String {
        if let Ok(name) = std::env::var("PVE_NODENAME")
            && !name.is_empty()
        {
            return name;
        }
        if let Some(Value::String(name)) = self.replaced("nodename") {
            return name.clone();
        }
        let uname = rustix::system::uname();
        let name = uname.nodename().to_string_lossy();
        name.split('.').next().filter(|name| !name.is_empty()).unwrap_or("localhost").to_owned()
    }

    /// The emulator that is started.
    pub fn qemu_program(&self) -> &'static str {
        QEMU
    }

    /// The version of QEMU. A replaced one is taken for Proxmox's build unless its text names another.
    pub fn qemu_version(&self) -> Result<&QemuVersion> {
        if let Some(version) = self.qemu.get() {
            return Ok(version);
        }
        let version = match self.replaced_text("qemu_version") {
            Some(text) => {
                let proxmox = !text.contains('(') || text.contains("pve-qemu");
                QemuVersion { proxmox, ..QemuVersion::parse(&text)? }
            }
            None => probe_qemu(&Root::from_env(), Path::new(QEMU))?,
        };
        Ok(self.qemu.get_or_init(|| version))
    }

    /// What QEMU prints for `-machine help` or `-cpu help`. Can be replaced as `qemu_machine_help`, `qemu_cpu_help`.
    pub fn qemu_help(&self, root: &Root, option: &str) -> Result<String> {
        if let Some(text) = self.replaced_text(&format!("qemu_{option}_help")) {
            return Ok(text);
        }
        self.remember(root, &format!("{option}-help"), || {
            Ok(command::run(QEMU, &[format!("-{option}"), "help".to_owned()])?.stdout)
        })
    }

    /// An answer of the installed QEMU, kept under `name` until another one is installed.
    pub fn remember(&self, root: &Root, name: &str, ask: impl FnOnce() -> Result<String>) -> Result<String> {
        remembered(root, Path::new(QEMU), &format!("qemu-{name}"), ask)
    }

    /// The architecture of the host, as QEMU names it.
    pub fn architecture(&self) -> String {
        self.replaced_text("host_arch").unwrap_or_else(|| std::env::consts::ARCH.to_owned())
    }

    /// `GenuineIntel`, `AuthenticAMD` or another.
    pub fn cpu_vendor(&self) -> String {
        self.replaced_text("cpu_vendor").unwrap_or_else(|| self.processor().vendor.clone())
    }

    /// Whether the processor has a feature, as `/proc/cpuinfo` names it.
    pub fn has_cpu_flag(&self, flag: &str) -> bool {
        self.processor().flags.split(' ').any(|found| found == flag)
    }

    /// Processors of the host.
    pub fn cpu_count(&self) -> u64 {
        self.replaced_number("cpu_count").unwrap_or_else(|| {
            let online = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            let count = online.lines().filter(|line| line.starts_with("processor")).count();
            count.max(1) as u64
        })
    }

    /// Width of physical addresses.
    pub fn phys_address_bits(&self) -> Option<u32> {
        match self.replaced_number("phys_address_bits") {
            Some(bits) => bits.try_into().ok(),
            None => self.processor().address_bits,
        }
    }

    /// Whether the kernel can run guests. Assumed when planning for another machine.
    pub fn has_kvm(&self) -> bool {
        self.replaced_flag("kvm").unwrap_or_else(|| self.replaced("qemu_version").is_some() || probe_kvm())
    }

    /// Whether virtio network cards can be served by the kernel.
    pub fn has_vhost_net(&self) -> bool {
        self.replaced_flag("vhost_net").unwrap_or_else(|| Path::new("/dev/vhost-net").exists())
    }

    /// Whether this process may use io_uring; QEMU's block layer may then, too.
    pub fn has_io_uring(&self) -> bool {
        self.replaced_flag("io_uring").unwrap_or_else(probe_io_uring)
    }

    /// Whether the installed QEMU has SPICE; distributions keep it in a module of its own.
    pub fn has_spice(&self) -> bool {
        self.replaced_flag("spice").unwrap_or_else(|| has_qemu_module("ui-spice-core"))
    }

    /// Whether the installed QEMU can draw for a guest by the host's graphics; that is a module, too.
    pub fn has_3d(&self) -> bool {
        self.replaced_flag("qemu_3d").unwrap_or_else(|| has_qemu_module("hw-display-virtio-gpu-gl"))
    }

    /// The name of the host as iSCSI initiator.
    pub fn iscsi_initiator(&self) -> Option<String> {
        if self.overrides.contains_key("iscsi_initiator") {
            return self.replaced_text("iscsi_initiator").filter(|name| !name.is_empty());
        }
        let file = fs::read_to_string("/etc/iscsi/initiatorname.iscsi").ok()?;
        let lines = file.lines().filter_map(|line| line.trim().split_once('='));
        lines.filter(|(key, _)| key.trim() == "InitiatorName").map(|(_, name)| name.trim().to_owned()).next()
    }

    /// The host's CD-ROM drive.
    pub fn cdrom_path(&self) -> Option<String> {
        if self.overrides.contains_key("cdrom_path") {
            return self.replaced_text("cdrom_path").filter(|path| !path.is_empty());
        }
        let candidates = ["/dev/cdrom", "/dev/cdrom1", "/dev/cdrom2"];
        candidates.into_iter().find(|path| Path::new(path).is_symlink()).map(str::to_owned)
    }

    /// The MTU of a bridge, `None` when there is no such link.
    pub fn bridge_mtu(&self, bridge: &str) -> Option<u64> {
        if let Some(Value::Object(bridges)) = self.replaced("bridges") {
            return bridges.get(bridge).and_then(Value::as_u64);
        }
        // A name with a slash would leave the directory.
        let name = Path::new(bridge).file_name()?;
        let file = Path::new("/sys/class/net").join(name).join("mtu");
        fs::read_to_string(file).ok()?.trim().parse().ok()
    }

    /// Whether a NUMA node of the host exists.
    pub fn has_numa_node(&self, node: u64) -> bool {
        match self.replaced_number("numa_nodes") {
            Some(count) => node < count,
            None => Path::new(&format!("/sys/devices/system/node/node{node}")).is_dir(),
        }
    }

    /// The port that a SPICE display would get.
    pub fn next_spice_port(&self) -> Option<u64> {
        self.replaced_number("next_spice_port")
    }

    /// The address of `localhost`.
    pub fn localhost_address(&self) -> String {
        self.replaced_text("localhost_address").unwrap_or_else(|| "127.0.0.1".into())
    }

    /// Whether volumes are taken for granted: neither activated nor looked for.
    pub fn volumes_are_assumed(&self) -> bool {
        self.replaced_text("volumes").as_deref() == Some("assumed")
    }

    fn processor(&self) -> &Processor {
        self.processor.get_or_init(|| Processor::parse(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()))
    }
}

fn has_qemu_module(name: &str) -> bool {
    Path::new(&format!("/usr/lib/{}-linux-gnu/qemu/{name}.so", std::env::consts::ARCH)).exists()
}

impl Processor {
    fn parse(cpuinfo: &str) -> Self {
        let field = |name: &str| {
            let line = cpuinfo.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name))?;
            line.split_once(':').map(|(_, value)| value.trim().to_owned())
        };
        Processor {
            vendor: field("vendor_id").unwrap_or_default(),
            flags: field("flags").unwrap_or_default(),
            address_bits: field("address sizes").and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }
}

impl QemuVersion {
    /// Whether this is at least that version.
    pub fn at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }

    /// Reads `7.2.22 (Debian 1:7.2+dfsg-7)` or the first line of `--version`.
    fn parse(text: &str) -> Result<Self> {
        let unknown = || Error::new(format!("unable to read the QEMU version in '{text}'"));
        let version = text.split([' ', ',']).find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let mut numbers = version.ok_or_else(unknown)?.split('.').map(|number| number.parse().ok());
        let mut next = || numbers.next().flatten();
        Ok(QemuVersion {
            major: next().ok_or_else(unknown)?,
            minor: next().ok_or_else(unknown)?,
            micro: next().unwrap_or(0),
            proxmox: text.contains("pve-qemu"),
        })
    }
}

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

fn probe_qemu(root: &Root, program: &Path) -> Result<QemuVersion> {
    let banner = remembered(root, program, "qemu-version", || {
        let output = command::run(&program.to_string_lossy(), &["--version"])?;
        let banner = output.stdout.lines().next().unwrap_or_default();
        QemuVersion::parse(banner).map(|_| banner.to_owned())
    })?;
    QemuVersion::parse(banner.trim())
}

/// Asks the program once for each of its states; later calls read the answer from the file `name`.
fn remembered(root: &Root, program: &Path, name: &str, ask: impl FnOnce() -> Result<String>) -> Result<String> {
    use std::os::unix::fs::MetadataExt;
    let metadata =
        fs::metadata(program).context(|| format!("QEMU is not installed ('{}' is missing)", program.display()))?;
    let key = format!("{} {}.{} {}", metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size());
    let cache = root.run(&format!("ferrovisor/{name}"));
    if let Ok(text) = fs::read_to_string(&cache)
        && let Some((found, answer)) = text.split_once('\n')
        && found == key
    {
        return Ok(answer.to_owned());
    }
    let answer = ask()?;
    // The cache only saves time; without it the program is asked again.
    if let Some(directory) = cache.parent()
        && fs::create_dir_all(directory).is_ok()
    {
        let _ = crate::file::replace(&cache, format!("{key}\n{answer}").as_bytes(), 0o644);
    }
    Ok(answer)
}

fn probe_kvm() -> bool {
    const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;
    let Ok(device) = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") else { return false };
    // SAFETY: the descriptor is open and this request takes no argument and touches no memory of ours.
    let version = unsafe { libc::ioctl(device.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    version == 12
}

fn probe_io_uring() -> bool {
    let mut parameters = [0u64; 32];
    // SAFETY: a zeroed parameter block is what the call expects; it is larger than the kernel's 120 bytes.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr()) };
    if result < 0 {
        return false;
    }
    // SAFETY: the call succeeded, so the result is a descriptor that nobody else owns.
    drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(result as i32) });
    true
}

/// Where the programs are that a host may or may not have.
pub fn program_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn host(facts: Value) -> Host {
        Host::with_overrides(facts.as_object().unwrap().clone())
    }

    #[test]
    fn banners_of_debian_and_proxmox_are_told_apart() {
        let version = |text| QemuVersion::parse(text).unwrap();
        let debian = version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)");
        assert_eq!((debian.to_string().as_str(), debian.proxmox), ("7.2.22", false));
        assert!(version("QEMU emulator version 10.0.2 (pve-qemu-kvm_10.0.2-4)").proxmox);
        assert!(host(json!({"qemu_version": "10.1.2"})).qemu_version().unwrap().proxmox);
        assert!(!host(json!({"qemu_version": "10.0.3 (Debian 1:10.0.3)"})).qemu_version().unwrap().proxmox);
        assert!(QemuVersion::parse("no version").is_err());
    }

    #[test]
    fn replaced_facts_win() {
        let host = host(json!({"cpu_count": 8, "cpu_vendor": "AuthenticAMD", "bridges": {"vmbr0": 9000},
            "vhost_net": true, "cdrom_path": "", "numa_nodes": 2}));
        assert_eq!((host.cpu_count(), host.cpu_vendor().as_str()), (8, "AuthenticAMD"));
        assert_eq!((host.bridge_mtu("vmbr0"), host.bridge_mtu("lo")), (Some(9000), None));
        assert!(host.has_vhost_net() && host.has_numa_node(1) && !host.has_numa_node(2));
        assert_eq!(host.cdrom_path(), None);
    }

    #[test]
    fn the_first_processor_is_read() {
        let processor = Processor::parse(
            "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vmx\naddress sizes\t: 46 bits physical, 48 bits\n",
        );
        assert_eq!((processor.vendor.as_str(), processor.address_bits), ("GenuineIntel", Some(46)));
        assert!(processor.flags.contains("vmx"));
    }
}
