//! `/nodes/{node}/services`: the services that PVE's interface knows, as systemd sees them.
//! (PVE: pve-manager PVE/API2/Services.pm)

use crate::tool::{QUESTION, Tool};
use crate::{Call, Context, Reply, Result, bail};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// Services whose end would take the interface away.
const ESSENTIAL: [&str; 3] = ["pvedaemon", "pve-cluster", "pveproxy"];

/// What is asked of each unit.
const PROPERTIES: &str = "Description,LoadState,ActiveState,SubState,UnitFileState,Type,Result";

/// What systemd says of one unit.
type Unit = HashMap<String, String>;

/// `GET /nodes/{node}/services`; empty on a machine without systemd.
pub fn list(call: &Call) -> Result<Reply> {
    let names = names();
    let units = units(call.ctx, &names);
    let rows = names.iter().zip(&units).filter(|(_, unit)| unit.contains_key("Description"));
    Ok(Reply::from(rows.map(|(name, unit)| row(name, unit)).collect::<Value>()))
}

/// `GET /nodes/{node}/services/{service}/state`.
pub fn state(call: &Call) -> Result<Reply> {
    let name: String = call.param("service")?;
    let unit = units(call.ctx, &[&name]).pop().unwrap_or_default();
    Ok(Reply::from(row(&name, &unit)))
}

/// `POST /nodes/{node}/services/{service}/start`.
pub fn start(call: &Call) -> Result<Reply> {
    command(call, "srvstart", "start")
}

/// `POST /nodes/{node}/services/{service}/stop`.
pub fn stop(call: &Call) -> Result<Reply> {
    command(call, "srvstop", "stop")
}

/// `POST /nodes/{node}/services/{service}/restart`.
pub fn restart(call: &Call) -> Result<Reply> {
    command(call, "srvrestart", "restart")
}

/// `POST /nodes/{node}/services/{service}/reload`.
pub fn reload(call: &Call) -> Result<Reply> {
    command(call, "srvreload", "try-reload-or-restart")
}

fn command(call: &Call, kind: &str, verb: &str) -> Result<Reply> {
    let name: String = call.param("service")?;
    call.task(kind, &name, |task| {
        if verb == "stop" && ESSENTIAL.contains(&name.as_str()) {
            bail!("invalid service cmd '{name} {verb}': refusing to stop essential service!");
        }
        let prefix = call.ctx.root.prefix();
        if !prefix.as_os_str().is_empty() {
            bail!("unable to {verb} '{name}': the node lies below '{}' and is not the machine", prefix.display());
        }
        Tool::new("systemctl").args([verb, name.as_str()]).run_logged(call.ctx, &mut |line| task.log(line))
    })
}

/// All services that the contract names, sorted.
fn names() -> Vec<&'static str> {
    let state = contract::method(contract::Verb::Get, "/nodes/{node}/services/{service}/state");
    let names = state.and_then(|method| method.parameter("service")?.enumeration.as_ref());
    let mut names: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
    names.sort_unstable();
    names
}

/// One answer for each name; empty ones when systemd does not answer.
fn units(ctx: &Context, names: &[&str]) -> Vec<Unit> {
    let tool =
        Tool::new("systemctl").args(["show", "--all", "--property", PROPERTIES, "--"]).args(names.iter().copied());
    let text = tool.within(QUESTION).read(ctx).unwrap_or_default();
    let mut units: Vec<Unit> = Vec::new();
    // Each unit has all properties in the same order, so one that comes again begins the next.
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match units.last_mut() {
            Some(unit) if !unit.contains_key(key) => drop(unit.insert(key.into(), value.into())),
            _ => units.push(Unit::from_iter([(key.into(), value.into())])),
        }
    }
    units.resize(names.len(), Unit::new());
    units
}

fn row(name: &str, unit: &Unit) -> Value {
    let get = |key: &str| unit.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let mut row = Map::new();
    row.insert("service".into(), json!(name));
    row.insert("name".into(), json!(name));
    // As systemd does where it knows no better.
    row.insert("desc".into(), json!(unit.get("Description").map_or(name, String::as_str)));
    let state = match (get("SubState"), get("Type"), get("Result")) {
        // A service of one shot that has ended is as good as its result.
        (Some("dead"), Some("oneshot"), Some(result)) => result,
        (state, ..) => state.unwrap_or("unknown"),
    };
    row.insert("state".into(), json!(state));
    let is_missing = get("LoadState") == Some("not-found");
    let file = if is_missing { "not-found" } else { get("UnitFileState").unwrap_or("unknown") };
    row.insert("unit-state".into(), json!(file));
    row.insert("active-state".into(), json!(get("ActiveState").unwrap_or("unknown")));
    Value::Object(row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use crate::tool::script::Script;
    use contract::Verb;

    fn ask(ctx: &Context, verb: Verb, path: &str, service: &str) -> Result<Value> {
        let mut params = Map::from_iter([("node".to_owned(), json!("pve1"))]);
        if !service.is_empty() {
            params.insert("service".into(), json!(service));
        }
        registry::run(ctx, verb, &format!("/nodes/{{node}}/services{path}"), params).map(|reply| reply.data)
    }

    #[test]
    fn units_are_told_apart_by_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new();
        let text = "Type=simple\nResult=success\nDescription=NTP client\nLoadState=loaded\nActiveState=active\n\
            SubState=running\nUnitFileState=enabled\nType=\nResult=success\nDescription=corosync.service\n\
            LoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n";
        script.answer("systemctl show", text);
        let ctx = script.context(directory.path());
        let rows = ask(&ctx, Verb::Get, "", "").unwrap();
        assert_eq!(rows.as_array().unwrap().len(), 2, "{rows}");
        assert_eq!(
            rows[0],
            json!({"service": "chrony", "name": "chrony", "desc": "NTP client", "state": "running",
                "unit-state": "enabled", "active-state": "active"})
        );
        assert_eq!(rows[1]["unit-state"], "not-found");
        assert!(script.take().starts_with("systemctl show --all --property Description,LoadState"));
        let one = Unit::from_iter(
            [("SubState", "dead"), ("Type", "oneshot"), ("Result", "exit-code")].map(|(k, v)| (k.into(), v.into())),
        );
        assert_eq!(row("x", &one)["state"], "exit-code");
    }

    #[test]
    fn without_systemd_nothing_is_known() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new();
        script.fail("systemctl", "System has not been booted with systemd");
        let ctx = script.context(directory.path());
        assert_eq!(ask(&ctx, Verb::Get, "", "").unwrap(), json!([]));
        let state = ask(&ctx, Verb::Get, "/{service}/state", "cron").unwrap();
        assert_eq!(
            state,
            json!({"service": "cron", "name": "cron", "desc": "cron", "state": "unknown",
                "unit-state": "unknown", "active-state": "unknown"})
        );
    }

    #[test]
    fn what_carries_the_interface_is_not_stopped_and_a_folder_has_no_services() {
        let directory = tempfile::tempdir().unwrap();
        let script = Script::new();
        let ctx = script.context(directory.path());
        crate::node::setup::ensure(&ctx).unwrap();
        script.take();
        let essential = ask(&ctx, Verb::Post, "/{service}/stop", "pveproxy").unwrap_err();
        assert_eq!(essential.message(), "invalid service cmd 'pveproxy stop': refusing to stop essential service!");
        let other = ask(&ctx, Verb::Post, "/{service}/restart", "cron").unwrap_err();
        assert!(other.message().starts_with("unable to restart 'cron'"), "{other}");
        assert_eq!(script.take(), "");
    }
}
