//! Guests inside a machine of the lab, and what they reach: busybox containers, and VMs that boot from the network.

use crate::guest::busybox_template;
use crate::lab::Machine;
use crate::wait_for;

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

    /// A VM that boots from the network, and runs. Its firmware asks for an address by DHCP and for a file by TFTP, and then
    /// answers pings: a whole system would take minutes where the machine around it is emulated, too. Its hardware address.
    #[track_caller]
    pub fn network_vm(&self, vmid: u32, card: &str) -> String {
        self.tool(&format!("qm create {vmid} --memory 32 --kvm 0 --boot order=net0 --net0 virtio,{card}"));
        self.tool(&format!("qm start {vmid}"));
        self.sh(&format!("sed -n 's/^net0: virtio=\\([^,]*\\).*/\\1/p' /etc/pve/qemu-server/{vmid}.conf"))
    }

    /// Switches a container's card on and gives it addresses.
    #[track_caller]
    pub fn give_addresses(&self, vmid: u32, addresses: &[&str]) {
        self.inside(vmid, "ip link set eth0 up");
        addresses.iter().for_each(|address| self.inside(vmid, &format!("ip addr add {address} dev eth0")));
    }

    /// Runs a line without quotes in the network of a container, which must succeed.
    #[track_caller]
    pub fn inside(&self, vmid: u32, line: &str) {
        self.sh(&format!("nsenter -n -t $(lxc-info -n {vmid} -p -H) {line}"));
    }

    /// Whether an address answers a container within two seconds.
    pub fn pings(&self, vmid: u32, address: &str) -> bool {
        let line = format!("nsenter -n -t $(lxc-info -n {vmid} -p -H) ping -q -c1 -w2 {address}");
        self.run(&["sh", "-c", &line]).code == 0
    }

    /// Waits until an address answers a container.
    #[track_caller]
    pub fn reaches(&self, vmid: u32, address: &str) {
        wait_for(&format!("{address} to answer {vmid}"), 60, || self.pings(vmid, address).then_some(()));
    }

    /// An address must not answer a container.
    #[track_caller]
    pub fn never_reaches(&self, vmid: u32, address: &str) {
        assert!(!self.pings(vmid, address), "{vmid} reaches {address}");
    }
}
