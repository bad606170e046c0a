//! A Debian on a disk, as people run it: installed, named and keyed by cloud-init, watched by its agent, changed while it
//! runs, put to sleep and set back. It takes minutes of emulation, so it runs with the tests of the lab only.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::Bridge;
use compat_tests::visitor::Visitor;
use compat_tests::{Client, Node, debian, skip, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How long an emulated Debian may take to its agent's first word, in seconds.
const BOOT: u64 = 600;

fn task(node: &Node, client: &Client, path: &str, form: &[(&str, &str)]) {
    node.finish(client, &client.post(path, form).data());
}

/// The disk, if this run is for the lab.
fn disk(test: &str) -> Option<PathBuf> {
    let image = match std::env::var("COMPAT_LAB") {
        Ok(_) => debian::disk(),
        Err(_) => Err("for runs with the lab only".into()),
    };
    image.inspect_err(|reason| skip(test, reason)).ok()
}

fn key(node: &Node) -> PathBuf {
    let key = node.path("key");
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "me@home", "-f"]).arg(&key);
    assert!(command.status().unwrap().success());
    key
}

fn ssh(key: &Path, whom: &str, command: &str) -> String {
    let mut ssh = Command::new("ssh");
    ssh.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]);
    ssh.args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=60", "-i"]).arg(key).args([whom, command]);
    let output = ssh.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Makes a VM with the disk, 1 GB of memory and two processors, of which one is plugged in, started by `SeaBIOS`.
fn start(node: &Node, client: &Client, vm: &str, image: &Path, more: &[&str]) {
    let scsi0 = format!("local:0,import-from={},format=qcow2,discard=on,iothread=1", image.display());
    let mut options = vec!["create", vm, "--name", "web", "--memory", "1024", "--kvm", "0", "--cpu", "qemu64"];
    options.extend(["--cores", "2", "--vcpus", "1", "--numa", "1", "--hotplug", "disk,network,usb,cpu,memory"]);
    options.extend(["--ostype", "l26", "--scsihw", "virtio-scsi-single", "--scsi0", &scsi0, "--boot", "order=scsi0"]);
    options.extend(["--serial0", "socket", "--agent", "1,fstrim_cloned_disks=1"]);
    assert_eq!(node.run("qm", &[&options, more].concat()).code, 0);
    task(node, client, &format!("/nodes/pve1/qemu/{vm}/status/start"), &[]);
}

#[test]
fn a_debian_is_named_and_keyed_and_does_what_its_agent_is_told() {
    let Some(image) = disk("a Debian with cloud-init and an agent") else { return };
    let node = Node::start();
    let client = node.admin();
    let _bridge = Bridge::new("vmdebian0", Some("10.93.7.1/24"));
    assert!(Command::new("ip").args(["-6", "a", "add", "fd93::1/64", "dev", "vmdebian0", "nodad"]).status().is_ok());
    let key = key(&node);
    let keys = key.with_extension("pub");
    let (vm, path) = ("7200", "/nodes/pve1/qemu/7200");
    let mut options = vec!["--net0", "virtio,bridge=vmdebian0", "--ide2", "local:cloudinit"];
    options.extend(["--ciuser", "joe", "--cipassword", "first-word", "--sshkeys", keys.to_str().unwrap()]);
    options.extend(["--nameserver", "10.93.7.53", "--searchdomain", "example.com", "--ciupgrade", "0"]);
    options.extend(["--ipconfig0", "ip=10.93.7.5/24,gw=10.93.7.1,ip6=fd93::5/64,gw6=fd93::1"]);
    start(&node, &client, vm, &image, &options);
    let refused = client.post(&format!("{path}/agent/ping"), &[]);
    assert_eq!((refused.status, refused.reason.as_str()), (500, "QEMU guest agent is not running"));
    let guest = Visitor::arrive(&client, path, BOOT);

    cloud_init_was_obeyed(&guest, &key);
    the_agent_does_everything(&node, &client, path, &guest, &key);

    // The agent goes, and then the machine.
    ssh(&key, "joe@10.93.7.5", "sudo systemctl stop qemu-guest-agent");
    let refused = client.get(&format!("{path}/agent/get-osinfo"));
    assert_eq!((refused.status, refused.reason.as_str()), (500, "QEMU guest agent is not running"));
    ssh(&key, "joe@10.93.7.5", "sudo systemctl start qemu-guest-agent");
    let guest = Visitor::arrive(&client, path, 60);
    guest.tell("shutdown");
    wait_for("the end", 180, || {
        (client.get(&format!("{path}/status/current")).data()["status"] == "stopped").then_some(())
    });
    let refused = client.get(&format!("{path}/agent/info"));
    assert_eq!((refused.status, refused.reason.as_str()), (500, &*format!("VM {vm} is not running")));
    client.put(&format!("{path}/config"), &[("delete", "agent")]).data();
    let refused = client.get(&format!("{path}/agent/info"));
    assert_eq!((refused.status, refused.reason.as_str()), (500, "No QEMU guest agent configured"));
    node.run("qm", &["destroy", vm]).ok();
}

