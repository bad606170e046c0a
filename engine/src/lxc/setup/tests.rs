//! Golden trees: what a small tree of each distribution looks like after creation and a start.
//!
//! `UPDATE_GOLDEN=1` rewrites them.

use super::*;
use crate::lxc::idmap::IdMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// Files by path; a text that begins with `->` is a link, one that ends with `/` as a path a directory.
type Tree = &'static [(&'static str, &'static str)];

const SYSTEMD: Tree = &[
    ("usr/lib/systemd/systemd", "program"),
    ("usr/lib/systemd/system/container-getty@.service", "[Service]\nExecStart=agetty pts/%I\n"),
    ("sbin/init", "->../usr/lib/systemd/systemd"),
    ("etc/systemd/system/", ""),
    ("etc/machine-id", "0123456789abcdef\n"),
];

const COMMON: Tree = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 LXC_NAME\n"),
    ("etc/crontab", "17 *\t* * *\troot\tjob\n"),
    ("root/", ""),
];

const CASES: &[(&str, &str, &[Tree])] = &[
    (
        "debian-12",
        "debian",
        &[COMMON, SYSTEMD, &[("etc/debian_version", "12.5\n"), ("etc/ssl/private/ssl-cert-snakeoil.key", "key")]],
    ),
    ("debian-9-sysv", "debian", &[COMMON, &[("etc/debian_version", "9.1\n"), ("etc/inittab", "1:23:respawn:getty\n")]]),
    ("devuan-5", "devuan", &[COMMON, &[("etc/devuan_version", "daedalus\n"), ("etc/inittab", "id:2:initdefault:\n")]]),
    (
        "ubuntu-24.04",
        "ubuntu",
        &[
            COMMON,
            SYSTEMD,
            &[("etc/os-release", "ID=ubuntu\nVERSION_ID=\"24.04\"\n"), ("etc/netplan/10-lxc.yaml", "x")],
        ],
    ),
    (
        "ubuntu-20.04",
        "ubuntu",
        &[COMMON, SYSTEMD, &[("etc/os-release", "ID=ubuntu\nVERSION_ID=\"20.04\"\n"), ("etc/timezone", "Etc/UTC\n")]],
    ),
    (
        "ubuntu-14.04",
        "ubuntu",
        &[COMMON, &[("etc/os-release", "ID=ubuntu\nVERSION_ID=\"14.04\"\n"), ("etc/init/", "")]],
    ),
    ("centos-7", "centos", &[COMMON, SYSTEMD, &[("etc/redhat-release", "CentOS Linux release 7.9.2009 (Core)\n")]]),
    (
        "centos-6",
        "centos",
        &[
            COMMON,
            &[
                ("etc/redhat-release", "CentOS release 6.10 (Final)\n"),
                ("etc/rc.d/rc.sysinit", "a\n/sbin/start_udev\n"),
                ("etc/sysconfig/network", "NETWORKING=no\nHOSTNAME=old\n"),
                ("etc/securetty", "console\n"),
            ],
        ],
    ),
    ("alma-9", "centos", &[COMMON, SYSTEMD, &[("etc/redhat-release", "AlmaLinux release 9.4 (Seafoam Ocelot)\n")]]),
    ("rocky-10", "centos", &[COMMON, SYSTEMD, &[("etc/redhat-release", "Rocky Linux release 10.0 (Red Quartz)\n")]]),
    ("fedora-42", "fedora", &[COMMON, SYSTEMD, &[("etc/os-release", "ID=fedora\nVERSION_ID=42\n")]]),
    (
        "openeuler-24",
        "openeuler",
        &[COMMON, SYSTEMD, &[("etc/os-release", "ID=\"openEuler\"\nVERSION_ID=\"24.03\"\n")]],
    ),
    (
        "openeuler-24-scripts",
        "openeuler",
        &[
            COMMON,
            SYSTEMD,
            &[
                ("etc/os-release", "ID=\"openEuler\"\nVERSION_ID=\"24.03\"\n"),
                ("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nBOOTPROTO=dhcp\n"),
            ],
        ],
    ),
    (
        "fedora-27-legacy",
        "fedora",
        &[
            COMMON,
            SYSTEMD,
            &[
                ("etc/os-release", "ID=fedora\nVERSION_ID=27\n"),
                ("etc/sysconfig/network", "HOSTNAME=old\n"),
                ("etc/systemd/system/getty@.service", "masked\n"),
            ],
        ],
    ),
    (
        "opensuse-tumbleweed",
        "opensuse",
        &[
            COMMON,
            SYSTEMD,
            &[
                ("etc/os-release", "ID=\"opensuse-tumbleweed\"\nVERSION_ID=\"20260101\"\n"),
                ("usr/lib/systemd/systemd-networkd", "program"),
                ("etc/sysconfig/network/ifroute-eth1", "10.0.0.0/8 10.9.9.9 - eth1\n"),
            ],
        ],
    ),
    (
        "opensuse-15.6",
        "opensuse",
        &[COMMON, SYSTEMD, &[("etc/os-release", "ID=\"opensuse-leap\"\nVERSION_ID=\"15.6\"\n")]],
    ),
    ("archlinux", "archlinux", &[COMMON, SYSTEMD, &[("etc/os-release", "ID=arch\n")]]),
    (
        "alpine-3.20",
        "alpine",
        &[
            COMMON,
            &[
                ("etc/alpine-release", "3.20.1\n"),
                ("etc/inittab", "tty1::respawn:/sbin/getty 38400 tty1\nttyS0::respawn:/sbin/getty -L 0 ttyS0\n"),
                ("etc/runlevels/boot/", ""),
                ("etc/runlevels/shutdown/", ""),
            ],
        ],
    ),
    (
        "gentoo",
        "gentoo",
        &[
            COMMON,
            &[("etc/gentoo-release", "Gentoo Base System release 2.15\n"), ("etc/inittab", "c1:1:respawn:agetty\n")],
        ],
    ),
    ("nixos", "nixos", &[COMMON, &[("nix/store/", "")]]),
];

