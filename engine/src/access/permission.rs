//! What somebody may do on a path: the walk along the access tree.
//!
//! From the root down, each level is asked for entries of the token, then of the user, then of the user's groups; the
//! first kind that has any replaces all that came from above. Entries that do not propagate count on their own path only.
//! `NoAccess` in the end removes everything. The roles of pools come on top for their members, without propagation.
//! A token with separate rights has what both its user and itself have.
//! (PVE: pve-access-control PVE/AccessControl.pm `roles`, PVE/RPCEnvironment.pm `permissions` and `compile_acl_path`)

use super::acl::{AclNode, Roles};
use super::identity::{TokenId, UserId};
use super::path;
use super::privilege::PrivilegeSet;
use super::role::NO_ACCESS;
use super::user_config::UserConfig;
use std::collections::BTreeMap;

/// Privileges on a path.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// The privileges held.
    pub held: PrivilegeSet,
    /// Those that were given for everything below as well. For information; the walk has taken care of it.
    pub propagated: PrivilegeSet,
}

impl Rights {
    fn everything() -> Self {
        Rights { held: PrivilegeSet::all(), propagated: PrivilegeSet::all() }
    }

    fn both(self, other: Self) -> Self {
        Rights { held: self.held.intersection(other.held), propagated: self.propagated.intersection(other.propagated) }
    }
}

/// Who is asked about.
#[derive(Clone, Copy)]
enum Subject<'a> {
    User(&'a UserId),
    Token(&'a TokenId),
}

/// Somebody whose rights are asked for, looked up once.
#[derive(Debug)]
pub enum Someone {
    /// A user, who need not exist.
    User(UserId),
    /// A token that exists, and whether its rights are separate from its user's.
    Token(TokenId, bool),
    /// Nobody that there could be.
    Nobody,
}

impl Someone {
    /// Who goes by this name, a user's or a token's.
    pub fn find(config: &UserConfig, caller: &str) -> Self {
        if let Ok(user) = caller.parse() {
            return Someone::User(user);
        }
        let Ok(token) = caller.parse::<TokenId>() else { return Someone::Nobody };
        match config.token(&token).map(|found| found.separate) {
            Ok(separate) => Someone::Token(token, separate),
            Err(_) => Someone::Nobody,
        }
    }

    /// What they may do on a normalised path.
    pub fn rights(&self, config: &UserConfig, path: &str) -> Rights {
        match self {
            Someone::User(user) => rights_of_user(config, user, path),
            Someone::Token(token, false) => rights_of_user(config, &token.user, path),
            Someone::Token(token, true) => {
                compile(config, Subject::Token(token), path).both(rights_of_user(config, &token.user, path))
            }
            Someone::Nobody => Rights::default(),
        }
    }
}

/// What `caller`, a user or a token, may do on a normalised path. Somebody who does not exist may do nothing.
pub fn rights(config: &UserConfig, caller: &str, path: &str) -> Rights {
    Someone::find(config, caller).rights(config, path)
}

fn rights_of_user(config: &UserConfig, user: &UserId, path: &str) -> Rights {
    if user.is_root() {
        return Rights::everything();
    }
    compile(config, Subject::User(user), path)
}

fn compile(config: &UserConfig, subject: Subject, path: &str) -> Rights {
    let mut roles = roles(config, subject, path);
    if !roles.contains_key(NO_ACCESS) {
        let from_pools = roles_from_pools(config, subject, path);
        if from_pools.contains_key(NO_ACCESS) {
            return Rights::default();
        }
        for role in from_pools.into_keys() {
            roles.entry(role).or_insert(false);
        }
    }
    let mut rights = Rights::default();
    for (role, propagate) in roles {
        let privileges = config.role(role).unwrap_or_default();
        rights.held = rights.held.union(privileges);
        if propagate {
            rights.propagated = rights.propagated.union(privileges);
        }
    }
    rights
}

/// The roles that the pools of a guest or storage give.
fn roles_from_pools<'a>(config: &'a UserConfig, subject: Subject, path: &str) -> BTreeMap<&'a str, bool> {
    let in_pool = |pool: &str| roles(config, subject, &format!("/pool/{pool}"));
    if let Some(vmid) = path.strip_prefix("/vms/") {
        let pool = vmid.parse().ok().and_then(|vmid| config.pool_of(vmid));
        return pool.map(in_pool).unwrap_or_default();
    }
    match path.strip_prefix("/storage/") {
        Some(storage) => {
            let pools = config.pools.iter().filter(|(_, pool)| pool.storages.contains(storage));
            pools.flat_map(|(name, _)| in_pool(name)).collect()
        }
        None => BTreeMap::new(),
    }
}

/// The roles on a path by the tree alone, with their propagation.
fn roles<'a>(config: &'a UserConfig, subject: Subject, path: &str) -> BTreeMap<&'a str, bool> {
    let mut collected = BTreeMap::new();
    let mut parts = path::components(path).peekable();
    let mut node = Some(&config.acl);
    while let Some(level) = node {
        let last = parts.peek().is_none();
        if let Some(found) = roles_of_level(config, level, subject, last) {
            collected = found;
        }
        node = parts.next().and_then(|part| level.children.get(part));
    }
    match collected.get_key_value(NO_ACCESS) {
        Some((role, propagate)) => BTreeMap::from([(*role, *propagate)]),
        None => collected,
    }
}

/// What one level says about somebody, if it says anything.
fn roles_of_level<'a>(
    config: &UserConfig,
    level: &'a AclNode,
    subject: Subject,
    last: bool,
) -> Option<BTreeMap<&'a str, bool>> {
    let counting = |roles: &'a Roles| {
        let counts = move |(_, propagate): &(&String, &bool)| last || **propagate;
        roles.iter().filter(counts).map(|(role, propagate)| (role.as_str(), *propagate))
    };
    let own: BTreeMap<&str, bool> = match subject {
        Subject::Token(token) => level.tokens.get(token),
        Subject::User(user) => level.users.get(user),
    }
    .into_iter()
    .flat_map(counting)
    .collect();
    if !own.is_empty() {
        return Some(own);
    }
    let Subject::User(user) = subject else { return None };
    let mut of_groups = BTreeMap::new();
    for (name, roles) in &level.groups {
        if config.groups.get(name).is_some_and(|group| group.users.contains(user)) {
            for (role, propagate) in counting(roles) {
                *of_groups.entry(role).or_insert(false) |= propagate;
            }
        }
    }
    (!of_groups.is_empty()).then_some(of_groups)
}

#[cfg(test)]
mod tests;
