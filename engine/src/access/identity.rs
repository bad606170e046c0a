//! Names of those who may log in: `user@realm` and `user@realm!token`.
//! (PVE: pve-access-control PVE/Auth/Plugin.pm verify_username, PVE/AccessControl.pm split_tokenid)

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

/// A user's full name, `user@realm`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(String);

/// An API token's full name, `user@realm!token`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId {
    /// Whose token it is.
    pub user: UserId,
    /// The part after `!`.
    pub name: String,
}

impl UserId {
    /// The text, `user@realm`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part before the last `@`.
    pub fn name(&self) -> &str {
        self.0.rsplit_once('@').map_or(&self.0, |(name, _)| name)
    }

    /// The part after the last `@`.
    pub fn realm(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, realm)| realm)
    }

    /// The one user who skips all checks.
    pub fn is_root(&self) -> bool {
        self.0 == "root@pam"
    }
}

impl FromStr for UserId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.chars().count() {
            ..3 => return Err(format!("user name '{text}' is too short")),
            length @ 65.. => return Err(format!("user name '{text}' is too long ({length} > 64)")),
            _ => {}
        }
        match text.rsplit_once('@') {
            Some((name, realm)) if is_user_name(name) && is_realm(realm) => Ok(UserId(text.to_owned())),
            _ => Err(format!("value '{text}' does not look like a valid user name")),
        }
    }
}

impl FromStr for TokenId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Neither realm nor token may hold '!', so the last one is the separator.
        if let Some((user, name)) = text.rsplit_once('!')
            && is_realm(name)
            && let Ok(user) = user.parse()
        {
            return Ok(TokenId { user, name: name.to_owned() });
        }
        Err(format!("'{text}' is not a valid token ID - not able to split into user and token parts"))
    }
}

impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}!{}", self.user, self.name)
    }
}

impl Borrow<str> for UserId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

crate::param_from_str!(UserId, TokenId);

/// The part before the realm: anything without blanks, colons and slashes.
fn is_user_name(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == ':' || c == '/')
}

/// A realm's name; token names follow the same rule.
pub fn is_realm(text: &str) -> bool {
    text.len() >= 2 && text.starts_with(|c: char| c.is_ascii_alphabetic()) && is_word(text)
}

/// A name of groups and roles: letters, digits, dots, dashes and underscores.
pub fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
}

/// A pool's name: up to three words joined by slashes.
pub fn is_pool(text: &str) -> bool {
    text.split('/').count() <= 3 && text.split('/').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_split_at_the_last_at_sign() {
        let user: UserId = "joe@example.org@ad-realm".parse().unwrap();
        assert_eq!((user.name(), user.realm()), ("joe@example.org", "ad-realm"));
        assert_eq!(user.to_string(), "joe@example.org@ad-realm");
        let token: TokenId = "joe@pve!monitor".parse().unwrap();
        assert_eq!((token.user.as_str(), token.name.as_str()), ("joe@pve", "monitor"));
        assert_eq!(token.to_string(), "joe@pve!monitor");
    }

    #[test]
    fn wrong_names_are_refused_with_the_known_texts() {
        let long = format!("{}@pve", "x".repeat(61));
        for (text, error) in [
            ("", "user name '' is too short"),
            ("@p", "user name '@p' is too short"),
            (long.as_str(), &format!("user name '{long}' is too long (65 > 64)")),
            ("joe", "value 'joe' does not look like a valid user name"),
            ("j e@pve", "value 'j e@pve' does not look like a valid user name"),
            ("a:b@pve", "value 'a:b@pve' does not look like a valid user name"),
            ("a/b@pve", "value 'a/b@pve' does not look like a valid user name"),
            ("joe@1pve", "value 'joe@1pve' does not look like a valid user name"),
            ("joe@pve!x1", "value 'joe@pve!x1' does not look like a valid user name"),
        ] {
            assert_eq!(text.parse::<UserId>().unwrap_err(), error);
        }
        for text in ["joe@pve", "joe@pve!", "joe@pve!1x", "joe@pve!a b", "joe!x1", "joe@pve!x"] {
            assert!(text.parse::<TokenId>().is_err(), "{text}");
        }
    }

    #[test]
    fn pools_nest_three_levels() {
        assert!(is_pool("a/b/c") && is_pool("1"));
        assert!(!is_pool("a/b/c/d") && !is_pool("a//b") && !is_pool("") && !is_pool("/a"));
    }
}
