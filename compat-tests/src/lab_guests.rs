//! Guests inside a machine of the lab, and what they reach: busybox containers and the small VM, alike for the test.

use crate::guest::{boot_files, busybox_template};
use crate::lab::Machine;
use crate::wait_for;
use std::path::Path;

/// Types a line into a VM's serial port and ends with its exit code. The answer carries a mark of its own, so that nothing
/// an earlier line has left is taken for it.
const SERIAL: &str = r#"import os, re, select, socket, sys, time
port, mark = socket.socket(socket.AF_UNIX), 'm%d' % os.getpid()
port.connect('/run/qemu-server/%s.serial0' % sys.argv[1])
port.sendall(("%s; echo %s''=$?.\n" % (sys.argv[3], mark)).encode())
until, seen = time.time() + float(sys.argv[2]), ''
while time.time() < until:
    if select.select([port], [], [], 0.5)[0]:
        seen += port.recv(4096).decode(errors='replace')
    found = re.search(mark + r'=(\d+)\.', seen)
    if found:
        print(seen)
        sys.exit(int(found[1]))
sys.exit('no answer to %s: %r' % (sys.argv[3], seen))
"#;

/// Where the machine has the files.
const KERNEL: &str = "/root/guest-kernel";
const INITRAMFS: &str = "/root/guest-initramfs";
const TYPE: &str = "/root/type.py";

impl Machine {
    /// Applies a text as the interfaces file; the same again changes nothing, and the kernel agrees. What the first said.
    #[track_caller]
    pub fn apply_network(&self, text: &str) -> String {
        self.put_text(text, "/etc/network/interfaces.new");
        let said = self.tool("pvenet apply");
        assert_eq!(self.tool("pvenet apply"), "no change\n", "after {said}");
        assert!(self.tool("pvenet status").contains("agree"));
        said
    }

    /// Writes a small file inside.
    #[track_caller]
    pub fn put_text(&self, text: &str, path: &str) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("own file");
        self.put(file.path(), path);
    }

    /// Brings the template of busybox containers, for [`Machine::container`].
    #[track_caller]
    pub fn bring_template(&self) {
        let files = tempfile::tempdir().expect("a temporary directory");
        let template = files.path().join("busybox.tar.gz");
        busybox_template(&template);
        self.sh("mkdir -p /var/lib/vz/template/cache");
        self.put(&template, "/var/lib/vz/template/cache/busybox.tar.gz");
    }

    /// A container that runs. `cards` are its `netN` as `pct` takes them, without names; `addresses` are those of `eth0`.
    #[track_caller]
    pub fn container(&self, vmid: u32, cards: &[&str], addresses: &[&str]) {
        let mut line = format!(
            "pct create {vmid} local:vztmpl/busybox.tar.gz --rootfs local:0.1 --ostype unmanaged --memory 64 --swap 0 \
             --unprivileged 1"
        );
        for (number, card) in cards.iter().enumerate() {
            line += &format!(" --net{number} name=eth{number},{card}");
        }
        self.tool(&line);
        self.tool(&format!("pct start {vmid}"));
        self.give_addresses(vmid, addresses);
    }

    /// A VM with one card that is starting; [`Machine::await_vm`] waits until it is there. False where its kernel cannot be
    /// had.
    #[track_caller]
    pub fn vm(&self, vmid: u32, card: &str) -> bool {
        let Ok((kernel, initramfs)) = boot_files() else { return false };
        for (file, path) in [(kernel.as_path(), KERNEL), (&initramfs, INITRAMFS)] {
            self.put_once(file, path);
        }
        self.put_text(SERIAL, TYPE);
        let arguments = format!("-kernel {KERNEL} -initrd {INITRAMFS} -append \"console=ttyS0 quiet panic=-1\"");
        self.sh(&format!(
            "qm create {vmid} --memory 128 --kvm 0 --vga none --serial0 socket --net0 virtio,{card} --args '{arguments}'
             qm start {vmid}"
        ));
        true
    }

    /// Waits for a VM's shell and gives its card addresses. It is emulated inside what is emulated itself.
    #[track_caller]
    pub fn await_vm(&self, vmid: u32, addresses: &[&str]) {
        let knock = format!("python3 {TYPE} {vmid} 5 true");
        wait_for("the VM's shell", 600, || (self.run(&["sh", "-c", &knock]).code == 0).then_some(()));
        self.give_addresses(vmid, addresses);
    }

    /// Switches a guest's card on and gives it addresses.
    #[track_caller]
    pub fn give_addresses(&self, vmid: u32, addresses: &[&str]) {
        self.inside(vmid, "ip link set eth0 up");
        addresses.iter().for_each(|address| self.inside(vmid, &format!("ip addr add {address} dev eth0")));
    }

    fn put_once(&self, file: &Path, path: &str) {
        if self.run(&["test", "-e", path]).code != 0 {
            self.put(file, path);
        }
    }

    /// How a line without quotes gets into the network of a guest of either kind.
    fn into_guest(vmid: u32, line: &str) -> [String; 3] {
        let script = format!(
            "if [ -e /etc/pve/lxc/{vmid}.conf ]; then exec nsenter -n -t $(lxc-info -n {vmid} -p -H) {line}; fi
             exec python3 {TYPE} {vmid} 60 '{line}'"
        );
        ["sh".into(), "-c".into(), script]
    }

    /// Runs a line in the network of a guest, which must succeed.
    #[track_caller]
    pub fn inside(&self, vmid: u32, line: &str) {
        let ran = self.run(&Self::into_guest(vmid, line));
        assert_eq!(ran.code, 0, "{vmid}: {line}\n{}{}", ran.stdout, ran.stderr);
    }

    /// Whether an address answers a guest within two seconds.
    pub fn pings(&self, vmid: u32, address: &str) -> bool {
        self.run(&Self::into_guest(vmid, &format!("ping -q -c1 -w2 {address}"))).code == 0
    }

    /// Waits until an address answers a guest.
    #[track_caller]
    pub fn reaches(&self, vmid: u32, address: &str) {
        wait_for(&format!("{address} to answer {vmid}"), 60, || self.pings(vmid, address).then_some(()));
    }

    /// An address must not answer a guest.
    #[track_caller]
    pub fn never_reaches(&self, vmid: u32, address: &str) {
        assert!(!self.pings(vmid, address), "{vmid} reaches {address}");
    }
}
