use super::*;
use proptest::prelude::*;

fn kernel(names: &[&str]) -> KernelView {
    let link = KernelLink { physical: true, altnames: Vec::new() };
    KernelView {
        links: names.iter().map(|name| ((*name).to_owned(), link.clone())).collect(),
        active: names.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn body(text: &str) -> String {
    let config = Interfaces::parse(text, &kernel(&["eth0", "eth1", "eth2"]));
    let printed = config.print(true).unwrap();
    printed.split_once("external files!\n\n").unwrap().1.to_owned()
}

fn refusal(text: &str) -> String {
    Interfaces::parse(text, &kernel(&["eth0", "eth1", "eth2"])).print(true).unwrap_err().message().to_owned()
}

#[test]
fn an_empty_file_lists_what_the_kernel_has() {
    assert_eq!(
        body(""),
        "auto lo\niface lo inet loopback\n\niface eth0 inet manual\n\niface eth1 inet manual\n\niface eth2 inet manual\n\n"
    );
}

#[test]
fn a_typical_node_is_written_as_pve_does() {
    let text = "\
source /etc/network/interfaces.d/*

auto lo
iface lo inet loopback

auto vmbr0
iface vmbr0 inet static
\tbridge_ports bond0
\taddress 192.168.1.10
\tnetmask 255.255.255.0
\tgateway 192.168.1.1
\tbridge_stp off
\tbridge-vlan-aware yes
\tpost-up echo 1 > /proc/sys/net/ipv4/ip_forward
#uplink
iface vmbr0 inet6 static
\taddress 2001:db8::1/64

iface eth0 inet manual

auto bond0
iface bond0 inet manual
\tbond-slaves eth1 eth0
\tbond-mode 4
\tbond_xmit_hash_policy layer2+3
\tbond-lacp-rate 1

auto eth2.7
iface eth2.7 inet manual
\tmtu 1400
mapping eth9
\tscript /bin/true
";
    insta::assert_snapshot!(body(text), @"
    source /etc/network/interfaces.d/*

    auto lo
    iface lo inet loopback

    auto eth0
    iface eth0 inet manual

    auto eth2.7
    iface eth2.7 inet manual
    \tmtu 1400

    auto eth1
    iface eth1 inet manual

    iface eth2 inet manual

    auto bond0
    iface bond0 inet manual
    \tbond-slaves eth0 eth1
    \tbond-miimon 100
    \tbond-mode 802.3ad
    \tbond-xmit-hash-policy layer2+3
    \tbond-lacp-rate 1

    auto vmbr0
    iface vmbr0 inet static
    \taddress 192.168.1.10/24
    \tgateway 192.168.1.1
    \tbridge-ports bond0
    \tbridge-stp off
    \tbridge-fd 0
    \tbridge-vlan-aware yes
    \tbridge-vids 2-4094
    \tpost-up echo 1 > /proc/sys/net/ipv4/ip_forward
    #uplink

    iface vmbr0 inet6 static
    \taddress 2001:db8::1/64

    mapping eth9
    \tscript /bin/true
    ");
}

#[test]
fn names_are_free() {
    let text = "iface lan inet manual\n\tbridge-ports none\niface vibr0 inet manual\n\tbridge-ports eth0\n\
                iface office inet manual\n\tvlan-raw-device eth1\n\tvlan-id 20\n";
    let config = Interfaces::parse(text, &kernel(&["eth0", "eth1"]));
    assert_eq!(config.ifaces["lan"].kind, "bridge");
    assert_eq!(config.ifaces["vibr0"].kind, "bridge");
    assert_eq!(config.ifaces["office"].kind, "vlan");
    assert!(config.print(true).unwrap().contains("iface office inet manual\n\tvlan-id 20\n\tvlan-raw-device eth1\n"));
    assert_eq!(config.print(false).unwrap_err().message(), "custom vlan interface name need ifupdown2");
}

#[test]
fn open_vswitch_ports_follow_their_bridge() {
    let text = "auto vmbr1\niface vmbr1 inet manual\n\tovs_type OVSBridge\n\tovs_ports eth0 bond0 in5\n\n\
                iface bond0 inet manual\n\tovs_type OVSBond\n\tovs_bridge vmbr1\n\tovs_bonds eth1 eth2\n\
                \tovs_options bond_mode=balance-tcp lacp=active tag=7\n\n\
                iface in5 inet static\n\taddress 10.0.0.5/24\n\tovs_type OVSIntPort\n\tovs_bridge vmbr1\n\tovs_options tag=5\n";
    insta::assert_snapshot!(body(text), @"
    auto lo
    iface lo inet loopback

    auto eth0
    iface eth0 inet manual
    \tovs_type OVSPort
    \tovs_bridge vmbr1

    auto eth1
    iface eth1 inet manual

    auto eth2
    iface eth2 inet manual

    auto in5
    iface in5 inet static
    \taddress 10.0.0.5/24
    \tovs_type OVSIntPort
    \tovs_bridge vmbr1
    \tovs_options tag=5

    auto bond0
    iface bond0 inet manual
    \tovs_bonds eth1 eth2
    \tovs_type OVSBond
    \tovs_bridge vmbr1
    \tovs_options tag=7 lacp=active bond_mode=balance-tcp

    auto vmbr1
    iface vmbr1 inet manual
    \tovs_type OVSBridge
    \tovs_ports eth0 bond0 in5
    ");
}

#[test]
fn broken_rules_have_their_message() {
    let cases = [
        (
            "iface a inet manual\n\tbridge-ports eth0\niface b inet manual\n\tbridge-ports eth0\n",
            "port 'eth0' is already used on interface 'a'",
        ),
        ("iface bond0 inet manual\n\tbond-slaves eth9\n", "bond 'bond0' - unable to find slave 'eth9'"),
        (
            "iface bond0 inet manual\n\tbond-slaves eth0\n\tbond-primary eth1\n",
            "bond 'bond0' - bond-primary interface is not a slave",
        ),
        (
            "iface lan inet manual\n\tbridge-ports none\niface bond0 inet manual\n\tbond-slaves lan\n",
            "bond 'bond0' - wrong interface type on slave 'lan' ('bridge' != 'eth or bond')",
        ),
        ("iface a inet manual\n\tbridge-ports eth9\n", "bridge 'a' - unable to find bridge port 'eth9'"),
        (
            "iface eth0 inet static\n\taddress 10.0.0.1/24\niface a inet manual\n\tbridge-ports eth0\n",
            "iface eth0 - ip address can't be set on interface if bridged in a",
        ),
        (
            "iface a inet manual\n\tbridge-ports eth0\n\tmtu 9000\n",
            "interface 'eth0' - mtu 1500 is lower than 'a' - mtu 9000",
        ),
        ("iface eth0.4095 inet manual\n", "vlan 'eth0.4095' - vlan-id 4095 should be <= 4094"),
        (
            "iface eth9.5 inet manual\n",
            "vlan 'eth9.5' - wrong interface type on parent 'eth9' ('' != 'eth|bond|bridge|vlan' )",
        ),
        (
            "iface eth0 inet manual\n\tbridge-access 5\n",
            "iface eth0 - bridge-access: bridge port specific options can be used only on interfaces attached to a bridge",
        ),
        (
            "iface x1 inet manual\n\tvxlan-id 5\niface x2 inet manual\n\tvxlan-id 5\n",
            "iface x2 - duplicate vxlan-id 5 already used in x1",
        ),
        (
            "iface vmbr1 inet manual\n\tovs_type OVSBridge\n\tovs_ports eth9\n",
            "OVS bridge 'vmbr1' - unable to find port 'eth9'",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(text), message);
    }
}

#[test]
fn what_pve_would_lose_is_kept() {
    let text = "iface eth0 inet static\n\taddress 10.0.0.1/24\n\taddress 10.0.1.1/24\n\tfoo bar\n\
                iface eth0 inet static\n\taddress 10.0.2.1/24\n\tup echo hi\n";
    let once = body(text);
    for line in ["address 10.0.0.1/24", "address 10.0.1.1/24", "address 10.0.2.1/24", "foo bar", "up echo hi"] {
        assert_eq!(once.matches(line).count(), 1, "{line} in {once}");
    }
    assert_eq!(body(&once), once);
}

#[test]
fn other_names_of_a_link_count() {
    let mut kernel = kernel(&["eth0"]);
    kernel.links.get_mut("eth0").unwrap().altnames.push("enp5s0".into());
    let config = Interfaces::parse("iface enp5s0 inet manual\n", &kernel);
    assert!(!config.ifaces.contains_key("eth0"));
    assert_eq!((config.ifaces["enp5s0"].exists, config.ifaces["enp5s0"].active), (Some(true), true));
}

#[test]
fn masks_stay_with_their_addresses() {
    let text = "iface eth0 inet static\n\taddress 10.0.0.1\n\tnetmask 255.255.0.0\n\taddress 10.1.0.1\n\
                \tnetmask 255.255.255.0\n";
    let once = body(text);
    assert!(once.contains("address 10.0.0.1/16\n") && once.contains("address 10.1.0.1/24\n"), "{once}");
    assert_eq!(body(&once), once);
}

fn shown(text: &str, name: &str) -> serde_json::Value {
    describe(&Interfaces::parse(text, &kernel(&["eth0"])).ifaces[name]).into()
}

#[test]
fn empty_comments_at_the_end_go() {
    let text = "iface eth0 inet manual\n#\n# first\n#\n# last\n#\n#\n\niface eth1 inet manual\n#\n";
    let expected = "iface eth0 inet manual\n#\n# first\n#\n# last\n\niface eth1 inet manual\n\n";
    assert!(body(text).contains(expected), "{}", body(text));
}

#[test]
fn lines_of_no_interface_stay_as_they_are() {
    let written = body("no-scripts wlan0\r\nallow- odd\nallow-rack eth0  eth1\niface eth2 inet manual\n");
    assert!(written.contains("no-scripts wlan0\r\nallow- odd\nallow-rack eth0 eth1\n\niface eth2"), "{written}");
}

#[test]
fn an_unknown_kind_stands_at_its_place_among_sorted_ones() {
    // A rack of a kind that nobody knows: only its place in the file counts, also before cards that no section names.
    let text = "iface lan inet manual\n\tbridge-ports none\n\niface rack7 inet manual\n\niface eth1 inet manual\n";
    let names = |text: &str| -> Vec<String> {
        let heads = text.lines().filter_map(|line| line.strip_prefix("iface ")?.split(' ').next());
        heads.map(str::to_owned).collect()
    };
    let first = names(&body(text));
    assert_eq!(first, ["lo", "rack7", "eth1", "eth0", "eth2", "lan"]);
    assert_eq!(names(&body(&body(text))), first);
}

#[test]
fn lists_of_ports_are_parted_by_blanks() {
    assert_eq!(refusal("iface bond3\n\tbond-slaves eth0;eth1\n"), "bond 'bond3' - unable to find slave 'eth0;eth1'");
    // A bond that has no ports need not have its first one among them.
    assert!(body("iface bond3 inet manual\n\tbond-primary eth0\n").contains("\tbond-slaves none\n"));
}

#[test]
fn what_is_shown_has_the_types_of_pve() {
    let text = "iface lan inet manual\n\tbridge-ports none\n\niface wan inet manual\n\tbridge-ports none\n\tbridge-fd 0\n\
        \niface eth0.7 inet manual\n\niface lan.7 inet manual\n\niface wifi9.7 inet manual\n\
        \niface bond2 inet manual\n\tovs_type OVSBond\n";
    assert_eq!(shown(text, "lan")["bridge_fd"], serde_json::json!(0));
    assert_eq!(shown(text, "wan")["bridge_fd"], "0");
    let exists = |name: &str| shown(text, name).get("exists").cloned();
    assert_eq!(exists("eth0.7"), Some(1.into()));
    assert_eq!(exists("lan.7"), Some(serde_json::Value::Null));
    assert_eq!((exists("wifi9.7"), exists("wifi9"), exists("lan")), (Some(0.into()), Some(0.into()), None));
    assert_eq!(shown(text, "bond2").get("bond_mode"), Some(&serde_json::Value::Null));
}

fn any_line() -> impl Strategy<Value = String> {
    let names = prop::sample::select(vec!["eth0", "eth1", "vmbr0", "lan", "bond0", "eth0.5", "eth1:0", "lo", "vlan9"]);
    let option = prop::sample::select(vec![
        "address 10.0.0.1/24",
        "address 10.0.0.2",
        "netmask 255.255.0.0",
        "gateway 10.0.0.254",
        "bridge-ports none",
        "bridge_ports eth0 eth1",
        "bridge-stp yes",
        "bridge-fd 5",
        "bridge-vlan-aware yes",
        "bridge-vids 2-10 20",
        "bond-slaves eth0 eth1",
        "bond-mode 1",
        "mtu 1400",
        "vlan-raw-device eth0",
        "vlan-id 5",
        "post-up true; false",
        "unknown-option some  text",
        "vxlan-id 7",
        "vxlan-remoteip 10.0.0.9",
        "address fd00::1/64",
        "hwaddress ether 02:00:00:00:00:01",
    ]);
    prop_oneof![
        names.clone().prop_map(|name| format!("auto {name}")),
        (names.clone(), prop::sample::select(vec!["inet static", "inet6 static", "inet dhcp", "inet manual", ""]))
            .prop_map(|(name, family)| format!("iface {name} {family}").trim_end().to_owned()),
        option.prop_map(|option| format!("\t{option}")),
        prop::sample::select(vec![
            "#a comment",
            "",
            "source /etc/network/interfaces.d/*",
            "mapping x",
            "no-such-line yes"
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #[test]
    fn what_was_written_is_stable(lines in prop::collection::vec(any_line(), 0..40)) {
        let kernel = kernel(&["eth0", "eth1"]);
        let text = lines.join("\n") + "\n";
        if let Ok(once) = Interfaces::parse(&text, &kernel).print(true) {
            let again = Interfaces::parse(&once, &kernel).print(true).unwrap();
            // Lines only: PVE's order depends on places in the file, which the first writing changes.
            let sorted = |text: &str| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            prop_assert_eq!(sorted(&again), sorted(&once), "{}", text);
        }
    }

    #[test]
    fn unknown_options_survive(value in "[a-z0-9/=.-]{1,20}( [a-z0-9]{1,5}){0,3}", inet6 in any::<bool>()) {
        let family = if inet6 { "inet6" } else { "inet" };
        let text = format!("auto lan\niface lan {family} manual\n\tbridge-ports none\n\tx-{value}-option {value}\n");
        let printed = Interfaces::parse(&text, &KernelView::default()).print(true).unwrap();
        prop_assert!(printed.contains(&format!("\tx-{value}-option {value}\n")), "{}", printed);
    }

    #[test]
    fn any_text_is_read(text in "\\PC{0,200}(\n\\PC{0,80}){0,8}") {
        let config = Interfaces::parse(&text, &KernelView::default());
        let _ = config.print(true);
    }
}
