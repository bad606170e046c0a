//! VMs from descriptions of other systems: an OVF manifest on the machine, an appliance on a storage.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use serde_json::Value;
use std::fs;
use std::process::Command;

const MANIFEST: &str = r#"<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
 <References><File ovf:id="f1" ovf:href="disk.raw"/></References>
 <DiskSection><Disk ovf:diskId="d1" ovf:fileRef="f1" ovf:capacity="1048576"/></DiskSection>
 <VirtualSystem ovf:id="box"><Name>box</Name><VirtualHardwareSection>
  <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
  <Item><rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>64</rasd:VirtualQuantity></Item>
  <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType><rasd:Address>0</rasd:Address></Item>
  <Item><rasd:InstanceID>4</rasd:InstanceID><rasd:ResourceType>17</rasd:ResourceType><rasd:Parent>3</rasd:Parent>
   <rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:HostResource>ovf:/disk/d1</rasd:HostResource></Item>
 </VirtualHardwareSection></VirtualSystem>
</Envelope>
"#;

#[test]
fn appliances_become_vms() {
    let node = Node::without_daemons();
    let folder = node.path("appliance");
    fs::create_dir_all(&folder).unwrap();
    let manifest = folder.join("box.ovf");
    fs::write(&manifest, MANIFEST).unwrap();
    fs::write(folder.join("disk.raw"), vec![7; 1 << 20]).unwrap();
    let manifest = manifest.to_str().unwrap();
    let shown = node.run("qm", &["importovf", "7190", manifest, "local", "--dryrun", "1"]).ok();
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["qm"], serde_json::json!({"name": "box", "memory": 64, "cores": 2}));
    assert_eq!(shown["disks"][0]["disk_address"], "scsi0");
    assert!(node.run("qm", &["list"]).ok().is_empty());

    let made = node.run("qm", &["importovf", "7190", manifest, "local", "--format", "qcow2"]);
    assert_eq!(made.code, 0, "{made:?}");
    let config = node.run("qm", &["config", "7190"]).ok();
    for line in
        ["name: box", "memory: 64", "cores: 2", "boot: order=scsi0", "scsi0: local:7190/vm-7190-disk-0.qcow2,size=1M"]
    {
        assert!(config.lines().any(|found| found == line), "{line} in {config}");
    }
    let missing = node.run("qm", &["importovf", "7191", "/no/such.ovf", "local"]);
    assert_eq!((missing.code, missing.stderr.as_str()), (255, "/no/such.ovf: non-existent or non-regular file\n"));
    // A disk that leads elsewhere is refused before anything is made.
    fs::remove_file(folder.join("disk.raw")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", folder.join("disk.raw")).unwrap();
    let refused = node.run("qm", &["importovf", "7191", manifest, "local"]);
    assert!(refused.code == 255 && refused.stderr.contains("error parsing disk.raw"), "{refused:?}");
    assert!(!node.path("etc/pve/qemu-server/7191.conf").exists());

    let place = node.path("var/lib/vz/import");
    fs::create_dir_all(&place).unwrap();
    fs::copy(manifest, place.join("box.ovf")).unwrap();
    fs::write(place.join("disk.raw"), vec![7; 1 << 20]).unwrap();
    let line = ["import", "7192", "local:import/box.ovf", "--storage", "local", "--name", "other"];
    let shown = node.run("qm", &[line.as_slice(), &["--dryrun", "1"]].concat()).ok();
    assert!(shown.contains("\nqm create 7192 ") && shown.contains("--name other "), "{shown}");
    let made = node.run("qm", &line);
    assert_eq!(made.code, 0, "{made:?}");
    let config = node.run("qm", &["config", "7192"]).ok();
    assert!(config.contains("name: other") && config.contains("cores: 2") && config.contains("size=1M"), "{config}");
    for vmid in ["7190", "7192"] {
        assert_eq!(node.run("qm", &["destroy", vmid]).code, 0);
    }
}

#[test]
fn disks_come_from_archives_and_from_files_of_other_products() {
    let node = Node::without_daemons();
    let place = node.path("var/lib/vz/import");
    fs::create_dir_all(&place).unwrap();
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 241) as u8).collect();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(&place).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}");
    };
    fs::write(place.join("disk.raw"), &bytes).unwrap();
    fs::write(place.join("box.ovf"), MANIFEST).unwrap();
    run("qemu-img", &["convert", "-f", "raw", "-O", "vdi", "disk.raw", "other.vdi"]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "vmdk", "disk.raw", "disk.vmdk"]);
    run("gzip", &["-k", "disk.raw"]);
    run("tar", &["-cf", "box.ova", "box.ovf", "disk.raw", "disk.vmdk"]);
    let outside = |name: &str| place.join(name).to_str().unwrap().to_owned();
    for source in [
        "local:import/box.ova/disk.raw",
        "local:import/box.ova/disk.vmdk",
        &outside("other.vdi"),
        &outside("disk.raw.gz"),
    ] {
        let disk = format!("local:0,import-from={source}");
        let made = node.run("qm", &["create", "7194", "--memory", "64", "--scsi0", &disk]);
        assert_eq!(made.code, 0, "{source}: {made:?}");
        let copied = fs::read(node.path("var/lib/vz/images/7194/vm-7194-disk-0.raw")).unwrap();
        assert!(copied == bytes, "{source}: {} bytes", copied.len());
        node.run("qm", &["destroy", "7194"]).ok();
    }
    let missing = "local:0,import-from=local:import/box.ova/none.vmdk";
    let refused = node.run("qm", &["create", "7194", "--memory", "64", "--scsi0", missing]);
    assert!(refused.code == 255 && refused.stderr.contains("none.vmdk"), "{refused:?}");
    assert!(!node.path("etc/pve/qemu-server/7194.conf").exists());
}
