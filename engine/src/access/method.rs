//! May this caller call this method? The contract's permission expressions, evaluated.
//! (PVE: pve-access-control PVE/RPCEnvironment.pm, check_api2_permissions and exec_api2_perm_check)

use super::identity::UserId;
use super::permission::{Rights, rights};
use super::privilege::Privilege;
use super::user_config::UserConfig;
use super::{path, store};
use crate::call::{FromParam, config_text};
use crate::{Context, Error, Result};
use contract::{Check, GroupsParam, Method, Permission, UseridParam};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Refuses a call that its caller may not make. `caller` is `None` for somebody who has not logged in.
///
/// # Errors
/// 401 without login, 403 with path and privilege in parentheses. A `userid` that cannot be or does not exist is a plain
/// error (500), because the check itself needs that user.
pub fn check_method(ctx: &Context, caller: Option<&str>, method: &Method, params: &Map<String, Value>) -> Result<()> {
    if caller.is_some_and(|caller| caller.contains('!')) && !method.allowtoken {
        let uri = fill(method.template, params);
        return Err(denied(&format!("URI '{uri}' not available with API token, need proper ticket.\n")));
    }
    if matches!(method.permissions, Some(Permission::World)) {
        return Ok(());
    }
    let caller = match caller {
        None | Some("") => return Err(Error::Unauthorized("No ticket".into())),
        Some("root@pam") => return Ok(()),
        Some(caller) => caller,
    };
    match &method.permissions {
        None => Err(denied("user != root@pam")),
        Some(Permission::World | Permission::AllUsers | Permission::AllUsersWithIdleCheck(_)) => Ok(()),
        Some(Permission::Check(check)) => {
            let config = store::load(ctx)?;
            let question = Question { config: &config, caller, params };
            match question.evaluate(check, false)? {
                Verdict::Granted => Ok(()),
                Verdict::Denied(missing) => Err(forbidden(missing)),
            }
        }
    }
}

/// `Permission check failed (DETAIL)`.
pub fn denied(detail: &str) -> Error {
    Error::Forbidden(format!("Permission check failed ({detail})"))
}

/// What is missing on a path: one privilege, or any of several, joined by `|`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    path: String,
    privileges: String,
}

impl Missing {
    /// The 403 about it.
    pub fn error(&self) -> Error {
        denied(&format!("{}, {}", self.path, self.privileges))
    }
}

/// The 403 about alternatives of which none holds.
fn forbidden(missing: Vec<Missing>) -> Error {
    let mut merged: Vec<Missing> = Vec::new();
    for Missing { path, privileges } in missing {
        match merged.iter_mut().find(|known| known.path == path) {
            Some(known) => known.privileges = format!("{}|{privileges}", known.privileges),
            None => merged.push(Missing { path, privileges }),
        }
    }
    if merged.is_empty() {
        return Error::Forbidden("Permission check failed".into());
    }
    let texts: Vec<String> = merged.iter().map(|one| format!("{}, {}", one.path, one.privileges)).collect();
    denied(&texts.join(" or "))
}

/// Answer to a part of an expression.
enum Verdict {
    Granted,
    /// What is missing, as far as it can be said.
    Denied(Vec<Missing>),
}

/// Who asks for what.
struct Question<'a> {
    config: &'a UserConfig,
    caller: &'a str,
    params: &'a Map<String, Value>,
}

