//! Section files: `TYPE: ID` headers with indented `key value` lines, as `storage.cfg` and `domains.cfg` are.
//! (PVE: pve-common PVE/SectionConfig.pm)

use indexmap::IndexMap;

/// A whole file. The order of sections is kept; comments and bad lines are kept where they stood, before a section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SectionConfig {
    /// Sections by id.
    pub sections: IndexMap<String, Section>,
    /// Lines that could not be read, with their numbers from 1. They are not written again.
    pub problems: Vec<(usize, String)>,
    /// Comment lines after the last section.
    trailing_comments: Vec<String>,
}

/// One section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// The type in the header; unknown types are kept, too.
    pub kind: String,
    /// Values by key, in the order of the file. A key without value means true and is kept as `1`.
    pub values: IndexMap<String, String>,
    /// Comment lines before the header.
    comments: Vec<String>,
}

impl Section {
    /// A new section of a type.
    pub fn new(kind: impl Into<String>) -> Self {
        Section { kind: kind.into(), ..Section::default() }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Whether a key is set to something true.
    pub fn flag(&self, key: &str) -> bool {
        matches!(self.get(key).map(str::to_ascii_lowercase).as_deref(), Some("1" | "on" | "yes" | "true"))
    }
}

impl SectionConfig {
    /// Reads a file's text. A section with a bad header is skipped with all its lines and reported.
    pub fn parse(text: &str) -> Self {
        let mut config = SectionConfig::default();
        let mut comments = Vec::new();
        let mut current: Option<String> = None;
        for (index, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() {
                current = None;
            } else if trimmed.starts_with('#') {
                comments.push(line.to_owned());
            } else if line.starts_with([' ', '\t']) {
                let Some(section) = current.as_ref().and_then(|id| config.sections.get_mut(id)) else {
                    config.problems.push((index + 1, line.to_owned()));
                    continue;
                };
                let (key, value) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, "1"));
                section.values.insert(key.to_owned(), value.trim().to_owned());
            } else if let Some((kind, id)) = parse_header(trimmed) {
                let section = Section { kind, comments: std::mem::take(&mut comments), ..Section::default() };
                config.sections.insert(id.clone(), section);
                current = Some(id);
            } else {
                config.problems.push((index + 1, line.to_owned()));
                current = None;
            }
        }
        config.trailing_comments = comments;
        config
    }

    /// The file's text.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for (id, section) in &self.sections {
            for comment in &section.comments {
                text += &format!("{comment}\n");
            }
            text += &format!("{}: {id}\n", section.kind);
            for (key, value) in &section.values {
                // PVE writes this one without a value. (SectionConfig.pm, write_config)
                let bare = key == "disable" && value == "1";
                text += &if bare { format!("\t{key}\n") } else { format!("\t{key} {value}\n") };
            }
            text.push('\n');
        }
        for comment in &self.trailing_comments {
            text += &format!("{comment}\n");
        }
        text
    }
}

/// `TYPE: ID`, or the older `ID` alone after a type without blank.
fn parse_header(line: &str) -> Option<(String, String)> {
    let (kind, id) = line.split_once(':')?;
    let id = id.trim();
    let is_word = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/'))
    };
    (is_word(kind) && is_word(id)).then(|| (kind.to_owned(), id.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\ndir: local\n\tpath /var/lib/vz\n\tcontent iso,vztmpl\n\nnew-kind: x\n\tsome thing else\n\tshared 1\n\n";

    #[test]
    fn printing_inverts_parsing_also_for_unknown_types() {
        let config = SectionConfig::parse(FILE);
        assert_eq!(config.sections["local"].get("path"), Some("/var/lib/vz"));
        assert_eq!(config.sections["x"].get("some"), Some("thing else"));
        assert_eq!(config.print(), FILE);
    }

    #[test]
    fn bad_lines_hide_no_other_section() {
        let config =
            SectionConfig::parse("  lost 1\ndir: a\n\tpath /a\n\tdisable\n\nwhat is this\n\tpath /b\n\ndir: c\n");
        assert_eq!(config.sections.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert!(config.sections["a"].flag("disable"));
        assert_eq!(config.problems.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 6, 7]);
    }
}
