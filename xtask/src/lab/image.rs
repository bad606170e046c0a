//! The lab's disk: Debian 12 as anybody installs it, with the servers and tools that tests drive, none of them started.
//!
//! Packages are unpacked and configured by the host's own processor, in a folder; the folder becomes a file system without
//! a mount. The kernel is Debian's cloud kernel, which has everything but ZFS; it is started directly, with an initramfs
//! of busybox and the two drivers that find the disk.

use crate::{Outcome, output, sh};
use std::fs::{self, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The password of `root` inside.
const PASSWORD: &str = "lab-password";

/// The machine's name inside, unless it is started with another.
pub const HOSTNAME: &str = "node";

/// What is installed besides Debian's minimum.
const PACKAGES: &[&str] = &[
    // A machine with an administrator.
    "systemd-sysv,dbus,udev,libpam-systemd,openssh-server,kmod,procps,psmisc,less,ca-certificates,curl,python3-minimal",
    "jq,strace,socat,netcat-openbsd,busybox-static,cpio,zstd,xz-utils,bzip2,lzop,openssl,apparmor,linux-image-cloud-amd64",
    // Network.
    "ifupdown,ifenslave,iproute2,iputils-ping,iputils-arping,isc-dhcp-client,dhcpcd-base,dnsmasq-base,ethtool,tcpdump,nftables",
    "bridge-utils,openvswitch-switch,iperf3",
    // Storage.
    "lvm2,thin-provisioning-tools,btrfs-progs,xfsprogs,e2fsprogs,dosfstools,parted,fdisk,gdisk,smartmontools,acl,quota",
    "nfs-kernel-server,nfs-common,samba,smbclient,cifs-utils,open-iscsi,tgt",
    // Guests.
    "qemu-system-x86,qemu-utils,ovmf,swtpm,lxc,lxcfs,uidmap,debootstrap,genisoimage",
];

/// Services that tests start when they need them, and jobs that would run in the middle of one.
const AT_REST: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "lxc-net.service",
    "nfs-blkmap.service",
    "nfs-server.service",
    "nmbd.service",
    "open-iscsi.service",
    "openvswitch-switch.service",
    "samba-ad-dc.service",
    "smartmontools.service",
    "smbd.service",
    "tgt.service",
];

/// Network cards by their place on the PCI bus: the one to the host, then the cables.
pub const CARDS: &[(&str, u8)] = &[("mgmt", 0x10), ("en01", 0x11), ("en02", 0x12), ("en03", 0x13), ("en04", 0x14)];

/// Drivers without which the disk is not found; their own needs come from `modules.dep`.
const DRIVERS: &[&str] = &["virtio_pci", "virtio_blk"];

/// The files of a built image.
pub struct Image {
    /// Its folder; the name changes with what goes in.
    pub folder: PathBuf,
}

impl Image {
    /// Where the image lies in a cache, built or not.
    pub fn of(cache: &Path) -> Self {
        let mut hasher = DefaultHasher::new();
        include_str!("image.rs").hash(&mut hasher);
        Image { folder: cache.join(format!("base-{:016x}", hasher.finish())) }
    }

