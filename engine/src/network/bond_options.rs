//! Options of a bond that few files name: what each is called, what it takes, and what it is when no file names it.
//!
//! Only those that a file names are looked at. (Linux, Documentation/networking/bonding.rst; Debian: ifenslave, README)

/// One option.
#[derive(Debug)]
pub struct BondOption {
    /// Its name in the file, after `bond-`; the first is ours.
    pub names: &'static [&'static str],
    /// Words for its values, from zero on; a number is always taken.
    pub words: &'static [&'static str],
    /// The kernel's usual value.
    pub usual: u32,
    /// The kernel takes it only while the bond is off.
    pub is_off: bool,
    /// The kernel takes it only while the bond has no ports.
    pub is_empty: bool,
}

const PLAIN: BondOption = BondOption { names: &[], words: &[], usual: 0, is_off: false, is_empty: false };

/// All of them.
pub const BOND_OPTIONS: &[BondOption] = &[
    BondOption { names: &["all-slaves-active"], words: &["dropped", "delivered"], ..PLAIN },
    BondOption { names: &["primary-reselect"], words: &["always", "better", "failure"], ..PLAIN },
    BondOption { names: &["fail-over-mac"], words: &["none", "active", "follow"], is_empty: true, ..PLAIN },
    BondOption { names: &["ad-select"], words: &["stable", "bandwidth", "count"], is_off: true, ..PLAIN },
    BondOption { names: &["ad-actor-sys-prio", "ad-sys-priority"], usual: 65_535, is_off: true, ..PLAIN },
    BondOption { names: &["use-carrier"], words: &["off", "on"], usual: 1, ..PLAIN },
    BondOption { names: &["num-grat-arp", "num-unsol-na"], usual: 1, ..PLAIN },
    BondOption { names: &["resend-igmp"], usual: 1, ..PLAIN },
    BondOption { names: &["packets-per-slave"], usual: 1, ..PLAIN },
    BondOption { names: &["lp-interval"], usual: 1, ..PLAIN },
];

/// Options of a bond that are carried out elsewhere.
const OTHERS: [&str; 9] =
    ["slaves", "mode", "miimon", "updelay", "downdelay", "primary", "xmit-hash-policy", "lacp-rate", "min-links"];

impl BondOption {
    /// The option's own name.
    pub fn name(&self) -> &'static str {
        self.names.first().copied().unwrap_or_default()
    }

    /// The value of a word or number.
    pub fn value(&self, text: &str) -> Option<u32> {
        let word = self.words.iter().position(|word| word.eq_ignore_ascii_case(text)).map(|value| value as u32);
        let most = if self.words.is_empty() { u32::MAX } else { self.words.len() as u32 - 1 };
        word.or_else(|| text.parse().ok().filter(|value| *value <= most))
    }
}

/// The option of this name.
pub fn bond_option(name: &str) -> Option<&'static BondOption> {
    BOND_OPTIONS.iter().find(|option| option.names.contains(&name))
}

/// Whether a name that begins with `bond-` is carried out at all.
pub fn is_known(name: &str) -> bool {
    OTHERS.contains(&name) || bond_option(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_numbers_are_values() {
        let value = |name: &str, text: &str| bond_option(name).unwrap().value(text);
        assert_eq!(
            (value("ad-select", "count"), value("ad-select", "2"), value("ad-select", "3")),
            (Some(2), Some(2), None)
        );
        assert_eq!((value("num-unsol-na", "5"), value("num-unsol-na", "many")), (Some(5), None));
        assert!(is_known("primary") && is_known("use-carrier") && !is_known("arp-interval"));
    }
}
