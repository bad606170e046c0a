//! Guests that are small enough for tests: Debian's cloud kernel with an initramfs of busybox, and busybox as a container.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Drivers of the small VM, each behind those that it needs; the kernel has none of them built in.
const MODULES: [&str; 17] = [
    "failover",
    "net_failover",
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "scsi_common",
    "scsi_mod",
    "sd_mod",
    "cdrom",
    "sr_mod",
    "virtio_scsi",
    "isofs",
];

/// What the small VM says on its serial console when it is up.
pub const MARKER: &str = "the guest is up";

/// Kernel and initramfs of the small VM, made once per target directory. It says [`MARKER`] on `ttyS0`, and then runs a
/// shell there; `poweroff` by ACPI ends it.
///
/// # Errors
/// Why it cannot be had here (no package, no network).
pub fn boot_files() -> Result<(PathBuf, PathBuf), String> {
    let directory = cache()?;
    let (kernel, initramfs) = (directory.join("vmlinuz"), directory.join("initramfs-3.cpio"));
    let _lock = lock(&directory)?;
    if !kernel.exists() {
        fetch_kernel(&directory, &kernel)?;
    }
    if !initramfs.exists() {
        make_initramfs(&directory, &initramfs)?;
    }
    Ok((kernel, initramfs))
}

/// The `args` of a VM that boots the small guest.
///
/// # Errors
/// As [`boot_files`].
pub fn boot_args() -> Result<String, String> {
    let (kernel, initramfs) = boot_files()?;
    Ok(format!("-kernel {} -initrd {} -append \"console=ttyS0 quiet panic=-1\"", kernel.display(), initramfs.display()))
}

