//! Privileges and sets of them. A set is one word of bits, because every permission check makes a few.
//! The names are the contract's.

use contract::roles::privileges;
use std::fmt;
use std::str::FromStr;

/// One privilege, such as `VM.Audit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Privilege(u8);

impl Privilege {
    /// All privileges in the order of their names.
    pub fn all() -> impl Iterator<Item = Privilege> {
        (0..privileges().len()).map(Privilege::numbered)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        &privileges()[usize::from(self.0)]
    }

    fn numbered(number: usize) -> Self {
        Privilege(u8::try_from(number).expect("there are fewer than 64 privileges"))
    }
}

impl FromStr for Privilege {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match privileges().binary_search_by(|name| name.as_str().cmp(text)) {
            Ok(number) => Ok(Privilege::numbered(number)),
            Err(_) => Err(format!("invalid privilege '{text}'")),
        }
    }
}

impl fmt::Display for Privilege {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of privileges.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct PrivilegeSet(u64);

impl PrivilegeSet {
    /// No privilege.
    pub const EMPTY: PrivilegeSet = PrivilegeSet(0);

    /// All privileges.
    pub fn all() -> Self {
        Privilege::all().collect()
    }

    /// Whether a privilege is in the set.
    pub fn contains(self, privilege: Privilege) -> bool {
        self.0 & (1 << privilege.0) != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds one.
    pub fn insert(&mut self, privilege: Privilege) {
        self.0 |= 1 << privilege.0;
    }

    /// What is in one of the two.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        PrivilegeSet(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        PrivilegeSet(self.0 & other.0)
    }

    /// What is in this one but not in the other.
    #[must_use]
    pub fn difference(self, other: Self) -> Self {
        PrivilegeSet(self.0 & !other.0)
    }

    /// The privileges in the order of their names.
    pub fn iter(self) -> impl Iterator<Item = Privilege> {
        Privilege::all().filter(move |privilege| self.contains(*privilege))
    }
}

impl FromIterator<Privilege> for PrivilegeSet {
    fn from_iter<I: IntoIterator<Item = Privilege>>(privileges: I) -> Self {
        let mut set = PrivilegeSet::EMPTY;
        privileges.into_iter().for_each(|privilege| set.insert(privilege));
        set
    }
}

/// The names, joined with commas, as they stand in `user.cfg`.
impl fmt::Display for PrivilegeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, privilege) in self.iter().enumerate() {
            let separator = if position == 0 { "" } else { "," };
            write!(f, "{separator}{privilege}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for PrivilegeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_and_read_back() {
        assert!(privileges().is_sorted() && privileges().len() < 64);
        for privilege in Privilege::all() {
            assert_eq!(privilege.name().parse(), Ok(privilege));
        }
        assert_eq!("VM.Monitor".parse::<Privilege>().unwrap_err(), "invalid privilege 'VM.Monitor'");
    }

    #[test]
    fn sets_print_in_order() {
        let set: PrivilegeSet = ["VM.Audit", "Sys.Audit"].iter().map(|name| name.parse().unwrap()).collect();
        assert_eq!(set.to_string(), "Sys.Audit,VM.Audit");
        assert_eq!(PrivilegeSet::all().iter().count(), privileges().len());
        assert!(PrivilegeSet::all().difference(PrivilegeSet::all()).is_empty());
    }
}
