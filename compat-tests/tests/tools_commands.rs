//! Every command of every tool: it is known, it explains itself, and it refuses what it cannot do in PVE's words.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::{Node, Ran};
use std::collections::BTreeSet;

/// The programs whose commands are tested; daemons have tests of their own.
const WITH_SUB_COMMANDS: &[&str] = &[
    "qm",
    "pct",
    "pvesh",
    "pvesm",
    "pveum",
    "pvenode",
    "pvecm",
    "pveam",
    "pvesr",
    "pvesubscription",
    "pveceph",
    "ha-manager",
    "pve-firewall",
    "pve-network-interface-pinning",
];

const SINGLE: &[&str] = &["vzdump", "qmrestore", "pve8to9", "pveversion", "pveperf", "pvereport", "pveupgrade"];

/// The words of all commands, from the tool's own list.
fn commands(node: &Node, tool: &str) -> BTreeSet<String> {
    let list = node.run(tool, &["help"]).ok();
    let lines = list.lines().filter_map(|line| line.strip_prefix("       ")?.strip_prefix(tool));
    let words = |line: &str| {
        let words: Vec<&str> =
            line.split_whitespace().take_while(|word| !word.starts_with(['<', '[', '{', '-'])).collect();
        words.join(" ")
    };
    lines.map(words).collect()
}

fn split(words: &str) -> Vec<&str> {
    words.split(' ').collect()
}

#[test]
fn every_command_explains_itself() {
    let node = Node::without_daemons();
    let mut count = 0;
    for tool in WITH_SUB_COMMANDS {
        for words in commands(&node, tool).iter().filter(|words| *words != "help") {
            count += 1;
            let usage = format!("USAGE: {tool} {words} ");
            let helped = node.run(tool, &[&["help"], split(words).as_slice()].concat()).ok();
            assert!(helped.starts_with(&usage), "{tool} help {words}: {helped}");
            let asked = node.run(tool, &[split(words).as_slice(), &["--help"]].concat()).ok();
            assert_eq!(asked, helped, "{tool} {words} --help");
        }
    }
    assert!(count > 220, "only {count} commands");
    for tool in SINGLE {
        let helped = node.run(tool, &["--help"]).ok();
        assert!(helped.starts_with(&format!("USAGE: {tool} ")), "{tool}: {helped}");
    }
}

#[test]
fn every_command_refuses_an_option_it_does_not_have() {
    let node = Node::without_daemons();
    for tool in WITH_SUB_COMMANDS.iter().filter(|tool| **tool != "pvesh") {
        for words in commands(&node, tool).iter().filter(|words| *words != "help") {
            let refused = node.run(tool, &[split(words).as_slice(), &["--no-such-option", "1"]].concat());
            let expected = format!("Unknown option: no-such-option\n400 unable to parse option\n{tool} {words} ");
            assert!(refused.code == 255 && refused.stderr.starts_with(&expected), "{tool} {words}: {refused:?}");
            assert_eq!(refused.stdout, "", "{tool} {words}");
        }
    }
}

#[test]
fn unknown_and_incomplete_commands_show_the_list() {
    let node = Node::without_daemons();
    for (tool, words, reason) in [
        ("qm", &["frobnicate"][..], "unknown command 'qm frobnicate'"),
        ("qm", &[], "no command specified"),
        ("qm", &["disk"], "incomplete command 'qm disk'"),
        ("pct", &["s"], "unknown command 'pct s'"),
        ("pveum", &["user", "frobnicate"], "unknown command 'pveum user frobnicate'"),
    ] {
        let ran = node.run(tool, words);
        let expected = format!("ERROR: {reason}\nUSAGE: {tool} <COMMAND> [ARGS] [OPTIONS]\n\n       {tool} ");
        assert!(ran.code == 255 && ran.stderr.starts_with(&expected), "{tool} {words:?}: {ran:?}");
        assert_eq!(ran.stdout, "");
    }
}

#[test]
fn wrong_parameters_are_listed_above_the_usage_line() {
    let node = Node::without_daemons();
    let said = |ran: Ran| {
        assert_eq!((ran.code, ran.stdout.as_str()), (255, ""));
        ran.stderr
    };
    assert_eq!(said(node.run("qm", &["config"])), "400 not enough arguments\nqm config <vmid> [OPTIONS]\n");
    assert_eq!(said(node.run("qm", &["config", "1", "2"])), "400 too many arguments\nqm config <vmid> [OPTIONS]\n");
    assert_eq!(
        said(node.run("qm", &["config", "x"])),
        "400 Parameter verification failed.\nvmid: type check ('integer') failed - got 'x'\nqm config <vmid> [OPTIONS]\n"
    );
    assert_eq!(
        said(node.run("qm", &["set", "100", "--onboot", "maybe"])),
        "400 unable to parse boolean option\nqm set <vmid> [OPTIONS]\n"
    );
    assert_eq!(
        said(node.run("qm", &["set", "100", "--cores", "0", "-memory", "512", "--sockets=x"])),
        "400 Parameter verification failed.\ncores: value must have a minimum value of 1\n\
         sockets: type check ('integer') failed - got 'x'\nqm set <vmid> [OPTIONS]\n"
    );
    assert_eq!(
        said(node.run("pveum", &["user", "list", "--output-format", "xml"])),
        "400 Parameter verification failed.\noutput-format: value 'xml' does not have a value in the enumeration \
         'text, json, json-pretty, yaml'\npveum user list  [OPTIONS] [FORMAT_OPTIONS]\n"
    );
}

#[test]
fn what_is_not_built_says_so() {
    let node = Node::without_daemons();
    for (tool, words) in [("pve8to9", &[][..]), ("pvecm", &["qdevice", "remove"]), ("pveceph", &["status"])] {
        let ran = node.run(tool, words);
        assert!(
            ran.code == 255 && ran.stderr.starts_with("501 ") && ran.stdout.is_empty(),
            "{tool} {words:?}: {ran:?}"
        );
    }
}

#[test]
fn shells_can_complete() {
    let node = Node::without_daemons();
    for shell in ["bash", "zsh", "fish"] {
        let script = node.run("qm", &["completion", shell]).ok();
        assert!(script.contains("scsihw") && script.contains("listsnapshot"), "{shell}");
    }
    let mut asking = node.program("qm");
    asking.args(["bashcomplete", "qm", "--sc", "100"]).env("COMP_LINE", "qm set 100 --sc").env("COMP_POINT", "15");
    let answer = String::from_utf8(asking.output().unwrap().stdout).unwrap();
    assert!(answer.contains("--scsihw\n") && answer.contains("--scsi30\n") && !answer.contains("--memory"), "{answer}");
}
