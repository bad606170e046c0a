//! Containers on a machine with control groups v2, AppArmor and LVM-thin: limits hold, containers nest, volumes are snapshots.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::guest::busybox_template;
use compat_tests::lab::Machine;

const STORAGE: &str = "\
dir: local
\tpath /var/lib/vz
\tcontent iso,vztmpl,backup,images,rootdir

lvmthin: thin
\tvgname vglab
\tthinpool thin
\tcontent rootdir,images
";

/// A container that has the host's programs and a second, smaller one in its files.
const NESTING: &str = r#"
mkdir -p /n/etc /n/proc /n/sys /n/dev /n/tmp /n/root /n/run /n/usr /n/var/lib/lxc /n/inner/bin /n/inner/proc /n/inner/sys \
    /n/inner/dev /n/inner/etc
for name in bin sbin lib lib64; do ln -s usr/$name /n/$name; done
cp /bin/busybox /n/sleep
cp /bin/busybox /n/inner/bin/
cp /etc/ld.so.cache /n/etc/
echo root:x:0:0:root:/root:/bin/sh > /n/etc/passwd
cat > /n/etc/inner.conf <<END
lxc.rootfs.path = dir:/inner
lxc.uts.name = inner
lxc.init.cmd = /bin/busybox sleep 100000
lxc.net.0.type = empty
lxc.include = /usr/share/lxc/config/common.conf
lxc.include = /usr/share/lxc/config/userns.conf
lxc.apparmor.profile = unchanged
END
tar -C /n -czf /var/lib/vz/template/cache/nesting.tar.gz .
"#;

#[test]
fn limits_hold_and_volumes_are_snapshots() {
    let Some(machine) = Machine::start("lab_containers", "lab-containers") else { return };
    let files = tempfile::tempdir().unwrap();
    let (template, storage) = (files.path().join("busybox.tar.gz"), files.path().join("storage.cfg"));
    busybox_template(&template);
    std::fs::write(&storage, STORAGE).unwrap();
    machine.sh("mkdir -p /var/lib/vz/template/cache");
    machine.put(&template, "/var/lib/vz/template/cache/busybox.tar.gz");
    machine.put(&storage, "/etc/pve/storage.cfg");
    machine.sh("vgcreate vglab /dev/disk/by-id/virtio-lab1 && lvcreate -q -T -L 4G vglab/thin");
    machine.sh("ip link add ctbr0 type bridge; ip addr add 10.9.0.1/24 dev ctbr0; ip link set ctbr0 up");
    let create = "pct create 101 local:vztmpl/busybox.tar.gz --ostype unmanaged --unprivileged 1 --rootfs thin:0.25";
    let net = "--net0 name=eth0,bridge=ctbr0,ip=10.9.0.2/24,rate=1";
    machine.tool(&format!("{create} --memory 96 --swap 0 --cpulimit 0.25 {net}"));
    machine.tool("pct start 101");
    memory_is_limited(&machine);
    processor_is_limited(&machine);
    network_is_limited(&machine);
    limits_change_while_it_runs(&machine);
    volumes_are_looked_after(&machine);
    snapshots_and_clones(&machine);
    containers_nest(&machine);
}

fn memory_is_limited(machine: &Machine) {
    // lxcfs shows the container its own memory.
    let shown = machine.tool("pct exec 101 -- grep MemTotal /proc/meminfo");
    assert_eq!(shown.split_whitespace().nth(1), Some("98304"), "{shown}");
    let hog = machine.run(&["pct", "exec", "101", "--", "tail", "/dev/zero"]);
    assert_eq!(hog.code, 128 + 9, "{hog:?}");
    assert_eq!(machine.tool("pct status 101"), "status: running\n");
    let killed = machine.sh("grep -w oom_kill /sys/fs/cgroup/lxc/101/memory.events");
    assert_ne!(killed, "oom_kill 0");
}

/// What a loop takes within some seconds, by the kernel's own clock and accounts.
fn processor_is_limited(machine: &Machine) {
    let measure = "grep usage_usec /sys/fs/cgroup/lxc/101/cpu.stat; cat /proc/uptime";
    let script = format!(
        "{measure}; pct exec 101 -- timeout 10 sh -c 'while :; do :; done' || true; {measure}; grep nr_throttled \
         /sys/fs/cgroup/lxc/101/cpu.stat"
    );
    let said = machine.sh(&script);
    let numbers: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [used, began, _, used_then, ended, _, throttled] = numbers[..] else { panic!("{said}") };
    let share = (used_then - used) / 1e6 / (ended - began);
    assert!(share < 0.35 && throttled > 0.0, "{share} of a processor instead of 0.25: {said}");
}

/// Three MiB at one MiB per second, of which one may come at once.
fn network_is_limited(machine: &Machine) {
    let script = "socat -u TCP-LISTEN:5000 OPEN:/root/got,creat,trunc & server=$!
        pct exec 101 -- sh -c 'until dd if=/dev/zero bs=64k count=48 2>/dev/null | nc 10.9.0.1 5000; do sleep 1; done'
        wait $server";
    let timed = format!("cut -d. -f1 /proc/uptime; {script}; cut -d. -f1 /proc/uptime; stat -c %s /root/got");
    let said = machine.sh(&timed);
    let numbers: Vec<u64> = said.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [began, ended, bytes] = numbers[..] else { panic!("{said}") };
    assert_eq!(bytes, 3 << 20);
    assert!(ended - began >= 2, "{said}");
}

