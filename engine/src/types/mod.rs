//! Values with rules. Each has `FromStr` and `Display`, inverse for canonical text.

mod vmid;

pub use vmid::Vmid;

/// Splits a list as PVE does: at NUL when one occurs, else at any run of commas, semicolons and blanks.
/// (PVE: pve-common PVE/ParseUtils.pm, split_list)
pub fn split_list(text: &str) -> Vec<String> {
    let parts: Box<dyn Iterator<Item = &str>> = if text.contains('\0') {
        Box::new(text.split('\0'))
    } else {
        Box::new(text.split(|c: char| c == ',' || c == ';' || c.is_whitespace()))
    };
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::split_list;

    #[test]
    fn lists_split_at_separators_or_at_nul_only() {
        assert_eq!(split_list("a, b;c  d"), ["a", "b", "c", "d"]);
        assert_eq!(split_list("a b\0c,d"), ["a b", "c,d"]);
        assert!(split_list(" ").is_empty());
    }
}
