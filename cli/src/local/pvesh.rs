//! `pvesh`: every method of the interface on the command line (pve-manager PVE/CLI/pvesh.pm).
//! What `get`, `set`, `create` and `delete` take is what the method on the given path takes.

use super::Row;
use crate::arguments::Definition;
use crate::invocation::Invocation;
use crate::output::{self, Format, Switches, Terminal};
use crate::usage;
use contract::command::Command;
use contract::{Kind, ParameterSet, Route, Schema, Verb};
use engine::{Context, Error, Result, call::config_text};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    row("create", call),
    row("delete", call),
    row("get", call),
    row("set", call),
    Row { tool: "pvesh", words: "ls", run: list, define: Some(define_list) },
    super::command("pvesh", "usage", show_usage),
];

const fn row(words: &'static str, run: super::LocalCommand) -> Row {
    Row { tool: "pvesh", words, run, define: Some(define_call) }
}

/// The commands that call a method, in the order in which `usage` shows them.
const VERBS: [(&str, Verb); 4] =
    [("get", Verb::Get), ("set", Verb::Put), ("create", Verb::Post), ("delete", Verb::Delete)];

/// The positional parameter of all commands.
const PATH: &str = "api_path";

fn define_call(command: &'static Command, _ctx: &Context, line: &[String]) -> Result<Definition> {
    let words = VERBS.iter().find(|(words, _)| std::ptr::eq(row_of(words), command));
    let (words, verb) = words.ok_or_else(|| Error::new("not a command that calls a method"))?;
    let Some(path) = path_word(line) else { return own_definition(command) };
    let route = contract::find(*verb, path).map_err(|_| no_handler(words, path))?;
    Ok(definition_for(command, &route))
}

fn define_list(command: &'static Command, _ctx: &Context, line: &[String]) -> Result<Definition> {
    match path_word(line).map(|path| contract::find(Verb::Get, path)) {
        Some(Ok(route)) => Ok(definition_for(command, &route)),
        // The command itself says that there is no such thing.
        _ => own_definition(command),
    }
}

fn row_of(words: &str) -> &'static Command {
    let tool = contract::command::tool("pvesh").expect("the table of this tool exists");
    &tool.commands[words]
}

/// The word that is the path: the first one, or behind leading options the first one that begins with a slash.
fn path_word(line: &[String]) -> Option<&str> {
    let first = line.first().filter(|word| !word.starts_with('-'));
    first.or_else(|| line.iter().find(|word| word.starts_with('/'))).map(String::as_str)
}

/// The options of the tool itself only.
fn own_definition(command: &'static Command) -> Result<Definition> {
    Definition::of(command, "").map(|definition| Definition {
        set: ParameterSet { parameters: none(), additional_properties: false, schema: None },
        extras: command.parameters.clone().unwrap_or_default(),
        ..definition
    })
}

fn none() -> &'static BTreeMap<String, Schema> {
    static NONE: BTreeMap<String, Schema> = BTreeMap::new();
    &NONE
}

/// The method's parameters besides those of the path, and the options of the tool that the method does not have.
fn definition_for(command: &'static Command, route: &Route) -> Definition {
    let set = ParameterSet::of(route.method);
    let mut extras = command.parameters.clone().unwrap_or_default();
    extras.retain(|name, _| !set.parameters.contains_key(name));
    let fixed = route.path_params.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    Definition {
        set,
        args: vec![PATH.to_owned()],
        args_list: false,
        rest_args: None,
        fixed,
        mapping: BTreeMap::new(),
        extras,
    }
}

fn no_handler(words: &str, path: &str) -> Error {
    Error::new(format!("no '{words}' handler for '{path}'"))
}

fn path_of(invocation: &Invocation) -> Result<String> {
    let path = invocation.extras.get(PATH).or_else(|| invocation.params.get(PATH)).map(config_text);
    path.ok_or_else(|| Error::parameter(PATH, "property is missing and it is not optional"))
}

fn call(invocation: &Invocation) -> Result<ExitCode> {
    let path = path_of(invocation)?;
    let (words, verb) = VERBS.iter().find(|(words, _)| *words == invocation.words).expect("rows are made of verbs");
    let route = contract::find(*verb, &path).map_err(|_| no_handler(words, &path))?;
    let reply = invocation.call(*verb, route.method.template, invocation.params.to_map())?;
    if std::env::args_os().nth(1).is_some_and(|word| word == NO_OUTPUT) {
        return Ok(ExitCode::SUCCESS);
    }
    let data = match &reply.download {
        Some(download) => Value::from(String::from_utf8_lossy(&std::fs::read(&download.path)?).into_owned()),
        None => reply.data,
    };
    let text = output::result(&data, Some(&route.method.returns), None, &invocation.switches())?;
    output::write(&text);
    Ok(ExitCode::SUCCESS)
}

/// An old switch before the command: the result is not printed. Used when a task is started for its log.
const NO_OUTPUT: &str = "--nooutput";

/// Removes the switches that stand before the command in old scripts.
pub fn without_leading_switches(mut words: Vec<String>) -> Vec<String> {
    let old = words.iter().take_while(|word| matches!(word.as_str(), "--noproxy" | NO_OUTPUT)).count();
    words.drain(..old);
    words
}

