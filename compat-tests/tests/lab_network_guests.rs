//! What a node takes from others, and guests on bridges of every kind, in the lab: an address by DHCP when applied and
//! after a boot, Open vSwitch with its bonds, ports and tagged guests, bridges of single VLANs on a plain bridge, and the
//! options of a guest's port, all with real packets. The far ends of the cables are cards of the same machine, in a namespace.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::lab::Machine;
use compat_tests::wait_for;

const BASE: &str = "auto lo\niface lo inet loopback\n\nauto mgmt\niface mgmt inet static\n\taddress 10.0.2.15/24\n\
                    \tgateway 10.0.2.2\n\n";

/// The far end: a server of addresses without tags, itself in VLANs 10 and 20 of both cables.
const FAR: &str = r#"ip netns add far; for card in en03 en04; do ip link set $card netns far; done
ip netns exec far sh -ec '
ip link set lo up; ip link add far type bridge; for card in en03 en04; do ip link set $card master far up; done
ip link set far up; ip addr add 192.0.2.1/24 dev far
for vlan in 10 20; do ip link add far.$vlan link far type vlan id $vlan; ip link set far.$vlan up
ip addr add 10.$vlan.0.1/24 dev far.$vlan; done
dnsmasq --interface=far --bind-interfaces --port=0 --dhcp-range=192.0.2.100,192.0.2.150,2m --dhcp-option=6,192.0.2.53 \
  --log-dhcp --log-facility=/root/dhcp.log --dhcp-leasefile=/root/dhcp.leases --pid-file=
nohup socat -u TCP-LISTEN:7007,fork,reuseaddr /dev/null </dev/null >/dev/null 2>&1 &'"#;

struct World {
    node: Machine,
}

impl World {
    fn new(test: &str, node: &str) -> Option<Self> {
        let node = Machine::start(test, node)?;
        for (card, far) in [("en01", "en03"), ("en02", "en04")] {
            node.connect(card, &node, far);
        }
        node.sh(FAR);
        Some(World { node })
    }

    #[track_caller]
    fn apply(&self, text: &str) -> String {
        self.node.apply_network(&format!("{BASE}{text}"))
    }

    fn address(&self, name: &str) -> String {
        self.node.sh(&format!("ip -4 -o addr show dev {name} | sed 's/.*inet //; s/ .*//'"))
    }

    fn clients(&self) -> String {
        self.node.sh("pgrep -a dhcpcd || true")
    }

    #[track_caller]
    fn set(&self, vmid: u32, from: &str, to: &str) {
        let card = self.node.sh(&format!("sed -n 's/^net0: //p' /etc/pve/lxc/{vmid}.conf"));
        assert!(card.contains(from), "{card}");
        self.node.tool(&format!("pct set {vmid} --net0 {}", card.replace(from, to)));
    }
}

