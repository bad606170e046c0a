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
        let after = after.trim_end_matches('\n');
        let after = if after.is_empty() { String::new() } else { format!("{after}\n") };
        return match content.is_empty() {
            true if before.is_empty() && after.is_empty() => None,
            // An empty part is followed by an empty line.
            true => Some(format!("{before}{section}\n{after}")),
            false => Some(format!("{before}{section}{after}")),
        };
    }
    // Empty lines at the end go, and an empty file gets one.
    let old = format!("{}\n", old.trim_end_matches('\n'));
    match otherwise {
        _ if content.is_empty() => None,
        Otherwise::Replace => Some(section),
        Otherwise::Prepend => Some(format!("{section}{old}")),
        Otherwise::Append => Some(format!("{old}{section}")),
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
        if is_marker(line, marker) {
            return Some(start);
        }
        start += line.len();
    }
    None
}

/// Whether a line begins as a marker does; people have edited blanks.
fn is_marker(line: &str, marker: &str) -> bool {
    let without_blanks = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
    let marker = without_blanks(marker.trim_end_matches('-'));
    line.starts_with('#') && without_blanks(line).starts_with(&marker)
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
        let part = "# --- BEGIN PVE ---\nx\n# --- END PVE ---\n";
        assert_eq!(with_section(Some("old\n\n"), "x", Otherwise::Append).unwrap(), format!("old\n{part}"));
        assert_eq!(with_section(Some(""), "x", Otherwise::Append).unwrap(), format!("\n{part}"));
        assert_eq!(with_section(Some("old\n\n"), "x", Otherwise::Prepend).unwrap(), format!("{part}old\n"));
        assert_eq!(with_section(Some(part), "", Otherwise::Prepend), None);
        let loose = "#--- BEGIN  PVE\ny\n# --- end\n# --- END PVE ---\nb\n\n";
        assert_eq!(with_section(Some(loose), "x", Otherwise::Append).unwrap(), format!("{part}b\n"));
        assert_eq!(
            with_section(Some("old"), "x", Otherwise::Replace).unwrap(),
            "# --- BEGIN PVE ---\nx\n# --- END PVE ---\n"
        );
    }
}
