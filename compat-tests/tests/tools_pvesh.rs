//! `pvesh` on the whole tree of the interface.

#![allow(clippy::unwrap_used, reason = "a panic is a test's report")]

use compat_tests::Node;
use serde_json::Value;

#[test]
fn results_have_all_forms() {
    let node = Node::without_daemons();
    let version: Value = serde_json::from_str(&node.run("pvesh", &["get", "/version", "--output=json"]).ok()).unwrap();
    let number = version["version"].as_str().unwrap();
    let table = node.run("pvesh", &["get", "version"]).ok();
    assert!(table.starts_with("+---") && table.contains(&format!("| version | {number}")), "{table}");
    let plain = node.run("pvesh", &["get", "/version", "--noborder", "--noheader"]).ok();
    assert!(plain.lines().any(|line| line == format!("version {number}")), "{plain}");
    let pretty = node.run("pvesh", &["get", "/version", "--output-format", "json-pretty"]).ok();
    assert!(pretty.contains(&format!("\n   \"version\" : \"{number}\"\n")), "{pretty}");
    let yaml = node.run("pvesh", &["get", "--output-format", "yaml", "/version"]).ok();
    assert!(yaml.starts_with("---\n") && yaml.contains(&format!("version: {number}\n")), "{yaml}");
    assert_eq!(node.run("pvesh", &["get", "/version", "--quiet"]).ok(), "");
    assert_eq!(node.run("pvesh", &["--nooutput", "get", "/version"]).ok(), "");
    assert_eq!(node.run("pvesh", &["get", "/cluster/nextid"]).ok(), "100\n");
}

#[test]
fn tables_are_boxes_where_the_terminal_can_draw_them() {
    let node = Node::without_daemons();
    let output = node.program("pvesh").args(["get", "/version"]).env("LC_ALL", "C.UTF-8").output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.starts_with("┌─") && table.contains("│ version │"), "{table}");
}

#[test]
fn version_line_splits_as_scripts_split_it() {
    let node = Node::without_daemons();
    let line = node.run("pveversion", &[] as &[&str]).ok();
    let fields: Vec<&str> = line.split('/').collect();
    assert_eq!(fields[0], "pve-manager");
    assert!(fields[1].starts_with("9."), "{line}");
    assert!(line.ends_with(")\n") && line.contains(" (running kernel: "), "{line}");
}

#[test]
fn handlers_and_resources_that_do_not_exist() {
    let node = Node::without_daemons();
    for (words, expected) in [
        (&["get", "/nowhere"][..], "no 'get' handler for '/nowhere'\n"),
        (&["delete", "/version"], "no 'delete' handler for '/version'\n"),
        (&["ls", "/nowhere"], "no such resource '/nowhere'\n"),
        (&["ls", "/version"], "resource '/version' does not define child links\n"),
        (&["usage", "/nowhere"], "no such resource '/nowhere'\n"),
        (&["usage", "/version", "--command", "set"], "no 'set' handler for '/version'\n"),
    ] {
        let ran = node.run("pvesh", words);
        assert_eq!((ran.code, ran.stderr.as_str(), ran.stdout.as_str()), (255, expected, ""), "{words:?}");
    }
    let refused = node.run("pvesh", &["create", "/access/users"]);
    let first = refused.stderr.lines().next();
    assert_eq!((refused.code, first), (255, Some("400 Parameter verification failed.")), "{refused:?}");
    assert!(refused.stderr.contains("\nuserid: property is missing and it is not optional\n"), "{refused:?}");
}

#[test]
fn usage_tells_parameters_and_results() {
    let node = Node::without_daemons();
    let short = node.run("pvesh", &["usage", "/nodes/localhost/qemu/100/status/start"]).ok();
    assert!(short.starts_with("USAGE: pvesh create /nodes/localhost/qemu/100/status/start  [OPTIONS]\n"), "{short}");
    let long = node.run("pvesh", &["usage", "/version", "-v", "-returns"]).ok();
    assert!(long.contains("\nRETURNS: {\n   \"properties\" : {\n"), "{long}");
}

/// Walks from the root along everything that says it has children.
#[test]
fn the_tree_can_be_walked() {
    let node = Node::without_daemons();
    let mut open = vec![String::new()];
    let (mut directories, mut leaves, mut unbuilt) = (0, 0, Vec::new());
    while let Some(path) = open.pop() {
        let listed = node.run("pvesh", &["ls", &format!("{path}/")]);
        if listed.code != 0 {
            let missing_package = listed.stderr.contains(" - please install the package '");
            assert!(listed.stderr.starts_with("501 ") || missing_package, "{path}: {listed:?}");
            unbuilt.push(path);
            continue;
        }
        assert_eq!(listed.stderr, "", "{path}");
        directories += 1;
        for line in listed.stdout.lines() {
            let (letters, name) = line.split_at(13);
            let letters = letters.trim_end();
            assert_eq!(letters.len(), 5, "{path}: {line}");
            match letters.starts_with('D') {
                // What belongs to tasks, files and devices of this machine is not walked.
                true if !matches!(name, "tasks" | "hardware" | "services") => open.push(format!("{path}/{name}")),
                _ => leaves += 1,
            }
        }
    }
    assert!(directories > 20 && leaves > 100, "{directories} directories, {leaves} leaves; not built: {unbuilt:?}");
}