#[test]
fn an_address_by_dhcp() {
    let Some(world) = World::new("lab_network_guests::dhcp", "net-dhcp") else { return };
    let leased = |name: &str| world.address(name).starts_with("192.0.2.1") && world.address(name).ends_with("/24");
    // A busy machine may need longer than applying waits; the client goes on.
    let await_lease = |name: &str| wait_for("an address from the server", 120, || leased(name).then_some(()));
    let card = "auto en01\niface en01 inet dhcp\n";
    let said = world.apply(card);
    assert!(said.contains("en01: has address 192.0.2.1") || said.contains("'en01' has no address"), "{said}");
    await_lease("en01");
    assert!(world.node.sh("cat /etc/resolv.conf").contains("192.0.2.53"));
    let shown = world.node.get("/nodes/localhost/network/en01");
    assert!(shown["method"] == "dhcp" && shown["cidr"].as_str().unwrap().starts_with("192.0.2.1"), "{shown}");
    // A client that has died is missed, and started again.
    world.node.sh("pkill -KILL dhcpcd; while pgrep dhcpcd; do sleep 0.1; done");
    assert_ne!(world.node.run(&["pvenet", "status"]).code, 0);
    world.node.tool("pvenet apply");
    assert!(world.clients().contains("en01"));
    await_lease("en01");
    // A fixed address takes its place: the client ends, the lease is given back, name servers stay.
    world.apply(&card.replace("inet dhcp", "inet static\n\taddress 192.0.2.7/24"));
    assert_eq!((world.address("en01").as_str(), world.clients().as_str()), ("192.0.2.7/24", ""));
    assert!(world.node.sh("cat /root/dhcp.log").contains("DHCPRELEASE"));
    assert!(world.node.sh("cat /etc/resolv.conf").contains("192.0.2.53"));
    // A bridge, and the way back when nobody confirms.
    let bridge = "auto vibr0\niface vibr0 inet dhcp\n\tbridge-ports en01\n\tbridge-stp off\n\tbridge-fd 0\n";
    world.node.put_text(&format!("{BASE}{bridge}"), "/etc/network/interfaces.new");
    world.node.tool("pvenet apply --confirm 600");
    await_lease("vibr0");
    assert!(world.address("en01").is_empty());
    world.node.tool("pvenet rollback");
    assert_eq!((world.address("en01").as_str(), world.clients().as_str()), ("192.0.2.7/24", ""));
    world.apply(bridge);
    await_lease("vibr0");
    // After a boot it has an address again, by our own unit; what nobody has confirmed before is gone.
    world.node.sh("systemctl disable networking; systemctl enable ferrovisor-network");
    let unconfirmed = format!("{BASE}{bridge}\nauto lost\niface lost inet manual\n\tbridge-ports none\n");
    world.node.put_text(&unconfirmed, "/etc/network/interfaces.new");
    world.node.tool("pvenet apply --confirm 3600");
    world.node.sh("ip link show lost");
    world.node.reboot();
    world.node.sh(FAR);
    assert_eq!(world.node.sh("cat /etc/network/interfaces"), format!("{BASE}{bridge}").trim_end());
    assert_eq!(world.node.sh("systemctl is-active ferrovisor-network"), "active");
    world.node.sh("! ip link show lost 2>/dev/null");
    // The edit waits again.
    world.node.tool("pvesh delete /nodes/localhost/network");
    await_lease("vibr0");
    assert!(world.node.tool("pvenet status").contains("agree"));
    // Neither a card that has died nor a typing error keeps the rest from coming up.
    let begin = |text: String| {
        world.node.put_text(&text, "/etc/network/interfaces");
        world.node.run(&["sh", "-c", "ip link del vibr0; ip addr flush dev mgmt; pvenet boot > /root/begin 2>&1"]).code
    };
    let dead = "auto vibr0\niface vibr0 inet manual\n\tbridge-ports en01 en77\n";
    assert_eq!(begin(format!("{BASE}{dead}")), 0, "{}", world.node.sh("cat /root/begin"));
    assert!(world.node.sh("cat /root/begin").contains("unable to find bridge port 'en77'"));
    assert_eq!(world.node.sh("basename $(readlink /sys/class/net/en01/master)"), "vibr0");
    assert_ne!(begin(format!("{BASE}{dead}\tbridge-stp\n")), 0);
    assert!(world.node.sh("cat /root/begin").contains("interfaces:12: option 'bridge-stp' has no value"));
    assert_eq!(world.node.sh("basename $(readlink /sys/class/net/en01/master)"), "vibr0");
    assert_eq!(world.address("mgmt"), "10.0.2.15/24");
}

#[test]
fn guests_on_bridges_of_every_kind() {
    let Some(world) = World::new("lab_network_guests::bridges", "net-guests") else { return };
    world.node.bring_template();
    open_vswitch(&world);
    vlans_of_a_plain_bridge(&world);
}

