//! A VM under KVM. The guest is a boot sector on an old processor, which runs also where the machine's own hypervisor lets
//! KVM do little.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::serial::Shell;
use compat_tests::{Node, skip};
use std::fs::{self, File};

/// Says [`TEXT`] on the first serial port again and again.
const CODE: [u8; 27] = [
    0xfa, 0x31, 0xc0, 0x8e, 0xd8, // cli; xor ax, ax; mov ds, ax
    0xbe, 0x1b, 0x7c, // again: mov si, text
    0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xf8, // next: mov dx, 0x3fd; in al, dx; test al, 0x20; jz next
    0xba, 0xf8, 0x03, 0xac, 0x84, 0xc0, 0x74, 0xed, // mov dx, 0x3f8; lodsb; test al, al; jz again
    0xee, 0xeb, 0xed, // out dx, al; jmp next
];
const TEXT: &str = "the boot sector runs\r\n";

#[test]
fn a_guest_runs_by_kvm_unless_told_otherwise() {
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return skip("qemu_kvm", &format!("/dev/kvm: {error}"));
    }
    let node = Node::without_daemons();
    let mut disk = [&CODE, TEXT.as_bytes()].concat();
    disk.resize(1 << 20, 0);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let image = node.path("disk.raw");
    fs::write(&image, disk).unwrap();
    let disk = format!("local:0,import-from={}", image.display());
    let options = ["--memory", "32", "--cpu", "pentium3", "--serial0", "socket", "--vga", "none", "--virtio0", &disk];
    node.run("qm", &[&["create", "7900"], options.as_slice()].concat()).ok();
    for (kvm, accelerator) in [("1", "kvm"), ("0", "tcg")] {
        node.run("qm", &["set", "7900", "--kvm", kvm]).ok();
        node.run("qm", &["start", "7900"]).ok();
        Shell::connect(&node, "7900").expect(TEXT);
        let pid = fs::read_to_string(node.path("run/qemu-server/7900.pid")).unwrap();
        let command = fs::read_to_string(format!("/proc/{}/cmdline", pid.trim())).unwrap();
        assert!(command.contains(&format!("accel={accelerator}")), "{command}");
        node.run("qm", &["stop", "7900"]).ok();
    }
    node.run("qm", &["destroy", "7900"]).ok();
}
