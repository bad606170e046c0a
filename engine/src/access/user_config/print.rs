//! Writing `user.cfg`: the same text that PVE writes for the same content.
//! (PVE: pve-access-control PVE/AccessControl.pm, write_user_config)

use super::super::acl::{AclNode, Member};
use super::UserConfig;
use crate::config::text::encode;
use std::collections::{BTreeMap, BTreeSet};

impl UserConfig {
    /// The file's text.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for (id, user) in &self.users {
            let enabled = u8::from(user.enabled);
            let (first, last, comment) = (encode(&user.first_name), encode(&user.last_name), encode(&user.comment));
            let (expire, email, keys) = (user.expire, &user.email, &user.keys);
            text += &format!("user:{id}:{enabled}:{expire}:{first}:{last}:{email}:{comment}:{keys}:\n");
            for (name, token) in &user.tokens {
                let separate = u8::from(token.separate);
                text += &format!("token:{id}!{name}:{}:{separate}:{}:\n", token.expire, encode(&token.comment));
            }
        }
        text.push('\n');
        for (name, group) in &self.groups {
            text += &format!("group:{name}:{}:{}:\n", join(&group.users), encode(&group.comment));
        }
        text.push('\n');
        for (name, pool) in &self.pools {
            // Numbers are sorted as texts here: 100, 1000, 101.
            let guests: BTreeSet<String> = pool.guests.iter().map(ToString::to_string).collect();
            let (guests, storages) = (join(&guests), join(&pool.storages));
            text += &format!("pool:{name}:{}:{guests}:{storages}:\n", encode(&pool.comment));
        }
        text.push('\n');
        for (name, privileges) in &self.roles {
            text += &format!("role:{name}:{privileges}:\n");
        }
        text.push('\n');
        self.acl.visit(&mut |path, node| print_entries(path, node, &mut text));
        if !self.unknown.is_empty() {
            text.push('\n');
        }
        for line in &self.unknown {
            text += &format!("{line}\n");
        }
        text
    }
}

/// Members with the same roles share a line; entries that do not propagate come first.
fn print_entries(path: &str, node: &AclNode, text: &mut String) {
    let mut lines: BTreeMap<(bool, String), BTreeSet<String>> = BTreeMap::new();
    for (member, roles) in node.entries() {
        // root@pam can do everything anyway.
        if matches!(&member, Member::User(user) if user.is_root()) {
            continue;
        }
        for propagate in [false, true] {
            let list: Vec<&str> =
                roles.iter().filter(|(_, value)| **value == propagate).map(|(role, _)| role.as_str()).collect();
            if !list.is_empty() {
                lines.entry((propagate, list.join(","))).or_default().insert(member.to_string());
            }
        }
    }
    for ((propagate, roles), members) in lines {
        *text += &format!("acl:{}:{path}:{}:{roles}:\n", u8::from(propagate), join(&members));
    }
}

fn join<T: ToString>(items: &BTreeSet<T>) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
