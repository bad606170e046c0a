//! Shapes and texts of the formats: what passes, what does not, and with which words.

use super::*;
use proptest::prelude::*;

/// Format, texts that pass, texts that do not, and what is said about the first of these.
type Row = (&'static str, &'static [&'static str], &'static [&'static str], &'static str);

const ROWS: &[Row] = &[
    (
        "CIDR",
        &["10.0.0.0/8", "fd00::/64"],
        &["10.0.0.0/7", "::/7", "10.0.0.0", "x/8", "10.0.0.0/+8"],
        "value does not look like a valid CIDR network",
    ),
    ("CIDRv4", &["10.0.0.1/32"], &["fd00::/64", "10.0.0.0/33"], "value does not look like a valid IPv4 CIDR network"),
    (
        "CIDRv6",
        &["fd00::/8", "::1/128"],
        &["10.0.0.0/8", "::/129"],
        "value does not look like a valid IPv6 CIDR network",
    ),
    ("FullRangeCIDR", &["0.0.0.0/0", "::/0"], &["::"], "value does not look like a valid CIDR network"),
    ("FullRangeCIDRv4", &["0.0.0.0/0"], &["::/0"], "value does not look like a valid IPv4 CIDR network"),
    ("FullRangeCIDRv6", &["::/0"], &["0.0.0.0/0"], "value does not look like a valid IPv6 CIDR network"),
    (
        "IPorCIDR",
        &["10.1.2.3", "10.1.2.3/8", "::1"],
        &["10.1.2", "10.0.0.0/33"],
        "value does not look like a valid IP address or CIDR network",
    ),
    (
        "IPorCIDRorAlias",
        &["dc/web", "guest/web-1", "web", "10.0.0.1"],
        &["w", "sdn/web"],
        "value does not look like a valid IP address or CIDR network",
    ),
    ("acme-plugin-id", &["dns1", "a.b"], &["a", "1a"], "ACME plugin ID 'a' cannot be shorter than 2 characters"),
    ("address", &["10.0.0.1", "a.example", "::1"], &["a_b", "-a"], "value does not look like a valid address: a_b"),
    (
        "bridge-pair",
        &["1", "vmbr0:vmbr1", "vmbr1"],
        &["a b:c"],
        "entry 'a b:c' contains invalid ID - invalid bridge ID 'a b'",
    ),
    ("disk-size", &["32G", "512", "1.5TiB"], &["32g", "G"], "value does not look like a valid disk size: 32g"),
    ("dns-name", &["a", "a-b.c1"], &["a.", "-a", ""], "value does not look like a valid DNS name"),
    ("email", &["a.b+c@host-1.example"], &["a", "a@b@c", "@b"], "value does not look like a valid email address"),
    ("email-or-username", &["root", "a@b"], &["a b"], "value does not look like a valid email address or user name"),
    ("graphite-path", &["proxmox.a-1"], &["a..b"], "value does not look like a valid graphite path"),
    (
        "ip",
        &["1.2.3.4", "fe80::1"],
        &["1.2.3", "01.2.3.4", "::g", "fe80::1%eth0"],
        "value does not look like a valid IP address",
    ),
    ("ipv4", &["255.255.255.255"], &["256.0.0.1"], "value does not look like a valid IPv4 address"),
    (
        "ipv4mask",
        &["255.255.255.0", "0.0.0.0", "255.255.255.255"],
        &["255.0.255.0"],
        "value does not look like a valid IP netmask",
    ),
    (
        "ipv6",
        &["::", "1:2:3:4:5:6:7:8", "::ffff:1.2.3.4"],
        &["1::2::3"],
        "value does not look like a valid IPv6 address",
    ),
    ("ldap-simple-attr", &["uid"], &["u-id"], "value 'u-id' does not look like a simple ldap attribute name"),
    (
        "lxc-ip-with-ll-iface",
        &["fe80::1%eth0", "10.0.0.1"],
        &["fd00::1%eth0"],
        "value does not look like a valid IP address",
    ),
    (
        "mac-addr",
        &["02:00:00:00:00:0A"],
        &["01:00:00:00:00:00", "02:00:00:00:00", "02-00-00-00-00-00"],
        "value does not look like a valid unicast MAC address",
    ),
    (
        "mac-prefix",
        &["BC:24:11", "bc", "bc:24:11:f", "bc:"],
        &["bd", "bc:24:11:ff", ""],
        "value is not a valid unicast MAC address prefix",
    ),
    (
        "pem-certificate",
        &["x\n-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"],
        &["AA==", "-----BEGIN KEY-----\nAA\n-----END KEY-----\n"],
        "not a valid PEM-formatted string.",
    ),
    (
        "pem-certificate-chain",
        &[
            "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nBB==\n-----END CERTIFICATE-----",
        ],
        &[""],
        "not a valid PEM-formatted string.",
    ),
    (
        "pem-string",
        &["-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----\n"],
        &["-----BEGIN A-----\nAA\n-----END B-----\n"],
        "not a valid PEM-formatted string.",
    ),
    ("pve-acme-alias", &["_acme.example.org"], &["example"], "value 'example' does not look like a valid alias name!"),
    (
        "pve-acme-domain",
        &["a.example.org"],
        &["_a.example"],
        "value '_a.example' does not look like a valid domain name!",
    ),
    ("pve-bridge-id", &["vmbr0", "br.1_x-y"], &["", "a b"], "invalid bridge ID ''"),
    (
        "pve-calendar-event",
        &["daily", "*/5", "mon..fri 22:30", "sat,sun 4:00:30", "2026-*-1 03:00", "8..18:0/15"],
        &["", "someday", "25:00", "5..3"],
        "invalid calendar event '' - unable to parse calendar event - event is empty",
    ),
    (
        "pve-command-batch",
        &["[]", r#"[{"path":"version","method":"GET"}]"#],
        &["x", r#"[{"path":"a","method":"HEAD"}]"#],
        "commands must be a list of objects with path, method and optional args",
    ),
    ("pve-configid", &["ab", "a-1_b"], &["a", "1a", "a\n"], "invalid configuration ID 'a'"),
    ("pve-cpuset", &["0", "0-3,5", " 1 , 2 "], &["3-1", "a", "1-"], "unable to parse cpuset option"),
    ("pve-ct-timezone", &["host", "UTC", "Europe/Vienna"], &["/etc/passwd"], "invalid time zone '/etc/passwd'"),
    ("pve-day-of-week", &["mon"], &["Mon"], "invalid day 'Mon'"),
    ("pve-dir-override", &["iso=some/path", "backup=a.b"], &["iso=..", "iso", "nope=a"], "invalid override 'iso=..'"),
    (
        "pve-fw-addr-spec",
        &["+set", "dc/web", "10.0.0.1,10.1.0.0/16", "10.0.0.1-10.0.0.9", ""],
        &["10.0.0.1,", "10.0.0.1,::1", "10.0.0.1-10.0.0.2,10.0.0.3"],
        "extraneous commas in list",
    ),
    ("pve-fw-comment-spec", &["any text"], &["a\nb"], "comment must not contain line breaks"),
    ("pve-fw-conntrack-helper", &["ftp,sip"], &["nope"], "unknown helper nope"),
    (
        "pve-fw-dport-spec",
        &["80,443", "ssh", "1:100", "echo-request"],
        &["70000", "echo-request,1", "9:1"],
        "invalid port '70000'",
    ),
    ("pve-fw-icmp-type-spec", &["", "echo-request"], &["nope"], "invalid icmp-type value 'nope'"),
    ("pve-fw-protocol-spec", &["tcp", "6", ""], &["nope"], "unknown protocol 'nope'"),
    (
        "pve-fw-sport-spec",
        &["1,2,3", "http"],
        &["echo-request", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16"],
        "invalid port 'echo-request'",
    ),
    ("pve-groupid", &["admins", "1.a-b_"], &["", "a b"], "group name '' contains invalid characters"),
    ("pve-ha-node", &["node1", "node1:100"], &["node1:", ":1"], "value does not look like a valid ha node"),
    ("pve-ha-resource-id", &["vm:100", "ct:x/y"], &["100", "VM:1"], "value does not look like a valid ha resource id"),
    ("pve-ha-resource-or-vm-id", &["100", "vm:100"], &["x"], "value does not look like a valid ha resource id"),
    ("pve-hotplug-features", &["0", "1", "network,disk", ""], &["gpu"], "invalid hotplug feature 'gpu'"),
    ("pve-iface", &["eth0", "bond0.100", "e1:2"], &["e", "1e", "eth-0"], "invalid network interface name 'e'"),
    (
        "pve-ipv4-config",
        &["dhcp", "10.0.0.2/24"],
        &["auto"],
        "value does not look like a valid ipv4 network configuration",
    ),
    (
        "pve-ipv6-config",
        &["auto", "fd00::2/64"],
        &["on"],
        "value does not look like a valid ipv6 network configuration",
    ),
    (
        "pve-lxc-dev-string",
        &["/dev/ttyS0", "/dev/..x"],
        &["/dev/../x", "dev/x", "/dev/."],
        "/dev/../x is not a valid device path",
    ),
    (
        "pve-lxc-mp-string",
        &["/srv/data", "./a", "a..b"],
        &["/srv/../x", "../x", "/a/."],
        "/srv/../x contains illegal character sequences",
    ),
    ("pve-node", &["a", "node-1"], &["-a", "a-", "a.b", ""], "value does not look like a valid node name"),
    ("pve-phys-bits", &["host", "40"], &["7", "65", "x"], "value must be an integer between 8 and 64 or 'host'"),
    ("pve-poolid", &["a", "a/b/c"], &["a/b/c/d", "a//b", ""], "pool name 'a/b/c/d' nested too deeply (max levels = 3)"),
    ("pve-priv", &["VM.Audit"], &["VM.Monitor"], "invalid privilege 'VM.Monitor'"),
    ("pve-qm-bootdev", &["scsi0", "net31", "usb13"], &["efidisk0", "ide4", "net32"], "invalid boot device 'efidisk0'"),
    ("pve-qm-bootdisk", &["ide3", "efidisk0"], &["unused0", "scsi31"], "invalid boot disk 'unused0'"),
    ("pve-realm", &["pam", "a.b-c"], &["p", "1a"], "value does not look like a valid realm"),
    ("pve-replication-job-id", &["100-0"], &["100", "99-1"], "invalid replication job id '100'"),
    ("pve-roleid", &["PVEAdmin"], &["a b"], "role name 'a b' contains invalid characters"),
    ("pve-sdn-bgp-rt", &["65000:1"], &["1:4294967296", "1"], "value does not look like a valid bgp route-target"),
    (
        "pve-sdn-fabric-id",
        &["a", "fabric-1"],
        &["fabric-12", "-a", "fabric1-"],
        "Fabric ID 'fabric-12' contains illegal characters",
    ),
    ("pve-sdn-isis-net", &["47.0023.0000.0000.0001.00"], &["47.0023.00"], "value does not look like a valid isis net"),
    ("pve-sdn-prefix-list-id", &["list_1"], &["loopbacks_ips", "a b"], "Prefix List ID 'loopbacks_ips' is reserved"),
    ("pve-sdn-route-map-id", &["map-1"], &["pve_x"], "Route Map ID 'pve_x' is reserved"),
    (
        "pve-sdn-subnet-id",
        &["10.0.0.0/24", "zone-10.0.0.0-24"],
        &["zone", "zone-x-24"],
        "value does not look like a valid CIDR network",
    ),
    ("pve-sdn-vlanrange", &["1-4096,7", ""], &["4097", "9-1", "1,"], "invalid port '4097'"),
    ("pve-sdn-vxlanrange", &["16777216"], &["16777217"], "invalid port '16777217'"),
    (
        "pve-sdn-wireguard-iface-name",
        &["wg0"],
        &["wg_0"],
        "WireGuard interface name 'wg_0' contains illegal characters",
    ),
    ("pve-startup-order", &["order=1,up=5", "3", "down=1"], &["", "order=x"], "unable to parse startup options"),
    ("pve-storage-content", &["iso", "import"], &["isos"], "invalid content type 'isos'"),
    ("pve-storage-format", &["qcow2"], &["vdi"], "invalid format 'vdi'"),
    ("pve-storage-id", &["local-lvm", "a1"], &["a", "1a", "a-"], "storage ID 'a' cannot be shorter than 2 characters"),
    ("pve-storage-options", &["vers=4.2,soft"], &["a b", ""], "invalid options 'a b'"),
    ("pve-storage-path", &["/mnt/x", "/a;b"], &["mnt", "/", "/;"], "value does not look like a valid absolute path"),
    (
        "pve-storage-path-in-property-string",
        &["/mnt/x"],
        &["x"],
        "Value does not look like a valid absolute path. These symbols are currently not allowed in path: ;,=()",
    ),
    (
        "pve-storage-portal-dns",
        &["host", "10.0.0.1:3260", "[::1]:3260", "::1.3260", "[host]"],
        &["a b", "host:x"],
        "value does not look like a valid portal address",
    ),
    (
        "pve-storage-server",
        &["nas.example", "::1"],
        &["a_b"],
        "value does not look like a valid server name or IP address",
    ),
    ("pve-storage-vgname", &["vg0"], &["v", "-vg"], "lvm name 'v' contains illegal characters"),
    (
        "pve-storage-zfs-blocksize",
        &["8k", "1M", "512", ""],
        &["12k", "0k", "k"],
        "value '12k' is not a valid ZFS blocksize. Must be a power of 2 between 512B and 16MiB (e.g., 4k, 8k, 16k, 64k, 1m).",
    ),
    ("pve-tag", &["a", "Web_1+x"], &["-a", "a b", ""], "invalid characters in tag"),
    ("pve-task-status-type", &["OK", "error"], &["done"], "invalid status 'done'"),
    ("pve-tfa-secret", &["ABCDEFGH234567AB", "v2-0x0123456789abcdef"], &["x"], "unable to decode TFA secret"),
    (
        "pve-tokenid",
        &["root@pam!ci", "a@b@pam!t1"],
        &["root@pam", "root@pam!1x"],
        "value 'root@pam' does not look like a valid token ID",
    ),
    ("pve-userid", &["root@pam", "a@b@ldap"], &["a@", "root", "a:b@pam"], "user name 'a@' is too short"),
    ("pve-vlan-id-or-range", &["2", "10-20"], &["1", "x", "20-10"], "invalid VLAN tag '1'"),
    ("pve-vmid", &["100", "999999999"], &["099", "10", "1000000000"], "value does not look like a valid VM ID"),
    ("pve-volume-id", &["local:iso/a b.iso"], &["local", "l:x", "local:"], "unable to parse volume ID 'local'"),
    ("pve-volume-id-or-absolute-path", &["/dev/sda", "local:1"], &["x"], "unable to parse volume ID 'x'"),
    (
        "pve-volume-id-or-qm-path",
        &["none", "cdrom", "local:1", "/x"],
        &["floppy"],
        "unable to parse volume ID 'floppy'",
    ),
    (
        "storage-pair",
        &["1", "local:lvm-1", "local"],
        &["x"],
        "entry 'x' contains invalid ID - storage ID 'x' cannot be shorter than 2 characters",
    ),
    ("string", &["", "anything"], &[], ""),
    ("timezone", &["UTC", "America/Argentina/Buenos_Aires"], &["Mars"], "invalid time zone 'Mars'"),
    ("urlencoded", &["a%20b", ""], &["a b"], "invalid urlencoded string: a b"),
];

#[test]
fn every_simple_format_has_a_row() {
    let rows: Vec<&str> = ROWS.iter().map(|(name, ..)| *name).collect();
    let formats: Vec<&str> = simple_formats().collect();
    assert_eq!(rows, formats);
}

#[test]
fn texts_pass_or_fail_with_known_words() {
    for (format, good, bad, text) in ROWS {
        for value in *good {
            assert_eq!(check(format, value), Ok(()), "{format}: {value:?}");
        }
        for value in *bad {
            assert!(check(format, value).is_err(), "{format}: {value:?} passes");
        }
        if let Some(value) = bad.first() {
            assert_eq!(check(format, value), Err((*text).to_owned()), "{format}: {value:?}");
        }
    }
}

/// Where the tables give a pattern, the hand-written check refuses what the pattern refuses.
#[test]
fn samples_agree_with_the_patterns_of_the_tables() {
    for (format, good, ..) in ROWS {
        let described = simple_format(format).expect("listed");
        let Some(pattern) = described.pattern.filter(|pattern| !pattern.starts_with("(?i)")) else { continue };
        for value in good.iter().filter(|value| !value.is_empty()) {
            let prefix_only = described.rule.as_deref().is_some_and(|rule| rule.contains("prefix match"));
            assert!(prefix_only || crate::pattern::matches(&pattern, value), "{format}: {value:?} against {pattern}");
        }
    }
}

#[test]
fn lists_and_optional_forms() {
    for (format, text, good) in [
        ("pve-vmid-list", "", true),
        ("pve-vmid-list", "100, 101;102\t103", true),
        ("pve-vmid-list", "100,x", false),
        ("string-list", "a\0b c", true),
        ("email-opt", "", true),
        ("email-opt", "x", false),
    ] {
        assert_eq!(check(format, text).is_ok(), good, "{format}: {text:?}");
    }
    assert_eq!(split_list("a\0b c\0"), ["a", "b c"]);
    assert_eq!(split_list(" a,,b ;c "), ["a", "b", "c"]);
    assert_eq!(check("nope", ""), Err("undefined format 'nope'".to_owned()));
}

proptest! {
    #[test]
    fn no_text_brings_a_format_down(text in "\\PC{0,20}|[a-z0-9:/.,=@!-]{0,24}") {
        for format in simple_formats().chain(property_string_formats()) {
            let _ = check(format, &text);
            let _ = check(&format!("{format}-list"), &text);
        }
    }

    /// A pattern of the tables and the hand-written check accept the same texts, where the pattern is the whole truth.
    #[test]
    fn patterns_and_checks_agree(text in "[a-zA-Z0-9:_.@-]{0,10}") {
        for format in simple_formats() {
            let described = simple_format(format).expect("listed");
            if let (Some(pattern), None) = (&described.pattern, &described.rule)
                && !text.is_empty()
                && !is_reserved(format)
            {
                prop_assert_eq!(check(format, &text).is_ok(), crate::pattern::matches(pattern, &text), "{} {:?}", format, text);
            }
        }
    }
}

/// These have rules that the tables state in a member of their own, or read letters without regard to case.
fn is_reserved(format: &str) -> bool {
    matches!(format, "pve-sdn-route-map-id" | "pve-sdn-prefix-list-id" | "pve-configid")
}
