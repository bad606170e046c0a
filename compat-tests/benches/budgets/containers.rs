//! Containers, next to the raw tools with the same configuration, archive or files.

use crate::measure::{Row, Samples, Table};
use crate::node::Node;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

const ROUNDS: usize = 15;
/// Containers of the crowd, and how many of them are made at a time.
const CROWD: u32 = 100;
const AT_ONCE: usize = 8;

/// All rows about containers.
pub fn measure(table: &mut Table) {
    let node = Node::start(0);
    template(&node);
    create(&node, table);
    start_and_stop(&node, table);
    clone(&node, table);
    crowd(&node, table);
    list(&node, table);
}

fn pct(node: &Node, words: &str) {
    node.check(node.program("pct").args(words.split(' ')));
}

const CREATE: &str = "local:vztmpl/busybox.tar.gz --ostype unmanaged --rootfs local:0 --unprivileged 1 --memory 64";

fn create(node: &Node, table: &mut Table) {
    let (archive, tree) = (node.path("var/lib/vz/template/cache/busybox.tar.gz"), node.path("unpacked"));
    let [ours, _, raw, _] = Samples::by_turns(
        ROUNDS,
        [
            &mut || pct(node, &format!("create 102 {CREATE}")),
            &mut || pct(node, "destroy 102"),
            &mut || {
                std::fs::create_dir(&tree).expect("own directory");
                node.check(Command::new("tar").arg("-xpzf").arg(&archive).arg("-C").arg(&tree));
            },
            &mut || std::fs::remove_dir_all(&tree).expect("own directory"),
        ],
    )
    .map(|samples| samples.median());
    table.add(&Row::more("pct create", ours, ("tar -x", raw), Duration::from_millis(100)));
}

/// Start, stop and a program inside, next to liblxc's own tools.
fn start_and_stop(node: &Node, table: &mut Table) {
    pct(node, &format!("create 101 {CREATE}"));
    pct(node, "start 101");
    pct(node, "stop 101");
    let by_hand = ByHand::of(node);
    let [start, exec, stop, raw_start, attach, raw_stop] = Samples::by_turns(
        ROUNDS,
        [
            &mut || pct(node, "start 101"),
            &mut || pct(node, "exec 101 -- /bin/true"),
            &mut || pct(node, "stop 101"),
            &mut || by_hand.tool("lxc-start", &["-d"]),
            &mut || by_hand.tool("lxc-attach", &["--", "/bin/true"]),
            &mut || by_hand.tool("lxc-stop", &["-k"]),
        ],
    )
    .map(|samples| samples.median());
    let budget = Duration::from_millis(15);
    table.add(&Row::more("pct start", start, ("lxc-start", raw_start), budget));
    table.add(&Row::more("pct exec", exec, ("lxc-attach", attach), Duration::from_millis(5)));
    table.add(&Row::more("pct stop, at once", stop, ("lxc-stop -k", raw_stop), budget));
}

/// The container that was started last, for liblxc's own tools.
struct ByHand<'a> {
    node: &'a Node,
    lxcpath: PathBuf,
}

impl<'a> ByHand<'a> {
    fn of(node: &'a Node) -> Self {
        let lxcpath = node.path("by-hand");
        std::fs::create_dir_all(lxcpath.join("101")).expect("own directory");
        let text = std::fs::read_to_string(node.path("var/lib/lxc/101/config")).expect("a container was started");
        // We mount the root where only the container sees it; by hand it is named where it lies.
        let mounted = format!("dir:{}", node.path("var/lib/lxc/101/rootfs").display());
        let volume = format!("dir:{}", node.path("var/lib/vz/images/101/subvol-101-disk-0.subvol").display());
        assert!(text.contains(&mounted), "{text}");
        std::fs::write(lxcpath.join("101/config"), text.replace(&mounted, &volume)).expect("own directory");
        ByHand { node, lxcpath }
    }

    fn tool(&self, name: &str, rest: &[&str]) {
        self.node.check(Command::new(name).arg("-P").arg(&self.lxcpath).args(["-n", "101"]).args(rest));
    }
}

fn clone(node: &Node, table: &mut Table) {
    let (source, copy) = (node.path("var/lib/vz/images/101/subvol-101-disk-0.subvol"), node.path("copy"));
    let [ours, _, raw, _] = Samples::by_turns(
        ROUNDS,
        [
            &mut || pct(node, "clone 101 103"),
            &mut || pct(node, "destroy 103"),
            &mut || node.check(Command::new("cp").args(["-a", "--reflink=auto"]).arg(&source).arg(&copy)),
            &mut || std::fs::remove_dir_all(&copy).expect("own directory"),
        ],
    )
    .map(|samples| samples.median());
    table.add(&Row::more("pct clone", ours, ("cp -a --reflink", raw), Duration::from_millis(100)));
}

/// Many containers made and started, some at a time.
fn crowd(node: &Node, table: &mut Table) {
    let each = |work: &(dyn Fn(u32) + Sync)| {
        std::thread::scope(|scope| {
            for lane in 0..AT_ONCE as u32 {
                scope.spawn(move || (200 + lane..200 + CROWD).step_by(AT_ONCE).for_each(work));
            }
        });
    };
    let time = Samples::of(1, || each(&|vmid| pct(node, &format!("create {vmid} {CREATE} --start 1")))).median();
    each(&|vmid| pct(node, &format!("destroy {vmid} --force 1")));
    let per_second = f64::from(CROWD) / time.as_secs_f64();
    let beside = format!("{AT_ONCE} at a time");
    table.add(&Row::number("100 creates and starts", per_second, "per s", beside, 5.0, true));
}

/// The list of a thousand containers.
fn list(node: &Node, table: &mut Table) {
    let directory = node.path("etc/pve/nodes/pve1/lxc");
    let directory = if directory.is_dir() { directory } else { node.path("etc/pve/lxc") };
    for vmid in 1000..2000 {
        let config = format!("arch: amd64\nhostname: ct-{vmid}\nmemory: 512\nostype: debian\nswap: 512\n");
        std::fs::write(directory.join(format!("{vmid}.conf")), config).expect("own directory");
    }
    let ours = Samples::of(ROUNDS * 3, || pct(node, "list")).median();
    let budget = Duration::from_millis(30);
    table.add(&Row::time("pct list, 1,000 containers", ours, ("nothing", Duration::ZERO), budget));
}

/// Busybox alone.
fn template(node: &Node) {
    let tree = node.path("template");
    for directory in ["bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "root", "run"] {
        std::fs::create_dir_all(tree.join(directory)).expect("own directory");
    }
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).expect("busybox-static is installed");
    for link in ["bin/sh", "bin/sleep", "bin/true", "sbin/init"] {
        std::os::unix::fs::symlink("/bin/busybox", tree.join(link)).expect("own directory");
    }
    std::fs::write(tree.join("etc/inittab"), "::respawn:/bin/sleep 3600\n").expect("own directory");
    let cache = node.path("var/lib/vz/template/cache");
    std::fs::create_dir_all(&cache).expect("own directory");
    let archive = cache.join("busybox.tar.gz");
    node.check(Command::new("tar").arg("-C").arg(&tree).arg("-czf").arg(archive).args(["--owner=0", "--group=0", "."]));
}
