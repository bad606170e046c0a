//! Roles. (PVE: pve-access-control PVE/API2/Role.pm)

use super::super::privilege::{Privilege, PrivilegeSet};
use super::super::{config, store};
use super::role;
use crate::{Call, Error, Reply, Result};
use serde_json::{Value, json};

fn missing(name: &str) -> Error {
    Error::new(format!("role '{name}' does not exist"))
}

/// The privileges of parameter `privs`.
fn privileges(call: &Call) -> Result<PrivilegeSet> {
    let names: Vec<String> = call.opt("privs")?.unwrap_or_default();
    names.iter().map(|name| name.parse::<Privilege>().map_err(Error::new)).collect()
}

/// `GET /access/roles`.
pub fn index(call: &Call) -> Result<Reply> {
    let config = config(call.ctx)?;
    let rows = config.all_roles().into_iter().map(|(name, privileges)| {
        json!({
            "roleid": name,
            "privs": privileges.to_string(),
            "special": u8::from(role::built_in(name).is_some()),
        })
    });
    Ok(rows.collect::<Value>().into())
}

/// `GET /access/roles/{roleid}`: privilege to 1.
pub fn read(call: &Call) -> Result<Reply> {
    let name: String = call.param("roleid")?;
    let privileges = config(call.ctx)?.role(&name).ok_or_else(|| missing(&name))?;
    let map = privileges.iter().map(|privilege| (privilege.name().to_owned(), json!(1)));
    Ok(Value::Object(map.collect()).into())
}

/// `POST /access/roles`.
pub fn create(call: &Call) -> Result<Reply> {
    let name: String = call.param("roleid")?;
    if name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("pve")) {
        let text = "cannot use role ID starting with the (case-insensitive) 'PVE' namespace";
        return Err(Error::parameter("roleid", text));
    }
    store::update(call.ctx, "create role failed", |config| {
        if config.role(&name).is_some() {
            return Err(Error::new(format!("role '{name}' already exists")));
        }
        config.roles.insert(name.clone(), privileges(call)?);
        Ok(())
    })?;
    Ok(Reply::null())
}

/// `PUT /access/roles/{roleid}`: replaces the privileges, or adds to them.
pub fn update(call: &Call) -> Result<Reply> {
    let name: String = call.param("roleid")?;
    if role::built_in(&name).is_some() {
        return Err(Error::new(format!("auto-generated role '{name}' cannot be modified")));
    }
    store::update(call.ctx, "update role failed", |config| {
        let known = config.roles.get_mut(&name).ok_or_else(|| missing(&name))?;
        let new = privileges(call)?;
        *known = if call.flag("append") { known.union(new) } else { new };
        Ok(())
    })?;
    Ok(Reply::null())
}

/// `DELETE /access/roles/{roleid}`: with its entries, so that a new role of this name gives nobody anything.
pub fn delete(call: &Call) -> Result<Reply> {
    let name: String = call.param("roleid")?;
    if role::built_in(&name).is_some() {
        return Err(Error::new(format!("auto-generated role '{name}' cannot be deleted")));
    }
    store::update(call.ctx, "delete role failed", |config| {
        config.roles.remove(&name).ok_or_else(|| missing(&name))?;
        config.acl.remove_role(&name);
        Ok(())
    })?;
    Ok(Reply::null())
}
