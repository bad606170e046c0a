//! Free text in configuration files: percent-encoded, so that it never holds a separator or a line break.
//! (PVE: pve-common PVE/Tools.pm, encode_text and decode_text)

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Control characters, the separator `:`, the escape itself; everything beyond ASCII stays as it is.
const FREE_TEXT: &AsciiSet = &CONTROLS.add(b'%').add(b':').remove(b'\t');

/// The stored form of a text.
pub fn encode(text: &str) -> String {
    // utf8_percent_encode always escapes what is not ASCII; PVE keeps letters readable, so each run is looked at apart.
    let mut stored = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            stored.extend(utf8_percent_encode(c.encode_utf8(&mut [0; 4]), FREE_TEXT));
        } else {
            stored.push(c);
        }
    }
    stored
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
    fn separators_are_escaped_and_letters_stay() {
        assert_eq!(encode("a:b%\nä"), "a%3Ab%25%0Aä");
    }

    proptest! {
        #[test]
        fn decode_inverts_encode(text in ".*") {
            let stored = encode(&text);
            prop_assert!(!stored.contains([':', '\n', '\r']));
            prop_assert_eq!(decode(&stored), text);
        }
    }
}
