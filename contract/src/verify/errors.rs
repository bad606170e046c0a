//! The `errors` map of a refused parameter set (pve-common PVE/JSONSchema.pm `add_error`,
//! PVE/Exception.pm `stringify`).
//! Owns how several errors of one path are joined and how the map is printed.

use std::collections::BTreeMap;
use std::fmt;

/// The headline of a refused parameter set.
pub const HEADLINE: &str = "Parameter verification failed.";

/// Error texts by property path, with the headline under which they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamErrors {
    headline: String,
    errors: BTreeMap<String, String>,
}

impl Default for ParamErrors {
    fn default() -> Self {
        ParamErrors::new()
    }
}

impl ParamErrors {
    /// No errors yet.
    pub fn new() -> ParamErrors {
        ParamErrors::with_headline(HEADLINE)
    }

    /// Errors under another headline, as command lines have that cannot be read at all.
    pub fn with_headline(headline: impl Into<String>) -> ParamErrors {
        ParamErrors { headline: headline.into(), errors: BTreeMap::new() }
    }

    /// A single error.
    pub fn one(path: &str, text: impl Into<String>) -> ParamErrors {
        let mut errors = ParamErrors::new();
        errors.add(path, text);
        errors
    }

    /// Adds an error. An empty path is written `_root`; texts of one path are joined by a backslash and an `n`.
    pub fn add(&mut self, path: &str, text: impl Into<String>) {
        let text = text.into();
        let path = if path.is_empty() { "_root" } else { path };
        match self.errors.get_mut(path) {
            Some(known) => {
                known.push_str("\\n");
                known.push_str(&text);
            }
            None => {
                self.errors.insert(path.to_owned(), text);
            }
        }
    }

    /// Nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// The headline, without line break.
    pub fn headline(&self) -> &str {
        &self.headline
    }

    /// The text for a path.
    pub fn get(&self, path: &str) -> Option<&str> {
        self.errors.get(path).map(String::as_str)
    }

    /// Paths and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.errors.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// The map itself, as it goes on the wire.
    pub fn into_map(self) -> BTreeMap<String, String> {
        self.errors
    }

    /// The errors as one text under another headline, as they appear inside `invalid format - …`.
    pub(crate) fn as_format_error(&self) -> String {
        let mut text = "format error\n".to_owned();
        for (path, error) in &self.errors {
            text.push_str(&format!("{path}: {error}\n"));
        }
        text
    }
}

impl fmt::Display for ParamErrors {
    /// Code and headline, then a line for each path, as the tools print it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "400 {}", self.headline)?;
        self.errors.iter().try_for_each(|(path, text)| writeln!(f, "{path}: {text}"))
    }
}

impl std::error::Error for ParamErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_one_path_are_joined_and_an_empty_path_is_the_root() {
        let mut errors = ParamErrors::new();
        errors.add("a", "one");
        errors.add("a", "two");
        errors.add("", "whole");
        assert_eq!(errors.get("a"), Some("one\\ntwo"));
        assert_eq!(errors.to_string(), "400 Parameter verification failed.\n_root: whole\na: one\\ntwo\n");
    }
}
