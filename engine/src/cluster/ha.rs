//! `/cluster/ha`: what is read of high availability. A node alone manages no resource, so nothing here can be created;
//! files that came from elsewhere are shown as they stand. (PVE: pve-ha-manager PVE/API2/HA/*.pm)

use crate::config::section::SectionConfig;
use crate::{Call, Context, Reply, Result, bail, file};
use serde_json::{Map, Value, json};

/// Options that are numbers.
const NUMBERS: [&str; 6] = ["max_restart", "max_relocate", "failback", "nofailback", "restricted", "disable"];

/// `GET /cluster/ha/resources`.
pub fn resources(call: &Call) -> Result<Reply> {
    let kind = call.text("type");
    let mut rows = sections(call.ctx, "resources", "sid")?;
    rows.retain(|row| kind.as_ref().is_none_or(|kind| row["type"] == kind.as_str()));
    Ok(Reply::from(Value::from(rows)))
}

/// `GET /cluster/ha/resources/{sid}`; a guest's number alone stands for the guest.
pub fn resource(call: &Call) -> Result<Reply> {
    let sid: String = call.param("sid")?;
    let is_meant = |row: &Map<String, Value>| {
        let own = row["sid"].as_str().unwrap_or_default();
        own == sid || own.split_once(':').is_some_and(|(_, number)| number == sid)
    };
    match sections(call.ctx, "resources", "sid")?.into_iter().find(is_meant) {
        Some(row) => Ok(Reply::from(Value::Object(row))),
        None => bail!("no such resource '{sid}'"),
    }
}

/// `GET /cluster/ha/groups`.
pub fn groups(call: &Call) -> Result<Reply> {
    Ok(Reply::from(Value::from(sections(call.ctx, "groups", "group")?)))
}

/// `GET /cluster/ha/rules`.
pub fn rules(call: &Call) -> Result<Reply> {
    Ok(Reply::from(Value::from(sections(call.ctx, "rules", "rule")?)))
}

/// `GET /cluster/ha/status/current`: a node alone always agrees with itself, and has no master.
pub fn status(call: &Call) -> Result<Reply> {
    let node = &call.ctx.node;
    Ok(Reply::from(json!([{ "id": "quorum", "type": "quorum", "node": node, "status": "OK", "quorate": 1 }])))
}

/// The sections of a file as objects; `id` names the member that holds the section's id.
fn sections(ctx: &Context, name: &str, id: &str) -> Result<Vec<Map<String, Value>>> {
    let text = file::read_or_empty(&ctx.root.etc_pve(&format!("ha/{name}.cfg")))?;
    let digest = file::digest(&text);
    let row = |(key, section): (&String, &crate::config::section::Section)| {
        let mut row = Map::new();
        for (option, text) in &section.values {
            let number = text.parse::<i64>().ok().filter(|_| NUMBERS.contains(&option.as_str()));
            row.insert(option.clone(), number.map_or_else(|| json!(text), |number| json!(number)));
        }
        // The id of a resource has its type in front, which the file's headers say anyway.
        let key = if id == "sid" { format!("{}:{key}", section.kind) } else { key.clone() };
        row.insert(id.to_owned(), json!(key));
        row.insert("type".into(), json!(section.kind));
        row.insert("digest".into(), json!(digest));
        row
    };
    Ok(SectionConfig::parse(&text).sections.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;
    use contract::Verb;

    #[test]
    fn a_node_alone_has_no_resources_and_shows_those_of_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let ctx = Context::for_test(directory.path());
        let ask = |path: &str, params: Value| {
            let Value::Object(params) = params else { panic!("parameters are an object") };
            registry::run(&ctx, Verb::Get, path, params).map(|reply| reply.data)
        };
        assert_eq!(ask("/cluster/ha/resources", json!({})).unwrap(), json!([]));
        let missing = ask("/cluster/ha/resources/{sid}", json!({ "sid": "vm:100" })).unwrap_err();
        assert_eq!(missing.message(), "no such resource 'vm:100'");
        std::fs::create_dir_all(ctx.root.etc_pve("ha")).unwrap();
        std::fs::write(ctx.root.etc_pve("ha/resources.cfg"), "vm: 100\n\tstate started\n\tmax_restart 2\n").unwrap();
        for sid in ["vm:100", "100"] {
            let row = ask("/cluster/ha/resources/{sid}", json!({ "sid": sid })).unwrap();
            assert_eq!((&row["sid"], &row["max_restart"]), (&json!("vm:100"), &json!(2)));
        }
        assert_eq!(ask("/cluster/ha/resources", json!({ "type": "ct" })).unwrap(), json!([]));
        assert_eq!(ask("/cluster/ha/status/current", json!({})).unwrap()[0]["quorate"], 1);
    }
}
