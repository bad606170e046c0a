//! Our package on a plain Debian 12: services, a login with the system's own password, guests, and what a reboot brings back.
#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::busybox_template;
use compat_tests::lab::{HOSTNAME, Machine, PASSWORD};
use compat_tests::wait_for;
use serde_json::Value;

/// A disk from which a BIOS starts a program that says [`WORDS`] on the first serial port again and again.
const WORDS: &str = "the guest is up\n";
const CODE: [u8; 22] = [
    0x31, 0xc0, 0x8e, 0xd8, 0xfb, // xor ax,ax; mov ds,ax; sti
    0xbe, 0x16, 0x7c, 0xba, 0xf8, 0x03, // again: mov si,words; mov dx,0x3f8
    0xac, 0x84, 0xc0, 0x74, 0x03, 0xee, 0xeb, 0xf8, // next: lodsb; test al,al; jz rest; out dx,al; jmp next
    0xf4, 0xeb, 0xef, // rest: hlt (until the timer's next tick); jmp again
];

fn boot_sector() -> Vec<u8> {
    let mut sector = [&CODE[..], WORDS.as_bytes(), &[0]].concat();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    sector
}

#[test]
fn package_serves_on_a_plain_debian_and_guests_come_back() {
    let Some(machine) = Machine::start("lab_boot::package", "lab-boot") else { return };
    services_run_with_the_rights_they_need(&machine);
    root_logs_in_with_the_systems_password(&machine);
    make_guests(&machine);
    container_is_held_by_its_limits(&machine);
    machine.reboot();
    guests_came_back_in_order(&machine);
    package_goes_without_a_trace(&machine);
}

fn services_run_with_the_rights_they_need(machine: &Machine) {
    assert_eq!(machine.sh("dpkg-query -W -f '${Status}' ferrovisor"), "install ok installed");
    // The lab's image keeps no documentation of any package.
    assert_eq!(machine.sh("dpkg --verify ferrovisor | grep -v ' /usr/share/' || true"), "");
    assert_eq!(machine.sh("systemctl --failed --no-legend"), "");
    let owner = |unit: &str| machine.sh(&format!("stat -c %U /proc/$(systemctl show -p MainPID --value {unit})"));
    assert_eq!((owner("pvedaemon").as_str(), owner("pveproxy").as_str()), ("root", "www-data"));
    assert!(machine.get("/version")["version"].as_str().unwrap().starts_with("9."));
    assert_eq!(machine.get("/nodes")[0]["node"], HOSTNAME);
    // The same package again: services take the new programs, the daemon in its own process, the front server beside the
    // old one.
    let pid = |unit: &str| machine.sh(&format!("systemctl show -p MainPID --value {unit}"));
    let (daemon, proxy) = (pid("pvedaemon"), pid("pveproxy"));
    machine.sh("dpkg -i /root/ferrovisor.deb");
    assert_eq!(pid("pvedaemon"), daemon);
    assert_ne!(pid("pveproxy"), proxy);
    assert_eq!(machine.sh("systemctl is-active pvedaemon pveproxy"), "active\nactive");
}

fn root_logs_in_with_the_systems_password(machine: &Machine) {
    let client = machine.client();
    let refused = client.post("/access/ticket", &[("username", "root@pam"), ("password", "wrong")]);
    assert_eq!(refused.status, 401, "{}", refused.text());
    let root = client.login("root@pam", PASSWORD);
    assert_eq!(root.get("/nodes").data()[0]["status"], "online");
}

