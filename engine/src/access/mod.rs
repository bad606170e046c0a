//! Who may do what: users, groups, roles, tokens, access lists, tickets.

pub mod handlers;

use crate::{Context, Error, Result};
use contract::Method;
use serde_json::{Map, Value};

/// Refuses a call that its caller may not make. `caller` is `None` for somebody who has not logged in.
pub fn check_method(ctx: &Context, caller: Option<&str>, _method: &Method, _params: &Map<String, Value>) -> Result<()> {
    if ctx.caller.is_root() {
        return Ok(());
    }
    Err(Error::Forbidden(format!(
        "Permission check failed ({})",
        caller.map_or("user != null", |_| "user != root@pam")
    )))
}
