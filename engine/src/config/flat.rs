//! Flat files of `key: value` lines: `datacenter.cfg`, a node's `config`, `vzdump.conf`.
//! (PVE: pve-common PVE/JSONSchema.pm, parse_config and dump_config)

use std::collections::BTreeMap;

/// A flat file: description, values by key, and lines that could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlatConfig {
    /// The text of the `#` lines at the top, one line each, decoded.
    pub description: Option<String>,
    /// Values by key.
    pub values: BTreeMap<String, String>,
    /// Lines that are neither, with their numbers from 1; written back at the end.
    pub unreadable: Vec<(usize, String)>,
}

impl FlatConfig {
    /// Reads a file's text. Later lines of a key win.
    pub fn parse(text: &str) -> Self {
        let mut config = FlatConfig::default();
        for (index, line) in text.lines().enumerate() {
            if let Some(comment) = line.strip_prefix('#') {
                let description = config.description.get_or_insert_default();
                description.push_str(&super::text::decode(comment));
                description.push('\n');
            } else if let Some((key, value)) = split_line(line) {
                config.values.insert(key.to_owned(), value.to_owned());
            } else if !line.trim().is_empty() {
                config.unreadable.push((index + 1, line.to_owned()));
            }
        }
        config
    }

    /// The file's text: description first, then keys in order.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for line in self.description.iter().flat_map(|description| description.lines()) {
            text += &format!("#{}\n", super::text::encode(line));
        }
        for (key, value) in &self.values {
            text += &format!("{key}: {value}\n");
        }
        for (_, line) in &self.unreadable {
            text += &format!("{line}\n");
        }
        text
    }
}

/// `key: value` with a key of word characters, `-` and `.`.
pub fn split_line(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let is_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(is_key)).then_some((key, value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printing_inverts_parsing_and_keeps_unreadable_lines() {
        let text = "#two%3A lines\n#here\nkeyboard: de\nmigration: type=secure\n?? broken\n";
        let config = FlatConfig::parse(text);
        assert_eq!(config.description.as_deref(), Some("two: lines\nhere\n"));
        assert_eq!(config.values["keyboard"], "de");
        assert_eq!(config.unreadable, [(5, "?? broken".to_owned())]);
        assert_eq!(config.print(), text);
    }
}
