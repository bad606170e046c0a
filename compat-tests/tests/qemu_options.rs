//! Options of VMs: what is planned for other versions of QEMU, and that the installed one takes what is planned for it.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, Ran, skip};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// Ends whatever VM of the node still runs, by the pid in its own file.
struct Vms<'a>(&'a Node);

impl Drop for Vms<'_> {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.0.path("run/qemu-server")).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if !name.ends_with(".pid") {
                continue;
            }
            let pid = fs::read_to_string(entry.path()).unwrap_or_default();
            let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).unwrap_or_default();
            if String::from_utf8_lossy(&command).contains(self.0.root().to_str().unwrap()) {
                // It may have ended by itself just now.
                let _ = Command::new("kill").args(["-9", pid.trim()]).status();
            }
        }
    }
}

fn qm(node: &Node, arguments: &[&str]) -> Ran {
    node.run("qm", arguments)
}

/// A VM from the text of its file; the guest does not run, so that machines of any kind start alike.
fn write(node: &Node, vmid: &str, text: &str) {
    let directory = node.path("etc/pve/nodes/pve1/qemu-server");
    fs::create_dir_all(&directory).unwrap();
    let common = "kvm: 0\nfreeze: 1\nmemory: 64\n";
    let common: String = common.lines().filter(|line| !text.contains(line.split(':').next().unwrap())).fold(
        String::new(),
        |mut all, line| {
            all += line;
            all.push('\n');
            all
        },
    );
    fs::write(directory.join(format!("{vmid}.conf")), format!("{common}{text}")).unwrap();
}

fn images(node: &Node, vmid: &str) {
    let directory = node.path(&format!("var/lib/vz/images/{vmid}"));
    fs::create_dir_all(&directory).unwrap();
    for (number, format) in [(0, "qcow2"), (1, "raw"), (2, "vmdk"), (3, "qcow2"), (4, "raw")] {
        let file = directory.join(format!("vm-{vmid}-disk-{number}.{format}"));
        let status = Command::new("qemu-img").args(["create", "-q", "-f", format]).arg(file).arg("8M").status();
        assert!(status.unwrap().success());
    }
}

#[test]
fn the_installed_qemu_takes_what_is_planned_for_it() {
    let node = Node::without_daemons();
    let _vms = Vms(&node);
    images(&node, "7300");
    let cases = [
        "machine: q35\nostype: l26\nscsihw: virtio-scsi-single\n\
         scsi0: local:7300/vm-7300-disk-0.qcow2,iothread=1,discard=on,ssd=1,serial=a%2Cb,queues=2,mbps_rd=1,iops_wr=10\n\
         net0: virtio=BC:24:11:73:00:00\nrng0: source=/dev/urandom\nagent: 1\nvga: virtio,memory=32\n",
        "scsihw: megasas\nscsi0: local:7300/vm-7300-disk-0.qcow2\nscsi5: local:7300/vm-7300-disk-1.raw,ro=1\n\
         virtio7: local:7300/vm-7300-disk-2.vmdk,cache=writeback\nsata5: local:7300/vm-7300-disk-3.qcow2\n\
         ide1: local:7300/vm-7300-disk-4.raw,model=x\nide2: none,media=cdrom\nvga: cirrus\nwatchdog: ib700\n",
        "scsihw: pvscsi\nscsi0: local:7300/vm-7300-disk-0.qcow2\nscsi9: local:7300/vm-7300-disk-1.raw\nostype: w2k3\n\
         localtime: 1\nagent: enabled=1,type=isa\nvga: vmware\nkeyboard: de\nnet0: rtl8139=BC:24:11:73:00:01\n",
        "scsi0: local:7300/vm-7300-disk-0.qcow2\nscsi8: local:7300/vm-7300-disk-1.raw\nvga: std,clipboard=vnc\n\
         net31: e1000e=BC:24:11:73:00:02\nivshmem: size=1,name=qopt7300\naudio0: device=intel-hda,driver=none\n",
        "numa: 1\nsockets: 2\nvcpus: 1\nmemory: 3072\nhotplug: cpu,memory,disk\ncpu: qemu64,flags=+aes\n\
         balloon: 0\nvga: none\n",
        "machine: pc-i440fx-6.2\nostype: win10\nmeta: creation-qemu=6.2.0\nhotplug: 0\nvga: serial0\nserial0: socket\n\
         serial3: socket\nsmbios1: base64=1,serial=QSxC,uuid=11111111-2222-3333-4444-555555555555\n\
         vmgenid: 66666666-7777-8888-9999-000000000000\nstartdate: 2024-01-02T03:04:05\ntdf: 1\nacpi: 0\n",
        "machine: q35,viommu=intel\nbios: ovmf\nvga: std,memory=32\ntablet: 0\nusb0: spice\nostype: l26\n",
        "machine: pc,viommu=virtio\nusb0: 1234:5678\nusb1: 1234:5678,usb3=1\ncpu: max,phys-bits=42\naudio0: device=AC97,driver=none\n",
    ];
    let mut refused = Vec::new();
    for text in cases {
        write(&node, "7300", text);
        let started = qm(&node, &["start", "7300"]);
        if started.code != 0 {
            refused.push(format!("{text}{}{}", started.stdout, started.stderr));
            continue;
        }
        assert_eq!(qm(&node, &["status", "7300"]).ok(), "status: prelaunch\n");
        qm(&node, &["stop", "7300"]).ok();
    }
    assert!(refused.is_empty(), "{}", refused.join("\n---\n"));
}