    /// The disk, raw; only ever used as the bottom of another.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// The kernel.
    pub fn kernel(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// The initramfs.
    pub fn initramfs(&self) -> PathBuf {
        self.folder.join("initramfs.cpio")
    }

    /// The private key that `root` inside knows.
    pub fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// Builds it if it is not there. The caller holds the cache's lock.
    pub fn build(&self) -> Outcome {
        if self.folder.exists() {
            return Ok(());
        }
        println!("lab: building Debian 12 in {}", self.folder.display());
        let work = self.folder.with_extension("unfinished");
        if work.exists() {
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir_all(&work)?;
        let draft = Image { folder: work };
        let root = draft.folder.join("root");
        install(&root)?;
        draft.configure(&root)?;
        draft.boot_files(&root)?;
        make_disk(&root, &draft.disk())?;
        fs::remove_dir_all(&root)?;
        fs::rename(&draft.folder, &self.folder)?;
        Ok(())
    }

    fn configure(&self, root: &Path) -> Outcome {
        let write = |path: &str, text: &str| -> Outcome {
            let path = root.join(path);
            fs::create_dir_all(path.parent().ok_or("a file lies in a folder")?)?;
            fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()).into())
        };
        write("etc/hostname", &format!("{HOSTNAME}\n"))?;
        write("etc/hosts", &format!("127.0.0.1 localhost\n10.0.2.15 {HOSTNAME}\n::1 localhost ip6-localhost\n"))?;
        write("etc/resolv.conf", "nameserver 10.0.2.3\n")?;
        write("etc/fstab", "/dev/vda / ext4 noatime,noinit_itable 0 0\n")?;
        write(
            "etc/network/interfaces",
            "auto lo\niface lo inet loopback\n\nauto mgmt\niface mgmt inet static\n\taddress 10.0.2.15/24\n\
             \tgateway 10.0.2.2\n\nsource /etc/network/interfaces.d/*\n",
        )?;
        for (name, slot) in CARDS {
            let link = format!("[Match]\nPath=pci-0000:00:{slot:02x}.0\n[Link]\nNamePolicy=\nName={name}\n");
            write(&format!("etc/systemd/network/10-{name}.link"), &link)?;
        }
        // One connection carries all commands of a test; sessions need no login.
        write(
            "etc/ssh/sshd_config.d/lab.conf",
            "UseDNS no\nUsePAM no\nMaxSessions 200\nMaxStartups 200\nPermitRootLogin prohibit-password\n\
             SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8\n",
        )?;
        // Drivers for hardware that an emulated machine does not have cost seconds each.
        write(
            "etc/modprobe.d/lab.conf",
            "blacklist drm\nblacklist powernow-k8\nblacklist acpi-cpufreq\nblacklist qxl\n",
        )?;
        // Profiles of programs that no test drives: compiling them takes most of the first boot.
        let kept = ["abstractions", "tunables", "lxc", "lxc-containers", "usr.bin.lxc-start", "usr.bin.lxc-copy"];
        for profile in fs::read_dir(root.join("etc/apparmor.d"))? {
            let profile = profile?;
            let name = profile.file_name().to_string_lossy().into_owned();
            if profile.file_type()?.is_file() && !kept.contains(&name.as_str()) {
                fs::remove_file(profile.path())?;
            }
        }
        sh(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(self.key()))?;
        write("root/.ssh/authorized_keys", &fs::read_to_string(self.key().with_extension("pub"))?)?;
        fs::set_permissions(root.join("root/.ssh"), Permissions::from_mode(0o700))?;
        let mut passwords = Command::new("chroot").arg(root).arg("chpasswd").stdin(Stdio::piped()).spawn()?;
        let mut input = passwords.stdin.take().ok_or("standard input is a pipe")?;
        writeln!(input, "root:{PASSWORD}")?;
        drop(input);
        if !passwords.wait()?.success() {
            return Err("chpasswd failed".into());
        }
        let systemctl = |verb: &str, units: &[&str]| {
            let mut command = Command::new("systemctl");
            output(command.arg("--root").arg(root).arg("--quiet").arg(verb).args(units)).map(drop)
        };
        systemctl("disable", AT_REST)?;
        systemctl("mask", &["man-db.timer"])?;
        Ok(())
    }

