use super::*;
use crate::config::guest::{GuestConfig, GuestKind};
use std::path::Path;

fn part(text: &str) -> Part {
    let config = GuestConfig::parse(GuestKind::Lxc, text);
    assert!(config.problems.is_empty(), "{:?}", config.problems);
    config.current
}

fn legacy() -> Facts {
    let controllers = ["cpu", "cpuset", "memory", "devices", "pids", "freezer"];
    let legacy = controllers.map(|name| (name.to_owned(), Path::new("/sys/fs/cgroup").join(name)));
    Facts {
        directory: "/var/lib/lxc/101".into(),
        log: "/run/lxc/101.log".into(),
        system_calls: "/run/pve/ct-101.calls".into(),
        group: "lxc/101".into(),
        monitor_group: "lxc.monitor/101".into(),
        hierarchies: Hierarchies { legacy: legacy.into(), ..Hierarchies::default() },
        swap_accounting: true,
        seccomp_base: Some("2\ndenylist\n[all]\nkexec_load errno 1\n".into()),
        includes: ["common.conf", "userns.conf", "nesting.conf"].map(str::to_owned).into(),
        bridges: [("vmbr0".to_owned(), Bridge { mtu: 1500, vlan_aware: false, open_vswitch: false })].into(),
        cpus: (0..8).collect(),
        ..Facts::default()
    }
}

fn unified() -> Facts {
    Facts {
        hierarchies: Hierarchies {
            legacy: BTreeMap::new(),
            unified: Some("/sys/fs/cgroup".into()),
            unified_controllers: ["cpu", "cpuset", "memory", "io", "pids"].map(str::to_owned).into(),
        },
        apparmor: Some(AppArmor { message_queues: true, user_namespaces: true }),
        bridges: [("vmbr0".to_owned(), Bridge { mtu: 9000, vlan_aware: true, open_vswitch: false })].into(),
        devices: [("/dev/ttyUSB0".to_owned(), Device { block: false, major: 188, minor: 0 })].into(),
        ..legacy()
    }
}

fn vmid() -> Vmid {
    "101".parse().unwrap()
}

#[test]
fn unprivileged_debian_on_legacy_hierarchies() {
    let part = part(
        "arch: amd64\ncores: 2\ncpulimit: 1.5\ncpuunits: 200\nfeatures: nesting=1,keyctl=1\nhostname: web\nmemory: 1024\n\
         net0: name=eth0,bridge=vmbr0,gw=10.0.0.1,hwaddr=BC:24:11:00:00:01,ip=10.0.0.2/24,type=veth\n\
         ostype: debian\nrootfs: local:101/vm-101-disk-0.raw,size=4G\nswap: 256\nunprivileged: 1\n\
         lxc.environment.runtime: A=b\nlxc.cgroup2.memory.min: 1\nlxc.prlimit.nofile: 4096\n",
    );
    insta::assert_snapshot!(show(&plan(vmid(), &part, &legacy()).unwrap()));
}

#[test]
fn privileged_unmanaged_on_the_unified_hierarchy() {
    let part = part(
        "arch: amd64\ncmode: shell\nconsole: 0\ncores: 1\ndev0: /dev/ttyUSB0,mode=0666,deny-write=1\n\
         features: fuse=1,mount=nfs;cifs\nmemory: 512\n\
         net0: name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:01,ip=10.0.0.2/24,gw=10.0.0.1,ip6=fd00::2/64,tag=7,trunks=8;9\n\
         net1: name=eth1,bridge=vmbr0,link_down=1\nostype: unmanaged\nrootfs: local:101/subvol-101-disk-0.subvol,size=0T\n\
         tty: 0\n",
    );
    insta::assert_snapshot!(show(&plan(vmid(), &part, &unified()).unwrap()));
}

#[test]
fn device_nodes_are_asked_for_when_the_host_shall_make_them() {
    let with =
        |features: &str| plan(vmid(), &part(&format!("arch: amd64\nunprivileged: 1\n{features}")), &legacy()).unwrap();
    let (plain, asking) = (with(""), with("features: mknod=1\n"));
    assert!(!plain.asks_for_system_calls && !plain.config.contains("notify"));
    assert!(asking.asks_for_system_calls);
    assert!(asking.config.contains("lxc.seccomp.notify.proxy = unix:/run/pve/ct-101.calls\n"), "{}", asking.config);
    assert!(asking.seccomp.unwrap().contains("\nmknodat notify [2,24576,SCMP_CMP_MASKED_EQ,61440]\n"));
    // Whoever writes a filter of one's own gets no helper.
    let own = with("features: mknod=1\nlxc.seccomp.profile: /x\n");
    assert!(!own.asks_for_system_calls && own.warnings[0].contains("mknod"), "{:?}", own.warnings);
}

fn show(plan: &Plan) -> String {
    let seccomp = plan.seccomp.as_deref().unwrap_or("none\n");
    format!("{}--- seccomp\n{seccomp}--- warnings\n{}\n", plan.config, plan.warnings.join("\n"))
}

#[test]
fn a_tag_on_a_plain_bridge_is_left_to_the_plugging() {
    let config = plan(vmid(), &part("net0: name=eth0,bridge=vmbr0,tag=5\n"), &legacy()).unwrap().config;
    assert!(!config.contains("lxc.net.0.link") && !config.contains("vlan.id"), "{config}");
}

#[test]
fn what_cannot_start_is_refused_with_the_reason() {
    let refused = |text: &str, facts: &Facts| plan(vmid(), &part(text), facts).unwrap_err().to_string();
    assert_eq!(refused("net0: name=eth0,bridge=vmbr9\n", &legacy()), "bridge 'vmbr9' does not exist");
    assert_eq!(
        refused("net0: name=eth0,bridge=vmbr0,mtu=9000\n", &legacy()),
        "net0: MTU size '9000' is bigger than bridge MTU '1500'"
    );
    assert_eq!(
        refused("net0: name=eth0,bridge=vmbr0,tag=5,trunks=6\n", &legacy()),
        "vlan aware feature need to be enabled to use trunks"
    );
    assert_eq!(refused("dev0: /dev/none\n", &legacy()), "device '/dev/none' does not exist");
}

#[test]
fn missing_controllers_are_named() {
    let facts = Facts { hierarchies: Hierarchies::default(), ..legacy() };
    let plan = plan(vmid(), &part("cores: 1\ncpulimit: 2\n"), &facts).unwrap();
    for controller in ["memory", "cpu", "cpuset"] {
        let text = format!("this kernel has no cgroup controller '{controller}'");
        assert!(plan.warnings.iter().any(|warning| warning.ends_with(&text)), "{controller}: {:?}", plan.warnings);
    }
}

#[test]
fn processors_are_spread_and_printed_as_ranges() {
    let cpus: Vec<u32> = (0..4).collect();
    assert_eq!(choose_cpus("101".parse().unwrap(), 2, &cpus), [2, 3]);
    assert_eq!(choose_cpus("103".parse().unwrap(), 3, &cpus), [1, 2, 3]);
    assert_eq!(cpu_list(&[0, 1, 3]), "0-1,3");
    assert_eq!(cpu_list(&[]), "");
}
