//! `/storage`: which storages are configured. (PVE: pve-storage PVE/API2/Storage/Config.pm)

use crate::call::config_text;
use crate::storage::config::{Entry, FILE, StorageConfig, option_schema};
use crate::storage::kind::Kind;
use crate::storage::{self, edit};
use crate::types::split_list;
use crate::{Call, Error, Reply, Result, access, bail, error::ResultExt, file};
use serde_json::{Map, Value, json};

/// Privileges of which one is enough to see a storage.
pub(super) const SEEING: [&str; 2] = ["Datastore.Audit", "Datastore.AllocateSpace"];

pub(super) fn list(call: &Call) -> Result<Reply> {
    let config = storage::config(call.ctx)?;
    let kind = call.opt::<String>("type")?;
    let rows = config
        .entries()
        .filter(|(_, entry)| kind.as_deref().is_none_or(|kind| entry.kind() == kind))
        .filter(|(id, _)| access::has_any(call.ctx, &format!("/storage/{id}"), &SEEING))
        .map(|(id, entry)| row(&config, id, entry));
    Ok(Reply::from(Value::Array(rows.collect())))
}

pub(super) fn read(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    let config = storage::config(call.ctx)?;
    Ok(Reply::from(row(&config, &id, config.entry(&id)?)))
}

/// An entry as clients see it: numbers and booleans are numbers, the content is always told.
fn row(config: &StorageConfig, id: &str, entry: &Entry) -> Value {
    let mut row = Map::new();
    for (key, value) in entry.values() {
        row.insert(key.to_owned(), typed(entry.kind(), key, value));
    }
    if entry.is_shared() {
        row.insert("shared".into(), json!(1));
    }
    row.insert("content".into(), json!(entry.content_text()));
    row.insert("type".into(), json!(entry.kind()));
    row.insert("storage".into(), json!(id));
    row.insert("digest".into(), json!(config.digest));
    Value::Object(row)
}

fn typed(kind: &str, key: &str, text: &str) -> Value {
    if key == "content-dirs" {
        // PVE answers the map that it has read. (PVE: Plugin.pm, decode_value)
        let pairs =
            split_list(text).into_iter().filter_map(|item| item.split_once('=').map(|(a, b)| (a.to_owned(), json!(b))));
        return Value::Object(pairs.collect());
    }
    let as_text = || Value::String(text.to_owned());
    match option_schema(kind, key).and_then(|schema| schema.kind) {
        Some(contract::Kind::Boolean) => {
            contract::parse_boolean(text).map_or_else(as_text, |value| json!(u8::from(value)))
        }
        Some(contract::Kind::Integer) => text.parse::<i64>().map_or_else(|_| as_text(), Value::from),
        Some(contract::Kind::Number) => text.parse::<f64>().map_or_else(|_| as_text(), Value::from),
        _ => as_text(),
    }
}

/// The options among the parameters, as texts.
fn options(call: &Call) -> Vec<(String, String)> {
    let other = ["type", "storage", "delete", "digest"];
    let options = call.params.iter().filter(|(key, _)| !other.contains(&key.as_str()));
    options.map(|(key, value)| (key.clone(), config_text(value))).collect()
}

fn answer(id: &str, kind: &str) -> Reply {
    Reply::from(json!({ "storage": id, "type": kind }))
}

pub(super) fn create(call: &Call) -> Result<Reply> {
    let (id, kind) = (call.param::<String>("storage")?, call.param::<String>("type")?);
    let known = Kind::named(&kind).ok_or_else(|| Error::new(format!("unknown section type '{kind}'")))?;
    if known.driver.is_none() {
        return Err(Error::NotImplemented(format!("storage type '{kind}' is not supported")));
    }
    let (options, secrets) = edit::split_secrets(known, options(call), &[]);
    let entry = edit::new_entry(call.ctx, &id, known, &options)?;
    change(call, "create storage failed", |config| {
        if config.get(&id).is_some() {
            bail!("storage ID '{id}' already defined");
        }
        config.set(&id, edit::configure_new(call.ctx, &id, entry, &secrets)?);
        Ok(())
    })?;
    Ok(answer(&id, &kind))
}

pub(super) fn update(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    let digest: Option<String> = call.opt("digest")?;
    let delete = split_list(&call.text("delete").unwrap_or_default());
    let mut kind = String::new();
    change(call, "update storage failed", |config| {
        file::assert_digest(&config.digest, digest.as_deref())?;
        let entry = config.entry(&id)?.clone();
        kind = entry.kind().to_owned();
        config.set(&id, edit::configure_changed(call.ctx, &id, entry, options(call), &delete)?);
        Ok(())
    })?;
    Ok(answer(&id, &kind))
}

pub(super) fn remove(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    change(call, "delete storage failed", |config| {
        let entry = config.entry(&id)?.clone();
        let of_this = format!("{id}:");
        if config.entries().any(|(_, entry)| entry.get("base").is_some_and(|base| base.starts_with(&of_this))) {
            bail!("can't remove storage - storage is used as base of another storage");
        }
        edit::unconfigure(call.ctx, &id, entry)?;
        config.remove(&id);
        Ok(())
    })?;
    access::remove_storage(call.ctx, &id)?;
    Ok(Reply::null())
}

/// Changes the file under its lock; errors say what was being done.
fn change(call: &Call, what: &str, change: impl FnOnce(&mut StorageConfig) -> Result<()>) -> Result<()> {
    let path = call.ctx.root.etc_pve(FILE);
    std::fs::create_dir_all(call.ctx.root.etc_pve("")).context(|| what)?;
    file::update(call.ctx, &path, 0o640, |text| {
        let mut config = StorageConfig::parse(call.ctx, text.to_owned());
        change(&mut config)?;
        Ok(config.print())
    })
    .context(|| what)
}
