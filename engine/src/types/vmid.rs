//! The number of a guest.

use std::fmt;
use std::str::FromStr;

/// A guest's id, 100 to 999999999. (PVE: pve-common PVE/JSONSchema.pm, pve-vmid)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vmid(u32);

impl Vmid {
    /// The number itself.
    pub fn number(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vmid {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if (100..=999_999_999).contains(&number) {
            Ok(Vmid(number))
        } else {
            Err(format!("value '{number}' does not look like a valid VM ID"))
        }
    }
}

impl From<Vmid> for u32 {
    fn from(vmid: Vmid) -> u32 {
        vmid.0
    }
}

impl FromStr for Vmid {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("value '{text}' does not look like a valid VM ID");
        if text.starts_with('0') || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        text.parse::<u32>().map_err(|_| bad())?.try_into()
    }
}

impl fmt::Display for Vmid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

crate::param_from_str!(Vmid);

#[cfg(test)]
mod tests {
    use super::Vmid;

    #[test]
    fn only_canonical_numbers_in_range_are_ids() {
        for good in ["100", "999999999"] {
            assert_eq!(good.parse::<Vmid>().unwrap().to_string(), good);
        }
        for bad in ["99", "0100", "1000000000", "-100", "+100", "1e3", ""] {
            assert!(bad.parse::<Vmid>().is_err(), "{bad}");
        }
    }
}
