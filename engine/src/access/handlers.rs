//! `/access` and `/pools`: what clients can ask and change of users, tokens, roles, pools and tickets.

mod acl;
mod groups;
mod permissions;
mod pools;
mod realms;
mod roles;
mod session;
mod tokens;
mod users;

use super::{permission, role};
use crate::registry::{Binding, delete, get, post, put};
use crate::{Call, Reply, Result};
use serde_json::json;

/// The methods bound here.
pub const METHODS: &[Binding] = &[
    get("/access", index),
    get("/access/acl", acl::index),
    put("/access/acl", acl::update),
    get("/access/domains", realms::index),
    post("/access/domains", realms::create),
    get("/access/domains/{realm}", realms::read),
    put("/access/domains/{realm}", realms::update),
    delete("/access/domains/{realm}", realms::delete),
    get("/access/groups", groups::index),
    post("/access/groups", groups::create),
    get("/access/groups/{groupid}", groups::read),
    put("/access/groups/{groupid}", groups::update),
    delete("/access/groups/{groupid}", groups::delete),
    put("/access/password", session::change_password),
    get("/access/permissions", permissions::read),
    get("/access/roles", roles::index),
    post("/access/roles", roles::create),
    get("/access/roles/{roleid}", roles::read),
    put("/access/roles/{roleid}", roles::update),
    delete("/access/roles/{roleid}", roles::delete),
    get("/access/ticket", session::login_page),
    post("/access/ticket", session::create_ticket),
    get("/access/users", users::index),
    post("/access/users", users::create),
    get("/access/users/{userid}", users::read),
    put("/access/users/{userid}", users::update),
    delete("/access/users/{userid}", users::delete),
    get("/access/users/{userid}/token", tokens::index),
    get("/access/users/{userid}/token/{tokenid}", tokens::read),
    post("/access/users/{userid}/token/{tokenid}", tokens::create),
    put("/access/users/{userid}/token/{tokenid}", tokens::update),
    delete("/access/users/{userid}/token/{tokenid}", tokens::delete),
    post("/access/vncticket", session::verify_vnc_ticket),
    get("/pools", pools::index),
    post("/pools", pools::create),
    put("/pools", pools::update),
    delete("/pools", pools::delete),
    get("/pools/{poolid}", pools::read),
    put("/pools/{poolid}", pools::update),
    delete("/pools/{poolid}", pools::delete),
];

/// `GET /access`: the names that PVE lists, which are not all that there are.
fn index(_: &Call) -> Result<Reply> {
    let names = ["users", "groups", "roles", "acl", "domains", "openid", "tfa", "ticket", "password"];
    Ok(names.map(|name| json!({"subdir": name})).into_iter().collect::<serde_json::Value>().into())
}

/// Adds a text to an answer unless it is empty: what is not set is absent.
fn put_text(object: &mut serde_json::Map<String, serde_json::Value>, key: &str, text: &str) {
    if !text.is_empty() {
        object.insert(key.to_owned(), json!(text));
    }
}

#[cfg(test)]
mod tests;