#[test]
fn a_debian_is_changed_while_it_works() {
    let Some(image) = disk("a Debian that is changed") else { return };
    let node = Node::start();
    let client = node.admin();
    let _bridge = Bridge::new("vmdebian1", None);
    let (vm, path) = ("7201", "/nodes/pve1/qemu/7201");
    start(&node, &client, vm, &image, &["--net0", "virtio,bridge=vmdebian1"]);
    let guest = Visitor::arrive(&client, path, BOOT);
    devices_are_plugged(&client, path, &guest);
    // More disk, seen at once.
    let before: u64 = guest.run("cat /sys/block/sda/size").parse().unwrap();
    node.finish(&client, &client.put(&format!("{path}/resize"), &[("disk", "scsi0"), ("size", "+1G")]).data());
    guest.wait_for("cat /sys/block/sda/size", &(before + (1 << 21)).to_string());
    the_disk_moves_under_load(&node, &client, path, &guest);
    memory_is_shared_out(&client, path);
    task(&node, &client, &format!("{path}/status/stop"), &[]);
    node.run("qm", &["destroy", vm]).ok();
}

#[test]
fn a_debian_goes_back_in_time_and_sleeps() {
    let Some(image) = disk("a Debian that goes back in time") else { return };
    let node = Node::start();
    let client = node.admin();
    let (vm, path) = ("7202", "/nodes/pve1/qemu/7202");
    start(&node, &client, vm, &image, &[]);
    let guest = Visitor::arrive(&client, path, BOOT);
    time_goes_back(&node, &client, path, &guest);

    // Asleep on disk, and awake again.
    let boot = guest.run("cat /proc/sys/kernel/random/boot_id");
    guest.run("echo awake > /dev/shm/note");
    task(&node, &client, &format!("{path}/status/suspend"), &[("todisk", "1")]);
    let status = client.get(&format!("{path}/status/current")).data();
    assert_eq!((&status["status"], &status["lock"]), (&"stopped".into(), &"suspended".into()));
    task(&node, &client, &format!("{path}/status/start"), &[]);
    let guest = Visitor::arrive(&client, path, 120);
    assert_eq!(guest.run("cat /dev/shm/note"), "awake");
    assert_eq!(guest.run("cat /proc/sys/kernel/random/boot_id"), boot);
    task(&node, &client, &format!("{path}/status/stop"), &[]);
    node.run("qm", &["destroy", vm]).ok();
}

fn cloud_init_was_obeyed(guest: &Visitor, key: &Path) {
    cloud_init_is_through(guest);
    assert_eq!(guest.ask("get-host-name")["host-name"], "web");
    assert_eq!(guest.run("hostname -f"), "web.example.com");
    assert!(guest.run("cat /home/joe/.ssh/authorized_keys").contains("me@home"));
    assert!(guest.run("resolvectl dns").contains("10.93.7.53"));
    assert!(guest.run("resolvectl domain").contains("example.com"));
    assert!(guest.run("ip route").contains("default via 10.93.7.1"));
    assert!(guest.run("ip -6 route").contains("default via fd93::1"));
    let cards = guest.ask("network-get-interfaces");
    let card = cards.as_array().unwrap().iter().find(|card| card["name"] != "lo").unwrap();
    let addresses: Vec<&str> =
        card["ip-addresses"].as_array().unwrap().iter().filter_map(|address| address["ip-address"].as_str()).collect();
    assert!(addresses.contains(&"10.93.7.5") && addresses.contains(&"fd93::5"), "{cards}");
    // From outside, with the key; the way through IPv6 as well. The password is the one that was given.
    assert_eq!(ssh(key, "joe@10.93.7.5", "whoami"), "joe");
    assert_eq!(ssh(key, "joe@fd93::5", "sudo whoami"), "root");
    assert!(has_password(guest, "joe", "first-word"));
    // The disk grew from its image's size; the root file system follows its partition to the end.
    assert!(guest.run("lsblk -nro NAME,TYPE").contains("sda3 part"));
}