#[test]
fn firmware_and_tpm_have_drives_of_their_own() {
    let tools = ["swtpm", "swtpm_setup"];
    let has =
        |name: &&&str| ["/usr/bin/", "/usr/sbin/"].iter().any(|place| fs::exists(format!("{place}{name}")).unwrap());
    if tools.iter().filter(has).count() < tools.len() || !fs::exists("/usr/share/OVMF/OVMF_VARS_4M.ms.fd").unwrap() {
        return skip("firmware_and_tpm_have_drives_of_their_own", "swtpm or ovmf is not installed");
    }
    let node = Node::without_daemons();
    let _vms = Vms(&node);
    let efi = "local:1,efitype=4m,pre-enrolled-keys=1,format=raw";
    qm(
        &node,
        &["create", "7301", "--kvm", "0", "--memory", "64", "--machine", "q35", "--bios", "ovmf", "--efidisk0", efi],
    )
    .ok();
    qm(&node, &["set", "7301", "--tpmstate0", "local:1,version=v2.0", "--freeze", "1"]).ok();
    let config = qm(&node, &["config", "7301"]).ok();
    let expected = "efidisk0: local:7301/vm-7301-disk-0.raw,efitype=4m,pre-enrolled-keys=1,size=528K\n";
    assert!(config.contains(expected), "{config}");
    assert!(config.contains("tpmstate0: local:7301/vm-7301-disk-1.raw,size=4M,version=v2.0\n"), "{config}");
    let variables = fs::read(node.path("var/lib/vz/images/7301/vm-7301-disk-0.raw")).unwrap();
    assert_eq!(variables, fs::read("/usr/share/OVMF/OVMF_VARS_4M.ms.fd").unwrap());
    qm(&node, &["start", "7301"]).ok();
    let pid = fs::read_to_string(node.path("run/qemu-server/7301.swtpm.pid")).unwrap();
    let state = fs::read(node.path("var/lib/vz/images/7301/vm-7301-disk-1.raw")).unwrap();
    assert!(state.iter().any(|byte| *byte != 0), "the state was set up");
    qm(&node, &["stop", "7301"]).ok();
    compat_tests::wait_for("the TPM to end with its VM", 10, || {
        (!compat_tests::process::is_alive(pid.trim().parse().unwrap())).then_some(())
    });
    // A start that fails leaves no TPM behind.
    qm(&node, &["set", "7301", "--args", "-device no-such-device"]).ok();
    let failed = qm(&node, &["start", "7301"]);
    assert!(failed.code != 0 && failed.stderr.contains("no-such-device"), "{}", failed.stderr);
    let left: Vec<_> =
        fs::read_dir(node.path("run/qemu-server")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("7301")), "{left:?}");
}

