//! `pvenet` in a network namespace of the test's own: what a plan says happens, twice the same file changes nothing,
//! and whatever goes wrong half-way leads back to where it began.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, skip, wait_for};
use std::fs;
use std::process::{Command, Output};

/// A namespace with two cables (`en01`, `en02`), whose far ends are `far01` and `far02`.
struct World {
    node: Node,
    name: String,
}

impl World {
    fn new(name: &str) -> Self {
        let name = format!("nw{name}{}", std::process::id());
        let node = Node::without_daemons();
        fs::create_dir_all(node.path("etc/network")).unwrap();
        run("ip", &["netns", "add", &name]);
        let world = World { node, name };
        for (near, far) in [("en01", "far01"), ("en02", "far02")] {
            world.ip(&["link", "add", "name", near, "type", "veth", "peer", "name", far]);
            world.ip(&["link", "set", "dev", far, "up"]);
        }
        world
    }

    fn ip(&self, arguments: &[&str]) -> String {
        run("ip", &[&["-n", &self.name], arguments].concat())
    }

    fn pvenet(&self, arguments: &[&str]) -> Output {
        self.inside("env", &[], arguments)
    }

    /// Runs our tool through another that starts it.
    fn inside(&self, starter: &str, options: &[&str], arguments: &[&str]) -> Output {
        let mut command = Command::new("ip");
        let program = self.node.program("pvenet");
        command.args(["netns", "exec", &self.name, starter]).args(options);
        command.arg(program.get_program()).args(arguments);
        for (key, value) in program.get_envs() {
            if let Some(value) = value {
                command.env(key, value);
            }
        }
        command.output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.pvenet(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "pvenet {arguments:?}: {out}{err}");
        out.into_owned()
    }

    fn propose(&self, text: &str) {
        fs::write(self.node.path("etc/network/interfaces.new"), text).unwrap();
    }

    fn in_force(&self) -> String {
        fs::read_to_string(self.node.path("etc/network/interfaces")).unwrap_or_default()
    }

