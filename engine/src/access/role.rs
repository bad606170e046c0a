//! The built-in roles as sets of privileges.

use super::privilege::{Privilege, PrivilegeSet};
use std::collections::HashMap;
use std::sync::OnceLock;

/// The role that takes all others away.
pub const NO_ACCESS: &str = "NoAccess";

/// The privileges of a built-in role.
pub fn built_in(name: &str) -> Option<PrivilegeSet> {
    table().get(name).copied()
}

/// The built-in roles.
pub fn all_built_in() -> impl Iterator<Item = (&'static str, PrivilegeSet)> {
    table().iter().map(|(name, privileges)| (*name, *privileges))
}

fn table() -> &'static HashMap<&'static str, PrivilegeSet> {
    static TABLE: OnceLock<HashMap<&'static str, PrivilegeSet>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let set = |names: &[String]| names.iter().filter_map(|name| name.parse::<Privilege>().ok()).collect();
        contract::roles::builtin_roles().iter().map(|(role, names)| (role.as_str(), set(names))).collect()
    })
}
