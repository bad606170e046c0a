//! From a command line to verified parameters: which options a command takes, which words stand by position, which
//! values are preset. Owns the rules of pve-common PVE/JSONSchema.pm `get_options`; every name comes from the contract.

use crate::mapping::{self, Mapping};
use crate::options::{self, Acceptance, Given, OptionTable, ValueMode};
use contract::command::Command;
use contract::{Kind, ParamErrors, ParameterSet, Schema};
use engine::{Error, Result};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What a command takes from its command line.
pub struct Definition {
    /// The parameters, checked together.
    pub set: ParameterSet<'static>,
    /// Parameters by position.
    pub args: Vec<String>,
    /// The one positional parameter takes all words.
    pub args_list: bool,
    /// The positional parameter that takes all further words.
    pub rest_args: Option<String>,
    /// Preset parameters; they are no options.
    pub fixed: BTreeMap<String, Value>,
    /// Parameters whose value stands in a file or is asked for.
    pub mapping: BTreeMap<String, Mapping>,
    /// Options and words for the tool itself, checked on their own.
    pub extras: BTreeMap<String, Schema>,
}

/// A command line that was understood.
#[derive(Debug, Default)]
pub struct Arguments {
    /// Verified parameters.
    pub params: Map<String, Value>,
    /// Verified values for the tool itself.
    pub extras: Map<String, Value>,
}

/// What a command line asks for.
pub enum Request {
    /// Run the command.
    Run(Arguments),
    /// Explain the command.
    Help,
}

impl Definition {
    /// The definition of a row of the table. `node` is the name of this node.
    pub fn of(command: &'static Command, node: &str) -> Result<Definition> {
        let set = command.parameter_set().ok_or_else(|| Error::new("the command takes nothing that is known"))?;
        let local = |value: &Value| if value == "@localnode" { Value::from(node) } else { value.clone() };
        let mut extras = if command.output_options.is_empty() { BTreeMap::new() } else { crate::output::options() };
        extras.retain(|name, _| !set.parameters.contains_key(name));
        Ok(Definition {
            args: command.args.clone(),
            args_list: command.args_list,
            rest_args: command.rest_args.clone(),
            fixed: command.fixed.iter().map(|(name, value)| (name.clone(), local(value))).collect(),
            mapping: mapping::read(&command.value_mapping)?,
            set,
            extras,
        })
    }

    /// The declaration of a parameter or of an option for the tool itself.
    pub fn parameter(&self, name: &str) -> Option<&Schema> {
        contract::lookup(self.set.parameters, name).or_else(|| self.extras.get(name))
    }

    /// Reads a command line.
    pub fn parse(&self, line: &[String]) -> Result<Request> {
        let parsed = options::parse(&self.option_table(), line);
        if parsed.help {
            return Ok(Request::Help);
        }
        if !parsed.complaints.is_empty() {
            for complaint in &parsed.complaints {
                eprintln!("{complaint}");
            }
            return Err(refused("unable to parse option"));
        }
        let mut values: BTreeMap<String, Value> =
            parsed.options.into_iter().map(|(name, given)| (name, value_of(given))).collect();
        self.take_words(parsed.words, &mut values)?;
        self.ask(&mut values)?;
        let (extras, mut params): (Map<_, _>, Map<_, _>) =
            values.into_iter().map(|(name, value)| (name.clone(), self.joined(&name, value))).partition_extras(self);
        for (name, value) in &self.fixed {
            params.insert(name.clone(), value.clone());
        }
        let own = ParameterSet { parameters: &self.extras, additional_properties: false, schema: None };
        let extras = contract::verify_set_cli(&own, extras)?;
        for (name, mapping) in &self.mapping {
            if let Some(Value::String(text)) = params.get(name) {
                let content = mapping.content(text)?;
                params.insert(name.clone(), Value::String(content));
            }
        }
        let params = contract::verify_set_cli(&self.set, params)?;
        Ok(Request::Run(Arguments { params, extras }))
    }

    /// All options; positional parameters may be given as options, too.
    pub fn option_table(&self) -> OptionTable {
        let mut table = OptionTable::new();
        let listed = if self.args_list { self.args.first() } else { None };
        for (name, schema) in self.set.parameters.iter().chain(&self.extras) {
            let acceptance = self.acceptance(name, schema);
            match (schema.index, name.strip_suffix("[n]")) {
                (Some(range), Some(stem)) => {
                    table.extend((range.min..=range.max).map(|number| (format!("{stem}{number}"), acceptance)));
                }
                _ if Some(name) == listed => {}
                _ => {
                    table.insert(name.clone(), acceptance);
                }
            }
        }
        table.retain(|name, _| !self.fixed.contains_key(name));
        table
    }

    fn acceptance(&self, name: &str, schema: &Schema) -> Acceptance {
        let asked = self.mapping.get(name).is_some_and(Mapping::is_asked);
        let alternatives = std::iter::once(schema).chain(schema.one_of.iter().flatten());
        let repeats = |schema: &Schema| schema.is_list() || schema.kind == Some(Kind::Array);
        let value = if asked || schema.kind == Some(Kind::Boolean) { ValueMode::Optional } else { ValueMode::Required };
        Acceptance { value, repeats: value == ValueMode::Required && alternatives.into_iter().any(repeats) }
    }

