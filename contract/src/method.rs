//! Methods of the interface: what a verb on a path takes, answers and demands.
//! Owns the typed table of methods and its decoding on demand.

use crate::permission::Permission;
use crate::schema::{self, Schema};
use crate::table::{self, METHODS, NODES};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

/// The four verbs of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Reads.
    Get,
    /// Creates, or starts an action.
    Post,
    /// Changes.
    Put,
    /// Removes.
    Delete,
}

impl Verb {
    /// All verbs in the order of the tables.
    pub const ALL: [Verb; 4] = [Verb::Get, Verb::Post, Verb::Put, Verb::Delete];

    /// The verb as it is written in a request line.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Get => "GET",
            Verb::Post => "POST",
            Verb::Put => "PUT",
            Verb::Delete => "DELETE",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text is none of the four verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a verb of the interface")]
pub struct UnknownVerb;

impl FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        Verb::ALL.into_iter().find(|verb| verb.name() == text).ok_or(UnknownVerb)
    }
}

/// One method.
#[derive(Debug, Clone)]
pub struct Method {
    /// The verb.
    pub verb: Verb,
    /// The path with `{name}` placeholders.
    pub template: &'static str,
    /// Name of the handler; empty for the two methods for which none is known.
    pub name: String,
    /// Our own sentence about it.
    pub doc: Option<String>,
    /// Needs the privileged daemon.
    pub protected: bool,
    /// The parameter that names the node which must answer.
    pub proxyto: Option<String>,
    /// The node which must answer is computed by the handler's area.
    pub proxyto_callback: bool,
    /// Tokens may call it; otherwise tickets only.
    pub allowtoken: bool,
    /// May answer with a file.
    pub download: bool,
    /// The handler calls other nodes with the caller's credentials.
    pub expose_credentials: bool,
    /// Who may call it; `None` is `root@pam` only.
    pub permissions: Option<Permission>,
    /// The declared parameters; `net[n]` stands for all numbers of its range, see [`Method::parameter`].
    pub parameters: BTreeMap<String, Schema>,
    /// Other parameters are let through.
    pub additional_properties: bool,
    /// The nested schema of parameter sets that depend on a type; `parameters` is its flat view.
    pub parameters_schema: Option<Schema>,
    /// The answer.
    pub returns: Schema,
}

/// A method as `data/methods` writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    name: Option<String>,
    doc: Option<String>,
    protected: bool,
    proxyto: Option<String>,
    #[serde(default)]
    proxyto_callback: bool,
    allowtoken: bool,
    #[serde(default)]
    download: bool,
    #[serde(default)]
    expose_credentials: bool,
    permissions: Option<Permission>,
    #[serde(rename = "additionalProperties")]
    additional_properties: bool,
    parameters: BTreeMap<String, Schema>,
    parameters_schema: Option<Schema>,
    returns: Schema,
}

impl Method {
    /// The declaration of a parameter; `net7` finds `net[n]`.
    pub fn parameter(&self, name: &str) -> Option<&Schema> {
        schema::lookup(&self.parameters, name)
    }

    /// The declaration of a member of the answer; `net7` finds `net[n]`.
    pub fn returned(&self, name: &str) -> Option<&Schema> {
        schema::lookup(self.returns.properties.as_ref()?, name)
    }

    /// Our own sentence about a parameter: its own, that of a few paths with the same meaning, or that of its name.
    pub fn parameter_doc(&self, name: &str) -> Option<&str> {
        let own = self.parameters.get(name).or_else(|| self.parameter(name));
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
        let key = if self.parameters.contains_key(name) { name.to_owned() } else { format!("{stem}[n]") };
        own.and_then(|schema| schema.doc.as_deref()).or_else(|| docs().find(self.template, &key))
    }

    /// The member of an index row that holds the child's path component.
    pub fn child_member(&self) -> Option<&str> {
        let link = self.returns.links.iter().find(|link| link.rel == "child")?;
        link.href.strip_prefix('{')?.strip_suffix('}')
    }
}

