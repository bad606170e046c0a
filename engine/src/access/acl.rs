//! The access tree: which roles users, groups and tokens have on which path.
//! Owns the tree's shape; what follows from it is computed in [`super::permission`].

use super::identity::{TokenId, UserId, is_word};
use super::path;
use std::collections::BTreeMap;
use std::fmt;

/// Roles by name; true for roles that also count below the path.
pub type Roles = BTreeMap<String, bool>;

/// A path with its entries and what lies below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AclNode {
    /// Children by the next component of the path.
    pub children: BTreeMap<String, AclNode>,
    /// Roles of users.
    pub users: BTreeMap<UserId, Roles>,
    /// Roles of groups.
    pub groups: BTreeMap<String, Roles>,
    /// Roles of tokens.
    pub tokens: BTreeMap<TokenId, Roles>,
}

/// Who an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A user.
    User(UserId),
    /// A group, `@name` in the file.
    Group(String),
    /// An API token.
    Token(TokenId),
}

impl Member {
    /// Reads a member of an entry in `user.cfg`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Some(group) = text.strip_prefix('@')
            && is_word(group)
        {
            return Some(Member::Group(group.to_owned()));
        }
        text.parse().map(Member::User).or_else(|_| text.parse().map(Member::Token)).ok()
    }

    /// `user`, `group` or `token`.
    pub fn kind(&self) -> &'static str {
        match self {
            Member::User(_) => "user",
            Member::Group(_) => "group",
            Member::Token(_) => "token",
        }
    }

    /// The name without the mark of groups.
    pub fn id(&self) -> String {
        match self {
            Member::User(user) => user.to_string(),
            Member::Group(group) => group.clone(),
            Member::Token(token) => token.to_string(),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::User(user) => user.fmt(f),
            Member::Group(group) => write!(f, "@{group}"),
            Member::Token(token) => token.fmt(f),
        }
    }
}

impl AclNode {
    /// The node of a normalised path below this one, if there is one.
    pub fn find(&self, path: &str) -> Option<&AclNode> {
        path::components(path).try_fold(self, |node, part| node.children.get(part))
    }

    /// The names of what is just below this node.
    pub fn children(&self) -> impl Iterator<Item = &str> {
        self.children.keys().map(String::as_str)
    }

    /// The node of a normalised path below this one; made if it is not there.
    fn make(&mut self, path: &str) -> &mut AclNode {
        path::components(path).fold(self, |node, part| node.children.entry(part.to_owned()).or_default())
    }

    /// Gives a role to somebody.
    pub fn grant(&mut self, path: &str, member: &Member, role: &str, propagate: bool) {
        let node = self.make(path);
        let roles = match member {
            Member::User(user) => node.users.entry(user.clone()).or_default(),
            Member::Group(group) => node.groups.entry(group.clone()).or_default(),
            Member::Token(token) => node.tokens.entry(token.clone()).or_default(),
        };
        roles.insert(role.to_owned(), propagate);
    }

    /// Takes a role from somebody.
    pub fn revoke(&mut self, path: &str, member: &Member, role: &str) {
        let mut node = self;
        for part in path::components(path) {
            match node.children.get_mut(part) {
                Some(child) => node = child,
                None => return,
            }
        }
        let roles = match member {
            Member::User(user) => node.users.get_mut(user),
            Member::Group(group) => node.groups.get_mut(group),
            Member::Token(token) => node.tokens.get_mut(token),
        };
        if let Some(roles) = roles {
            roles.remove(role);
        }
        drop_empty(node);
    }

    /// Removes the entries of all members, anywhere, that `gone` tells.
    pub fn remove_members(&mut self, gone: &impl Fn(&Member) -> bool) {
        self.users.retain(|user, _| !gone(&Member::User(user.clone())));
        self.groups.retain(|group, _| !gone(&Member::Group(group.clone())));
        self.tokens.retain(|token, _| !gone(&Member::Token(token.clone())));
        self.children.values_mut().for_each(|child| child.remove_members(gone));
    }

    /// Takes a role from everybody, everywhere.
    pub fn remove_role(&mut self, role: &str) {
        let all = self.users.values_mut().chain(self.groups.values_mut()).chain(self.tokens.values_mut());
        for roles in all {
            roles.remove(role);
        }
        drop_empty(self);
        self.children.values_mut().for_each(|child| child.remove_role(role));
    }

    /// Removes a path with everything below it.
    pub fn remove_path(&mut self, path: &str) {
        let parts: Vec<&str> = path::components(path).collect();
        let Some((last, parents)) = parts.split_last() else { return };
        let parent = parents.iter().try_fold(self, |node, part| node.children.get_mut(*part));
        if let Some(parent) = parent {
            parent.children.remove(*last);
        }
    }

    /// The entries of this very path: users, groups, tokens.
    pub fn entries(&self) -> impl Iterator<Item = (Member, &Roles)> {
        let users = self.users.iter().map(|(user, roles)| (Member::User(user.clone()), roles));
        let groups = self.groups.iter().map(|(group, roles)| (Member::Group(group.clone()), roles));
        let tokens = self.tokens.iter().map(|(token, roles)| (Member::Token(token.clone()), roles));
        users.chain(groups).chain(tokens)
    }

    /// Calls `look` with every path of the tree, parents first, children by name.
    pub fn visit(&self, look: &mut impl FnMut(&str, &AclNode)) {
        self.visit_from("/", look);
    }

    fn visit_from(&self, path: &str, look: &mut impl FnMut(&str, &AclNode)) {
        look(path, self);
        for (name, child) in &self.children {
            child.visit_from(&path::join(path, name), look);
        }
    }
}

/// Forgets members that have no role left.
fn drop_empty(node: &mut AclNode) {
    node.users.retain(|_, roles| !roles.is_empty());
    node.groups.retain(|_, roles| !roles.is_empty());
    node.tokens.retain(|_, roles| !roles.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_can_be_revoked() {
        let mut root = AclNode::default();
        let joe = Member::parse("joe@pve").unwrap();
        let staff = Member::parse("@staff").unwrap();
        root.grant("/vms/100", &joe, "PVEVMUser", true);
        root.grant("/vms/100", &staff, "PVEAuditor", false);
        root.grant("/", &joe, "PVEAuditor", false);
        root.revoke("/vms/100", &joe, "PVEVMUser");
        root.revoke("/vms/101", &joe, "PVEVMUser");
        assert!(root.find("/vms/100").unwrap().users.is_empty());
        assert!(root.find("/vms/101").is_none());
        root.remove_role("PVEAuditor");
        assert!(root.users.is_empty() && root.find("/vms/100").unwrap().groups.is_empty());
    }

    #[test]
    fn members_and_paths_can_be_removed() {
        let mut root = AclNode::default();
        let token = Member::parse("joe@pve!a1").unwrap();
        root.grant("/pool/a/b", &token, "PVEPoolUser", true);
        root.grant("/pool/a", &token, "PVEPoolUser", true);
        root.remove_path("/pool/a/b");
        assert!(root.find("/pool/a").is_some_and(|pool| pool.children.is_empty() && pool.tokens.len() == 1));
        root.remove_members(&|member| *member == token);
        assert!(root.find("/pool/a").unwrap().tokens.is_empty());
    }
}
