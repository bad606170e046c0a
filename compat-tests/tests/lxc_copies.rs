//! Copies of containers and their volumes: clones, templates, moves, backups that come back, images of applications.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use compat_tests::guest::busybox_template;
use serde_json::json;
use std::fs;
use std::path::Path;
use std::process::Command;

const TEMPLATE: &str = "local:vztmpl/busybox.tar.gz";

fn node() -> Node {
    let node = Node::without_daemons();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    node
}

fn pct(node: &Node, words: &str) -> compat_tests::Ran {
    node.run("pct", &words.split_whitespace().collect::<Vec<_>>())
}

#[track_caller]
fn config(node: &Node, vmid: &str, line: &str) {
    let text = fs::read_to_string(node.path(&format!("etc/pve/nodes/pve1/lxc/{vmid}.conf"))).unwrap();
    assert!(text.lines().any(|found| found.starts_with(line)), "no '{line}' in:\n{text}");
}

fn tar(arguments: &[&str], directory: &Path) {
    assert!(Command::new("tar").current_dir(directory).args(arguments).status().unwrap().success());
}

#[test]
fn clones_templates_and_moves() {
    let node = node();
    let create = format!("create 8341 {TEMPLATE} --ostype unmanaged --memory 64 --rootfs local:0.1 --hostname one");
    pct(&node, &format!("{create} --mp0 local:0.05,mp=/data --net0 name=eth0,hwaddr=BC:24:11:00:00:01")).ok();
    pct(&node, "start 8341").ok();
    pct(&node, "exec 8341 -- touch /data/note /root/mark").ok();
    let refused = pct(&node, "clone 8341 8342");
    assert_eq!(refused.stderr, "Full clone of a running container is only possible from a snapshot\n");
    // Still, but alive.
    pct(&node, "suspend 8341").ok();
    assert_eq!(pct(&node, "status 8341").ok(), "status: running\n");
    pct(&node, "resume 8341").ok();
    assert_eq!(pct(&node, "exec 8341 -- echo on").ok(), "on\n");
    pct(&node, "stop 8341").ok();

    pct(&node, "clone 8341 8342 --hostname two --description copy").ok();
    config(&node, "8342", "hostname: two");
    config(&node, "8342", "rootfs: local:8342/vm-8342-disk-");
    config(&node, "8342", "mp0: local:8342/vm-8342-disk-");
    let address = |vmid: &str| {
        let text = node.run("pct", &["config", vmid]).ok();
        text.lines().find(|line| line.starts_with("net0")).unwrap().to_owned()
    };
    assert_ne!(address("8341"), address("8342"));
    pct(&node, "start 8342").ok();
    assert_eq!(pct(&node, "exec 8342 -- ls /data /root").ok(), "/data:\nlost+found\nnote\n\n/root:\nmark\n");
    pct(&node, "stop 8342").ok();

    // A volume changes its owner, and its storage.
    let moved = pct(&node, "move-volume 8342 mp0 --target-vmid 8341 --target-volume mp3").ok();
    assert!(moved.contains("moving volume 'mp0' from container '8342' to '8341'"), "{moved}");
    config(&node, "8341", "mp3: local:8341/vm-8341-disk-");
    assert!(!node.run("pct", &["config", "8342"]).ok().contains("mp0"));
    let wrong = pct(&node, "move-volume 8341 rootfs --target-vmid 8342");
    assert_eq!(wrong.stderr, "Cannot move to/from 'rootfs'\n");
    fs::create_dir(node.path("second")).unwrap();
    let second = node.path("second").to_string_lossy().into_owned();
    node.run("pvesm", &["add", "dir", "second", "--path", &second, "--content", "rootdir,images"]).ok();
    pct(&node, "move-volume 8342 rootfs second --delete 1").ok();
    config(&node, "8342", "rootfs: second:8342/vm-8342-disk-0.raw");
    assert!(!node.path("var/lib/vz/images/8342/vm-8342-disk-0.raw").exists());
    pct(&node, "start 8342").ok();
    assert_eq!(pct(&node, "exec 8342 -- ls /root").ok(), "mark\n");
    pct(&node, "stop 8342").ok();

    // What no configuration names is found again.
    let file = node.path("second/images/8342/vm-8342-disk-9.raw");
    fs::write(&file, vec![0; 4096]).unwrap();
    assert!(pct(&node, "rescan --vmid 8342").ok().contains("add unreferenced volume 'second:8342/vm-8342-disk-9.raw'"));
    config(&node, "8342", "unused0: second:8342/vm-8342-disk-9.raw");

    pct(&node, "template 8342").ok();
    config(&node, "8342", "template: 1");
    assert_eq!(pct(&node, "start 8342").stderr, "you can't start a CT if it's a template\n");
    let linked = pct(&node, "clone 8342 8343");
    assert!(linked.stderr.starts_with("Linked clone feature for 'second:8342/base-"), "{linked:?}");
    pct(&node, "clone 8342 8343 --full 1 --storage local").ok();
    pct(&node, "start 8343").ok();
    assert_eq!(pct(&node, "exec 8343 -- ls /root").ok(), "mark\n");
    for vmid in ["8343", "8342", "8341"] {
        let gone = pct(&node, &format!("destroy {vmid} --force 1 --destroy-unreferenced-disks 1"));
        assert_eq!(gone.code, 0, "{gone:?}");
    }
    for place in ["var/lib/vz/images", "second/images", "var/lib/lxc", "etc/pve/nodes/pve1/lxc"] {
        let left: Vec<_> = fs::read_dir(node.path(place)).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
}

/// A backup in PVE's layout: the files, with the configuration in `./etc/vzdump/pct.conf`.
fn backup(node: &Node, name: &str) {
    let tree = node.path("backup-tree");
    fs::create_dir_all(&tree).unwrap();
    tar(&["-xzf", &node.path("var/lib/vz/template/cache/busybox.tar.gz").to_string_lossy()], &tree);
    fs::create_dir_all(tree.join("etc/vzdump")).unwrap();
    let config = "#from a backup\narch: amd64\ncores: 1\nhostname: old\nmemory: 80\n\
                  net0: name=eth0,hwaddr=BC:24:11:00:00:02,type=veth\nostype: unmanaged\n\
                  rootfs: local:100/vm-100-disk-0.raw,size=96M\nswap: 0\nunprivileged: 1\nlxc.environment.runtime: A=b\n\n\
                  [snap]\nmemory: 1\n";
    fs::write(tree.join("etc/vzdump/pct.conf"), config).unwrap();
    fs::write(tree.join("etc/vzdump/pct.fw"), "[OPTIONS]\nenable: 1\n").unwrap();
    fs::create_dir_all(node.path("var/lib/vz/dump")).unwrap();
    let archive = node.path(&format!("var/lib/vz/dump/{name}"));
    tar(&["--zstd", "-cf", &archive.to_string_lossy(), "--owner=0", "--group=0", "."], &tree);
}

#[test]
fn backups_come_back() {
    let node = node();
    let content = ["set", "local", "--content", "backup,vztmpl,rootdir,images"];
    node.run("pvesm", &content).ok();
    let name = "vzdump-lxc-100-2026_01_02-03_04_05.tar.zst";
    backup(&node, name);
    let volume = format!("local:backup/{name}");
    pct(&node, &format!("restore 8346 {volume} --hostname new")).ok();
    for line in ["hostname: new", "cores: 1", "memory: 80", "unprivileged: 1", "lxc.environment.runtime: A=b"] {
        config(&node, "8346", line);
    }
    config(&node, "8346", "rootfs: local:8346/vm-8346-disk-0.raw,size=96M");
    config(&node, "8346", "net0: name=eth0,hwaddr=BC:24:11:00:00:02,type=veth");
    assert_eq!(fs::read_to_string(node.path("etc/pve/firewall/8346.fw")).unwrap(), "[OPTIONS]\nenable: 1\n");
    pct(&node, "start 8346").ok();
    assert_eq!(pct(&node, "exec 8346 -- ls /etc/vzdump").ok(), "");
    let running = pct(&node, &format!("restore 8346 {volume} --force 1"));
    assert!(running.stderr.contains("can't overwrite running container"), "{running:?}");
    pct(&node, "exec 8346 -- touch /root/changed").ok();
    pct(&node, "stop 8346").ok();
    assert_ne!(pct(&node, &format!("restore 8346 {volume}")).code, 0);

    // A restore that fails leaves the container as it was.
    let broken = node.path("var/lib/vz/dump/vzdump-lxc-100-2026_01_02-03_04_06.tar.zst");
    let whole = fs::read(node.path(&format!("var/lib/vz/dump/{name}"))).unwrap();
    fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let before = node.run("pct", &["config", "8346"]).ok();
    let failed = pct(&node, "restore 8346 local:backup/vzdump-lxc-100-2026_01_02-03_04_06.tar.zst --force 1");
    assert!(failed.stderr.contains("unable to restore CT 8346 - "), "{failed:?}");
    assert_eq!(node.run("pct", &["config", "8346"]).ok(), before);
    pct(&node, "start 8346").ok();
    assert_eq!(pct(&node, "exec 8346 -- ls /root").ok(), "changed\n");
    pct(&node, "stop 8346").ok();

    pct(&node, &format!("restore 8346 {volume} --force 1 --unique 1")).ok();
    assert!(!node.run("pct", &["config", "8346"]).ok().contains("BC:24:11:00:00:02"));
    let disks: Vec<_> = fs::read_dir(node.path("var/lib/vz/images/8346")).unwrap().flatten().collect();
    assert_eq!(disks.len(), 1, "{disks:?}");
    pct(&node, "start 8346").ok();
    assert_eq!(pct(&node, "exec 8346 -- ls /root").ok(), "");
    assert_eq!(pct(&node, "destroy 8346 --force 1").code, 0);
}

#[test]
fn backups_come_back_through_a_pipe() {
    let node = node();
    let name = "vzdump-lxc-100-2026_01_02-03_04_05.tar.zst";
    backup(&node, name);
    let packed = node.path(&format!("var/lib/vz/dump/{name}"));
    let plain = node.path("plain.tar");
    let mut unpack = Command::new("zstd");
    assert!(unpack.args(["-q", "-d"]).arg(&packed).arg("-o").arg(&plain).status().unwrap().success());
    let restore = |file: &Path, words: &str| {
        let mut tool = node.program("pct");
        tool.args(words.split(' ')).stdin(fs::File::open(file).unwrap()).output().unwrap()
    };
    for file in [&packed, &plain] {
        let output = restore(file, "restore 8348 - --rootfs local:0.1 --unprivileged 1 --bwlimit 20000");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && said.contains("extracting archive from STDIN"), "{output:?}");
        for line in ["hostname: old", "memory: 80", "unprivileged: 1", "rootfs: local:8348/vm-8348-disk-0.raw,size="] {
            config(&node, "8348", line);
        }
        pct(&node, "start 8348").ok();
        assert_eq!(pct(&node, "exec 8348 -- ls /etc/vzdump").ok(), "");
        assert_eq!(pct(&node, "destroy 8348 --force 1").code, 0);
    }
    let refused = |words: &str| String::from_utf8(restore(&plain, words).stderr).unwrap();
    assert_eq!(refused("restore 8348 -"), "restore from pipe requires rootfs parameter\n");
    let created = refused("create 8348 - --rootfs local:0.1");
    assert_eq!(created, "pipe can only be used with restore tasks\n");
    // What breaks off leaves nothing.
    let bytes = fs::read(&packed).unwrap();
    fs::write(&plain, &bytes[..bytes.len() / 2]).unwrap();
    assert!(!restore(&plain, "restore 8348 - --rootfs local:0.1").status.success());
    assert!(!node.path("etc/pve/nodes/pve1/lxc/8348.conf").exists() && !node.path("var/lib/vz/images/8348").exists());
}

