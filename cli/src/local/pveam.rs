//! Local commands of `pveam`, the tool for container templates: views of the index and of a storage's content.

use super::{Row, command};
use crate::invocation::Invocation;
use crate::output;
use contract::Verb;
use engine::storage::appliance::{self, Recipe};
use engine::{Result, call::config_text};
use serde_json::{Map, Value};
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    command("pveam", "available", available),
    command("pveam", "build", build),
    command("pveam", "list", list),
    command("pveam", "remove", remove),
    command("pveam", "update", update),
];

const CONTENT: &str = "/nodes/{node}/storage/{storage}/content";

/// One line for each template: scripts read the first two columns.
fn available(invocation: &Invocation) -> Result<ExitCode> {
    let section = invocation.opt::<String>("section")?;
    let index = invocation.call(Verb::Get, "/nodes/{node}/aplinfo", Map::new())?.data;
    output::write(&index_lines(&index, section.as_deref()));
    Ok(ExitCode::SUCCESS)
}

fn index_lines(index: &Value, section: Option<&str>) -> String {
    let member = |row: &Value, name: &str| row.get(name).map(config_text).unwrap_or_default();
    let rows = index.as_array().into_iter().flatten();
    let mut rows: Vec<(String, String, String)> = rows
        .map(|row| {
            let architecture = Some(member(row, "architecture")).filter(|text| !text.is_empty());
            (member(row, "section"), member(row, "template"), architecture.unwrap_or_else(|| "unknown".to_owned()))
        })
        .filter(|(row, ..)| section.is_none_or(|section| section == row))
        .collect();
    rows.sort();
    rows.iter()
        .map(|(section, template, architecture)| format!("{section:<15} {template:<60} {architecture}\n"))
        .collect()
}

/// An addition to PVE: a template from a Debian mirror instead of a template server.
fn build(invocation: &Invocation) -> Result<ExitCode> {
    let storage = invocation.opt::<String>("storage")?.unwrap_or_else(|| "local".to_owned());
    let recipe = Recipe { release: invocation.param("release")?, mirror: invocation.opt("mirror")? };
    let file = appliance::build(&invocation.ctx, &storage, &recipe, &mut |line| output::write(&format!("{line}\n")))?;
    output::write(&format!("{storage}:vztmpl/{file}\n"));
    Ok(ExitCode::SUCCESS)
}

/// As with PVE the exit status is good also when an index could not be fetched: its older state stays in use.
fn update(invocation: &Invocation) -> Result<ExitCode> {
    match appliance::update(&invocation.ctx) {
        Ok(()) => output::write("update successful\n"),
        Err(error) => {
            eprintln!("update failed - see /var/log/pveam.log for details");
            eprintln!("{}", error.message());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(invocation: &Invocation) -> Result<ExitCode> {
    let params = Map::from_iter([
        ("storage".to_owned(), invocation.param::<Value>("storage")?),
        ("content".to_owned(), Value::from("vztmpl")),
    ]);
    let templates = invocation.call(Verb::Get, CONTENT, params)?;
    invocation.print(templates)?;
    Ok(ExitCode::SUCCESS)
}

fn remove(invocation: &Invocation) -> Result<ExitCode> {
    let volume = invocation.param::<String>("template_path")?;
    let id: engine::storage::VolumeId = volume.parse().map_err(engine::Error::new)?;
    let params = Map::from_iter([
        ("storage".to_owned(), Value::from(id.storage.to_string())),
        ("volume".to_owned(), Value::from(volume)),
    ]);
    invocation.call(Verb::Delete, &format!("{CONTENT}/{{volume}}"), params)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::index_lines;
    use serde_json::json;

    #[test]
    fn sections_and_templates_are_the_first_two_columns() {
        let index = json!([
            {"section": "turnkeylinux", "template": "debian-11-turnkey-x_17.1-1_amd64.tar.gz", "architecture": "amd64"},
            {"section": "system", "template": "alpine-3.22.tar.xz"},
        ]);
        let lines = index_lines(&index, None);
        assert!(lines.starts_with("system          alpine-3.22.tar.xz   "), "{lines}");
        assert!(lines.lines().next().unwrap().ends_with(" unknown") && lines.lines().count() == 2);
        assert_eq!(index_lines(&index, Some("mail")), "");
    }
}
