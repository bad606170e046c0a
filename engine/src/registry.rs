//! Which handler answers which method, and the one way of a request through all checks.
//!
//! Order of checks, visible to clients: route (501), token allowed (403), permission (403), other node, parameters (400),
//! handler. A method without a handler passes all of them and then answers 501.

use crate::call::Handler;
use crate::{
    Call, Context, Error, Params, Reply, Request, Result, access, cluster, console, hardware, lxc, mapping, network,
    node, qemu, storage, task,
};
use contract::{Method, Verb};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::OnceLock;

/// One row of an area's list.
#[derive(Clone, Copy)]
pub struct Binding {
    /// The verb.
    pub verb: Verb,
    /// The path template as the contract writes it.
    pub template: &'static str,
    /// Who answers.
    pub handler: Handler,
}

/// Binds `GET template`.
pub const fn get(template: &'static str, handler: Handler) -> Binding {
    Binding { verb: Verb::Get, template, handler }
}

/// Binds `POST template`.
pub const fn post(template: &'static str, handler: Handler) -> Binding {
    Binding { verb: Verb::Post, template, handler }
}

/// Binds `PUT template`.
pub const fn put(template: &'static str, handler: Handler) -> Binding {
    Binding { verb: Verb::Put, template, handler }
}

/// Binds `DELETE template`.
pub const fn delete(template: &'static str, handler: Handler) -> Binding {
    Binding { verb: Verb::Delete, template, handler }
}

/// The lists of all areas. A new area adds its line here.
const AREAS: &[&[Binding]] = &[
    // Directories come first, so that an area may answer one of its own.
    node::handlers::DIRECTORIES,
    node::handlers::METHODS,
    hardware::METHODS,
    mapping::METHODS,
    node::handlers::DISKS,
    node::handlers::PACKAGES,
    node::handlers::SCANS,
    qemu::handlers::METHODS,
    qemu::handlers::agent::METHODS,
    qemu::handlers::cloudinit::METHODS,
    qemu::handlers::copies::METHODS,
    qemu::handlers::snapshot::METHODS,
    cluster::handlers::METHODS,
    task::handlers::METHODS,
    access::handlers::METHODS,
    storage::handlers::METHODS,
    lxc::handlers::METHODS,
    console::handlers::METHODS,
    lxc::handlers::consoles::METHODS,
    lxc::handlers::copies::METHODS,
    lxc::handlers::snapshots::METHODS,
    network::handlers::METHODS,
];

/// All bindings, area by area.
pub fn bindings() -> impl Iterator<Item = &'static Binding> {
    AREAS.iter().copied().flatten()
}

/// The handler of a method, if somebody has bound it.
pub fn handler(verb: Verb, template: &str) -> Option<Handler> {
    static TABLE: OnceLock<HashMap<(Verb, &'static str), Handler>> = OnceLock::new();
    let table = TABLE.get_or_init(|| bindings().map(|row| ((row.verb, row.template), row.handler)).collect());
    table.get(&(verb, template)).copied()
}

/// Takes a request of an authenticated (or anonymous, `caller` = `None`) client through all checks to its handler.
pub fn dispatch(ctx: &Context, caller: Option<&str>, request: Request) -> Result<Reply> {
    let ctx = &as_caller(ctx, caller);
    let (method, params) = admit(ctx, caller, request)?;
    let params = contract::verify(method, params)?;
    call(ctx, method, params)
}

/// Takes a request through all checks that come before its parameters: route, token, permission, node. For a front that
/// wants to know whether a request would be taken before it receives its data.
pub fn authorize(ctx: &Context, caller: Option<&str>, request: Request) -> Result<&'static Method> {
    admit(&as_caller(ctx, caller), caller, request).map(|(method, _)| method)
}

fn as_caller(ctx: &Context, caller: Option<&str>) -> Context {
    ctx.with_caller(crate::Caller::verified(caller.unwrap_or_default()))
}

