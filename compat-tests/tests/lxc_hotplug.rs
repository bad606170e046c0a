//! Changes of a running container that take effect at once, seen from inside.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::{Bridge, busybox_template};
use compat_tests::{Node, wait_for};
use std::fs;
use std::process::{Child, Command, Stdio};

fn pct(node: &Node, words: &str) -> compat_tests::Ran {
    node.run("pct", &words.split_whitespace().collect::<Vec<_>>())
}

#[test]
fn devices_come_and_go_while_the_container_runs() {
    let node = Node::without_daemons();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let _bridge = Bridge::new("fvlxcbr7", Some("10.83.27.1/24"));
    let create = "create 8351 local:vztmpl/busybox.tar.gz --ostype unmanaged --memory 64 --rootfs local:0 --start 1";
    pct(&node, create).ok();
    let inside = |words: &str| pct(&node, &format!("exec 8351 -- {words}"));

    let net = "name=eth0,bridge=fvlxcbr7,hwaddr=BC:24:11:83:27:02";
    pct(&node, &format!("set 8351 --net0 {net},ip=10.83.27.2/24,gw=10.83.27.1")).ok();
    assert_eq!(inside("ping -c 1 -W 5 10.83.27.1").code, 0);
    assert!(inside("ip route").ok().contains("default via 10.83.27.1"));
    pct(&node, &format!("set 8351 --net0 {net},ip=10.83.27.3/24,gw=10.83.27.1")).ok();
    let addresses = inside("ip addr show eth0").ok();
    assert!(addresses.contains("10.83.27.3/24") && !addresses.contains("10.83.27.2/24"), "{addresses}");
    assert_eq!(fs::read_to_string("/sys/class/net/veth8351i0/operstate").unwrap(), "up\n");
    pct(&node, "set 8351 --delete net0").ok();
    assert_ne!(inside("ip addr show eth0").code, 0);
    assert!(!fs::exists("/sys/class/net/veth8351i0").unwrap());

    // A new volume, and one directory of the host, which can only be read.
    pct(&node, "set 8351 --mp0 local:0.05,mp=/run/data").ok();
    assert_eq!(inside("touch /run/data/x").code, 0);
    fs::create_dir(node.path("shared")).unwrap();
    fs::write(node.path("shared/note"), "from the host\n").unwrap();
    pct(&node, &format!("set 8351 --mp1 {},mp=/shared,ro=1", node.path("shared").display())).ok();
    assert_eq!(inside("cat /shared/note").ok(), "from the host\n");
    assert_ne!(inside("touch /shared/new").code, 0);
    // A mount point that is in use is not changed under the feet of its users.
    pct(&node, &format!("set 8351 --mp1 {},mp=/elsewhere", node.path("shared").display())).ok();
    assert!(pct(&node, "pending 8351").ok().contains("new mp1: "));

    pct(&node, "set 8351 --dev0 /dev/fuse,mode=0666").ok();
    assert_eq!(inside("stat -c %a /dev/fuse").ok(), "666\n");
    assert_eq!(node.run("pct", &["exec", "8351", "--", "sh", "-c", "exec 3<>/dev/fuse"]).code, 0);
    pct(&node, "set 8351 --env GREETING=hello").ok();

    pct(&node, "stop 8351").ok();
    pct(&node, "start 8351").ok();
    assert_eq!(inside("cat /elsewhere/note").ok(), "from the host\n");
    assert_eq!(inside("ls /run/data").ok(), "lost+found\nx\n");
    assert!(inside("cat /proc/1/environ").ok().contains("GREETING=hello"));
    assert_eq!(pct(&node, "destroy 8351 --force 1").code, 0);
}

/// A DHCP server on a bridge; it ends with this.
struct Leases(Child);

impl Leases {
    fn on(bridge: &str, node: &Node) -> Self {
        let config = node.path("udhcpd.conf");
        let file = |name: &str| node.path(name).display().to_string();
        let text = format!(
            "start 10.83.33.20\nend 10.83.33.20\ninterface {bridge}\nlease_file {}\npidfile {}\n\
             option subnet 255.255.255.0\noption router 10.83.33.1\noption lease 600\n",
            file("leases"),
            file("udhcpd.pid")
        );
        fs::write(&config, text).unwrap();
        fs::write(node.path("leases"), "").unwrap();
        let mut server = Command::new("busybox");
        server
            .args(["udhcpd", "-f", "-S"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Leases(server.spawn().unwrap())
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed then.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_host_gets_addresses_for_containers_that_cannot() {
    let node = Node::without_daemons();
    busybox_template(&node.path("var/lib/vz/template/cache/busybox.tar.gz"));
    let _bridge = Bridge::new("fvlxcbr8", Some("10.83.33.1/24"));
    let _leases = Leases::on("fvlxcbr8", &node);
    let create = "create 8352 local:vztmpl/busybox.tar.gz --ostype unmanaged --memory 64 --rootfs local:0";
    let net = "name=eth0,bridge=fvlxcbr8,host-managed=1";
    pct(&node, &format!("{create} --net0 {net},ip=dhcp --start 1")).ok();
    let inside = |words: &str| pct(&node, &format!("exec 8352 -- {words}"));
    let has_lease = || inside("ip -4 addr show eth0").stdout.contains("10.83.33.20/24").then_some(());
    wait_for("a lease", 20, has_lease);
    assert!(inside("ip route").ok().contains("default via 10.83.33.1"));
    let clients = || fs::read_dir(node.path("var/lib/lxc/8352/hook")).into_iter().flatten().flatten();
    let client = || clients().find(|entry| entry.file_name() == "dhclient4-eth0.pid").map(|entry| entry.path());
    let pid = fs::read_to_string(client().unwrap()).unwrap().trim().to_owned();
    // A fixed address ends the client, and another lease starts one again.
    pct(&node, &format!("set 8352 --net0 {net},ip=10.83.33.7/24")).ok();
    assert!(client().is_none() && inside("ip -4 addr show eth0").stdout.contains("10.83.33.7/24"));
    wait_for("the client's end", 10, || (!fs::exists(format!("/proc/{pid}/exe")).unwrap()).then_some(()));
    pct(&node, &format!("set 8352 --net0 {net},ip=dhcp")).ok();
    wait_for("another lease", 20, has_lease);
    let pid = fs::read_to_string(client().unwrap()).unwrap().trim().to_owned();
    pct(&node, "stop 8352").ok();
    wait_for("the client's end", 10, || (!fs::exists(format!("/proc/{pid}/exe")).unwrap()).then_some(()));
    assert_eq!(clients().count(), 0);
    assert_eq!(pct(&node, "destroy 8352").code, 0);
}
