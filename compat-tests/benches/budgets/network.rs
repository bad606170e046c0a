//! Applying the interfaces file in a network namespace, next to `ip -batch` with the same links by hand.

use crate::measure::{Row, Samples, Table};
use crate::node::Node;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

const BRIDGES: u16 = 20;
const ROUNDS: usize = 10;

/// Bridges, each on a VLAN of one card where the kernel has VLANs, else without a port.
pub fn rows(table: &mut Table) {
    let node = Node::prepare();
    let namespace = Namespace::new();
    let vlans = namespace.has_vlans();
    let files = node.path("etc/network");
    fs::create_dir_all(&files).expect("own directory");
    let nothing = "auto lo\niface lo inet loopback\n\nauto card\niface card inet manual\n\n".to_owned();
    let propose = |text: &str| fs::write(files.join("interfaces.new"), text).expect("own directory");
    let apply = || namespace.run(&mut node.program("pvenet"), "apply");
    let (full, batch) = (file(&nothing, vlans), files.join("batch"));
    fs::write(&batch, commands(vlans)).expect("own directory");
    propose(&nothing);
    apply();
    let [_, ours, _, by_hand, _] = Samples::by_turns(
        ROUNDS,
        [
            &mut || propose(&full),
            &mut || apply(),
            &mut || {
                propose(&nothing);
                apply();
            },
            &mut || namespace.ip(&["-batch", &batch.display().to_string()]),
            &mut || {
                for number in 0..BRIDGES {
                    namespace.ip(&["link", "del", &format!("br{number}")]);
                    if vlans {
                        namespace.ip(&["link", "del", &format!("card.{}", number + 10)]);
                    }
                }
            },
        ],
    )
    .map(|samples| samples.median());
    let what = if vlans { "20 VLAN bridges from nothing" } else { "20 bridges from nothing (no VLANs in this kernel)" };
    table.add(&Row::time(what, ours, ("ip -batch", by_hand), Duration::from_millis(100)));
    propose(&full);
    apply();
    let again = Samples::of(ROUNDS, apply).median();
    let floor = Samples::of(ROUNDS, || namespace.ip(&["-o", "link"])).median();
    table.add(&Row::time("the same file again", again, ("ip link", floor), Duration::from_millis(20)));
}

fn file(nothing: &str, vlans: bool) -> String {
    let mut text = nothing.to_owned();
    for number in 0..BRIDGES {
        let port = if vlans { format!("card.{}", number + 10) } else { "none".into() };
        text += &format!("auto br{number}\niface br{number} inet static\n\taddress 10.9.{number}.1/24\n");
        text += &format!("\tbridge-ports {port}\n\tbridge-stp off\n\tbridge-fd 0\n\n");
    }
    text
}

fn commands(vlans: bool) -> String {
    let mut text = String::new();
    for number in 0..BRIDGES {
        text += &format!("link add br{number} type bridge forward_delay 0\nlink set br{number} up\n");
        text += &format!("addr add 10.9.{number}.1/24 dev br{number}\n");
        if vlans {
            let (vlan, id) = (format!("card.{}", number + 10), number + 10);
            text += &format!("link add {vlan} link card type vlan id {id}\nlink set {vlan} master br{number} up\n");
        }
    }
    text
}

/// A network namespace with one card, which goes when this is dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let namespace = Namespace(format!("bench{}", std::process::id()));
        quiet(Command::new("ip").args(["netns", "add", &namespace.0]));
        namespace.ip(&["link", "add", "name", "card", "type", "veth", "peer", "name", "far"]);
        namespace
    }

    fn has_vlans(&self) -> bool {
        let add = ["-n", &self.0, "link", "add", "trial", "link", "card", "type", "vlan", "id", "5"];
        let made = Command::new("ip").args(add).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if made {
            self.ip(&["link", "del", "trial"]);
        }
        made
    }

    fn ip(&self, words: &[&str]) {
        quiet(Command::new("ip").args(["-n", &self.0]).args(words));
    }

    /// Runs a program of ours inside.
    fn run(&self, program: &mut Command, word: &str) {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).arg(program.get_program()).arg(word);
        program.get_envs().filter_map(|(key, value)| Some((key, value?))).for_each(|(key, value)| {
            command.env(key, value);
        });
        quiet(&mut command);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn quiet(command: &mut Command) {
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
