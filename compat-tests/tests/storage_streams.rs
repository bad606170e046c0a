//! Volumes as streams, copies, appliances and backups, by the tools that administrators use.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

fn json(node: &Node, arguments: &[&str]) -> Value {
    let mut all = arguments.to_vec();
    all.extend(["--output-format", "json"]);
    serde_json::from_str(&node.run("pvesh", &all).ok()).unwrap()
}

fn sh(program: &str, arguments: &[&str]) {
    assert!(Command::new(program).args(arguments).status().unwrap().success(), "{program} {arguments:?}");
}

#[test]
fn a_volume_leaves_as_a_stream_and_comes_back() {
    let node = Node::without_daemons();
    node.run("pvesm", &["alloc", "local", "100", "vm-100-disk-0.raw", "1024"]).ok();
    let place = node.path("var/lib/vz/images/100/vm-100-disk-0.raw");
    let bytes: Vec<u8> = (0..1 << 20).map(|at: u32| (at % 249) as u8).collect();
    fs::write(&place, &bytes).unwrap();
    let stream = node.path("stream").to_string_lossy().into_owned();
    node.run("pvesm", &["export", "local:100/vm-100-disk-0.raw", "raw+size", &stream]).ok();
    assert_eq!(fs::metadata(&stream).unwrap().len(), (1 << 20) + 8);
    let import = |more: &[&str]| {
        let mut arguments = vec!["import", "local:100/vm-100-disk-0.raw", "raw+size", &stream];
        arguments.extend(more);
        node.run("pvesm", &arguments)
    };
    assert!(import(&[]).stderr.contains("already exists"));
    assert_eq!(import(&["--allow-rename", "1"]).ok(), "successfully imported 'local:100/vm-100-disk-1.raw'\n");
    assert!(fs::read(node.path("var/lib/vz/images/100/vm-100-disk-1.raw")).unwrap() == bytes);
    let ran = node.run("pvesm", &["export", "local:100/vm-100-disk-0.raw", "btrfs", &stream]);
    assert_ne!(ran.code, 0);
    let path = "/nodes/pve1/storage/local/content/local:100%2Fvm-100-disk-0.raw";
    node.run("pvesh", &["create", path, "--target", "local:101/vm-101-disk-5.raw"]);
    assert!(fs::read(node.path("var/lib/vz/images/101/vm-101-disk-5.raw")).unwrap() == bytes);
    let again = node.run("pvesh", &["create", path, "--target", "local:101/vm-101-disk-5.raw"]);
    assert!(again.stderr.contains("already exists"), "{}", again.stderr);
}

#[test]
fn a_stream_comes_over_a_connection() {
    let node = Node::without_daemons();
    let stream = [&(1_u64 << 20).to_le_bytes()[..], &[7; 1 << 20]].concat();
    let place = node.path("var/lib/vz/images/100/vm-100-disk-0.raw");
    let arguments = ["import", "local:100/vm-100-disk-0.raw", "raw+size"];
    let socket = node.path("socket").to_string_lossy().into_owned();
    for (from, first) in [("tcp://127.0.0.0/8", "127.0.0.1\n"), (&format!("unix://{socket}"), "ready\n")] {
        let mut command = node.program("pvesm");
        let mut importing = command.args(arguments).arg(from).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(importing.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            line
        };
        assert_eq!(line(), first);
        let mut connection: Box<dyn Write> = if from.starts_with("tcp") {
            let port: u16 = line().trim().parse().unwrap();
            assert!((60_000..60_050).contains(&port), "{port}");
            Box::new(TcpStream::connect(("127.0.0.1", port)).unwrap())
        } else {
            Box::new(UnixStream::connect(&socket).unwrap())
        };
        connection.write_all(&stream).unwrap();
        drop(connection);
        assert_eq!(line(), "successfully imported 'local:100/vm-100-disk-0.raw'\n");
        assert!(importing.wait().unwrap().success());
        assert!(fs::read(&place).unwrap() == stream[8..]);
        node.run("pvesm", &["free", "local:100/vm-100-disk-0.raw"]).ok();
    }
    let nowhere = node.run("pvesm", &[&arguments[..], &["tcp://198.51.100.0/24"]].concat());
    assert!(
        nowhere.stderr.contains("Unable to get any local IP address in network '198.51.100.0/24'"),
        "{}",
        nowhere.stderr
    );
}

