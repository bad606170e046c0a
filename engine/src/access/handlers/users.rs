//! Users. (PVE: pve-access-control PVE/API2/User.pm)

use super::super::acl::Member;
use super::super::identity::UserId;
use super::super::user_config::{User, UserConfig};
use super::super::{config, has_any, login, realm, second_factor, store, token};
use super::{put_text, tokens};
use crate::{Call, Context, Error, Reply, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// `GET /access/users`: the users whose group one may look at, and oneself.
pub fn index(call: &Call) -> Result<Reply> {
    let (config, realms) = (config(call.ctx)?, realm::load(call.ctx)?);
    let (full, enabled) = (call.flag("full"), call.opt::<bool>("enabled")?);
    let visible = visible_users(call.ctx, &config);
    let rows = config
        .users
        .iter()
        .filter(|(id, _)| id.as_str() == call.ctx.caller.id() || visible.as_ref().is_none_or(|list| list.contains(id)))
        .filter(|(_, user)| enabled.is_none_or(|enabled| enabled == user.enabled))
        .map(|(id, user)| {
            let mut row = describe(user);
            row.insert("userid".into(), json!(id.as_str()));
            if let Ok(kind) = realms.kind(id.realm()) {
                row.insert("realm-type".into(), json!(kind));
            }
            if full {
                row.insert("groups".into(), json!(config.groups_of(id).collect::<Vec<_>>().join(",")));
                row.insert("tokens".into(), tokens::list_or_null(user));
            }
            Value::Object(row)
        });
    Ok(rows.collect::<Value>().into())
}

/// The users that the caller may see through groups; `None` for all.
fn visible_users<'a>(ctx: &Context, config: &'a UserConfig) -> Option<BTreeSet<&'a UserId>> {
    const PRIVILEGES: &[&str] = &["User.Modify", "Sys.Audit"];
    if has_any(ctx, "/access/groups", PRIVILEGES) {
        return None;
    }
    let groups = config.groups.iter().filter(|(name, _)| has_any(ctx, &format!("/access/groups/{name}"), PRIVILEGES));
    Some(groups.flat_map(|(_, group)| &group.users).collect())
}

/// What both the list and a single user show.
fn describe(user: &User) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("enable".into(), json!(u8::from(user.enabled)));
    row.insert("expire".into(), json!(user.expire));
    put_text(&mut row, "firstname", &user.first_name);
    put_text(&mut row, "lastname", &user.last_name);
    put_text(&mut row, "email", &user.email);
    put_text(&mut row, "comment", &user.comment);
    put_text(&mut row, "keys", &user.keys);
    row
}

/// `GET /access/users/{userid}`.
pub fn read(call: &Call) -> Result<Reply> {
    let id: UserId = call.param("userid")?;
    let config = config(call.ctx)?;
    let user = config.user(&id)?;
    let mut row = describe(user);
    row.insert("groups".into(), config.groups_of(&id).collect());
    row.insert("tokens".into(), tokens::map_or_null(user));
    Ok(Value::Object(row).into())
}

/// `POST /access/users`.
pub fn create(call: &Call) -> Result<Reply> {
    let id: UserId = call.param("userid")?;
    let password: Option<String> = call.opt("password")?;
    let mut has_password = false;
    let made = store::update(call.ctx, "create user failed", |config| {
        if config.users.contains_key(&id) {
            return Err(Error::new(format!("user '{id}' already exists")));
        }
        config.users.insert(id.clone(), User { enabled: true, ..User::default() });
        change(call, config, &id)?;
        if let Some(password) = &password {
            login::set_password(call.ctx, &id, password)?;
            has_password = true;
        }
        Ok(())
    });
    if let Err(error) = made {
        let left = if has_password { login::forget_password(call.ctx, &id).err() } else { None };
        return Err(error.with_cleanup_failures(left.as_slice()));
    }
    Ok(Reply::null())
}

/// `PUT /access/users/{userid}`.
pub fn update(call: &Call) -> Result<Reply> {
    let id: UserId = call.param("userid")?;
    store::update(call.ctx, "update user failed", |config| change(call, config, &id))?;
    Ok(Reply::null())
}

/// Applies what the call says about a user.
fn change(call: &Call, config: &mut UserConfig, id: &UserId) -> Result<()> {
    let user = config.user_mut(id)?;
    if let Some(enable) = call.opt("enable")? {
        user.enabled = enable;
    }
    if let Some(expire) = call.opt("expire")? {
        user.expire = expire;
    }
    for (name, field) in [
        ("firstname", &mut user.first_name),
        ("lastname", &mut user.last_name),
        ("email", &mut user.email),
        ("comment", &mut user.comment),
        ("keys", &mut user.keys),
    ] {
        if let Some(text) = call.text(name) {
            *field = text;
        }
    }
    let Some(wanted) = call.opt::<Vec<String>>("groups")? else { return Ok(()) };
    if !call.flag("append") {
        for group in config.groups.values_mut() {
            group.users.remove(id);
        }
    }
    for name in wanted {
        let group = config.groups.get_mut(&name).ok_or_else(|| Error::new(format!("no such group '{name}'")))?;
        group.users.insert(id.clone());
    }
    Ok(())
}

/// `DELETE /access/users/{userid}`: with tokens, groups, entries, password and second factors. A user who does not exist
/// is as good as deleted.
pub fn delete(call: &Call) -> Result<Reply> {
    const FAILURE: &str = "delete user failed";
    let id: UserId = call.param("userid")?;
    // Disabled first: whatever fails after this, nobody logs in with what is left.
    store::update(call.ctx, FAILURE, |config| {
        if let Some(user) = config.users.get_mut(&id) {
            user.enabled = false;
        }
        Ok(())
    })?;
    login::forget_password(call.ctx, &id)
        .and_then(|()| token::forget(call.ctx, |token| token.user == id))
        .and_then(|()| second_factor::forget(call.ctx, &id))
        .map_err(|error| error.context(FAILURE))?;
    store::update(call.ctx, FAILURE, |config| {
        config.users.remove(&id);
        config.groups.values_mut().for_each(|group| drop(group.users.take(&id)));
        config.acl.remove_members(&|member| match member {
            Member::User(user) => *user == id,
            Member::Token(token) => token.user == id,
            Member::Group(_) => false,
        });
        Ok(())
    })?;
    Ok(Reply::null())
}
