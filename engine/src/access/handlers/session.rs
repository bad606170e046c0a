//! Tickets and passwords. (PVE: pve-access-control PVE/API2/AccessControl.pm)

use super::super::identity::UserId;
use super::super::permission::{Rights, rights};
use super::super::user_config::UserConfig;
use super::super::{config, csrf, login, method, path, ticket, vnc_ticket};
use crate::error::ResultExt;
use crate::{Call, Error, Reply, Result};
use serde_json::{Map, Value, json};

/// `GET /access/ticket`: nothing; a place for a log-in page.
pub fn login_page(_: &Call) -> Result<Reply> {
    Ok(Reply::null())
}

/// `POST /access/ticket`: logs in, renews a ticket, or only checks rights on a path.
pub fn create_ticket(call: &Call) -> Result<Reply> {
    let mut name: String = call.param("username")?;
    if let Some(realm) = call.opt::<String>("realm")?.filter(|realm| !realm.is_empty()) {
        name = format!("{name}@{realm}");
    }
    let answer = log_in(call, &name).map_err(|reason| login::refuse(call.ctx, &name, &reason))?;
    Ok(Value::Object(answer).into())
}

fn log_in(call: &Call, name: &str) -> Result<Map<String, Value>> {
    let user: UserId = name.parse().map_err(|error: String| Error::new(error))?;
    let config = config(call.ctx)?;
    config.check_enabled(&user, call.ctx.clock.now())?;
    // Who has a second factor is refused below. For everybody else PVE does not look at 'otp', which some clients always send.
    if call.params.contains_key("tfa-challenge") {
        return Err(Error::new("second factors are not supported"));
    }
    let secret: String = call.param("password")?;
    let mut answer = Map::from_iter([("username".to_owned(), json!(user.as_str()))]);
    let path: Option<String> = call.opt("path")?;
    let asks_for_rights = call.text("privs").is_some_and(|privileges| !privileges.is_empty());
    match path.filter(|path| !path.is_empty() && asks_for_rights) {
        Some(path) => {
            let normal = path::normalize(&path).ok_or_else(|| Error::new(format!("invalid path - {path}")))?;
            if vnc_ticket::verify(call.ctx, &secret, user.as_str(), &normal, None).is_err() {
                login::password_or_ticket(call.ctx, &user, &secret, false)?;
            }
            check_listed(call, &config, user.as_str(), &normal)?;
        }
        None => {
            login::password_or_ticket(call.ctx, &user, &secret, true)?;
            answer.insert("ticket".into(), json!(ticket::assemble(call.ctx, &user)?));
            answer.insert("CSRFPreventionToken".into(), json!(csrf::assemble(call.ctx, user.as_str())?));
        }
    }
    answer.insert("cap".into(), capabilities(&config, &user));
    Ok(answer)
}

/// Fails unless `caller` has all privileges of parameter `privs` on a path, of which there must be one.
fn check_listed(call: &Call, config: &UserConfig, caller: &str, path: &str) -> Result<()> {
    let privileges: Vec<String> = call.param("privs")?;
    if privileges.is_empty() {
        return Err(Error::new(format!("no permission ({path}, )")));
    }
    match method::missing(rights(config, caller, path), path, &privileges, false) {
        None => Ok(()),
        Some(missing) => Err(missing.error()),
    }
}

/// What a user may do in which area of the web interface: area to privilege to 1.
/// (PVE: PVE/RPCEnvironment.pm, compute_api_permission)
fn capabilities(config: &UserConfig, user: &UserId) -> Value {
    let mut areas: Map<String, Value> = ["vms", "access", "storage", "nodes", "sdn", "dc", "mapping"]
        .map(|area| (area.to_owned(), json!({})))
        .into_iter()
        .collect();
    let mut paths: Vec<String> =
        ["/", "/nodes", "/access/groups", "/vms", "/storage", "/sdn", "/mapping"].map(str::to_owned).to_vec();
    config.acl.visit(&mut |path, _| paths.push(path.to_owned()));
    paths.sort_unstable();
    paths.dedup();
    for path in paths {
        let top = path::components(&path).next().unwrap_or("dc");
        let Rights { held, .. } = rights(config, user.as_str(), &path);
        for privilege in held.iter().map(|privilege| privilege.name()) {
            let area = |area: &str| belongs(area, privilege).then(|| area.to_owned());
            let found = match top {
                "pool" => [area("vms"), area("storage")],
                other => [areas.contains_key(other).then(|| area(other)).flatten(), None],
            };
            for area in found.into_iter().flatten() {
                if let Some(Value::Object(privileges)) = areas.get_mut(&area) {
                    privileges.insert(privilege.to_owned(), json!(1));
                }
            }
        }
    }
    Value::Object(areas)
}

/// Whether a privilege means something in an area.
fn belongs(area: &str, privilege: &str) -> bool {
    let prefixes: &[&str] = match area {
        "vms" => &["VM.", "Permissions.Modify"],
        "access" => &["User.", "Group.", "Permissions.Modify"],
        "storage" => &["Datastore.", "Permissions.Modify"],
        "nodes" => &["Sys.", "Permissions.Modify"],
        "sdn" => &["SDN.", "Permissions.Modify"],
        "dc" => &["Sys.Audit", "Sys.Modify", "SDN."],
        "mapping" => &["Mapping.", "Permissions.Modify"],
        _ => &[],
    };
    prefixes.iter().any(|prefix| privilege.starts_with(prefix))
}

/// `POST /access/vncticket`: checks a console's ticket and rights on its path.
pub fn verify_vnc_ticket(call: &Call) -> Result<Reply> {
    let caller: String = call.param("authid")?;
    let verify = || -> Result<()> {
        let path: String = call.param("path")?;
        let normal = path::normalize(&path).ok_or_else(|| Error::new("invalid ticket path"))?;
        let port: Option<u16> = call.opt("port")?;
        vnc_ticket::verify(call.ctx, &call.param::<String>("vncticket")?, &caller, &normal, port)?;
        check_listed(call, &*config(call.ctx)?, &caller, &normal)
    };
    verify().map_err(|reason| login::refuse(call.ctx, &caller, &reason))?;
    Ok(Reply::null())
}

/// `PUT /access/password`: changes a password. Everybody but root must show the own one first.
pub fn change_password(call: &Call) -> Result<Reply> {
    let user: UserId = call.param("userid")?;
    let config = config(call.ctx)?;
    config.user(&user)?;
    if !call.ctx.caller.is_root() {
        let refused = || Error::Forbidden("Permission check failed".into());
        if user.is_root() {
            return Err(refused());
        }
        const CONFIRMATION: &str = "confirmation-password";
        let own: Option<String> = call.opt(CONFIRMATION)?;
        let own = own.ok_or_else(|| Error::parameter(CONFIRMATION, "password is required to modify user"))?;
        let caller: UserId = call.ctx.caller.id().parse().map_err(|_| refused())?;
        login::check_password(call.ctx, &caller, &own).map_err(|reason| {
            login::refuse(call.ctx, caller.as_str(), &reason);
            Error::new("invalid credentials")
        })?;
        if caller == user {
            config.check_enabled(&user, call.ctx.clock.now())?;
        } else if user.realm() == "pam" {
            return Err(refused());
        }
    }
    login::set_password(call.ctx, &user, &call.param::<String>("password")?)
        .context(|| format!("password of '{user}'"))?;
    Ok(Reply::null())
}