#[test]
fn an_appliance_tells_what_guest_it_is() {
    let node = Node::without_daemons();
    let directory = node.path("var/lib/vz/import");
    fs::create_dir_all(&directory).unwrap();
    let at = |name: &str| directory.join(name).to_string_lossy().into_owned();
    sh("qemu-img", &["create", "-q", "-f", "vmdk", &at("d.vmdk"), "8M"]);
    let rasd = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData";
    let item = |kind: u32, more: &str| format!("<Item><r:ResourceType>{kind}</r:ResourceType>{more}</Item>");
    let disk = "<r:Parent>3</r:Parent><r:AddressOnParent>0</r:AddressOnParent><r:HostResource>/disk/x</r:HostResource>";
    let items = [
        item(3, "<r:VirtualQuantity>2</r:VirtualQuantity>"),
        item(4, "<r:VirtualQuantity>512</r:VirtualQuantity>"),
        item(6, "<r:InstanceID>3</r:InstanceID>"),
        item(17, disk),
    ]
    .concat();
    let text = format!(
        "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:o=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:r=\"{rasd}\"><References><File o:href=\"d.vmdk\" o:id=\"f\"/></References><DiskSection>\
         <Disk o:diskId=\"x\" o:fileRef=\"f\"/></DiskSection><VirtualSystem o:id=\"web server\">\
         <VirtualHardwareSection>{items}</VirtualHardwareSection></VirtualSystem></Envelope>"
    );
    fs::write(directory.join("a.ovf"), text).unwrap();
    sh("tar", &["-cf", &at("a.ova"), "-C", &at(""), "a.ovf", "d.vmdk"]);
    let metadata =
        |volume: &str| json(&node, &["get", "/nodes/pve1/storage/local/import-metadata", "--volume", volume]);
    let of_ovf = metadata("import/a.ovf");
    assert_eq!(of_ovf["create-args"]["name"], "web-server");
    assert_eq!((&of_ovf["create-args"]["cores"], &of_ovf["create-args"]["memory"]), (&2.into(), &512.into()));
    assert_eq!(of_ovf["disks"]["scsi0"]["volid"], "local:import/d.vmdk");
    assert_eq!(of_ovf["disks"]["scsi0"]["size"], 8 << 20);
    assert_eq!(metadata("import/a.ova")["disks"]["scsi0"]["volid"], "local:import/a.ova/d.vmdk");
}

#[test]
fn backups_are_pruned_by_rule_and_tell_their_configuration() {
    let node = Node::without_daemons();
    let directory = node.path("var/lib/vz/dump");
    fs::create_dir_all(&directory).unwrap();
    let tree = node.path("tree");
    fs::create_dir_all(tree.join("etc/vzdump")).unwrap();
    fs::write(tree.join("etc/vzdump/pct.conf"), "memory: 512\n").unwrap();
    for day in 1..=4 {
        let name = format!("vzdump-lxc-100-2026_01_0{day}-10_00_00.tar.gz");
        let archive = directory.join(name).to_string_lossy().into_owned();
        sh("tar", &["-czf", &archive, "-C", &tree.to_string_lossy(), "./etc"]);
    }
    let volume = "local:backup/vzdump-lxc-100-2026_01_04-10_00_00.tar.gz";
    assert_eq!(node.run("pvesm", &["extractconfig", volume]).ok(), "memory: 512\n");
    fs::write(directory.join("vzdump-lxc-100-2026_01_01-10_00_00.tar.gz.protected"), "").unwrap();
    let preview = node.run("pvesm", &["prune-backups", "local", "--keep-last", "2", "--dry-run", "1"]).ok();
    for (day, mark) in [(1, "protected"), (2, "remove"), (3, "keep"), (4, "keep")] {
        let line = preview.lines().find(|line| line.contains(&format!("2026_01_0{day}"))).unwrap();
        assert!(line.ends_with(mark), "{preview}");
    }
    assert_eq!(node.run("pvesm", &["prune-backups", "local", "--keep-last", "2"]).code, 0);
    let rest = node.run("pvesm", &["list", "local", "--content", "backup"]).ok();
    assert_eq!(rest.matches("vzdump-lxc").count(), 3, "{rest}");
}