const OPTIONS: &[(&str, &str)] = &[
    ("hostname", "web.example.org"),
    ("nameserver", "192.0.2.53 2001:db8::53"),
    ("searchdomain", "example.org"),
    ("net0", "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=192.0.2.7/24,gw=192.0.2.1,ip6=auto,type=veth"),
    ("net1", "name=eth1,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,ip=198.51.100.7/32,gw=198.51.100.1,type=veth"),
    ("net2", "name=eth2,bridge=vmbr0,hwaddr=BC:24:11:00:00:03,ip=dhcp,ip6=2001:db8::7/64,gw6=fe80::1,type=veth"),
    ("unprivileged", "1"),
];

fn plant(root: &Path, tree: Tree) {
    for (path, content) in tree {
        let place = root.join(path);
        if path.ends_with('/') {
            fs::create_dir_all(&place).unwrap();
            continue;
        }
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        match content.strip_prefix("->") {
            Some(target) => symlink(target, &place).unwrap(),
            None => fs::write(&place, content).unwrap(),
        }
    }
}

fn picture(root: &Path, directory: &Path, text: &mut String) {
    let mut entries: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = format!("/{}", path.strip_prefix(root).unwrap().display());
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_symlink() {
            *text += &format!("== {name} -> {}\n", fs::read_link(&path).unwrap().display());
        } else if metadata.is_dir() {
            picture(root, &path, text);
        } else {
            let mode = metadata.permissions().mode() & 0o7777;
            let content = fs::read_to_string(&path).unwrap();
            *text += &format!("== {name} {mode:o}\n{content}");
            if !content.is_empty() && !content.ends_with('\n') {
                text.push('\n');
            }
        }
    }
}

fn part(ostype: &str) -> Part {
    let mut part = Part::default();
    for (key, value) in OPTIONS {
        part.set(*key, *value);
    }
    part.set("ostype", ostype);
    part
}

fn set_up(directory: &Path, part: &Part) {
    let root = RootDirectory::open(directory, &IdMap::default()).unwrap();
    let account = NewAccount { password: Some("$6$salt$hash".into()), keys: Some("ssh-ed25519 AAAA me".into()) };
    with_system(&root, part, &|_| {}, |system| fresh(system, &account, &mut || 42)).unwrap();
    before_start(&root, part, |_| {}).unwrap();
}

