//! The network rows in a machine of the lab, whose kernel has VLANs, next to `ip -batch` and to ifupdown2's `ifreload -a`.
//!
//! The machine is emulated, so its times are many times those of hardware; they are compared with each other.

use crate::measure::{Row, Table};
use crate::node::Node;
use compat_tests::lab::Machine;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// Measures inside, so that no call crosses the machine's border. Prints medians in seconds.
const SCRIPT: &str = r#"
import json, os, shutil, statistics, subprocess, sys, time
BASE = open('/etc/network/interfaces').read().split('\nsource')[0] + '\n\nauto en01\niface en01 inet manual\n\n'
FULL, ADD, UNDO = BASE, '', ''
for n in range(20):
    FULL += ('auto br%d\niface br%d inet static\n\taddress 10.9.%d.1/24\n\tbridge-ports en01.%d\n\tbridge-stp off\n'
             '\tbridge-fd 0\n\n' % (n, n, n, n + 10))
    ADD += ('link add br%d type bridge forward_delay 0\nlink set br%d up\naddr add 10.9.%d.1/24 dev br%d\n'
            'link add en01.%d link en01 type vlan id %d\nlink set en01.%d master br%d up\n'
            % (n, n, n, n, n + 10, n + 10, n + 10, n))
    UNDO += 'link del br%d\nlink del en01.%d\n' % (n, n + 10)
FILE = '/etc/network/interfaces'

def write(path, text):
    with open(path, 'w') as file:
        file.write(text)

def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit('%s: %s%s' % (words, done.stdout, done.stderr))

def median(rounds, once, before=lambda: None):
    times = []
    for _ in range(rounds):
        before()
        begin = time.perf_counter()
        once()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)

def ours(text):
    write(FILE + '.new', text)
    run('/root/pvenet', 'apply')

def prepare():
    ours(BASE)
    write(FILE + '.new', FULL)

apply = lambda: run('/root/pvenet', 'apply')
found = {'ours': median(7, apply, prepare)}
found['again'] = median(7, apply)
ours(BASE)
write('/root/add', ADD)
write('/root/undo', UNDO)
def undo():
    if os.path.exists('/sys/class/net/br0'):
        run('ip', '-batch', '/root/undo')
found['batch'] = median(7, lambda: run('ip', '-batch', '/root/add'), undo)
undo()
found['links'] = median(7, lambda: run('ip', '-o', 'link'))
if shutil.which('ifreload'):
    def theirs(text):
        write(FILE, text)
        run('ifreload', '-a')
    def before():
        theirs(BASE)
        write(FILE, FULL)
    reload = lambda: run('ifreload', '-a')
    found['ifreload'] = median(3, reload, before)
    found['ifreload again'] = median(3, reload)
print(json.dumps(found))
"#;

/// Nothing where the lab is not built.
pub fn rows(table: &mut Table) {
    let Some(machine) = Machine::plain("bench", "net-bench") else { return };
    let node = Node::prepare();
    let program = node.program("pvenet").get_program().to_owned();
    let program = std::fs::canonicalize(program).expect("the programs are built");
    machine.put(&program, "/root/ferrovisor-tools");
    machine.sh(
        "ln -s ferrovisor-tools /root/pvenet; chmod +x /root/ferrovisor-tools; modprobe 8021q; ip link set en01 up",
    );
    install_ifupdown2(&machine);
    let script = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(&script, SCRIPT).expect("a temporary file");
    machine.put(script.path(), "/root/measure.py");
    let found: Value = serde_json::from_str(&machine.sh("python3 /root/measure.py")).expect("JSON");
    let time = |name: &str| found[name].as_f64().map(Duration::from_secs_f64);
    let mut row = |what: &str, ours: &str, tool: (&str, &str), theirs: &str| {
        let (Some(ours), Some(by_hand), Some(theirs)) = (time(ours), time(tool.1), time(theirs)) else { return };
        let beside = format!("{} {} ms, ifreload -a", tool.0, by_hand.as_millis());
        // A budget in milliseconds means nothing here: it has to be quicker than what it replaces.
        table.add(&Row::time(what, ours, (&beside, theirs), theirs));
    };
    row("20 VLAN bridges from nothing, emulated machine", "ours", ("ip -batch", "batch"), "ifreload");
    row("the same file again, emulated machine", "again", ("ip link", "links"), "ifreload again");
}

/// ifupdown2 and what it needs of Python, unpacked only: their configuration takes minutes there. Where no packages can be
/// fetched, its column is empty.
fn install_ifupdown2(machine: &Machine) {
    let files = tempfile::tempdir().expect("a temporary directory");
    let mut fetch = Command::new("apt-get");
    fetch.args(["-qq", "download", "ifupdown2", "libpython3-stdlib", "libpython3.11-stdlib"]).current_dir(files.path());
    if !fetch.output().is_ok_and(|output| output.status.success()) {
        return;
    }
    for package in std::fs::read_dir(files.path()).expect("own directory").flatten() {
        machine.put(&package.path(), "/root/package.deb");
        machine.sh("dpkg --unpack --force-depends --force-conflicts /root/package.deb");
    }
    // Its own configuration would do this.
    machine.sh("chmod +x /usr/share/ifupdown2/__main__.py
         find /etc/network/ifupdown2 -name '*.dpkg-new' -exec sh -c 'mv \"$1\" \"${1%.dpkg-new}\"' - {} ';'");
}
