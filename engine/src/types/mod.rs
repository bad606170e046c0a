//! Values with rules. Each has `FromStr` and `Display`, inverse for canonical text.

mod vmid;

pub use vmid::Vmid;

/// Splits a list as PVE does: at NUL when one occurs, else at any run of commas, semicolons and blanks.
/// (PVE: pve-common PVE/ParseUtils.pm, split_list)
pub fn split_list(text: &str) -> Vec<String> {
    let parts: Box<dyn Iterator<Item = &str>> = if text.contains('\0') {
        Box::new(text.split('\0'))
    } else {
        Box::new(text.split(|c: char| c == ',' || c == ';' || c.is_whitespace()))
    };
    parts.filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// Bytes as a number below 1024 where there is a unit for it, and the unit.
pub fn scaled(bytes: f64) -> (f64, &'static str) {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut number, mut unit) = (bytes, 0);
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    (number, UNITS[unit])
}

/// Bytes in hexadecimal digits, the way sums and random names are written.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)]));
    bytes.iter().flat_map(digits).collect()
}

/// A random UUID (RFC 9562, version 4), from a source that nobody can foresee.
pub fn random_uuid() -> String {
    let mut bytes = [0; 16];
    openssl::rand::rand_bytes(&mut bytes).expect("the system's random source is always there");
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::split_list;

    #[test]
    fn lists_split_at_separators_or_at_nul_only() {
        assert_eq!(split_list("a, b;c  d"), ["a", "b", "c", "d"]);
        assert_eq!(split_list("a b\0c,d"), ["a b", "c,d"]);
        assert!(split_list(" ").is_empty());
    }
}
