//! Random valid edits of the interfaces file in a network namespace of the test's own, with a guest on a bridge that they do
//! not touch: after each the kernel has what the file says, the same file again changes nothing, and the guest misses no answer.
//!
//! `COMPAT_NETWORK_ROUNDS` is the number of edits; few in the ordinary suite.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, wait_for};
use std::collections::BTreeSet;
use std::fs;
use std::process::{Child, Command, Stdio};

const ROUNDS: u32 = 6;

/// The bridge of the guest, which every file has.
const KEPT: &str = "auto lo\niface lo inet loopback\n\nauto keep\niface keep inet static\n\taddress 198.51.100.1/24\n\
                    \tbridge-ports none\n\tbridge-stp off\n\tbridge-fd 0\n\n";

/// Numbers that look random and are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % count
    }
}

/// What an edit may change of one bridge.
#[derive(Clone, Default, PartialEq)]
struct Bridge {
    exists: bool,
    addresses: BTreeSet<u64>,
    ports: BTreeSet<u64>,
    small: bool,
}

fn edit(bridges: &mut [Bridge; 3], dice: &mut Dice) {
    let at = dice.below(3) as usize;
    let number = dice.below(4);
    let taken = bridges.iter().any(|bridge| bridge.ports.contains(&number));
    let bridge = &mut bridges[at];
    match dice.below(if bridge.exists { 4 } else { 1 }) {
        0 => *bridge = Bridge { exists: !bridge.exists, ..Bridge::default() },
        1 => bridge.small = !bridge.small,
        2 if bridge.ports.remove(&number) => {}
        2 if !taken => drop(bridge.ports.insert(number)),
        _ if bridge.addresses.remove(&number) => {}
        _ => drop(bridge.addresses.insert(number)),
    }
}

fn text(bridges: &[Bridge; 3]) -> String {
    let mut text = KEPT.to_owned();
    for port in 0..4 {
        let size =
            if bridges.iter().any(|bridge| bridge.small && bridge.ports.contains(&port)) { "\n\tmtu 1400" } else { "" };
        text += &format!("auto c{port}\niface c{port} inet manual{size}\n\n");
    }
    for (at, bridge) in bridges.iter().enumerate().filter(|(_, bridge)| bridge.exists) {
        let method = if bridge.addresses.is_empty() { "manual" } else { "static" };
        text += &format!("auto lan{at}\niface lan{at} inet {method}\n");
        bridge.addresses.iter().for_each(|number| text += &format!("\taddress 10.{at}.{number}.1/24\n"));
        let ports: Vec<String> = bridge.ports.iter().map(|port| format!("c{port}")).collect();
        let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(" ") };
        text += &format!("\tbridge-ports {ports}\n\tbridge-stp off\n\tbridge-fd 0\n");
        text += if bridge.small { "\tmtu 1400\n\n" } else { "\n" };
    }
    text
}

/// What the kernel has of the bridges, asked without our programs.
fn kernel(world: &World) -> [Bridge; 3] {
    let addresses = world.ip(&["-o", "-4", "addr"]);
    let links = world.ip(&["-o", "link"]);
    std::array::from_fn(|at| {
        let own = links.lines().find(|line| line.contains(&format!(": lan{at}:")));
        let master = format!(" master lan{at} ");
        let port =
            |port: &u64| links.lines().any(|line| line.contains(&format!(": c{port}@")) && line.contains(&master));
        let has = |number: &u64| addresses.contains(&format!("lan{at}    inet 10.{at}.{number}.1/24 "));
        Bridge {
            exists: own.is_some_and(|line| line.contains(",UP")),
            addresses: (0..4).filter(has).collect(),
            ports: (0..4).filter(port).collect(),
            small: own.is_some_and(|line| line.contains(" mtu 1400 ")),
        }
    })
}

#[test]
fn random_edits_reach_the_kernel_and_leave_other_guests_alone() {
    let rounds = compat_tests::setting("COMPAT_NETWORK_ROUNDS", ROUNDS);
    let world = World::new();
    let (mut bridges, mut dice) = (<[Bridge; 3]>::default(), Dice(u64::from(rounds)));
    world.apply(&text(&bridges));
    let pings = world.plug_guest();
    for round in 0..rounds {
        for _ in 0..=dice.below(4) {
            edit(&mut bridges, &mut dice);
        }
        let wanted = text(&bridges);
        world.apply(&wanted);
        assert!(kernel(&world) == bridges, "round {round}: {wanted}\n{}", world.ip(&["addr"]));
        assert_eq!(world.apply(&wanted), "no change\n", "round {round}: {wanted}");
        assert!(world.ip(&["-o", "link", "show", "dev", "veth900i0"]).contains("master keep"), "round {round}");
    }
    let report = end_pings(pings);
    assert!(report.contains(" 0% packet loss") && !report.contains("errors"), "{report}");
}

/// The node's namespace with four cables, and a guest's.
struct World {
    node: Node,
    name: String,
    guest: String,
}

impl World {
    fn new() -> Self {
        let node = Node::without_daemons();
        fs::create_dir_all(node.path("etc/network")).unwrap();
        let (name, guest) = (format!("ne{}", std::process::id()), format!("neg{}", std::process::id()));
        let world = World { node, name, guest };
        for name in [&world.name, &world.guest] {
            run(Command::new("ip").args(["netns", "add", name]));
        }
        for port in 0..4 {
            let (near, far) = (format!("c{port}"), format!("far{port}"));
            world.ip(&["link", "add", "name", &near, "type", "veth", "peer", "name", &far]);
            world.ip(&["link", "set", "dev", &far, "up"]);
        }
        world
    }

    fn ip(&self, arguments: &[&str]) -> String {
        run(Command::new("ip").args(["-n", &self.name]).args(arguments))
    }

    /// Applies a file; what the tool says.
    fn apply(&self, text: &str) -> String {
        fs::write(self.node.path("etc/network/interfaces.new"), text).unwrap();
        let mut command = Command::new("ip");
        let program = self.node.program("pvenet");
        command.args(["netns", "exec", &self.name]).arg(program.get_program()).arg("apply");
        program.get_envs().filter_map(|(key, value)| Some((key, value?))).for_each(|(key, value)| {
            command.env(key, value);
        });
        run(&mut command)
    }

    /// Plugs the guest in as the engine does it; it asks the node again and again from now on.
    fn plug_guest(&self) -> Child {
        let guest = ["link", "add", "name", "veth900i0", "type", "veth", "peer", "name", "eth0", "netns", &self.guest];
        self.ip(&guest);
        self.ip(&["link", "set", "dev", "veth900i0", "master", "keep", "up"]);
        for line in ["link set dev eth0 up", "addr add 198.51.100.2/24 dev eth0"] {
            run(Command::new("ip").args(["-n", &self.guest]).args(line.split(' ')));
        }
        let ping = |count: &str| {
            let mut ping = Command::new("ip");
            ping.args(["netns", "exec", &self.guest, "ping", "-i", "0.2", "-W", "60", "-c", count, "198.51.100.1"]);
            ping
        };
        wait_for("the guest's first answer", 30, || ping("1").output().unwrap().status.success().then_some(()));
        ping("100000").stdout(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for name in [&self.name, &self.guest] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn end_pings(pings: Child) -> String {
    run(Command::new("kill").args(["-INT", &pings.id().to_string()]));
    String::from_utf8(pings.wait_with_output().unwrap().stdout).unwrap().replace("% packet loss", "% packet loss\n")
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {out}{err}");
    out.into_owned()
}