/// A virtual machine and two containers; the second container stays off after a boot.
fn make_guests(machine: &Machine) {
    let files = tempfile::tempdir().unwrap();
    let (sector, template) = (files.path().join("sector"), files.path().join("busybox.tar.gz"));
    std::fs::write(&sector, boot_sector()).unwrap();
    busybox_template(&template);
    machine.sh("mkdir -p /var/lib/vz/template/cache");
    machine.put(&template, "/var/lib/vz/template/cache/busybox.tar.gz");
    machine.put(&sector, "/root/sector");

    machine.tool("qm create 100 --name small --memory 32 --kvm 0 --serial0 socket --onboot 1 --startup order=1,down=1");
    // Its disks are logical volumes, which nobody but a start makes active. A thin one stays so.
    machine.sh("vgcreate -q labvg /dev/disk/by-id/virtio-lab1; lvcreate -q --type thin-pool -L 1G -n data labvg
        pvesm add lvmthin thin --vgname labvg --thinpool data --content images
        pvesm add lvm thick --vgname labvg --content images");
    machine.tool("qm set 100 --scsi0 thin:0.01 --scsi1 thick:0.01 --boot order=scsi0");
    machine.sh("lvchange -ay -K labvg/vm-100-disk-0
        dd if=/root/sector of=$(pvesm path thin:vm-100-disk-0) conv=notrunc,fdatasync status=none
        lvchange -an labvg/vm-100-disk-0 labvg/vm-100-disk-1");
    for (vmid, more) in [("101", "--onboot 1 --startup order=2"), ("102", "")] {
        let create = format!("pct create {vmid} local:vztmpl/busybox.tar.gz --rootfs local:0.1 --ostype unmanaged");
        machine
            .tool(&format!("{create} --hostname c{vmid} --memory 96 --swap 0 --cpulimit 0.5 --unprivileged 1 {more}"));
    }
    machine.tool("qm start 100");
    assert_eq!(active_disks(machine), 2);
    machine.tool("qm stop 100");
    assert_eq!(active_disks(machine), 1);
    machine.tool("qm start 100");
    machine.tool("pct start 101");
    assert!(machine.tool("qm status 100").contains("running"));
    assert!(machine.tool("pct status 101").contains("running"));
    wait_for("the words of the guest", 300, || {
        let heard =
            machine.run(&["timeout", "10", "socat", "-u", "UNIX-CONNECT:/var/run/qemu-server/100.serial0", "-"]);
        heard.stdout.contains(WORDS).then_some(())
    });
}

/// How many of the machine's logical volumes that belong to guests are active.
fn active_disks(machine: &Machine) -> usize {
    let list = machine.sh("lvs --noheadings -o lv_name,lv_active labvg");
    list.lines().filter(|line| line.contains("vm-100-") && line.trim_end().ends_with(" active")).count()
}

fn container_is_held_by_its_limits(machine: &Machine) {
    let init = machine.sh("lxc-info -n 101 -p -H");
    let group = machine.sh(&format!("sed -n 's,^0::,/sys/fs/cgroup,p' /proc/{init}/cgroup"));
    let group = group.split("/ns").next().unwrap().trim_end_matches("/init.scope").to_owned();
    // The limit stands in the container's own group or the one around it.
    let find = format!("cat {group}/memory.max {group}/../memory.max 2>/dev/null || true");
    assert!(machine.sh(&find).lines().any(|line| line == (96 << 20).to_string()), "{group}: {}", machine.sh(&find));
    let find = format!("cat {group}/cpu.max {group}/../cpu.max 2>/dev/null || true");
    assert!(machine.sh(&find).lines().any(|line| line == "50000 100000"), "{group}: {}", machine.sh(&find));
    let profile = machine.sh(&format!("cat /proc/{init}/attr/current"));
    assert!(profile.starts_with("lxc-") && profile.contains("(enforce)"), "{profile}");
    // One that takes more memory than it may is ended; its container goes on.
    let hog = machine.run(&["pct", "exec", "101", "--", "tail", "/dev/zero"]);
    assert_ne!(hog.code, 0, "{hog:?}");
    assert!(machine.tool("pct status 101").contains("running"));
    assert!(machine.sh("dmesg").contains("Memory cgroup out of memory"), "the hog ended for another reason");
}

fn guests_came_back_in_order(machine: &Machine) {
    wait_for("the guests to come back", 300, || {
        let runs = |line: &str| machine.tool(line).contains("running");
        (runs("qm status 100") && runs("pct status 101")).then_some(())
    });
    assert!(machine.tool("pct status 102").contains("stopped"));
    assert_eq!(active_disks(machine), 2);
    let tasks = machine.get(&format!("/nodes/{HOSTNAME}/tasks --source all"));
    let of = |kind: &str| -> Vec<&Value> {
        let all = tasks.as_array().unwrap().iter().filter(|task| task["type"] == kind);
        all.collect()
    };
    let stopped = of("stopall");
    assert!(stopped.iter().any(|task| task["status"] == "OK"), "guests were not shut down: {tasks}");
    let upid = of("startall")[0]["upid"].as_str().unwrap().to_owned();
    let log = machine.tool(&format!("pvesh get /nodes/{HOSTNAME}/tasks/{upid}/log --output-format json"));
    let (vm, container) = (log.find("Starting VM 100"), log.find("Starting CT 101"));
    assert!(vm.is_some() && vm < container, "{log}");
}

fn package_goes_without_a_trace(machine: &Machine) {
    machine.tool("qm stop 100");
    machine.tool("pct stop 101");
    machine.tool("qm destroy 100");
    machine.tool("pct destroy 101");
    machine.tool("pct destroy 102");
    assert_eq!(machine.sh("lvs --noheadings -o lv_name labvg").trim(), "data");
    machine.sh("dpkg --purge ferrovisor");
    assert_eq!(machine.sh("systemctl list-unit-files --no-legend 'pve*' || true"), "");
    assert_eq!(machine.sh("ls -d /etc/pve /usr/bin/qm /var/log/pve /var/lib/ferrovisor 2>/dev/null || true"), "");
}
