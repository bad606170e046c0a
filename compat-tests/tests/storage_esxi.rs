//! Machines of an ESXi server: listed, described and imported over https. The server is a stand-in with the pages that
//! VMware documents; `qemu-img` and `curl` are real.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{FileServer, Node};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

const PASSWORD: &str = "pass\"wörd, 1";
const MACHINE: &str = r#"displayName = "web one"
guestOS = "debian11-64"
memSize = "512"
scsi0.virtualDev = "pvscsi"
scsi0:0.fileName = "web.vmdk"
ethernet0.present = "TRUE"
ethernet0.virtualDev = "vmxnet3"
ethernet0.address = "00:50:56:00:00:01"
"#;

/// A server of `pages` below a directory, with a certificate of its own.
fn server(directory: &Path) -> FileServer {
    let certificate = directory.join("certificate.pem");
    let file = certificate.to_str().unwrap();
    let words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=esx"];
    let made = Command::new("openssl").args(words).args(["-keyout", file, "-out", &format!("{file}.crt")]).output();
    assert!(made.unwrap().status.success());
    let both = [fs::read(file).unwrap(), fs::read(format!("{file}.crt")).unwrap()].concat();
    fs::write(file, both).unwrap();
    FileServer::esxi(&directory.join("pages"), &certificate, PASSWORD)
}

fn descriptor(extent: &str) -> String {
    format!("# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType=\"vmfs\"\n{extent}\n")
}

#[test]
fn machines_of_an_esxi_server_are_imported() {
    let node = Node::without_daemons();
    let pages = node.path("esx/pages/ha-datacenter/ds 1/web");
    fs::create_dir_all(&pages).unwrap();
    let bytes: Vec<u8> = (0..5 << 20).map(|at: u32| (at % 249) as u8).collect();
    fs::write(pages.join("web-flat.vmdk"), &bytes).unwrap();
    fs::write(pages.join("web.vmdk"), descriptor("RW 10240 VMFS \"web-flat.vmdk\"")).unwrap();
    fs::write(pages.join("delta.vmdk"), descriptor("RW 10240 VMFSSPARSE \"web-delta.vmdk\"")).unwrap();
    fs::write(pages.join("lost.vmdk"), descriptor("RW 10240 VMFS \"lost-flat.vmdk\"")).unwrap();
    fs::write(pages.join("web.vmx"), MACHINE).unwrap();
    let server = server(&node.path("esx"));
    let port = server.port().to_string();
    let add = |id: &str, password: &str| {
        let options = ["--server", "127.0.0.1", "--port", &port, "--username", "root", "--password", password];
        node.run("pvesm", &[&["add", "esxi", id], &options[..], &["--skip-cert-verification", "1"]].concat()).ok();
    };
    add("esx", PASSWORD);
    add("wrong", "guess");

    let listed = node.run("pvesm", &["list", "esx"]).ok();
    assert!(listed.contains("esx:ha-datacenter/ds 1/web/web.vmx"), "{listed}");
    let metadata = |storage: &str| {
        let path = format!("/nodes/pve1/storage/{storage}/import-metadata");
        let volume = format!("{storage}:ha-datacenter/ds 1/web/web.vmx");
        node.run("pvesh", &["get", &path, "--volume", &volume, "--output-format", "json"])
    };
    let disk = "esx:ha-datacenter/ds 1/web/web.vmdk";
    let described: Value = serde_json::from_str(&metadata("esx").ok()).unwrap();
    assert_eq!(described["disks"]["scsi0"], json!({ "volid": disk, "size": bytes.len() }));
    assert_eq!(described["create-args"]["name"], "web-one");
    assert_eq!(described["net"]["net0"]["macaddr"], "00:50:56:00:00:01");
    assert_eq!(described["warnings"], json!([]));
    fs::write(pages.join("web-1234.vswp"), "").unwrap();
    let described: Value = serde_json::from_str(&metadata("esx").ok()).unwrap();
    assert_eq!(described["warnings"], json!([{ "type": "guest-is-running" }]));
    let refused = metadata("wrong");
    assert!(refused.code != 0 && refused.stderr.contains("401"), "{refused:?}");

    let import = |from: &str| {
        let wanted = format!("local:0,import-from={from}");
        node.run("qm", &["create", "100", "--memory", "64", "--scsi0", &wanted])
    };
    import(disk).ok();
    let copied = fs::read(node.path("var/lib/vz/images/100/vm-100-disk-0.raw")).unwrap();
    assert!(copied == bytes, "{} bytes came of {}", copied.len(), bytes.len());
    node.run("qm", &["destroy", "100"]).ok();
    for (name, reason) in [
        ("esx:ha-datacenter/ds 1/web/delta.vmdk", "disks of type 'VMFSSPARSE' cannot be imported"),
        ("esx:ha-datacenter/ds 1/web/lost.vmdk", "404"),
        ("esx:ha-datacenter/ds 1/web/web.vmx", "does not describe a disk"),
        ("wrong:ha-datacenter/ds 1/web/web.vmdk", "401"),
    ] {
        let failed = import(name);
        assert!(failed.code != 0 && failed.stderr.contains(reason), "{name}: {failed:?}");
        assert!(!node.path("etc/pve/qemu-server/100.conf").exists());
        let left = fs::read_dir(node.path("var/lib/vz/images/100")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{name}");
    }
}
