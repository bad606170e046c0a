//! `pveversion`: the version that clients take apart, or every package's.
//! The words and dashes of its one line are read by many scripts: `pve-manager/9.2.11/… (running kernel: …)`.

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use contract::Verb;
use contract::command::MAIN;
use engine::{Result, call::config_text};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[command("pveversion", MAIN, version)];

fn version(invocation: &Invocation) -> Result<ExitCode> {
    let text = if invocation.flag("verbose") {
        let reply = invocation.call(Verb::Get, "/nodes/{node}/apt/versions", Map::new())?;
        packages(&reply.data)
    } else {
        let reply = invocation.call(Verb::Get, "/version", Map::new())?;
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        short(&reply.data, &kernel)
    };
    output::write(&text);
    Ok(ExitCode::SUCCESS)
}

fn short(version: &Value, kernel: &str) -> String {
    let member = |name: &str| version.get(name).map(config_text).unwrap_or_default();
    format!("pve-manager/{}/{} (running kernel: {kernel})\n", member("version"), member("repoid"))
}

/// One line for each package; the kernel and the manager also say what runs. (pve-manager bin/pveversion)
fn packages(list: &Value) -> String {
    let mut text = String::new();
    for package in list.as_array().into_iter().flatten() {
        let member = |name: &str| package.get(name).map(config_text).filter(|text| !text.is_empty());
        let state = member("CurrentState").unwrap_or_default();
        let version = match member("OldVersion") {
            Some(version) if state == "Installed" => version,
            _ if state == "ConfigFiles" => "residual config".to_owned(),
            _ => "not correctly installed".to_owned(),
        };
        let running = member("RunningKernel").map(|kernel| format!(" (running kernel: {kernel})"));
        let running =
            running.or_else(|| member("ManagerVersion").map(|version| format!(" (running version: {version})")));
        let _ = writeln!(text, "{}: {version}{}", member("Package").unwrap_or_default(), running.unwrap_or_default());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_are_those_that_scripts_split() {
        let line = short(&json!({"version": "9.2.11", "release": "9.2", "repoid": "abc"}), "6.1.0");
        assert_eq!(line, "pve-manager/9.2.11/abc (running kernel: 6.1.0)\n");
        let list = json!([
            {"Package": "proxmox-ve", "OldVersion": "9.2.0", "CurrentState": "Installed", "RunningKernel": "6.1.0"},
            {"Package": "pve-manager", "OldVersion": "9.2.11", "CurrentState": "Installed", "ManagerVersion": "9.2.11/abc"},
            {"Package": "ceph", "CurrentState": "NotInstalled"},
            {"Package": "old", "OldVersion": "1", "CurrentState": "ConfigFiles"},
        ]);
        assert_eq!(
            packages(&list),
            "proxmox-ve: 9.2.0 (running kernel: 6.1.0)\npve-manager: 9.2.11 (running version: 9.2.11/abc)\n\
             ceph: not correctly installed\nold: residual config\n"
        );
    }
}
