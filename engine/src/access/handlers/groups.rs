//! Groups. (PVE: pve-access-control PVE/API2/Group.pm)

use super::super::acl::Member;
use super::super::user_config::Group;
use super::super::{config, has_any, store};
use super::put_text;
use crate::{Call, Error, Reply, Result};
use serde_json::{Map, Value, json};

fn missing(name: &str) -> Error {
    Error::new(format!("group '{name}' does not exist"))
}

fn users(group: &Group) -> Vec<&str> {
    group.users.iter().map(|user| user.as_str()).collect()
}

/// `GET /access/groups`: the groups that one may look at.
pub fn index(call: &Call) -> Result<Reply> {
    let config = config(call.ctx)?;
    let visible = |name: &str| {
        has_any(call.ctx, &format!("/access/groups/{name}"), &["User.Modify", "Sys.Audit", "Group.Allocate"])
    };
    let rows = config.groups.iter().filter(|(name, _)| visible(name)).map(|(name, group)| {
        let mut row = Map::new();
        row.insert("groupid".into(), json!(name));
        row.insert("users".into(), json!(users(group).join(",")));
        put_text(&mut row, "comment", &group.comment);
        Value::Object(row)
    });
    Ok(rows.collect::<Value>().into())
}

/// `GET /access/groups/{groupid}`.
pub fn read(call: &Call) -> Result<Reply> {
    let name: String = call.param("groupid")?;
    let config = config(call.ctx)?;
    let group = config.groups.get(&name).ok_or_else(|| missing(&name))?;
    let mut row = Map::new();
    row.insert("members".into(), json!(users(group)));
    put_text(&mut row, "comment", &group.comment);
    Ok(Value::Object(row).into())
}

/// `POST /access/groups`.
pub fn create(call: &Call) -> Result<Reply> {
    let name: String = call.param("groupid")?;
    store::update(call.ctx, "create group failed", |config| {
        if config.groups.contains_key(&name) {
            return Err(Error::new(format!("group '{name}' already exists")));
        }
        let comment = call.text("comment").unwrap_or_default();
        config.groups.insert(name.clone(), Group { comment, ..Group::default() });
        Ok(())
    })?;
    Ok(Reply::null())
}

/// `PUT /access/groups/{groupid}`.
pub fn update(call: &Call) -> Result<Reply> {
    let name: String = call.param("groupid")?;
    store::update(call.ctx, "update group failed", |config| {
        let group = config.groups.get_mut(&name).ok_or_else(|| missing(&name))?;
        if let Some(comment) = call.text("comment") {
            group.comment = comment;
        }
        Ok(())
    })?;
    Ok(Reply::null())
}

/// `DELETE /access/groups/{groupid}`: with its entries.
pub fn delete(call: &Call) -> Result<Reply> {
    let name: String = call.param("groupid")?;
    store::update(call.ctx, "delete group failed", |config| {
        config.groups.remove(&name).ok_or_else(|| missing(&name))?;
        config.acl.remove_members(&|member| matches!(member, Member::Group(group) if *group == name));
        Ok(())
    })?;
    Ok(Reply::null())
}