    /// Gives the words to the positional parameters. Too few or too many are refused.
    fn take_words(&self, words: Vec<String>, values: &mut BTreeMap<String, Value>) -> Result<()> {
        if self.args_list {
            if let Some(name) = self.args.first()
                && !words.is_empty()
            {
                values.insert(name.clone(), Value::from(words));
            }
            return Ok(());
        }
        let mut words = words.into_iter();
        for name in &self.args {
            if Some(name) == self.rest_args.as_ref() {
                values.insert(name.clone(), Value::from(words.by_ref().collect::<Vec<String>>()));
            } else if let Some(word) = words.next() {
                values.insert(name.clone(), Value::String(word));
            } else if self.parameter(name).is_some_and(|schema| !schema.optional) {
                return Err(refused("not enough arguments"));
            }
        }
        if words.next().is_some() {
            return Err(refused("too many arguments"));
        }
        Ok(())
    }

    /// Asks for secrets that were named without a value, or that are required and were not named.
    fn ask(&self, values: &mut BTreeMap<String, Value>) -> Result<()> {
        for (name, mapping) in self.mapping.iter().filter(|(_, mapping)| mapping.is_asked()) {
            let required = self.parameter(name).is_some_and(|schema| !schema.optional);
            let given = values.get(name).and_then(Value::as_str).map(str::to_owned);
            if given.is_some() || required {
                values.insert(name.clone(), Value::String(mapping.answer(given.as_deref())?));
            }
        }
        Ok(())
    }

    /// Lists that are text in the interface: `--vmid 100 --vmid 101` is `100,101`.
    fn joined(&self, name: &str, value: Value) -> Value {
        match (self.parameter(name), value) {
            (Some(schema), Value::Array(list)) if schema.is_list() && schema.kind != Some(Kind::Array) => {
                let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                Value::String(texts.join(","))
            }
            (_, value) => value,
        }
    }
}

/// A 400 without bad parameters: the line itself cannot be read.
fn refused(text: &str) -> Error {
    Error::Parameters(ParamErrors::with_headline(text))
}

fn value_of(given: Given) -> Value {
    match given {
        Given::One(value) => Value::String(value),
        Given::Many(values) => Value::from(values),
    }
}

trait PartitionExtras {
    /// Splits values into those for the tool itself and those for the method.
    fn partition_extras(self, definition: &Definition) -> (Map<String, Value>, Map<String, Value>);
}

impl<I: Iterator<Item = (String, Value)>> PartitionExtras for I {
    fn partition_extras(self, definition: &Definition) -> (Map<String, Value>, Map<String, Value>) {
        self.partition(|(name, _)| definition.extras.contains_key(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::command::tool;
    use proptest::prelude::*;

    fn definition(name: &str, words: &str) -> Definition {
        Definition::of(tool(name).unwrap().command(words).unwrap(), "pve1").unwrap()
    }

    fn parsed(tool: &str, words: &str, line: &[&str]) -> String {
        let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        match definition(tool, words).parse(&line) {
            Ok(Request::Run(Arguments { params, extras })) if extras.is_empty() => Value::Object(params).to_string(),
            Ok(Request::Run(Arguments { params, extras })) => {
                format!("{} / {}", Value::Object(params), Value::Object(extras))
            }
            Ok(Request::Help) => "help".to_owned(),
            Err(Error::Parameters(errors)) => errors.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn positions_presets_and_types() {
        for (tool, words, line, expected) in [
            ("qm", "config", &["100"][..], r#"{"node":"pve1","vmid":100}"#),
            ("qm", "config", &[], "400 not enough arguments\n"),
            ("qm", "config", &["100", "101"], "400 too many arguments\n"),
            ("qm", "config", &["--vmid", "100"], "400 not enough arguments\n"),
            ("qm", "config", &["100", "--current"], r#"{"current":true,"node":"pve1","vmid":100}"#),
            ("qm", "config", &["100", "-current", "off"], r#"{"current":false,"node":"pve1","vmid":100}"#),
            ("qm", "config", &["100", "--current", "maybe"], "400 unable to parse boolean option\n"),
            ("qm", "config", &["100", "--node", "x"], "400 unable to parse option\n"),
            (
                "qm",
                "config",
                &["abc"],
                "400 Parameter verification failed.\nvmid: type check ('integer') failed - got 'abc'\n",
            ),
            ("qm", "config", &["100", "--help"], "help"),
            (
                "qm",
                "set",
                &["100", "--delete", "net0", "--delete", "net1"],
                r#"{"delete":"net0,net1","node":"pve1","vmid":100}"#,
            ),
            ("vzdump", "(main)", &["100", "101"], r#"{"vmid":"100,101"}"#),
            (
                "pveum",
                "acl modify",
                &["/"],
                "400 Parameter verification failed.\nroles: property is missing and it is not optional\n",
            ),
            ("pct", "exec", &["100", "--", "ls", "-la"], r#"{"extra-args":["ls","-la"],"vmid":100}"#),
            ("pct", "exec", &["100"], r#"{"extra-args":[],"vmid":100}"#),
            (
                "pveum",
                "user list",
                &["--output=json", "--noborder"],
                r#"{} / {"noborder":true,"output-format":"json"}"#,
            ),
        ] {
            assert_eq!(parsed(tool, words, line), expected, "{tool} {words} {line:?}");
        }
    }

    #[test]
    fn every_command_of_every_tool_has_a_definition() {
        for name in contract::command::tools() {
            for words in tool(name).unwrap().commands.keys() {
                let definition = definition(name, words);
                for option in definition.option_table().keys() {
                    assert!(definition.parameter(option).is_some(), "{name} {words} --{option}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_line_makes_parsing_panic(
            line in proptest::collection::vec("(--?)?(net0|memory|onboot|x|100|)(=[a-z0-9,=]*)?", 0..5),
        ) {
            let _ = definition("qm", "showcmd").parse(&line);
            let _ = definition("qm", "sendkey").parse(&line);
            let _ = definition("pct", "exec").parse(&line);
        }
    }
}
