//! `user.cfg`: users, tokens, groups, roles, pools and the access tree.
//!
//! Owns the types and what they mean together. Reading and writing the text is in [`parse`] and [`print`]; who may do
//! what follows from the tree in [`super::permission`].

mod parse;
mod print;

use super::acl::AclNode;
use super::identity::{TokenId, UserId};
use super::privilege::PrivilegeSet;
use super::role;
use crate::{Error, Result, Vmid};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The whole file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserConfig {
    /// Users by name; `root@pam` is always there.
    pub users: BTreeMap<UserId, User>,
    /// Groups by name.
    pub groups: BTreeMap<String, Group>,
    /// Roles that people have made; the built-in ones are found by [`UserConfig::role`].
    pub roles: BTreeMap<String, PrivilegeSet>,
    /// Pools by name; the parent of a nested pool is always there.
    pub pools: BTreeMap<String, Pool>,
    /// Who has which roles on which path.
    pub acl: AclNode,
    /// Lines of kinds that we do not know, and comments; written back at the end.
    pub unknown: Vec<String>,
    /// Numbers, from 1, of the lines that make no sense or are of a kind that we do not know.
    pub problems: Vec<usize>,
    /// The pool of each guest that has one.
    guests: HashMap<Vmid, String>,
}

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// May log in.
    pub enabled: bool,
    /// Second since the epoch at which the account ends; 0 for never.
    pub expire: u64,
    /// First name.
    pub first_name: String,
    /// Last name.
    pub last_name: String,
    /// Mail address.
    pub email: String,
    /// Free text.
    pub comment: String,
    /// Second factors of old.
    pub keys: String,
    /// API tokens by the part of their name after `!`.
    pub tokens: BTreeMap<String, Token>,
}

/// An API token; its secret is in another file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Token {
    /// Second since the epoch at which the token ends; 0 for never.
    pub expire: u64,
    /// Has only those of its user's rights that it was given itself.
    pub separate: bool,
    /// Free text.
    pub comment: String,
}

/// A group of users.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Group {
    /// Members; some may not exist as users.
    pub users: BTreeSet<UserId>,
    /// Free text.
    pub comment: String,
}

/// A pool of guests and storages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pool {
    /// Free text.
    pub comment: String,
    /// Guests; a guest is in one pool only.
    pub guests: BTreeSet<Vmid>,
    /// Storages; a storage may be in many pools.
    pub storages: BTreeSet<String>,
}

impl UserConfig {
    /// The user, or `no such user ('NAME')`.
    pub fn user(&self, user: &UserId) -> Result<&User> {
        self.users.get(user).ok_or_else(|| no_such_user(user))
    }

    /// The user to be changed, or `no such user ('NAME')`.
    pub fn user_mut(&mut self, user: &UserId) -> Result<&mut User> {
        self.users.get_mut(user).ok_or_else(|| no_such_user(user))
    }

    /// Fails unless the user exists, is enabled and has not expired.
    pub fn check_enabled(&self, user: &UserId, now: i64) -> Result<()> {
        let found = self.user(user)?;
        if !found.enabled {
            return Err(Error::new(format!("user '{user}' is disabled")));
        }
        if is_past(found.expire, now) {
            return Err(Error::new(format!("user '{user}' access expired")));
        }
        Ok(())
    }

    /// The token, or what is missing of it.
    pub fn token(&self, token: &TokenId) -> Result<&Token> {
        self.user(&token.user)?.tokens.get(&token.name).ok_or_else(|| no_such_token(token))
    }

    /// The token to be changed, or what is missing of it.
    pub fn token_mut(&mut self, token: &TokenId) -> Result<&mut Token> {
        self.user_mut(&token.user)?.tokens.get_mut(&token.name).ok_or_else(|| no_such_token(token))
    }

    /// The privileges of a role, built in or made by people.
    pub fn role(&self, name: &str) -> Option<PrivilegeSet> {
        role::built_in(name).or_else(|| self.roles.get(name).copied())
    }

    /// All roles by name.
    pub fn all_roles(&self) -> BTreeMap<&str, PrivilegeSet> {
        let mut all: BTreeMap<&str, PrivilegeSet> = role::all_built_in().collect();
        all.extend(self.roles.iter().map(|(name, privileges)| (name.as_str(), *privileges)));
        all
    }

    /// The groups that a user is in.
    pub fn groups_of(&self, user: &UserId) -> impl Iterator<Item = &str> {
        self.groups.iter().filter(|(_, group)| group.users.contains(user)).map(|(name, _)| name.as_str())
    }

    /// The pool, or `pool 'NAME' does not exist`.
    pub fn pool(&self, name: &str) -> Result<&Pool> {
        self.pools.get(name).ok_or_else(|| no_such_pool(name))
    }

    /// The pool to be changed, or `pool 'NAME' does not exist`. Guests are moved by [`UserConfig::set_pool`].
    pub fn pool_mut(&mut self, name: &str) -> Result<&mut Pool> {
        self.pools.get_mut(name).ok_or_else(|| no_such_pool(name))
    }

    /// The pool that a guest is in.
    pub fn pool_of(&self, vmid: Vmid) -> Option<&str> {
        self.guests.get(&vmid).map(String::as_str)
    }

    /// Takes a guest out of its pool and puts it into another one, or none. A pool that does not exist counts as none.
    pub fn set_pool(&mut self, vmid: Vmid, pool: Option<&str>) {
        if let Some(old) = self.guests.remove(&vmid)
            && let Some(old) = self.pools.get_mut(&old)
        {
            old.guests.remove(&vmid);
        }
        if let Some(name) = pool
            && let Some(new) = self.pools.get_mut(name)
        {
            new.guests.insert(vmid);
            self.guests.insert(vmid, name.to_owned());
        }
    }

    /// The pools directly below one.
    pub fn pools_in<'a>(&'a self, parent: &'a str) -> impl Iterator<Item = &'a str> {
        let below = move |name: &&String| name.strip_prefix(parent).is_some_and(is_one_level);
        self.pools.keys().filter(below).map(String::as_str)
    }
}

fn is_one_level(rest: &str) -> bool {
    rest.strip_prefix('/').is_some_and(|name| !name.contains('/'))
}

/// Whether an expiry time has passed; 0 never does.
pub fn is_past(expire: u64, now: i64) -> bool {
    expire != 0 && i64::try_from(expire).is_ok_and(|expire| expire < now)
}

fn no_such_user(user: &UserId) -> Error {
    Error::new(format!("no such user ('{user}')"))
}

fn no_such_token(token: &TokenId) -> Error {
    Error::new(format!("no such token '{}' for user '{}'", token.name, token.user))
}

fn no_such_pool(name: &str) -> Error {
    Error::new(format!("pool '{name}' does not exist"))
}

#[cfg(test)]
mod tests;