impl Question<'_> {
    /// `quiet` inside of an `or`: a user who does not exist then only means "no".
    fn evaluate(&self, check: &Check, quiet: bool) -> Result<Verdict> {
        match check {
            Check::And(parts) => {
                for part in parts {
                    // A part that fails ends the whole check, also when an `or` is around it.
                    if let Verdict::Denied(missing) = self.evaluate(part, false)? {
                        return Err(forbidden(missing));
                    }
                }
                Ok(Verdict::Granted)
            }
            Check::Or(parts) => {
                let mut missing = Vec::new();
                for part in parts {
                    match self.evaluate(part, true)? {
                        Verdict::Granted => return Ok(Verdict::Granted),
                        Verdict::Denied(details) => missing.extend(details),
                    }
                }
                // PVE names nothing here. Clients look for a path and a privilege, and people need them.
                Ok(Verdict::Denied(missing))
            }
            Check::Perm { path, privileges, any, require_param } => {
                let path = path::normalize(&fill(path, self.params)).unwrap_or_default();
                let missing_param = require_param.as_ref().is_some_and(|name| !self.is_given(name));
                Ok(if missing_param { Verdict::Denied(Vec::new()) } else { self.on_path(&path, privileges, *any) })
            }
            Check::PermModify { path } => Ok(match path::normalize(&fill(path, self.params)) {
                Some(path) => self.on_path(&path, &modifying_privileges(&path), true),
                None => self.on_path("/access", &["Permissions.Modify"], true),
            }),
            Check::UseridParam(test) => self.about_user(test, quiet),
            Check::UseridGroup { privileges, groups_param } => self.about_groups(privileges, *groups_param, quiet),
        }
    }

    fn is_given(&self, name: &str) -> bool {
        self.params.get(name).is_some_and(|value| !value.is_null())
    }

    fn rights(&self, path: &str) -> Rights {
        rights(self.config, self.caller, path)
    }

    fn on_path(&self, path: &str, privileges: &[impl AsRef<str>], any: bool) -> Verdict {
        match missing(self.rights(path), path, privileges, any) {
            None => Verdict::Granted,
            Some(missing) => Verdict::Denied(vec![missing]),
        }
    }

    fn about_user(&self, test: &UseridParam, quiet: bool) -> Result<Verdict> {
        let user = self.userid()?;
        match test {
            UseridParam::RealmPrivilege(privilege) => {
                Ok(self.on_path(&format!("/access/realm/{}", user.realm()), &[privilege], false))
            }
            UseridParam::Self_ => Ok(match self.config.user(&user) {
                Err(error) if !quiet => return Err(error),
                Ok(_) if user.as_str() == self.caller => Verdict::Granted,
                _ => Verdict::Denied(Vec::new()),
            }),
        }
    }

    fn about_groups(&self, privileges: &[String], param: Option<GroupsParam>, quiet: bool) -> Result<Verdict> {
        let user = self.userid();
        let must_exist = param != Some(GroupsParam::Create);
        if must_exist {
            let found =
                user.as_ref().map_err(|error| Error::new(error.message())).and_then(|user| self.config.user(user));
            match found {
                Err(_) if quiet => return Ok(Verdict::Denied(Vec::new())),
                found => found?,
            };
        }
        const ALL_GROUPS: &str = "/access/groups";
        if missing(self.rights(ALL_GROUPS), ALL_GROUPS, privileges, true).is_none() {
            return Ok(Verdict::Granted);
        }
        let held = |group: &str| {
            let path = format!("{ALL_GROUPS}/{group}");
            missing(self.rights(&path), &path, privileges, true).is_none()
        };
        let allowed: BTreeSet<&str> = self.config.groups.keys().map(String::as_str).filter(|name| held(name)).collect();
        if param.is_some() {
            let wanted = self.params.get("groups").map(Vec::from_param).transpose().map_err(Error::new)?;
            let wanted: Vec<String> = wanted.unwrap_or_default();
            if wanted.is_empty() {
                return Err(any_of(ALL_GROUPS, privileges).error());
            }
            if let Some(group) = wanted.iter().find(|group| !allowed.contains(group.as_str())) {
                return Err(any_of(&format!("{ALL_GROUPS}/{group}"), privileges).error());
            }
        }
        if must_exist && !self.config.groups_of(&user?).any(|group| allowed.contains(group)) {
            return Ok(Verdict::Denied(vec![any_of(ALL_GROUPS, privileges)]));
        }
        Ok(Verdict::Granted)
    }

    /// The user named by parameter `userid`.
    fn userid(&self) -> Result<UserId> {
        let text = self.params.get("userid").map(config_text).unwrap_or_default();
        text.parse().map_err(|error: String| Error::new(error))
    }
}

/// The privileges of which one lets somebody change the entries of a path.
pub fn modifying_privileges(path: &str) -> Vec<&'static str> {
    let below = |prefix: &str| path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty());
    let mut privileges = vec!["Permissions.Modify"];
    if below("/storage/") {
        privileges.push("Datastore.Allocate");
    } else if below("/vms/") {
        privileges.push("VM.Allocate");
    } else if below("/pool/") {
        privileges.push("Pool.Allocate");
    }
    privileges
}

/// What is missing on a path, if anything. Of several needed privileges the first is named.
pub fn missing(rights: Rights, path: &str, privileges: &[impl AsRef<str>], any: bool) -> Option<Missing> {
    let held = |name: &str| name.parse::<Privilege>().is_ok_and(|privilege| rights.held.contains(privilege));
    let mut names = privileges.iter().map(AsRef::as_ref);
    if any {
        return (!names.any(held)).then(|| any_of(path, privileges));
    }
    let name = names.find(|name| !held(name))?;
    Some(Missing { path: path.to_owned(), privileges: name.to_owned() })
}

fn any_of(path: &str, privileges: &[impl AsRef<str>]) -> Missing {
    let names: Vec<&str> = privileges.iter().map(AsRef::as_ref).collect();
    Missing { path: path.to_owned(), privileges: names.join("|") }
}

/// Replaces each `{parameter}` by its value; a missing, empty or zero one by `-`.
fn fill(template: &str, params: &Map<String, Value>) -> String {
    let mut filled = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').unwrap_or((after, ""));
        filled.push_str(before);
        match params.get(name).map(config_text) {
            Some(value) if !matches!(value.as_str(), "" | "0") => filled.push_str(&value),
            _ => filled.push('-'),
        }
        rest = after;
    }
    filled.push_str(rest);
    filled
}

#[cfg(test)]
mod tests;
