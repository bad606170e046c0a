//! From a request path to a method (pve-common PVE/RESTHandler.pm `map_path_to_methods`, `find_handler`).
//! Owns the walk through the tree of paths; does not look at parameters besides those in the path.

use crate::method::{self, Method, Verb};
use crate::table::{NODES, NONE, Node};
use std::collections::BTreeMap;

/// A method and the parameters that its path carried.
#[derive(Debug, Clone)]
pub struct Route {
    /// The method.
    pub method: &'static Method,
    /// Values of the `{name}` placeholders, decoded.
    pub path_params: BTreeMap<String, String>,
}

/// Why no method answers to a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// Neither path nor verb is known; clients see 501 and this text.
    #[error("Method '{verb} {path}' not implemented")]
    NotImplemented {
        /// The verb of the request.
        verb: Verb,
        /// The decoded path of the request.
        path: String,
    },
}

/// A child of a path, for index handlers and listings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child {
    /// The path component, or the placeholder's name without braces.
    pub name: &'static str,
    /// Any text may stand in its place.
    pub variable: bool,
    /// The child's template.
    pub template: &'static str,
    /// The verbs that it answers to.
    pub verbs: Vec<Verb>,
    /// There are paths below it.
    pub has_children: bool,
}

/// Finds the method for a request path as it follows `/api2/FORMAT`, still percent-encoded.
///
/// The path is decoded before it is split, so that an encoded slash separates components as a plain one does.
/// Doubled and trailing slashes do not count. A placeholder takes any component without white space.
pub fn find(verb: Verb, path: &str) -> Result<Route, RouteError> {
    let decoded = percent_decode(path);
    let missing = |path: &str| RouteError::NotImplemented { verb, path: path.to_owned() };
    let Some(decoded) = decoded else {
        return Err(missing(path));
    };
    let mut path_params = BTreeMap::new();
    let node = walk(&decoded, |name, value| {
        path_params.insert(name.to_owned(), value.to_owned());
    })
    .ok_or_else(|| missing(&decoded))?;
    match node.methods[verb as usize] {
        NONE => Err(missing(&decoded)),
        row => Ok(Route { method: method::decoded(row as usize), path_params }),
    }
}

/// The children of a path, given as a template or as a real path; `None` if there is no such path.
pub fn children(path: &str) -> Option<Vec<Child>> {
    let node = walk(&percent_decode(path)?, |_, _| {})?;
    let child = |name: &'static str, variable: bool, index: u16| {
        let node = &NODES[index as usize];
        Child {
            name,
            variable,
            template: node.template,
            verbs: verbs(node),
            has_children: !node.fixed.is_empty() || node.variable.is_some(),
        }
    };
    let fixed = node.fixed.iter().map(|(name, index)| child(name, false, *index));
    Some(fixed.chain(node.variable.iter().map(|(name, index)| child(name, true, *index))).collect())
}

/// The template and the verbs of a path, given as a template or as a real path.
pub fn resolve(path: &str) -> Option<(&'static str, Vec<Verb>)> {
    let node = walk(&percent_decode(path)?, |_, _| {})?;
    Some((node.template, verbs(node)))
}

fn verbs(node: &Node) -> Vec<Verb> {
    Verb::ALL.into_iter().filter(|verb| node.methods[*verb as usize] != NONE).collect()
}

fn walk(path: &str, mut found: impl FnMut(&'static str, &str)) -> Option<&'static Node> {
    let components: Vec<&str> = path.split('/').filter(|component| !component.is_empty()).collect();
    let mut node = &NODES[0];
    let mut at = 0;
    while let Some(component) = components.get(at) {
        if let Some((name, index)) = node.variable {
            let rest;
            let value = if node.swallows {
                rest = components[at..].join("/");
                at = components.len();
                rest.as_str()
            } else {
                at += 1;
                component
            };
            if value.contains(char::is_whitespace) {
                return None;
            }
            found(name, value);
            node = &NODES[index as usize];
        } else {
            let place = node.fixed.binary_search_by(|(name, _)| (*name).cmp(component)).ok()?;
            node = &NODES[node.fixed[place].1 as usize];
            at += 1;
        }
    }
    Some(node)
}

/// Decodes `%XX`; a percent sign without two hex digits stands for itself. `None` if the result is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(route: &Route) -> Vec<(&str, &str)> {
        route.path_params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    #[test]
    fn paths_find_their_methods() {
        for (path, template, expected) in [
            ("/", "/", vec![]),
            ("", "/", vec![]),
            ("/version", "/version", vec![]),
            ("//nodes///a//qemu/100/", "/nodes/{node}/qemu/{vmid}", vec![("node", "a"), ("vmid", "100")]),
            ("/access/users/root%40pam", "/access/users/{userid}", vec![("userid", "root@pam")]),
            (
                "/nodes/a/storage/local/content/local:iso%2Fx.iso",
                "/nodes/{node}/storage/{storage}/content/{volume}",
                vec![("node", "a"), ("storage", "local"), ("volume", "local:iso/x.iso")],
            ),
            (
                "/nodes/a/storage/local/content/local:iso/x.iso",
                "/nodes/{node}/storage/{storage}/content/{volume}",
                vec![("node", "a"), ("storage", "local"), ("volume", "local:iso/x.iso")],
            ),
            (
                "/cluster/firewall/ipset/s/10.0.0.0/8",
                "/cluster/firewall/ipset/{name}/{cidr}",
                vec![("cidr", "10.0.0.0/8"), ("name", "s")],
            ),
            ("/nodes/50%/status", "/nodes/{node}/status", vec![("node", "50%")]),
        ] {
            let route = find(Verb::Get, path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(route.method.template, template);
            assert_eq!(params(&route), expected, "{path}");
        }
    }

    #[test]
    fn unknown_paths_and_verbs_are_not_implemented() {
        for (verb, path) in [
            (Verb::Get, "/nope"),
            (Verb::Get, "/version/more"),
            (Verb::Put, "/version"),
            (Verb::Get, "/nodes/a b/status"),
            (Verb::Get, "/nodes/%20/status"),
            (Verb::Get, "/nodes/%ff/status"),
        ] {
            assert!(find(verb, path).is_err(), "{verb} {path}");
        }
        let error = find(Verb::Get, "/x%41").unwrap_err();
        assert_eq!(error.to_string(), "Method 'GET /xA' not implemented");
    }

    #[test]
    fn children_name_components_and_verbs() {
        let top: Vec<&str> = children("/").unwrap().into_iter().map(|child| child.name).collect();
        assert_eq!(top, ["access", "cluster", "nodes", "pools", "storage", "version"]);
        let nodes = children("/nodes").unwrap();
        assert_eq!((nodes[0].name, nodes[0].variable, nodes[0].has_children), ("node", true, true));
        assert_eq!(children("/nodes/{node}"), children("/nodes/somewhere"));
        assert_eq!(children("/version"), Some(vec![]));
        assert_eq!(children("/nope"), None);
    }
}