fn open_vswitch(world: &World) {
    let file = "auto vmbr1\niface vmbr1 inet static\n\taddress 192.0.2.7/24\n\tovs_type OVSBridge\n\tovs_ports bond0 in10\n\n\
                auto bond0\niface bond0 inet manual\n\tovs_bonds en01 en02\n\tovs_type OVSBond\n\tovs_bridge vmbr1\n\
                \tovs_options bond_mode=active-backup\n\n\
                auto in10\niface in10 inet static\n\taddress 10.10.0.2/24\n\tovs_type OVSIntPort\n\tovs_bridge vmbr1\n\
                \tovs_options tag=10\n";
    let node = &world.node;
    node.put_text(&format!("{BASE}{file}"), "/etc/network/interfaces.new");
    let refused = node.run(&["pvenet", "apply"]);
    assert!(refused.code != 0 && refused.stderr.contains("does not run"), "{}", refused.stderr);
    node.sh("mv /usr/bin/ovs-vsctl /usr/bin/ovs-vsctl.away");
    let refused = node.run(&["pvenet", "apply"]);
    node.sh("mv /usr/bin/ovs-vsctl.away /usr/bin/ovs-vsctl; systemctl start openvswitch-switch");
    assert!(refused.stderr.contains("Open VSwitch is not installed (need package 'openvswitch-switch')"));
    world.apply(file);
    for address in ["192.0.2.1", "10.10.0.1"] {
        assert_eq!(node.run(&["ping", "-q", "-c1", "-w20", address]).code, 0, "{address}");
    }
    world.node.container(201, &["bridge=vmbr1,tag=10"], &["10.10.0.11/24", "10.20.0.11/24"]);
    world.node.container(202, &["bridge=vmbr1,trunks=10;20"], &[]);
    world.node.reaches(201, "10.10.0.1");
    world.node.never_reaches(201, "10.20.0.1");
    for vlan in [10, 20] {
        world.node.inside(202, &format!("ip link add link eth0 name eth0.{vlan} type vlan id {vlan}"));
        world.node.inside(202, &format!("ip link set eth0.{vlan} up"));
        world.node.inside(202, &format!("ip addr add 10.{vlan}.0.12/24 dev eth0.{vlan}"));
        world.node.reaches(202, &format!("10.{vlan}.0.1"));
    }
    world.set(201, "tag=10", "tag=20");
    world.node.reaches(201, "10.20.0.1");
    world.node.never_reaches(201, "10.10.0.1");
    // A port instead of the bond, the internal port in another VLAN: guests stay.
    let other = file.replace("ovs_ports bond0 in10", "ovs_ports en02 in10").replace("tag=10", "tag=20").replace(
        "auto bond0\niface bond0 inet manual\n\tovs_bonds en01 en02\n\tovs_type OVSBond\n\tovs_bridge vmbr1\n\
         \tovs_options bond_mode=active-backup\n",
        "auto en02\niface en02 inet manual\n\tovs_type OVSPort\n\tovs_bridge vmbr1\n",
    );
    world.apply(&other.replace("10.10.0.2/24", "10.20.0.2/24"));
    assert_eq!(node.run(&["ping", "-q", "-c1", "-w20", "10.20.0.1"]).code, 0);
    world.node.reaches(201, "10.20.0.1");
    // Ports go with their guests.
    node.tool("pct stop 201");
    node.tool("pct stop 202");
    wait_for("the guests' ports to go", 20, || (!node.sh("ovs-vsctl list-ports vmbr1").contains("veth")).then_some(()));
    // A VM's tap has its tag, too.
    node.tool("qm create 203 --memory 32 --kvm 0 --net0 virtio,bridge=vmbr1,tag=10");
    node.tool("qm start 203");
    assert_eq!(node.sh("ovs-vsctl get Port tap203i0 tag"), "10");
    node.tool("qm stop 203");
    assert!(!node.sh("ovs-vsctl list-ports vmbr1").contains("tap203i0"));
    node.tool("qm destroy 203");
    for vmid in [201, 202] {
        node.tool(&format!("pct destroy {vmid}"));
    }
    world.apply("");
    assert_eq!(node.sh("ovs-vsctl list-br"), "");
}