/// Writes the template of a busybox container: `/sbin/init` is busybox with an inittab that keeps it alive.
pub fn busybox_template(archive: &Path) {
    let tree = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
    busybox_tree(tree.path()).expect("busybox-static is installed");
    let inittab = "::sysinit:/bin/hostname -F /etc/hostname\n::respawn:/bin/sleep 86400\n::shutdown:/bin/true\n";
    fs::write(tree.path().join("etc/inittab"), inittab).expect("own directory");
    fs::write(tree.path().join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").expect("own directory");
    fs::create_dir_all(archive.parent().expect("a template lies in a directory")).expect("own directory");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(tree.path()).arg("-czf").arg(archive).args(["--owner=0", "--group=0", "--numeric-owner", "."]);
    assert!(tar.status().is_ok_and(|status| status.success()), "{tar:?}");
}

/// A template of Debian 12 with systemd, built once by `pveam build` on this node's programs, and kept.
///
/// # Errors
/// Why it cannot be had here (no `debootstrap`, no network).
pub fn debian_template(node: &crate::Node) -> Result<PathBuf, String> {
    let directory = cache()?;
    let kept = directory.join("debian-12-container.tar.zst");
    let _lock = lock(&directory)?;
    if !kept.exists() {
        let built = node.run("pveam", &["build", "debian-12"]);
        let name = built.stdout.lines().last().and_then(|volume| volume.strip_prefix("local:vztmpl/"));
        let name = name.filter(|_| built.code == 0).ok_or_else(|| format!("{built:?}"))?;
        let draft = kept.with_extension("unfinished");
        fs::copy(node.path(&format!("var/lib/vz/template/cache/{name}")), &draft).map_err(text)?;
        fs::rename(draft, &kept).map_err(text)?;
    }
    Ok(kept)
}

/// A bridge of the test's own; it goes when this is dropped.
pub struct Bridge(String);

impl Bridge {
    /// Makes a bridge with an address (`10.1.2.1/24`) or without.
    pub fn new(name: &str, address: Option<&str>) -> Self {
        ip(&["link", "add", name, "type", "bridge"]);
        let bridge = Bridge(name.to_owned());
        if let Some(address) = address {
            ip(&["address", "add", address, "dev", name]);
        }
        ip(&["link", "set", name, "up"]);
        bridge
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Without it nothing of the test is left; a failure here must not hide the test's own.
        let _ = Command::new("ip").args(["link", "delete", &self.0]).status();
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn cache() -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(text)?;
    let directory = own.ancestors().nth(2).ok_or("a test lies in target/PROFILE/deps")?.join("guest-files");
    fs::create_dir_all(&directory).map_err(text)?;
    Ok(directory)
}

fn lock(directory: &Path) -> Result<File, String> {
    let lock = File::create(directory.join("lock")).map_err(text)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map_err(text)?;
    Ok(lock)
}

/// Debian's cloud kernel, unpacked from its package without installing it.
fn fetch_kernel(directory: &Path, kernel: &Path) -> Result<(), String> {
    let unpacked = directory.join("kernel");
    fs::create_dir_all(&unpacked).map_err(text)?;
    let depends = run(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    let package = package.ok_or("Debian's cloud kernel is not in the package lists")?;
    run(Command::new("apt-get").current_dir(&unpacked).args(["download", "-qq", package]))?;
    run(Command::new("dpkg-deb").arg("-x").arg(find(&unpacked, ".deb")?).arg(&unpacked))?;
    fs::copy(find(&unpacked.join("boot"), "vmlinuz")?, kernel).map_err(text)?;
    Ok(())
}

fn make_initramfs(directory: &Path, initramfs: &Path) -> Result<(), String> {
    let tree = directory.join("initramfs-3");
    busybox_tree(&tree).map_err(text)?;
    fs::create_dir_all(tree.join("modules")).map_err(text)?;
    let all = run(Command::new("find").arg(directory.join("kernel")).args(["-name", "*.ko"]))?;
    let mut load = String::new();
    for module in MODULES {
        // What this kernel has built in has no file.
        if let Some(file) = all.lines().find(|file| file.ends_with(&format!("/{module}.ko"))) {
            fs::copy(file, tree.join(format!("modules/{module}.ko"))).map_err(text)?;
            load += &format!("insmod /modules/{module}.ko 2>/dev/null\n");
        }
    }
    let init = format!(
        "#!/bin/sh\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n\
         {load}echo \"{MARKER}\" > /dev/ttyS0\nexec setsid cttyhack sh\n"
    );
    fs::write(tree.join("init"), init).map_err(text)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755)).map_err(text)?;
    let list = run(Command::new("find").current_dir(&tree).arg("."))?;
    let mut cpio = Command::new("cpio");
    cpio.current_dir(&tree).args(["--quiet", "-o", "-H", "newc", "-F"]).arg(initramfs).stdin(Stdio::piped());
    let mut child = cpio.spawn().map_err(text)?;
    child.stdin.take().ok_or("standard input is a pipe")?.write_all(list.as_bytes()).map_err(text)?;
    if child.wait().map_err(text)?.success() { Ok(()) } else { Err("cpio failed".into()) }
}

fn busybox_tree(tree: &Path) -> std::io::Result<()> {
    for directory in ["bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "run", "var"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    let applets = Command::new("/bin/busybox").arg("--list").output()?.stdout;
    for applet in String::from_utf8_lossy(&applets).lines().filter(|name| *name != "busybox") {
        if fs::symlink_metadata(tree.join("bin").join(applet)).is_err() {
            symlink("busybox", tree.join("bin").join(applet))?;
        }
    }
    if fs::symlink_metadata(tree.join("sbin/init")).is_err() {
        symlink("../bin/busybox", tree.join("sbin/init"))?;
    }
    Ok(())
}

fn find(directory: &Path, part: &str) -> Result<PathBuf, String> {
    let mut entries = fs::read_dir(directory).map_err(text)?.filter_map(|entry| Some(entry.ok()?.path()));
    entries
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
        .ok_or_else(|| format!("no {part} in {}", directory.display()))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
