//! `/nodes/{node}/storage`: which storages work here and how full they are. (PVE: pve-storage PVE/API2/Storage/Status.pm)

use super::config::SEEING;
use crate::storage::config::Entry;
use crate::storage::content::Content;
use crate::storage::status::probe_entries;
use crate::storage::{self, StorageStatus};
use crate::types::split_list;
use crate::{Call, Error, Reply, Result, access};
use serde_json::{Map, Value, json};

pub(super) fn list(call: &Call) -> Result<Reply> {
    let contents = call.text("content").map(|text| parse_contents(&text));
    let only: Option<String> = call.opt("storage")?;
    let target = call.opt::<String>("target")?.filter(|node| !call.ctx.is_local_node(node));
    let config = storage::config(call.ctx)?;
    let wanted: Vec<(String, Entry)> = config
        .entries()
        .filter(|(_, entry)| matches_content(call, entry, contents.as_deref()))
        .map(|(id, entry)| (id.to_owned(), entry.clone()))
        .collect();
    if let Some(id) = &only
        && !wanted.iter().any(|(name, _)| name == id)
    {
        return Err(Error::parameter("storage", "No such storage."));
    }
    let shown: Vec<(String, Entry)> = wanted
        .into_iter()
        .filter(|(id, _)| only.as_ref().is_none_or(|only| only == id))
        .filter(|(_, entry)| !(call.flag("enabled") && entry.is_disabled()))
        .filter(|(_, entry)| target.as_deref().is_none_or(|node| is_on_both(call, entry, node)))
        .filter(|(id, _)| access::has_any(call.ctx, &format!("/storage/{id}"), &SEEING))
        .collect();
    let states = probe_entries(call.ctx, shown.clone());
    let rows = states.iter().zip(&shown).map(|(status, (id, entry))| {
        let mut row = row(status);
        row.insert("storage".into(), json!(id));
        if status.total > 0 {
            row.insert("used_fraction".into(), json!(status.used as f64 / status.total as f64));
        }
        if call.flag("format") && status.enabled {
            add_formats(&mut row, entry);
        }
        Value::Object(row)
    });
    Ok(Reply::from(Value::Array(rows.collect())))
}

pub(super) fn read(call: &Call) -> Result<Reply> {
    let id: String = call.param("storage")?;
    let config = storage::config(call.ctx)?;
    let entry = config.get(&id).ok_or_else(|| Error::parameter("storage", "No such storage."))?;
    let status = probe_entries(call.ctx, vec![(id, entry.clone())]).remove(0);
    Ok(Reply::from(Value::Object(row(&status))))
}

fn parse_contents(text: &str) -> Vec<Content> {
    split_list(text).iter().filter_map(|name| name.parse().ok()).collect()
}

/// With a wish for content, only storages that can be used here and may hold it are told.
fn matches_content(call: &Call, entry: &Entry, contents: Option<&[Content]>) -> bool {
    contents.is_none_or(|contents| {
        let enabled = !entry.is_disabled() && entry.is_on_node(&call.ctx.node);
        enabled && contents.iter().any(|content| entry.has_content(*content))
    })
}

/// Content that this node and another one can reach.
fn is_on_both(call: &Call, entry: &Entry, node: &str) -> bool {
    entry.is_shared() && entry.is_on_node(&call.ctx.node) && entry.is_on_node(node)
}

fn row(status: &StorageStatus) -> Map<String, Value> {
    let content: Vec<&str> = status.content.iter().map(|content| content.name()).collect();
    let mut row = Map::new();
    let mut put = |key: &str, value: Value| row.insert(key.to_owned(), value);
    put("type", json!(status.kind));
    put("content", json!(content.join(",")));
    put("total", json!(status.total));
    put("used", json!(status.used));
    put("avail", json!(status.avail));
    put("active", json!(u8::from(status.active)));
    put("enabled", json!(u8::from(status.enabled)));
    put("shared", json!(u8::from(status.shared)));
    if let Some(reason) = &status.reason {
        put("reason", json!(reason));
    }
    row
}

/// Image formats, also in the old shape of a pair.
fn add_formats(row: &mut Map<String, Value>, entry: &Entry) {
    let mut names: Vec<&str> = entry.formats().iter().map(|format| format.name()).collect();
    names.sort_unstable();
    let default = entry.default_format().name();
    row.insert("formats".into(), json!({ "supported": names, "default": default }));
    let valid: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), json!(1))).collect();
    row.insert("format".into(), json!([valid, default]));
    if entry.known_kind().is_some_and(|kind| kind.declared().select_existing) {
        row.insert("select_existing".into(), json!(1));
    }
}
