//! The three topologies of docs/network.md with real packets: the node has the page's own `interfaces` file, and
//! cables are pulled. Switch and world outside are the cables' far ends, cards of the same machine in a namespace.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::lab::{Cable, Machine};
use compat_tests::wait_for;

/// The test's own way into the node stays.
const MANAGEMENT: &str = "auto mgmt\niface mgmt inet static\n\taddress 10.0.2.15/24\n\n";

/// Ten packets in a second, while both cables are pulled one after the other.
const PINGS: u32 = 150;

/// The other end of both cables: a bridge for modes that need nothing of it, else a bond. It stands on VLANs 10 and 20.
const SWITCH: &str = r"
ip link del far 2>/dev/null || true
for card in en03 en04; do ip link set $card nomaster; ip link set $card down; done
case $1 in
802.3ad) ip link add far type bond mode 802.3ad miimon 50 lacp_rate fast xmit_hash_policy layer3+4 ;;
balance-xor) ip link add far type bond mode balance-xor miimon 50 xmit_hash_policy layer3+4 ;;
*) ip link add far type bridge ;;
esac
for card in en03 en04; do ip link set $card master far; ip link set $card up; done
ip link set far up
for vlan in 10 20; do
  ip link add far.$vlan link far type vlan id $vlan
  ip link set far.$vlan up
  ip addr add 10.$vlan.0.1/24 dev far.$vlan
done
for last in $(seq 200 231); do ip addr add 10.10.0.$last/24 dev far.10; done";

/// Gives the VM whose hardware address is the argument an address in VLAN 10, and a program that does nothing.
const BOOT_SERVER: &str = r"
mkdir -p /srv/tftp
printf '#!ipxe\n:again\nsleep 60\ngoto again\n' > /srv/tftp/guest.ipxe
dnsmasq --interface=far.10 --bind-interfaces --port=0 --dhcp-range=10.10.0.100,10.10.0.110 --dhcp-host=$1,10.10.0.11 \
  --dhcp-boot=guest.ipxe --enable-tftp --tftp-root=/srv/tftp --log-facility=/root/boot.log \
  --dhcp-leasefile=/root/boot.leases --pid-file=";

/// Many conversations with many addresses.
const LOAD: &str = "import socket
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
for _ in range(20):
    for number, each in enumerate(sockets):
        each.sendto(b'x' * 500, ('10.10.0.%d' % (200 + number % 32), 9000 + number))
";

struct World {
    node: Machine,
    cables: [Cable; 2],
}

impl World {
    /// A node, two cables, and cards at their other ends that only [`World::far`] knows.
    fn new(test: &str, node: &str) -> Option<Self> {
        let node = Machine::start(test, node)?;
        let cables = [("en01", "en03"), ("en02", "en04")].map(|(card, far)| node.connect(card, &node, far));
        node.sh("ip netns add far; for card in en03 en04; do ip link set $card netns far; done");
        node.bring_template();
        Some(World { node, cables })
    }

    /// Runs a script at the far end.
    #[track_caller]
    fn far(&self, script: &str) {
        self.node.put_text(script, "/root/far.sh");
        self.node.sh("ip netns exec far sh -e /root/far.sh");
    }

    /// The far end for a mode of the bond.
    #[track_caller]
    fn switch(&self, mode: &str) {
        self.far(&format!("set -- {mode}\n{SWITCH}"));
    }

    /// The outside reaches A, and A the outside.
    #[track_caller]
    fn vm_answers_outside(&self) {
        wait_for("the VM to answer", 60, || {
            let ping = ["ip", "netns", "exec", "far", "ping", "-q", "-c1", "-w2", "10.10.0.11"];
            (self.node.run(&ping).code == 0).then_some(())
        });
    }

    fn sent(&self, card: &str) -> u64 {
        self.node.sh(&format!("cat /sys/class/net/{card}/statistics/tx_packets")).parse().unwrap()
    }
}

/// The `interfaces` file of a page's section.
fn documented(heading: &str) -> String {
    let page = include_str!("../../docs/network.md");
    let section = page.split(&format!("## {heading}\n")).nth(1).unwrap();
    let file = section.split("```\n").find(|block| block.starts_with("auto lo")).unwrap();
    format!("{MANAGEMENT}{file}")
}

