//! Built-in roles, privileges, the paths that rights can be given on, and the firewall's macros
//! (pve-access-control PVE/AccessControl.pm, pve-firewall PVE/Firewall.pm). Owns the data only.

use crate::pattern;
use crate::table::{self, SINGLE};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// The privileges in alphabetical order.
pub fn privileges() -> &'static [String] {
    static PRIVILEGES: OnceLock<Vec<String>> = OnceLock::new();
    PRIVILEGES.get_or_init(|| {
        crate::format::simple_format("pve-priv").and_then(|format| format.words).expect("the table lists them")
    })
}

/// The built-in roles and their privileges.
pub fn builtin_roles() -> &'static BTreeMap<String, Vec<String>> {
    #[derive(Deserialize)]
    enum Everything {
        #[serde(rename = "*")]
        Star,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Privileges {
        Named(Vec<String>),
        All(Everything),
    }
    static ROLES: OnceLock<BTreeMap<String, Vec<String>>> = OnceLock::new();
    ROLES.get_or_init(|| {
        let roles: BTreeMap<String, Privileges> = single("roles");
        let expand = |granted| match granted {
            Privileges::Named(names) => names,
            Privileges::All(Everything::Star) => privileges().to_vec(),
        };
        roles.into_iter().map(|(name, granted)| (name, expand(granted))).collect()
    })
}

/// Patterns of the paths that rights can be given on.
pub fn acl_paths() -> &'static [String] {
    static PATHS: OnceLock<Vec<String>> = OnceLock::new();
    PATHS.get_or_init(|| single("acl-paths"))
}

/// Rights can be given on this path. It must be normalised.
pub fn is_acl_path(path: &str) -> bool {
    acl_paths().iter().any(|known| pattern::matches(known, path) && !path.ends_with('\n'))
}

/// The firewall's macros: name to the rules that it stands for, each a map of rule members.
pub fn firewall_macros() -> &'static BTreeMap<String, Vec<BTreeMap<String, String>>> {
    static MACROS: OnceLock<BTreeMap<String, Vec<BTreeMap<String, String>>>> = OnceLock::new();
    MACROS.get_or_init(|| single("firewall-macros"))
}

fn single<T: serde::de::DeserializeOwned>(name: &str) -> T {
    table::record(&SINGLE, name).expect("the table is packed by build.rs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_name_known_privileges() {
        let roles = builtin_roles();
        assert_eq!((roles.len(), privileges().len()), (17, 47));
        for (role, granted) in roles {
            for privilege in granted {
                assert!(privileges().contains(privilege), "{role}: {privilege}");
            }
        }
        assert_eq!(roles["Administrator"].len(), 47);
        assert!(roles["NoAccess"].is_empty());
    }

    #[test]
    fn paths_for_rights_are_recognised() {
        for (path, good) in [
            ("/", true),
            ("/vms/100", true),
            ("/vms/0", false),
            ("/pool/a/b/c", true),
            ("/pool/a/b/c/d", false),
            ("/x", false),
        ] {
            assert_eq!(is_acl_path(path), good, "{path}");
        }
    }

    #[test]
    fn macros_decode() {
        assert_eq!(firewall_macros().len(), 86);
    }
}
