//! Local commands of `pveum`, the tool for users and permissions.

use super::{Row, command};
use crate::invocation::Invocation;
use contract::Verb;
use engine::{Error, Result, access};
use serde_json::{Map, Value};
use std::process::ExitCode;

/// The commands of this module.
pub const COMMANDS: &[Row] = &[
    command("pveum", "user token permissions", token_permissions),
    command("pveum", "user tfa delete", delete_second_factors),
];

/// What a token may do: the permissions of the identity `user!token`.
fn token_permissions(invocation: &Invocation) -> Result<ExitCode> {
    let (user, token) = (invocation.param::<String>("userid")?, invocation.param::<String>("tokenid")?);
    let mut params = Map::from_iter([("userid".to_owned(), Value::from(format!("{user}!{token}")))]);
    if let Some(path) = invocation.opt::<Value>("path")? {
        params.insert("path".to_owned(), path);
    }
    let permissions = invocation.call(Verb::Get, "/access/permissions", params)?;
    invocation.print(permissions)?;
    Ok(ExitCode::SUCCESS)
}

/// Removes all second factors of a user, who can then log in by password alone.
fn delete_second_factors(invocation: &Invocation) -> Result<ExitCode> {
    if invocation.params.contains_key("id") {
        return Err(Error::NotImplemented("second factors can only be removed all together".into()));
    }
    access::remove_second_factors(&invocation.ctx, &invocation.param("userid")?)?;
    Ok(ExitCode::SUCCESS)
}
