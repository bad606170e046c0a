//! The marked part of a file that we own while the rest stays the container's.
//! (PVE: LXC/Setup/Base.pm, ct_modify_file and remove_pve_sections)

const BEGIN: &str = "# --- BEGIN PVE ---";
const END: &str = "# --- END PVE ---";

/// What happens to a file without a marked part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Otherwise {
    /// The part is added at the end.
    Append,
    /// The part is added in front.
    Prepend,
    /// The part replaces everything.
    Replace,
}

/// The file's new text with `content` in the marked part; none when there is nothing to write.
pub fn with_section(old: Option<&str>, content: &str, otherwise: Otherwise) -> Option<String> {
    let mut content = content.to_owned();
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    let section = format!("{BEGIN}\n{content}{END}\n");
    let Some(old) = old else { return (!content.is_empty()).then_some(section) };
    if let Some((before, after)) = around(old) {
        return Some(format!("{before}{section}{after}"));
    }
    match otherwise {
        _ if content.is_empty() => None,
        Otherwise::Replace => Some(section),
        Otherwise::Prepend => Some(format!("{section}{old}")),
        Otherwise::Append => {
            let separator = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
            Some(format!("{old}{separator}{section}"))
        }
    }
}

/// The text without its marked part.
pub fn without_section(text: &str) -> String {
    around(text).map_or_else(|| text.to_owned(), |(before, after)| format!("{before}{after}"))
}

/// The texts before and after the marked part.
fn around(text: &str) -> Option<(&str, &str)> {
    let begin = line_start(text, 0, BEGIN)?;
    let end = line_start(text, begin, END)?;
    let rest = text[end..].find('\n').map_or(text.len(), |length| end + length + 1);
    Some((&text[..begin], &text[rest..]))
}

fn line_start(text: &str, from: usize, marker: &str) -> Option<usize> {
    let mut start = from;
    for line in text[from..].split_inclusive('\n') {
        if line.trim() == marker {
            return Some(start);
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_marked_part_is_replaced_and_the_rest_stays() {
        let first = with_section(Some("a\n"), "x", Otherwise::Append).unwrap();
        assert_eq!(first, "a\n# --- BEGIN PVE ---\nx\n# --- END PVE ---\n");
        let second = with_section(Some(&format!("{first}b\n")), "y\n", Otherwise::Replace).unwrap();
        assert_eq!(second, "a\n# --- BEGIN PVE ---\ny\n# --- END PVE ---\nb\n");
        assert_eq!(without_section(&second), "a\nb\n");
    }

    #[test]
    fn files_without_a_part() {
        assert_eq!(with_section(None, "", Otherwise::Append), None);
        assert_eq!(with_section(Some("old"), "", Otherwise::Replace), None);
        assert_eq!(
            with_section(Some("old"), "x", Otherwise::Replace).unwrap(),
            "# --- BEGIN PVE ---\nx\n# --- END PVE ---\n"
        );
    }
}
