//! Signed texts: `PREFIX:[DATA:]TTTTTTTT::SIGNATURE`, the form of all tickets. `TTTTTTTT` is the second of birth in
//! upper-case hexadecimal. A secret that both sides know may be signed along without standing in the text.
//! The signature is RSA with SHA-256 and PKCS #1 v1.5 padding, the defaults of the library that PVE signs with.
//! (PVE: pve-common PVE/Ticket.pm, assemble_rsa_ticket and verify_rsa_ticket)

use super::keys::openssl_error;
use crate::Result;
use openssl::base64::{decode_block, encode_block};
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private, Public};
use openssl::sign::{Signer, Verifier};
use percent_encoding::{AsciiSet, percent_decode_str, percent_encode};
use std::ops::Range;

/// Only the separator is escaped. A percent sign in the data is not, so data must not hold escapes of its own.
const DATA: &AsciiSet = &AsciiSet::EMPTY.add(b':');

/// Makes a signed text.
pub fn assemble(
    key: &PKey<Private>,
    prefix: &str,
    data: Option<&str>,
    secret: Option<&str>,
    now: i64,
) -> Result<String> {
    let mut plain = format!("{prefix}:");
    if let Some(data) = data {
        plain.extend(percent_encode(data.as_bytes(), DATA));
        plain.push(':');
    }
    plain.push_str(&format!("{now:08X}"));
    let mut signer = Signer::new(MessageDigest::sha256(), key).map_err(openssl_error)?;
    let signature = signer.sign_oneshot_to_vec(full(&plain, secret).as_bytes()).map_err(openssl_error)?;
    Ok(format!("{plain}::{}", encode_block(&signature)))
}

/// What a signed text says, if the signature is right and its age lies strictly inside of `ages`. Without data the
/// answer is an empty text.
pub fn verify(
    key: &PKey<Public>,
    prefix: &str,
    text: &str,
    secret: Option<&str>,
    now: i64,
    ages: &Range<i64>,
) -> Option<String> {
    let (plain, signature) = text.rsplit_once("::")?;
    let content = plain.strip_prefix(prefix)?.strip_prefix(':')?;
    if text.contains(char::is_whitespace) || signature.is_empty() || signature.contains(':') {
        return None;
    }
    let signature = decode_block(signature).ok()?;
    let mut verifier = Verifier::new(MessageDigest::sha256(), key).ok()?;
    if !verifier.verify_oneshot(&signature, full(plain, secret).as_bytes()).ok()? {
        return None;
    }
    let (data, time) = content.rsplit_once(':').unwrap_or(("", content));
    if time.len() != 8 || !time.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)) {
        return None;
    }
    let age = now - i64::from_str_radix(time, 16).ok()?;
    if age <= ages.start || age >= ages.end {
        return None;
    }
    Some(percent_decode_str(data).decode_utf8().ok()?.into_owned())
}

fn full(plain: &str, secret: Option<&str>) -> String {
    secret.map_or_else(|| plain.to_owned(), |secret| format!("{plain}:{secret}"))
}