fn cloud_init_is_through(guest: &Visitor) {
    wait_for("cloud-init's end", BOOT, || {
        (guest.status("test -e /run/cloud-init/result.json", None)["exitcode"] == 0).then_some(())
    });
    let result: Value = serde_json::from_str(&guest.run("cat /run/cloud-init/result.json")).unwrap();
    assert_eq!(result["v1"]["errors"], Value::Array(Vec::new()), "{result}");
}

fn has_password(guest: &Visitor, user: &str, password: &str) -> bool {
    let check = format!(
        "python3 -W ignore -c \"import crypt, spwd; h = spwd.getspnam('{user}').sp_pwdp; \
         print(crypt.crypt('{password}', h) == h)\""
    );
    guest.run(&check) == "True"
}

fn the_agent_does_everything(node: &Node, client: &Client, path: &str, guest: &Visitor, key: &Path) {
    let ended = guest.status("cat; echo to-error >&2; exit 3", Some("typed in\n"));
    assert_eq!((&ended["exitcode"], &ended["out-data"]), (&3.into(), &"typed in\n".into()));
    assert_eq!(ended["err-data"], "to-error\n");
    let unknown = client.post(&format!("{path}/agent/exec"), &[("command", "/does/not/exist")]);
    assert!(unknown.reason.starts_with("Agent error: "), "{}", unknown.reason);
    let none = client.get(&format!("{path}/agent/exec-status?pid=999999"));
    assert_eq!(none.reason, "Agent error: Invalid parameter 'pid'");

    let write = [("file", "/root/written"), ("content", "grün\nund blau")];
    client.post(&format!("{path}/agent/file-write"), &write).data();
    let read = client.get(&format!("{path}/agent/file-read?file=/root/written")).data();
    assert_eq!((&read["content"], read.get("truncated")), (&"grün\nund blau".into(), None));
    let encoded = [("file", "/root/bytes"), ("content", "AAH/"), ("encode", "0")];
    client.post(&format!("{path}/agent/file-write"), &encoded).data();
    assert_eq!(guest.run("od -An -tx1 /root/bytes"), " 00 01 ff");
    let missing = client.get(&format!("{path}/agent/file-read?file=/no/such"));
    assert!(missing.reason.starts_with("Agent error: failed to open file '/no/such'"), "{}", missing.reason);

    for command in ["info", "get-osinfo", "get-time", "get-timezone", "get-users", "get-vcpus", "get-memory-block-info"]
    {
        assert!(guest.ask(command).get("error").is_none(), "{command}: {}", guest.ask(command));
    }
    assert_eq!(guest.ask("get-osinfo")["id"], "debian");
    assert!(guest.ask("get-fsinfo").as_array().unwrap().iter().any(|system| system["mountpoint"] == "/"));
    assert_eq!(guest.ask("get-vcpus").as_array().unwrap().len(), 1);
    assert!(guest.tell("fstrim")["paths"].is_array());
    assert_eq!(guest.tell("fsfreeze-status"), "thawed");
    assert!(guest.tell("fsfreeze-freeze").as_u64().unwrap() >= 1);
    assert_eq!(guest.tell("fsfreeze-status"), "frozen");
    assert!(guest.tell("fsfreeze-thaw").as_u64().unwrap() >= 1);

    let password = [("username", "joe"), ("password", "second-word")];
    client.post(&format!("{path}/agent/set-user-password"), &password).data();
    assert!(has_password(guest, "joe", "second-word"));
    let nobody = client.post(&format!("{path}/agent/set-user-password"), &[("username", "nix"), ("password", "12345")]);
    assert!(nobody.reason.starts_with("Agent error: "), "{}", nobody.reason);
    assert_eq!(ssh(key, "joe@10.93.7.5", "true"), "");

    let told: Value = serde_json::from_str(&node.run("qm", &["guest", "cmd", "7200", "get-host-name"]).ok()).unwrap();
    assert_eq!(told["host-name"], "web");
    let told = node.run("qm", &["guest", "exec", "7200", "--", "echo", "hello"]).ok();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["exitcode"], &told["out-data"]), (&0.into(), &"hello\n".into()));
}

