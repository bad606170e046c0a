//! Changes of a running container that take effect at once, seen from inside.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use compat_tests::guest::{Bridge, busybox_template};
use std::fs;

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
