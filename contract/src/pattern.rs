//! Patterns of the interface, written for Perl, matched with the `regex` crate against whole values.
//! Owns the translation of the few constructs that differ, and the cache: a pattern is compiled at its first use.

use regex::Regex;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, RwLock};

/// Comment of a virtual network. Counted repetitions of Unicode classes compile to megabytes, so the count is checked
/// apart. Inside the class `)-_` is a range.
const VNET_ALIAS: &str = r"(?i:[\(\)-_.\w\d\s]{0,256})";
const VNET_ALIAS_UNCOUNTED: &str = r"(?i:[\(\)-_.\w\d\s]*)";

/// Forbids a trailing line break, which the original's anchor would let pass.
const NO_TRAILING_BREAK: &str = r"(?!\n)";

/// The pattern matches the whole text. One trailing line break passes, as it does in the original.
pub(crate) fn matches(expression: &str, text: &str) -> bool {
    if expression == VNET_ALIAS {
        return text.chars().count() <= 256 && compiled(VNET_ALIAS_UNCOUNTED).is_match(text);
    }
    let regex = compiled(expression);
    regex.is_match(text)
        || (!expression.ends_with(NO_TRAILING_BREAK)
            && text.strip_suffix('\n').is_some_and(|line| regex.is_match(line)))
}

fn compiled(expression: &str) -> Arc<Regex> {
    static CACHE: LazyLock<RwLock<HashMap<String, Arc<Regex>>>> = LazyLock::new(RwLock::default);
    const POISON: &str = "no code panics while it holds the pattern cache";
    if let Some(regex) = CACHE.read().expect(POISON).get(expression) {
        return Arc::clone(regex);
    }
    let regex = Arc::new(translate(expression).expect("a test compiles every pattern of the tables"));
    CACHE.write().expect(POISON).insert(expression.to_owned(), Arc::clone(&regex));
    regex
}

/// Rewrites what Perl reads differently and anchors at both ends.
pub(crate) fn translate(expression: &str) -> Result<Regex, regex::Error> {
    let expression =
        expression.replace(r"\0", r"\x00").replace("(?>", "(?:").replace("{,", "{0,").replace(NO_TRAILING_BREAK, "");
    Regex::new(&format!(r"\A(?:{expression})\z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_values_match() {
        assert!(matches("a|b", "b"));
        assert!(!matches("a|b", "ax"));
        assert!(matches(r"\d+", "12\n"), "the original's anchor lets one line break pass");
        assert!(!matches(r"\d+", "12\n\n"));
        assert!(!matches(r"\d+(?!\n)", "12\n"));
        assert!(matches(r"[A-Z]{,4}", ""));
        assert!(matches(r"a\0b", "a\0b"));
        assert!(matches(VNET_ALIAS, "Büro (1. Stock)"));
        assert!(!matches(VNET_ALIAS, "a\"b"));
        assert!(!matches(VNET_ALIAS, &"ä".repeat(257)));
    }
}