fn devices_are_plugged(client: &Client, path: &str, guest: &Visitor) {
    let set = |form: &[(&str, &str)]| client.put(&format!("{path}/config"), form).data();
    set(&[("scsi1", "local:0.25,format=qcow2,iothread=1,serial=PLUGGED")]);
    guest.wait_for("lsblk -bndo SIZE,SERIAL", "268435456 PLUGGED");
    set(&[("virtio2", "local:0.125,format=raw")]);
    guest.wait_for("cat /sys/block/vda/size", "262144");
    let cards = guest.run("ls /sys/class/net | wc -l");
    set(&[("net1", "virtio=BC:24:11:00:00:77,bridge=vmdebian1")]);
    guest.wait_for("cat /sys/class/net/*/address", "bc:24:11:00:00:77");
    set(&[("vcpus", "2")]);
    guest.wait_for("for c in /sys/devices/system/cpu/cpu1/online; do echo 1 > $c; done; nproc", "2");
    let memory = || guest.run("awk '/MemTotal/ {print $2}' /proc/meminfo").parse::<u64>().unwrap();
    let before = memory();
    set(&[("memory", "1536")]);
    wait_for("more memory", 120, || (memory() > before + 400_000).then_some(()));
    set(&[("delete", "scsi1,virtio2,net1")]);
    guest.wait_for("lsblk -ndo NAME | grep -v sr0 | tr '\\n' ' '; ls /sys/class/net | wc -l", &format!("sda {cards}"));
    let pending = client.get(&format!("{path}/pending")).data();
    let waiting = |row: &&Value| row.get("pending").is_some() || row.get("delete").is_some();
    assert_eq!(pending.as_array().unwrap().iter().find(waiting), None);
}

/// The node takes from the guest what both have agreed to, and gives it back.
fn memory_is_shared_out(client: &Client, path: &str) {
    const MIB: u64 = 1 << 20;
    let now = || client.get(&format!("{path}/status/current")).data()["balloon"].as_u64().unwrap();
    let inside = client.get(&format!("{path}/status/current")).data();
    assert!(inside["freemem"].as_u64().is_some_and(|free| free > 0 && free < 1536 * MIB), "{inside}");
    client.put(&format!("{path}/config"), &[("balloon", "1300")]).data();
    assert_eq!(now(), 1536 * MIB);
    client.put("/nodes/pve1/config", &[("ballooning-target", "0")]).data();
    wait_for("memory that is taken", 120, || (now() == 1300 * MIB).then_some(()));
    client.put("/nodes/pve1/config", &[("ballooning-target", "100")]).data();
    wait_for("memory that is given back", 120, || (now() == 1536 * MIB).then_some(()));
}

fn the_disk_moves_under_load(node: &Node, client: &Client, path: &str, guest: &Visitor) {
    let sum = guest.run("dd if=/dev/urandom of=/root/data bs=1M count=64 status=none; sync; md5sum < /root/data");
    guest.run("touch /run/go; (n=0; while test -e /run/go; do n=$((n+1)); echo $n >> /root/count; sync; done) >/dev/null 2>&1 &");
    wait_for("a writer", 60, || (guest.run("wc -l < /root/count").parse::<u64>().ok()? > 3).then_some(()));
    let moved = [("disk", "scsi0"), ("storage", "local"), ("format", "raw"), ("delete", "1")];
    task(node, client, &format!("{path}/move_disk"), &moved);
    let config = client.get(&format!("{path}/config")).data();
    assert!(config["scsi0"].as_str().unwrap().contains(".raw"), "{config}");
    let then = guest.run("wc -l < /root/count").parse::<u64>().unwrap();
    wait_for("the writer to go on", 60, || {
        (guest.run("wc -l < /root/count").parse::<u64>().ok()? > then).then_some(())
    });
    guest.run("rm /run/go; sleep 1; sync; echo 3 > /proc/sys/vm/drop_caches");
    assert_eq!(guest.run("md5sum < /root/data"), sum);
    assert_eq!(guest.run("awk '$1 != NR {print \"gap\"; exit}' /root/count"), "");
    // Back, as snapshots want it.
    let back = [("disk", "scsi0"), ("storage", "local"), ("format", "qcow2"), ("delete", "1")];
    task(node, client, &format!("{path}/move_disk"), &back);
    assert_eq!(guest.run("echo 3 > /proc/sys/vm/drop_caches; md5sum < /root/data"), sum);
}

