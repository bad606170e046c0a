//! What somebody may do where. (PVE: pve-access-control PVE/API2/AccessControl.pm `permissions`,
//! PVE/RPCEnvironment.pm `get_effective_permissions`)

use super::super::identity::TokenId;
use super::super::permission::Rights;
use super::super::user_config::UserConfig;
use super::super::{check, config, path};
use super::permission;
use crate::{Call, Reply, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// `GET /access/permissions`: path to privilege to whether it propagates. Of others only for auditors.
pub fn read(call: &Call) -> Result<Reply> {
    let caller = call.ctx.caller.id();
    let subject: String = call.opt("userid")?.unwrap_or_else(|| caller.to_owned());
    let is_own_token = subject.parse::<TokenId>().is_ok_and(|token| token.user.as_str() == caller);
    if subject != caller && !is_own_token {
        check(call.ctx, "/access", &["Sys.Audit"])?;
    }
    let config = config(call.ctx)?;
    let rights = |path: &str| permission::rights(&config, &subject, path);
    let given: Option<String> = call.opt("path")?;
    let map: Map<String, Value> = match given.filter(|path| !path.is_empty()) {
        Some(path) => {
            let found = path::normalize(&path).map(|path| rights(&path)).unwrap_or_default();
            Map::from_iter([(path, describe(found))])
        }
        None => {
            let all = paths(&config).into_iter().map(|path| (rights(&path), path));
            all.filter(|(rights, _)| !rights.held.is_empty()).map(|(rights, path)| (path, describe(rights))).collect()
        }
    };
    Ok(Value::Object(map).into())
}

fn describe(rights: Rights) -> Value {
    let entry = |privilege: super::super::Privilege| {
        (privilege.name().to_owned(), json!(u8::from(rights.propagated.contains(privilege))))
    };
    Value::Object(rights.held.iter().map(entry).collect())
}

/// The paths worth showing: the top of the tree, those with entries, and members of pools.
fn paths(config: &UserConfig) -> BTreeSet<String> {
    let top = ["/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms"];
    let mut paths: BTreeSet<String> = top.map(str::to_owned).into();
    config.acl.visit(&mut |path, _| {
        paths.insert(path.to_owned());
    });
    for pool in config.pools.values() {
        paths.extend(pool.guests.iter().map(|vmid| format!("/vms/{vmid}")));
        paths.extend(pool.storages.iter().map(|storage| format!("/storage/{storage}")));
    }
    paths
}