fn blob(layout: &Path, bytes: &[u8]) -> serde_json::Value {
    fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    let temporary = layout.join("blob");
    fs::write(&temporary, bytes).unwrap();
    let sum = Command::new("sha256sum").arg(&temporary).output().unwrap().stdout;
    let hash = String::from_utf8(sum).unwrap().split_whitespace().next().unwrap().to_owned();
    fs::rename(&temporary, layout.join("blobs/sha256").join(&hash)).unwrap();
    json!({"digest": format!("sha256:{hash}"), "size": bytes.len()})
}

#[test]
fn application_images_start() {
    let node = node();
    let layout = node.path("image");
    let lower = fs::read(node.path("var/lib/vz/template/cache/busybox.tar.gz")).unwrap();
    let upper = node.path("upper");
    fs::create_dir_all(upper.join("app")).unwrap();
    fs::write(upper.join("app/run"), "#!/bin/sh\necho \"$GREETING $(id -u) $PWD\" > /tmp/said\nexec sleep 1000\n")
        .unwrap();
    fs::write(upper.join("etc-marker"), "").unwrap();
    fs::create_dir_all(upper.join("etc")).unwrap();
    fs::write(upper.join("etc/.wh.inittab"), "").unwrap();
    tar(&["-cf", "../upper.tar", "--mode=0755", "--owner=0", "--group=0", "."], &upper);
    let mut first = blob(&layout, &lower);
    first["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip");
    let mut second = blob(&layout, &fs::read(node.path("upper.tar")).unwrap());
    second["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar");
    let config = json!({"architecture": "amd64", "os": "linux", "config": {
        "Entrypoint": ["/bin/sh"], "Cmd": ["/app/run"], "Env": ["PATH=/bin", "GREETING=hello"], "WorkingDir": "/app",
    }});
    let config = blob(&layout, config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": [first, second]});
    let manifest = blob(&layout, manifest.to_string().as_bytes());
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string()).unwrap();
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\": \"1.0.0\"}").unwrap();
    tar(&["-cf", "../var/lib/vz/template/cache/app.tar", "oci-layout", "index.json", "blobs"], &layout);

    let created = pct(&node, "create 8347 local:vztmpl/app.tar --ostype unmanaged --memory 64 --rootfs local:0").ok();
    assert!(created.contains("Detected OCI archive"), "{created}");
    config_lines(&node);
    pct(&node, "start 8347").ok();
    compat_tests::wait_for("the application", 10, || {
        let said = pct(&node, "exec 8347 -- /bin/busybox cat /tmp/said");
        (said.stdout == "hello 0 /app\n").then_some(())
    });
    assert_ne!(pct(&node, "exec 8347 -- /bin/busybox ls /etc/inittab").code, 0);
    assert_eq!(pct(&node, "destroy 8347 --force 1").code, 0);

    // A blob that was changed on its way is refused, and nothing is left.
    let name = first_blob(&layout);
    let mut bytes = fs::read(&name).unwrap();
    bytes[20] ^= 1;
    fs::write(&name, bytes).unwrap();
    tar(&["-cf", "../var/lib/vz/template/cache/bad.tar", "oci-layout", "index.json", "blobs"], &layout);
    let refused = pct(&node, "create 8347 local:vztmpl/bad.tar --ostype unmanaged --rootfs local:0");
    assert!(refused.stderr.contains("is damaged"), "{refused:?}");
    assert!(!node.path("etc/pve/nodes/pve1/lxc/8347.conf").exists());
    assert!(!node.path("var/lib/vz/images/8347/subvol-8347-disk-0.subvol").exists());
}

fn config_lines(node: &Node) {
    config(node, "8347", "entrypoint: /bin/sh /app/run");
    config(node, "8347", "cmode: console");
    config(node, "8347", "lxc.environment.runtime: GREETING=hello");
    config(node, "8347", "lxc.init.cwd: /app");
    config(node, "8347", "lxc.signal.halt: SIGTERM");
}

/// The layer that is packed: the largest blob.
fn first_blob(layout: &Path) -> std::path::PathBuf {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap().flatten().map(|entry| entry.path());
    blobs.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}