#[test]
fn bond_and_one_bridge_per_vlan() {
    let Some(world) = World::new("lab_network_topologies::bond", "net-bond") else { return };
    let file = documented("Bond and one bridge per VLAN").replace("bond-miimon 100", "bond-miimon 50");
    world.switch("802.3ad");
    world.node.apply_network(&file);
    // A is a VM, which starts while the others are made; B and C are containers.
    let mac = world.node.network_vm(101, "bridge=vibr10");
    world.far(&format!("set -- {mac}\n{BOOT_SERVER}"));
    world.node.container(102, &["bridge=vibr10"], &["10.10.0.12/24"]);
    // The second address is one of VLAN 10, to see that it is not reached there.
    world.node.container(103, &["bridge=vibr20"], &["10.20.0.13/24", "10.10.0.13/24"]);
    wait_for("the VM to have got its file from outside", 180, || {
        let sent = world.node.run(&["grep", "-q", "sent /srv/tftp/guest.ipxe to 10.10.0.11", "/root/boot.log"]);
        (sent.code == 0).then_some(())
    });
    world.vm_answers_outside();
    world.node.reaches(102, "10.10.0.11");
    world.node.reaches(102, "10.10.0.1");
    world.node.reaches(103, "10.20.0.1");
    world.node.never_reaches(102, "10.10.0.13");
    for address in ["10.10.0.1", "10.10.0.11", "10.10.0.12"] {
        world.node.never_reaches(103, address);
    }

    for mode in ["802.3ad", "balance-xor", "active-backup", "balance-alb"] {
        world.switch(mode);
        world.node.apply_network(&file.replace("bond-mode 802.3ad", &format!("bond-mode {mode}")));
        world.vm_answers_outside();
        if mode == "802.3ad" {
            wait_for("both cables in one group with the partner", 60, || {
                let shown = world.node.sh("cat /proc/net/bonding/bond0");
                (shown.contains("Number of ports: 2") && !shown.contains("Partner Mac Address: 00:00")).then_some(())
            });
        }
        if mode != "active-backup" {
            // `balance-alb` moves flows only after it has measured them for ten seconds.
            wait_for(&format!("load on both cables in {mode}"), 60, || {
                let before = [world.sent("en01"), world.sent("en02")];
                world.node.run(&["python3", "-c", LOAD]);
                let after = [world.sent("en01") - before[0], world.sent("en02") - before[1]];
                after.iter().all(|count| *count > 200).then_some(())
            });
        }
        let lost = lost_while_cables_are_pulled(&world);
        println!("{mode}: {lost} of {PINGS} packets lost while each cable was pulled once");
        assert!(lost < PINGS / 5, "{mode}: {lost} packets lost");
    }
}

/// How many answers a guest misses while one cable after the other is pulled and put back. `ping` itself fails when one
/// does.
fn lost_while_cables_are_pulled(world: &World) -> u32 {
    world.node.sh(&format!(
        "rm -f /tmp/pings; ns=\"nsenter -n -t $(lxc-info -n 102 -p -H)\"; ($ns ping -i 0.1 -c {PINGS} -w 120 10.10.0.1 > /tmp/pings.part 2>&1 || true; \
         mv /tmp/pings.part /tmp/pings) </dev/null >/dev/null 2>&1 &"
    ));
    let carrier = |card: &str, wanted: &str| {
        let file =
            format!("cat /proc/net/bonding/bond0 | grep -A1 'Slave Interface: {card}' | grep -q 'Status: {wanted}'");
        wait_for(&format!("{card} {wanted}"), 30, || (world.node.run(&["sh", "-c", &file]).code == 0).then_some(()));
    };
    wait_for("the first answers", 120, || {
        world.node.run(&["grep", "-q", "seq=5", "/tmp/pings.part"]).code.eq(&0).then_some(())
    });
    for (cable, card) in world.cables.iter().zip(["en01", "en02"]) {
        cable.unplug();
        carrier(card, "down");
        // Traffic goes on over the other.
        world.vm_answers_outside();
        cable.plug();
        carrier(card, "up");
        world.vm_answers_outside();
    }
    let report = wait_for("the last answer", 120, || {
        let ran = world.node.run(&["cat", "/tmp/pings"]);
        (ran.code == 0).then_some(ran.stdout)
    });
    let received = report.lines().find_map(|line| line.split(" packets transmitted, ").nth(1)?.split(' ').next());
    PINGS - received.unwrap_or_else(|| panic!("{report}")).parse::<u32>().unwrap()
}

