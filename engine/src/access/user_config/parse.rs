//! Reading `user.cfg`. Lines may stand in any order; what makes no sense is left out, as PVE leaves it out.
//! (PVE: pve-access-control PVE/AccessControl.pm, parse_user_config)

use super::super::acl::Member;
use super::super::identity::{TokenId, UserId, is_pool, is_word};
use super::super::privilege::PrivilegeSet;
use super::super::{path, role};
use super::{Group, Pool, Token, User, UserConfig};
use crate::config::text::decode;
use crate::types::split_list;
use std::collections::hash_map::Entry;

/// A line's kind and fields.
struct Line<'a> {
    kind: &'a str,
    fields: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Self {
        let mut fields = line.split(':').map(str::trim);
        let kind = fields.next().unwrap_or_default();
        Line { kind, fields: fields.collect() }
    }

    fn field(&self, number: usize) -> &'a str {
        self.fields.get(number).copied().unwrap_or_default()
    }

    fn flag(&self, number: usize) -> bool {
        !matches!(self.field(number), "" | "0")
    }

    /// A time; nothing means 0, anything but digits makes the line unreadable.
    fn time(&self, number: usize) -> Option<u64> {
        match self.field(number) {
            "" => Some(0),
            text => text.parse().ok(),
        }
    }
}

impl UserConfig {
    /// Reads the file's text.
    pub fn parse(text: &str) -> Self {
        let mut config = UserConfig::default();
        let lines: Vec<(usize, &str, Line)> = (1..)
            .zip(text.lines().map(str::trim))
            .filter(|(_, line)| !line.is_empty())
            .map(|(number, line)| (number, line, Line::read(line)))
            .collect();
        // What is referred to comes before what refers to it, whatever the order in the file.
        for kind in ["user", "token", "group", "role", "pool", "acl"] {
            for (number, _, line) in lines.iter().filter(|(_, _, line)| line.kind == kind) {
                if config.take(line).is_none() {
                    config.problems.push(*number);
                }
            }
            if kind == "user" {
                config.users.entry(root()).or_insert(User { enabled: true, ..User::default() });
            }
        }
        let is_known = |kind: &str| matches!(kind, "user" | "token" | "group" | "role" | "pool" | "acl");
        for (number, text, _) in lines.iter().filter(|(_, _, line)| !is_known(line.kind)) {
            config.unknown.push((*text).to_owned());
            if !text.starts_with('#') {
                config.problems.push(*number);
            }
        }
        config.problems.sort_unstable();
        config
    }

    /// Adds what a line says; `None` if it says nothing that makes sense.
    fn take(&mut self, line: &Line) -> Option<()> {
        match line.kind {
            "user" => self.take_user(line),
            "token" => self.take_token(line),
            "group" => self.take_group(line),
            "role" => self.take_role(line),
            "pool" => self.take_pool(line),
            _ => self.take_acl(line),
        }
    }

    fn take_user(&mut self, line: &Line) -> Option<()> {
        let id: UserId = line.field(0).parse().ok()?;
        let user = User {
            enabled: line.flag(1),
            expire: line.time(2)?,
            first_name: decode(line.field(3)),
            last_name: decode(line.field(4)),
            email: line.field(5).to_owned(),
            comment: decode(line.field(6)),
            keys: line.field(7).to_owned(),
            tokens: Default::default(),
        };
        self.users.insert(id, user);
        Some(())
    }

    fn take_token(&mut self, line: &Line) -> Option<()> {
        let id: TokenId = line.field(0).parse().ok()?;
        let token = Token { expire: line.time(1)?, separate: line.flag(2), comment: decode(line.field(3)) };
        self.users.get_mut(&id.user)?.tokens.insert(id.name, token);
        Some(())
    }

    fn take_group(&mut self, line: &Line) -> Option<()> {
        let name = line.field(0);
        if !is_word(name) {
            return None;
        }
        let group: &mut Group = self.groups.entry(name.to_owned()).or_default();
        group.users.extend(split_list(line.field(1)).iter().filter_map(|user| user.parse().ok()));
        set_comment(&mut group.comment, line.field(2));
        Some(())
    }

    fn take_role(&mut self, line: &Line) -> Option<()> {
        let name = line.field(0);
        if !is_word(name) || role::built_in(name).is_some() {
            return None;
        }
        let privileges: PrivilegeSet = split_list(line.field(1)).iter().filter_map(|text| text.parse().ok()).collect();
        let known = self.roles.entry(name.to_owned()).or_default();
        *known = known.union(privileges);
        Some(())
    }

    fn take_pool(&mut self, line: &Line) -> Option<()> {
        let name = line.field(0);
        if !is_pool(name) {
            return None;
        }
        for (end, _) in name.match_indices('/') {
            self.pools.entry(name[..end].to_owned()).or_default();
        }
        let pool: &mut Pool = self.pools.entry(name.to_owned()).or_default();
        set_comment(&mut pool.comment, line.field(1));
        for vmid in split_list(line.field(2)).iter().filter_map(|text| text.parse().ok()) {
            // The first pool that names a guest keeps it.
            if let Entry::Vacant(place) = self.guests.entry(vmid) {
                place.insert(name.to_owned());
                pool.guests.insert(vmid);
            }
        }
        pool.storages.extend(split_list(line.field(3)).into_iter().filter(|id| is_storage(id)));
        Some(())
    }

    fn take_acl(&mut self, line: &Line) -> Option<()> {
        let propagate = line.flag(0);
        let path = path::normalize(line.field(1))?;
        let roles: Vec<String> =
            split_list(line.field(3)).into_iter().filter(|role| self.role(role).is_some()).collect();
        for member in split_list(line.field(2)) {
            let Some(member) = Member::parse(&member) else { continue };
            // A token that comes to life later must not find rights waiting for it.
            if let Member::Token(token) = &member
                && self.token(token).is_err()
            {
                continue;
            }
            for role in &roles {
                self.acl.grant(&path, &member, role, propagate);
            }
        }
        Some(())
    }
}

fn root() -> UserId {
    "root@pam".parse().expect("the name is well formed")
}

fn set_comment(comment: &mut String, field: &str) {
    if !field.is_empty() {
        *comment = decode(field);
    }
}

/// A storage's name, as `storage.cfg` has it.
fn is_storage(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && is_word(text)
}
