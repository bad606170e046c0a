//! Pools. (PVE: pve-manager PVE/API2/Pool.pm)

use super::super::user_config::{Pool, UserConfig};
use super::super::{check, check_modify, config, has, store};
use super::put_text;
use crate::cluster::resources;
use crate::{Call, Error, Reply, Result, Vmid, bail, guest, live, storage};
use serde_json::{Map, Value, json};

/// `GET /pools`: the pools that one may look at, or a list with one pool and its members.
pub fn index(call: &Call) -> Result<Reply> {
    if let Some(name) = call.opt::<String>("poolid")? {
        return Ok(json!([one(call, &name)?]).into());
    }
    let config = config(call.ctx)?;
    let visible = config.pools.iter().filter(|(name, _)| has(call.ctx, &format!("/pool/{name}"), &["Pool.Audit"]));
    Ok(visible.map(|(name, pool)| Value::Object(describe(name, pool))).collect::<Value>().into())
}

/// `GET /pools/{poolid}`: a pool with its members.
pub fn read(call: &Call) -> Result<Reply> {
    Ok(one(call, &call.param::<String>("poolid")?)?.into())
}

fn describe(name: &str, pool: &Pool) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("poolid".into(), json!(name));
    put_text(&mut row, "comment", &pool.comment);
    row
}

/// A pool with those of its members that exist; only those of parameter `type`, if it is given.
fn one(call: &Call, name: &str) -> Result<Value> {
    check(call.ctx, &format!("/pool/{name}"), &["Pool.Audit"])?;
    let config = config(call.ctx)?;
    let pool = config.pool(name)?;
    let wanted: Option<String> = call.opt("type")?;
    let wants = |kind: &str| wanted.as_deref().is_none_or(|wanted| wanted == kind);
    let mut members = Vec::new();
    if wants("qemu") || wants("lxc") {
        let is_member = |row: &live::GuestRow| pool.guests.contains(&row.vmid) && wants(row.kind.as_str());
        members.extend(resources::guests(call.ctx, is_member)?);
    }
    if wants("storage") {
        let states = live::storages(call.ctx);
        let inside = states.iter().filter(|state| pool.storages.contains(&state.id));
        members.extend(inside.map(|state| resources::storage_row(call.ctx, state)));
    }
    let mut row = describe(name, pool);
    row.insert("members".into(), Value::Array(members));
    Ok(Value::Object(row))
}

/// `POST /pools`.
pub fn create(call: &Call) -> Result<Reply> {
    let name: String = call.param("poolid")?;
    store::update(call.ctx, "create pool failed", |config| {
        if config.pools.contains_key(&name) {
            bail!("pool '{name}' already exists");
        }
        let leaf = match name.rsplit_once('/') {
            Some((parent, _)) if !config.pools.contains_key(parent) => {
                bail!("parent '{parent}' of pool '{name}' does not exist")
            }
            Some((_, leaf)) => leaf,
            None => &name,
        };
        if !leaf.starts_with(|c: char| c.is_ascii_alphabetic()) {
            bail!("pool name must start with a letter");
        }
        let comment = call.text("comment").unwrap_or_default();
        config.pools.insert(name.clone(), Pool { comment, ..Pool::default() });
        Ok(())
    })?;
    Ok(Reply::null())
}

/// `PUT /pools` and `PUT /pools/{poolid}`: comment and members. Each member asks for the right to change its entries.
pub fn update(call: &Call) -> Result<Reply> {
    let name: String = call.param("poolid")?;
    let guests: Vec<String> = call.opt("vms")?.unwrap_or_default();
    let storages: Vec<String> = call.opt("storage")?.unwrap_or_default();
    store::update(call.ctx, "update pools failed", |config| {
        let pool = config.pool_mut(&name)?;
        if let Some(comment) = call.text("comment") {
            pool.comment = comment;
        }
        for text in &guests {
            check_modify(call.ctx, &format!("/vms/{text}"))?;
            let vmid: Vmid = text.parse().map_err(|error: String| Error::parameter("vms", error))?;
            change_guest(call, config, &name, vmid)?;
        }
        for id in &storages {
            check_modify(call.ctx, &format!("/storage/{id}"))?;
            change_storage(call.flag("delete"), config.pool_mut(&name)?, id)?;
        }
        Ok(())
    })?;
    Ok(Reply::null())
}

fn change_guest(call: &Call, config: &mut UserConfig, name: &str, vmid: Vmid) -> Result<()> {
    let is_member = config.pool(name)?.guests.contains(&vmid);
    if call.flag("delete") {
        if !is_member {
            bail!("VM {vmid} is not a pool member");
        }
        config.set_pool(vmid, None);
        return Ok(());
    }
    if is_member {
        bail!("VM {vmid} is already a pool member");
    }
    if let Some(other) = config.pool_of(vmid) {
        if !call.flag("allow-move") {
            bail!("VM {vmid} belongs already to pool '{other}' and 'allow-move' is not set");
        }
        check(call.ctx, &format!("/pool/{other}"), &["Pool.Allocate"])?;
    }
    config.set_pool(vmid, Some(name));
    Ok(())
}

fn change_storage(remove: bool, pool: &mut Pool, id: &str) -> Result<()> {
    if remove && !pool.storages.remove(id) {
        bail!("Storage '{id}' is not a pool member");
    }
    if !remove && !pool.storages.insert(id.to_owned()) {
        bail!("Storage '{id}' is already a pool member");
    }
    Ok(())
}

/// `DELETE /pools` and `DELETE /pools/{poolid}`: an empty pool, with its entries. Members that are gone do not count.
pub fn delete(call: &Call) -> Result<Reply> {
    let name: String = call.param("poolid")?;
    store::update(call.ctx, "delete pool failed", |config| {
        let pool = config.pool(&name)?;
        if let Some(inner) = config.pools_in(&name).next() {
            bail!("pool '{name}' is not empty (contains pool '{inner}')");
        }
        if let Some(vmid) = pool.guests.iter().find(|vmid| guest::find(call.ctx, **vmid).is_some()) {
            bail!("pool '{name}' is not empty (contains VM {vmid})");
        }
        let configured = storage::config(call.ctx)?;
        if let Some(id) = pool.storages.iter().find(|id| configured.get(id).is_some()) {
            bail!("pool '{name}' is not empty (contains storage '{id}')");
        }
        let gone: Vec<Vmid> = pool.guests.iter().copied().collect();
        gone.into_iter().for_each(|vmid| config.set_pool(vmid, None));
        config.pools.remove(&name);
        config.acl.remove_path(&format!("/pool/{name}"));
        Ok(())
    })?;
    Ok(Reply::null())
}
