//! Usage texts: the one line below a refused command, and the long form with every option
//! (pve-common PVE/RESTHandler.pm `getopt_usage`). Sentences about options are the contract's own.

use crate::arguments::Definition;
use crate::mapping::Mapping;
use contract::command::MAIN;
use contract::{Kind, Schema};
use std::fmt::Write;

/// The words before the arguments: `qm disk move`, `vzdump`.
pub fn prefix(tool: &str, words: &str) -> String {
    if words == MAIN { tool.to_owned() } else { format!("{tool} {words}") }
}

/// The usage line, its line break included. Required options follow the positional ones.
pub fn line(prefix: &str, definition: &Definition) -> String {
    let mut parts: Vec<String> = definition.args.iter().filter_map(|name| positional(definition, name)).collect();
    let options = options(definition);
    parts.extend(options.iter().filter(|(_, schema)| is_required(schema)).map(|(name, schema)| {
        format!("--{name} <{}>", if schema.one_of.is_some() { "multiple" } else { kind_name(schema) })
    }));
    let mut text = format!("{prefix} {}", parts.join(" "));
    if !options.is_empty() {
        text.push_str(" [OPTIONS]");
    }
    if definition.extras.contains_key("output-format") {
        text.push_str(" [FORMAT_OPTIONS]");
    }
    text.push('\n');
    text
}

fn positional(definition: &Definition, name: &str) -> Option<String> {
    let schema = definition.parameter(name)?;
    Some(match schema {
        _ if schema.is_list() => format!("{{<{name}>}}"),
        _ if schema.optional => format!("[<{name}>]"),
        _ => format!("<{name}>"),
    })
}

/// Everything that is shown as an option, in order: indexed options stand once, secrets that are asked for anyway do not.
fn options(definition: &Definition) -> Vec<(&str, &Schema)> {
    let own = crate::output::options();
    let is_switch = |name: &str| own.contains_key(name) && definition.extras.contains_key("output-format");
    definition
        .set
        .parameters
        .iter()
        .chain(&definition.extras)
        .map(|(name, schema)| (name.as_str(), schema))
        .filter(|(name, _)| !definition.args.iter().any(|arg| arg == name))
        .filter(|(name, _)| !definition.fixed.contains_key(*name) && !is_switch(name))
        .filter(|(name, schema)| schema.optional || !definition.mapping.get(*name).is_some_and(Mapping::is_asked))
        .collect()
}

fn is_required(schema: &Schema) -> bool {
    let is_chosen_by_type = schema.instance_types.is_some() || schema.one_of.iter().flatten().any(|one| one.optional);
    !schema.optional && schema.alias.is_none() && !is_chosen_by_type
}

fn kind_name(schema: &Schema) -> &'static str {
    schema.kind.unwrap_or(Kind::String).name()
}

/// The usage line and a paragraph for each argument and option.
pub fn description(
    prefix: &str,
    definition: &Definition,
    doc: Option<&str>,
    doc_of: &dyn Fn(&str) -> Option<String>,
) -> String {
    let mut text = format!("USAGE: {}", line(prefix, definition));
    if let Some(doc) = doc {
        let _ = write!(text, "\n{}\n\n", wrapped("  ", doc));
    }
    let described = |name: &str, schema: &Schema, style: &str| {
        let doc = schema.doc.clone().or_else(|| doc_of(name));
        paragraph(definition, name, schema, style, doc.as_deref())
    };
    for name in &definition.args {
        if let Some(schema) = definition.parameter(name) {
            text.push_str(&described(name, schema, "fixed"));
        }
    }
    for (name, schema) in options(definition) {
        let alternatives = schema.one_of.as_deref().unwrap_or(std::slice::from_ref(schema));
        let paragraphs: Vec<String> = alternatives.iter().map(|one| described(name, one, "arg")).collect();
        text.push_str(&paragraphs.join("  or\n\n"));
    }
    text
}

