//! The demo: a bridge with NAT, a small VM and a small container on it, both started and shown.
//!
//! The VM boots Debian's cloud kernel with an initramfs of busybox, the container is busybox alone. Both have fixed
//! addresses, so that nothing but the bridge is needed.

use crate::run::Node;
use crate::{Outcome, output, sh};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BRIDGE: &str = "vibr0";
const GATEWAY: &str = "10.77.0.1";
const TABLE: &str = "ferrovisor-demo";
const VM: &str = "9100";
const CONTAINER: &str = "9101";
/// What the kernel needs for its network card, in the order of loading.
const MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];
const MARKER: &str = "the first guest is up";

/// Makes what is missing and starts both guests. A second start finds them.
pub fn start(node: &Node) -> Outcome {
    bridge()?;
    let kernel = kernel(&node.root)?;
    let initramfs = initramfs(&node.root)?;
    template(&node.root)?;
    if !node.program("qm").args(["status", VM]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success() {
        let arguments =
            format!("-kernel {} -initrd {} -append \"console=ttyS0 quiet\"", kernel.display(), initramfs.display());
        sh(node
            .program("qm")
            .args(["create", VM, "--name", "demo-vm", "--memory", "256", "--kvm", "0", "--cpu", "qemu64"])
            .args(["--serial0", "socket", "--scsi0", "local:1", "--scsihw", "virtio-scsi-pci"])
            .args(["--net0", &format!("virtio,bridge={BRIDGE}"), "--args", &arguments]))?;
    }
    if !node.program("pct").args(["status", CONTAINER]).stdout(Stdio::null()).stderr(Stdio::null()).status()?.success()
    {
        sh(node
            .program("pct")
            .args(["create", CONTAINER, "local:vztmpl/busybox-demo.tar.gz", "--hostname", "demo-ct"])
            .args(["--ostype", "unmanaged", "--unprivileged", "1", "--memory", "64", "--rootfs", "local:1"])
            .args(["--net0", &format!("name=eth0,bridge={BRIDGE},ip=10.77.0.3/24,gw={GATEWAY}")]))?;
    }
    for (tool, id) in [("qm", VM), ("pct", CONTAINER)] {
        if !output(node.program(tool).args(["status", id]))?.contains("running") {
            sh(node.program(tool).args(["start", id]))?;
        }
    }
    show(node)
}

/// Stops the demo's guests and removes its bridge.
pub fn stop(node: &Node) -> Outcome {
    for (tool, id) in [("qm", VM), ("pct", CONTAINER)] {
        if output(node.program(tool).args(["status", id])).is_ok_and(|text| text.contains("running")) {
            sh(node.program(tool).args(["stop", id]))?;
        }
    }
    if Path::new("/sys/class/net").join(BRIDGE).join("bridge").exists() && has_table() {
        sh(Command::new("nft").args(["delete", "table", "ip", TABLE]))?;
        sh(Command::new("ip").args(["link", "delete", BRIDGE]))?;
    }
    Ok(())
}

fn show(node: &Node) -> Outcome {
    println!();
    sh(node.program("qm").arg("list"))?;
    sh(node.program("pct").arg("list"))?;
    println!("\nthe container says:");
    sh(node.program("pct").args(["exec", CONTAINER, "--", "uname", "-a"]))?;
    sh(node.program("pct").args(["exec", CONTAINER, "--", "ip", "-o", "addr", "show", "eth0"]))?;
    println!("\nthe VM answers on the bridge:");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !Command::new("ping").args(["-c1", "-W1", "-q", "10.77.0.2"]).stdout(Stdio::null()).status()?.success() {
        if Instant::now() > deadline {
            return Err(format!("the VM did not come up in a minute; look with `qm terminal {VM}`").into());
        }
    }
    sh(Command::new("ping").args(["-c1", "10.77.0.2"]))
}

/// A bridge with an address, and NAT for what is behind it.
fn bridge() -> Outcome {
    if !Path::new("/sys/class/net").join(BRIDGE).exists() {
        sh(Command::new("ip").args(["link", "add", BRIDGE, "type", "bridge"]))?;
        sh(Command::new("ip").args(["address", "add", &format!("{GATEWAY}/24"), "dev", BRIDGE]))?;
        sh(Command::new("ip").args(["link", "set", BRIDGE, "up"]))?;
    }
    if !has_table() {
        let rule = "ip saddr 10.77.0.0/24 oifname != \"vibr0\" masquerade";
        let hook = "type nat hook postrouting priority 100";
        let chain = format!("table ip {TABLE} {{\n chain postrouting {{\n {hook}\n {rule}\n }}\n}}\n");
        sh(Command::new("nft").arg(chain))?;
    }
    Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?)
}

