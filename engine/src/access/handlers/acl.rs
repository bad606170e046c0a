//! Entries of the access tree. (PVE: pve-access-control PVE/API2/ACL.pm)

use super::super::acl::Member;
use super::super::identity::{TokenId, UserId};
use super::super::permission::Rights;
use super::super::role::NO_ACCESS;
use super::super::user_config::UserConfig;
use super::super::{config, has, has_any, method, path, store};
use super::permission;
use crate::call::FromParam;
use crate::{Call, Error, Reply, Result};
use serde_json::{Value, json};

/// `GET /access/acl`: the entries of paths whose entries one may change; all for auditors.
pub fn index(call: &Call) -> Result<Reply> {
    let config = config(call.ctx)?;
    let is_auditor = has(call.ctx, "/access", &["Sys.Audit"]);
    let mut rows = Vec::new();
    config.acl.visit(&mut |path, node| {
        if !is_auditor && !has_any(call.ctx, path, &method::modifying_privileges(path)) {
            return;
        }
        for (member, roles) in node.entries() {
            rows.extend(roles.iter().map(|(role, propagate)| {
                json!({
                    "path": path,
                    "type": member.kind(),
                    "ugid": member.id(),
                    "roleid": role,
                    "propagate": u8::from(*propagate),
                })
            }));
        }
    });
    Ok(Value::Array(rows).into())
}

/// `PUT /access/acl`: gives roles to users, groups and tokens on a path, or takes them away.
pub fn update(call: &Call) -> Result<Reply> {
    let remove = call.flag("delete");
    let path = target(call, remove)?;
    let roles: Vec<String> = call.param("roles")?;
    let propagate = call.opt("propagate")?.unwrap_or(true);
    store::update(call.ctx, "ACL update failed", |config| {
        let rights = permission::rights(config, call.ctx.caller.id(), &path);
        let members = members(call, config)?;
        for role in &roles {
            check_role(config, rights, role, propagate, remove)?;
            for member in &members {
                if remove {
                    config.acl.revoke(&path, member, role);
                } else {
                    config.acl.grant(&path, member, role, propagate);
                }
            }
        }
        Ok(())
    })?;
    Ok(Reply::null())
}

/// The path, if there is somebody to change there.
fn target(call: &Call, remove: bool) -> Result<String> {
    const LISTS: [&str; 3] = ["users", "groups", "tokens"];
    if LISTS.iter().all(|name| call.text(name).is_none_or(|text| text.is_empty())) {
        let mut errors = contract::ParamErrors::default();
        LISTS.iter().for_each(|name| errors.add(name, "either 'users', 'groups' or 'tokens' is required."));
        return Err(errors.into());
    }
    let given: String = call.param("path")?;
    path::normalize(&given)
        .filter(|path| remove || contract::roles::is_acl_path(path))
        .ok_or_else(|| Error::parameter("path", format!("invalid ACL path '{given}'")))
}

/// Those whose roles are to be changed; all must exist.
fn members(call: &Call, config: &UserConfig) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for group in list::<String>(call, "groups")? {
        if !config.groups.contains_key(&group) {
            return Err(Error::new(format!("group '{group}' does not exist")));
        }
        members.push(Member::Group(group));
    }
    for user in list::<UserId>(call, "users")? {
        if !config.users.contains_key(&user) {
            return Err(Error::new(format!("user '{user}' does not exist")));
        }
        members.push(Member::User(user));
    }
    for token in list::<TokenId>(call, "tokens")? {
        config.token(&token)?;
        members.push(Member::Token(token));
    }
    Ok(members)
}

fn list<T: FromParam>(call: &Call, name: &str) -> Result<Vec<T>> {
    let texts: Vec<String> = call.opt(name)?.unwrap_or_default();
    let read = |text: String| T::from_param(&Value::String(text)).map_err(|error| Error::parameter(name, error));
    texts.into_iter().map(read).collect()
}

/// Who may change entries only because the object is theirs can hand on no more than they have.
fn check_role(config: &UserConfig, rights: Rights, role: &str, propagate: bool, remove: bool) -> Result<()> {
    let privileges = config.role(role).ok_or_else(|| Error::new(format!("role '{role}' does not exist")))?;
    if rights.held.iter().any(|privilege| privilege.name() == "Permissions.Modify") {
        return Ok(());
    }
    let verb = if remove { "remove" } else { "add" };
    let refused = |detail: &str| Err(Error::parameter("role", format!("Cannot {verb} role '{role}' {detail}")));
    if !privileges.difference(rights.held).is_empty() {
        return refused("- requires 'Permissions.Modify' or superset of privileges.");
    }
    if propagate && !remove && !privileges.difference(rights.propagated).is_empty() {
        return refused("with propagation - requires 'Permissions.Modify' or propagated superset of privileges.");
    }
    if role == NO_ACCESS {
        return refused("- requires 'Permissions.Modify'");
    }
    Ok(())
}
