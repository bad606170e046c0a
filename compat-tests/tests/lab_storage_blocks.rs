//! Storages at work in a machine of the lab, which has the kernel and the servers for them: every type through every step
//! of a volume's life, a server that hangs, disks from empty to storage, and what networks offer.
//!
//! What happens inside are the scripts of `compat-tests/lab`, as an administrator would type it; an emulated machine answers
//! slowly enough without a connection for each command.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::lab::Machine;

const MATRIX: &str = include_str!("../lab/storage-matrix.sh");
const HANG: &str = include_str!("../lab/storage-hang.sh");
const SCAN: &str = include_str!("../lab/storage-scan.sh");
const DISKS: &str = include_str!("../lab/storage-disks.sh");

/// File systems, volume groups and servers on the machine's three disks, and a storage on each.
const SETUP: &str = r"
sgdisk -n1:0:+2G -n2:0:+2G -n3:0:+3G /dev/vdc >/dev/null; udevadm settle
mkfs.xfs -q /dev/vdc1; mkfs.btrfs -q /dev/vdc2; mkfs.ext4 -q /dev/vdc3
mkdir -p /mnt/x /mnt/b /mnt/e; mount /dev/vdc1 /mnt/x; mount /dev/vdc2 /mnt/b; mount /dev/vdc3 /mnt/e
vgcreate -q thickvg /dev/vdb; vgcreate -q thinvg /dev/vdd; lvcreate -q --type thin-pool -L 4G -n data thinvg
mkdir -p /srv/nfs /srv/smb
echo '/srv/nfs 127.0.0.1(rw,no_root_squash,sync,no_subtree_check,fsid=7)' > /etc/exports
systemctl start nfs-server; exportfs -ra
printf '[data]\npath=/srv/smb\nread only=no\n' >> /etc/samba/smb.conf
useradd -M lab; printf 'geheim\ngeheim\n' | smbpasswd -s -a lab; chown lab /srv/smb; systemctl restart smbd
pvesm add dir ext --path /mnt/e --content images,iso
pvesm add dir xfs --path /mnt/x --content images
pvesm add btrfs btr --path /mnt/b --content images
pvesm add lvm thick --vgname thickvg --content images,rootdir
pvesm add lvm chain --vgname thickvg --content images --snapshot-as-volume-chain 1
pvesm add lvmthin thin --vgname thinvg --thinpool data --content images,rootdir
pvesm add nfs nas --server 127.0.0.1 --export /srv/nfs --content images,iso
! pvesm add cifs bad --server 127.0.0.1 --share data --username lab --password wrong
test ! -e /etc/pve/priv/storage/bad.pw
pvesm add cifs smb --server 127.0.0.1 --share data --username lab --password geheim --content images,backup
test $(stat -c %a /etc/pve/priv/storage/smb.pw) = 600
! grep -q geheim /etc/pve/storage.cfg";

/// A storage, the format of its disks, and what its volumes can do.
const TYPES: &[&str] = &[
    "ext qcow2 snapshot template",
    "xfs raw template",
    "btr raw snapshot template linked independent",
    "thick raw",
    "chain qcow2 snapshot",
    "thin raw snapshot template linked independent",
    "nas qcow2 snapshot template",
    "smb qcow2 snapshot template",
];

/// Runs a script with arguments and shows what it says.
#[track_caller]
fn script(machine: &Machine, arguments: &str, script: &str) {
    println!("{}", machine.sh(&format!("cd /root\nset -- {arguments}\nset -x\n{script}")));
}

#[test]
fn every_type_takes_every_step() {
    let Some(machine) = Machine::start("every_type_takes_every_step", "storages") else { return };
    machine.sh(SETUP);
    for kind in TYPES {
        script(&machine, kind, MATRIX);
    }
}

/// The next owner of a freed volume's space reads nothing of it.
#[test]
fn what_was_on_a_freed_volume_is_overwritten() {
    let Some(machine) = Machine::start("what_was_on_a_freed_volume_is_overwritten", "wiped") else { return };
    machine.sh(SETUP);
    machine.sh("pvesm set thick --saferemove 1; pvesm alloc thick 100 vm-100-disk-0 64M
        yes secret | head -c 1M | dd of=/dev/thickvg/vm-100-disk-0 conv=fdatasync status=none
        pvesm free thick:vm-100-disk-0; pvesm alloc thick 101 vm-101-disk-0 64M
        cmp -n 1048576 /dev/thickvg/vm-101-disk-0 /dev/zero; pvesm free thick:vm-101-disk-0");
    let full = machine.run(&["pvesm", "alloc", "thick", "100", "vm-100-disk-1", "90G"]);
    assert!(full.code != 0 && full.stderr.contains("not enough free space"), "{}", full.stderr);
}

#[test]
fn a_server_that_hangs_hurts_nobody_but_itself() {
    let Some(machine) = Machine::start("a_server_that_hangs_hurts_nobody_but_itself", "hanging") else { return };
    machine.sh(SETUP);
    script(&machine, "", HANG);
    script(&machine, "", SCAN);
}

#[test]
fn disks_become_storages_and_disks_again() {
    let Some(machine) = Machine::start("disks_become_storages_and_disks_again", "disks") else { return };
    script(&machine, "vdb vdc vdd", DISKS);
}