    /// Links, addresses and routes as `ip` shows them, without what changes by itself.
    fn picture(&self) -> String {
        let links = self.ip(&["-o", "link"]);
        let links = links.lines().map(|line| {
            let (name, rest) = line.split_once(": ").unwrap().1.split_once(": ").unwrap();
            let words: Vec<&str> = rest.split_whitespace().collect();
            let after = |word: &str| words.iter().position(|found| *found == word).map(|at| words[at + 1]);
            let up = words[0].trim_matches(['<', '>']).split(',').any(|flag| flag == "UP");
            format!("{name} {up} {:?} {:?}", after("mtu"), after("master"))
        });
        let addresses = self.ip(&["-o", "addr", "show", "scope", "global"]);
        let addresses =
            addresses.lines().map(|line| line.split_whitespace().skip(1).take(3).collect::<Vec<_>>().join(" "));
        let mut all: Vec<String> = links.chain(addresses).collect();
        all.sort();
        let routes = self.ip(&["route", "show", "default"]).replace(" linkdown", "");
        format!("{}\n{}", all.join("\n"), routes.trim())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const FIRST: &str = "\
auto lo
iface lo inet loopback

iface en01 inet manual

auto vibr0
iface vibr0 inet static
\taddress 192.0.2.10/24
\tgateway 192.0.2.1
\tbridge-ports en01
\tbridge-stp off
\tbridge-fd 0

iface vibr0 inet6 static
\taddress fd00:a::1/64

auto vibr10
iface vibr10 inet manual
\tbridge-ports none
\tbridge-stp off
\tbridge-fd 0
";

/// The first file with another address, another port and another bridge instead of `vibr10`.
fn second() -> String {
    let text =
        FIRST.replace("192.0.2.10/24", "192.0.2.11/24\n\tmtu 1400").replace("bridge-ports en01", "bridge-ports en02");
    text.replace("vibr10", "lan")
        .replace("iface en01 inet manual", "iface en02 inet manual\n\nauto en01\niface en01 inet manual")
}

#[test]
fn what_is_planned_happens_once() {
    let world = World::new("a");
    world.propose(FIRST);
    let plan = world.ok(&["plan"]);
    for line in
        ["vibr0: create bridge", "en01: put into 'vibr0'", "vibr0: add address 192.0.2.10/24", "default via 192.0.2.1"]
    {
        assert!(plan.contains(line), "{line} in\n{plan}");
    }
    assert!(!world.picture().contains("vibr0"), "a plan changes nothing");
    assert_eq!(world.ok(&["apply"]), plan);
    assert_eq!(world.in_force(), FIRST);
    let picture = world.picture();
    for part in [
        "en01@far01 true Some(\"1500\") Some(\"vibr0\")",
        "vibr0 inet 192.0.2.10/24",
        "vibr0 inet6 fd00:a::1/64",
        "default via 192.0.2.1",
    ] {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
    world.propose(FIRST);
    assert_eq!(world.ok(&["apply"]), "no change\n");
    assert!(world.ok(&["status"]).contains("agree"));

    // A guest's port is nobody's in the file; it stays through changes of its bridge.
    world.ip(&["link", "add", "name", "veth900i0", "type", "veth", "peer", "name", "guest"]);
    world.ip(&["link", "set", "dev", "veth900i0", "master", "vibr0"]);
    world.propose(&second());
    world.ok(&["apply"]);
    let picture = world.picture();
    for part in [
        "veth900i0@guest false Some(\"1500\") Some(\"vibr0\")",
        "en01@far01 true Some(\"1500\") None",
        "en02@far02 true Some(\"1500\") Some(\"vibr0\")",
        "lan true",
    ] {
        assert!(picture.contains(part), "{part} in\n{picture}");
    }
    assert!(!picture.contains("vibr10") && !picture.contains("192.0.2.10/"), "{picture}");
}

#[test]
fn a_bad_file_is_refused_with_its_line() {
    let world = World::new("b");
    world.propose(FIRST);
    world.ok(&["apply"]);
    let before = world.picture();
    let cases = [
        (FIRST.replace("inet static", "inet statik"), "interfaces:7: unable to read"),
        (
            FIRST.replace("bridge-ports en01", "bridge-ports en09"),
            "interfaces:7: bridge 'vibr0' - unable to find bridge port 'en09'",
        ),
        (
            FIRST.replace("bridge-ports none", "bridge-ports en01"),
            "interfaces:7: port 'en01' is already used on interface",
        ),
        (
            FIRST.replace("192.0.2.1\n", "198.51.100.1\n"),
            "interfaces:7: gateway 198.51.100.1 of 'vibr0' is not in its network",
        ),
        (
            FIRST.replace("192.0.2.10/24", "192.0.2.1000/24"),
            "interfaces:7: address '192.0.2.1000/24' of 'vibr0' is none",
        ),
        (
            FIRST.replace("iface vibr10 inet manual", "iface vibr10 inet static\n\taddress 192.0.2.10/24"),
            "interfaces:18: address 192.0.2.10 is on 'vibr0' and on 'vibr10'",
        ),
        (FIRST.replace("bridge-fd 0\n\niface vibr0 inet6", "mtu\n\niface vibr0 inet6"), "option 'mtu' has no value"),
    ];
    for (text, reason) in cases {
        world.propose(&text);
        let output = world.pvenet(&["apply"]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(reason), "{reason}: {error}");
        assert_eq!(world.picture(), before);
        assert_eq!(world.in_force(), FIRST);
    }
}

#[test]
fn what_fails_half_way_goes_back() {
    let world = World::new("c");
    world.propose(FIRST);
    world.ok(&["apply"]);
    let before = world.picture();
    // The kernel refuses this size when everything else has been changed.
    world.propose(&second().replace("mtu 1400", "mtu 65"));
    let output = world.pvenet(&["apply"]);
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(world.picture(), before);
    assert_eq!(world.in_force(), FIRST);
    assert!(world.node.path("etc/network/interfaces.new").exists(), "the edit is not lost");
}

#[test]
fn a_killed_change_is_taken_back_by_the_next_start() {
    let world = World::new("d");
    world.propose(FIRST);
    world.ok(&["apply"]);
    let before = world.picture();
    // The parent of a command is the one who applies: it kills him between two steps.
    for (interface, phase) in [("vibr0", "pre-up"), ("vibr0", "up"), ("lan", "pre-up"), ("lan", "up"), ("en01", "up")] {
        let section = format!("iface {interface} inet");
        let text = second();
        let at = text.find(&section).unwrap();
        let end = at + text[at..].find('\n').unwrap() + 1;
        world.propose(&format!("{}\t{phase} kill -9 $PPID\n{}", &text[..end], &text[end..]));
        let output = world.pvenet(&["apply"]);
        assert!(!output.status.success(), "{interface} {phase}: {output:?}");
        assert_ne!(world.picture(), before, "{interface} {phase}: it was killed before the first change");
        world.ok(&["guard"]);
        assert_eq!(world.picture(), before, "{interface} {phase}");
        assert_eq!(world.in_force(), FIRST);
        assert!(world.ok(&["plan"]).len() > 10, "the edit is not lost");
    }
}

#[test]
fn killed_at_any_moment_it_is_the_old_state_or_the_new() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("network_apply::killed_at_any_moment", "strace is not installed");
    }
    let world = World::new("f");
    world.propose(FIRST);
    world.ok(&["apply"]);
    let old = world.picture();
    world.propose(&second());
    world.ok(&["apply"]);
    let new = world.picture();
    world.propose(FIRST);
    world.ok(&["apply"]);
    // Each request to the kernel and each change of a file, one after the other.
    for call in ["sendto", "rename", "renameat", "renameat2", "unlink", "unlinkat", "fsync"] {
        for number in 1.. {
            assert!(number < 500, "{call}: it never ends");
            world.propose(&second());
            let inject = format!("inject={call}:signal=KILL:when={number}");
            let output = world.inside("strace", &["-f", "-o", "/dev/null", "-e", &inject], &["apply"]);
            if output.status.success() {
                assert_eq!(world.picture(), new);
                world.propose(FIRST);
                world.ok(&["apply"]);
                break;
            }
            let is_killed = std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(9);
            assert!(is_killed || output.status.code() == Some(137), "{call} {number}: {output:?}");
            // The next start of the daemon does the same.
            world.ok(&["guard"]);
            let picture = world.picture();
            assert!(picture == old || picture == new, "{call} {number}: {picture}");
            assert_eq!(world.in_force(), if picture == old { FIRST.to_owned() } else { second() }, "{call} {number}");
            if picture == new {
                world.propose(FIRST);
                world.ok(&["apply"]);
            }
        }
    }
}

#[test]
fn without_confirmation_the_former_state_comes_back() {
    let world = World::new("e");
    world.propose(FIRST);
    world.ok(&["apply"]);
    let before = world.picture();
    world.propose(&second());
    world.ok(&["apply", "--confirm", "3"]);
    assert_ne!(world.picture(), before);
    assert!(String::from_utf8_lossy(&world.pvenet(&["apply"]).stderr).contains("waits for its confirmation"));
    wait_for("the way back", 30, || (world.picture() == before && world.in_force() == FIRST).then_some(()));

    world.propose(&second());
    world.ok(&["apply", "--confirm", "600"]);
    world.ok(&["rollback"]);
    assert_eq!(world.picture(), before);

    world.propose(&second());
    world.ok(&["apply", "--confirm", "600"]);
    world.ok(&["confirm"]);
    assert_ne!(world.picture(), before);
    assert_eq!(world.in_force(), second());
    assert!(!world.pvenet(&["confirm"]).status.success());
}

#[test]
fn what_others_set_stays() {
    let world = World::new("g");
    let by_hand = "\tup ip route add 203.0.113.0/24 via 192.0.2.9\n\tup ip addr add 192.0.2.77/24 dev $IFACE\n";
    let text = FIRST.replace("\tgateway 192.0.2.1\n", by_hand);
    // As those do who rent a machine: the default route comes from a command.
    let text = text.replace("\tbridge-fd 0\n\niface vibr0", "\tup ip route add default via 192.0.2.2\n\niface vibr0");
    world.propose(&text);
    world.ok(&["apply"]);
    let all = ["default via 192.0.2.2", "203.0.113.0/24 via 192.0.2.9"];
    let check = |what: &str| {
        let (routes, addresses) = (world.ip(&["route"]), world.ip(&["addr", "show", "dev", "vibr0"]));
        assert!(all.iter().all(|route| routes.contains(route)), "{what}: {routes}");
        assert!(addresses.contains("192.0.2.77/24"), "{what}: {addresses}");
    };
    check("after the first time");
    assert_eq!(world.ok(&["apply"]), "no change\n");
    world.propose(&text.replace("192.0.2.10/24", "192.0.2.11/24\n\tmtu 1400"));
    world.ok(&["apply"]);
    check("after a change of the address");
    assert_eq!(world.ok(&["apply"]), "no change\n");
    // Without the lines an address is nobody's, and the file's own gateway takes over.
    world.propose(FIRST);
    world.ok(&["apply"]);
    let picture = world.picture();
    assert!(!picture.contains("192.0.2.77") && !picture.contains("192.0.2.2 "), "{picture}");
    assert!(picture.contains("default via 192.0.2.1 "), "{picture}");
}

#[test]
fn a_gateway_may_be_of_another_network() {
    let world = World::new("h");
    let text = "auto lo\niface lo inet loopback\n\taddress 192.0.2.200/32\n\nauto en01\niface en01 inet static\n\
        \taddress 198.51.100.7/32\n\tgateway 203.0.113.1\n\nauto en02\niface en02 inet static\n\
        \taddress 198.51.100.8/24\n\tpointopoint 203.0.113.9\n";
    world.propose(text);
    world.ok(&["apply"]);
    let routes = world.ip(&["route"]);
    assert!(routes.contains("default via 203.0.113.1 dev en01") && routes.contains("203.0.113.9 dev en02"), "{routes}");
    assert!(world.picture().contains("lo inet 192.0.2.200/32"));
    assert_eq!(world.ok(&["apply"]), "no change\n");
    world.propose(&text.replace("\taddress 192.0.2.200/32\n", "").replace("\tpointopoint 203.0.113.9\n", ""));
    world.ok(&["apply"]);
    assert!(!world.ip(&["route"]).contains("203.0.113.9") && !world.picture().contains("192.0.2.200"));
    assert!(world.ip(&["addr", "show", "dev", "lo"]).contains("127.0.0.1/8"));
    // An alias that is not brought up is no address of its link.
    world.propose(&format!("{text}\niface en02:1 inet static\n\taddress 198.51.100.9/24\n"));
    world.ok(&["apply"]);
    assert!(!world.picture().contains("198.51.100.9"));
}

#[test]
fn the_way_back_runs_the_commands_of_what_it_makes_again() {
    let world = World::new("i");
    let said = world.node.path("said");
    let line = |phase: &str, word: &str| format!("\t{phase} echo {word} >> {}\n", said.display());
    let lines = line("post-up", "on") + &line("pre-down", "off");
    let text = FIRST.replace("\nauto vibr10", &format!("{}\nauto vibr10", line("up", "other"))) + &lines;
    world.propose(&text);
    world.ok(&["apply"]);
    let gone = &text[..text.find("auto vibr10").unwrap()];
    world.propose(&gone.replace("192.0.2.10/24", "192.0.2.11/24"));
    world.ok(&["apply", "--confirm", "600"]);
    world.ok(&["rollback"]);
    let said = fs::read_to_string(said).unwrap();
    let of_vibr10: Vec<&str> = said.lines().filter(|word| *word != "other").collect();
    assert_eq!(of_vibr10, ["on", "off", "on"]);
    assert_eq!(said.lines().filter(|word| *word == "other").count(), 1, "vibr0 stayed: {said}");
    assert_eq!(world.in_force(), text);
}
