//! Names of things: guests, nodes, users, storages, tags and the like
//! (pve-common PVE/JSONSchema.pm, pve-access-control PVE/AccessControl.pm and PVE/Auth/Plugin.pm,
//! pve-guest-common PVE/ReplicationConfig.pm, pve-ha-manager PVE/HA/Tools.pm).

use super::{Checked, ensure, is_word};

/// Not empty and made of these characters only.
pub(super) fn made_of(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(allowed)
}

/// Begins and ends as told, with anything of `inner` between; one character does if it may stand at both ends.
pub(super) fn framed(
    text: &str,
    first: impl Fn(char) -> bool,
    inner: impl Fn(char) -> bool,
    last: impl Fn(char) -> bool,
) -> bool {
    let mut chars = text.chars();
    let Some(head) = chars.next() else {
        return false;
    };
    match chars.next_back() {
        Some(tail) => first(head) && last(tail) && chars.all(inner),
        None => first(head) && last(head),
    }
}

pub(super) fn alnum(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

/// Letters, digits, `.`, `-` and `_`.
fn loose(c: char) -> bool {
    alnum(c) || matches!(c, '.' | '-' | '_')
}

fn digits(text: &str) -> bool {
    made_of(text, |c| c.is_ascii_digit())
}

pub(super) fn vmid(text: &str) -> Checked {
    let good = (3..=9).contains(&text.len()) && digits(text) && !text.starts_with('0');
    ensure(good, || "value does not look like a valid VM ID".to_owned())
}

/// A host name without dots.
pub(super) fn is_label(text: &str) -> bool {
    framed(text, alnum, |c| alnum(c) || c == '-', alnum)
}

pub(super) fn node(text: &str) -> Checked {
    ensure(is_label(text), || "value does not look like a valid node name".to_owned())
}

pub(crate) fn is_config_id(text: &str) -> bool {
    text.len() >= 2
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| alnum(c) || matches!(c, '_' | '-'))
}

pub(super) fn config_id(text: &str) -> Checked {
    ensure(is_config_id(text), || format!("invalid configuration ID '{text}'"))
}

/// Storages and ACME plugins.
pub(super) fn plugin_id(kind: &str, text: &str) -> Checked {
    ensure(text.chars().count() >= 2, || format!("{kind} ID '{text}' cannot be shorter than 2 characters"))?;
    let good = framed(text, |c| c.is_ascii_alphabetic(), loose, alnum);
    ensure(good, || format!("{kind} ID '{text}' contains illegal characters"))
}

