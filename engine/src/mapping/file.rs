//! The files of mappings: sections whose header is the id alone, with one `map` line for each entry.
//!
//! ```text
//! fast-card
//!     description what it is
//!     map id=8086:10fb,node=pve1,path=0000:01:00.0
//!     map id=8086:10fb,node=pve2,path=0000:03:00.0
//!
//! ```

use super::Kind;
use crate::{Context, Result, file};
use indexmap::IndexMap;
use serde_json::{Map, Value};

/// One file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MappingFile {
    /// Mappings by id, in the order of the file.
    pub mappings: IndexMap<String, Mapping>,
    /// SHA-1 of the text that was read.
    pub digest: String,
}

/// One mapping.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mapping {
    /// Entries, one for each device or directory of a node.
    pub entries: Vec<String>,
    /// All other values by key.
    pub values: IndexMap<String, String>,
}

/// The values of one entry.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entry {
    values: Map<String, Value>,
}

impl Entry {
    /// Reads an entry.
    pub fn parse(kind: Kind, text: &str) -> Result<Self> {
        Ok(Entry { values: contract::property_string::parse(kind.format(), text)? })
    }

    /// A value.
    pub fn text(&self, key: &str) -> Option<String> {
        self.values.get(key).map(crate::call::config_text).filter(|text| !text.is_empty())
    }
}

impl Mapping {
    /// Whether a switch is on.
    pub fn flag(&self, key: &str) -> bool {
        self.values.get(key).and_then(|value| contract::parse_boolean(value)) == Some(true)
    }

    /// The entries for a node; what cannot be read counts as absent.
    pub fn entries_of(&self, kind: Kind, node: &str) -> Vec<Entry> {
        let entries = self.entries.iter().filter_map(|text| Entry::parse(kind, text).ok());
        entries.filter(|entry| entry.text("node").as_deref() == Some(node)).collect()
    }
}

impl MappingFile {
    /// The file of a kind.
    pub fn load(ctx: &Context, kind: Kind) -> Result<Self> {
        Ok(Self::parse(&file::read_or_empty(&ctx.root.etc_pve(kind.file()))?))
    }

    /// Reads a text. Lines that mean nothing are passed over.
    pub fn parse(text: &str) -> Self {
        let mut found = MappingFile { digest: file::digest(text), ..MappingFile::default() };
        let mut current: Option<String> = None;
        for line in text.lines() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                current = current.filter(|_| !trimmed.is_empty());
            } else if !line.starts_with(char::is_whitespace) {
                current = (!trimmed.contains(char::is_whitespace)).then(|| trimmed.to_owned());
                if let Some(id) = &current {
                    found.mappings.entry(id.clone()).or_default();
                }
            } else if let Some(mapping) = current.as_ref().and_then(|id| found.mappings.get_mut(id)) {
                let (key, value) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, "1"));
                match key {
                    "map" => mapping.entries.push(value.trim().to_owned()),
                    key => drop(mapping.values.insert(key.to_owned(), value.trim().to_owned())),
                }
            }
        }
        found
    }

    /// The text: `map` lines first, the other keys sorted.
    pub fn print(&self) -> String {
        let mut text = String::new();
        for (id, mapping) in &self.mappings {
            text += &format!("{id}\n");
            for entry in &mapping.entries {
                text += &format!("\tmap {entry}\n");
            }
            let mut values: Vec<_> = mapping.values.iter().collect();
            values.sort();
            for (key, value) in values {
                text += &format!("\t{key} {value}\n");
            }
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "card\n\tmap id=8086:10fb,node=a,path=0000:01:00.0\n\tmap id=8086:10fb,node=b,path=0000:02:00\n\
        \tdescription two of them\n\tmdev 1\n\nother\n\tmap id=1234:5678,node=a,path=0000:05:00.0\n\n";

    #[test]
    fn printing_inverts_parsing() {
        let file = MappingFile::parse(FILE);
        assert_eq!(file.print(), FILE);
        assert!(file.mappings["card"].flag("mdev") && !file.mappings["other"].flag("mdev"));
        let entries = file.mappings["card"].entries_of(Kind::Pci, "b");
        assert_eq!(entries.len(), 1);
        assert_eq!(entries[0].text("path").as_deref(), Some("0000:02:00"));
    }

    #[test]
    fn bad_lines_hide_nothing_else() {
        let file = MappingFile::parse("what is this\n\tmap lost\n\n# note\ngood\n\tmap x\n");
        assert_eq!(file.mappings.keys().collect::<Vec<_>>(), ["good"]);
        assert_eq!(file.mappings["good"].entries, ["x"]);
        assert!(file.mappings["good"].entries_of(Kind::Usb, "a").is_empty());
    }
}
