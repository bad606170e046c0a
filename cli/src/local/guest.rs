//! Local commands that virtual machines and containers share.

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output::{self, Switches};
use contract::Verb;
use engine::{Result, call::config_text};
use serde_json::{Map, Value};
use std::fmt::Write;
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[command("pct", "status", container_status), command("qm", "status", vm_status)];

fn vm_status(invocation: &Invocation) -> Result<ExitCode> {
    let status = current(invocation, "/nodes/{node}/qemu/{vmid}/status/current")?;
    // The tool asks the VM itself, and that knows nothing of what the interface adds.
    let skipped = ["agent", "clipboard", "cpu", "ha", "relcpu", "spice"];
    print(invocation, &status, status.get("qmpstatus").or_else(|| status.get("status")), &skipped);
    Ok(ExitCode::SUCCESS)
}

fn container_status(invocation: &Invocation) -> Result<ExitCode> {
    let status = current(invocation, "/nodes/{node}/lxc/{vmid}/status/current")?;
    print(invocation, &status, status.get("status"), &["cpu"]);
    Ok(ExitCode::SUCCESS)
}

fn current(invocation: &Invocation, template: &str) -> Result<Map<String, Value>> {
    let vmid = invocation.param::<Value>("vmid")?;
    let params = Map::from_iter([("vmid".to_owned(), vmid)]);
    let reply = invocation.call(Verb::Get, template, params)?;
    Ok(reply.data.as_object().cloned().unwrap_or_default())
}

/// `status: running`, or with `--verbose` everything that is known.
fn print(invocation: &Invocation, status: &Map<String, Value>, state: Option<&Value>, skipped: &[&str]) {
    let mut text = String::new();
    if invocation.flag("verbose") {
        let mut members: Vec<(&String, &Value)> = status.iter().collect();
        members.sort_by_key(|(name, _)| *name);
        for (name, value) in members.into_iter().filter(|(name, _)| !skipped.contains(&name.as_str())) {
            nested(&mut text, "", Some(name), value);
        }
    } else {
        let state = state.map_or_else(|| "unknown".to_owned(), config_text);
        let _ = writeln!(text, "status: {state}");
    }
    output::write(&text);
}

/// Members of members stand indented below their name; elements of lists have none. (qemu-server PVE/CLI/qm.pm)
fn nested(text: &mut String, indent: &str, name: Option<&str>, value: &Value) {
    let deeper = format!("{indent}\t");
    let title = |text: &mut String| {
        if let Some(name) = name {
            let _ = writeln!(text, "{indent}{name}:");
        }
    };
    match value {
        Value::Null => {}
        Value::Object(members) => {
            title(text);
            let mut members: Vec<(&String, &Value)> = members.iter().collect();
            members.sort_by_key(|(name, _)| *name);
            members.into_iter().for_each(|(name, value)| nested(text, &deeper, Some(name), value));
        }
        Value::Array(list) => {
            title(text);
            list.iter().for_each(|value| nested(text, &deeper, None, value));
        }
        scalar => {
            let name = name.map(|name| format!("{name}: ")).unwrap_or_default();
            let _ = writeln!(text, "{indent}{name}{}", output::cell(scalar, None, &Switches::default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::nested;
    use serde_json::json;

    #[test]
    fn nested_members_are_indented() {
        let mut text = String::new();
        nested(&mut text, "", Some("ballooninfo"), &json!({"max": 5, "list": [{"x": true}, "y"], "none": null}));
        assert_eq!(text, "ballooninfo:\n\tlist:\n\t\t\tx: 1\n\t\ty\n\tmax: 5\n");
    }
}