#[test]
fn directories_are_shared_by_name() {
    if !["/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd"].iter().any(|path| fs::exists(path).unwrap()) {
        return skip("directories_are_shared_by_name", "no virtiofsd is installed");
    }
    let node = Node::without_daemons();
    let _vms = Vms(&node);
    let shared = node.path("shared");
    fs::create_dir_all(&shared).unwrap();
    let entry = format!("node=pve1,path={}", shared.display());
    node.run("pvesh", &["create", "/cluster/mapping/dir", "--id", "share", "--map", &entry]).ok();
    write(&node, "7302", "virtiofs0: share,cache=never\nostype: l26\n");
    qm(&node, &["start", "7302"]).ok();
    assert_eq!(qm(&node, &["status", "7302"]).ok(), "status: prelaunch\n");
    qm(&node, &["stop", "7302"]).ok();
    assert!(!node.path("run/qemu-server/virtiofsd/vm7302-fs0").exists());
    fs::remove_dir(&shared).unwrap();
    let refused = qm(&node, &["start", "7302"]);
    assert!(refused.stderr.contains("directory mapping invalid: Path"), "{}", refused.stderr);
}

#[test]
fn command_lines_are_planned_for_other_machines() {
    let node = Node::without_daemons();
    fs::create_dir_all(node.path("etc/pve/mapping")).unwrap();
    fs::write(
        node.path("etc/pve/mapping/pci.cfg"),
        "card\n\tmap id=8086:10fb,iommugroup=2,node=pve1,path=0000:02:00.0\n\n",
    )
    .unwrap();
    fs::write(node.path("etc/pve/storage.cfg"), "lvmthin: thin\n\tvgname pve\n\tthinpool data\n\tcontent images\n\n")
        .unwrap();
    let facts = node.path("facts.json");
    let plan = |version: &str, extra: Value| {
        let mut known = json!({
            "qemu_version": version, "volumes": "assumed", "host_arch": "x86_64", "cpu_count": 8, "bridges": {"vmbr0": 1500},
            "iscsi_initiator": "", "vhost_net": true,
            "pci_devices": [{"id": "0000:02:00.0", "vendor": "0x8086", "device": "0x10fb", "iommugroup": 2}],
        });
        known.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        fs::write(&facts, known.to_string()).unwrap();
        let output = node.program("qm").args(["showcmd", "7303", "--pretty"]).env("PVE_HOST_FACTS", &facts).output();
        let output = output.unwrap();
        String::from_utf8(if output.status.success() { output.stdout } else { output.stderr }).unwrap()
    };
    let text = "hostpci0: mapping=card\nscsi0: thin:vm-7303-disk-0\nnet0: virtio=BC:24:11:73:00:03,bridge=vmbr0,tag=5\n\
                bios: ovmf\nefidisk0: thin:vm-7303-disk-1,efitype=4m\nscsihw: virtio-scsi-pci\n";
    let directory = node.path("etc/pve/nodes/pve1/qemu-server");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("7303.conf"), text).unwrap();
    let new = plan("10.1.2", json!({}));
    for part in [
        "-device 'vfio-pci,host=0000:02:00.0,id=hostpci0,bus=pci.0,addr=0x10'",
        r#""driver":"host_device","filename":"/dev/pve/vm-7303-disk-0""#,
        "type=pc+pve0'",
        r#""size":540672"#,
    ] {
        assert!(new.contains(part), "{part} in {new}");
    }
    let old = plan("9.2.0", json!({}));
    assert!(
        old.contains("-drive 'file=/dev/pve/vm-7303-disk-0,if=none,id=drive-scsi0,format=raw,cache=none,aio=io_uring")
    );
    let other = plan("10.1.2", json!({"pci_devices": []}));
    assert!(
        other.contains("PCI device mapping invalid (hardware probably changed): pci device '0000:02:00.0' not found")
    );
}