/// Our own sentences about parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Docs {
    /// By name, where it means the same everywhere.
    parameters: BTreeMap<String, String>,
    scopes: Vec<Scope>,
}

/// Sentences that hold for a few paths.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scope {
    paths: Vec<String>,
    parameters: BTreeMap<String, String>,
}

impl Docs {
    fn find(&self, template: &str, name: &str) -> Option<&str> {
        let here = self.scopes.iter().filter(|scope| scope.paths.iter().any(|path| path == template));
        let scoped = here.filter_map(|scope| scope.parameters.get(name)).next();
        scoped.or_else(|| self.parameters.get(name)).map(String::as_str)
    }
}

fn docs() -> &'static Docs {
    static DOCS: OnceLock<Docs> = OnceLock::new();
    DOCS.get_or_init(|| table::record(&table::SINGLE, "docs").expect("the table is packed by build.rs"))
}

/// All methods in the order of their paths; nothing is decoded.
pub fn methods() -> impl ExactSizeIterator<Item = (Verb, &'static str)> {
    METHODS.iter().map(|row| (Verb::ALL[row.verb as usize], NODES[row.node as usize].template))
}

/// The method of a path template, such as `/nodes/{node}/qemu/{vmid}`.
pub fn method(verb: Verb, template: &str) -> Option<&'static Method> {
    let row = METHODS
        .binary_search_by(|row| (NODES[row.node as usize].template, row.verb).cmp(&(template, verb as u8)))
        .ok()?;
    Some(decoded(row))
}

/// The method in a row of the table, decoded at its first use.
pub(crate) fn decoded(row: usize) -> &'static Method {
    static CACHE: [OnceLock<Method>; METHODS.len()] = [const { OnceLock::new() }; METHODS.len()];
    CACHE[row].get_or_init(|| {
        let place = &METHODS[row];
        let template = NODES[place.node as usize].template;
        let record: Record = table::decode(template, place.start, place.end);
        Method {
            verb: Verb::ALL[place.verb as usize],
            template,
            name: record.name.unwrap_or_default(),
            doc: record.doc,
            protected: record.protected,
            proxyto: record.proxyto,
            proxyto_callback: record.proxyto_callback,
            allowtoken: record.allowtoken,
            download: record.download,
            expose_credentials: record.expose_credentials,
            permissions: record.permissions,
            parameters: record.parameters,
            additional_properties: record.additional_properties,
            parameters_schema: record.parameters_schema,
            returns: record.returns,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_decodes_and_is_found_by_its_template() {
        assert_eq!(methods().len(), 681);
        for (verb, template) in methods() {
            let method = method(verb, template).unwrap_or_else(|| panic!("{verb} {template}"));
            assert_eq!((method.verb, method.template), (verb, template));
        }
        assert!(method(Verb::Put, "/version").is_none());
        assert!(method(Verb::Get, "/nodes/{other}").is_none());
    }

    #[test]
    fn sentences_are_found_by_path_and_name() {
        let create = method(Verb::Post, "/nodes/{node}/qemu").expect("listed");
        assert_eq!(create.parameter_doc("name"), Some("Name of the virtual machine."));
        assert_eq!(create.parameter_doc("net3"), create.parameter_doc("net[n]"));
        assert!(create.doc.is_some() && create.parameter_doc("net3").is_some());
        let alias = method(Verb::Post, "/cluster/firewall/aliases").expect("listed");
        assert_eq!(alias.parameter_doc("name"), None, "the name means something else there");
        for scope in &docs().scopes {
            for path in &scope.paths {
                assert!(methods().any(|(_, template)| template == path), "{path} is no path");
            }
        }
    }

    #[test]
    fn verbs_read_back() {
        for verb in Verb::ALL {
            assert_eq!(verb.to_string().parse(), Ok(verb));
        }
        assert_eq!("HEAD".parse::<Verb>(), Err(UnknownVerb));
    }
}