fn time_goes_back(node: &Node, client: &Client, path: &str, guest: &Visitor) {
    let counter = || guest.run("cat /dev/shm/n").trim().parse::<u64>().unwrap_or(0);
    guest.run(
        "(n=0; while :; do n=$((n+1)); echo $n > /dev/shm/.n; mv /dev/shm/.n /dev/shm/n; sleep 0.2; done) \
         >/dev/null 2>&1 &",
    );
    guest.run("echo before > /root/state; sync");
    let upid = client.post(&format!("{path}/snapshot"), &[("snapname", "ram"), ("vmstate", "1")]).data();
    node.finish(client, &upid);
    let later = counter() + 50;
    wait_for("the counter", 120, || (counter() > later).then_some(()));
    guest.run("echo after > /root/state; sync");
    task(node, client, &format!("{path}/snapshot/ram/rollback"), &[]);
    let guest = Visitor::arrive(client, path, 120);
    let now = guest.run("cat /dev/shm/n").trim().parse::<u64>().unwrap();
    assert!(now < later, "{now} is not before {later}");
    assert_eq!(guest.run("echo 3 > /proc/sys/vm/drop_caches; cat /root/state"), "before");
    node.finish(client, &client.delete(&format!("{path}/snapshot/ram")).data());

    // Without memory: the file systems hold still by the agent's word, which its log keeps (as it does the
    // words of this search).
    let frozen = || guest.run("journalctl --no-pager -o cat -t qemu-ga | grep -c 'guest-fsfreeze [c]alled' || true");
    let before: u32 = frozen().parse().unwrap();
    let upid = client.post(&format!("{path}/snapshot"), &[("snapname", "still")]).data();
    node.finish(client, &upid);
    assert_eq!(guest.tell("fsfreeze-status"), "thawed");
    assert_eq!(frozen().parse::<u32>().unwrap(), before + 1);
    node.finish(client, &client.delete(&format!("{path}/snapshot/still")).data());
}

#[test]
fn a_debian_started_by_ovmf_takes_what_it_is_given() {
    let Some(image) = disk("a Debian with OVMF") else { return };
    let node = Node::start();
    let client = node.admin();
    let (vm, path) = ("7210", "/nodes/pve1/qemu/7210");
    let snippets = node.path("var/lib/vz/snippets");
    std::fs::create_dir_all(&snippets).unwrap();
    let user = "#cloud-config\nhostname: told\nusers:\n- name: eve\nwrite_files:\n- path: /etc/own\n  content: mine\n";
    std::fs::write(snippets.join("user.yaml"), user).unwrap();
    node.run("pvesm", &["set", "local", "--content", "images,iso,snippets,import"]).ok();
    let scsi0 = format!("local:0,import-from={},format=qcow2", image.display());
    let mut options = vec!["create", vm, "--name", "efi", "--memory", "768", "--kvm", "0", "--machine", "q35"];
    options.extend(["--bios", "ovmf", "--efidisk0", "local:1,efitype=4m,format=qcow2", "--ostype", "l26"]);
    options.extend(["--tpmstate0", "local:1,version=v2.0", "--rng0", "source=/dev/urandom", "--serial0", "socket"]);
    options.extend(["--scsihw", "virtio-scsi-pci", "--scsi0", &scsi0, "--boot", "order=scsi0", "--agent", "1"]);
    options.extend(["--scsi9", "local:cloudinit", "--citype", "configdrive2", "--net0", "virtio"]);
    options.extend(["--cicustom", "user=local:snippets/user.yaml"]);
    assert_eq!(node.run("qm", &options).code, 0);
    task(&node, &client, &format!("{path}/status/start"), &[]);
    let guest = Visitor::arrive(&client, path, BOOT);
    guest.run("test -d /sys/firmware/efi/efivars");
    cloud_init_is_through(&guest);
    assert_eq!(guest.run("cat /etc/own"), "mine");
    assert_eq!(guest.run("id -un eve"), "eve");
    assert_eq!(guest.ask("get-host-name")["host-name"], "told");
    task(&node, &client, &format!("{path}/status/shutdown"), &[("timeout", "180")]);
    assert_eq!(client.get(&format!("{path}/status/current")).data()["status"], "stopped");
    node.run("qm", &["destroy", vm]).ok();
    assert!(!node.path("var/lib/vz/images/7210").read_dir().is_ok_and(|mut files| files.next().is_some()));
}
