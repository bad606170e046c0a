//! The methods on a machine whose apt is played.

use super::*;
use crate::registry;
use crate::tool::script::Script;
use contract::Verb;
use std::sync::Arc;

const FILES: &str = " 500 http://deb/debian bookworm/main amd64 Packages\n     release v=12,o=Debian,a=stable\n";

fn policy(name: &str, old: &str, new: &str) -> String {
    format!(
        "{name}:\n  Installed: {old}\n  Candidate: {new}\n  Version table:\n     {new} 500\n        \
         500 http://deb/debian bookworm/main amd64 Packages\n *** {old} 100\n        100 /var/lib/dpkg/status\n"
    )
}

/// A machine with an update of `bash` that needs `libnew`, and a held `held`.
fn machine() -> Arc<Script> {
    let script = Script::new();
    let known = "bash\t5.2-1\tii \nheld\t1\thi \nlibc6:amd64\t2.36\tii \nold\t1\trc \n";
    script.answer("dpkg-query", known);
    script.answer("apt-cache policy", FILES);
    script.answer("apt-cache policy -- bash", &(policy("bash", "5.2-1", "5.2-2") + &policy("libc6", "2.36", "2.36")));
    script.answer("apt-cache policy -- libnew", &policy("libnew", "(none)", "1.0"));
    script.answer(
        "apt-get --simulate",
        "Inst bash [5.2-1] (5.2-2 Debian:12/stable [amd64])\nInst libnew (1.0 x [all])\n",
    );
    script.answer(
        "apt-cache show",
        "Package: bash\nVersion: 5.2-2\nSection: shells\nPriority: required\nArchitecture: amd64\n\
         Description-en: a shell\n It reads\n .\n and runs.\nPackage: libnew\nVersion: 1.0\nArchitecture: all\n",
    )
}

fn ask(ctx: &Context, verb: Verb, path: &str, params: Value) -> Result<Value> {
    let Value::Object(mut params) = params else { panic!("parameters are an object") };
    params.insert("node".into(), json!("pve1"));
    registry::run(ctx, verb, &format!("/nodes/{{node}}/apt/{path}"), params).map(|reply| reply.data)
}

#[test]
fn updates_are_those_that_apt_would_install() {
    let directory = tempfile::tempdir().unwrap();
    let script = machine();
    let ctx = script.context(directory.path());
    let rows = ask(&ctx, Verb::Get, "update", json!({})).unwrap();
    assert_eq!(
        rows[0],
        json!({"Package": "bash", "Title": "a shell", "Description": "It reads . and runs.", "Origin": "Debian",
            "Section": "shells", "Priority": "required", "Arch": "amd64", "Version": "5.2-2", "OldVersion": "5.2-1"})
    );
    assert_eq!((&rows[1]["Package"], rows[1].get("OldVersion")), (&json!("libnew"), None));
    assert_eq!(rows.as_array().unwrap().len(), 2);
    assert_eq!(read_cache(&ctx).unwrap(), rows);
}

#[test]
fn a_refresh_goes_through_the_proxy_of_the_datacenter() {
    let directory = tempfile::tempdir().unwrap();
    let script = machine();
    let ctx = script.context(directory.path());
    crate::node::setup::ensure(&ctx).unwrap();
    std::fs::write(ctx.root.etc_pve("datacenter.cfg"), "http_proxy: http://10.0.0.1:3128\n").unwrap();
    script.take();
    ask(&ctx, Verb::Post, "update", json!({"quiet": true})).unwrap();
    assert!(script.take().contains("apt/apt.conf.d/76pveproxy apt-get update\ndpkg-query "));
    let written = std::fs::read_to_string(ctx.root.path("/etc/apt/apt.conf.d/76pveproxy")).unwrap();
    assert_eq!(written, "Acquire::http::Proxy \"http://10.0.0.1:3128\";\n");
    script.fail("apt-get update", "E: no network");
    let error = ask(&ctx, Verb::Post, "update", json!({"quiet": true})).unwrap_err();
    assert_eq!(error.message(), "command 'apt-get' failed: E: no network");
}

#[test]
fn versions_begin_with_what_we_stand_for() {
    let directory = tempfile::tempdir().unwrap();
    let script = Script::new();
    script.answer("dpkg-query", "lvm2\t2.03\tii \n");
    script.answer("apt-cache policy", FILES);
    let policies =
        policy("lvm2", "2.03", "2.04") + &policy("corosync", "(none)", "3.1") + &policy("criu", "(none)", "3");
    script.answer("apt-cache policy --", &policies);
    let ctx = script.context(directory.path());
    let rows = ask(&ctx, Verb::Get, "versions", json!({})).unwrap();
    let of = |name: &str| rows.as_array().unwrap().iter().find(|row| row["Package"] == name).cloned();
    assert_eq!((&rows[0]["Package"], &rows[1]["Package"]), (&json!("proxmox-ve"), &json!("pve-manager")));
    assert!(rows[1]["ManagerVersion"].as_str().unwrap().starts_with(VERSION));
    let lvm = of("lvm2").unwrap();
    assert_eq!(
        (&lvm["OldVersion"], &lvm["Version"], &lvm["CurrentState"]),
        (&json!("2.03"), &json!("2.04"), &json!("Installed"))
    );
    assert_eq!(of("corosync").unwrap()["CurrentState"], "NotInstalled");
    assert_eq!(of("criu"), None);
}

#[test]
fn a_change_log_that_is_not_there_says_how_apt_ended() {
    let directory = tempfile::tempdir().unwrap();
    let script = Script::new();
    script.fail("apt-get changelog -qq -- bash=1", "E: not found");
    let ctx = script.context(directory.path());
    let text = ask(&ctx, Verb::Get, "changelog", json!({"name": "bash", "version": "1"})).unwrap();
    assert_eq!(text, "E: not found\nRC: 5");
}