    fn boot_files(&self, root: &Path) -> Outcome {
        let modules = root.join("lib/modules");
        let version = fs::read_dir(&modules)?.next().ok_or("the kernel has modules")??.file_name();
        let version = version.to_string_lossy().into_owned();
        fs::copy(root.join(format!("boot/vmlinuz-{version}")), self.kernel())?;
        let modules = modules.join(version);
        let tree = self.folder.join("initramfs");
        for folder in ["bin", "dev", "root"] {
            fs::create_dir_all(tree.join(folder))?;
        }
        fs::copy(root.join("bin/busybox"), tree.join("bin/busybox"))?;
        let mut init = "#!/bin/busybox sh\n/bin/busybox mount -t devtmpfs dev /dev\n".to_owned();
        for module in load_order(&fs::read_to_string(modules.join("modules.dep"))?) {
            let name = module.rsplit('/').next().unwrap_or(&module);
            fs::copy(modules.join(&module), tree.join(name))?;
            init += &format!("/bin/busybox insmod /{name}\n");
        }
        init += "until /bin/busybox mount -t ext4 -o noatime,noinit_itable /dev/vda /root; do /bin/busybox sleep 1; done\n\
                 /bin/busybox mount -o move /dev /root/dev\nexec /bin/busybox switch_root /root /lib/systemd/systemd\n";
        fs::write(tree.join("init"), init)?;
        fs::set_permissions(tree.join("init"), Permissions::from_mode(0o755))?;
        let list = output(Command::new("find").current_dir(&tree).arg("."))?;
        let mut cpio = Command::new("cpio");
        cpio.current_dir(&tree).args(["--quiet", "-o", "-H", "newc", "-F"]).arg(self.initramfs());
        let mut cpio = cpio.stdin(Stdio::piped()).spawn()?;
        cpio.stdin.take().ok_or("standard input is a pipe")?.write_all(list.as_bytes())?;
        if !cpio.wait()?.success() {
            return Err("cpio failed".into());
        }
        fs::remove_dir_all(tree)?;
        Ok(())
    }
}

/// Unpacks and configures all packages. Nothing is synced on the way: an unfinished folder is thrown away.
fn install(root: &Path) -> Outcome {
    let mirror = "http://deb.debian.org/debian";
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io"]);
    for folder in ["doc", "info", "man", "locale"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    }
    command.arg(format!("--include={}", PACKAGES.join(",")));
    command.arg("bookworm").arg(root).arg(format!("deb {mirror} bookworm main"));
    command.arg(format!("deb {mirror} bookworm-updates main"));
    command.arg("deb http://deb.debian.org/debian-security bookworm-security main");
    // Debian's kernel would make an initramfs that nobody boots.
    command.env("INITRD", "No");
    output(&mut command).map(drop)
}

/// A sparse disk with room for guests, filled from a folder.
fn make_disk(root: &Path, disk: &Path) -> Outcome {
    fs::File::create(disk)?.set_len(16 << 30)?;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.args(["-q", "-F", "-J", "size=16", "-E", "lazy_itable_init=1,nodiscard", "-d"]);
    sh(mkfs.arg(root).arg(disk))
}

/// The files of [`DRIVERS`] and what they need, what is needed first.
fn load_order(dependencies: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for driver in DRIVERS {
        let line =
            dependencies.lines().find(|line| line.split(':').next().unwrap_or("").ends_with(&format!("/{driver}.ko")));
        let Some((own, needs)) = line.and_then(|line| line.split_once(':')) else { continue };
        // The list names the last needed first.
        for module in needs.split_whitespace().rev().chain([own]) {
            if !order.iter().any(|known| known == module) {
                order.push(module.to_owned());
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    #[test]
    fn modules_are_loaded_after_what_they_need() {
        let dependencies = "k/virtio/virtio.ko: k/virtio/virtio_ring.ko\nk/virtio/virtio_ring.ko:\n\
                            k/virtio/virtio_pci.ko: k/virtio/virtio_modern.ko k/virtio/virtio.ko k/virtio/virtio_ring.ko\n\
                            k/block/virtio_blk.ko: k/virtio/virtio.ko k/virtio/virtio_ring.ko\n";
        let expected =
            ["virtio/virtio_ring", "virtio/virtio", "virtio/virtio_modern", "virtio/virtio_pci", "block/virtio_blk"];
        let expected: Vec<String> = expected.iter().map(|name| format!("k/{name}.ko")).collect();
        assert_eq!(super::load_order(dependencies), expected);
    }
}
