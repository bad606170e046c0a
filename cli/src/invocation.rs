//! A command that is about to run: what a local command gets to see, and its way to methods and to the terminal.

use crate::output::{self, Switches};
use crate::printers::{self, Printer};
use contract::Verb;
use contract::command::{Command, OutputKind};
use engine::{Context, Params, Reply, Result, registry};
use serde_json::{Map, Value};
use std::ops::Deref;

/// A command line that was understood, with everything it needs to run.
pub struct Invocation {
    /// The node, as `root@pam`, with tasks in the foreground.
    pub ctx: Context,
    /// The tool's name.
    pub tool: &'static str,
    /// The words of the command as the table writes them; `(main)` for a tool of one command.
    pub words: &'static str,
    /// The row of the table.
    pub command: &'static Command,
    /// Its parameters, preset ones included.
    pub params: Params,
    /// Verified values for the tool itself, the output switches among them.
    pub extras: Map<String, Value>,
}

impl Deref for Invocation {
    type Target = Params;

    fn deref(&self) -> &Params {
        &self.params
    }
}

impl Invocation {
    /// Runs a method of the interface; a node is added where the method wants one.
    pub fn call(&self, verb: Verb, template: &str, params: Map<String, Value>) -> Result<Reply> {
        self.answer(verb, template, params).map(Reply::with_data)
    }

    /// The same; a long list may still be text.
    pub fn answer(&self, verb: Verb, template: &str, mut params: Map<String, Value>) -> Result<Reply> {
        if template.contains("{node}") {
            params.entry("node").or_insert_with(|| Value::from(self.ctx.node.as_str()));
        }
        registry::answer(&self.ctx, verb, template, params)
    }

    /// The output switches of the command line.
    pub fn switches(&self) -> Switches {
        Switches::read(&self.extras)
    }

    /// Prints a result in the way that the table gives for this command.
    pub fn print(&self, reply: Reply) -> Result<()> {
        let text = match (printers::find(self.tool, self.words), &reply.text) {
            (Some(Printer::Long(printer)), Some(text)) => printer(text.get())?,
            (Some(Printer::Long(printer)), None) => printer(&reply.data.to_string())?,
            (Some(Printer::Values(printer)), _) => printer(&reply.with_data().data, self)?,
            (None, _) => self.default_text(&reply.with_data().data)?,
        };
        output::write(&text);
        Ok(())
    }

    fn default_text(&self, data: &Value) -> Result<String> {
        match self.command.output.kind {
            OutputKind::Formatted => {
                let method = self.command.method();
                let schema = self.command.returns.as_ref().or(method.map(|method| &method.returns));
                output::result(data, schema, None, &self.switches())
            }
            OutputKind::Json => Ok(output::json::pretty(data)),
            OutputKind::JsonOrPlain => Ok(output::json::pretty_or_plain(data)),
            OutputKind::Plain | OutputKind::Lines => Ok(printers::plain(data)),
            _ => Ok(String::new()),
        }
    }
}