#[test]
fn trees_of_all_distributions() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for (name, ostype, trees) in CASES {
        let directory = tempfile::tempdir().unwrap();
        trees.iter().for_each(|tree| plant(directory.path(), tree));
        set_up(directory.path(), &part(ostype));
        let mut text = String::new();
        picture(directory.path(), directory.path(), &mut text);
        // A second start changes nothing.
        before_start(&RootDirectory::open(directory.path(), &IdMap::default()).unwrap(), &part(ostype), |_| {})
            .unwrap();
        let mut again = String::new();
        picture(directory.path(), directory.path(), &mut again);
        assert_eq!(again, text, "{name}: a second start differs");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/lxc/setup/golden/{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::create_dir_all(golden.parent().unwrap()).unwrap();
            fs::write(&golden, &text).unwrap();
        }
        assert_eq!(fs::read_to_string(&golden).unwrap_or_default(), text, "{name}");
    }
}

#[test]
fn files_with_a_marker_are_the_containers_own() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let own =
        ["etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/network/interfaces", "etc/machine-id", "etc/crontab"];
    for path in own {
        let (parent, name) = path.rsplit_once('/').unwrap();
        fs::create_dir_all(directory.path().join(parent)).unwrap();
        fs::write(directory.path().join(path), "1 2 3 4 5 root mine\n").unwrap();
        fs::write(directory.path().join(format!("{parent}/.pve-ignore.{name}")), "").unwrap();
    }
    plant(
        directory.path(),
        &[("etc/debian_version", "12.5\n"), ("root/", ""), ("etc/passwd", "root:x:0:0::/root:/bin/sh\n")],
    );
    set_up(directory.path(), &part("debian"));
    for path in own {
        assert_eq!(fs::read_to_string(directory.path().join(path)).unwrap(), "1 2 3 4 5 root mine\n", "{path}");
    }
}

/// Every file that is written or read is something else in this template: a link out, a pipe, a directory, a device.
#[test]
fn hostile_templates_do_no_harm() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (root, victim) = (directory.path(), outside.path().join("victim"));
    fs::write(&victim, "host\n").unwrap();
    fs::create_dir_all(root.join("etc/cron.d")).unwrap();
    fs::write(root.join("etc/debian_version"), "12.5\n").unwrap();
    symlink(&victim, root.join("etc/hosts")).unwrap();
    symlink(outside.path(), root.join("etc/network")).unwrap();
    symlink(&victim, root.join("fastboot")).unwrap();
    symlink("loop", root.join("etc/loop")).unwrap();
    symlink("loop", root.join("etc/inittab")).unwrap();
    symlink("../../../../../../../..", root.join("root")).unwrap();
    symlink(&victim, root.join("etc/cron.d/job")).unwrap();
    for pipe in ["etc/resolv.conf", "etc/passwd", "etc/crontab"] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join(pipe),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
    }
    let zero = rustix::fs::makedev(1, 5);
    let mode = rustix::fs::Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("etc/machine-id"),
        rustix::fs::FileType::CharacterDevice,
        mode,
        zero,
    )
    .unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("etc/shadow"), rustix::fs::FileType::CharacterDevice, mode, zero)
        .unwrap();
    fs::File::create(root.join("etc/hostname")).unwrap().set_len(1 << 40).unwrap();
    let opened = RootDirectory::open(root, &IdMap::default()).unwrap();
    let account = NewAccount { password: Some("$6$salt$hash".into()), keys: Some("ssh-ed25519 AAAA me".into()) };
    let part = part("debian");
    // It may be refused, in finite time, and nothing outside has changed.
    let created = with_system(&opened, &part, &|_| {}, |system| fresh(system, &account, &mut || 42));
    let started = before_start(&opened, &part, |_| {});
    for refused in [created.unwrap_err(), started.unwrap_err()] {
        assert!(refused.message().contains("of the container"), "{refused}");
    }
    fs::remove_file(root.join("etc/hostname")).unwrap();
    // An absolute link leads to a directory of that name within the root, if there is one.
    fs::remove_file(root.join("etc/network")).unwrap();
    before_start(&opened, &part, |_| {}).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "host\n");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert!(fs::symlink_metadata(root.join("etc/hosts")).unwrap().is_file());
    assert!(fs::read_to_string(root.join("etc/resolv.conf")).unwrap().contains("192.0.2.53"));
}