/// Finds the method and asks whether this caller may have it answered here. Its parameters are not verified yet.
fn admit(ctx: &Context, caller: Option<&str>, request: Request) -> Result<(&'static Method, Map<String, Value>)> {
    // The text names the decoded path.
    let found = contract::find(request.verb, &request.path);
    let route = found.map_err(|error| Error::NotImplemented(error.to_string()))?;
    let params = merge_path_params(request.params, route.path_params)?;
    access::check_method(ctx, caller, route.method, &params)?;
    check_node(ctx, route.method, &params)?;
    Ok((route.method, params))
}

/// Runs a method for a tool or a worker: parameters are verified, permissions are not asked. (PVE: CLIHandler.pm)
pub fn run(ctx: &Context, verb: Verb, template: &str, params: Map<String, Value>) -> Result<Reply> {
    answer(ctx, verb, template, params).map(Reply::with_data)
}

/// The same; a long list may still be text.
pub fn answer(ctx: &Context, verb: Verb, template: &str, params: Map<String, Value>) -> Result<Reply> {
    let method = contract::method(verb, template).ok_or_else(|| not_implemented(verb, template))?;
    check_node(ctx, method, &params)?;
    let params = contract::verify(method, params)?;
    call(ctx, method, params)
}

fn call(ctx: &Context, method: &'static Method, params: Map<String, Value>) -> Result<Reply> {
    let handler = handler(method.verb, method.template).ok_or_else(|| not_implemented(method.verb, method.template))?;
    // A volume that somebody makes for a VM must not be taken for what a killed process has left of another one.
    if ["/nodes/{node}/qemu", "/nodes/{node}/storage/{storage}/content"].iter().any(|p| method.template.starts_with(p))
    {
        crate::qemu::recovery::NOTES.before(ctx);
    }
    let of_containers = ["/nodes/{node}/lxc", "/nodes/{node}/storage/{storage}/content"];
    if of_containers.iter().any(|p| method.template.starts_with(p)) {
        crate::lxc::recovery::NOTES.before(ctx);
    }
    handler(&Call { ctx, method, params: Params::verified(params) })
}

fn not_implemented(verb: Verb, path: &str) -> Error {
    Error::NotImplemented(format!("Method '{verb} {path}' not implemented"))
}

/// Path parameters join the others; the same name with another value is refused. (PVE: pve-manager PVE/HTTPServer.pm)
fn merge_path_params(
    mut params: Map<String, Value>,
    path_params: std::collections::BTreeMap<String, String>,
) -> Result<Map<String, Value>> {
    for (name, value) in path_params {
        match params.get(&name) {
            Some(given) if crate::call::config_text(given) != value => {
                return Err(Error::parameter(
                    &name,
                    format!(
                        "duplicate parameter (already defined in URI) with conflicting values: '{value}' != '{}'",
                        crate::call::config_text(given)
                    ),
                ));
            }
            _ => {
                params.insert(name, Value::String(value));
            }
        }
    }
    Ok(params)
}

/// Other nodes cannot be asked yet; a node that is not this one is unknown.
fn check_node(ctx: &Context, method: &Method, params: &Map<String, Value>) -> Result<()> {
    let Some(name) = &method.proxyto else {
        return Ok(());
    };
    match params.get(name) {
        Some(Value::String(node)) if !ctx.is_local_node(node) => Err(Error::new(format!(
            "hostname lookup '{node}' failed - failed to get address info for: {node}: Name or service not known"
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_binding_names_a_method() {
        for row in bindings() {
            assert!(contract::method(row.verb, row.template).is_some(), "{} {}", row.verb, row.template);
        }
    }

    /// `UPDATE_GOLDEN=1` rewrites the list; in a review it may only get shorter.
    #[test]
    fn list_of_unbound_methods_is_true() {
        let unbound: BTreeSet<String> = contract::methods()
            .filter(|(verb, template)| handler(*verb, template).is_none())
            .map(|(verb, template)| format!("{verb} {template}\n"))
            .collect();
        let unbound: String = unbound.into_iter().collect();
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/unbound-methods.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &unbound).unwrap();
        }
        let listed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(listed == unbound, "engine/unbound-methods.txt differs; rewrite it with UPDATE_GOLDEN=1");
    }
}