#[test]
fn bond_and_one_vlan_aware_bridge() {
    let Some(world) = World::new("lab_network_topologies::aware", "net-aware") else { return };
    world.switch("active-backup");
    world.node.apply_network(&documented("Bond and one VLAN-aware bridge"));
    assert!(world.node.run(&["ping", "-c1", "-w20", "10.10.0.1"]).code == 0, "the node's own VLAN");
    world.node.container(101, &["bridge=vibr0,tag=10"], &["10.10.0.11/24", "10.20.0.11/24"]);
    world.node.container(103, &["bridge=vibr0,tag=20"], &["10.20.0.13/24", "10.10.0.13/24"]);
    world.node.container(104, &["bridge=vibr0,trunks=10;20"], &[]);
    world.node.container(105, &["bridge=vibr0"], &["10.10.0.15/24", "10.20.0.15/24"]);
    for vlan in [10, 20] {
        world.node.inside(104, &format!("ip link add link eth0 name eth0.{vlan} type vlan id {vlan}"));
        world.node.inside(104, &format!("ip link set eth0.{vlan} up"));
        world.node.inside(104, &format!("ip addr add 10.{vlan}.0.14/24 dev eth0.{vlan}"));
        world.node.reaches(104, &format!("10.{vlan}.0.1"));
        world.node.never_reaches(105, &format!("10.{vlan}.0.1"));
    }
    world.node.reaches(101, "10.10.0.1");
    world.node.reaches(103, "10.20.0.1");
    world.node.never_reaches(101, "10.10.0.13");
    world.node.never_reaches(101, "10.20.0.1");
    // A running guest moves to the other VLAN.
    let card = world.node.sh("sed -n 's/^net0: //p' /etc/pve/lxc/101.conf").replace("tag=10", "tag=20");
    world.node.tool(&format!("pct set 101 --net0 {card}"));
    world.node.reaches(101, "10.20.0.1");
    world.node.reaches(101, "10.20.0.13");
    world.node.never_reaches(101, "10.10.0.1");
}

#[test]
fn one_card_with_nat_and_inner_networks() {
    let Some(world) = World::new("lab_network_topologies::nat", "net-nat") else { return };
    world.far("ip link set en03 up; ip addr add 192.0.2.1/24 dev en03");
    world.node.apply_network(&documented("One NIC, NAT and inner networks"));
    world.node.container(101, &["bridge=vibr0", "bridge=vibr10"], &["10.0.0.2/24"]);
    for line in ["ip route add default via 10.0.0.1", "ip link set eth1 up", "ip addr add 10.10.0.1/24 dev eth1"] {
        world.node.inside(101, line);
    }
    world.node.container(102, &["bridge=vibr10"], &["10.10.0.2/24"]);
    world.node.inside(102, "ip route add default via 10.10.0.1");
    world.node.container(103, &["bridge=vibr20"], &["10.20.0.2/24", "10.10.0.3/24"]);
    world.node.inside(103, "ip route add default via 10.10.0.1");
    world.node.reaches(101, "192.0.2.1");
    world.node.reaches(102, "10.10.0.1");
    world.node.never_reaches(102, "192.0.2.1");
    // The guest becomes a router that translates.
    world.node.sh(
        "ns='nsenter -n -t '$(lxc-info -n 101 -p -H); $ns sysctl -q -w net.ipv4.ip_forward=1; $ns nft add table ip nat; \
         $ns nft add chain ip nat post '{ type nat hook postrouting priority 100; }'; \
         $ns nft add rule ip nat post oifname eth0 masquerade",
    );
    world.node.reaches(102, "192.0.2.1");
    for address in ["192.0.2.1", "10.10.0.1", "10.10.0.2", "10.0.0.1", "192.0.2.10"] {
        world.node.never_reaches(103, address);
    }
    // The node answers nobody on a bridge on which it has no address, not even to the question who it is.
    world.node.inside(102, "ip addr add 10.0.0.77/24 dev eth0");
    world.node.never_reaches(102, "10.0.0.1");
    let asked = world.node.run(&["pct", "exec", "102", "--", "arping", "-c2", "-w3", "-I", "eth0", "10.0.0.1"]);
    assert_ne!(asked.code, 0, "{}", asked.stdout);
}
