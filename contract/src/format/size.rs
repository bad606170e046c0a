//! Sizes of disks: `32G`, `512M`, `1.5TiB`, all units powers of 1024
//! (pve-common PVE/JSONSchema.pm `parse_size`, `format_size`).

use super::{Checked, ensure};

const UNITS: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// The bytes that a text means; fractions of a byte are cut off.
pub fn parse(text: &str) -> Option<u64> {
    let text = text.strip_suffix("iB").filter(|rest| rest.ends_with(['K', 'M', 'G', 'T'])).unwrap_or(text);
    let unit = UNITS.iter().find(|(letter, _)| text.ends_with(*letter));
    let (number, factor) = match unit {
        Some((letter, factor)) => (text.strip_suffix(*letter)?, *factor),
        None => (text, 1),
    };
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match number.split_once('.') {
        None if digits(number) => number.parse::<u64>().ok()?.checked_mul(factor),
        Some((whole, fraction)) if digits(whole) && digits(fraction) => {
            let bytes = number.parse::<f64>().ok()? * factor as f64;
            (bytes < u64::MAX as f64).then_some(bytes as u64)
        }
        _ => None,
    }
}

/// Bytes in the largest unit that needs no fraction.
pub fn print(bytes: u64) -> String {
    match UNITS.iter().find(|(_, factor)| bytes.is_multiple_of(*factor)) {
        Some((letter, factor)) => format!("{}{letter}", bytes / factor),
        None => bytes.to_string(),
    }
}

pub(super) fn check(text: &str) -> Checked {
    ensure(parse(text).is_some(), || format!("value does not look like a valid disk size: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_and_print() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("4K", 4096),
            ("4KiB", 4096),
            ("1.5G", 1_610_612_736),
            ("1024M", 1 << 30),
            ("2TiB", 2 << 40),
            ("0.3", 0),
        ] {
            assert_eq!(parse(text), Some(bytes), "{text}");
        }
        for text in ["", "G", "1g", "1GB", "1iB", ".5G", "1.G", "-1", "1 G", "99999999999999T"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(
            (print(0), print(1 << 30), print(1536 << 20), print(1000)),
            ("0T".to_owned(), "1G".to_owned(), "1536M".to_owned(), "1000".to_owned())
        );
    }

    proptest! {
        #[test]
        fn printed_sizes_read_back(bytes: u64) {
            prop_assert_eq!(parse(&print(bytes)), Some(bytes));
        }
    }
}
