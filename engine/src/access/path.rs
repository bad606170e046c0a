//! Paths of the access tree, such as `/vms/100`.
//! Which shapes may carry entries is said by [`contract::roles::is_acl_path`].
//! (PVE: pve-access-control PVE/AccessControl.pm, normalize_path)

/// The path without doubled and trailing slashes; `None` for text that cannot be one. A missing first slash is added.
pub fn normalize(path: &str) -> Option<String> {
    if path.is_empty() {
        return None;
    }
    let mut normal = String::with_capacity(path.len() + 1);
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if !part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            return None;
        }
        normal.push('/');
        normal.push_str(part);
    }
    if normal.is_empty() {
        normal.push('/');
    }
    Some(normal)
}

/// The components of a normalised path; none for the root.
pub fn components(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|part| !part.is_empty())
}

/// The path of a child.
pub fn join(parent: &str, child: &str) -> String {
    if parent == "/" { format!("/{child}") } else { format!("{parent}/{child}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_or_refused() {
        for (path, normal) in [
            ("/", Some("/")),
            ("//", Some("/")),
            ("", None),
            ("vms/100", Some("/vms/100")),
            ("//vms///100//", Some("/vms/100")),
            ("/vms/1 0", None),
            ("/storage/a:b", None),
            ("/stör", None),
            ("/-", Some("/-")),
        ] {
            assert_eq!(normalize(path).as_deref(), normal, "{path}");
        }
    }
}
