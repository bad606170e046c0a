//! Free text in configuration files: percent-encoded, so that it never holds a separator or a line break.
//! (PVE: pve-common PVE/ParseUtils.pm, encode_text and decode_text)

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Control characters, the separator `:`, the escape itself. What is not ASCII is escaped byte by byte.
const FREE_TEXT: &AsciiSet = &CONTROLS.add(b'%').add(b':');

/// The stored form of a text.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, FREE_TEXT).to_string()
}

/// The text that was stored.
pub fn decode(stored: &str) -> String {
    percent_decode_str(stored).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn separators_and_letters_beyond_ascii_are_escaped() {
        assert_eq!(encode("a:b%\n\tä ~"), "a%3Ab%25%0A%09%C3%A4 ~");
        assert_eq!(decode("%C3%A4ä"), "ää");
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(text in ".*") {
            let stored = encode(&text);
            prop_assert!(stored.is_ascii() && !stored.contains([':', '\n', '\r']));
            prop_assert_eq!(decode(&stored), text);
        }
    }
}