fn vlans_of_a_plain_bridge(world: &World) {
    let node = &world.node;
    let plain = "auto vmbr0\niface vmbr0 inet manual\n\tbridge-ports en01\n\tbridge-stp off\n\tbridge-fd 0\n\tmtu 1400\n\
                 \tbridge-mcsnoop no\n";
    world.apply(plain);
    world.node.container(211, &["bridge=vmbr0,tag=10,rate=1"], &["10.10.0.11/24"]);
    world.node.container(212, &["bridge=vmbr0,tag=10"], &["10.10.0.12/24"]);
    world.node.container(213, &["bridge=vmbr0,tag=20"], &["10.20.0.13/24", "10.10.0.13/24"]);
    world.node.container(214, &["bridge=vmbr0"], &["192.0.2.14/24"]);
    // The names that PVE gives.
    let port = |name: &str| node.sh(&format!("basename $(readlink /sys/class/net/{name}/master)"));
    assert_eq!([port("en01.10"), port("veth211i0"), port("veth213i0")], ["vmbr0v10", "vmbr0v10", "vmbr0v20"]);
    assert_eq!(port("veth214i0"), "vmbr0");
    world.node.reaches(211, "10.10.0.1");
    world.node.reaches(211, "10.10.0.12");
    world.node.reaches(213, "10.20.0.1");
    world.node.reaches(214, "192.0.2.1");
    world.node.never_reaches(213, "10.10.0.1");
    world.node.never_reaches(211, "10.10.0.13");
    // What the bridge says goes over to the bridge of its VLAN.
    for bridge in ["vmbr0", "vmbr0v10"] {
        assert_eq!(node.sh(&format!("cat /sys/class/net/{bridge}/bridge/multicast_snooping")), "0");
    }
    for link in ["vmbr0v10", "veth211i0", "veth214i0"] {
        assert_eq!(node.sh(&format!("cat /sys/class/net/{link}/mtu")), "1400", "{link}");
    }
    // The administrator's file does not know these bridges and leaves them alone, also when it changes.
    world.apply(&plain.replace("bridge-mcsnoop no", "bridge-mcsnoop yes"));
    world.node.reaches(211, "10.10.0.1");
    // One MiB a second; without a limit it is many times that.
    let seconds = |vmid: u32| -> f64 {
        world
            .node
            .sh(&format!(
                "ns=\"nsenter -n -t $(lxc-info -n {vmid} -p -H)\"; $ns python3 -c \"\n\
             import socket, time\ns = socket.create_connection(('10.10.0.1', 7007)); begin = time.time()\n\
             s.sendall(b'x' * 4000000); s.shutdown(1); s.recv(1); print(time.time() - begin)\""
            ))
            .parse()
            .unwrap()
    };
    let limited = seconds(211);
    assert!((1.5..12.0).contains(&limited), "{limited} seconds for four megabytes");
    // The cable of a running guest.
    world.set(212, "bridge=vmbr0", "bridge=vmbr0,link_down=1");
    world.node.never_reaches(212, "10.10.0.1");
    world.set(212, ",link_down=1", "");
    world.node.reaches(212, "10.10.0.1");
    // The last guest of a VLAN takes its bridge away, also one that was killed.
    world.set(213, "tag=20", "tag=10");
    world.node.never_reaches(213, "10.20.0.1");
    assert!(!node.sh("ls /sys/class/net").contains("vmbr0v20"));
    // No port learns addresses; guests are known by their configuration.
    world.apply(&plain.replace("bridge-mcsnoop no", "bridge-disable-mac-learning 1"));
    node.tool("pct stop 214");
    node.tool("pct start 214");
    assert_eq!(
        node.sh("cat /sys/class/net/veth214i0/brport/learning /sys/class/net/veth214i0/brport/unicast_flood"),
        "0\n0"
    );
    world.node.inside(214, "ip link set eth0 up");
    world.node.inside(214, "ip addr add 192.0.2.14/24 dev eth0");
    world.node.reaches(214, "192.0.2.1");
    for vmid in [211, 212, 213, 214] {
        node.tool(&format!("pct stop {vmid}"));
    }
    assert!(!node.sh("ls /sys/class/net").contains("vmbr0v"));
    isolated_ports(world);
    guests_of_a_vnet(world);
    multicast(world);
}

