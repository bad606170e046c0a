//! What a request brings to show who speaks, and which methods need none of it.
//!
//! Facts: pve-manager PVE/HTTPServer.pm (`auth_handler`), pve-http-server PVE/APIServer/Formatter.pm
//! (`extract_auth_value`). Whether a ticket or token is good is the engine's business.

use contract::Verb;
use percent_encoding::percent_decode_str;

/// The cookie of tickets, and the scheme of tickets in the Authorization header.
pub const COOKIE: &str = "PVEAuthCookie";
/// The scheme of tokens in the Authorization header.
pub const TOKEN_SCHEME: &str = "PVEAPIToken";
/// The header against forged requests of foreign pages.
pub const CSRF_HEADER: &str = "csrfpreventiontoken";

/// What a request shows. The first one found counts: cookie, ticket in the header, token.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// `PVE:user@realm:…`
    Ticket(String),
    /// `user@realm!name=secret`
    Token(String),
}

impl Credential {
    /// Reads the two headers that may carry one.
    pub fn find<'a>(cookies: impl IntoIterator<Item = &'a str>, authorization: Option<&str>) -> Option<Credential> {
        let ticket = cookies.into_iter().find_map(|cookie| auth_value(cookie, COOKIE));
        let header = |key| authorization.and_then(|text| auth_value(text, key));
        ticket
            .or_else(|| header(COOKIE))
            .map(Credential::Ticket)
            .or_else(|| header(TOKEN_SCHEME).map(Credential::Token))
    }
}

/// The value behind `KEY=` or `KEY ` up to the next semicolon, decoded. The key begins the text or follows a blank.
fn auth_value(header: &str, key: &str) -> Option<String> {
    let mut from = 0;
    while let Some(at) = header[from..].find(key).map(|at| at + from) {
        let rest = &header[at + key.len()..];
        if (at == 0 || header[..at].ends_with(char::is_whitespace)) && rest.starts_with(['=', ' ']) {
            let value = rest[1..].split(';').next().unwrap_or_default();
            let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
            return (!value.is_empty()).then_some(value);
        }
        from = at + key.len();
    }
    None
}

/// Methods that anybody may call. The path has neither doubled nor trailing slashes.
pub fn is_open(verb: Verb, path: &str) -> bool {
    matches!(
        (verb, path),
        (Verb::Get, "/access/domains")
            | (Verb::Get | Verb::Post, "/access/ticket")
            | (Verb::Post, "/access/vncticket" | "/access/openid/auth-url" | "/access/openid/login")
    )
}

/// Node and storage of an upload.
pub fn upload_target(verb: Verb, path: &str) -> Option<(&str, &str)> {
    if verb != Verb::Post {
        return None;
    }
    let rest = path.strip_prefix("/nodes/")?.strip_suffix("/upload")?;
    let (node, rest) = rest.split_once('/')?;
    let storage = rest.strip_prefix("storage/")?;
    (!storage.contains('/') && !storage.is_empty()).then_some((node, storage))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precedence_and_spelling() {
        let ticket = |text: &str| Some(Credential::Ticket(text.to_owned()));
        let token = |text: &str| Some(Credential::Token(text.to_owned()));
        for (cookie, authorization, expected) in [
            (Some("PVEAuthCookie=PVE:a@pam:1::x"), None, ticket("PVE:a@pam:1::x")),
            (Some("lang=en; PVEAuthCookie=PVE%3Aa%40pam%3A1%3A%3Ax+y; z=1"), None, ticket("PVE:a@pam:1::x+y")),
            (Some("XPVEAuthCookie=no"), None, None),
            (Some("PVEAuthCookie="), Some("PVEAPIToken=a@pam!t=s"), token("a@pam!t=s")),
            (None, Some("PVEAuthCookie=PVE:a@pam:1::x"), ticket("PVE:a@pam:1::x")),
            (None, Some("PVEAPIToken=a@pam!t=secret"), token("a@pam!t=secret")),
            (None, Some("PVEAPIToken a@pam!t=secret"), token("a@pam!t=secret")),
            (Some("PVEAuthCookie=T"), Some("PVEAPIToken=a@pam!t=s"), ticket("T")),
            (None, Some("Basic abc"), None),
            (None, None, None),
        ] {
            assert!(Credential::find(cookie, authorization) == expected, "{cookie:?} {authorization:?}");
        }
    }

    #[test]
    fn open_methods() {
        assert!(is_open(Verb::Get, "/access/domains"));
        assert!(is_open(Verb::Post, "/access/ticket"));
        assert!(!is_open(Verb::Put, "/access/ticket"));
        assert!(!is_open(Verb::Get, "/access/vncticket"));
        assert!(!is_open(Verb::Get, "/version"));
    }

    #[test]
    fn uploads() {
        assert_eq!(upload_target(Verb::Post, "/nodes/a/storage/local/upload"), Some(("a", "local")));
        assert_eq!(upload_target(Verb::Get, "/nodes/a/storage/local/upload"), None);
        assert_eq!(upload_target(Verb::Post, "/nodes/a/storage/upload"), None);
        assert_eq!(upload_target(Verb::Post, "/nodes/a/storage/x/y/upload"), None);
    }
}