fn limits_change_while_it_runs(machine: &Machine) {
    machine.tool("pct set 101 --cpulimit 0.5 --cpuunits 300 --memory 128 --swap 32");
    let value = |name: &str| machine.sh(&format!("cat /sys/fs/cgroup/lxc/101/{name}")).trim().to_owned();
    assert_eq!((value("cpu.max"), value("cpu.weight")), ("50000 100000".into(), "300".into()));
    assert_eq!((value("memory.max"), value("memory.swap.max")), ("134217728".into(), "33554432".into()));
    machine.tool("pct set 101 --delete cpulimit,cpuunits,swap");
    assert_eq!((value("cpu.max"), value("cpu.weight")), ("max 100000".into(), "100".into()));
    assert_eq!(value("memory.swap.max"), "0");
    let (sets, df) = (machine.tool("pct cpusets"), machine.tool("pct df 101"));
    assert!(
        sets.lines().any(|line| line.starts_with("101")) && df.contains("rootfs thin:vm-101-disk-0 "),
        "{sets}{df}"
    );
}

/// What the tools do with a thin volume: trimmed while it is in use, then checked, mounted, grown, and found again.
fn volumes_are_looked_after(machine: &Machine) {
    let used = || machine.sh("lvs --noheadings -o data_percent vglab/vm-101-disk-0").trim().parse::<f64>().unwrap();
    let write = "dd if=/dev/urandom of=/root/big bs=1M count=64 && sync";
    assert_eq!(machine.run(&["pct", "exec", "101", "--", "sh", "-c", write]).code, 0);
    let full = used();
    // Blocks are free when the file system's journal says so.
    machine.tool("pct exec 101 -- rm /root/big");
    machine.tool("pct exec 101 -- sync");
    machine.tool("pct fstrim 101");
    let trimmed = used();
    assert!(trimmed < full - 15.0, "{full} % before, {trimmed} % after it was trimmed");
    machine.tool("pct stop 101");
    assert!(machine.tool("pct fsck 101").contains("clean"));
    let place = machine.tool("pct mount 101");
    assert!(machine.sh(&format!("ls {}", place.split('\'').nth(1).unwrap())).contains("sbin"));
    machine.tool("pct unmount 101");
    machine.tool("pct resize 101 rootfs +64M");
    machine.sh("lvcreate -q -T -V 64M -n vm-101-disk-9 vglab/thin");
    machine.tool("pct rescan --vmid 101");
    assert!(machine.tool("pct config 101").contains("unused0: thin:vm-101-disk-9"));
    machine.tool("pct set 101 --delete unused0");
    assert!(!machine.sh("lvs --noheadings -o lv_name vglab").contains("disk-9"));
    machine.tool("pct start 101");
    let blocks = machine.tool("pct exec 101 -- stat -f -c %b:%S /");
    let numbers: Vec<u64> = blocks.trim().split(':').map(|number| number.parse().unwrap()).collect();
    let [count, size] = numbers[..] else { panic!("{blocks}") };
    assert!(count * size > 256 << 20, "{blocks}: it has not grown to 320 MiB");
}

fn snapshots_and_clones(machine: &Machine) {
    let mark =
        |text: &str| machine.run(&["pct", "exec", "101", "--", "sh", "-c", &format!("echo {text} > /root/mark")]);
    let read = |vmid: u32| machine.tool(&format!("pct exec {vmid} -- cat /root/mark"));
    mark("one");
    machine.tool("pct snapshot 101 first");
    mark("two");
    machine.tool("pct clone 101 111 --snapname first --full 1");
    // The copy was taken of a mounted file system; nobody has to wait for its former user.
    machine.tool("pct start 111");
    assert_eq!(read(111), "one\n");
    machine.tool("pct destroy 111 --force 1");
    machine.tool("pct rollback 101 first --start 1");
    assert_eq!(read(101), "one\n");
    assert!(!machine.sh("dmesg").contains("MMP interval"), "a file system was taken for mounted elsewhere");
    machine.tool("pct stop 101");
    machine.tool("pct delsnapshot 101 first");
    machine.tool("pct template 101");
    machine.tool("pct clone 101 112");
    machine.tool("pct start 112");
    assert_eq!(read(112), "one\n");
    assert_eq!(machine.sh("lvs --noheadings -o origin vglab/vm-112-disk-0").trim(), "base-101-disk-0");
    machine.tool("pct destroy 112 --force 1");
    machine.tool("pct destroy 101");
    assert_eq!(machine.sh("lvs --noheadings -o lv_name vglab").trim(), "thin");
}

fn containers_nest(machine: &Machine) {
    machine.sh(NESTING);
    let create = "pct create 120 local:vztmpl/nesting.tar.gz --ostype unmanaged --unprivileged 1 --rootfs thin:0.25";
    let line = format!("{create} --memory 256 --features nesting=1,mknod=1 --mp0 /usr,mp=/usr,ro=1");
    let line: Vec<&str> = line.split_whitespace().chain(["--entrypoint", "/sleep 100000"]).collect();
    let made = machine.run(&line);
    assert_eq!(made.code, 0, "{made:?}");
    machine.tool("pct start 120");
    let inner = "lxc-start -n inner -f /etc/inner.conf -o /tmp/log || { cat /tmp/log; exit 1; }
        lxc-attach -n inner -- /bin/busybox hostname";
    let said = machine.run(&["pct", "exec", "120", "--", "sh", "-c", inner]);
    assert_eq!((said.code, said.stdout.as_str()), (0, "inner\n"), "{said:?}");
    let profile = machine.sh("cat /proc/$(lxc-info -n 120 -p -H)/attr/current");
    assert!(profile.starts_with("lxc-120_"), "{profile}");
    // AppArmor lets the monitor reach the helper that makes device nodes.
    let made = machine.run(&["pct", "exec", "120", "--", "sh", "-c", "mknod /root/null c 1 3 && echo x > /root/null"]);
    assert_eq!((made.code, made.stderr.as_str()), (0, ""));
    machine.tool("pct destroy 120 --force 1");
}