/// Two cards that are isolated reach the bridge and not each other.
fn isolated_ports(world: &World) {
    let port = |card: &str| format!("auto {card}\niface {card} inet manual\n\tbridge-isolated on\n\n");
    world.apply(&format!(
        "{}{}auto vmbr0\niface vmbr0 inet static\n\taddress 192.0.2.7/24\n\tbridge-ports en01 en02\n\tbridge-stp off\n\tbridge-fd 0\n",
        port("en01"),
        port("en02")
    ));
    for card in ["en01", "en02"] {
        assert_eq!(world.node.sh(&format!("cat /sys/class/net/{card}/brport/isolated")), "1");
    }
    assert_eq!(world.node.run(&["ping", "-q", "-c1", "-w20", "192.0.2.1"]).code, 0);
}

/// Guests' ports of a vnet that isolates reach everybody but each other.
fn guests_of_a_vnet(world: &World) {
    let node = &world.node;
    world.apply(MULTICAST);
    node.sh("mkdir -p /etc/pve/sdn");
    let vnet = r#"{"vnets": {"ids": {"vmbr0": {"zone": "z", "isolate-ports": 1}}}, "zones": {"ids": {"z": {"type": "simple"}}}}"#;
    node.put_text(vnet, "/etc/pve/sdn/.running-config");
    world.set(212, ",tag=10", "");
    for (vmid, address) in [(212, "192.0.2.12/24"), (214, "192.0.2.14/24")] {
        node.tool(&format!("pct start {vmid}"));
        node.give_addresses(vmid, &[address]);
        node.reaches(vmid, "192.0.2.1");
        node.reaches(vmid, "192.0.2.7");
    }
    node.never_reaches(212, "192.0.2.14");
    node.sh("rm /etc/pve/sdn/.running-config");
    world.set(214, "bridge=vmbr0", "bridge=vmbr0,rate=9");
    node.reaches(212, "192.0.2.14");
}

const MULTICAST: &str = "auto vmbr0\niface vmbr0 inet static\n\taddress 192.0.2.7/24\n\tbridge-ports en01\n\tbridge-stp off\n\
                         \tbridge-fd 0\n\tbridge-mcsnoop yes\n\tbridge-mcquerier yes\n";

/// A group's packets go to those who have joined it, and without snooping to everybody.
fn multicast(world: &World) {
    let node = &world.node;
    node.inside(214, "ip route add 239.0.0.0/8 dev eth0");
    node.inside(212, "ip addr add 239.1.2.3/32 dev eth0 autojoin");
    let sent =
        |port: &str| -> u32 { node.sh(&format!("cat /sys/class/net/{port}/statistics/tx_packets")).parse().unwrap() };
    // Those that have got a hundred packets of the group: guest and uplink.
    let got = || {
        let before = ["veth212i0", "en01"].map(sent);
        node.sh("nsenter -n -t $(lxc-info -n 214 -p -H) ping -q -c100 -i0.01 -W1 239.1.2.3 || true");
        [sent("veth212i0") - before[0] >= 100, sent("en01") - before[1] >= 100]
    };
    // The bridge asks who has joined before it holds anything back.
    wait_for("the group's packets for its member only", 60, || (got() == [true, false]).then_some(()));
    world.apply(&MULTICAST.replace("mcsnoop yes", "mcsnoop no").replace("mcquerier yes", "mcquerier no"));
    assert_eq!(got(), [true, true]);
    for vmid in [212, 214] {
        node.tool(&format!("pct stop {vmid}"));
    }
}