fn paragraph(definition: &Definition, name: &str, schema: &Schema, style: &str, doc: Option<&str>) -> String {
    let shown = if style == "arg" { format!("--{name}") } else { format!("<{name}>") };
    let mapped = definition.mapping.get(name).map(|mapping| mapping.type_text().to_owned());
    let type_text = mapped.unwrap_or_else(|| type_text(schema));
    let default = schema
        .default
        .as_ref()
        .map(|value| format!("   (default={})", crate::output::cell(value, None, &crate::output::Switches::default())));
    let mut text = format!("  {shown:<10} {type_text}{}\n\n", default.unwrap_or_default());
    let indent = " ".repeat(13);
    if let Some(doc) = doc {
        let _ = write!(text, "{}\n\n", wrapped(&indent, doc));
    }
    if let Some(required) = &schema.requires {
        let _ = write!(text, "{}\n\n", wrapped(&indent, &format!("Requires option(s): {required}")));
    }
    text
}

/// How the type of a value is written. (pve-common PVE/JSONSchema.pm `schema_get_type_text`)
fn type_text(schema: &Schema) -> String {
    let kind = kind_name(schema);
    if let Some(text) = &schema.typetext {
        return text.clone();
    }
    if let Some(words) = &schema.enumeration {
        let mut words = words.clone();
        words.sort();
        return format!("<{}>", words.join(" | "));
    }
    if let Some(pattern) = &schema.pattern {
        return pattern.clone();
    }
    if let Some(target) = &schema.alias {
        return format!("<alias to '{target}'>");
    }
    if matches!(schema.kind, Some(Kind::Integer | Kind::Number)) {
        return match (&schema.minimum, &schema.maximum) {
            (Some(minimum), Some(maximum)) => format!("<{kind}> ({minimum} - {maximum})"),
            (Some(minimum), None) => format!("<{kind}> ({minimum} - N)"),
            (None, Some(maximum)) => format!("<{kind}> (-N - {maximum})"),
            (None, None) => format!("<{kind}>"),
        };
    }
    format!("<{kind}>")
}

/// Words in lines of at most 75 columns, each behind the indentation.
fn wrapped(indent: &str, text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 75 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{indent}{word}")),
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::command::tool;

    fn usage(name: &str, words: &str) -> String {
        let definition = Definition::of(tool(name).unwrap().command(words).unwrap(), "pve1").unwrap();
        line(&prefix(name, words), &definition)
    }

    #[test]
    fn usage_lines() {
        for (tool, words, expected) in [
            ("qm", "create", "qm create <vmid> [OPTIONS]\n"),
            ("qm", "list", "qm list  [OPTIONS]\n"),
            ("qm", "monitor", "qm monitor <vmid>\n"),
            ("qm", "unlink", "qm unlink <vmid> --idlist <string> [OPTIONS]\n"),
            ("qm", "guest passwd", "qm guest passwd <vmid> <username> [OPTIONS]\n"),
            ("pct", "exec", "pct exec <vmid> [<extra-args>] [OPTIONS]\n"),
            ("vzdump", "(main)", "vzdump {<vmid>} [OPTIONS]\n"),
            ("pveum", "acl list", "pveum acl list  [FORMAT_OPTIONS]\n"),
            ("pveum", "acl modify", "pveum acl modify <path> --roles <string> [OPTIONS]\n"),
        ] {
            assert_eq!(usage(tool, words), expected);
        }
    }

    #[test]
    fn every_command_can_be_described() {
        for name in contract::command::tools() {
            for (words, command) in &tool(name).unwrap().commands {
                let definition = Definition::of(command, "pve1").unwrap();
                let text = description(&prefix(name, words), &definition, None, &|_| None);
                assert!(text.starts_with("USAGE: "), "{name} {words}");
            }
        }
    }

    #[test]
    fn long_texts_are_wrapped() {
        let text = wrapped("  ", &"word ".repeat(40));
        assert!(text.lines().all(|line| line.starts_with("  word") && line.len() <= 75));
        assert!(text.lines().count() > 2);
    }
}