fn has_table() -> bool {
    let list = Command::new("nft").args(["list", "table", "ip", TABLE]).stderr(Stdio::null()).output();
    list.is_ok_and(|output| output.status.success())
}

/// Debian's cloud kernel, unpacked from its package without installing it.
pub fn kernel(root: &Path) -> Outcome<PathBuf> {
    let kernel = root.join("demo/vmlinuz");
    if kernel.exists() {
        return Ok(kernel);
    }
    let directory = root.join("demo/kernel");
    fs::create_dir_all(&directory)?;
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .ok_or("Debian's cloud kernel is not in the package lists; run `apt-get update`")?
        .to_owned();
    sh(Command::new("apt-get").current_dir(&directory).args(["download", "-qq", &package]))?;
    let archive = find(&directory, ".deb")?;
    sh(Command::new("dpkg-deb").arg("-x").arg(archive).arg(&directory))?;
    let image = find(&directory.join("boot"), "vmlinuz")?;
    fs::copy(image, &kernel)?;
    Ok(kernel)
}

fn find(directory: &Path, part: &str) -> Outcome<PathBuf> {
    let mut entries = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    entries
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part)))
        .ok_or_else(|| format!("no {part} in {}", directory.display()).into())
}

/// An initramfs of busybox that sets an address, says a marker and stays. The network driver comes from the kernel package.
fn initramfs(root: &Path) -> Outcome<PathBuf> {
    let archive = root.join("demo/initramfs.cpio");
    if archive.exists() {
        return Ok(archive);
    }
    let tree = root.join("demo/initramfs");
    busybox_tree(&tree)?;
    let modules = output(Command::new("find").arg(root.join("demo/kernel/lib/modules")).args(["-name", "*.ko*"]))?;
    let wanted = |path: &&str| MODULES.iter().any(|name| path.rsplit('/').next() == Some(&format!("{name}.ko")));
    for module in modules.lines().filter(wanted) {
        fs::copy(module, tree.join(Path::new(module).file_name().ok_or("a module has a name")?))?;
    }
    let init = format!(
        "#!/bin/sh\nmount -t proc proc /proc\nmount -t sysfs sysfs /sys\nmount -t devtmpfs dev /dev\n\
         for name in {modules}; do insmod /$name.ko; done\n\
         ip link set lo up\nip link set eth0 up\nip address add 10.77.0.2/24 dev eth0\n\
         ip route add default via {GATEWAY}\necho \"{MARKER}\"\nexec setsid cttyhack sh\n",
        modules = MODULES.join(" ")
    );
    write_program(&tree.join("init"), &init)?;
    pack_cpio(&tree, &archive)?;
    Ok(archive)
}

/// The busybox container's template.
fn template(root: &Path) -> Outcome {
    let archive = root.join("var/lib/vz/template/cache/busybox-demo.tar.gz");
    if archive.exists() {
        return Ok(());
    }
    let tree = root.join("demo/container");
    busybox_tree(&tree)?;
    fs::write(tree.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(
        tree.join("etc/inittab"),
        "::sysinit:/bin/hostname -F /etc/hostname\n::respawn:/bin/sh -c 'while :; do sleep 3600; done'\n::shutdown:/bin/true\n",
    )?;
    fs::create_dir_all(archive.parent().ok_or("a template lies in a folder")?)?;
    sh(Command::new("tar").arg("-C").arg(&tree).arg("-czf").arg(&archive).args([
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        ".",
    ]))
}

fn busybox_tree(tree: &Path) -> Outcome {
    for directory in ["bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "run", "var"] {
        fs::create_dir_all(tree.join(directory))?;
    }
    fs::copy("/bin/busybox", tree.join("bin/busybox"))?;
    for applet in output(Command::new("/bin/busybox").arg("--list"))?.lines().filter(|name| *name != "busybox") {
        let link = tree.join("bin").join(applet);
        if fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink("busybox", link)?;
        }
    }
    let init = tree.join("sbin/init");
    if fs::symlink_metadata(&init).is_err() {
        std::os::unix::fs::symlink("../bin/busybox", init)?;
    }
    Ok(())
}

fn write_program(path: &Path, text: &str) -> Outcome {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

fn pack_cpio(tree: &Path, archive: &Path) -> Outcome {
    let list = output(Command::new("find").current_dir(tree).arg("."))?;
    let mut cpio = Command::new("cpio");
    cpio.current_dir(tree).args(["--quiet", "-o", "-H", "newc", "-F"]).arg(archive).stdin(Stdio::piped());
    let mut child = cpio.spawn()?;
    std::io::Write::write_all(&mut child.stdin.take().ok_or("standard input is a pipe")?, list.as_bytes())?;
    if child.wait()?.success() { Ok(()) } else { Err("cpio failed".into()) }
}
