//! Debian packages that building, running and testing need; what is missing is installed, and said.

use crate::{Outcome, sh};
use std::process::Command;

/// To build the programs.
const BUILD: &[&str] = &["gcc", "libc6-dev", "pkg-config", "libssl-dev", "libclang-dev", "lxc-dev", "libpam0g-dev"];

/// To run a node with guests.
const RUN: &[&str] = &[
    "qemu-system-x86",
    "qemu-utils",
    // Disks of other machines: https, RBD, iSCSI.
    "qemu-block-extra",
    "ovmf",
    "swtpm",
    "swtpm-tools",
    // The discs of cloud-init.
    "genisoimage",
    "lxc",
    "isc-dhcp-client",
    "uidmap",
    "dhcpcd-base",
    "iproute2",
    "nftables",
    "e2fsprogs",
    "tar",
    "zstd",
    "xz-utils",
    "bzip2",
    "gzip",
    "openssl",
    "btrfs-progs",
    "lzop",
    "lvm2",
    "gdisk",
    "gpgv",
    "debootstrap",
    "skopeo",
];

/// To make the small guests of demo and tests, and to run real clients and servers.
const GUESTS: &[&str] = &[
    "busybox-static",
    "cpio",
    "xfsprogs",
    "kmod",
    "python3",
    "python3-venv",
    "curl",
    "strace",
    "user-mode-linux",
    "iputils-ping",
    "gpg",
    "gpg-agent",
    "docker-registry",
    "python3-gi",
    "gir1.2-spiceclientglib-2.0",
];

/// To build and run the machines of the lab.
const LAB: &[&str] = &["mmdebstrap", "openssh-client", "busybox-static", "cpio", "gdisk"];

/// Installs what is missing to build, run and test.
pub fn ensure() -> Outcome {
    install(&[BUILD, RUN, GUESTS].concat())
}

/// Installs what is missing for the lab.
pub fn ensure_lab() -> Outcome {
    install(&[RUN, LAB].concat())
}

fn install(wanted: &[&'static str]) -> Outcome {
    let missing: Vec<&str> = wanted.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(format!("missing Debian packages: {}; run this as root, or install them", missing.join(" ")).into());
    }
    println!("installing Debian packages: {}", missing.join(" "));
    sh(Command::new("apt-get").args(["update", "-qq"]))?;
    sh(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(missing))
}

fn is_installed(package: &str) -> bool {
    Command::new("dpkg-query")
        .args(["-W", "-f=${db:Status-Status}", package])
        .output()
        .is_ok_and(|output| output.stdout == b"installed")
}

/// Whether this process is root, without a crate for one system call.
pub fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
}