pub(super) fn bridge_id(text: &str) -> Checked {
    let good = made_of(text, |c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.'));
    ensure(good, || format!("invalid bridge ID '{text}'"))
}

/// One entry of an id map: `1`, `SOURCE:TARGET` or `TARGET`.
pub(super) fn pair(text: &str, id: impl Fn(&str) -> Checked) -> Checked {
    let wrap = |reason: String| format!("entry '{text}' contains invalid ID - {reason}\n\n");
    match text.split_once(':') {
        _ if text == "1" => Ok(()),
        Some((source, target)) if !source.is_empty() && !target.is_empty() && !target.contains(':') => {
            id(source).and_then(|()| id(target)).map_err(wrap)
        }
        _ => id(text).map_err(wrap),
    }
}

fn is_email_user(text: &str) -> bool {
    text.split('.').all(|part| made_of(part, |c| c.is_alphanumeric() || matches!(c, '_' | '+' | '-' | '~')))
}

fn is_email(text: &str) -> bool {
    let host = |host: &str| host.split('.').all(|part| made_of(part, |c| alnum(c) || c == '-'));
    text.split_once('@').is_some_and(|(user, domain)| is_email_user(user) && host(domain))
}

pub(super) fn email(text: &str) -> Checked {
    ensure(is_email(text), || "value does not look like a valid email address".to_owned())
}

pub(super) fn email_or_username(text: &str) -> Checked {
    let good = is_email(text) || is_email_user(text);
    ensure(good, || "value does not look like a valid email address or user name".to_owned())
}

pub(super) fn ldap_attribute(text: &str) -> Checked {
    ensure(made_of(text, alnum), || format!("value '{text}' does not look like a simple ldap attribute name"))
}

pub(super) fn urlencoded(text: &str) -> Checked {
    let good = text.chars().all(|c| alnum(c) || "-%_.!~*'()".contains(c));
    ensure(good, || format!("invalid urlencoded string: {text}"))
}

pub(super) fn group_id(text: &str) -> Checked {
    ensure(made_of(text, loose), || format!("group name '{text}' contains invalid characters"))
}

pub(super) fn role_id(text: &str) -> Checked {
    ensure(made_of(text, loose), || format!("role name '{text}' contains invalid characters"))
}

pub(super) fn pool_id(text: &str) -> Checked {
    let depth = text.trim_end_matches('/').split('/').count();
    ensure(depth <= 3, || format!("pool name '{text}' nested too deeply (max levels = 3)"))?;
    let good = text.split('/').all(|part| made_of(part, loose));
    ensure(good, || format!("pool name '{text}' contains invalid characters"))
}

pub(super) fn privilege(text: &str) -> Checked {
    ensure(is_word("pve-priv", text), || format!("invalid privilege '{text}'"))
}

pub(super) fn is_realm(text: &str) -> bool {
    text.len() >= 2 && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(loose)
}

pub(super) fn realm(text: &str) -> Checked {
    ensure(is_realm(text), || "value does not look like a valid realm".to_owned())
}

/// Name and realm; the realm cannot hold an `@`, the name can.
fn is_user(text: &str) -> bool {
    text.rsplit_once('@').is_some_and(|(name, realm)| {
        made_of(name, |c| !c.is_whitespace() && !matches!(c, ':' | '/')) && is_realm(realm)
    })
}

pub(super) fn user_id(text: &str) -> Checked {
    let length = text.chars().count();
    ensure(length >= 3, || format!("user name '{text}' is too short"))?;
    ensure(length <= 64, || format!("user name '{text}' is too long ({length} > 64)"))?;
    ensure(is_user(text), || format!("value '{text}' does not look like a valid user name"))
}

pub(super) fn token_id(text: &str) -> Checked {
    let good = text.rsplit_once('!').is_some_and(|(user, token)| is_user(user) && is_realm(token));
    ensure(good, || format!("value '{text}' does not look like a valid token ID"))
}

pub(super) fn tag(text: &str) -> Checked {
    let good = text.starts_with(|c: char| alnum(c) || c == '_')
        && text.chars().all(|c| alnum(c) || matches!(c, '_' | '-' | '+' | '.'));
    ensure(good, || "invalid characters in tag".to_owned())
}

pub(super) fn tfa_secret(text: &str) -> Checked {
    let base32 = |c: char| c.is_ascii_uppercase() || matches!(c, '2'..='7' | '=');
    let hex = |c: char| c.is_ascii_hexdigit();
    let long = |text: &str| (16..=128).contains(&text.len());
    let good = match text.strip_prefix("v2-") {
        Some(secret) => match secret.strip_prefix("0x") {
            Some(digits) => long(digits) && digits.chars().all(hex),
            None => long(secret) && secret.chars().all(base32),
        },
        None => (text.len() == 16 && text.chars().all(base32)) || (text.len() == 40 && text.chars().all(hex)),
    };
    ensure(good, || "unable to decode TFA secret".to_owned())
}

pub(super) fn replication_job(text: &str) -> Checked {
    let invalid = || format!("invalid replication job id '{text}'");
    let Some((guest, job)) = text.split_once('-').filter(|(guest, job)| digits(guest) && digits(job)) else {
        return Err(invalid());
    };
    let reserved = guest.trim_start_matches('0').len() < 3;
    ensure(!reserved, || format!("{} (guest IDs < 100 are reserved)", invalid()))?;
    ensure(guest.len() <= 18 && job.len() <= 18, invalid)
}

pub(super) fn ha_node(text: &str) -> Checked {
    let good = match text.split_once(':') {
        Some((name, priority)) => is_label(name) && digits(priority),
        None => is_label(text),
    };
    ensure(good, || "value does not look like a valid ha node".to_owned())
}

fn is_ha_resource(text: &str) -> bool {
    text.split_once(':')
        .is_some_and(|(kind, name)| made_of(kind, |c| c.is_ascii_lowercase()) && made_of(name, |c| !c.is_whitespace()))
}

pub(super) fn ha_resource(text: &str) -> Checked {
    ensure(is_ha_resource(text), || "value does not look like a valid ha resource id".to_owned())
}

pub(super) fn ha_resource_or_vm(text: &str) -> Checked {
    let good = is_ha_resource(text) || digits(text);
    ensure(good, || "value does not look like a valid ha resource id".to_owned())
}
