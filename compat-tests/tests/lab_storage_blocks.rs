//! Storages of devices and servers at work: LVM, LVM-thin, NFS, CIFS and iSCSI in a machine of the lab, which has the kernel
//! and the servers for them.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::lab::Machine;
use serde_json::Value;

/// Volume ids of a storage's content.
fn content(machine: &Machine, storage: &str) -> Vec<String> {
    let rows = machine.get(&format!("/nodes/localhost/storage/{storage}/content"));
    let mut ids: Vec<String> =
        rows.as_array().unwrap().iter().map(|row| row["volid"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

fn status(machine: &Machine, storage: &str) -> Value {
    machine.get(&format!("/nodes/localhost/storage/{storage}/status"))
}

/// Writes a word to the start of a device and reads it again elsewhere.
fn write(machine: &Machine, path: &str, word: &str) {
    machine.sh(&format!("printf %s {word} | dd of={path} conv=notrunc,fdatasync status=none"));
}

fn read(machine: &Machine, path: &str, length: usize) -> String {
    machine.sh(&format!("head -c {length} {path}"))
}

/// A volume group on a file.
fn group(machine: &Machine, name: &str, size: &str) {
    machine.sh(&format!(
        "truncate -s {size} /root/{name}.img; L=$(losetup -f --show /root/{name}.img); vgcreate -q {name} $L"
    ));
}

#[test]
fn block_devices_and_servers_hold_volumes() {
    let Some(machine) = Machine::start("block_devices_and_servers_hold_volumes", "blocks") else { return };
    thick(&machine);
    thin(&machine);
    nfs(&machine);
    cifs(&machine);
    iscsi(&machine);
}

fn thick(machine: &Machine) {
    group(machine, "thickvg", "3G");
    machine.tool("pvesm add lvm thick --vgname thickvg --content images,rootdir --saferemove 1");
    let scanned = machine.tool("pvesm scan lvm");
    assert!(scanned.contains("thickvg"), "{scanned}");
    machine.tool("pvesm alloc thick 100 vm-100-disk-0 1G");
    assert_eq!(content(machine, "thick"), ["thick:vm-100-disk-0"]);
    assert_eq!(machine.tool("pvesm path thick:vm-100-disk-0").trim(), "/dev/thickvg/vm-100-disk-0");
    assert_eq!(machine.sh("lvs --noheadings -o lv_tags thickvg/vm-100-disk-0").trim(), "pve-vm-100");
    write(machine, "/dev/thickvg/vm-100-disk-0", "secret");
    machine.tool("pvesm free thick:vm-100-disk-0");
    assert!(content(machine, "thick").is_empty());
    // The space was wiped, so that the next owner reads nothing of it.
    machine.tool("pvesm alloc thick 101 vm-101-disk-0 1G");
    machine.sh("cmp -n 65536 /dev/thickvg/vm-101-disk-0 /dev/zero");
    machine.tool("pvesm free thick:vm-101-disk-0");
    assert_eq!(status(machine, "thick")["used"], 0);
    let full = machine.run(&["pvesm", "alloc", "thick", "100", "vm-100-disk-1", "9G"]);
    assert!(full.code != 0 && full.stderr.contains("not enough free space"), "{}", full.stderr);

    machine.tool("pvesm add lvm chain --vgname thickvg --content images --snapshot-as-volume-chain 1");
    machine.tool("qm create 110 --memory 64 --scsi0 chain:0.25");
    let path = "/dev/thickvg/vm-110-disk-0.qcow2";
    machine.sh(&format!("qemu-io -f qcow2 -c 'write -P 17 0 64k' {path}"));
    machine.tool("qm snapshot 110 one");
    machine.sh("lvchange -ay thickvg");
    machine.sh(&format!("qemu-io -f qcow2 -c 'write -P 34 0 64k' {path}"));
    machine.tool("qm rollback 110 one");
    machine.sh("lvchange -ay thickvg");
    machine.sh(&format!("qemu-io -f qcow2 -c 'read -P 17 0 64k' {path} | grep -q 'read 65536'"));
    machine.tool("qm delsnapshot 110 one");
    machine.tool("qm destroy 110");
    assert_eq!(machine.sh("lvs --noheadings -o lv_name thickvg"), "");
}

fn thin(machine: &Machine) {
    group(machine, "thinvg", "3G");
    machine.sh("lvcreate -q --type thin-pool -L 2G -n data thinvg");
    machine.tool("pvesm add lvmthin thin --vgname thinvg --thinpool data --content images,rootdir");
    assert!(machine.tool("pvesm scan lvmthin thinvg").contains("data"));
    machine.tool("qm create 100 --memory 64 --scsi0 thin:1");
    let path = machine.tool("pvesm path thin:vm-100-disk-0").trim().to_owned();
    write(machine, &path, "before");
    machine.tool("qm snapshot 100 one");
    assert_eq!(
        machine.sh("lvs --noheadings -o lv_name thinvg/snap_vm-100-disk-0_one").trim(),
        "snap_vm-100-disk-0_one"
    );
    write(machine, &path, "after!");
    machine.tool("qm rollback 100 one");
    assert_eq!(read(machine, &path, 6), "before");
    machine.tool("qm delsnapshot 100 one");
    machine.tool("qm resize 100 scsi0 +1G");
    assert_eq!(machine.sh(&format!("blockdev --getsize64 {path}")), (2_u64 << 30).to_string());
    machine.tool("qm template 100");
    assert_eq!(content(machine, "thin"), ["thin:base-100-disk-0"]);
    machine.tool("qm clone 100 101 --full 0");
    assert_eq!(read(machine, "/dev/thinvg/vm-101-disk-0", 6), "before");
    machine.tool("qm clone 100 102 --full 1 --storage local");
    machine.tool("qm destroy 101");
    machine.tool("qm destroy 102");
    machine.tool("qm destroy 100");
    assert!(content(machine, "thin").is_empty());
    assert_eq!(machine.sh("lvs --noheadings -o lv_name thinvg").trim(), "data");
}

fn nfs(machine: &Machine) {
    machine.sh("mkdir -p /srv/nfs; echo '/srv/nfs 127.0.0.1(rw,no_root_squash,sync,fsid=7)' > /etc/exports; \
         systemctl start nfs-server; exportfs -ra");
    assert!(machine.tool("pvesm scan nfs 127.0.0.1").contains("/srv/nfs"));
    machine.tool("pvesm add nfs nas --server 127.0.0.1 --export /srv/nfs --content images,iso --options soft,timeo=20");
    machine.tool("pvesm alloc nas 100 vm-100-disk-0.qcow2 1G");
    assert_eq!(content(machine, "nas"), ["nas:100/vm-100-disk-0.qcow2"]);
    machine.sh("test -f /srv/nfs/images/100/vm-100-disk-0.qcow2");
    machine.tool("pvesm free nas:100/vm-100-disk-0.qcow2");
    // A server that is gone costs its own row and nothing else.
    machine.sh("systemctl stop nfs-server");
    let rows = machine.sh("timeout 15 pvesm status");
    assert!(rows.lines().any(|line| line.starts_with("nas ") && line.contains("inactive")), "{rows}");
    assert!(rows.lines().any(|line| line.starts_with("local ") && line.contains("active")), "{rows}");
    machine.sh("systemctl start nfs-server; exportfs -ra");
    machine.sh("for i in $(seq 60); do pvesm status | grep -q '^nas .* active' && exit 0; sleep 1; done; exit 1");
    machine.tool("pvesm remove nas");
}

fn cifs(machine: &Machine) {
    machine.sh(
        "mkdir -p /srv/smb; printf '[data]\\npath=/srv/smb\\nread only=no\\n' >> /etc/samba/smb.conf; \
         useradd -M lab || true; printf 'geheim\\ngeheim\\n' | smbpasswd -s -a lab; chown lab /srv/smb; systemctl restart smbd",
    );
    let wrong = machine.run(&[
        "pvesm",
        "add",
        "cifs",
        "bad",
        "--server",
        "127.0.0.1",
        "--share",
        "data",
        "--username",
        "lab",
        "--password",
        "wrong",
    ]);
    assert!(wrong.code != 0 && wrong.stderr.contains("mount error"), "{}", wrong.stderr);
    machine.sh("test ! -e /etc/pve/priv/storage/bad.pw");
    machine.tool(
        "pvesm add cifs smb --server 127.0.0.1 --share data --username lab --password geheim --content images,backup",
    );
    assert_eq!(machine.sh("stat -c %a /etc/pve/priv/storage/smb.pw"), "600");
    assert!(!machine.sh("cat /etc/pve/storage.cfg").contains("geheim"));
    machine.tool("pvesm alloc smb 100 vm-100-disk-0.raw 16M");
    assert_eq!(content(machine, "smb"), ["smb:100/vm-100-disk-0.raw"]);
    machine.tool("pvesm free smb:100/vm-100-disk-0.raw");
    machine.tool("pvesm remove smb");
    machine.sh("test ! -e /etc/pve/priv/storage/smb.pw");
}

fn iscsi(machine: &Machine) {
    machine.sh("systemctl start tgt; truncate -s 64M /root/lun.img; \
         tgtadm --lld iscsi --op new --mode target --tid 1 -T iqn.2026-01.lab:disk; \
         tgtadm --lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b /root/lun.img; \
         tgtadm --lld iscsi --op bind --mode target --tid 1 -I ALL; systemctl start iscsid");
    assert!(machine.tool("pvesm scan iscsi 127.0.0.1").contains("iqn.2026-01.lab:disk"));
    machine.tool("pvesm add iscsi san --portal 127.0.0.1 --target iqn.2026-01.lab:disk --content images");
    machine.sh("udevadm settle");
    let ids = content(machine, "san");
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert!(ids[0].starts_with("san:0.0.1.scsi-"), "{ids:?}");
    let path = machine.tool(&format!("pvesm path {}", ids[0])).trim().to_owned();
    assert_eq!(machine.sh(&format!("blockdev --getsize64 {path}")), (64_u64 << 20).to_string());
    machine.tool("pvesm remove san");
}
