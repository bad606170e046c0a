//! `POST /nodes/{node}/execute`: several methods below the node's path in one request, each with its own answer.
//! (PVE: pve-manager PVE/API2/Nodes.pm, execute)

use crate::{Call, Error, Reply, Request, Result, registry};
use contract::Verb;
use serde_json::{Map, Value, json};

/// Runs the commands in order. One that fails does not keep the others from running.
pub fn execute(call: &Call) -> Result<Reply> {
    let text: String = call.param("commands")?;
    let commands: Vec<Value> = serde_json::from_str(&text)
        .map_err(|error| Error::parameter("commands", format!("not a JSON array of commands: {error}")))?;
    let answers = commands.iter().map(|command| match one(call, command) {
        Ok(data) => json!({ "status": 200, "data": data }),
        Err(error) => {
            let mut answer = json!({ "status": error.status(), "message": format!("{}\n", error.message()) });
            if let Some(errors) = error.parameter_errors() {
                answer["errors"] = errors.iter().map(|(path, text)| (path.to_owned(), json!(text))).collect();
            }
            answer
        }
    });
    Ok(Reply::from(answers.collect::<Value>()))
}

fn one(call: &Call, command: &Value) -> Result<Value> {
    let path = format!("/nodes/{}/{}", call.ctx.node, command["path"].as_str().unwrap_or_default());
    let missing = || Error::new(format!("no handler for '{}'", path.trim_start_matches('/')));
    let verb: Verb = command["method"].as_str().and_then(|name| name.parse().ok()).ok_or_else(missing)?;
    contract::find(verb, &path).map_err(|_| missing())?;
    let params = match command.get("args") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params.clone(),
        Some(_) => return Err(Error::parameter("commands", "arguments are no object")),
    };
    let request = Request { verb, path, params };
    registry::dispatch(call.ctx, Some(call.ctx.caller.id()), request).map(|reply| reply.with_data().data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Context;

    #[test]
    fn each_command_has_its_answer() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        crate::node::setup::ensure(&ctx).unwrap();
        let commands = json!([
            {"method": "GET", "path": "version"},
            {"method": "GET", "path": "nowhere"},
            {"method": "PUT", "path": "config", "args": {"description": "x", "bogus": 1}},
            {"method": "PUT", "path": "config", "args": {"description": "x"}},
        ]);
        let params = Map::from_iter([("node".into(), json!("pve1")), ("commands".into(), json!(commands.to_string()))]);
        let answers = registry::run(&ctx, Verb::Post, "/nodes/{node}/execute", params).unwrap().data;
        assert_eq!((&answers[0]["status"], &answers[0]["data"]["release"]), (&json!(200), &json!("9.2")));
        assert_eq!(answers[1], json!({"status": 500, "message": "no handler for 'nodes/pve1/nowhere'\n"}));
        assert_eq!((&answers[2]["status"], answers[2]["errors"]["bogus"].is_string()), (&json!(400), true));
        assert_eq!(answers[3], json!({"status": 200, "data": null}));
    }
}
