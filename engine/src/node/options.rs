//! `/nodes/{node}/config`: options of one node, a flat file. (PVE: pve-manager PVE/NodeConfig.pm)

use crate::config::flat::FlatConfig;
use crate::{Call, Context, Error, Reply, Result, file};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Options that are numbers; the others are text.
const NUMBERS: [&str; 2] = ["startall-onboot-delay", "ballooning-target"];
/// Parameters that are no options.
const CONTROLS: [&str; 3] = ["node", "delete", "digest"];

fn path(ctx: &Context) -> PathBuf {
    ctx.root.etc_pve("nodes").join(&ctx.node).join("config")
}

/// Seconds that guests wait for after the node has started.
pub fn start_delay(ctx: &Context) -> Result<u64> {
    let config = FlatConfig::parse(&file::read_or_empty(&path(ctx))?);
    Ok(config.values.get("startall-onboot-delay").and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// How many per cent of the node's memory may be in use before VMs have to give some back.
pub fn ballooning_target(ctx: &Context) -> Result<u64> {
    let config = FlatConfig::parse(&file::read_or_empty(&path(ctx))?);
    Ok(config.values.get("ballooning-target").and_then(|text| text.parse().ok()).unwrap_or(80))
}

/// `GET /nodes/{node}/config`; empty while nothing has been set.
pub fn get(call: &Call) -> Result<Reply> {
    let text = file::read_or_empty(&path(call.ctx))?;
    let mut options = Map::new();
    if !text.is_empty() {
        let config = FlatConfig::parse(&text);
        for (name, text) in config.values {
            let number = text.parse::<i64>().ok().filter(|_| NUMBERS.contains(&name.as_str()));
            options.insert(name, number.map_or_else(|| json!(text), |number| json!(number)));
        }
        if let Some(description) = config.description {
            options.insert("description".into(), json!(description));
        }
        options.insert("digest".into(), json!(file::digest(&text)));
    }
    if let Some(wanted) = call.text("property").filter(|wanted| wanted != "all") {
        options.retain(|name, _| *name == wanted);
    }
    Ok(Reply::from(Value::Object(options)))
}

/// `PUT /nodes/{node}/config`.
pub fn put(call: &Call) -> Result<Reply> {
    let delete: Vec<String> = call.opt("delete")?.unwrap_or_default();
    let seen = call.text("digest");
    file::update(call.ctx, &path(call.ctx), 0o640, |text| {
        file::assert_digest(&file::digest(text), seen.as_deref())?;
        let mut config = FlatConfig::parse(text);
        for name in call.params.keys().filter(|name| !CONTROLS.contains(&name.as_str())) {
            let value = call.text(name).unwrap_or_default();
            if name == "description" {
                config.description = (!value.is_empty()).then_some(value);
            } else if value.contains('\n') {
                return Err(Error::parameter(name, "detected invalid newline inside property"));
            } else {
                config.values.insert(name.clone(), value);
            }
        }
        for name in &delete {
            match name.as_str() {
                "description" => config.description = None,
                name => drop(config.values.remove(name)),
            }
        }
        Ok(config.print())
    })?;
    Ok(Reply::null())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use contract::Verb;

    #[test]
    fn options_read_back_and_an_old_digest_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        std::fs::create_dir_all(path(&ctx).parent().unwrap()).unwrap();
        let ask = |verb, params: Value| {
            let Value::Object(mut params) = params else { panic!("parameters are an object") };
            params.insert("node".into(), "pve1".into());
            registry::run(&ctx, verb, "/nodes/{node}/config", params).map(|reply| reply.data)
        };
        assert_eq!(ask(Verb::Get, json!({})).unwrap(), json!({}));
        ask(Verb::Put, json!({ "description": "rack 3", "startall-onboot-delay": 7 })).unwrap();
        let config = ask(Verb::Get, json!({})).unwrap();
        assert_eq!((&config["description"], &config["startall-onboot-delay"]), (&json!("rack 3\n"), &json!(7)));
        assert_eq!(start_delay(&ctx).unwrap(), 7);
        assert_eq!(ask(Verb::Get, json!({ "property": "description" })).unwrap(), json!({ "description": "rack 3\n" }));
        let stale = ask(Verb::Put, json!({ "delete": "description", "digest": "0".repeat(40) })).unwrap_err();
        assert!(stale.message().starts_with("detected modified configuration"), "{stale}");
        ask(Verb::Put, json!({ "delete": "description", "digest": config["digest"] })).unwrap();
        assert!(ask(Verb::Get, json!({})).unwrap().get("description").is_none());
    }
}