/// `ls`: what can be done with each child, and its name.
fn list(invocation: &Invocation) -> Result<ExitCode> {
    let path = path_of(invocation)?;
    let route = contract::find(Verb::Get, &path).map_err(|_| Error::new(format!("no such resource '{path}'")))?;
    let member = route.method.child_member();
    let member = member.ok_or_else(|| Error::new(format!("resource '{path}' does not define child links")))?;
    let names = match invocation.call(Verb::Get, route.method.template, invocation.params.to_map()) {
        Ok(reply) => names(&reply.data, member),
        // A directory that nobody answers for: its children are known from the tables all the same.
        Err(Error::NotImplemented(text)) => fixed_children(&path).ok_or(Error::NotImplemented(text))?,
        Err(error) => return Err(error),
    };
    let rows: Vec<Value> = names
        .into_iter()
        .map(|name| json!({"capabilities": capabilities(&format!("{path}/{name}")), "name": name}))
        .collect();
    let switches = invocation.switches();
    let bare =
        Switches { noborder: switches.noborder.or(Some(true)), noheader: switches.noheader.or(Some(true)), ..switches };
    let columns: Option<&[&str]> = if bare.format == Format::Text { Some(&["capabilities", "name"]) } else { None };
    let object = Schema { kind: Some(Kind::Object), ..Schema::default() };
    let schema = Schema { kind: Some(Kind::Array), items: Some(Box::new(object)), ..Schema::default() };
    output::write(&output::rows_as_given(&Terminal::detect(), &Value::from(rows), &schema, columns, &bare)?);
    Ok(ExitCode::SUCCESS)
}

fn names(data: &Value, member: &str) -> Vec<String> {
    let mut names: Vec<String> =
        data.as_array().into_iter().flatten().filter_map(|row| row.get(member)).map(config_text).collect();
    names.sort();
    names
}

fn fixed_children(path: &str) -> Option<Vec<String>> {
    let children = contract::children(path)?;
    let names: Option<Vec<String>> =
        children.iter().map(|child| (!child.variable).then(|| child.name.to_owned())).collect();
    names.filter(|names| !names.is_empty())
}

/// `D` has children, `r` GET, `w` PUT, `c` POST, `d` DELETE.
fn capabilities(path: &str) -> String {
    let found = |verb| contract::find(verb, path).ok();
    let letter = |verb, letter| if found(verb).is_some() { letter } else { '-' };
    let directory = found(Verb::Get).is_some_and(|route| route.method.child_member().is_some());
    [
        if directory { 'D' } else { '-' },
        letter(Verb::Get, 'r'),
        letter(Verb::Put, 'w'),
        letter(Verb::Post, 'c'),
        letter(Verb::Delete, 'd'),
    ]
    .iter()
    .collect()
}

/// `usage`: what the methods on a path take.
fn show_usage(invocation: &Invocation) -> Result<ExitCode> {
    let path = path_of(invocation)?;
    let only = invocation.opt::<String>("command")?;
    let mut text = String::new();
    for (words, verb) in VERBS.iter().filter(|(words, _)| only.as_deref().is_none_or(|only| only == *words)) {
        let Ok(route) = contract::find(*verb, &path) else { continue };
        let definition =
            Definition { args: Vec::new(), extras: BTreeMap::new(), ..definition_for(row_of(words), &route) };
        let prefix = format!("pvesh {words} {path}");
        if invocation.flag("verbose") {
            let doc_of = |name: &str| route.method.parameter_doc(name).map(str::to_owned);
            let doc = route.method.doc.as_deref();
            text.push_str(&usage::description(&prefix, &definition, doc, &doc_of));
        } else {
            text.push_str(&format!("USAGE: {}", usage::line(&prefix, &definition)));
        }
        if invocation.flag("returns") {
            text.push_str(&format!("RETURNS: {}\n", output::json::pretty(&route.method.returns.dump())));
        }
    }
    if text.is_empty() {
        return Err(match only {
            Some(words) => no_handler(&words, &path),
            None => Error::new(format!("no such resource '{path}'")),
        });
    }
    output::write(&text);
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_say_what_can_be_done() {
        for (path, expected) in [
            ("/nodes", "Dr---"),
            ("/version", "-r---"),
            ("/nodes/a/qemu", "Dr-c-"),
            ("/nodes/a/qemu/100/config", "-rwc-"),
            ("/nodes/a/qemu/100", "Dr--d"),
            ("/nowhere", "-----"),
        ] {
            assert_eq!(capabilities(path), expected, "{path}");
        }
    }

    #[test]
    fn the_path_is_found_among_the_words() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(path_word(&words("/version --output-format json")), Some("/version"));
        assert_eq!(path_word(&words("nodes/a")), Some("nodes/a"));
        assert_eq!(path_word(&words("--output-format json /version")), Some("/version"));
        assert_eq!(path_word(&[]), None);
        assert_eq!(without_leading_switches(words("--noproxy --nooutput get /x --noproxy")), words("get /x --noproxy"));
    }
}
