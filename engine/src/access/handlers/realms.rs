//! Realms. Those of directories and of OpenID are not built: they can be listed and removed, but not made or changed.
//! (PVE: pve-access-control PVE/API2/Domains.pm)

use super::super::realm::{self, Realms};
use crate::config::section::Section;
use crate::{Call, Error, Reply, Result, file};
use serde_json::{Map, Value, json};

fn missing(realm: &str) -> Error {
    Error::new(format!("domain '{realm}' does not exist"))
}

fn unsupported(kind: &str) -> Error {
    Error::NotImplemented(format!("realms of type '{kind}' are not supported"))
}

/// `GET /access/domains`: what a log-in mask needs to know.
pub fn index(call: &Call) -> Result<Reply> {
    let realms = realm::load(call.ctx)?;
    let rows = realms.iter().map(|(name, section)| {
        let mut row = Map::new();
        row.insert("realm".into(), json!(name));
        row.insert("type".into(), json!(section.kind));
        if let Some(comment) = Realms::comment(section) {
            row.insert("comment".into(), json!(comment));
        }
        if section.flag("default") {
            row.insert("default".into(), json!(1));
        }
        if let Some(kind) = section.get("tfa").and_then(second_factor) {
            row.insert("tfa".into(), json!(kind));
        }
        Value::Object(row)
    });
    Ok(rows.collect::<Value>().into())
}

/// The type in a realm's `tfa` setting.
fn second_factor(setting: &str) -> Option<&str> {
    setting.split(',').find_map(|part| part.trim().strip_prefix("type="))
}

/// `GET /access/domains/{realm}`.
pub fn read(call: &Call) -> Result<Reply> {
    let name: String = call.param("realm")?;
    let realms = realm::load(call.ctx)?;
    let section = realms.get(&name).ok_or_else(|| missing(&name))?;
    let mut row: Map<String, Value> =
        section.values.iter().map(|(key, value)| (key.clone(), typed(section, key, value))).collect();
    row.insert("type".into(), json!(section.kind));
    row.insert("digest".into(), json!(realms.digest));
    Ok(Value::Object(row).into())
}

/// Numbers and booleans of the file are numbers in the answer.
fn typed(section: &Section, key: &str, value: &str) -> Value {
    match key {
        "comment" => json!(Realms::comment(section)),
        "port" => value.parse::<u16>().map_or_else(|_| json!(value), |port| json!(port)),
        "default" | "secure" | "verify" | "autocreate" | "case-sensitive" | "groups-autocreate"
        | "groups-overwrite" | "query-userinfo" => json!(u8::from(section.flag(key))),
        _ => json!(value),
    }
}

/// `POST /access/domains`.
pub fn create(call: &Call) -> Result<Reply> {
    let (name, kind): (String, String) = (call.param("realm")?, call.param("type")?);
    let refused = |error: Error| Err(error.context("add auth server failed"));
    if realm::load(call.ctx)?.get(&name).is_some() {
        return refused(Error::new(format!("domain '{name}' already exists")));
    }
    if matches!(kind.as_str(), "pam" | "pve") {
        return refused(Error::new(format!("unable to create builtin type '{kind}'")));
    }
    refused(unsupported(&kind))
}

/// `PUT /access/domains/{realm}`.
pub fn update(call: &Call) -> Result<Reply> {
    let name: String = call.param("realm")?;
    let deleted: Vec<String> = call.opt("delete")?.unwrap_or_default();
    let settings: Vec<&str> =
        call.params.keys().map(String::as_str).filter(|key| !matches!(*key, "realm" | "delete" | "digest")).collect();
    realm::update(call.ctx, "update auth server failed", |realms| {
        file::assert_digest(&realms.digest, call.text("digest").as_deref())?;
        let kind = &realms.get(&name).ok_or_else(|| missing(&name))?.kind;
        if !matches!(kind.as_str(), "pam" | "pve") {
            return Err(unsupported(kind));
        }
        if settings.is_empty() && deleted.is_empty() {
            return Err(Error::new("no options specified"));
        }
        deleted.iter().for_each(|key| realms.set(&name, key, None));
        for key in &settings {
            match *key {
                "comment" => realms.set(&name, key, call.text(key).as_deref()),
                "default" if call.flag(key) => realms.set_default(&name),
                "default" => realms.set(&name, key, None),
                "tfa" => return Err(Error::NotImplemented("second factors are not supported".into())),
                other => return Err(Error::new(format!("unexpected property '{other}'"))),
            }
        }
        Ok(())
    })?;
    Ok(Reply::null())
}

/// `DELETE /access/domains/{realm}`.
pub fn delete(call: &Call) -> Result<Reply> {
    let name: String = call.param("realm")?;
    realm::update(call.ctx, "delete auth server failed", |realms| {
        if realms.get(&name).is_none() {
            return Err(Error::new(format!("authentication domain '{name}' does not exist")));
        }
        realms.remove(&name);
        Ok(())
    })?;
    Ok(Reply::null())
}
