//! PEM blocks (pve-common PVE/Certificate.pm). Owns the shape only; nothing is decoded.

use super::{Checked, ensure};

/// One block: header, base64 text, footer. Returns what follows it.
fn block<'a>(text: &'a str, label: Option<&str>) -> Option<&'a str> {
    let rest = text.strip_prefix("-----BEGIN ")?;
    let (found, rest) = rest.split_once("-----")?;
    let clean = !found.contains(['\n', '\r']) && label.is_none_or(|label| label == found);
    let (body, rest) = rest.split_once("-----END ")?;
    let rest = rest.strip_prefix(found)?.strip_prefix("-----")?;
    let body_is_base64 =
        body.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c) || c.is_ascii_whitespace());
    (clean && body_is_base64 && body.starts_with(['\n', '\r'])).then_some(rest)
}

/// Text before the first block does not count.
fn check(text: &str, label: Option<&str>, several: bool) -> Checked {
    let start = text.find("-----BEGIN ").unwrap_or(0);
    let mut rest = block(&text[start..], label);
    while let Some(more) = rest.filter(|more| several && !more.trim().is_empty()) {
        let next = more.trim_start_matches(['\n', '\r']);
        rest = if next.len() < more.len() { block(next, label) } else { None };
    }
    let good = rest.is_some_and(|rest| rest.trim_matches(['\n', '\r']).is_empty());
    ensure(good, || "not a valid PEM-formatted string.".to_owned())
}

pub(super) fn certificate(text: &str) -> Checked {
    check(text, Some("CERTIFICATE"), false)
}

pub(super) fn certificate_chain(text: &str) -> Checked {
    check(text, Some("CERTIFICATE"), true)
}

pub(super) fn any(text: &str) -> Checked {
    check(text, None, false)
}
